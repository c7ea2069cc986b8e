"""A learned graph that denies what interventions proved is learned again with what they proved.

1. `causes_of_sets`: evidence from masks. A single unit whose masking changed the target is a cause
   of it, and so is each member of an irreducible set; members of other sets prove nothing.
2. `contradictions`: an arrowhead at a cause on its edge to the target, or no possibly directed path
   from it to the target.
3. `reconciled`: the graph is learned again with the causes as ancestors of the target (background
   knowledge). Where no possibly directed path is left from a cause to the target, the learner puts
   their edge back, with a tail at the cause (`causal_lvlm.structure.finishing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from causal_lvlm.correlation import TokenCorrelation
from causal_lvlm.edges import Nodes, nodes_of
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import (
    CausalEdge,
    Cause,
    Contradiction,
    CutResult,
    EdgeSet,
    denied,
    symbol,
)
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.structure import PAG, BackgroundKnowledge, learn_structure
from causal_lvlm.tokens import Target, TokenLayout, candidate_units

__all__ = [
    "LEARNING", "Explained", "causes_of_sets", "contradictions", "drawn_graph", "free_graph",
    "graph_edges", "learner", "node_labels", "node_places", "on_nodes", "reconciled", "spoken_of",
]  # fmt: skip

Learn = Callable[[BackgroundKnowledge], PAG]
LEARNING = ("algorithm", "variant", "alpha", "max_conditioning_size")  # of `learn_structure`


class Explained(Protocol):
    """What the graph of an explanation is made from."""

    @property
    def target(self) -> Target:
        """What was explained."""

    @property
    def sets(self) -> Mapping[str, ExplainingSet]:
        """What was found, by scope."""

    @property
    def mode(self) -> str:
        """Whether the sets are necessary or sufficient."""

    @property
    def masking(self) -> str:
        """The intervention."""

    @property
    def graphs(self) -> tuple[HeadGraph, ...]:
        """The learned graphs."""

    @property
    def head_graph(self) -> HeadGraph | None:
        """The one that is drawn."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Arguments of the call."""

    @property
    def layout(self) -> TokenLayout:
        """What stood at each position."""


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

    Where the target's own row and a word that predicts it were two nodes, they are one here: the
    edges of the own row, which is the last node, and those of the word where it has none.

    Parameters
    ----------
    pag : PAG
    place : sequence of int
        The node that stands for each of its nodes, see `node_places`.
    nodes : Nodes
    """
    inside = [k for k, node in enumerate(place) if node >= 0]
    marks = np.zeros((len(nodes), len(nodes)), dtype=np.uint8)
    chosen = np.array([place[k] for k in inside], dtype=np.int64)
    for k in inside:
        row = pag.marks[k, inside]
        marks[place[k], chosen[row > 0]] = row[row > 0]  # of two for one place the last one counts
    np.fill_diagonal(marks, 0)
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


def spoken_of(graph: HeadGraph, causes: Sequence[Cause], nodes: Nodes) -> tuple[Cause, ...]:
    """Return the causes that are nodes of a learned graph: of the others it says nothing."""
    there = {*node_places(graph, nodes)} - {-1, nodes.target}
    return tuple(cause for cause in causes if cause.node in there)


def reconciled(graph: HeadGraph, causes: Sequence[Cause], nodes: Nodes, learn: Learn) -> PAG:
    """Return the graph learned again with the causes that it can speak of, over the nodes.

    Parameters
    ----------
    graph : HeadGraph
    causes : sequence of Cause
    nodes : Nodes
    learn : callable
        Learns the same graph again with background knowledge over its nodes.
    """
    place = node_places(graph, nodes)
    drawn = on_nodes(graph.structure.pag, place, nodes)
    causes = spoken_of(graph, causes, nodes)
    ends = {c.node: (place.index(c.node), graph.target_node) for c in causes}
    required: list[tuple[int, int]] = []  # where two nodes became one, a path may be lost
    while any(denied(drawn, node, nodes.target) for node in ends):
        ancestors = [end for end in ends.values() if end not in required]
        knowledge = BackgroundKnowledge(required_causes=required, ancestors=ancestors)
        drawn = on_nodes(learn(knowledge), place, nodes)
        more = [end for node, end in ends.items() if denied(drawn, node, nodes.target)]
        more = [end for end in more if end not in required]
        if not more:
            break
        required += more
    return drawn


def learner(
    correlation: TokenCorrelation,
    max_tests: int | None,
    *,
    deadline: float | None = None,
    **options: Any,
) -> Learn:
    """Return what learns the graph of a correlation again with background knowledge.

    Parameters
    ----------
    correlation : TokenCorrelation
    max_tests : int or None
    deadline : float, optional
        Value of ``time.monotonic()`` at which learning ends.
    **options
        Others of `learn_structure`; ordered ICD by default.
    """
    options = {"algorithm": "ordered_icd", "variant": "stable", **options}
    tiers = correlation.tiers if options["algorithm"] == "ordered_icd" else None

    def learn(knowledge: BackgroundKnowledge) -> PAG:
        return learn_structure(
            correlation.correlation, n_samples=correlation.n_samples,
            threshold=correlation.threshold, tiers=tiers, max_tests=max_tests,
            time_limit=None if deadline is None else max(deadline - time.monotonic(), 0.01),
            knowledge=knowledge, **options,
        ).pag  # fmt: skip

    return learn


def drawn_graph(
    explanation: Explained, correlations: Sequence[TokenCorrelation]
) -> tuple[HeadGraph, TokenCorrelation] | None:
    """Return the graph of an explanation that is drawn, and what it was learned from.

    Parameters
    ----------
    explanation : Explanation
    correlations : sequence of TokenCorrelation
        Those that its graphs were learned from, in the same order.
    """
    head = explanation.head_graph
    pairs = zip(explanation.graphs, correlations, strict=True)
    return next(((graph, found) for graph, found in pairs if graph is head), None)


def node_labels(layout: TokenLayout, target: Target, nodes: Nodes) -> tuple[str, ...]:
    """Return a short name for each node; the target's is what it says, in quotes."""
    labels = (layout.label(members[0]) for members in nodes.members[:-1])
    return (*labels, f"“{target.text.strip()}”")


def graph_edges(
    nodes: Nodes,
    learned: PAG | None,
    pag: PAG | None,
    sufficient: EdgeSet,
    necessary: EdgeSet,
    estimated: Mapping[tuple[int, int], float],
    measured: Mapping[tuple[int, int], CutResult],
) -> tuple[CausalEdge, ...]:
    """Return every edge of a graph or of a verified set, with all that is known about it.

    Parameters
    ----------
    nodes : Nodes
    learned, pag : PAG, optional
        As learned, and reconciled; over the nodes.
    sufficient, necessary : EdgeSet
    estimated : mapping of (source, reader) to float
        How much the margin falls when the edge is cut.
    measured : mapping of (source, reader) to CutResult
        What happened when it was cut.
    """
    wanted = dict.fromkeys((*sufficient.node_edges, *necessary.node_edges))
    for graph in (learned, pag):
        wanted |= dict.fromkeys(() if graph is None else _adjacent(graph, nodes))
    found = []
    for pair in sorted(wanted):
        sets = (("sufficient", sufficient), ("necessary", necessary))
        holders = [name for name, one in sets if pair in one.node_edges]
        found.append(
            CausalEdge(
                *pair,
                learned=symbol(learned, *pair),
                marks=symbol(pag, *pair),
                estimated=estimated.get(pair),
                verified="both" if len(holders) == 2 else (*holders, "none")[0],
                **(measured[pair]._asdict() if pair in measured else {}),
            )
        )
    return tuple(found)


def _adjacent(graph: PAG, nodes: Nodes) -> list[tuple[int, int]]:
    """Return the edges of a learned graph, from the earlier to the later node."""
    first = [members[0] for members in nodes.members]
    ends = np.argwhere(np.triu(graph.marks) > 0).tolist()
    return [(i, j) if first[i] <= first[j] else (j, i) for i, j in ends]


def free_graph(
    explanation: Explained, correlations: Sequence[TokenCorrelation], max_tests: int | None
) -> CausalGraph:
    """Return the graph that an explanation proves without further runs of the model.

    The learned graph is that of `Explanation.head_graph`. Its edges were not cut; it is reconciled
    with the sets whose masking changed the target.

    Parameters
    ----------
    explanation : Explanation
    correlations : sequence of TokenCorrelation
        Those that its graphs were learned from, in the same order.
    max_tests : int or None
        CI tests of one graph.
    """
    layout, target, given = explanation.layout, explanation.target, explanation.parameters
    units = candidate_units(layout, target, pool=given["pool"])
    nodes = nodes_of(layout, target, units)
    labels = node_labels(layout, target, nodes)
    causes = causes_of_sets(
        explanation.sets.values(), nodes, layout, explanation.mode, explanation.masking
    )
    learned = pag = None
    refuted: tuple[Contradiction, ...] = ()
    drawn = drawn_graph(explanation, correlations)
    if drawn is not None:
        head, correlation = drawn
        learned = on_nodes(head.structure.pag, node_places(head, nodes), nodes)
        causes = spoken_of(head, causes, nodes)
        refuted = contradictions(learned, causes, nodes, labels)
        learn = learner(correlation, max_tests, **{n: given[n] for n in LEARNING})
        pag = reconciled(head, causes, nodes, learn)
    none = EdgeSet("not_asked")
    return CausalGraph(
        target=target, nodes=nodes, labels=labels,
        frame=tuple(np.flatnonzero(layout.modality[: target.start] == "special").tolist()),
        kind="mask", sufficient=none, necessary=none,
        edges=graph_edges(nodes, learned, pag, none, none, {}, {}), learned_pag=learned, pag=pag,
        causes=causes, contradictions=refuted,
    )  # fmt: skip
