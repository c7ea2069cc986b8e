"""Background knowledge: edges that must or must not be there, and orientations that cannot be.

What it does to learning:

1. A required edge is not tested and stays.
2. A forbidden edge is looked at like every other, since what separates its ends says how the edges
   around them are oriented. If nothing separated them it goes all the same, and no rule concludes
   anything from it (in an ideal world without contradictions that never happens).
3. A forbidden orientation (i, j), "i is no cause of j", puts an arrowhead at i on an edge i-j from
   the start. No rule overwrites it.
4. An ancestor (i, j), "i is a cause of j", puts a tail at i on an edge i-j from the start (and,
   without selection, an arrowhead at j). No rule overwrites it. What follows from chains of causes
   (`causal_lvlm.structure.masks`) counts as if it had been said. Without an edge i-j, i is
   a cause of what every possibly directed path from i to j passes, and that of j
   (`causal_lvlm.structure.finishing`).
5. If at the end no possibly directed path leads from i to j, the data deny the cause, or had too
   little to see it. In an ancestral graph a cause may always be drawn as an edge, so the learner
   adds the edge i -> j, orients again with all rules, and lists the pair
   (`LearnedStructure.restored`); nothing else is tested again. (In an ideal world without
   contradictions that never happens.) To keep such an edge from the start, when conditioning sets
   are chosen, say it as a required cause and learn again.
6. A required cause (i, j) is a required edge and an ancestor.

With selection a cause is one that does not act through the selection alone.

References: Meek, Causal inference and causal explanation with background knowledge, UAI 1995;
Andrews, Spirtes, Cooper, On the completeness of causal discovery in the presence of latent
confounding with tiered background knowledge, AISTATS 2020.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import IntArray
from causal_lvlm.errors import KnowledgeError
from causal_lvlm.structure.masks import Masks, check_acyclic, combine

__all__ = ["BackgroundKnowledge"]

Pair = tuple[Any, Any]
_ALWAYS = ("required", "forbidden", "forbidden_orientations")
_CAUSES = ("required_causes", "ancestors")


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
    required_causes : sequence of pairs (i, j)
        i is a cause of j, and there is an edge between them: i -> j.
    ancestors : sequence of pairs (i, j)
        i is a cause of j, perhaps through others: a possibly directed path leads from i to j
        (`causal_lvlm.structure.paths`), and an edge between them has a tail at i. Where the data
        leave no such path, the edge i -> j is added; ``restored`` of the result lists these pairs.

    Raises
    ------
    KnowledgeError
        If an entry is no pair of two different nodes (a set is none: it has no order), or an edge
        is both required and forbidden. Contradictions between causes are found where the nodes are
        known, see `masks`.

    Examples
    --------
    >>> knowledge = BackgroundKnowledge(required=[(0, 1)], forbidden_orientations=[("wet", "rain")])
    >>> knowledge.forbidden_orientations
    (('wet', 'rain'),)
    """

    required: Sequence[Pair] = ()
    forbidden: Sequence[Pair] = ()
    forbidden_orientations: Sequence[Pair] = ()
    required_causes: Sequence[Pair] = ()
    ancestors: Sequence[Pair] = ()

    def __post_init__(self) -> None:
        for name in (*_ALWAYS, *_CAUSES):
            object.__setattr__(self, name, _pairs(getattr(self, name), name))
        both = {frozenset(pair) for pair in (*self.required, *self.required_causes)} & {
            frozenset(pair) for pair in self.forbidden
        }
        if both:
            raise KnowledgeError(
                f"{sorted(min(both, key=str), key=str)} is both required and forbidden"
            )

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in (*_ALWAYS, *_CAUSES))

    def to_dict(self) -> dict[str, list[list[Any]]]:
        """Return plain lists; those of causes only where there are any."""
        return {
            name: [list(pair) for pair in getattr(self, name)]
            for name in (*_ALWAYS, *_CAUSES)
            if name in _ALWAYS or getattr(self, name)
        }

    def masks(
        self,
        n: int,
        names: Sequence[str] | None = None,
        *,
        tiers: IntArray | None = None,
        acyclic: bool = False,
        selection: bool = False,
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
        selection : bool
            Whether a cause may be one of the selection as well, so that its effect need not have
            an arrowhead.

        Raises
        ------
        KnowledgeError
            If a node does not exist or its name stands for several, an edge is required and
            forbidden, causes form a cycle or a chain that is forbidden (also by tiers), all ways
            from a cause to its effect are forbidden, or (for `acyclic`) a required edge has no
            direction left, or the directions that are left form, with the causes, a cycle or a
            chain that is forbidden.
        """
        numbers = _numbers(names)
        required, forbidden, no_cause = (np.zeros((n, n), dtype=bool) for _ in range(3))
        for pair in (*self.required, *self.required_causes):
            i, j = _resolved(pair, n, numbers)
            required[i, j] = required[j, i] = True
        for pair in self.forbidden:
            i, j = _resolved(pair, n, numbers)
            forbidden[i, j] = forbidden[j, i] = True
        for pair in self.forbidden_orientations:
            no_cause[_resolved(pair, n, numbers)] = True
        causes = [_resolved(pair, n, numbers) for pair in (*self.required_causes, *self.ancestors)]
        later = None if tiers is None else tiers[:, None] > tiers[None, :]

        def called(i: int) -> str:
            return str(i) if names is None else repr(names[i])

        masks = combine(required, forbidden, no_cause, causes, later, selection, called)
        if acyclic:
            check_acyclic(masks, later, called)
        return masks


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
