"""Separating sets of PC and FCI, deleting edges as soon as they are separated (sequential variant).

The stable variant uses `causal_kernels.separation.order_r`; here is the published, order-dependent
procedure:

1. Edges (a, b), a < b, come by (tier of b, a, b). The roots are a, then b, for an edge within a
   tier, and b alone for an edge across tiers.
2. The pool of a root holds the nodes that ``allowed`` gives it: for PC those that are still
   adjacent, for FCI's second stage a possible-d-sep set that stays as it was.
3. Subsets of size r come in lexicographic order; the first that separates is stored and the edge
   is deleted at once.

`sure_colliders` gives the arrowheads that possible-d-sep sets are read from.

References: Spirtes, Glymour, Scheines, Causation, Prediction, and Search, sections 5.4.2 (PC) and
6.7 (FCI).
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, NONE, TAIL
from causal_kernels.orientation import initial_marks
from causal_kernels.partial import OK, partial_correlation

__all__ = ["order_r_pool_sequential", "orient_colliders", "sure_colliders"]


@kernel
def order_r_pool_sequential(
    correlation, marks, tiers, edges, allowed, by_edge, r, squared_threshold, tolerance, budget,
    best, members, tests, undecided,
):  # fmt: skip
    """Test edges with subsets of pools and delete in ``marks``; see the module.

    ``allowed`` int16: either (N, N), row x saying which nodes the pool of x may hold if they are
    still adjacent to x (PC); or, with ``by_edge``, (2 E, N) from `pds.pds_pools`. The other
    arguments are those of `sequential.order_r_sequential`. Returns (number of edges done, number of
    candidate sets).
    """
    n = correlation.shape[0]
    pool = np.empty(n, np.int64)
    index = np.empty(r, np.int64)
    current = np.empty(r, np.int64)
    work = np.empty((r + 2, r + 3), np.float64)
    candidates = 0
    looked_at = 0
    for e in range(edges.shape[0]):
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
        best[e] = np.inf
        tests[e] = 0
        undecided[e] = 0
        before = candidates
        within = tiers[a] == tiers[b]
        separated = False
        for side in range(2):
            if separated or (side == 0 and not within):
                continue
            root = a if side == 0 else b
            row = 2 * e + 1 - side if by_edge else root
            size = 0
            for z in range(n):
                if z == a or z == b or allowed[row, z] == 0:
                    continue
                if not by_edge and marks[root, z] == NONE:
                    continue
                pool[size] = z
                size += 1
            level = 0
            index[0] = -1
            while level >= 0 and not separated:
                index[level] += 1
                k = index[level]
                if k > size - (r - level):
                    level -= 1
                    continue
                current[level] = pool[k]
                if level < r - 1:
                    level += 1
                    index[level] = k
                    continue
                looked_at += 1
                if looked_at > budget:
                    return e, before
                if side == 1 and within:
                    again = True
                    for i in range(r):
                        z = current[i]
                        absent = allowed[2 * e + 1 if by_edge else a, z] == 0
                        if absent or (not by_edge and marks[a, z] == NONE):
                            again = False
                            break
                    if again:
                        continue  # tried from the other end
                candidates += 1
                status, value = partial_correlation(correlation, a, b, current, r, tolerance, work)
                if status != OK:
                    undecided[e] += 1
                    continue
                tests[e] += 1
                if value * value <= squared_threshold:
                    separated = True
                    for i in range(r):
                        members[e, i] = current[i]
                    best[e] = value * value
                elif value * value < best[e]:
                    best[e] = value * value
        if separated:
            marks[a, b] = NONE
            marks[b, a] = NONE
    return edges.shape[0], candidates


@kernel
def sure_colliders(
    correlation, marks, start, neighbour, sepset_start, sepset_size, sepset_members, squared,
    tolerance, first, last, arrow, tests,
):  # fmt: skip
    """Find arrowheads that hold although edges may be superfluous, at nodes first..last - 1.

    R0 for an unshielded A *-* B *-* C, B not in sepset(A, C), claims that B is no ancestor of A or
    C. While the graph still has edges of pairs that only a larger set separates, that follows if
    also A, B and B, C are dependent given sepset(A, C) (Colombo, Maathuis, Kalisch, Richardson,
    Annals of Statistics 40 (2012), lemma 3.1). These tests are made here: ``squared`` are the
    thresholds by size, ``tests`` int64 counts the tests by size. ``arrow`` uint8 (2E,) becomes 1
    for an arrowhead at B on the edge to a neighbour, by the place of the pair in the lists.
    """
    most = len(squared)
    given = np.empty(most, np.int64)
    work = np.empty((most + 2, most + 3), np.float64)
    for b in range(first, last):
        for k in range(start[b], start[b + 1]):
            a = neighbour[k]
            for m in range(k + 1, start[b + 1]):
                c = neighbour[m]
                if marks[a, c] != NONE:
                    continue
                low, high = min(a, c), max(a, c)
                size = sepset_size[low, high]
                inside = False
                for i in range(size):
                    given[i] = sepset_members[sepset_start[low, high] + i]
                    inside = inside or given[i] == b
                if inside:
                    continue
                dependent = True
                for end in (a, c):
                    status, value = partial_correlation(
                        correlation, end, b, given, size, tolerance, work
                    )
                    if status == OK:
                        tests[size] += 1
                    dependent = dependent and status == OK and value * value > squared[size]
                if dependent:
                    arrow[k] = 1
                    arrow[m] = 1


@kernel
def orient_colliders(marks, tiers, known, start, neighbour, arrow):
    """Reset all marks and put on the arrowheads that `sure_colliders` found, in place.

    Tails that are ``known`` (see `initial_marks`) stay.
    """
    initial_marks(marks, tiers, known)
    for b in range(marks.shape[0]):
        for k in range(start[b], start[b + 1]):
            if arrow[k] == 1 and marks[neighbour[k], b] != TAIL:
                marks[neighbour[k], b] = ARROW
