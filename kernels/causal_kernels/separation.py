"""Separating sets of one conditioning size, order-independent (stable): orders 1 and r >= 2.

Everything is read from a graph that does not change while the size is being worked on; a kernel
only reports, for each edge, the separating set with the smallest |partial correlation| (the
largest p-value, since all sets have one size). The caller deletes edges afterwards. Of sets that
tie (`causal_kernels.partial`) the lexicographically first is reported, members in ascending order:
two looks at the values, one for the smallest and one for what ties with it.

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

PC and FCI use the same walk with other pools: the neighbours of the root, or its possible-d-sep
set, without conditions on paths and ancestors.

What the time goes to (``experiments.benchmarks.attention_heads``, ordered ICD of real attention,
evidence included): 200 nodes take 4 to 6 ms, 700 nodes 80 to 130 ms. About half of that is order 1,
at 1e9 to 2e9 tests a second, as fast as the rows of a pair come from the cache; the rest is the
check of the matrix, lists of edges, evidence, separating sets and orientation. A bare loop over the
same tests of size 0 and 1, that keeps nothing, takes 0.7 to 1.3 ms and 34 to 50 ms. Orders from 2
on cost next to nothing for attention and for sparse graphs.

Near-singular: see `causal_kernels.partial`. An undecidable test separates nothing and is flagged.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, NONE
from causal_kernels.partial import NOISE, OK, partial_correlation, tie_bound
from causal_kernels.pds import is_pds_set

__all__ = ["BEYOND", "ICD_SEP", "NEIGHBOURS", "needed_roots", "order_one", "order_r", "prepare_one"]

# Which sets `order_r` looks at
NEIGHBOURS = 0
ICD_SEP = 1
BEYOND = 2


@kernel
def _values(r_ab, row_a, row_b, weight_a, weight_b, outside, stop, values):
    """Fill ``values[:stop]`` with squared partial correlations; infinite for nodes outside."""
    for c in range(stop):
        rest = r_ab - row_a[c] * row_b[c]
        values[c] = rest * rest * weight_a[c] * weight_b[c] + outside[c]


@kernel
def _values_of_two(
    r_ab, row_a, row_b, weight_a, weight_b, outside_a, outside_b, stop, values
):  # fmt: skip
    """Like `_values`, for the nodes that are inside for one of two ends."""
    for c in range(stop):
        rest = r_ab - row_a[c] * row_b[c]
        values[c] = rest * rest * weight_a[c] * weight_b[c] + min(outside_a[c], outside_b[c])


@kernel
def _first_smallest(values, bits, stop):
    """Return (smallest of ``values[:stop]``, place of the first that ties with it).

    ``bits`` is the same memory as int64, and there must be room for one value more. Of numbers >= 0
    the bits sort as the numbers do. Two passes without a way out become vector instructions, the
    first because it is over integers; a running minimum of floats, or a search that stops, does
    not.
    """
    low = np.int64(0x7FF0000000000000)  # infinity
    for c in range(stop):
        low = min(low, bits[c])
    bits[stop] = low
    lowest = values[stop]
    bound = tie_bound(lowest)
    at = np.int64(stop)
    for c in range(stop):
        at = min(at, np.int64(c if values[c] <= bound else stop))
    return lowest, at


@kernel
def _count_either(marks_a, marks_b, stop):
    """Return how many of the first nodes are adjacent to one of two nodes or to both."""
    count = 0
    for c in range(stop):
        count += 1 if (marks_a[c] | marks_b[c]) != 0 else 0
    return count


@kernel
def _negative_lists(inverse):
    """Return (start, node): for each node the others with a negative entry, ascending."""
    n = inverse.shape[0]
    start = np.empty(n + 1, np.int64)
    start[0] = 0
    for i in range(n):
        count = 0
        for j in range(n):
            count += 1 if inverse[i, j] < 0.0 else 0
        start[i + 1] = start[i] + count - (1 if inverse[i, i] < 0.0 else 0)
    node = np.empty(start[n], np.int64)
    for i in range(n):
        k = start[i]
        if start[i + 1] == k:
            continue
        for j in range(n):
            if j != i and inverse[i, j] < 0.0:
                node[k] = j
                k += 1
    return start, node


@kernel
def inverse_rest(correlation, tolerance):
    """Return float64 (N, N): 1 / (1 - r^2), or -1 where 1 - r^2 cannot be told from zero.

    1 - r^2 is what is left of one node's variance given the other; for the rule see
    `causal_kernels.partial` (s is 1 + |r| here).
    """
    n = correlation.shape[0]
    out = np.empty((n, n), np.float64)
    for i in range(n):
        for j in range(n):
            r = correlation[i, j]
            left = 1.0 - r * r
            noise = max(tolerance, NOISE * (1.0 + abs(r)) ** 2)
            out[i, j] = 1.0 / left if left > noise else -1.0
    return out


@kernel
def prepare_one(inverse, marks, start, neighbour, tiers):
    """Return what `order_one` needs besides, once for a graph.

    ``outside`` float64 (N, N): infinity where there is no edge, for nodes that are no choice;
    ``copies_start`` int64 (N + 1,) and ``copies`` int64: for each node those with which the entry
    of ``inverse`` is negative; ``reach`` int64 (N,): number of nodes in tiers up to that of each
    node; ``choices`` int64 (N,): neighbours among these.
    """
    n = inverse.shape[0]
    outside = np.empty((n, n), np.float64)
    copies_start, copies = _negative_lists(inverse)
    reach = np.empty(n, np.int64)
    choices = np.empty(n, np.int64)
    stop = 0
    for i in range(n):
        for j in range(n):
            outside[i, j] = np.inf if marks[i, j] == NONE else 0.0
        while stop < n and tiers[stop] <= tiers[i]:
            stop += 1
        reach[i] = stop
        count = 0
        for k in range(start[i], start[i + 1]):
            count += 1 if neighbour[k] < stop else 0
        choices[i] = count
    return outside, copies_start, copies, reach, choices


@kernel
def order_one(
    correlation, inverse, marks, start, neighbour, tiers, prepared, edges,
    best, member, tests, undecided,
):  # fmt: skip
    """Find the best single separating node of each edge (a, b), a < b.

    ``inverse`` comes from `inverse_rest`, ``prepared`` from `prepare_one`; ``edges`` int32 (E, 2).
    Filled: ``best`` float64 (E,) smallest squared partial correlation met (inf: no test),
    ``member`` int32 (E,) the lowest node that gave it or ties with it, ``tests`` int64 (E,),
    ``undecided`` int32 (E,) number of tests without an answer. Returns the number of candidates.
    """
    n = correlation.shape[0]
    outside, copies_start, copies, reach, choices = prepared
    values = np.empty(n + 1, np.float64)
    bits = values.view(np.int64)
    nodes = np.empty(n, np.int64)
    candidates = 0
    for e in range(edges.shape[0]):
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
        r_ab = correlation[a, b]
        lowest = np.inf
        where = -1
        count = 0
        blind = 0
        within = tiers[a] == tiers[b]
        degree = start[b + 1] - start[b]
        dense = 4 * degree > reach[b]
        if dense:
            if within:
                _values_of_two(
                    r_ab, correlation[a], correlation[b], inverse[a], inverse[b], outside[a],
                    outside[b], reach[b], values,
                )  # fmt: skip
                count = _count_either(marks[a], marks[b], reach[b]) - 2
            else:
                _values(
                    r_ab, correlation[a], correlation[b], inverse[a], inverse[b], outside[b],
                    reach[b], values,
                )  # fmt: skip
                count = choices[b] - 1
            # a and b are adjacent to each other, but no choice
            values[a] = np.inf
            values[b] = np.inf
            for x in (a, b):
                for k in range(copies_start[x], copies_start[x + 1]):
                    c = copies[k]
                    if c < reach[b] and values[c] != np.inf:
                        values[c] = np.inf  # whatever it was, it is noise
                        blind += 1
                        count -= 1
            if count > 0:
                lowest, where = _first_smallest(values, bits, reach[b])
        for side in range(0 if dense else 2):
            if side == 0:
                x = b
                other = a
            else:
                if not within:
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
                rest = r_ab - correlation[a, c] * correlation[b, c]
                value = rest * rest * weight_a * weight_b
                values[count] = value
                nodes[count] = c
                count += 1
                lowest = min(lowest, value)
        if not dense and count > 0:
            bound = tie_bound(lowest)
            where = n
            for k in range(count):
                if values[k] <= bound and nodes[k] < where:
                    where = nodes[k]
        candidates += count + blind
        best[e] = lowest
        member[e] = where
        tests[e] = count
        undecided[e] = blind
    return candidates


@kernel
def needed_roots(tiers, edges, ancestor, r):
    """Return uint8 (N,): 1 for nodes around which a set of size r may lie, by condition 3 alone.

    Most edges of attention graphs have fewer than r possible ancestors, and PDS-distances cost
    more than testing does.
    """
    n = ancestor.shape[0]
    needed = np.empty(n, np.uint8)
    for z in range(n):
        needed[z] = 0
    for e in range(edges.shape[0]):
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
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


@kernel
def is_in_pool(distance, root, members, size, farthest):
    """Tell whether all members have a distance of 1..``farthest`` from the root."""
    for i in range(size):
        d = distance[root, members[i]]
        if d == 0 or d > farthest:
            return False
    return True


@kernel
def all_adjacent(marks, node, members, size):
    """Tell whether all members are adjacent to a node."""
    for i in range(size):
        if marks[node, members[i]] == NONE:
            return False
    return True


@kernel
def keep_reached(marks, root, pool, size, near, seen, queue, reached):
    """Keep the members of the pool that a PDS-path inside the pool leads to; return how many.

    The first ``near`` ones are adjacent to the root. ``pool`` is changed in place and keeps its
    order. Work: ``seen`` uint8 (N + 1, N), ``reached`` uint8 (N,), ``queue`` int64 (M, 2); where
    the queue is too short nothing is dropped, which costs time but changes no result.
    """
    for i in range(size + 1):
        for j in range(size):
            seen[i, j] = 0
    tail = 0
    found = near
    for j in range(size):
        reached[j] = 1 if j < near else 0
        if j < near:
            queue[tail, 0] = size  # index of the root
            queue[tail, 1] = j
            tail += 1
    head = 0
    while head < tail and found < size:
        i = queue[head, 0]
        j = queue[head, 1]
        head += 1
        u = root if i == size else pool[i]
        v = pool[j]
        into_v = marks[u, v] == ARROW
        for k in range(size):
            if k == i or k == j or seen[j, k] == 1 or marks[v, pool[k]] == NONE:
                continue
            w = pool[k]
            if marks[u, w] != NONE or (into_v and marks[w, v] == ARROW):
                if tail == queue.shape[0]:
                    return size
                seen[j, k] = 1
                if reached[k] == 0:
                    reached[k] = 1
                    found += 1
                queue[tail, 0] = j
                queue[tail, 1] = k
                tail += 1
    kept = 0
    for j in range(size):
        if reached[j] == 1:
            pool[kept] = pool[j]
            kept += 1
    return kept


@kernel
def _note_set(current, r, ordered, row, always):
    """Write the first r of ``current`` to ``row``, ascending, if they are lower or ``always``.

    Lower: before what stands in ``row`` in lexicographic order. ``ordered`` is work.
    """
    for i in range(r):
        z = current[i]
        at = i
        while at > 0 and ordered[at - 1] > z:
            ordered[at] = ordered[at - 1]
            at -= 1
        ordered[at] = z
    if not always:
        at = 0
        while at < r and ordered[at] == row[at]:
            at += 1
        if at == r or ordered[at] > row[at]:
            return
    for i in range(r):
        row[i] = ordered[i]


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
                        _note_set(current, r, ordered, members[e], walk == 0)
                    level -= 1
                    if level >= 0:
                        index[level] += 1
            if walk == 1:
                candidates, count, blind = met
        best[e] = lowest
        tests[e] = count
        undecided[e] = blind
    return edges.shape[0], candidates
