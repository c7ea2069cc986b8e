"""From graphs to verified explaining sets: candidates, model runs, shrinking, proof."""

from causal_lvlm.explanation.causal import causal_graph
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import CausalEdge, EdgeSet
from causal_lvlm.explanation.exhaustive import ExhaustiveResult, exhaustive_explanation
from causal_lvlm.explanation.explain import PUBLISHED, explain
from causal_lvlm.explanation.graph_options import GraphOptions
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sets import ExplainingSet

__all__ = [
    "PUBLISHED",
    "CausalEdge",
    "CausalGraph",
    "EdgeSet",
    "ExhaustiveResult",
    "ExplainingSet",
    "Explanation",
    "GraphOptions",
    "HeadGraph",
    "causal_graph",
    "exhaustive_explanation",
    "explain",
]
