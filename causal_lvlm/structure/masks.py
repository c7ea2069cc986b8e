"""Background knowledge as arrays, with all that follows from it, and where it contradicts itself.

"i is a cause of j" (``required_causes``, ``ancestors``) is passed on along chains; "i is no cause
of j" (``forbidden_orientations``, and of nodes in tiers) is passed on against them: where i is no
cause of j, what i is a cause of is none of j, and i is none of what is a cause of j. So marks
follow for edges that nobody named:

1. i is a cause of j: on an edge i-j a tail at i and, without selection, an arrowhead at j.
2. i is no cause of j: an arrowhead at i.

More causes may follow from the graph that is learned (`causal_lvlm.structure.finishing`).

Contradictions are looked for before anything is learned: a cycle of causes, a chain of causes that
is forbidden, causes between which every way is forbidden, an edge that must be there and must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import networkx as nx
import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray, UInt8Array
from causal_lvlm.errors import KnowledgeError
from causal_lvlm.structure.marks import ARROW, TAIL
from causal_lvlm.structure.paths import reached

__all__ = ["Masks", "check_acyclic", "combine"]

Called = Callable[[int], str]


@dataclass(frozen=True)
class Masks:
    """Background knowledge as arrays of shape (N, N).

    ``required`` and ``forbidden`` are symmetric; ``known[i, j]``: the mark at j on an edge i-j,
    0 where it is open; ``causes[i, j]``: i is a cause of j.
    """

    required: BoolArray
    forbidden: BoolArray
    known: UInt8Array
    causes: BoolArray

    def permuted(self, permutation: IntArray) -> Masks:
        """Return the masks for nodes numbered along ``permutation``."""
        index = np.ix_(permutation, permutation)
        return Masks(
            self.required[index], self.forbidden[index], self.known[index], self.causes[index]
        )

    def with_causes(
        self, pairs: Iterable[tuple[int, int]], later: BoolArray, selection: bool
    ) -> Masks | None:
        """Return the masks that know more causes, None if that contradicts itself or the rest.

        Parameters
        ----------
        pairs : iterable of (i, j)
            i is a cause of j.
        later, selection
            See `combine`.
        """
        said = nx.DiGraph([*map(tuple, np.argwhere(self.causes).tolist()), *pairs])
        no_cause = (self.known == ARROW).T & ~self.causes.T
        try:
            _check_causes(said, no_cause, later, str)
        except KnowledgeError:
            return None
        above, known = _marked(no_cause, said, later, selection)
        return Masks(self.required, self.forbidden, known, above)


def combine(
    required: BoolArray,
    forbidden: BoolArray,
    no_cause: BoolArray,
    causes: Iterable[tuple[int, int]],
    later: BoolArray | None,
    selection: bool,
    called: Called,
) -> Masks:
    """Return the masks of what was said and of what follows from it.

    Parameters
    ----------
    required, forbidden : ndarray of bool, shape (N, N)
        Symmetric.
    no_cause : ndarray of bool, shape (N, N)
        [i, j]: i is said to be no cause of j.
    causes : iterable of (i, j)
        i is said to be a cause of j.
    later : ndarray of bool, shape (N, N), optional
        [i, j]: i is in a later tier than j.
    selection : bool
        Whether a cause of j may be a cause of the selection as well, so that no arrowhead follows.
    called : callable
        What errors call a node.

    Raises
    ------
    KnowledgeError
        If they contradict each other.
    """
    clash = np.argwhere(np.triu(required & forbidden))
    if len(clash):
        i, j = clash[0]
        raise KnowledgeError(f"the edge {called(i)} - {called(j)} is both required and forbidden")
    said = nx.DiGraph(list(causes))
    _check_causes(said, no_cause, later, called)
    above, known = _marked(no_cause, said, later, selection)
    _check_ways(said, (known == ARROW).T | above.T, later, forbidden, called)
    return Masks(required, forbidden, known, above)


def _marked(
    no_cause: BoolArray, said: nx.DiGraph, later: BoolArray | None, selection: bool
) -> tuple[BoolArray, UInt8Array]:
    """Return which nodes are causes of which, and all marks that follow."""
    above = np.zeros(no_cause.shape, dtype=bool)
    known = np.zeros(no_cause.shape, dtype=np.uint8)
    if said:
        above[tuple(np.array(nx.transitive_closure_dag(said).edges).T)] = True
        if later is None:
            no_cause = _passed_on(no_cause, said)
        else:  # which are obeyed as they are
            no_cause = _passed_on(no_cause | later, said) & ~later
    known[no_cause.T] = ARROW
    if not selection:
        known[above] = ARROW
    known[above.T] = TAIL
    return above, known


def _check_causes(
    said: nx.DiGraph, no_cause: BoolArray, later: BoolArray | None, called: Called
) -> None:
    """Refuse a cycle of causes, and a chain of causes from i to j where i is no cause of j."""
    try:
        cycle = nx.find_cycle(said)
    except nx.NetworkXNoCycle:
        pass
    else:
        way = _way([*(i for i, _ in cycle), cycle[0][0]], called)
        raise KnowledgeError(f"required_causes and ancestors form a cycle: {way}")
    for i in said:
        for j in sorted(nx.descendants(said, i)):
            if no_cause[i, j]:
                but = f"{called(i)} is said to be no cause of {called(j)}"
            elif later is not None and later[i, j]:
                but = f"{called(i)} comes after {called(j)} in the order or tiers"
            else:
                continue
            way = _way(nx.shortest_path(said, i, j), called)
            raise KnowledgeError(f"required_causes and ancestors say {way}, but {but}")


def _check_ways(
    said: nx.DiGraph,
    no_cause: BoolArray,
    later: BoolArray | None,
    forbidden: BoolArray,
    called: Called,
) -> None:
    """Refuse a cause i of j if no chain of edges that may be there can lead from i to j.

    On such a chain i is a cause of every node, and every node is one of j.
    """
    denied = [(i, j) for i, j in said.edges if forbidden[i, j]]
    if denied and later is not None:
        no_cause = no_cause | later
    for i, j in denied:
        step = ~(forbidden | no_cause | no_cause[i] | no_cause[:, j][:, None])
        if not reached(step, i)[j]:
            raise KnowledgeError(
                f"{called(i)} is said to be a cause of {called(j)}, but every way from "
                f"{called(i)} to {called(j)} is forbidden (by forbidden, forbidden_orientations, "
                "tiers or other causes)"
            )


def _passed_on(no_cause: BoolArray, said: nx.DiGraph) -> BoolArray:
    """Return which nodes are no cause of which, with all that follows along chains of causes."""
    out = no_cause.copy()
    downwards = list(nx.topological_sort(said))
    for k in downwards:
        for i in said.predecessors(k):
            out[k] |= out[i]
    for k in reversed(downwards):
        for j in said.successors(k):
            out[:, k] |= out[:, j]
    return out


def check_acyclic(masks: Masks, later: BoolArray | None, called: Called) -> None:
    """Refuse what no graph can obey in which every edge has exactly one direction.

    Parameters
    ----------
    masks : Masks
    later : ndarray of bool, shape (N, N), optional
        [i, j]: i is in a later tier than j.
    called : callable
        What errors call a node.

    Raises
    ------
    KnowledgeError
        If a required edge has no direction left, or the directions that are left form a cycle, or
        a chain of causes that is forbidden; known causes belong to these chains.
    """
    into = masks.known == ARROW  # [i, j]: the mark at j, so j is no cause of i
    if later is not None:
        into |= later.T
    stuck = np.argwhere(np.triu(masks.required & into & into.T))
    if len(stuck):
        i, j = stuck[0]
        known = ", and known causes" if masks.causes.any() else ""
        raise KnowledgeError(
            f"the edge {called(i)} - {called(j)} is required, but both of its directions are "
            f"forbidden (by forbidden_orientations or tiers{known}); allow one, or use 'fci' or "
            "'icd', where i <-> j is possible"
        )
    graph = nx.from_numpy_array((masks.required & into) | masks.causes, create_using=nx.DiGraph)
    left = "the directions that are left for required edges"
    if masks.causes.any():
        left += ", and known causes,"
    try:
        cycle = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        pass
    else:
        way = _way([*(i for i, _ in cycle), cycle[0][0]], called)
        raise KnowledgeError(f"{left} form a cycle: {way}")
    # an orientation is forbidden to chains of causes as well: into[j, i], i no cause of j
    for i in graph:
        for j in nx.descendants(graph, i):
            if into[j, i]:
                way = _way(nx.shortest_path(graph, i, j), called)
                raise KnowledgeError(
                    f"{left} make {way}, but {called(i)} is said to be no cause of {called(j)}"
                )


def _way(nodes: Iterable[int], called: Called) -> str:
    return " -> ".join(called(k) for k in nodes)
