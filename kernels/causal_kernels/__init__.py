"""Compiled kernels of structure learning: arrays in, arrays and status codes out.

Knows numpy and numba only. Every kernel runs unchanged as plain Python (``NUMBA_DISABLE_JIT=1``)
and its result depends on nothing but its arguments. `warm_up` compiles what learning needs.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.graph import (
    ARROW,
    CIRCLE,
    NONE,
    TAIL,
    neighbour_lists,
    possible_ancestor_matrix,
    possible_ancestors,
)
from causal_kernels.orientation import CONFLICT, initial_marks, orient
from causal_kernels.partial import OK, SINGULAR, partial_correlation
from causal_kernels.pds import is_pds_set, pds_distance_matrix, pds_distances, pds_tree
from causal_kernels.separation import needed_roots, order_one, order_r
from causal_kernels.sequential import order_one_sequential, order_r_sequential
from causal_kernels.tails import complete_tails

__all__ = [
    "ARROW",
    "CIRCLE",
    "CONFLICT",
    "NONE",
    "OK",
    "SINGULAR",
    "TAIL",
    "complete_tails",
    "initial_marks",
    "is_pds_set",
    "needed_roots",
    "neighbour_lists",
    "order_one",
    "order_one_sequential",
    "order_r",
    "order_r_sequential",
    "orient",
    "partial_correlation",
    "pds_distance_matrix",
    "pds_distances",
    "pds_tree",
    "possible_ancestor_matrix",
    "possible_ancestors",
    "warm_up",
]


def warm_up() -> None:
    """Compile (or load from the cache) everything that structure learning calls.

    Takes some twenty seconds the first time on a machine; benchmarks call it before timing.
    """
    n = 4
    correlation = np.full((n, n), 0.5) + 0.5 * np.eye(n)
    inverse = np.full((n, n), 4.0 / 3.0)
    tiers = np.zeros(n, np.int64)
    marks = np.ones((n, n), np.uint8) - np.eye(n, dtype=np.uint8)
    edges = np.ascontiguousarray(np.argwhere(np.triu(marks)), dtype=np.int64)
    count = len(edges)
    best = np.zeros(count)
    tests = np.zeros(count, np.int64)
    blind = np.zeros(count, np.int64)
    one = np.zeros((count, 1), np.int64)
    two = np.zeros((count, 2), np.int64)
    start, neighbour = neighbour_lists(marks)
    found = (best, one[:, 0], tests, blind)
    order_one(correlation, inverse, marks, start, neighbour, tiers, edges, *found)
    order_one_sequential(correlation, marks.copy(), tiers, edges, 0.01, 1e-9, *found)
    ancestor = possible_ancestor_matrix(marks, start, neighbour)
    needed = needed_roots(tiers, edges, ancestor, 2)
    distance = pds_distance_matrix(marks, start, neighbour, tiers, 2, needed)
    found = (best, two, tests, blind)
    order_r(correlation, marks, tiers, edges, distance, ancestor, 2, 1e-9, 10, *found)
    order_r_sequential(
        correlation, marks.copy(), marks.copy(), start, neighbour, tiers, edges, -1, 2, 0.01, 1e-9,
        10, *found,
    )  # fmt: skip
    sepset = np.zeros((n, n), np.int64)
    claims = orient(marks, tiers, sepset, sepset.astype(np.int16), np.zeros(0, np.int64), True)
    complete_tails(marks, claims)
    marks.setflags(write=False)
    pds_tree(marks, np.ones(n, np.uint8), 0, 1)
