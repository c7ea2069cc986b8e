"""Compiled kernels of structure learning: arrays in, arrays and status codes out.

Knows numpy and numba only. Every kernel runs unchanged as plain Python (``NUMBA_DISABLE_JIT=1``)
and its result depends on nothing but its arguments. `warm_up` compiles what learning needs.
"""

from __future__ import annotations

import numpy as np

from causal_kernels.cache import own_cache

with own_cache():
    from causal_kernels.adjacent import (
        order_r_pool_sequential,
        orient_colliders,
        sure_colliders,
    )
    from causal_kernels.bookkeeping import (
        collect_separators,
        condense,
        delete_separated,
        list_edges,
        note_tests,
        note_unconditional,
    )
    from causal_kernels.graph import (
        ARROW,
        CIRCLE,
        FORBIDDEN,
        NONE,
        TAIL,
        neighbour_lists,
        possible_ancestor_matrix,
        possible_ancestors,
    )
    from causal_kernels.meek import CPDAG_RULES, orient_cpdag
    from causal_kernels.orientation import CONFLICT, PAG_RULES, initial_marks, orient
    from causal_kernels.partial import NOISE, OK, SINGULAR, TIE, partial_correlation
    from causal_kernels.pds import (
        is_pds_set,
        pds_distance_matrix,
        pds_distances,
        pds_pools,
        pds_tree,
    )
    from causal_kernels.selection import SELECTION_RULES, complete_selection
    from causal_kernels.separation import BEYOND, ICD_SEP, NEIGHBOURS, order_r
    from causal_kernels.sequential import order_one_sequential, order_r_sequential
    from causal_kernels.single import inverse_rest, order_one, prepare_one
    from causal_kernels.subsets import needed_roots
    from causal_kernels.tails import complete_tails

__all__ = [
    "ARROW",
    "BEYOND",
    "CIRCLE",
    "CONFLICT",
    "CPDAG_RULES",
    "FORBIDDEN",
    "ICD_SEP",
    "NEIGHBOURS",
    "NOISE",
    "NONE",
    "OK",
    "PAG_RULES",
    "SELECTION_RULES",
    "SINGULAR",
    "TAIL",
    "TIE",
    "collect_separators",
    "complete_selection",
    "complete_tails",
    "condense",
    "delete_separated",
    "initial_marks",
    "inverse_rest",
    "is_pds_set",
    "list_edges",
    "needed_roots",
    "neighbour_lists",
    "note_tests",
    "note_unconditional",
    "order_one",
    "order_one_sequential",
    "order_r",
    "order_r_pool_sequential",
    "order_r_sequential",
    "orient",
    "orient_colliders",
    "orient_cpdag",
    "partial_correlation",
    "pds_distance_matrix",
    "pds_distances",
    "pds_pools",
    "pds_tree",
    "possible_ancestor_matrix",
    "possible_ancestors",
    "prepare_one",
    "sure_colliders",
    "warm_up",
]


def warm_up() -> None:
    """Compile (or load from the cache) everything that structure learning calls.

    Takes some twenty seconds the first time on a machine; benchmarks call it before timing.
    """
    n = 4
    correlation = np.full((n, n), 0.5) + 0.5 * np.eye(n)
    inverse = inverse_rest(correlation, 1e-9)
    tiers = np.zeros(n, np.int64)
    marks = np.ones((n, n), np.uint8) - np.eye(n, dtype=np.uint8)
    nothing = np.zeros((0, 0), np.bool_)
    edges = list_edges(marks, tiers, nothing)
    count = len(edges)
    best = np.zeros(count)
    tests = np.zeros(count, np.int64)
    blind = np.zeros(count, np.int32)
    one = np.zeros((count, 1), np.int32)
    two = np.zeros((count, 2), np.int32)
    start, neighbour = neighbour_lists(marks)
    found = (best, one[:, 0], tests, blind)
    prepared = prepare_one(inverse, marks, start, neighbour, tiers)
    order_one(correlation, inverse, marks, start, neighbour, tiers, prepared, edges, *found)
    order_one_sequential(correlation, marks.copy(), tiers, edges, 0.01, 1e-9, *found)
    ancestor = possible_ancestor_matrix(marks, start, neighbour)
    needed = needed_roots(tiers, edges, ancestor, 2)
    distance = pds_distance_matrix(marks, start, neighbour, tiers, 2, needed)
    found = (best, two, tests, blind)
    order_r(
        correlation, marks, tiers, edges, distance, ancestor, ICD_SEP, 2, 0.01, 1e-9, 10, *found
    )
    order_r_pool_sequential(
        correlation, marks.copy(), tiers, edges, distance, False, 2, 0.01, 1e-9, 10, *found
    )
    order_r_sequential(
        correlation, marks.copy(), marks.copy(), start, neighbour, tiers, edges, -1, 2, 0.01, 1e-9,
        10, *found,
    )  # fmt: skip
    sepset = np.zeros((n, n), np.int32)
    known = np.zeros((0, 0), np.uint8)
    sepsets = (sepset, sepset.astype(np.int16), np.zeros(0, np.int32))
    arrow = np.zeros(len(neighbour), np.uint8)
    sure_colliders(
        correlation, marks, start, neighbour, *sepsets, np.full(2, 0.01), 1e-9, 0, n, arrow,
        np.zeros(2, np.int64),
    )  # fmt: skip
    orient_colliders(marks.copy(), tiers, known, start, neighbour, arrow)
    pools = pds_pools(marks, start, neighbour, tiers, ancestor, marks, edges)
    order_r(
        correlation, marks, tiers, edges, pools, np.zeros((0, 0), np.uint8), NEIGHBOURS, 2, 0.01,
        1e-9, 10, *found,
    )  # fmt: skip
    orient_cpdag(marks.copy(), tiers, known, *sepsets, True)
    claims = orient(marks, tiers, known, *sepsets, True)
    complete_selection(marks, claims, True)
    complete_tails(marks, claims)
    pair_tests = np.zeros((n, n), np.int64)
    evidence = (np.zeros((n, n)), np.zeros((n, n)), pair_tests)
    note_unconditional(correlation, nothing, 1.0, *evidence)
    note_tests(edges, best, tests, 1.0, *evidence)
    delete_separated(edges, np.zeros(count, np.bool_), 2, marks, sepset, sepsets[1], 0)
    place = np.arange(n)
    collect_separators(marks, place, place, *sepsets)
    condense(evidence[0], place)
    pds_tree(marks, np.ones(n, np.uint8), 0, 1)
