"""What a verified causal graph says, as sentences for pictures, pages and the app."""

from __future__ import annotations

from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import CausalEdge
from causal_lvlm.explanation.wording import said
from causal_lvlm.viz import wording

__all__ = [
    "EDGE_MEANING", "FRAME_MEANING", "edge_name", "graph_sentences", "graph_title", "refuted",
    "signed", "what_if",
]  # fmt: skip

EDGE_MEANING = {
    "sufficient": "sufficient: with every other content edge cut, the answer stays",
    "necessary": "necessary: with these cut, the answer changes",
    "both": "both: in the sufficient graph and in the necessary cut",
    "none": "not cut by itself: learned and reconciled with what was proved; marks as in a PAG",
}
FRAME_MEANING = "frame: never cut, never counted"
_ROUTES = 4  # that are named


def graph_title(graph: CausalGraph) -> str:
    """Return what a graph is called: verified only where the model confirmed edges."""
    if graph.sufficient.verified or graph.necessary.verified:
        return "Verified graph"
    asked = graph.sufficient.outcome != "not_asked" or graph.necessary.outcome != "not_asked"
    return "Tested graph, nothing verified" if asked else "Graph reconciled with the masks"


def signed(fall: float) -> str:
    """Return by how much the margin changes when it falls by a number: −3.2."""
    text = wording.number(abs(fall), 2 if abs(fall) < 1 else 1)
    return f"{'−' if fall >= 0 else '+'}{text}"


def edge_name(graph: CausalGraph, edge: CausalEdge) -> str:
    """Return the ends of an edge."""
    return f"{graph.labels[edge.source]} → {graph.labels[edge.reader]}"


def what_if(graph: CausalGraph, edge: CausalEdge) -> str:
    """Return what happened when an edge was cut, as a sentence; of others what is estimated."""
    name = edge_name(graph, edge)
    if edge.measured is None:
        if edge.estimated is None:
            return f"{name}: not tested by itself."
        return f"{name}: not cut by itself; estimated, the margin would change by " + (
            f"{signed(edge.estimated)}."
        )
    text = f"{name} cut by itself: the margin changes by {signed(edge.measured)}"
    if edge.margin is not None:
        before = edge.margin + edge.measured
        text = f"{name} cut by itself: margin {before:.1f} → {edge.margin:.1f}".replace("-", "−")
    return text + (f", the model {said(edge.says)}." if edge.says else ".")


def graph_sentences(graph: CausalGraph) -> list[str]:
    """Return what was verified, what masks proved, and by which routes."""
    found = [*graph.sentences()]
    masked = dict.fromkeys(cause.evidence for cause in graph.causes if cause.by == "mask")
    found += [f"Proven by {evidence}." for evidence in masked]  # said once for a whole set
    routes = graph.routes()
    if routes:
        more = f"; and {len(routes) - _ROUTES} more" if len(routes) > _ROUTES else ""
        name = "Route" if len(routes) == 1 else "Routes"
        found.append(f"{name}: {'; '.join(routes[:_ROUTES])}{more}.")
    return found


def refuted(graph: CausalGraph) -> list[str]:
    """Return the learned claims that an intervention refuted, for where they are not drawn."""
    return [f"Refuted, not drawn: {text}" for text in graph.refuted()]
