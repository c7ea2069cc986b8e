"""Sequential PC and FCI against plain loops; sparse graphs with tiers, and small special cases.

The order-independent PC and the truth are compared in test_truth_learners.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from causal_lvlm.structure import learn_structure
from tests import naive, naive_learners


def skeleton(test, n, threshold, tier):
    """PC as published: edges in order, neighbours as they are now, the first set that separates."""
    near = {v: set(range(n)) - {v} for v in range(n)}
    sepset: dict[tuple[int, int], tuple[int, ...]] = {}
    tests = []
    in_order = sorted(itertools.combinations(range(n), 2), key=lambda p: (tier[p[1]], *p))
    for size in range(n - 1):
        edges = [(a, b) for a, b in in_order if b in near[a]]
        pools = [near[x] - {y} for a, b in edges for x, y in ((a, b), (b, a))]
        if size and not any(len(pool) >= size for pool in pools):
            break
        tests.append(0)
        for a, b in edges:
            done = set()
            for x, y in ((a, b), (b, a)):
                if x == a and tier[a] != tier[b]:
                    continue
                pool = [z for z in sorted(near[x] - {y}) if tier[z] <= tier[b]]
                for given in itertools.combinations(pool, size):
                    if (a, b) in sepset or given in done:
                        continue
                    done.add(given)
                    tests[-1] += 1
                    if test(a, b, given) <= threshold:
                        sepset[a, b] = given
                        near[a].discard(b)
                        near[b].discard(a)
    return near, sepset, tests


def fci(test, n, threshold):
    """Possible-d-sep stage: sets from the ones found at its start, until nothing is left to try."""
    near, sepset, _ = skeleton(test, n, threshold, [0] * n)

    def edges():
        return [(a, b) for a, b in itertools.combinations(range(n), 2) if b in near[a]]

    mark = naive_learners.sure_colliders(test, n, edges(), sepset, lambda size: threshold)
    reach = {}
    for a, b in edges():
        inside = (naive.possible_ancestors(mark, a) | naive.possible_ancestors(mark, b)) - {a, b}
        for x in (a, b):
            reach[a, b, x] = sorted(naive.pds_distance(mark, x, inside, n * n))
    for size in range(1, n - 1):
        for a, b in edges():
            pools = [reach[a, b, x] for x in (a, b)]
            if not any(
                len(reach[a, b, x]) >= size and not set(reach[a, b, x]) <= near[x] for x in (a, b)
            ):
                continue
            for given in itertools.chain(*(itertools.combinations(p, size) for p in pools)):
                if test(a, b, given) <= threshold:
                    sepset[a, b] = given
                    near[a].discard(b)
                    near[b].discard(a)
                    break
    marks, _, _ = naive_learners.orient_pag(edges(), n, sepset, selection=False, stable=False)
    return marks, sepset


def sample(rng, n, degree=2.5):
    """A correlation estimated from few samples: faithful to nothing."""
    weights = naive.random_dag(rng, n + 2, degree)
    data = rng.normal(size=(60, n + 2)) @ np.linalg.inv(np.eye(n + 2) - weights).T
    return np.corrcoef(data[:, :n].T)


@pytest.mark.parametrize("tiered", [False, True])
def test_sequential_pc(tiered):
    rng = np.random.default_rng(0)
    longest = 0
    for _ in range(40):
        n = int(rng.integers(4, 10))
        correlation = sample(rng, n)
        tier = np.sort(rng.integers(0, 3, n)) if tiered else np.zeros(n, dtype=int)
        near, sepset, tests = skeleton(naive.correlation_test(correlation), n, 0.12, tier)
        found = learn_structure(
            correlation, threshold=0.12, algorithm="pc", variant="sequential",
            tiers=tier if tiered else None,
        )  # fmt: skip
        for a, b in itertools.combinations(range(n), 2):
            assert found.sepset(a, b) == sepset.get((a, b))
            assert (found.pag.marks[a, b] > 0) == (b in near[a])
        while tests and tests[-1] == 0 and len(tests) > len(found.tests_per_size):
            tests.pop()  # across tiers the earlier end is no root, so its neighbours do not count
        assert found.tests_per_size == tuple(tests)
        longest = max(longest, len(tests))
    assert longest > 3


def test_sequential_fci():
    rng = np.random.default_rng(1)
    beyond = 0
    for _ in range(60):
        n = int(rng.integers(5, 9))
        correlation = sample(rng, n, 3.0)
        test = naive.correlation_test(correlation)
        marks, sepset = fci(test, n, 0.12)
        found = learn_structure(correlation, threshold=0.12, algorithm="fci", variant="sequential")
        np.testing.assert_array_equal(found.pag.marks > 0, marks > 0)
        for a, b in itertools.combinations(range(n), 2):
            assert found.sepset(a, b) == sepset.get((a, b))
        np.testing.assert_array_equal(found.pag.marks, marks)
        beyond += len(sepset) - len(skeleton(test, n, 0.12, [0] * n)[1])
    assert beyond > 3


def test_an_order_for_pc():
    """Singleton tiers: every edge has its direction, and the parents are those of the DAG."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        n = int(rng.integers(3, 9))
        weights = naive.random_dag(rng, n, 2.5)
        order = naive.order_of(weights, range(n))
        found = learn_structure(
            naive.population_correlation(weights, range(n)), algorithm="pc", order=order,
            n_samples=10**13, alpha=0.01,
        )  # fmt: skip
        expected = np.where(weights.T != 0, 2, 0) + np.where(weights != 0, 3, 0)
        np.testing.assert_array_equal(found.pag.marks, expected)
        assert found.complete and not found.violations


ALL: list[dict[str, Any]] = [
    {"algorithm": "ordered_icd"},
    {"algorithm": "icd"},
    {"algorithm": "icd", "selection_bias": True},
    {"algorithm": "fci"},
    {"algorithm": "fci", "selection_bias": True},
    {"algorithm": "pc"},
]


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("arguments", ALL, ids=lambda a: "-".join(map(str, a.values())))
def test_smallest_graphs(arguments, variant):
    """One, two and three nodes; nothing correlated, everything the same, everything alike."""
    values = {"zero": 0.0, "copy": 1.0, "all": 0.5}
    for n, (name, off) in itertools.product((1, 2, 3), values.items()):
        correlation = np.full((n, n), off)
        np.fill_diagonal(correlation, 1.0)
        found = learn_structure(
            correlation, n_samples=100, alpha=0.01, variant=variant, **arguments
        )
        assert found.complete and found.unfinished_size is None and not found.violations
        edges = 0 if name == "zero" else n * (n - 1) // 2
        assert found.pag.n_edges == edges and found.tests_per_size[0] == n * (n - 1) // 2
        ordered = arguments["algorithm"] == "ordered_icd"
        if name == "copy" and n == 3:  # no test of size 1 has an answer
            assert found.undecided.tolist() == [[0, 1], [0, 2], [1, 2]][1 if ordered else 0 :]
            assert found.undecided_edges == len(found.undecided) and found.n_tests == 3
        else:
            assert not len(found.undecided)
        if edges:
            kinds = set(found.pag.marks[np.triu_indices(n, 1)].tolist())
            assert kinds == ({3} if arguments["algorithm"] == "pc" else {2} if ordered else {1})
