"""Structure learning from a correlation matrix: ICD and ordered ICD, order by order.

1. Size 0: edges whose |correlation| is at or below the threshold go.
2. Size 1: for each edge, its neighbours one by one as the conditioning node.
3. Orient (R0-R4). Size r >= 2: for each edge, the sets of r nodes that meet the ICD-Sep conditions
   (a PDS-path inside the set from the root to each member, members are possible ancestors of an
   end). Again until a size has no set to test for any edge.
4. Orient for the last time (R0-R4, then R8-R10).

``icd`` starts from o-o edges and looks around both ends of an edge. ``ordered_icd`` knows an order:
edges start o-> towards the later tier, sets come from tiers up to the later end's and are rooted
there; within a tier it is ICD. One single tier is ICD, singleton tiers are ordered ICD as
published.

``variant="stable"`` (default) gives a result that does not depend on how nodes are numbered: a size
is worked on with the graph and marks as they were at its start, of the separating sets the one with
the largest p-value is kept, edges go at the end of the size, each orientation rule acts on all its
matches at once. ``"sequential"`` deletes and orients as it goes.

References: Rohekar, Nisimov, Gurwicz, Novik, NeurIPS 2021 (arXiv 2111.04095); ordered ICD: arXiv
2412.07446 and CLEANN, arXiv 2310.20307; orientation: Zhang, Artificial Intelligence 172 (2008).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, UInt8Array
from causal_lvlm.errors import BudgetError, StructureError
from causal_lvlm.structure.checks import (
    check_correlation,
    check_order,
    largest_testable_size,
    squared_thresholds,
)
from causal_lvlm.structure.pag import CIRCLE, PAG
from causal_lvlm.structure.result import LearnedStructure

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["learn_structure"]

DEFAULT_ALPHA = 1e-5
# Work per kernel call, small enough to look at the clock between calls: edges, and sets
_CHUNK = 256
_CHUNK_ONE = 8192
_BUDGET = 10_000_000


class CorrelationLike(Protocol):
    """What `learn_structure` reads from an object such as `TokenCorrelation`."""

    @property
    def correlation(self) -> npt.ArrayLike: ...


@dataclass
class _Found:
    """What a kernel writes for each of E edges; see `causal_kernels.order_one`."""

    best: FloatArray
    members: IntArray
    tests: IntArray
    blind: IntArray

    def part(self, part: slice) -> _Found:
        """Return views of some of the edges."""
        return _Found(self.best[part], self.members[part], self.tests[part], self.blind[part])


# (edges, where to write, budget of sets) -> (edges done, candidate sets met)
_Kernel = Callable[[IntArray, _Found, int], tuple[int, int]]


class _Interrupted(Exception):
    """A budget ended inside a size; carries the reason."""


def learn_structure(
    correlation: npt.ArrayLike | CorrelationLike,
    *,
    n_samples: int | None = None,
    alpha: float | None = None,
    threshold: float | None = None,
    algorithm: str = "ordered_icd",
    order: npt.ArrayLike | None = None,
    tiers: npt.ArrayLike | None = None,
    variant: str = "stable",
    max_conditioning_size: int | None = None,
    selection_bias: bool = False,
    time_limit: float | None = None,
    max_tests: int | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> LearnedStructure:
    """Learn a partial ancestral graph from a correlation matrix.

    Parameters
    ----------
    correlation : array_like of shape (N, N), or an object with an attribute ``correlation``
        From such an object ``tiers`` (for ``ordered_icd``), and ``threshold`` or ``n_samples`` are
        taken too, unless given here.
    n_samples : int, optional
        Sample size of Fisher's z-test. Needed unless `threshold` is given.
    alpha : float, default 1e-5
        Significance level. A larger p-value means independent.
    threshold : float, optional
        Instead of alpha and n_samples: the smallest |partial correlation| that counts as
        dependence, the same for all sizes.
    algorithm : {"ordered_icd", "icd"}
    order : array_like of int, shape (N,), optional
        The nodes from the earliest to the latest, for ``ordered_icd``; by default row order. A
        later node is no ancestor of an earlier one.
    tiers : array_like of int, shape (N,), optional
        Tier of each node, not decreasing along the order; nodes of one tier are not ordered among
        each other. By default each node is its own tier.
    variant : {"stable", "sequential"}
    max_conditioning_size : int, optional
        Largest conditioning set; by default as large as the graph and n_samples allow.
    selection_bias : bool, default False
        Not available yet (and never with an order).
    time_limit : float, optional
        Seconds after which the graph learned so far is returned, with ``complete=False``. The
        stable variant then leaves out the size it was working on, so that the result does not
        depend on the order in which edges were looked at.
    max_tests : int, optional
        Number of CI tests after which learning ends in the same way. Both limits are looked at
        between groups of edges, so they may be exceeded somewhat.
    progress : callable, optional
        Called as ``progress(size, edges_done, edges)`` between groups of edges.

    Returns
    -------
    LearnedStructure

    Raises
    ------
    CorrelationError
        If the matrix is no correlation matrix, see `causal_lvlm.structure.checks`.
    SampleSizeError
        If n_samples is too small for the conditioning size.
    StructureError
        If another argument is not valid.
    BudgetError
        If `time_limit` or `max_tests` is not positive.

    Examples
    --------
    Two independent causes of a common effect; row order is causal order:

    >>> r = [[1.0, 0.0, 0.6], [0.0, 1.0, 0.6], [0.6, 0.6, 1.0]]
    >>> structure = learn_structure(r, n_samples=200, alpha=0.01)
    >>> structure.pag.marks.tolist(), structure.sepset(0, 1)
    ([[0, 0, 2], [0, 0, 2], [1, 1, 0]], ())
    """
    matrix, n_samples, threshold, tiers = _unpack(
        correlation, n_samples, alpha, threshold, tiers, algorithm
    )
    if algorithm not in ("ordered_icd", "icd"):
        raise StructureError(f"algorithm {algorithm!r} is unknown; there are 'ordered_icd', 'icd'")
    if variant not in ("stable", "sequential"):
        raise StructureError(f"variant {variant!r} is unknown; there are 'stable', 'sequential'")
    if selection_bias:
        raise StructureError(
            "selection_bias=True is not available: with selection variables an order no longer "
            "forbids tails, and without one rules R5-R7 are needed"
        )
    if algorithm == "icd" and (order is not None or tiers is not None):
        raise StructureError("'icd' takes no order and no tiers; use algorithm='ordered_icd'")
    if threshold is not None and alpha is not None:
        raise StructureError("give either threshold or alpha (with n_samples), not both")
    if threshold is None and n_samples is None:
        raise StructureError("give n_samples (with alpha), or threshold")
    for name, limit in (("time_limit", time_limit), ("max_tests", max_tests)):
        if limit is not None and not limit > 0:
            raise BudgetError(f"{name} must be positive, not {limit}")
    if threshold is None and alpha is None:
        alpha = DEFAULT_ALPHA
    values, tolerance = check_correlation(matrix)
    n = len(values)
    if algorithm == "icd":
        permutation, ranks = np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    else:
        permutation, ranks = check_order(n, order, tiers)
    tested_samples = None if threshold is not None else n_samples
    limit_size = largest_testable_size(n, tested_samples, max_conditioning_size)
    squared = squared_thresholds(limit_size, tested_samples, alpha, threshold)
    learner = _Learner(
        correlation=np.ascontiguousarray(values[np.ix_(permutation, permutation)]),
        tiers=ranks,
        squared=squared,
        tolerance=tolerance,
        stable=variant == "stable",
        deadline=None if time_limit is None else time.monotonic() + time_limit,
        max_tests=max_tests,
        progress=progress,
    )
    stopped = learner.learn()
    if stopped == "size_limit":
        asked = max_conditioning_size is not None and max_conditioning_size <= limit_size
        stopped = "max_conditioning_size" if asked else "n_samples"
    parameters = {
        "algorithm": algorithm,
        "variant": variant,
        "alpha": alpha,
        "n_samples": n_samples,
        "threshold": threshold,
        "max_conditioning_size": max_conditioning_size,
        "selection_bias": selection_bias,
        "time_limit": time_limit,
        "max_tests": max_tests,
        "tolerance": tolerance,
        "order": None if order is None else permutation.tolist(),
        "tiers": None if tiers is None else np.asarray(tiers).tolist(),
    }
    return learner.result(values, permutation, stopped, parameters)


def _unpack(
    source: Any,
    n_samples: int | None,
    alpha: float | None,
    threshold: float | None,
    tiers: npt.ArrayLike | None,
    algorithm: str,
) -> tuple[Any, int | None, float | None, Any]:
    """Read matrix and defaults from an object with an attribute ``correlation``."""
    if not hasattr(source, "correlation"):
        return source, n_samples, threshold, tiers
    if tiers is None and algorithm == "ordered_icd":
        tiers = getattr(source, "tiers", None)
    if threshold is None and alpha is None and n_samples is None:
        threshold = getattr(source, "threshold", None)
    if n_samples is None:
        n_samples = getattr(source, "n_samples", None)
    return source.correlation, n_samples, threshold, tiers


@dataclass
class _Learner:
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
            except _Interrupted as reason:
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
            raise _Interrupted("time_limit")
        if self.max_tests is not None and sum(self.tests) >= self.max_tests:
            raise _Interrupted("max_tests")

    def _one_size(self, size: int, edges: IntArray) -> tuple[int, bool]:
        """Test all edges with sets of one size; return (number of candidate sets, any deleted)."""
        import causal_kernels as kernels

        self._check_budget()
        self.tests.append(0)
        count = len(edges)
        found = _Found(
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
        candidates, first, budget = 0, 0, _BUDGET
        while first < count:
            part = slice(first, first + (_CHUNK_ONE if size == 1 else _CHUNK))
            done, met = run(edges[part], found.part(part), budget)
            # an edge with more sets than the budget is begun again with a larger one
            budget = _BUDGET if done else 2 * budget
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
    ) -> _Kernel:
        """Return the call that finds the best separating set of each of some of the edges."""
        import causal_kernels as kernels

        if size == 1:
            left = 1.0 - self.correlation * self.correlation
            np.maximum(left, self.tolerance, out=left)
            inverse = np.where(left > self.tolerance, 1.0 / left, -1.0)

            def one(edges: IntArray, found: _Found, budget: int) -> tuple[int, int]:
                met = kernels.order_one(
                    self.correlation, inverse, self.marks, *lists, self.tiers, edges,
                    found.best, found.members[:, 0], found.tests, found.blind,
                )  # fmt: skip
                return len(edges), met

            return one
        ancestor = kernels.possible_ancestor_matrix(self.marks, *lists)
        needed = kernels.needed_roots(self.tiers, all_edges, ancestor, size)
        distance = kernels.pds_distance_matrix(self.marks, *lists, self.tiers, size, needed)

        def more(edges: IntArray, found: _Found, budget: int) -> tuple[int, int]:
            done, met = kernels.order_r(
                self.correlation, self.marks, self.tiers, edges, distance, ancestor, size,
                self.tolerance, budget, found.best, found.members, found.tests, found.blind,
            )  # fmt: skip
            return done, met

        return more

    def _sequential_kernel(self, size: int, lists: tuple[IntArray, IntArray]) -> _Kernel:
        """Return the call that separates and deletes some edges one after the other."""
        import causal_kernels as kernels

        squared = float(self.squared[size])
        if size == 1:

            def one(edges: IntArray, found: _Found, budget: int) -> tuple[int, int]:
                met = kernels.order_one_sequential(
                    self.correlation, self.marks, self.tiers, edges, squared, self.tolerance,
                    found.best, found.members[:, 0], found.tests, found.blind,
                )  # fmt: skip
                return len(edges), met

            return one
        snapshot = self.marks.copy()
        tier = -1

        def more(edges: IntArray, found: _Found, budget: int) -> tuple[int, int]:
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
