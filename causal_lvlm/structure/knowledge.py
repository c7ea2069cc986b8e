"""Background knowledge: edges that must or must not be there, and orientations that cannot be.

What it does to learning:

1. A required edge is not tested and stays.
2. A forbidden edge is looked at like every other, since what separates its ends says how the edges
   around them are oriented. If nothing separated them it goes all the same, and no rule concludes
   anything from it (in an ideal world without contradictions that never happens).
3. A forbidden orientation (i, j), "i is no cause of j", puts an arrowhead at i on an edge i-j from
   the start. No rule overwrites it.

References: Meek, Causal inference and causal explanation with background knowledge, UAI 1995;
Andrews, Spirtes, Cooper, On the completeness of causal discovery in the presence of latent
confounding with tiered background knowledge, AISTATS 2020.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import KnowledgeError

__all__ = ["BackgroundKnowledge", "Masks"]

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Masks:
    """Background knowledge as boolean arrays of shape (N, N).

    ``required`` and ``forbidden`` are symmetric; ``blocked[i, j]``: the mark at j on an edge i-j is
    an arrowhead (j is no cause of i).
    """

    required: BoolArray
    forbidden: BoolArray
    blocked: BoolArray

    def permuted(self, permutation: IntArray) -> Masks:
        """Return the masks for nodes numbered along ``permutation``."""
        index = np.ix_(permutation, permutation)
        return Masks(self.required[index], self.forbidden[index], self.blocked[index])


@dataclass(frozen=True)
class BackgroundKnowledge:
    """What is known before anything is learned.

    Parameters
    ----------
    required : sequence of pairs
        Edges that are there, in whatever direction. Nodes are numbers or names.
    forbidden : sequence of pairs
        Edges that are not there.
    forbidden_orientations : sequence of pairs (i, j)
        i is no cause of j: neither i -> j, nor any chain of causes from i to j. On an edge between
        them the mark at i is an arrowhead. A chain through other nodes that is learned all the same
        contradicts the knowledge, and is named in the result's ``notes``.

    Raises
    ------
    KnowledgeError
        If an entry is no pair of two different nodes (a set is none: it has no order), or an edge
        is both required and forbidden.

    Examples
    --------
    >>> knowledge = BackgroundKnowledge(required=[(0, 1)], forbidden_orientations=[("wet", "rain")])
    >>> knowledge.forbidden_orientations
    (('wet', 'rain'),)
    """

    required: Sequence[Pair] = ()
    forbidden: Sequence[Pair] = ()
    forbidden_orientations: Sequence[Pair] = ()

    def __post_init__(self) -> None:
        for name in ("required", "forbidden", "forbidden_orientations"):
            object.__setattr__(self, name, _pairs(getattr(self, name), name))
        both = {frozenset(pair) for pair in self.required} & {
            frozenset(pair) for pair in self.forbidden
        }
        if both:
            raise KnowledgeError(
                f"{sorted(min(both, key=str), key=str)} is both required and forbidden"
            )

    def __bool__(self) -> bool:
        return bool(self.required or self.forbidden or self.forbidden_orientations)

    def to_dict(self) -> dict[str, list[list[Any]]]:
        """Return plain lists."""
        return {
            name: [list(pair) for pair in getattr(self, name)]
            for name in ("required", "forbidden", "forbidden_orientations")
        }

    def masks(
        self,
        n: int,
        names: Sequence[str] | None = None,
        *,
        tiers: IntArray | None = None,
        acyclic: bool = False,
    ) -> Masks:
        """Return the masks for a graph, after a search for contradictions.

        Parameters
        ----------
        n : int
            Number of nodes.
        names : sequence of str, optional
        tiers : ndarray of shape (N,), optional
            A node of a later tier is no cause of a node of an earlier one.
        acyclic : bool
            Whether every edge has exactly one direction (PC), so that a required edge with one
            direction forbidden has the other.

        Raises
        ------
        KnowledgeError
            If a node does not exist or its name stands for several, an edge is required and
            forbidden, or (for `acyclic`) a required edge has no direction left, or the directions
            that are left form a cycle, or a chain of causes that is forbidden.
        """
        numbers = _numbers(names)
        shape = (n, n)
        required, forbidden, blocked = (np.zeros(shape, dtype=bool) for _ in range(3))
        for pair in self.required:
            i, j = _resolved(pair, n, numbers)
            required[i, j] = required[j, i] = True
        for pair in self.forbidden:
            i, j = _resolved(pair, n, numbers)
            forbidden[i, j] = forbidden[j, i] = True
        for pair in self.forbidden_orientations:
            i, j = _resolved(pair, n, numbers)
            blocked[j, i] = True
        clash = np.argwhere(np.triu(required & forbidden))
        if len(clash):
            ends = [str(k) if names is None else repr(names[k]) for k in clash[0]]
            raise KnowledgeError(f"the edge {' - '.join(ends)} is both required and forbidden")
        if acyclic:
            self._check_acyclic(required, blocked, tiers, names)
        return Masks(required, forbidden, blocked)

    def _check_acyclic(
        self,
        required: BoolArray,
        blocked: BoolArray,
        tiers: IntArray | None,
        names: Sequence[str] | None,
    ) -> None:
        later = blocked.copy()
        if tiers is not None:
            later |= tiers[None, :] > tiers[:, None]

        def called(i: int) -> str:
            return str(i) if names is None else repr(names[i])

        stuck = np.argwhere(np.triu(required & later & later.T))
        if len(stuck):
            i, j = stuck[0]
            raise KnowledgeError(
                f"the edge {called(i)} - {called(j)} is required, but both of its directions are "
                "forbidden (by forbidden_orientations or tiers); allow one, or use 'fci' or "
                "'icd', where i <-> j is possible"
            )
        graph = nx.from_numpy_array(required & later, create_using=nx.DiGraph)
        try:
            cycle = nx.find_cycle(graph)
        except nx.NetworkXNoCycle:
            pass
        else:
            way = " -> ".join(called(i) for i, _ in cycle)
            raise KnowledgeError(
                f"the directions that are left for required edges form a cycle: {way} -> "
                f"{called(cycle[0][0])}"
            )
        # an orientation is forbidden to chains of causes as well: later[j, i], i no cause of j
        for i in graph:
            for j in nx.descendants(graph, i):
                if later[j, i]:
                    way = " -> ".join(called(k) for k in nx.shortest_path(graph, i, j))
                    raise KnowledgeError(
                        f"the directions that are left for required edges make {way}, but "
                        f"{called(i)} is said to be no cause of {called(j)}"
                    )


def _pairs(values: Iterable[Any], name: str) -> tuple[Pair, ...]:
    try:
        given = list(values)
    except TypeError as error:
        raise KnowledgeError(f"{name} must be pairs of nodes: {error}") from error
    pairs = []
    for pair in given:
        if not isinstance(pair, (tuple, list, np.ndarray)) or len(pair) != 2:
            raise KnowledgeError(f"{name} must hold pairs of nodes (i, j), not {pair!r}")
        i, j = _plain(pair[0]), _plain(pair[1])
        if i == j:
            raise KnowledgeError(f"{name} holds {pair!r}: an edge joins two different nodes")
        pairs.append((i, j))
    return tuple(pairs)


def _plain(node: Any) -> int | str:
    if isinstance(node, str):
        return str(node)
    if not isinstance(node, (bool, np.bool_)):
        try:
            return operator.index(node)
        except TypeError:
            pass
    raise KnowledgeError(f"a node is a number or a name, not {node!r}")


def _numbers(names: Sequence[str] | None) -> dict[str, int]:
    """Return the node of each name, -1 for a name of several nodes."""
    numbers: dict[str, int] = {}
    for node, name in enumerate(names or ()):
        numbers[name] = -1 if name in numbers else node
    return numbers


def _resolved(pair: Pair, n: int, numbers: dict[str, int]) -> tuple[int, int]:
    i, j = _node(pair[0], n, numbers), _node(pair[1], n, numbers)
    if i == j:
        raise KnowledgeError(f"{pair!r} names one node twice: an edge joins two different nodes")
    return i, j


def _node(node: int | str, n: int, numbers: dict[str, int]) -> int:
    if isinstance(node, str):
        if node not in numbers:
            known = ", ".join(list(numbers)[:12]) or "none: nodes are numbers here"
            raise KnowledgeError(f"background knowledge names {node!r}; the names are {known}")
        if numbers[node] < 0:
            raise KnowledgeError(
                f"background knowledge names {node!r}, but several nodes have that name; give "
                "their numbers"
            )
        return numbers[node]
    if not 0 <= node < n:
        raise KnowledgeError(f"background knowledge names node {node}; nodes are 0..{n - 1}")
    return int(node)
