"""The order of the steps of each algorithm, on a `Learner`.

``icd`` (and ``ordered_icd``, which is the same with tiers): sizes 1, 2, 3, ...; before each size
from 2 on the graph is oriented (R0-R4), since a conditioning set of ICD is a set of nodes on
PDS-paths that are possible ancestors of an end. Ends when a size has no set for any edge.

``pc``: sizes 1, 2, 3, ... with subsets of the neighbours of an end; then v-structures and Meek's
rules. Ends when no node has enough neighbours.

``fci``: the edges that PC leaves; arrowheads of unshielded colliders; then for each edge subsets of
size 1, 2, 3, ... of the possible-d-sep set of an end; then all orientation rules. Two things keep
that stage from exploding without a loss: every node on the PDS-path must be a possible ancestor of
an end (as in a D-SEP set every one is), where only arrowheads count that hold while edges may still
be superfluous (`causal_kernels.adjacent.sure_colliders`; its tests count
in ``n_tests``, but not as evidence for an edge); and sets inside the neighbours, which
PC has tried, are not tried again.

Where nodes are in tiers, an edge across tiers has its sets around the later end alone and from
tiers up to that one: the later end is no ancestor of the earlier, so one of the sets that separate
the two, if there is any, lies there (Spirtes, Glymour, Scheines, Causation, Prediction, and Search,
section 6.7, D-SEP sets).

References: Rohekar, Nisimov, Gurwicz, Novik, NeurIPS 2021 (arXiv 2111.04095); ordered ICD: arXiv
2412.07446; PC-stable: Colombo, Maathuis, JMLR 15 (2014); FCI: Zhang, Artificial Intelligence 172
(2008); stopped at a size (`max_conditioning_size`) it is Spirtes' anytime FCI (AISTATS 2001).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np

from causal_lvlm.arrays import BoolArray, Int16Array, Int32Array, IntArray, UInt8Array
from causal_lvlm.structure.chunks import Found, Interrupted, Kernel
from causal_lvlm.structure.finishing import finish_cpdag, finish_pag
from causal_lvlm.structure.learner import Learner

__all__ = ["ALGORITHMS", "despite_ctrl_c", "run"]

T = TypeVar("T")

ALGORITHMS = ("ordered_icd", "icd", "fci", "pc")
# Which nodes may be in the conditioning sets of some edges: 0 no, 1 adjacent to the root, 2 not
Pools: TypeAlias = Callable[[Int32Array], Int16Array]
_POOLS = 16  # edges whose possible-d-sep sets are made at a time: on dense graphs they are slow
_NO_ANCESTORS = np.zeros((0, 0), dtype=np.uint8)


def run(learner: Learner, algorithm: str) -> str:
    """Learn a graph; return why learning ended.

    Parameters
    ----------
    learner : Learner
        Nothing done yet.
    algorithm : str
        One of `ALGORITHMS`.

    Returns
    -------
    str
        ``"no_more_sets"``, ``"size_limit"``, or the reason of an interruption.
    """
    learner.separate_unconditionally()
    try:
        if algorithm == "pc":
            stopped = _pc(learner)
        elif algorithm == "fci":
            stopped = _fci(learner)
        else:
            stopped = _icd(learner)
    except Interrupted as reason:
        stopped = str(reason)
        if learner.unfinished_size is None:  # between two sizes
            learner.unfinished_size, learner.edges_left = learner.next_size, len(learner.edges())
    except KeyboardInterrupt:
        # Somebody who waits no longer still gets what was learned so far, for all matrices.
        learner.limits.cancel.set()
        learner.after_ctrl_c()
        stopped = "interrupted"
    finish = finish_cpdag if algorithm == "pc" else finish_pag
    despite_ctrl_c(lambda: finish(learner))
    return stopped


def despite_ctrl_c(step: Callable[[], T]) -> T:
    """Do a step that may be repeated, and once more if it was interrupted; what is learned is."""
    try:
        return step()
    except KeyboardInterrupt:
        return step()


def _icd(learner: Learner) -> str:
    import causal_kernels as kernels

    oriented = False
    for size in range(1, len(learner.marks) - 1):
        edges = learner.edges()
        if not len(edges):
            break
        if size >= 2 and not oriented:
            learner.orient()
            oriented = True
        lists = kernels.neighbour_lists(learner.marks)
        if size == 1:
            if learner.limit < 1:
                more = np.diff(lists[0]) > 1  # a neighbour besides the other end
                return "size_limit" if more[edges.ravel()].any() else "no_more_sets"
            kernel = learner.one(lists)
        else:
            ancestor = kernels.possible_ancestor_matrix(learner.marks, *lists)
            needed = kernels.needed_roots(learner.tiers, edges, ancestor, size)
            if size > learner.limit:
                return "size_limit" if needed.any() else "no_more_sets"
            if not needed.any():
                learner.tests.append(0)
                break
            kernel = (
                _icd_stable(learner, size, lists, ancestor, needed)
                if learner.stable
                else _icd_sequential(learner, size, lists)
            )
        candidates, deleted = learner.test_size(size, edges, kernel)
        oriented = oriented and not deleted
        if candidates == 0:
            break
    return "no_more_sets"


def _icd_stable(
    learner: Learner,
    size: int,
    lists: tuple[IntArray, IntArray],
    ancestor: UInt8Array,
    needed: UInt8Array,
) -> Kernel:
    import causal_kernels as kernels

    distance = kernels.pds_distance_matrix(learner.marks, *lists, learner.tiers, size, needed)

    def kernel(edges: Int32Array, found: Found, budget: int) -> tuple[int, int]:
        done, met = kernels.order_r(
            learner.correlation, learner.marks, learner.tiers, edges, distance, ancestor,
            kernels.ICD_SEP, size, float(learner.squared[size]), learner.tolerance, budget,
            found.best, found.members, found.tests, found.blind,
        )  # fmt: skip
        return done, met

    return kernel


def _icd_sequential(learner: Learner, size: int, lists: tuple[IntArray, IntArray]) -> Kernel:
    import causal_kernels as kernels

    squared = float(learner.squared[size])
    snapshot = learner.marks.copy()
    tier = -1

    def kernel(edges: Int32Array, found: Found, budget: int) -> tuple[int, int]:
        nonlocal tier
        done, met, tier = kernels.order_r_sequential(
            learner.correlation, learner.marks, snapshot, *lists, learner.tiers, edges, tier, size,
            squared, learner.tolerance, budget,
            found.best, found.members, found.tests, found.blind,
        )  # fmt: skip
        return done, met

    return kernel


def _pc(learner: Learner) -> str:
    import causal_kernels as kernels

    for size in range(1, len(learner.marks) - 1):
        edges = learner.edges()
        allowed = _up_to_own_tier(learner)
        degree = allowed.sum(axis=1, dtype=np.int64)
        # an edge of a node counts in its degree, and is no member of a set for that edge
        enough = degree - 1 >= size
        a, b = edges[:, 0], edges[:, 1]
        within = learner.tiers[a] == learner.tiers[b]
        if not (enough[b] | (enough[a] & within)).any():
            break
        if size > learner.limit:
            return "size_limit"
        if size == 1 and learner.stable:
            kernel = learner.one(kernels.neighbour_lists(learner.marks))
        else:
            kernel = _pool_kernel(learner, size, _always(allowed), beyond=False)
        learner.test_size(size, edges, kernel)
    return "no_more_sets"


def _fci(learner: Learner) -> str:
    import causal_kernels as kernels

    stopped = _pc(learner)
    learner.next_size = 1
    learner.orient_colliders()
    frozen = learner.marks.copy()
    lists = kernels.neighbour_lists(frozen)
    ancestor = kernels.possible_ancestor_matrix(frozen, *lists)

    def pools(edges: Int32Array) -> Int16Array:
        found: Int16Array = kernels.pds_pools(
            frozen, *lists, learner.tiers, ancestor, learner.marks, edges
        )
        return found

    for size in range(1, len(frozen) - 1):
        edges = learner.edges()
        learner.next_size = size
        edges = edges[_large_enough(learner, pools, edges, size)]
        if not len(edges):
            break
        if size > learner.limit:
            return "size_limit"
        learner.test_size(size, edges, _pool_kernel(learner, size, pools, beyond=True))
    return stopped


def _large_enough(learner: Learner, pools: Pools, edges: Int32Array, size: int) -> BoolArray:
    """Tell for each edge whether a pool has ``size`` nodes, not all adjacent to the root.

    Beyond the largest size allowed it is enough to know that there is one.
    """
    enough = np.zeros(len(edges), dtype=bool)
    for first in range(0, len(edges), _POOLS):
        learner.limits.check()
        part = pools(edges[first : first + _POOLS])
        useful = (np.count_nonzero(part, axis=1) >= size) & (part == 2).any(axis=1)
        enough[first : first + _POOLS] = useful.reshape(-1, 2).any(axis=1)
        if size > learner.limit and enough.any():
            break
    return enough


def _up_to_own_tier(learner: Learner) -> Int16Array:
    """Return int16 (N, N): 1 for neighbours in tiers up to that of the row's node."""
    allowed = (learner.marks > 0) & (learner.tiers[None, :] <= learner.tiers[:, None])
    return allowed.astype(np.int16)


def _always(pools: Int16Array) -> Pools:
    """Return pools that do not depend on the edges: row x is the pool of node x."""
    return lambda edges: pools


def _pool_kernel(learner: Learner, size: int, pools: Pools, *, beyond: bool) -> Kernel:
    """Return the call that tests subsets of neighbours, or of possible-d-sep sets."""
    import causal_kernels as kernels

    kind = kernels.BEYOND if beyond else kernels.NEIGHBOURS

    def stable(edges: Int32Array, found: Found, budget: int) -> tuple[int, int]:
        edges = edges[:_POOLS] if beyond else edges
        done, met = kernels.order_r(
            learner.correlation, learner.marks, learner.tiers, edges, pools(edges), _NO_ANCESTORS,
            kind, size, float(learner.squared[size]), learner.tolerance, budget,
            found.best, found.members, found.tests, found.blind,
        )  # fmt: skip
        return done, met

    def sequential(edges: Int32Array, found: Found, budget: int) -> tuple[int, int]:
        edges = edges[:_POOLS] if beyond else edges
        done, met = kernels.order_r_pool_sequential(
            learner.correlation, learner.marks, learner.tiers, edges, pools(edges), beyond, size,
            float(learner.squared[size]), learner.tolerance, budget,
            found.best, found.members, found.tests, found.blind,
        )  # fmt: skip
        return done, met

    return stable if learner.stable else sequential
