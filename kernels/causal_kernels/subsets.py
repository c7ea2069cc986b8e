"""Which nodes a conditioning set is made of, and which sets count: pools around a root.

The pool of an edge (a, b) around a root x in {a, b} holds the nodes near x; in ICD those within
PDS-distance r that are possible ancestors of a or b (ICD-Sep condition 3) and that a PDS-path
inside the pool leads to. Near nodes, adjacent to the root, come first.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, NONE

__all__ = ["all_adjacent", "is_in_pool", "keep_reached", "needed_roots", "note_set"]


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
def note_set(current, r, ordered, row, always):
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
