"""Separating sets of one conditioning size, order-independent (stable): orders 1 and r >= 2.

Everything is read from a graph that does not change while the size is being worked on; a kernel
only reports, for each edge, the separating set with the smallest |partial correlation| (the
largest p-value, since all sets have one size). The caller deletes edges afterwards.

Order 1. The partial correlation given one node c is (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2)
(1 - r_bc^2)); squared and compared with a squared threshold it needs no root and, with 1 / (1 -
r^2) at hand for all pairs, no division. Where neighbours are many, all nodes are worked on as whole
rows (which the compiler turns into vector instructions), with infinity added for the others.

Order r. For an edge (a, b) and a root x in {a, b}:

1. The pool holds the nodes within PDS-distance r of x that are possible ancestors of a or b
   (ICD-Sep condition 3), sorted by (distance, node).
2. Walk over the r-subsets of the pool depth first. Each member that is added is eliminated from
   the covariances of the pool with itself, with a and with b, so that the last level costs a few
   operations per set (elimination is shared by all sets with the same beginning).
3. A set counts if each member is reached from x by a PDS-path inside the set (ICD-Sep condition
   2). Sets that are entirely adjacent to x are, without a search.

Roots (Rohekar et al. 2021, arXiv 2111.04095; ordered: arXiv 2412.07446): both end nodes for an
edge within a tier, the later node for an edge across tiers. The later node is no ancestor of the
earlier one, and then a separating set, if there is one, is found around the later node. Members
come from tiers up to that of the later node.

Near-singular: see `causal_kernels.partial`. An undecidable test separates nothing and is flagged.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from causal_kernels.graph import NONE
from causal_kernels.pds import is_pds_set

__all__ = ["needed_roots", "order_one", "order_r"]


@njit(cache=True, nogil=True)
def _all_values(
    r_ab, row_a, row_b, weight_a, weight_b, outside_b, outside_other, stop, values
):  # fmt: skip
    """Fill ``values[:stop]`` with squared partial correlations; return how many are choices."""
    count = 0
    for c in range(stop):
        rest = r_ab - row_a[c] * row_b[c]
        added = min(outside_b[c], outside_other[c])
        values[c] = rest * rest * weight_a[c] * weight_b[c] + added
        count += 1 if added == 0.0 else 0
    return count


@njit(cache=True, nogil=True)
def _smallest(values, stop):
    """Return the smallest of ``values[:stop]``; four running minima, which do not wait in turn."""
    low_0 = low_1 = low_2 = low_3 = np.inf
    last = stop - stop % 4
    for c in range(0, last, 4):
        low_0 = values[c] if values[c] < low_0 else low_0
        low_1 = values[c + 1] if values[c + 1] < low_1 else low_1
        low_2 = values[c + 2] if values[c + 2] < low_2 else low_2
        low_3 = values[c + 3] if values[c + 3] < low_3 else low_3
    for c in range(last, stop):
        low_0 = values[c] if values[c] < low_0 else low_0
    return min(min(low_0, low_1), min(low_2, low_3))


@njit(cache=True, nogil=True)
def order_one(
    correlation, inverse, marks, start, neighbour, tiers, edges, best, member, tests, undecided
):  # fmt: skip
    """Find the best single separating node of each edge (a, b), a < b.

    ``inverse`` float64 (N, N): 1 / (1 - r^2), or -1 where 1 - r^2 is within the tolerance of zero.
    ``edges`` int64 (E, 2). Filled: ``best`` float64 (E,) smallest squared partial correlation met
    (inf: no test), ``member`` int64 (E,) the node that gave it, ``tests`` int64 (E,),
    ``undecided`` int64 (E,) number of tests without an answer. Returns the number of candidates.
    """
    n = correlation.shape[0]
    outside = np.where(marks == NONE, np.inf, 0.0)  # added to the value of nodes that are no choice
    values = np.empty(n, np.float64)
    singular = np.zeros(n, np.uint8)
    for i in range(n):
        for j in range(n):
            if i != j and inverse[i, j] < 0.0:
                singular[i] = 1
    reach = np.empty(n, np.int64)  # nodes in tiers up to that of each node
    for i in range(n):
        reach[i] = np.searchsorted(tiers, tiers[i], side="right")
    candidates = 0
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        r_ab = correlation[a, b]
        lowest = np.inf
        where = -1
        count = 0
        blind = 0
        degree = start[b + 1] - start[b]
        dense = singular[a] == 0 and singular[b] == 0 and 4 * degree > reach[b]
        if dense:
            # a and b are adjacent to each other, but no choice
            outside[a, b] = np.inf
            outside[b, a] = np.inf
            other = outside[a] if tiers[a] == tiers[b] else outside[b]
            count = _all_values(
                r_ab, correlation[a], correlation[b], inverse[a], inverse[b], outside[b], other,
                reach[b], values,
            )  # fmt: skip
            outside[a, b] = 0.0
            outside[b, a] = 0.0
            lowest = _smallest(values, reach[b])
            for c in range(reach[b]):
                if values[c] == lowest:
                    where = c
                    break
        for side in range(0 if dense else 2):
            if side == 0:
                x = b
                other = a
            else:
                if tiers[a] != tiers[b]:
                    break
                x = a
                other = b
            for k in range(start[x], start[x + 1]):
                c = neighbour[k]
                if c == other or tiers[c] > tiers[b]:
                    continue
                if side == 1 and marks[b, c] != NONE:
                    continue  # tried from the other end
                weight_a = inverse[a, c]
                weight_b = inverse[b, c]
                if weight_a < 0.0 or weight_b < 0.0:
                    blind += 1
                    continue
                count += 1
                rest = r_ab - correlation[a, c] * correlation[b, c]
                value = rest * rest * weight_a * weight_b
                if value < lowest or (value == lowest and c < where):
                    lowest = value
                    where = c
        candidates += count + blind
        best[e] = lowest
        member[e] = where
        tests[e] = count
        undecided[e] = blind
    return candidates


@njit(cache=True, nogil=True)
def needed_roots(tiers, edges, ancestor, r):
    """Return uint8 (N,): 1 for nodes around which a set of size r may lie, by condition 3 alone.

    Most edges of attention graphs have fewer than r possible ancestors, and PDS-distances cost
    more than testing does.
    """
    n = ancestor.shape[0]
    needed = np.zeros(n, np.uint8)
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        both = tiers[a] == tiers[b]
        if needed[b] == 1 and (not both or needed[a] == 1):
            continue
        count = 0
        for z in range(n):
            if z != a and z != b and (ancestor[a, z] == 1 or ancestor[b, z] == 1):
                count += 1
        if count >= r:
            needed[b] = 1
            if both:
                needed[a] = 1
    return needed


@njit(cache=True, nogil=True)
def is_in_pool(distance, root, members, size):
    """Tell whether all members have a PDS-distance (1..size) from the root."""
    for i in range(size):
        d = distance[root, members[i]]
        if d == 0 or d > size:
            return False
    return True


@njit(cache=True, nogil=True)
def order_r(
    correlation, marks, tiers, edges, distance, ancestor, r, tolerance, budget,
    best, members, tests, undecided,
):  # fmt: skip
    """Find the best separating set of size r (>= 2) of each edge (a, b), a < b.

    ``distance`` int16 (N, N) from `pds_distance_matrix` with depth r; ``ancestor`` uint8 (N, N)
    from `possible_ancestor_matrix`. Filled as in `order_one`, but ``members`` int64 (E, r).
    Returns (number of edges done, number of candidate sets; undecided ones that share a singular
    beginning count once). Fewer edges than given are done when more than ``budget`` sets have been
    looked at; an edge is done as a whole or not at all.
    """
    n = correlation.shape[0]
    pool = np.empty(n, np.int64)
    pool_near = np.empty(n, np.uint8)
    # Level l: covariances given the first l members of the current set.
    with_a = np.empty((r, n), np.float64)
    with_b = np.empty((r, n), np.float64)
    variance = np.empty((r, n), np.float64)
    column = np.empty((r, n), np.float64)
    cov_ab = np.empty(r, np.float64)
    var_a = np.empty(r, np.float64)
    var_b = np.empty(r, np.float64)
    pivots = np.empty(r, np.float64)
    index = np.empty(r + 1, np.int64)
    current = np.empty(r, np.int64)
    far = np.zeros(r + 1, np.int64)
    pair_seen = np.empty((r + 1, r), np.uint8)
    queue = np.empty((r * (r + 1), 2), np.int64)
    reached = np.empty(r, np.uint8)
    candidates = 0
    work = 0
    for e in range(edges.shape[0]):
        a = edges[e, 0]
        b = edges[e, 1]
        best[e] = np.inf
        lowest = np.inf
        before = candidates
        count = 0
        blind = 0
        for side in range(2):
            if side == 0:
                root = b
            else:
                if tiers[a] != tiers[b]:
                    break
                root = a
            # 1. the pool: near nodes (adjacent to the root) first
            size = 0
            near = 0
            for step in range(2):
                for z in range(n):
                    d = distance[root, z]
                    if d == 0 or d > r or (d == 1) != (step == 0) or z == a or z == b:
                        continue
                    if ancestor[a, z] == 0 and ancestor[b, z] == 0:
                        continue
                    pool[size] = z
                    pool_near[size] = 1 if d == 1 else 0
                    size += 1
                if step == 0:
                    near = size
            if size < r or near == 0:
                continue
            for k in range(size):
                z = pool[k]
                with_a[0, k] = correlation[a, z]
                with_b[0, k] = correlation[b, z]
                variance[0, k] = correlation[z, z]
            cov_ab[0] = correlation[a, b]
            var_a[0] = correlation[a, a]
            var_b[0] = correlation[b, b]
            # 2. subsets, depth first; `level` members are fixed, index[level] is the next to try
            level = 0
            index[0] = 0
            far[0] = 0
            while level >= 0:
                if level < r - 1:
                    k = index[level]
                    stop = near if level == 0 else size - (r - 1 - level)
                    if k >= stop or k > size - (r - level):
                        level -= 1
                        if level >= 0:
                            index[level] += 1
                        continue
                    pivot = variance[level, k]
                    if not pivot > tolerance:
                        blind += 1  # this member is a combination of the ones before it
                        candidates += 1
                        index[level] += 1
                        continue
                    current[level] = pool[k]
                    pivots[level] = pivot
                    p = pool[k]
                    for j in range(k + 1, size):
                        value = correlation[p, pool[j]]
                        for i in range(level):
                            value -= column[i, k] / pivots[i] * column[i, j]
                        column[level, j] = value
                    share_a = with_a[level, k] / pivot
                    share_b = with_b[level, k] / pivot
                    for j in range(k + 1, size):
                        value = column[level, j]
                        with_a[level + 1, j] = with_a[level, j] - share_a * value
                        with_b[level + 1, j] = with_b[level, j] - share_b * value
                        variance[level + 1, j] = variance[level, j] - value * value / pivot
                    cov_ab[level + 1] = cov_ab[level] - share_a * with_b[level, k]
                    var_a[level + 1] = var_a[level] - share_a * with_a[level, k]
                    var_b[level + 1] = var_b[level] - share_b * with_b[level, k]
                    far[level + 1] = far[level] + (0 if pool_near[k] == 1 else 1)
                    index[level + 1] = k + 1
                    level += 1
                    continue
                # 3. the last member
                work += 1 + size - index[level]
                if work > budget:
                    return e, before
                for k in range(index[level], size):
                    current[level] = pool[k]
                    if (far[level] > 0 or pool_near[k] == 0) and not is_pds_set(
                        marks, root, current, r, pair_seen, queue, reached
                    ):
                        continue
                    if (
                        side == 1
                        and is_in_pool(distance, b, current, r)
                        and is_pds_set(marks, b, current, r, pair_seen, queue, reached)
                    ):
                        continue  # tried from the other end
                    candidates += 1
                    pivot = variance[level, k]
                    if not pivot > tolerance:
                        blind += 1
                        continue
                    left_a = var_a[level] - with_a[level, k] * with_a[level, k] / pivot
                    left_b = var_b[level] - with_b[level, k] * with_b[level, k] / pivot
                    if not (left_a > tolerance and left_b > tolerance):
                        blind += 1
                        continue
                    count += 1
                    rest = cov_ab[level] - with_a[level, k] * with_b[level, k] / pivot
                    value = rest * rest / (left_a * left_b)
                    if value < lowest:
                        lowest = value
                        for i in range(r):
                            members[e, i] = current[i]
                level -= 1
                if level >= 0:
                    index[level] += 1
        best[e] = lowest
        tests[e] = count
        undecided[e] = blind
    return edges.shape[0], candidates
