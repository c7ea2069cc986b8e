"""The last orientation, R8-R10, which turns circles at the beginning of A o-> C into tails.

Rules of Zhang, On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias, Artificial Intelligence 172 (2008), section 3. With
selection bias, R5-R7 (`causal_kernels.selection`) come before.

1. R8 on all edges A o-> C.
2. For each node A with such an edge: the uncovered possibly directed paths out of A, then R9, R10.
3. Again until nothing changes. The rules only write tails at the beginning of A o-> C, which
   changes no possibly directed path, so one mode serves the stable and the sequential variant.

A possibly directed path has no arrowhead at the earlier end of an edge and no tail at the later
end; undirected edges, which R5-R7 make, are not on it. Uncovered ones are searched as walks over
pairs (previous, node) with unshielded triples. In a valid PAG such a walk visits no node twice, so
walks and paths are the same; in others walks count.

The time goes to step 2: for each A with an open edge and each first node mu a search over the
directed edges, at most degree(A) times the sum of the squared degrees. Tokens in an order leave few
open edges, and on sparse graphs walks are short, so it stays below the cost of the sweeps over the
(N, N) marks that find the neighbours.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, CIRCLE, NONE, TAIL, neighbour_lists
from causal_kernels.orientation import CONFLICT

__all__ = ["complete_tails", "rule_8", "rule_9", "rule_10", "uncovered_reach"]


@kernel
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


@kernel
def _leaves(marks, a, b):
    """Tell whether the edge a-b can be the first of a possibly directed path out of a."""
    return marks[b, a] != ARROW and marks[a, b] != TAIL


@kernel
def uncovered_reach(marks, start, neighbour, a, reach, seen, stamp, queue):
    """Fill ``reach`` uint8 (degree of a, N): uncovered possibly directed paths out of a.

    ``reach[k, x]`` is 1 if such a path a, mu, ..., x exists, mu being the k-th neighbour of a
    (x = mu: the edge itself). Both rules want mu not adjacent to another node that a path out of a
    can begin with; rows of other mu stay 0. ``seen`` int64 (2E,) holds stamps of directed edges;
    those from ``stamp`` on are free. ``queue`` int64 (>= 2E + 1, 2). Returns the next free stamp.
    """
    for k in range(start[a], start[a + 1]):
        row = k - start[a]
        reach[row, :] = 0
        mu = neighbour[k]
        if not _leaves(marks, a, mu):
            continue
        useful = False
        for m in range(start[a], start[a + 1]):
            other = neighbour[m]
            if other != mu and marks[mu, other] == NONE and _leaves(marks, a, other):
                useful = True
                break
        if not useful:
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
                if seen[m] == stamp or w == u or w == a or not _leaves(marks, v, w):
                    continue
                if marks[u, w] != NONE:
                    continue
                seen[m] = stamp
                reach[row, w] = 1
                queue[tail, 0] = v
                queue[tail, 1] = w
                tail += 1
        stamp += 1
    return stamp


@kernel
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


@kernel
def _two_ways(marks, start, neighbour, a, c, reach, met):
    """Tell whether R10 finds B, D and two ways to them that start apart, for the edge A o-> C.

    ``met`` int64 (>= degree of a,) is work: for the k-th neighbour of A, -2 if it leads to no
    parent of C, the parent if to one, -1 if to several.
    """
    first = start[a]
    degree = start[a + 1] - first
    for k in range(degree):
        met[k] = -2
    for q in range(start[c], start[c + 1]):
        b = neighbour[q]
        if marks[b, c] != ARROW or marks[c, b] != TAIL:
            continue
        for k in range(degree):
            if reach[k, b] == 1:
                met[k] = b if met[k] == -2 else -1
    for k in range(degree):
        mu = neighbour[first + k]
        if mu == c or met[k] == -2:
            continue
        for m in range(k + 1, degree):
            omega = neighbour[first + m]
            if omega == c or met[m] == -2 or marks[mu, omega] != NONE:
                continue
            # the two parents must differ: only the same single one does not do
            if met[k] == -1 or met[m] != met[k]:
                return True
    return False


@kernel
def rule_10(marks, claims, start, neighbour, a, reach, met):
    """If A o-> C, B -> C <- D, and uncovered possibly directed paths lead from A to B and to D.

    If moreover their first nodes mu and omega differ and are not adjacent: orient A -> C (the
    tail at A), for one node A and its ``reach``. ``met`` int64 (>= degree of a,) is work.
    """
    changed = 0
    for m in range(start[a], start[a + 1]):
        c = neighbour[m]
        if marks[c, a] != CIRCLE or marks[a, c] != ARROW or claims[c, a] == CONFLICT:
            continue
        if _two_ways(marks, start, neighbour, a, c, reach, met):
            marks[c, a] = TAIL
            changed += 1
    return changed


@kernel
def complete_tails(marks, claims):
    """Apply R8, R9, R10 to a fixed point, in place; they only turn circles into tails.

    ``claims`` uint8 (N, N) comes from `orient`: circles with contradicting claims stay.
    """
    n = marks.shape[0]
    start, neighbour = neighbour_lists(marks)
    most = 0
    for i in range(n):
        most = max(most, start[i + 1] - start[i])
    reach = np.empty((most, n), np.uint8)
    met = np.empty(most, np.int64)
    seen = np.empty(len(neighbour), np.int64)
    for k in range(len(neighbour)):
        seen[k] = -1
    queue = np.empty((len(neighbour) + 1, 2), np.int64)
    stamp = np.int64(0)
    changed = 1
    while changed > 0:
        changed = rule_8(marks, claims, start, neighbour)
        for a in range(n):
            open_end = False
            for m in range(start[a], start[a + 1]):
                c = neighbour[m]
                if marks[c, a] == CIRCLE and marks[a, c] == ARROW and claims[c, a] != CONFLICT:
                    open_end = True
                    break
            if open_end:
                stamp = uncovered_reach(marks, start, neighbour, a, reach, seen, stamp, queue)
                changed += rule_9(marks, claims, start, neighbour, a, reach)
                changed += rule_10(marks, claims, start, neighbour, a, reach, met)
