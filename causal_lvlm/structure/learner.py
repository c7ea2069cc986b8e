"""The state of one run of structure learning, and the steps that every algorithm is made of.

`causal_lvlm.structure.algorithms` says in which order the steps come; here kernels are called,
edges go when they are separated, marks are put on, and evidence is kept; the last orientation is
`causal_lvlm.structure.finishing`. Nodes are numbered along
the causal order; `causal_lvlm.structure.collect` renumbers them at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, Int32Array, IntArray, UInt8Array
from causal_lvlm.structure.checks import squared_thresholds
from causal_lvlm.structure.chunks import Found, Kernel, Limits, run_chunks
from causal_lvlm.structure.marks import CIRCLE
from causal_lvlm.structure.masks import Masks

__all__ = ["Learner"]

_NOTHING = np.zeros((0, 0), dtype=np.uint8)
_BLOCK = 32  # later ends: their rows of three matrices of 700 nodes fit a cache of half a megabyte
_ALL_TESTED = np.zeros((0, 0), dtype=bool)


@dataclass
class Learner:
    """The state of one run.

    ``sepset_start`` and ``sepset_size`` locate the separating set of i < j in ``sepset_nodes``; the
    size is -1 as long as there is none. ``critical`` holds the largest |partial correlation| that
    is independent by size, ``squared`` what squared values are compared with. ``weakest``
    (smallest |partial correlation|), ``z`` (smallest Fisher z) and ``pair_tests`` hold the evidence
    for i < j, if it is kept.
    """

    correlation: FloatArray
    tiers: IntArray
    critical: FloatArray
    tolerance: float
    stable: bool
    selection_bias: bool
    n_samples: int | None
    knowledge: Masks | None
    limits: Limits
    keep_evidence: bool
    n_jobs: int = 1
    progress: Callable[[int, int, int], None] | None = None

    def __post_init__(self) -> None:
        n = len(self.correlation)
        self.squared = squared_thresholds(self.critical)
        self.marks: UInt8Array = np.zeros((n, n), dtype=np.uint8)
        self.sepset_start = np.zeros((n, n), dtype=np.int32)
        self.sepset_size = np.zeros((n, n), dtype=np.int16)
        self.sepset_nodes = np.zeros(0, dtype=np.int32)
        self.tests = [0]
        self.blind: BoolArray = np.zeros((n, n), dtype=bool)
        self.claims: UInt8Array = np.zeros((n, n), dtype=np.uint8)
        self.known: UInt8Array = _NOTHING
        self.forced = np.zeros((0, 2), dtype=np.int64)
        self.unfinished_size: int | None = None
        self.edges_left = 0
        self.notes: tuple[str, ...] = ()
        self.next_size = 1
        if self.knowledge is not None and self.knowledge.known.any():
            self.known = self.knowledge.known
        if self.keep_evidence:
            self.weakest = np.full((n, n), np.nan)
            self.z = np.full((n, n), np.nan)
            self.pair_tests = np.zeros((n, n), dtype=np.int64)

    @property
    def limit(self) -> int:
        """Largest conditioning size that may be tested."""
        return len(self.squared) - 1

    def separate_unconditionally(self) -> None:
        """Size 0: edges between all nodes whose |correlation| is above the threshold."""
        import causal_kernels as kernels

        n = len(self.marks)
        self.marks[self.correlation * self.correlation > self.squared[0]] = CIRCLE
        self.tests[0] = n * (n - 1) // 2
        if self.knowledge is not None and self.knowledge.required.any():
            required = self.knowledge.required
            self.marks[required] = CIRCLE
            self.tests[0] -= int(required.sum()) // 2
        np.fill_diagonal(self.marks, 0)
        self.sepset_size[self.marks > 0] = -1
        if self.keep_evidence:
            kernels.note_unconditional(
                self.correlation, self._skip(), self._scale(0), self.weakest, self.z,
                self.pair_tests,
            )  # fmt: skip

    def _skip(self) -> BoolArray:
        """Return which edges are not tested: an array of shape (N, N), or (0, 0) for none."""
        return _ALL_TESTED if self.knowledge is None else self.knowledge.required

    def _scale(self, size: int) -> float:
        """Return what atanh |r| is multiplied with to become Fisher's z, 0 without samples."""
        return 0.0 if self.n_samples is None else math.sqrt(self.n_samples - size - 3.0)

    def edges(self) -> Int32Array:
        """Return the edges (a, b), a < b, that may be tested.

        The sequential variant needs them by (tier of b, a, b). For the stable one the order means
        nothing, and blocks of later ends keep the rows of the matrix that the tests read near.
        """
        import causal_kernels as kernels

        blocks = np.arange(len(self.marks), dtype=np.int64) // _BLOCK
        order = blocks if self.stable else self.tiers
        edges: Int32Array = kernels.list_edges(self.marks, order, self._skip())
        return edges

    def test_size(self, size: int, edges: Int32Array, kernel: Kernel) -> tuple[int, bool]:
        """Test edges with sets of one size; return (number of candidate sets, any edge deleted).

        Raises
        ------
        Interrupted
            If a limit was met. The stable variant then keeps nothing of this size, so that the
            result does not depend on which edges came first; the sequential one keeps what it did.
        """
        found = Found.empty(len(edges), size)
        self.unfinished_size, self.edges_left = size, len(edges)
        before = sum(self.tests)
        report = self.progress

        def note(done: int, count: int) -> None:
            self.edges_left = count - done
            if report is not None:
                report(size, done, count)

        jobs = self.n_jobs if self.stable else 1
        try:
            self.limits.check()
            self.limits.check_tests(before)
            candidates = run_chunks(kernel, edges, found, self.limits, before, jobs, note)
        except BaseException:
            if self.stable:
                self.edges_left = len(edges)
            else:
                self._keep(size, edges, found)
            raise
        deleted = self._keep(size, edges, found)
        self.unfinished_size, self.edges_left = None, 0
        self.next_size = size + 1
        return candidates, deleted

    def after_ctrl_c(self) -> None:
        """Put the state in order after an interruption at any moment."""
        # edges that a sequential kernel took away, but whose separating set was not stored yet
        lost = np.triu((self.marks == 0) & (self.sepset_size < 0))
        self.marks[lost | lost.T] = CIRCLE
        if self.unfinished_size is None or lost.any():
            self.unfinished_size, self.edges_left = self.next_size, len(self.edges())

    def _keep(self, size: int, edges: Int32Array, found: Found) -> bool:
        """Delete what was separated, and keep the evidence; tell whether an edge went."""
        import causal_kernels as kernels

        while len(self.tests) <= size:
            self.tests.append(0)
        self.tests[size] += int(found.tests.sum())
        a, b = edges[:, 0], edges[:, 1]
        if self.stable:
            gone = found.best <= self.squared[size]
        else:
            gone = self.marks[a, b] == 0
        if found.blind.any():
            self.blind[a, b] |= found.blind > 0
        if self.keep_evidence:
            kernels.note_tests(
                edges, found.best, found.tests, self._scale(size), self.weakest, self.z,
                self.pair_tests,
            )  # fmt: skip
        # Ctrl-C never finds an edge deleted whose separating set is not there: the sets come first,
        # and one kernel then deletes and points to them.
        first = len(self.sepset_nodes)
        self.sepset_nodes = np.concatenate([self.sepset_nodes, found.members[gone].ravel()])
        kernels.delete_separated(
            edges, gone, size, self.marks, self.sepset_start, self.sepset_size, first
        )
        return bool(gone.any())

    def orient(self, known: UInt8Array | None = None) -> None:
        """Reset the marks and apply R0-R4, from ``known`` marks (default: `known_early`) on."""
        from causal_kernels import orient

        self.claims = orient(
            self.marks, self.tiers, self.known_early if known is None else known,
            self.sepset_start, self.sepset_size, self.sepset_nodes, self.stable,
        )  # fmt: skip

    @property
    def known_early(self) -> UInt8Array:
        """Known marks that conditioning sets may rest on.

        With selection a tail says nothing about the other end, but possible ancestors are read as
        if it did (`causal_kernels.possible_ancestors`): a set that separates could be missed.
        """
        return _NOTHING if self.selection_bias else self.known

    def orient_colliders(self) -> None:
        """Reset the marks and orient unshielded colliders, with tests that make it safe.

        These tests count in `tests`, but are no evidence for or against an edge.
        """
        import causal_kernels as kernels

        tests = np.zeros(len(self.squared), dtype=np.int64)
        lists = kernels.neighbour_lists(self.marks)
        arrow = np.zeros(len(lists[1]), dtype=np.uint8)
        n = len(self.marks)
        for first in range(0, n, _BLOCK):
            self.limits.check()
            kernels.sure_colliders(
                self.correlation, self.marks, *lists, self.sepset_start, self.sepset_size,
                self.sepset_nodes, self.squared, self.tolerance, first, min(first + _BLOCK, n),
                arrow, tests,
            )  # fmt: skip
        for size in range(len(self.tests)):
            self.tests[size] += int(tests[size])
        kernels.orient_colliders(self.marks, self.tiers, self.known_early, *lists, arrow)

    def one(self, lists: tuple[IntArray, IntArray]) -> Kernel:
        """Return the kernel of conditioning size 1, the same for all algorithms."""
        import causal_kernels as kernels

        if not self.stable:
            squared = float(self.squared[1])

            def sequential(edges: Int32Array, found: Found, budget: int) -> tuple[int, int]:
                met = kernels.order_one_sequential(
                    self.correlation, self.marks, self.tiers, edges, squared, self.tolerance,
                    found.best, found.members[:, 0], found.tests, found.blind,
                )  # fmt: skip
                return len(edges), met

            return sequential
        inverse = kernels.inverse_rest(self.correlation, self.tolerance)
        prepared = kernels.prepare_one(inverse, self.marks, *lists, self.tiers)

        def stable(edges: Int32Array, found: Found, budget: int) -> tuple[int, int]:
            met = kernels.order_one(
                self.correlation, inverse, self.marks, *lists, self.tiers, prepared, edges,
                found.best, found.members[:, 0], found.tests, found.blind,
            )  # fmt: skip
            return len(edges), met

        return stable
