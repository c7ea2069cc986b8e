"""Separating sets of one conditioning size, deleting edges as soon as they are separated.

The counterpart of `causal_kernels.separation` as the algorithms were published: an edge that goes
changes the neighbours, PDS-trees and possible ancestors that later tests see, so the result
depends on the order of the nodes. Used to compare with other implementations.

1. Edges (a, b), a < b, come by (tier of b, a, b): for one tier that is lexicographic order (ICD),
   for singleton tiers each later node in turn with all its predecessors (ordered ICD).
2. Conditioning sets come by sum of distances (from the root, or the nearer of both roots), then
   lexicographically; the first that separates is stored and the edge is deleted at once.
3. For an edge across tiers the PDS-tree is that of the graph when its tier was begun, as in
   ordered ICD, where one tree serves all edges into a node (arXiv 2412.07446); an edge within a
   tier gets both trees from the current graph (ICD, arXiv 2111.04095). Possible ancestors always
   come from the current graph.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import NONE, possible_ancestors
from causal_kernels.partial import OK, partial_correlation
from causal_kernels.pds import is_pds_set, pds_distances

__all__ = ["order_one_sequential", "order_r_sequential"]


@kernel
def order_one_sequential(
    correlation, marks, tiers, edges, squared_threshold, tolerance,
    best, member, tests, undecided,
):  # fmt: skip
    """Like `single.order_one`, but stops at the first separating node and deletes in `marks`.

    An edge was separated exactly if it is gone from ``marks`` afterwards. Returns the number of
    candidates met.
    """
    n = correlation.shape[0]
    candidates = 0
    given = np.empty(1, np.int64)
    work = np.empty((3, 4), np.float64)
    for e in range(edges.shape[0]):
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
        best[e] = np.inf
        within = tiers[a] == tiers[b]
        for c in range(n):
            if c == a or c == b or tiers[c] > tiers[b]:
                continue
            if marks[b, c] == NONE and not (within and marks[a, c] != NONE):
                continue
            candidates += 1
            given[0] = c
            status, value = partial_correlation(correlation, a, b, given, 1, tolerance, work)
            if status != OK:
                undecided[e] += 1
                continue
            tests[e] += 1
            if value * value < best[e]:
                best[e] = value * value
                member[e] = c
            if value * value <= squared_threshold:
                marks[a, b] = NONE
                marks[b, a] = NONE
                break
    return candidates


@kernel
def order_r_sequential(
    correlation, marks, snapshot, start, neighbour, tiers, edges, previous_tier, r,
    squared_threshold, tolerance, budget, best, members, tests, undecided,
):  # fmt: skip
    """Like `separation.order_r`, but sets come by distance and edges are deleted in ``marks``.

    ``start`` and ``neighbour`` belong to the graph at the start of this size. ``best`` and
    ``members`` are those of the last set tested when the edge was separated. ``snapshot`` uint8
    (N, N) is the graph when the tier ``previous_tier`` was begun (-1: none yet) and is updated.
    Returns (number of edges done, number of candidate sets, tier of the snapshot); for ``budget``
    see `separation.order_r`.
    """
    n = correlation.shape[0]
    snapshot_tier = previous_tier
    distance = np.zeros((2, n), np.int64)
    ancestor = np.empty((2, n), np.uint8)
    stack = np.empty(n, np.int64)
    seen = np.full((n, n), -1, np.int64)
    stamp = np.int64(0)
    pair_queue = np.empty((max(1, len(neighbour)), 2), np.int64)
    pool = np.empty(n, np.int64)
    index = np.empty(r, np.int64)
    partial_sum = np.empty(r + 1, np.int64)
    current = np.empty(r, np.int64)
    pair_seen = np.empty((r + 1, r), np.uint8)
    queue = np.empty((r * (r + 1), 2), np.int64)
    reached = np.empty(r, np.uint8)
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
        if tiers[b] != snapshot_tier:
            snapshot_tier = tiers[b]
            snapshot[:] = marks
        within = tiers[a] == tiers[b]
        tree = marks if within else snapshot
        roots = 2 if within else 1
        for side in range(2):
            if side < roots:
                stamp += 1
                pds_distances(
                    tree, start, neighbour, tiers, tiers[b], b if side == 0 else a, r,
                    distance[side], seen, stamp, pair_queue,
                )  # fmt: skip
            else:
                distance[side, :] = 0
        possible_ancestors(marks, start, neighbour, a, ancestor[0], stack)
        possible_ancestors(marks, start, neighbour, b, ancestor[1], stack)
        size = 0
        farthest = np.int64(1)
        for z in range(n):
            if z == a or z == b or (distance[0, z] == 0 and distance[1, z] == 0):
                continue
            if ancestor[0, z] == 0 and ancestor[1, z] == 0:
                continue
            pool[size] = z
            size += 1
            farthest = max(farthest, distance[0, z], distance[1, z])
        if size < r:
            continue
        separated = False
        for total in range(r, r * farthest + 1):
            # all r-subsets of the pool in lexicographic order; only those of this total count
            level = 0
            index[0] = -1
            partial_sum[0] = 0
            while level >= 0 and not separated:
                index[level] += 1
                k = index[level]
                if k > size - (r - level):
                    level -= 1
                    continue
                z = pool[k]
                current[level] = z
                nearest = distance[0, z]
                if nearest == 0 or (distance[1, z] > 0 and distance[1, z] < nearest):
                    nearest = distance[1, z]
                partial_sum[level + 1] = partial_sum[level] + nearest
                if partial_sum[level + 1] + (r - 1 - level) > total:
                    continue
                if level < r - 1:
                    level += 1
                    index[level] = k
                    continue
                looked_at += 1
                if looked_at > budget:
                    return e, before, snapshot_tier
                # the smallest total over the roots from which the set is legal
                smallest = 0
                for side in range(roots):
                    length = 0
                    for i in range(r):
                        d = distance[side, current[i]]
                        if d == 0:
                            length = 0
                            break
                        length += d
                    root = b if side == 0 else a
                    if length == 0 or (smallest > 0 and length >= smallest):
                        continue
                    if is_pds_set(tree, root, current, r, pair_seen, queue, reached):
                        smallest = length
                if smallest != total:
                    continue
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
                break
    return edges.shape[0], candidates, snapshot_tier
