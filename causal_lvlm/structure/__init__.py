"""Structure learning: from a correlation matrix to a PAG, and what can be read from it."""

from __future__ import annotations

from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.pds import PDSTree, pds_tree
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.validity import Violation, check_validity

__all__ = [
    "PAG",
    "LearnedStructure",
    "PDSTree",
    "Violation",
    "check_validity",
    "learn_structure",
    "pds_tree",
]
