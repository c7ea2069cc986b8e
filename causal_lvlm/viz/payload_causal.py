"""A verified causal graph as the interactive page needs it.

Nodes and edges have the form of `causal_lvlm.viz.payload_graph`, so that the same code draws them;
beside each edge stands which verified set holds it, and what the model said when it was cut.
"""

from __future__ import annotations

from typing import Any

from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import CausalEdge
from causal_lvlm.explanation.wording import amount
from causal_lvlm.viz.causal_parts import end_marks, shown_graph
from causal_lvlm.viz.causal_words import (
    EDGE_MEANING,
    FRAME_MEANING,
    graph_sentences,
    graph_title,
    signed,
    what_if,
)  # fmt: skip
from causal_lvlm.viz.marks import ARROW, TAIL
from causal_lvlm.viz.view import TraceView

__all__ = ["causal_payload"]

_NODES = 40


def causal_payload(view: TraceView, graph: CausalGraph, *, cap: int = _NODES) -> dict[str, Any]:
    """Return one verified graph, of learned edges as many as `cap` nodes have.

    Returns
    -------
    dict
        As `payload_graph.graph_payload` where the names are the same; ``tested``: for each edge
        [kind, effect, what-if], kind being ``both``, ``sufficient``, ``necessary``, ``none`` or
        ``frame``; ``numbers``: of each node among the proven causes, or 0; ``says`` and
        ``refuted``: sentences; ``meaning``: of the kinds that occur.
    """
    shown = shown_graph(graph, view.layout, max_nodes=cap)
    nodes = sorted(shown.members)
    index = {node: at for at, node in enumerate(nodes)}
    number = {cause.node: at for at, cause in enumerate(graph.causes, start=1)}
    edges: list[list[Any]] = []
    tested = []
    for edge in shown.edges:
        marks = end_marks(edge.marks) if edge.verified == "none" else (TAIL, ARROW)
        edges.append([index[edge.source], index[edge.reader], *marks, *[None] * 4])
        tested.append([edge.verified, _effect(edge), what_if(graph, edge)])
    for source, reader in shown.frame:
        edges.append([index[source], index[reader], TAIL, ARROW, *[None] * 4])
        tested.append(["frame", "", f"{graph.labels[source]}: {FRAME_MEANING}."])
    kinds = {kind for kind, *_ in tested}
    left_nodes, left_edges = shown.left_out
    return {
        "head": None,
        "title": graph_title(graph),
        "united": False,
        "positions": list(graph.target.positions),
        "text": graph.target.text,
        "target": index[graph.nodes.target],
        "nodes": [[list(shown.members[n]), 1] for n in nodes],
        "numbers": [number.get(n, 0) for n in nodes],
        "edges": edges,
        "tested": tested,
        "says": graph_sentences(graph),
        "refuted": list(graph.refuted()),
        "meaning": [
            [kind, text]
            for kind, text in {**EDGE_MEANING, "frame": FRAME_MEANING}.items()
            if kind in kinds
        ],
        "facts": [amount(graph.model_runs, "run") + " with edges cut"],
        "total": {"nodes": len(nodes) + left_nodes, "edges": len(edges) + left_edges},
        "apart": [],
        "reach": [],
        "level": None,
    }


def _effect(edge: CausalEdge) -> str:
    if edge.verified == "none" or edge.measured is None:
        return ""
    return signed(edge.measured)
