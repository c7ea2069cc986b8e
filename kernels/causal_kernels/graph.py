"""Small pieces that every kernel needs: mark codes, neighbour lists, possible ancestors.

A graph is ``marks`` uint8 (N, N): ``marks[i, j]`` is the mark at j on the edge i-j (0 no edge,
1 circle, 2 arrowhead, 3 tail), the coding of the R package pcalg. `FORBIDDEN` (4, at both ends) is
no edge either, but nothing separated the pair: background knowledge removed the edge. No rule may
conclude from its absence, so rules ask ``marks[a, c] == NONE`` for "not adjacent" and walk edges by
`neighbour_lists` only, which leave such pairs out.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel

__all__ = [
    "ARROW",
    "CIRCLE",
    "FORBIDDEN",
    "NONE",
    "TAIL",
    "neighbour_lists",
    "possible_ancestor_matrix",
    "possible_ancestors",
]

NONE = 0
CIRCLE = 1
ARROW = 2
TAIL = 3
FORBIDDEN = 4


@kernel
def neighbour_lists(marks):
    """Return (start int64 (N + 1,), neighbour int64 (2E,)), neighbours in ascending order.

    Only marks 1 to 3 are edges: `FORBIDDEN` pairs are not neighbours.
    """
    n = marks.shape[0]
    start = np.empty(n + 1, np.int64)
    start[0] = 0
    for i in range(n):
        count = 0
        for j in range(n):
            if NONE < marks[i, j] < FORBIDDEN:
                count += 1
        start[i + 1] = start[i] + count
    neighbour = np.empty(start[n], np.int64)
    for i in range(n):
        k = start[i]
        for j in range(n):
            if NONE < marks[i, j] < FORBIDDEN:
                neighbour[k] = j
                k += 1
    return start, neighbour


@kernel
def possible_ancestors(marks, start, neighbour, node, out, stack):
    """Set ``out[z]`` to 1 for each z with a possibly directed path to ``node`` (and for itself).

    On such a path no edge has an arrowhead at its earlier end or a tail at its later end.
    ``out`` uint8 (N,), ``stack`` int64 (N,). Neighbour lists may still name removed edges.
    """
    for z in range(len(out)):
        out[z] = 0
    out[node] = 1
    stack[0] = node
    top = 1
    while top > 0:
        top -= 1
        child = stack[top]
        for k in range(start[child], start[child + 1]):
            parent = neighbour[k]
            mark_at_child = marks[parent, child]
            if (
                out[parent] == 0
                and mark_at_child != NONE
                and mark_at_child != TAIL
                and marks[child, parent] != ARROW
            ):
                out[parent] = 1
                stack[top] = parent
                top += 1


@kernel
def possible_ancestor_matrix(marks, start, neighbour):
    """Return uint8 (N, N): entry [x, z] is 1 if z is a possible ancestor of x (or x itself)."""
    n = marks.shape[0]
    out = np.empty((n, n), np.uint8)
    stack = np.empty(n, np.int64)
    for node in range(n):
        possible_ancestors(marks, start, neighbour, node, out[node], stack)
    return out
