"""What happens between the tests: lists of edges, deletion, evidence, separating sets.

Plain loops over pairs of nodes. With numpy's fancy indexing these took as long as the tests
themselves (10 of 20 ms for an attention head of 200 tokens); here they take a tenth.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import NONE
from causal_kernels.partial import TIE

__all__ = [
    "collect_separators",
    "condense",
    "delete_separated",
    "list_edges",
    "note_tests",
    "note_unconditional",
]


@kernel
def list_edges(marks, tiers, skip):
    """Return int32 (E, 2): the edges (a, b), a < b, sorted by (tier of b, a, b).

    ``skip`` bool (N, N), or (0, 0) for none: edges to be left out. Tiers do not decrease.
    """
    n = marks.shape[0]
    some = skip.shape[0] > 0
    count = 0
    for a in range(n):
        for b in range(a + 1, n):
            if marks[a, b] != NONE and not (some and skip[a, b]):
                count += 1
    edges = np.empty((count, 2), np.int32)
    k = 0
    first = 0
    while first < n:
        last = first + 1
        while last < n and tiers[last] == tiers[first]:
            last += 1
        for a in range(last):
            for b in range(max(a + 1, first), last):
                # both entries say whether there is an edge; this one is read along a row
                there = marks[b, a] if last == first + 1 else marks[a, b]
                if there != NONE and not (some and skip[a, b]):
                    edges[k, 0] = a
                    edges[k, 1] = b
                    k += 1
        first = last
    return edges


@kernel
def delete_separated(edges, gone, size, marks, sepset_start, sepset_size, first):
    """Remove the edges with ``gone`` and note where their separating sets stand.

    Those sets, of ``size`` nodes each, stand one after the other in a list from ``first`` on.
    """
    k = first
    for e in range(edges.shape[0]):
        if not gone[e]:
            continue
        a = edges[e, 0]
        b = edges[e, 1]
        sepset_start[a, b] = k
        sepset_size[a, b] = size
        k += size
        marks[a, b] = NONE
        marks[b, a] = NONE


@kernel
def note_unconditional(correlation, skip, scale, weakest, z, tests):
    """Fill the upper triangles with the evidence of size 0; see `note_tests`.

    ``skip`` bool (N, N), or (0, 0) for none: pairs that were not tested.
    """
    n = correlation.shape[0]
    some = skip.shape[0] > 0
    for a in range(n):
        for b in range(a + 1, n):
            if some and skip[a, b]:
                continue
            r = abs(correlation[a, b])
            weakest[a, b] = r
            tests[a, b] = 1
            if scale > 0.0:
                z[a, b] = np.inf if r >= 1.0 - TIE else np.arctanh(r) * scale


@kernel
def note_tests(edges, best, count, scale, weakest, z, tests):
    """Keep the smallest |partial correlation| and Fisher z of each pair, and count its tests.

    ``best`` float64 (E,): smallest squared partial correlation of a size; ``count`` int64 (E,):
    tests of that size. ``scale`` is sqrt(n_samples - size - 3), or 0 if there are no samples. z is
    infinite where |r| cannot be told from 1 (`causal_kernels.partial`).
    """
    for e in range(edges.shape[0]):
        if count[e] == 0:
            continue
        a = edges[e, 0]
        b = edges[e, 1]
        r = best[e] ** 0.5
        tests[a, b] += count[e]
        if not weakest[a, b] <= r:  # also where it is NaN
            weakest[a, b] = r
        if scale > 0.0:
            value = np.inf if r >= 1.0 - TIE else np.arctanh(r) * scale
            if not z[a, b] <= value:
                z[a, b] = value


@kernel
def collect_separators(marks, place, node, sepset_start, sepset_size, sepset_nodes):
    """Return (start int32 (M + 1,), nodes int32): separating sets of all pairs without an edge.

    Pairs come in lexicographic order of the caller's numbering: ``place`` int64 (N,) is the
    learner's number of each of the caller's nodes, ``node`` int64 (N,) the inverse. Sets are
    ascending. A negative ``sepset_size`` counts as an empty set.
    """
    n = marks.shape[0]
    pairs = 0
    total = 0
    for i in range(n):
        for j in range(i + 1, n):
            if marks[i, j] == NONE:
                pairs += 1
                total += max(0, sepset_size[i, j])
    start = np.empty(pairs + 1, np.int32)
    start[0] = 0
    out = np.empty(total, np.int32)
    m = 0
    k = 0
    for i in range(n):
        for j in range(i + 1, n):
            a = min(place[i], place[j])
            b = max(place[i], place[j])
            if marks[a, b] != NONE:
                continue
            first = k
            for q in range(max(0, sepset_size[a, b])):
                member = node[sepset_nodes[sepset_start[a, b] + q]]
                at = k
                while at > first and out[at - 1] > member:
                    out[at] = out[at - 1]
                    at -= 1
                out[at] = member
                k += 1
            m += 1
            start[m] = k
    return start, out


@kernel
def condense(values, place):
    """Return the upper triangle of a float64 (N, N) array row by row, in the caller's numbering."""
    n = values.shape[0]
    out = np.empty(n * (n - 1) // 2, np.float64)
    k = 0
    for i in range(n):
        for j in range(i + 1, n):
            out[k] = values[min(place[i], place[j]), max(place[i], place[j])]
            k += 1
    return out
