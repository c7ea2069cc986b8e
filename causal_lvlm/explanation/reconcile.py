"""A learned graph that denies what interventions proved is learned again with what they proved.

1. `causes_of_sets`: evidence from masks. A single unit whose masking changed the target is a cause
   of it, and so is each member of an irreducible set; members of other sets prove nothing.
2. `contradictions`: an arrowhead at a cause on its edge to the target, or no possibly directed path
   from it to the target.
3. `reconciled`: the graph is learned again with the causes as ancestors of the target (background
   knowledge). Where no possibly directed path leads from a cause to the target all the same, their
   edge is required, with a tail at the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from causal_lvlm.edges import Nodes
from causal_lvlm.explanation.causal_graph import Cause, Contradiction, denied, symbol
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.structure import PAG, BackgroundKnowledge
from causal_lvlm.tokens import TokenLayout

__all__ = ["causes_of_sets", "contradictions", "node_places", "on_nodes", "reconciled"]

Learn = Callable[[BackgroundKnowledge], PAG]


def causes_of_sets(
    sets: Iterable[ExplainingSet], nodes: Nodes, layout: TokenLayout, mode: str, masking: str
) -> tuple[Cause, ...]:
    """Return the causes of the target that masking proved, each once, single units first.

    Parameters
    ----------
    sets : iterable of ExplainingSet
    nodes : Nodes
    layout : TokenLayout
    mode : {"necessary", "sufficient"}
        Sets that keep the answer prove nothing of a single member.
    masking : str
    """
    node_of = {members: node for node, members in enumerate(nodes.members)}
    found: dict[int, Cause] = {}
    known = [s for s in sets if s.verified and mode == "necessary"]
    for one in sorted(known, key=lambda s: s.size):
        if one.minimality == "none" and one.size > 1:
            continue
        said = " ".join(one.predicted_after).strip()
        names = ", ".join(layout.label(unit[0]) for unit in one.units)
        for unit in one.units:
            if unit in node_of:
                rest = "" if one.size == 1 else " (none of which can be left out)"
                text = f"masking {names}{rest} by {masking!r}: the model says {said!r}"
                cause = Cause(node_of[unit], "mask", one.size == 1, text)
                found.setdefault(node_of[unit], cause)
    return tuple(found.values())


def on_nodes(pag: PAG, place: Sequence[int], nodes: Nodes) -> PAG:
    """Return a learned graph over the nodes; those it does not have stand alone in it.

    Parameters
    ----------
    pag : PAG
    place : sequence of int
        The node that stands for each of its nodes, see `node_places`.
    nodes : Nodes
    """
    inside = [k for k, node in enumerate(place) if node >= 0]
    marks = np.zeros((len(nodes), len(nodes)), dtype=np.uint8)
    chosen = [place[k] for k in inside]
    marks[np.ix_(chosen, chosen)] = pag.marks[np.ix_(inside, inside)]
    return PAG(marks)


def node_places(graph: HeadGraph, nodes: Nodes) -> list[int]:
    """Return the node that stands for each of a learned graph's nodes; -1: none does."""
    node_of = {members: node for node, members in enumerate(nodes.members)}
    place = [node_of.get(members, -1) for members in graph.members]
    place[graph.target_node] = nodes.target
    return place


def contradictions(
    pag: PAG | None, causes: Sequence[Cause], nodes: Nodes, labels: Sequence[str]
) -> tuple[Contradiction, ...]:
    """Return what a graph denies of the causes, with both pieces of evidence."""
    if pag is None:
        return ()
    found = []
    for cause in causes:
        how = denied(pag, cause.node, nodes.target)
        if how is None:
            continue
        name, target = labels[cause.node], labels[nodes.target]
        drawn = f"{name} {symbol(pag, cause.node, nodes.target)} {target}"
        learned = {
            "arrowhead": f"learned: {drawn}, which says that {name} is no cause of {target}",
            "no path": f"learned: no path by which {name} could be a cause of {target}",
        }[how]
        found.append(Contradiction(cause.node, how, learned, cause.evidence))
    return tuple(found)


def reconciled(
    graph: HeadGraph, causes: Sequence[Cause], nodes: Nodes, learn: Learn
) -> tuple[PAG, tuple[Cause, ...]]:
    """Return the graph learned with the causes, over the nodes, and the causes it can speak of.

    Parameters
    ----------
    graph : HeadGraph
    causes : sequence of Cause
    nodes : Nodes
    learn : callable
        Learns the same graph again with background knowledge over its nodes.
    """
    place = node_places(graph, nodes)
    number = {node: k for k, node in enumerate(place) if node >= 0}
    spoken = tuple(cause for cause in causes if cause.node in number)
    pag, target = graph.structure.pag, graph.target_node
    ends = [(number[cause.node], target) for cause in spoken]
    required: list[tuple[int, int]] = []
    while any(denied(pag, *end) for end in ends):
        ancestors = [end for end in ends if end not in required]
        pag = learn(BackgroundKnowledge(required_causes=required, ancestors=ancestors))
        more = [end for end in ancestors if denied(pag, *end)]
        if not more:
            break
        required += more
    return on_nodes(pag, place, nodes), spoken
