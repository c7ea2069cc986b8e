"""From graphs to verified explaining sets: candidates, model runs, shrinking, proof."""

from causal_lvlm.explanation.exhaustive import ExhaustiveResult, exhaustive_explanation
from causal_lvlm.explanation.explain import PUBLISHED, explain
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sets import ExplainingSet

__all__ = [
    "PUBLISHED",
    "ExhaustiveResult",
    "ExplainingSet",
    "Explanation",
    "HeadGraph",
    "exhaustive_explanation",
    "explain",
]
