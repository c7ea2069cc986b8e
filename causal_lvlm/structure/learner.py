"""One run of structure learning: the state, and what happens size by size.

`causal_lvlm.structure.learn` says what is done; here the kernels are called, in parts small enough
to look at the clock in between, and edges go when they are separated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, UInt8Array
from causal_lvlm.structure.pag import CIRCLE, PAG
from causal_lvlm.structure.result import LearnedStructure

__all__ = ["Learner"]

# Work per kernel call, small enough to look at the clock between calls: edges, and sets
_CHUNK = 256
_CHUNK_ONE = 8192
_BUDGET = 10_000_000


@dataclass
class Found:
    """What a kernel writes for each of E edges; see `causal_kernels.order_one`."""

    best: FloatArray
    members: IntArray
    tests: IntArray
    blind: IntArray

    def part(self, part: slice) -> Found:
        """Return views of some of the edges."""
        return Found(self.best[part], self.members[part], self.tests[part], self.blind[part])


# (edges, where to write, budget of sets) -> (edges done, candidate sets met)
Kernel = Callable[[IntArray, Found, int], tuple[int, int]]


class Interrupted(Exception):
    """A budget ended inside a size; carries the reason."""


@dataclass
class Learner:
    """The state of one run; nodes are numbered along the order.

    ``sepset_start`` and ``sepset_size`` locate the separating set of i < j in ``sepset_nodes``; of
    a pair that is adjacent they mean nothing.
    """

    correlation: FloatArray
    tiers: IntArray
    squared: FloatArray
    tolerance: float
    stable: bool
    deadline: float | None
    max_tests: int | None
    progress: Callable[[int, int, int], None] | None = None

    def __post_init__(self) -> None:
        n = len(self.correlation)
        self.marks: UInt8Array = np.zeros((n, n), dtype=np.uint8)
        self.sepset_start = np.zeros((n, n), dtype=np.int64)
        self.sepset_size = np.zeros((n, n), dtype=np.int16)
        self.sepset_nodes = np.zeros(0, dtype=np.int64)
        self.tests = [n * (n - 1) // 2]
        self.blind = np.zeros((n, n), dtype=bool)
        self.claims: UInt8Array = np.zeros((n, n), dtype=np.uint8)

    def learn(self) -> str:
        """Run all sizes and the last orientation; return why it ended."""
        from causal_kernels import complete_tails

        self.marks[self.correlation * self.correlation > self.squared[0]] = CIRCLE
        np.fill_diagonal(self.marks, 0)
        n = len(self.marks)
        oriented = False
        stopped = "no_more_sets"
        limit = len(self.squared) - 1
        for size in range(1, n - 1):
            edges = self._edges()
            if not len(edges):
                break
            if size > limit:
                stopped = "size_limit"
                break
            if size >= 2 and not oriented:
                self._orient()
                oriented = True
            try:
                candidates, deleted = self._one_size(size, edges)
            except Interrupted as reason:
                # an unfinished size: nothing of it counts in the stable variant
                stopped = str(reason)
                break
            oriented = oriented and not deleted
            if candidates == 0:
                break
        if not oriented:
            self._orient()
        complete_tails(self.marks, self.claims)
        return stopped

    def _edges(self) -> IntArray:
        """Return the edges (a, b), a < b, sorted by (tier of b, a, b)."""
        edges = np.argwhere(np.triu(self.marks)).astype(np.int64)
        by_tier = np.argsort(self.tiers[edges[:, 1]], kind="stable")
        return np.ascontiguousarray(edges[by_tier])

    def _orient(self) -> None:
        from causal_kernels import orient

        self.claims = orient(
            self.marks,
            self.tiers,
            self.sepset_start,
            self.sepset_size,
            self.sepset_nodes,
            self.stable,
        )

    def _check_budget(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Interrupted("time_limit")
        if self.max_tests is not None and sum(self.tests) >= self.max_tests:
            raise Interrupted("max_tests")

    def _one_size(self, size: int, edges: IntArray) -> tuple[int, bool]:
        """Test all edges with sets of one size; return (number of candidate sets, any deleted)."""
        import causal_kernels as kernels

        self._check_budget()
        self.tests.append(0)
        count = len(edges)
        found = Found(
            best=np.full(count, np.inf),
            members=np.zeros((count, size), dtype=np.int64),
            tests=np.zeros(count, dtype=np.int64),
            blind=np.zeros(count, dtype=np.int64),
        )
        lists = kernels.neighbour_lists(self.marks)
        run = (
            self._stable_kernel(size, lists, edges)
            if self.stable
            else self._sequential_kernel(size, lists)
        )
        whole = _BUDGET if self.max_tests is None else min(_BUDGET, self.max_tests)
        candidates, first, budget = 0, 0, whole
        while first < count:
            part = slice(first, first + (_CHUNK_ONE if size == 1 else _CHUNK))
            done, met = run(edges[part], found.part(part), budget)
            if not done and self.max_tests is not None and budget >= self.max_tests:
                # one edge alone has more sets to look at than all edges may have tests
                raise Interrupted("max_tests")
            # an edge with more sets than the budget is begun again with a larger one
            budget = whole if done else 2 * budget
            self.tests[size] += int(found.tests[first : first + done].sum())
            candidates += int(met)
            first += done
            if self.progress is not None:
                self.progress(size, first, count)
            if first < count:
                self._check_budget()
        if self.stable:
            gone = found.best <= self.squared[size]
        else:
            gone = self.marks[edges[:, 0], edges[:, 1]] == 0
        undecided = edges[found.blind > 0]
        self.blind[undecided[:, 0], undecided[:, 1]] = True
        self._delete(edges[gone], found.members[gone])
        return candidates, bool(gone.any())

    def _stable_kernel(
        self, size: int, lists: tuple[IntArray, IntArray], all_edges: IntArray
    ) -> Kernel:
        """Return the call that finds the best separating set of each of some of the edges."""
        import causal_kernels as kernels

        if size == 1:
            left = 1.0 - self.correlation * self.correlation
            np.maximum(left, self.tolerance, out=left)
            inverse = np.where(left > self.tolerance, 1.0 / left, -1.0)

            def one(edges: IntArray, found: Found, budget: int) -> tuple[int, int]:
                met = kernels.order_one(
                    self.correlation, inverse, self.marks, *lists, self.tiers, edges,
                    found.best, found.members[:, 0], found.tests, found.blind,
                )  # fmt: skip
                return len(edges), met

            return one
        ancestor = kernels.possible_ancestor_matrix(self.marks, *lists)
        needed = kernels.needed_roots(self.tiers, all_edges, ancestor, size)
        distance = kernels.pds_distance_matrix(self.marks, *lists, self.tiers, size, needed)

        def more(edges: IntArray, found: Found, budget: int) -> tuple[int, int]:
            done, met = kernels.order_r(
                self.correlation, self.marks, self.tiers, edges, distance, ancestor, size,
                self.tolerance, budget, found.best, found.members, found.tests, found.blind,
            )  # fmt: skip
            return done, met

        return more

    def _sequential_kernel(self, size: int, lists: tuple[IntArray, IntArray]) -> Kernel:
        """Return the call that separates and deletes some edges one after the other."""
        import causal_kernels as kernels

        squared = float(self.squared[size])
        if size == 1:

            def one(edges: IntArray, found: Found, budget: int) -> tuple[int, int]:
                met = kernels.order_one_sequential(
                    self.correlation, self.marks, self.tiers, edges, squared, self.tolerance,
                    found.best, found.members[:, 0], found.tests, found.blind,
                )  # fmt: skip
                return len(edges), met

            return one
        snapshot = self.marks.copy()
        tier = -1

        def more(edges: IntArray, found: Found, budget: int) -> tuple[int, int]:
            nonlocal tier
            done, met, tier = kernels.order_r_sequential(
                self.correlation, self.marks, snapshot, *lists, self.tiers, edges, tier, size,
                squared, self.tolerance, budget,
                found.best, found.members, found.tests, found.blind,
            )  # fmt: skip
            return done, met

        return more

    def _delete(self, edges: IntArray, members: IntArray) -> None:
        """Remove edges of shape (K, 2) and store their separating sets of shape (K, size)."""
        a, b = edges[:, 0], edges[:, 1]
        size = members.shape[1]
        self.marks[a, b] = 0
        self.marks[b, a] = 0
        self.sepset_start[a, b] = len(self.sepset_nodes) + size * np.arange(len(edges))
        self.sepset_size[a, b] = size
        self.sepset_nodes = np.concatenate([self.sepset_nodes, members.ravel()])

    def result(
        self,
        correlation: FloatArray,
        permutation: IntArray,
        stopped: str,
        parameters: dict[str, Any],
    ) -> LearnedStructure:
        """Number the nodes as the caller does and collect the result."""
        from causal_kernels import CONFLICT

        n = len(correlation)
        marks = np.empty_like(self.marks)
        marks[np.ix_(permutation, permutation)] = self.marks
        conflicts = int(np.count_nonzero(self.claims == CONFLICT))
        i, j = np.nonzero(np.triu(self.marks == 0, k=1))
        pairs = np.sort(np.stack([permutation[i], permutation[j]], axis=1), axis=1)
        by_pair = np.argsort(pairs[:, 0] * n + pairs[:, 1])
        i, j, pairs = i[by_pair], j[by_pair], pairs[by_pair]
        sizes = self.sepset_size[i, j].astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        # the k-th entry of pair m comes from the k-th of its members
        owner = np.repeat(np.arange(len(sizes)), sizes)
        where = self.sepset_start[i, j][owner] + np.arange(ends[-1]) - ends[:-1][owner]
        nodes = permutation[self.sepset_nodes[where]]
        nodes = nodes[np.lexsort((nodes, owner))]
        blind = np.sort(permutation[np.argwhere(self.blind)], axis=1)
        return LearnedStructure(
            pag=PAG(marks),
            separated=pairs,
            separator_start=ends,
            separator_nodes=nodes,
            tests_per_size=tuple(self.tests),
            undecided=blind[np.lexsort((blind[:, 1], blind[:, 0]))],
            complete=stopped == "no_more_sets",
            stopped=stopped,
            conflicts=conflicts,
            thresholds=tuple(float(value) for value in np.sqrt(self.squared[: len(self.tests)])),
            parameters=parameters,
            correlation=correlation,
        )
