"""Candidate sets of a PDS-tree, in the order in which CLEANN tries them.

1. Nodes of the tree are translated to units. Nodes that cannot be masked (frame, out of scope) are
   transparent: a path may lead through them.
2. A set is legal if every member is connected to the target by a PDS-path whose other units are in
   the set too (CLEANN, algorithm 1). Legal sets are built by adding one unit at a time.
3. Small sets come first, then those with a smaller sum of distances to the target, then
   lexicographic order. Sets of several heads are merged; a set keeps its best place.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. NeurIPS 2023, arXiv 2310.20307, section 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from causal_lvlm.structure.pds import PDSTree

__all__ = ["UnitTree", "distances", "merged_candidates", "unit_tree", "within_radii"]

# A dense graph has more ways to a node than can be looked at; breadth first, these are the nearest.
MAX_ENTRIES = 5_000


@dataclass(frozen=True)
class UnitTree:
    """The PDS-tree of one head, seen as units.

    Attributes
    ----------
    head : int or None
    depth : dict of int to int
        Smallest depth (1 = next to the target) of each unit.
    entries : tuple of (int or None, int)
        Unit (None where transparent) and parent index of the tree's entries, breadth first.
    """

    head: int | None
    depth: dict[int, int]
    entries: tuple[tuple[int | None, int], ...]

    @cached_property
    def ways(self) -> dict[int, frozenset[frozenset[int]]]:
        """For each unit the sets of other units on its ways to the target, none within another."""
        above: list[frozenset[int]] = []
        ways: dict[int, set[frozenset[int]]] = {}
        for unit, parent in self.entries:
            path = above[parent] if parent >= 0 else frozenset()
            if unit is None:
                above.append(path)
            else:
                ways.setdefault(unit, set()).add(path - {unit})
                above.append(path | {unit})
        return {unit: _minimal(found) for unit, found in ways.items()}

    def within(self, radius: int) -> frozenset[int]:
        """Return the units at depth 1..radius."""
        return frozenset(u for u, d in self.depth.items() if d <= radius)

    def radius_of(self, units: Iterable[int]) -> int | None:
        """Return the smallest radius that holds all of `units`, or None if none does."""
        depths = [self.depth.get(u) for u in units]
        return max((d for d in depths if d is not None), default=0) if None not in depths else None

    def is_legal(self, units: frozenset[int]) -> bool:
        """Return whether every member is connected to the target within the set."""
        return all(any(way <= units for way in self.ways.get(u, ())) for u in units)

    def legal_sets(self, size: int, limit: int) -> list[frozenset[int]]:
        """Return legal sets of one size by sum of distances, at most `limit` of them."""
        level: set[frozenset[int]] = {frozenset()}
        for _ in range(size):
            grown = {
                chosen | {unit}
                for chosen in level
                for unit, ways in self.ways.items()
                if unit not in chosen and any(way <= chosen for way in ways)
            }
            # Keeping the nearest ones bounds the work; a legal set's own subsets are near too.
            level = set(sorted(grown, key=self._place)[:limit])
        return sorted(level, key=self._place)

    def _place(self, units: frozenset[int]) -> tuple[int, list[int]]:
        return sum(self.depth[u] for u in units), sorted(units)


def _minimal(ways: set[frozenset[int]]) -> frozenset[frozenset[int]]:
    """Leave out ways that contain another one: a set that allows them allows the shorter one."""
    kept: list[frozenset[int]] = []
    for way in sorted(ways, key=lambda w: (len(w), sorted(w))):
        if not any(shorter <= way for shorter in kept):
            kept.append(way)
    return frozenset(kept)


def unit_tree(
    head: int | None, tree: PDSTree, node_units: Sequence[int | None], scope: Iterable[int]
) -> UnitTree:
    """Translate a PDS-tree over nodes to units of one scope.

    Parameters
    ----------
    head : int or None
    tree : PDSTree
        Arrays ``node``, ``parent``, ``depth`` in breadth-first order, entry 0 is the root.
    node_units : sequence
        Unit of each node, None where it cannot be masked.
    scope : iterable of int
        Units that may be masked; others are transparent.

    Returns
    -------
    UnitTree
    """
    allowed = set(scope)
    translate = np.array(
        [-1 if unit is None or unit not in allowed else unit for unit in node_units], dtype=np.int64
    )
    units = translate[np.asarray(tree.node, dtype=np.int64)]
    units[0] = -1  # the root is the target
    # Breadth-first order: the first occurrence is the nearest one.
    found, first = np.unique(units, return_index=True)
    depth = {
        int(unit): int(tree.depth[entry])
        for unit, entry in zip(found, first, strict=True)
        if unit >= 0
    }
    parents = np.asarray(tree.parent)[:MAX_ENTRIES]
    return UnitTree(
        head=head,
        depth=depth,
        entries=tuple(
            (None if unit < 0 else int(unit), int(parent))
            for unit, parent in zip(units[:MAX_ENTRIES], parents, strict=True)
        ),
    )


def merged_candidates(
    trees: Sequence[UnitTree], size: int, limit: int = 2000
) -> Iterator[frozenset[int]]:
    """Yield the legal sets of one size of all heads, nearest first, without duplicates."""
    best: dict[frozenset[int], int] = {}
    for tree in trees:
        for units in tree.legal_sets(size, limit):
            distance = sum(tree.depth[u] for u in units)
            best[units] = min(best.get(units, distance), distance)
    yield from sorted(best, key=lambda units: (best[units], sorted(units)))


def within_radii(trees: Sequence[UnitTree], max_radius: int) -> Iterator[frozenset[int]]:
    """Yield whole trees of more than one unit, smallest radius first, then all heads together."""
    seen: set[frozenset[int]] = set()
    for radius in range(1, max_radius + 1):
        sets = [t.within(radius) for t in trees]
        sets.append(frozenset().union(*sets))
        for units in sorted(sets, key=lambda s: (len(s), sorted(s))):
            if len(units) > 1 and units not in seen:
                seen.add(units)
                yield units


def distances(trees: Sequence[UnitTree]) -> dict[int, int]:
    """Return for each unit the smallest depth at which a tree holds it."""
    distance: dict[int, int] = {}
    for tree in trees:
        for unit, depth in tree.depth.items():
            distance[unit] = min(depth, distance.get(unit, depth))
    return distance
