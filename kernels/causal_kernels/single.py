"""Separating sets of one node, order-independent (stable): conditioning size 1.

See `causal_kernels.separation` for what the sizes have in common. The partial correlation given one
node c is (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2) (1 - r_bc^2)); squared and compared with a squared
threshold it needs no root and, with 1 / (1 - r^2) at hand for all pairs, no division. Where
neighbours are many, all nodes are worked on as whole rows (which the compiler turns into vector
instructions), with infinity added for the others.

What the time goes to (``experiments.benchmarks.attention_heads``, ordered ICD of real attention,
evidence included): 200 nodes take 4 to 6 ms, 700 nodes 80 to 130 ms. About half of that is order 1,
at 1e9 to 2e9 tests a second, as fast as the rows of a pair come from the cache; the rest is the
check of the matrix, lists of edges, evidence, separating sets and orientation. A bare loop over the
same tests of size 0 and 1, that keeps nothing, takes 0.7 to 1.3 ms and 34 to 50 ms. Orders from 2
on cost next to nothing for attention and for sparse graphs.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import NONE
from causal_kernels.partial import NOISE, tie_bound

__all__ = ["inverse_rest", "order_one", "prepare_one"]


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
