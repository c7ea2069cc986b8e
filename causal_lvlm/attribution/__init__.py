"""Attribution methods: which positions matter to a generated token, by many definitions.

A method is a function ``(trace, target, **options) -> Scores``; each module exports a ``TABLE`` of
its methods, and `causal_lvlm.methods.registry` joins them and runs them by name.
"""

from __future__ import annotations

from causal_lvlm.attribution.head_choice import HeadChoice, select_heads
from causal_lvlm.attribution.info import MethodInfo
from causal_lvlm.attribution.relevancy import relevancy_matrix
from causal_lvlm.attribution.result import Attribution, Scores, spread

__all__ = [
    "Attribution",
    "HeadChoice",
    "MethodInfo",
    "Scores",
    "relevancy_matrix",
    "select_heads",
    "spread",
]
