"""Possibly directed paths against every simple path of small graphs, and in time."""

from __future__ import annotations

import itertools
import time

import networkx as nx
import numpy as np
import pytest

from causal_lvlm.structure.paths import (
    needed_nodes,
    possible_causes,
    possible_effects,
    possibly_directed,
    reached,
)
from tests import naive


def random_marks(rng, n, share):
    upper = np.triu(rng.random((n, n)) < share, 1)
    return np.where(upper | upper.T, rng.integers(1, 4, size=(n, n)), 0).astype(np.uint8)


def brute_force(marks, i, j):
    """The edges of each simple path from i to j that has no arrowhead at an earlier end."""
    paths = nx.all_simple_paths(nx.from_numpy_array(marks > 0), i, j)
    steps = [list(itertools.pairwise(path)) for path in paths]
    return [path for path in steps if all(marks[v, u] != 2 for u, v in path)]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_against_all_simple_paths(n):
    rng = np.random.default_rng(n)
    answers = set()
    counts = np.zeros(2, dtype=int)
    for _ in range(60):
        marks = random_marks(rng, n, rng.choice([0.2, 0.4, 0.8]))
        for j in range(n):
            before = possible_causes(marks, j)
            assert not before[j] and not possibly_directed(marks, j, j)
            for i in set(range(n)) - {j}:
                paths = brute_force(marks, i, j)
                truth = bool(paths)
                needed = (
                    [u for u, _ in paths[0] if all(u in dict(p) for p in paths)] if paths else []
                )
                assert needed_nodes(marks, i, j) == [*needed, *([j] if truth else [])]
                counts += [len(needed) > 1, len(needed) == 1]
                assert before[i] == truth == possibly_directed(marks, i, j)
                assert possible_effects(marks, i)[j] == truth
                answers.add(truth)
    assert answers == {True, False}
    assert counts[1] > 10 and (counts[0] > 20 or n == 2)


def test_without_selection_it_is_what_the_learners_call_possible_ancestors():
    """Where a tail always stands beside an arrowhead, a tail at the later end adds no path."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        marks = random_marks(rng, 7, 0.4)
        marks[(marks.T == 3) & (marks > 0)] = 2
        marks[(marks == 3) & (marks.T != 2)] = 1
        for j in range(7):
            before = naive.possible_ancestors(naive.from_array(marks), j) - {j}
            assert set(np.flatnonzero(possible_causes(marks, j))) == before


def test_open_directions_of_a_cpdag_can_be_passed():
    """0 - 1 -> 2."""
    marks = np.array([[0, 3, 0], [3, 0, 2], [0, 3, 0]], dtype=np.uint8)
    assert possibly_directed(marks, 0, 2) and possibly_directed(marks, 1, 0)
    assert not possibly_directed(marks, 2, 1)


def test_forbidden_pairs_of_the_kernels_are_no_edges():
    marks = np.array([[0, 4], [4, 0]], dtype=np.uint8)
    assert not possibly_directed(marks, 0, 1)


def test_steps_have_a_direction():
    step = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert reached(step, 0).tolist() == [False, True, True] and not reached(step, 2).any()


def test_large_graphs_take_milliseconds():
    """2,500 nodes: a chain, in which every node is a level of its own, and a dense graph."""
    n = 2500
    chain = np.zeros((n, n), dtype=np.uint8)
    k = np.arange(n - 1)
    chain[k, k + 1], chain[k + 1, k] = 2, 3
    dense = random_marks(np.random.default_rng(0), n, 0.5)
    for marks in (chain, dense):
        before = time.perf_counter()
        assert possibly_directed(marks, 0, n - 1)
        assert time.perf_counter() - before < 2  # some 20 ms on a quiet core
        before = time.perf_counter()
        assert len(needed_nodes(marks, 0, n - 1)) == (n if marks is chain else 2)
        assert time.perf_counter() - before < 5
    assert not possibly_directed(chain, n - 1, 0)
