"""What a verified causal graph says, as sentences for pictures, pages and the app."""

from __future__ import annotations

from causal_lvlm.explanation.causal_graph import CausalEdge, CausalGraph, EdgeSet
from causal_lvlm.explanation.wording import amount, said
from causal_lvlm.viz import wording

__all__ = [
    "EDGE_MEANING", "FRAME_MEANING", "edge_name", "graph_sentences", "graph_title", "refuted",
    "signed", "what_if",
]  # fmt: skip

EDGE_MEANING = {
    "sufficient": "sufficient: with every other content edge cut, the answer stays",
    "necessary": "necessary: with these cut, the answer changes",
    "both": "both: in the sufficient graph and in the necessary cut",
    "none": "learned only, not tested by itself; marks as in a PAG",
}
FRAME_MEANING = "frame: never cut, never counted"
_NAMED = 3  # edges of a set that a sentence names; of more it gives the number
_SIZE = {
    "minimum": "every smaller set of edges was tried and fails",
    "irreducible": "none of them can be left out",
}


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
        text = f"{name} cut by itself: margin {before:.1f} → {edge.margin:.1f}"
    return text + (f", the model {said(edge.says)}." if edge.says else ".")


def graph_sentences(graph: CausalGraph) -> list[str]:
    """Return what was verified, what the model says instead, and by which routes."""
    found = [_kept(graph), _cut(graph)]
    if graph.sufficient.outcome == graph.necessary.outcome == "not_asked":
        found = ["No edge of this graph was cut; it was learned, and reconciled with the masks."]
    found += [f"Proven cause: {cause.evidence}." for cause in graph.causes if cause.by == "mask"]
    routes = graph.routes(most=4)
    if routes:
        more = len(graph.routes()) - len(routes)
        found.append(
            f"{'Route' if len(routes) == 1 else 'Routes'}: {'; '.join(routes)}"
            + (f"; and {more} more." if more else ".")
        )
    return [text for text in found if text]


def refuted(graph: CausalGraph) -> list[str]:
    """Return the learned claims that an intervention refuted; they are not drawn."""
    return [f"Refuted, not drawn: {c.learned}. But {c.verified}." for c in graph.contradictions]


def _kept(graph: CausalGraph) -> str:
    found = graph.sufficient
    if not found.verified:
        return _missing(found, "sufficient graph")
    text = f"Sufficient: with {_named(graph, found)} kept and every other content edge cut, the "
    return text + f"model still {said(found.says)}{_p(found)}" + _claims(found, "do")


def _cut(graph: CausalGraph) -> str:
    found = graph.necessary
    if not found.verified:
        return _missing(found, "necessary cut")
    text = f"Necessary: with {_named(graph, found)} cut, the model {said(found.says)}"
    text += _p(found) + _claims(found, "change it")
    if found.instead:
        text += f" What it says instead: “{found.instead}”."
    return text


def _named(graph: CausalGraph, found: EdgeSet) -> str:
    if not 0 < found.size <= _NAMED:
        return amount(found.size, "edge")
    return ", ".join(f"{graph.labels[s]} → {graph.labels[r]}" for s, r in found.node_edges)


def _p(found: EdgeSet) -> str:
    p = found.probability
    return "" if p is None else f" (p of the target {wording.number(p, 2 if p >= 0.01 else 3)})"


def _claims(found: EdgeSet, does: str) -> str:
    text = f"; {_SIZE[found.minimality]}" if found.size > 1 and found.minimality in _SIZE else ""
    if found.random_rate is not None and found.n_random:
        hits = round(found.random_rate * found.n_random)
        text += f"; {hits} of {found.n_random} random sets of that size {does}"
    return text + "."


def _missing(found: EdgeSet, what: str) -> str:
    if found.outcome == "not_asked":
        return ""
    if found.outcome == "prior":
        return f"No {what}: the answer stays with every content edge cut."
    return f"No {what} was found: {wording.ended(found.outcome)}."
