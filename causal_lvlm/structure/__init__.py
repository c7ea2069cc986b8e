"""Structure learning: from data, a covariance, a correlation or attention to a causal graph.

Learning: `learn_structure`, `learn_structures`, with `BackgroundKnowledge`; inputs:
``correlation_from_data``, ``correlation_from_covariance``, ``correlation_from_attention``. Trust:
`edge_stability`, `null_edges`, `aggregate_graphs`, `compare_graphs`. Formats:
`causal_lvlm.structure.export` (networkx, DOT, GraphML, JSON), `causal_lvlm.structure.texts` (pcalg,
Tetrad), `causal_lvlm.structure.convert` (causal-learn, pywhy-graphs), `read_graph`.
"""

from __future__ import annotations

from causal_lvlm.structure.aggregate import UnionGraph, aggregate_graphs
from causal_lvlm.structure.attention import correlation_from_attention
from causal_lvlm.structure.compare import GraphComparison, compare_graphs
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.evidence import PairEvidence
from causal_lvlm.structure.files import read_graph
from causal_lvlm.structure.knowledge import BackgroundKnowledge
from causal_lvlm.structure.learn import learn_structure, learn_structures
from causal_lvlm.structure.named import NamedGraph
from causal_lvlm.structure.null import null_edges
from causal_lvlm.structure.null_result import NullEdges
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.pds import PDSTree, pds_tree
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.sources import CorrelationSource, correlation_from_covariance
from causal_lvlm.structure.stability import edge_stability
from causal_lvlm.structure.stability_result import EdgeStability
from causal_lvlm.structure.validity import Violation, check_validity

__all__ = [
    "PAG",
    "BackgroundKnowledge",
    "CorrelationSource",
    "EdgeStability",
    "GraphComparison",
    "LearnedStructure",
    "NamedGraph",
    "NullEdges",
    "PDSTree",
    "PairEvidence",
    "UnionGraph",
    "Violation",
    "aggregate_graphs",
    "check_validity",
    "compare_graphs",
    "correlation_from_attention",
    "correlation_from_covariance",
    "correlation_from_data",
    "edge_stability",
    "learn_structure",
    "learn_structures",
    "null_edges",
    "pds_tree",
    "read_graph",
]
