"""The last orientation, R8-R10, which turns circles into tails (no selection bias: no R5-R7).

Rules of Zhang, On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias, Artificial Intelligence 172 (2008), section 3.

1. R8 on all edges A o-> C.
2. For each node A with such an edge: the uncovered possibly directed paths out of A, then R9, R10.
3. Again until nothing changes. The rules only write tails at the beginning of A o-> C, which
   changes no possibly directed path, so one mode serves the stable and the sequential variant.

Uncovered possibly directed paths are searched as walks over pairs (previous, node) with unshielded
triples. In a valid PAG such a walk visits no node twice, so walks and paths are the same.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from causal_kernels.graph import ARROW, CIRCLE, NONE, TAIL, neighbour_lists
from causal_kernels.orientation import CONFLICT

__all__ = ["complete_tails", "rule_8", "rule_9", "rule_10", "uncovered_reach"]


@njit(cache=True, nogil=True)
def rule_8(marks, claims, start, neighbour):
    """If A -> B -> C or A -o B -> C, and A o-> C: orient A -> C (the tail at A)."""
    changed = 0
    for a in range(marks.shape[0]):
        for m in range(start[a], start[a + 1]):
            c = neighbour[m]
            if marks[c, a] != CIRCLE or marks[a, c] != ARROW or claims[c, a] == CONFLICT:
                continue
            for k in range(start[a], start[a + 1]):
                b = neighbour[k]
                if (
                    marks[b, a] == TAIL
                    and (marks[a, b] == ARROW or marks[a, b] == CIRCLE)
                    and marks[b, c] == ARROW
                    and marks[c, b] == TAIL
                ):
                    marks[c, a] = TAIL
                    changed += 1
                    break
    return changed


@njit(cache=True, nogil=True)
def uncovered_reach(marks, start, neighbour, a, reach, seen, stamp, queue):
    """Fill ``reach`` uint8 (degree of a, N): uncovered possibly directed paths out of a.

    ``reach[k, x]`` is 1 if such a path a, mu, ..., x exists, mu being the k-th neighbour of a
    (x = mu: the edge itself). ``seen`` int64 (N, N) holds stamps; those from ``stamp`` on are
    free. ``queue`` int64 (>= 2E, 2). Returns the next free stamp.
    """
    for k in range(start[a], start[a + 1]):
        row = k - start[a]
        reach[row, :] = 0
        mu = neighbour[k]
        if marks[mu, a] == ARROW or marks[a, mu] == TAIL:
            continue
        reach[row, mu] = 1
        queue[0, 0] = a
        queue[0, 1] = mu
        head = 0
        tail = 1
        while head < tail:
            u = queue[head, 0]
            v = queue[head, 1]
            head += 1
            for m in range(start[v], start[v + 1]):
                w = neighbour[m]
                if w == u or w == a or marks[w, v] == ARROW or marks[v, w] == TAIL:
                    continue
                if marks[u, w] != NONE or seen[v, w] == stamp:
                    continue
                seen[v, w] = stamp
                reach[row, w] = 1
                queue[tail, 0] = v
                queue[tail, 1] = w
                tail += 1
        stamp += 1
    return stamp


@njit(cache=True, nogil=True)
def rule_9(marks, claims, start, neighbour, a, reach):
    """If A o-> C and an uncovered possibly directed path A, B, ..., C with B, C not adjacent.

    Orient A -> C (the tail at A), for one node A and its ``reach``.
    """
    changed = 0
    for m in range(start[a], start[a + 1]):
        c = neighbour[m]
        if marks[c, a] != CIRCLE or marks[a, c] != ARROW or claims[c, a] == CONFLICT:
            continue
        for k in range(start[a], start[a + 1]):
            b = neighbour[k]
            if b != c and marks[b, c] == NONE and reach[k - start[a], c] == 1:
                marks[c, a] = TAIL
                changed += 1
                break
    return changed


@njit(cache=True, nogil=True)
def _two_ways(marks, start, neighbour, a, c, b, d, reach):
    """Tell whether uncovered paths A, mu, ..., B and A, omega, ..., D start apart (R10)."""
    first = start[a]
    for k in range(first, start[a + 1]):
        mu = neighbour[k]
        if mu == c or reach[k - first, b] == 0:
            continue
        for m in range(first, start[a + 1]):
            omega = neighbour[m]
            if omega == c or omega == mu or reach[m - first, d] == 0:
                continue
            if marks[mu, omega] == NONE:
                return True
    return False


@njit(cache=True, nogil=True)
def rule_10(marks, claims, start, neighbour, a, reach):
    """If A o-> C, B -> C <- D, and uncovered possibly directed paths lead from A to B and to D.

    If moreover their first nodes mu and omega differ and are not adjacent: orient A -> C (the
    tail at A), for one node A and its ``reach``.
    """
    changed = 0
    for m in range(start[a], start[a + 1]):
        c = neighbour[m]
        if marks[c, a] != CIRCLE or marks[a, c] != ARROW or claims[c, a] == CONFLICT:
            continue
        found = False
        for k in range(start[c], start[c + 1]):
            b = neighbour[k]
            if found or b == a or marks[b, c] != ARROW or marks[c, b] != TAIL:
                continue
            for q in range(k + 1, start[c + 1]):
                d = neighbour[q]
                if d == a or marks[d, c] != ARROW or marks[c, d] != TAIL:
                    continue
                if _two_ways(marks, start, neighbour, a, c, b, d, reach):
                    found = True
                    break
        if found:
            marks[c, a] = TAIL
            changed += 1
    return changed


@njit(cache=True, nogil=True)
def complete_tails(marks, claims):
    """Apply R8, R9, R10 to a fixed point, in place; they only turn circles into tails.

    ``claims`` comes from `orient`: circles with contradicting claims stay.
    """
    n = marks.shape[0]
    start, neighbour = neighbour_lists(marks)
    most = 0
    for i in range(n):
        most = max(most, start[i + 1] - start[i])
    reach = np.zeros((most, n), np.uint8)
    seen = np.full((n, n), -1, np.int64)
    queue = np.empty((len(neighbour) + 1, 2), np.int64)
    stamp = np.int64(0)
    changed = 1
    while changed > 0:
        changed = rule_8(marks, claims, start, neighbour)
        for a in range(n):
            open_end = False
            for m in range(start[a], start[a + 1]):
                c = neighbour[m]
                if marks[c, a] == CIRCLE and marks[a, c] == ARROW:
                    open_end = True
                    break
            if open_end:
                stamp = uncovered_reach(marks, start, neighbour, a, reach, seen, stamp, queue)
                changed += rule_9(marks, claims, start, neighbour, a, reach)
                changed += rule_10(marks, claims, start, neighbour, a, reach)
