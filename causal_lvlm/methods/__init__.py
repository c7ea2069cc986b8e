"""What stands above methods, explanations and metrics: it runs any of them by name.

`attribute` runs a method, `list_methods` says which there are, `evaluate` measures results on one
target. Methods that are made of explanations (``causal``) or of metrics (``consensus``) live here;
all others in `causal_lvlm.attribution`. What must run a method again is handed `registry.rerun`.
"""

from __future__ import annotations

from causal_lvlm.methods.evaluate import evaluate
from causal_lvlm.methods.explained import from_explanation
from causal_lvlm.methods.faithfulness import measure_faithfulness
from causal_lvlm.methods.registry import attribute, list_methods, rerun

__all__ = [
    "attribute",
    "evaluate",
    "from_explanation",
    "list_methods",
    "measure_faithfulness",
    "rerun",
]
