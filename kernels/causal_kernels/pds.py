"""Possible-d-separation (PDS) paths: distances, trees, and the second ICD-Sep condition.

A PDS-path leaves the root and every consecutive triple (u, v, w) on it is a collider at v
(u *-> v <-* w) or a triangle (u and w adjacent). Whether a step v - w is legal depends on where
the path came from, so the unit of the search is the pair (previous, node):

1. Start with the pairs (root, v) for each neighbour v of the root.
2. From a pair (u, v) go to each unseen pair (v, w) whose triple (u, v, w) is legal; w is neither
   u nor the root.
3. Breadth first, each pair once; a node occurs as often as there are pairs that enter it.

References: Rohekar, Nisimov, Gurwicz, Novik, Iterative Causal Discovery in the Possible Presence
of Latent Confounders and Selection Bias, NeurIPS 2021 (arXiv 2111.04095), definition of the
PDS-path and ICD-Sep conditions 1-3; Spirtes, Glymour, Scheines, Causation, Prediction, and
Search, possible-d-sep.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, NONE, neighbour_lists

__all__ = ["is_pds_set", "pds_distance_matrix", "pds_distances", "pds_pools", "pds_tree"]


@kernel
def pds_distances(
    marks, start, neighbour, tiers, last_tier, root, max_depth, distance, seen, stamp, queue
):
    """Fill ``distance`` int64 (N,): shortest PDS-path from the root, 0 where there is none.

    Only nodes of tiers up to ``last_tier`` are entered, paths have at most ``max_depth`` edges.
    ``seen`` int64 (N, N) marks pairs by ``stamp``, which must be new; ``queue`` int64
    (>= 2E, 2). Neighbour lists may still name removed edges.
    """
    distance[:] = 0
    tail = 0
    for k in range(start[root], start[root + 1]):
        v = neighbour[k]
        if marks[root, v] != NONE and tiers[v] <= last_tier:
            seen[root, v] = stamp
            distance[v] = 1
            queue[tail, 0] = root
            queue[tail, 1] = v
            tail += 1
    head = 0
    depth = 1
    while head < tail and depth < max_depth:
        depth += 1
        level_end = tail
        while head < level_end:
            u = queue[head, 0]
            v = queue[head, 1]
            head += 1
            into_v = marks[u, v] == ARROW
            for k in range(start[v], start[v + 1]):
                w = neighbour[k]
                if w == u or w == root or seen[v, w] == stamp:
                    continue
                if marks[v, w] == NONE or tiers[w] > last_tier:
                    continue
                if marks[u, w] != NONE or (into_v and marks[w, v] == ARROW):
                    seen[v, w] = stamp
                    if distance[w] == 0:
                        distance[w] = depth
                    queue[tail, 0] = v
                    queue[tail, 1] = w
                    tail += 1


@kernel
def pds_distance_matrix(marks, start, neighbour, tiers, max_depth, needed):
    """Return int16 (N, N): row x holds the PDS-distances from x within tiers up to that of x.

    ``needed`` uint8 (N,): rows that are 0 there are left 0.
    """
    n = marks.shape[0]
    out = np.empty((n, n), np.int16)
    distance = np.empty(n, np.int64)
    seen = np.empty((n, n), np.int64)
    queue = np.empty((max(1, len(neighbour)), 2), np.int64)
    for root in range(n):
        for z in range(n):
            seen[root, z] = -1
    for root in range(n):
        for z in range(n):
            distance[z] = 0
        if needed[root] != 0:
            pds_distances(
                marks, start, neighbour, tiers, tiers[root], root, max_depth, distance, seen, root,
                queue,
            )  # fmt: skip
        for z in range(n):
            out[root, z] = distance[z]
    return out


@kernel
def pds_pools(marks, start, neighbour, tiers, ancestor, current, edges):
    """Return int16 (2 E, N): possible-d-sep sets for each edge (a, b), around b and around a.

    A node is in the set of a root when a PDS-path leads to it on which every node but the root is
    a possible ancestor of a or b: in a D-SEP set every node on the way is an ancestor of an end.
    Entries are 1 for nodes adjacent to the root in the graph ``current``, 2 for others. ``marks``
    are those of R0 alone, ``ancestor`` uint8 (N, N) belongs to them. An edge across tiers has no
    set around its earlier end, and nodes come from tiers up to that of b.
    """
    n = marks.shape[0]
    out = np.zeros((2 * edges.shape[0], n), np.int16)
    seen = np.full(len(neighbour), -1, np.int64)  # by position of the pair in the lists
    queue = np.empty((max(1, len(neighbour)), 2), np.int64)
    for e in range(edges.shape[0]):
        a = np.int64(edges[e, 0])
        b = np.int64(edges[e, 1])
        for side in range(2):
            if side == 1 and tiers[a] != tiers[b]:
                break
            root = b if side == 0 else a
            row = 2 * e + side
            # a pool with no node that is not adjacent to the root is of no use: leave it empty
            far = False
            for z in range(n):
                if current[root, z] == NONE and z != root and tiers[z] <= tiers[b]:
                    if ancestor[a, z] == 1 or ancestor[b, z] == 1:
                        far = True
                        break
            if not far:
                continue
            tail = 0
            for k in range(start[root], start[root + 1]):
                v = neighbour[k]
                if v == a or v == b or tiers[v] > tiers[b]:
                    continue
                if ancestor[a, v] == 0 and ancestor[b, v] == 0:
                    continue
                seen[k] = row
                out[row, v] = 2 if current[root, v] == NONE else 1
                queue[tail, 0] = root
                queue[tail, 1] = v
                tail += 1
            head = 0
            while head < tail:
                u = queue[head, 0]
                v = queue[head, 1]
                head += 1
                into_v = marks[u, v] == ARROW
                for k in range(start[v], start[v + 1]):
                    w = neighbour[k]
                    if w == u or w == a or w == b or seen[k] == row or tiers[w] > tiers[b]:
                        continue
                    if ancestor[a, w] == 0 and ancestor[b, w] == 0:
                        continue
                    if marks[u, w] != NONE or (into_v and marks[w, v] == ARROW):
                        seen[k] = row
                        out[row, w] = 2 if current[root, w] == NONE else 1
                        queue[tail, 0] = v
                        queue[tail, 1] = w
                        tail += 1
    return out


@kernel
def is_pds_set(marks, root, members, size, pair_seen, queue, reached):
    """Tell whether every member is the end of a PDS-path from the root inside the members.

    ``members`` int64 (>= size,), none of them the root. Work: ``pair_seen`` uint8 (>= size + 1,
    >= size), ``queue`` int64 (>= size * (size + 1), 2), ``reached`` uint8 (>= size,).
    """
    found = 0
    tail = 0
    for i in range(size + 1):
        for j in range(size):
            pair_seen[i, j] = 0
    for j in range(size):
        reached[j] = 0
        if marks[root, members[j]] != NONE:
            reached[j] = 1
            found += 1
            queue[tail, 0] = size  # index of the root
            queue[tail, 1] = j
            tail += 1
    head = 0
    while head < tail and found < size:
        i = queue[head, 0]
        j = queue[head, 1]
        head += 1
        u = root if i == size else members[i]
        v = members[j]
        into_v = marks[u, v] == ARROW
        for k in range(size):
            if k == i or k == j or pair_seen[j, k] == 1:
                continue
            w = members[k]
            if marks[v, w] == NONE:
                continue
            if marks[u, w] != NONE or (into_v and marks[w, v] == ARROW):
                pair_seen[j, k] = 1
                if reached[k] == 0:
                    reached[k] = 1
                    found += 1
                queue[tail, 0] = j
                queue[tail, 1] = k
                tail += 1
    return found == size


@kernel
def pds_tree(marks, allowed, root, max_depth):
    """Return (node, parent, depth), int64 (M,) each, of the PDS-tree in breadth-first order.

    Entry 0 is the root (parent -1, depth 0); ``parent`` is an index into the arrays. ``allowed``
    uint8 (N,): nodes that may be entered. Neighbours are visited in ascending order.
    """
    n = marks.shape[0]
    start, neighbour = neighbour_lists(marks)
    capacity = len(neighbour) + 1
    node = np.empty(capacity, np.int64)
    parent = np.empty(capacity, np.int64)
    depth = np.empty(capacity, np.int64)
    seen = np.zeros((n, n), np.uint8)
    node[0] = root
    parent[0] = -1
    depth[0] = 0
    tail = 1
    head = 0
    while head < tail:
        v = node[head]
        if depth[head] < max_depth:
            u = node[parent[head]] if head > 0 else -1
            into_v = head > 0 and marks[u, v] == ARROW
            for k in range(start[v], start[v + 1]):
                w = neighbour[k]
                if w == u or w == root or allowed[w] == 0 or seen[v, w] == 1:
                    continue
                if head == 0 or marks[u, w] != NONE or (into_v and marks[w, v] == ARROW):
                    seen[v, w] = 1
                    node[tail] = w
                    parent[tail] = head
                    depth[tail] = depth[head] + 1
                    tail += 1
        head += 1
    return node[:tail].copy(), parent[:tail].copy(), depth[:tail].copy()
