"""Separating sets of one conditioning size, order-independent (stable).

Everything is read from a graph that does not change while the size is being worked on; a kernel
only reports, for each edge, the separating set with the smallest |partial correlation| (the
largest p-value, since all sets have one size). The caller deletes edges afterwards. Of sets that
tie (`causal_kernels.partial`) the lexicographically first is reported, members in ascending order:
two looks at the values, one for the smallest and one for what ties with it.

Size 1 has a kernel of its own, `causal_kernels.single`. For an edge (a, b) and a root x in {a, b}:

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

PC and FCI use the same walk with other pools: the neighbours of the root, or its possible-d-sep
set, without conditions on paths and ancestors.

Near-singular: see `causal_kernels.partial`. An undecidable test separates nothing and is flagged.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.partial import NOISE, OK, partial_correlation, tie_bound
from causal_kernels.pds import is_pds_set
from causal_kernels.subsets import all_adjacent, is_in_pool, keep_reached, note_set

__all__ = ["BEYOND", "ICD_SEP", "NEIGHBOURS", "order_r"]

# Which sets `order_r` looks at
NEIGHBOURS = 0
ICD_SEP = 1
BEYOND = 2


@kernel
def order_r(
    correlation, marks, tiers, edges, distance, ancestor, kind, r, squared_threshold, tolerance,
    budget, best, members, tests, undecided,
):  # fmt: skip
    """Find the best separating set of size r of each edge (a, b), a < b.

    ``kind`` says which sets count. ``ICD_SEP`` (r >= 2): ``distance`` int16 (N, N) comes from
    `pds_distance_matrix` with depth r, ``ancestor`` uint8 (N, N) from `possible_ancestor_matrix`.
    ``NEIGHBOURS``: any subset of the nodes with ``distance[root] == 1``. ``BEYOND`` (FCI's
    possible-d-sep stage): ``distance`` has two rows for each edge, for the roots b and a, from
    `pds.pds_pools`; any subset of its nodes that has one of distance 2, which is not adjacent to
    the root, the others having been tried before. The last two have no ancestor condition
    (``ancestor`` of shape (0, 0)).
    Filled as in `order_one`, but ``members`` int32 (E, r), and ties are looked for only where the
    best is at or below ``squared_threshold``, so that the set matters. Returns (number of edges
    done, number of candidate sets; undecided ones that share a singular beginning count once).
    Fewer edges than given are done when more than ``budget`` sets have been looked at; an edge is
    done as a whole or not at all.
    """
    n = correlation.shape[0]
    walks = kind == ICD_SEP
    beyond = kind == BEYOND
    farthest = r if walks else 2
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
    volume = np.empty(r + 1, np.float64)  # product of the pivots
    volume[0] = 1.0
    # below this a remaining variance may be noise although no single pivot is small: since no
    # eigenvalue is below volume / e (mean of the others at most 1), s^2 <= (r + 2) e v / volume
    doubtful = 2.7182818284590455 * (r + 2) * NOISE
    block = np.empty((r + 2, r + 3), np.float64)
    index = np.empty(r + 1, np.int64)
    current = np.empty(r, np.int64)
    far = np.empty(r + 1, np.int64)
    pair_seen = np.empty((r + 1, r), np.uint8)
    queue = np.empty((r * (r + 1), 2), np.int64)
    reached = np.empty(r, np.uint8)
    ordered = np.empty(r, np.int64)
    pool_seen = np.empty((n + 1 if walks else 0, n), np.uint8)
    pool_queue = np.empty((n * 4 if walks else 0, 2), np.int64)
    pool_reached = np.empty(n, np.uint8)
    candidates = 0
    work = 0
    for e in range(edges.shape[0]):
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
        best[e] = np.inf
        lowest = np.inf
        before = candidates
        count = 0
        blind = 0
        within = tiers[a] == tiers[b]
        # a second walk, if sets tie, takes the lowest of those that do
        bound = np.inf
        tied = False
        for walk in range(2):
            if walk == 1:
                if not tied or lowest > squared_threshold:
                    break
                met = (candidates, count, blind)
            for side in range(2):
                if side == 0:
                    root = b
                else:
                    if tiers[a] != tiers[b]:
                        break
                    root = a
                row = 2 * e + side if beyond else root
                row_b = 2 * e if beyond else b
                # 1. the pool: near nodes (adjacent to the root) first
                size = np.int64(0)
                near = size
                for step in range(2):
                    for z in range(n):
                        d = distance[row, z]
                        if d == 0 or d > farthest or (d == 1) != (step == 0) or z == a or z == b:
                            continue
                        if walks and ancestor[a, z] == 0 and ancestor[b, z] == 0:
                            continue
                        pool[size] = z
                        pool_near[size] = 1 if d == 1 else 0
                        size += 1
                    if step == 0:
                        near = size
                if walks and size >= r and 0 < near < size:
                    # a member of a PDS-set is reached inside the set, so inside the pool
                    kept = keep_reached(
                        marks, root, pool, size, near, pool_seen, pool_queue, pool_reached
                    )
                    size = kept
                if size < r or (near == 0 and walks) or (near == size and beyond):
                    continue
                for k in range(size):
                    z = pool[k]
                    with_a[0, k] = correlation[a, z]
                    with_b[0, k] = correlation[b, z]
                    variance[0, k] = correlation[z, z]
                cov_ab[0] = correlation[a, b]
                var_a[0] = correlation[a, a]
                var_b[0] = correlation[b, b]
                # 2. subsets, depth first; `level` members are fixed, index[level] is next
                level = 0
                index[0] = 0
                far[0] = 0
                while level >= 0:
                    if level < r - 1:
                        k = index[level]
                        stop = near if level == 0 and walks else size - (r - 1 - level)
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
                        volume[level + 1] = volume[level] * pivot
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
                    # 3. the last member; near ones come first, so a set with a far one ends in it
                    first = max(index[level], near) if beyond else index[level]
                    work += 1 + size - first if walk == 0 else 0
                    if work > budget:
                        return e, before
                    for k in range(first, size):
                        current[level] = pool[k]
                        if (
                            walks
                            and (far[level] > 0 or pool_near[k] == 0)
                            and not is_pds_set(marks, root, current, r, pair_seen, queue, reached)
                        ):
                            continue
                        if beyond and within and all_adjacent(marks, a + b - root, current, r):
                            continue  # a subset of the other end's neighbours: tried before
                        if (
                            side == 1
                            and is_in_pool(distance, row_b, current, r, farthest)
                            and (
                                not walks
                                or is_pds_set(marks, b, current, r, pair_seen, queue, reached)
                            )
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
                        if volume[level] * pivot * min(left_a, left_b) <= doubtful:
                            status, value = partial_correlation(
                                correlation, a, b, current, r, tolerance, block
                            )
                            if status != OK:
                                blind += 1
                                continue
                        count += 1
                        rest = cov_ab[level] - with_a[level, k] * with_b[level, k] / pivot
                        value = rest * rest / (left_a * left_b)
                        if value > bound:
                            continue
                        if walk == 0:
                            if value >= lowest:
                                tied = True
                                continue
                            bound = tie_bound(value)
                            tied = lowest <= bound
                            lowest = value
                        note_set(current, r, ordered, members[e], walk == 0)
                    level -= 1
                    if level >= 0:
                        index[level] += 1
            if walk == 1:
                candidates, count, blind = met
        best[e] = lowest
        tests[e] = count
        undecided[e] = blind
    return edges.shape[0], candidates
