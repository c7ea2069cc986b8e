"""Learning with kernels against learning in plain Python, on random matrices and random DAGs."""

from __future__ import annotations

import os

import causal_kernels as kernels
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.structure import learn_structure
from tests import naive
from tests.examples import examples

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
EXAMPLES = 150 if JIT else 60


def random_correlation(rng, n):
    """Three kinds of matrices that keep all rules busy: noise, a latent factor, a sparse DAG."""
    kind = rng.integers(3)
    if kind == 0:
        return np.corrcoef(rng.normal(size=(n + 3, n)), rowvar=False)
    if kind == 1:
        data = rng.normal(size=(4 * n, n)) + 1.5 * rng.normal(size=(4 * n, 1))
        return np.corrcoef(data, rowvar=False)
    total = n + int(rng.integers(0, 3))
    weights = naive.random_dag(rng, total, 3)
    return naive.population_correlation(weights, np.sort(rng.permutation(total)[:n]))


def random_tiers(rng, n):
    """All in one tier, each in its own, or something between."""
    kind = rng.integers(3)
    if kind == 0:
        return np.zeros(n, dtype=np.int64)
    if kind == 1:
        return np.arange(n)
    return np.sort(rng.integers(0, max(1, n // 2), size=n))


def assert_same(structure, twin, n):
    np.testing.assert_array_equal(structure.pag.marks, twin.marks)
    assert list(structure.tests_per_size) == twin.tests
    assert structure.conflicts == twin.conflicts
    for (i, j), members in twin.sepset.items():
        assert structure.sepset(i, j) == members
    assert len(structure.separated) == len(twin.sepset)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@examples(EXAMPLES)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 7 if JIT else 6),
    threshold=st.sampled_from([0.02, 0.1, 0.2, 0.3, 0.45]),
)
def test_learning(variant, seed, n, threshold):
    rng = np.random.default_rng(seed)
    correlation = random_correlation(rng, n)
    tiers = random_tiers(rng, n)
    twin = naive.learn(
        naive.correlation_test(correlation), n, lambda size: threshold,
        tier=lambda node: int(tiers[node]), stable=variant == "stable",
    )  # fmt: skip
    structure = learn_structure(correlation, threshold=threshold, tiers=tiers, variant=variant)
    assert_same(structure, twin, n)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@examples(EXAMPLES // 3)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 7), spread=st.floats(1e-13, 3e-12))
def test_chains_of_near_ties(variant, seed, n, spread):
    """What is zero in the model differs by about what counts as a tie, up and down."""
    rng = np.random.default_rng(seed)
    total = n + int(rng.integers(0, 3))
    weights = naive.random_dag(rng, total, 3)
    correlation = naive.population_correlation(weights, np.sort(rng.permutation(total)[:n]))
    noise = np.triu(rng.uniform(-spread, spread, (n, n)), 1)
    correlation = correlation + noise + noise.T
    twin = naive.learn(
        naive.correlation_test(correlation), n, lambda size: 0.02, tier=lambda node: 0,
        stable=variant == "stable",
    )  # fmt: skip
    structure = learn_structure(correlation, threshold=0.02, variant=variant, algorithm="icd")
    assert_same(structure, twin, n)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@examples(EXAMPLES // 3)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 7), n_samples=st.integers(30, 400))
def test_icd_with_fishers_z(variant, seed, n, n_samples):
    """`icd` is the twin with one tier, and thresholds follow Fisher's z."""
    from scipy import stats

    rng = np.random.default_rng(seed)
    correlation = random_correlation(rng, n)
    z = stats.norm.isf(0.05 / 2)
    twin = naive.learn(
        naive.correlation_test(correlation), n,
        lambda size: float(np.tanh(z / np.sqrt(n_samples - size - 3))),
        tier=lambda node: 0, stable=variant == "stable",
    )  # fmt: skip
    for arguments in ({"algorithm": "icd"}, {"tiers": np.zeros(n, dtype=int)}):
        structure = learn_structure(
            correlation, n_samples=n_samples, alpha=0.05, variant=variant, **arguments
        )
        assert_same(structure, twin, n)


@examples(EXAMPLES // 2)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 6), tiered=st.booleans())
def test_separation_oracle(seed, n, tiered):
    """Population correlations give what d-separation in the DAG gives, and it is all true."""
    rng = np.random.default_rng(seed)
    total = n + int(rng.integers(0, 3))
    weights = naive.random_dag(rng, total, 2.5)
    observed = np.sort(rng.permutation(total)[:n])
    order = naive.order_of(weights, observed)
    tiers = random_tiers(rng, n) if tiered else np.zeros(n, dtype=int)
    along = observed[order]
    dag = naive.dag_of(weights)
    oracle = naive.separation_test(dag)
    twin = naive.learn(
        lambda i, j, members: oracle(along[i], along[j], tuple(along[k] for k in members)), n,
        lambda size: 0.5, tier=lambda node: int(tiers[node]), stable=True,
    )  # fmt: skip
    correlation = naive.population_correlation(weights, along)
    for variant in ("stable", "sequential"):
        structure = learn_structure(
            correlation, n_samples=10**13, alpha=0.01, tiers=tiers, variant=variant
        )
        np.testing.assert_array_equal(structure.pag.marks, twin.marks)
        assert structure.conflicts == 0 and structure.violations == ()
    ancestors = naive.ancestry_of(weights)
    for i, j in np.argwhere(twin.marks):
        is_ancestor = ancestors.has_edge(along[j], along[i])
        assert twin.marks[i, j] in (1, 3 if is_ancestor else 2)
        if tiers[j] > tiers[i]:
            assert twin.marks[i, j] == 2


@examples(EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), depth=st.integers(0, 5))
def test_pds_and_possible_ancestors(seed, n, depth):
    """Trees, distances, the set condition and possible ancestors on arbitrary mixed graphs."""
    rng = np.random.default_rng(seed)
    marks = np.triu(rng.integers(1, 4, size=(n, n)) * (rng.random((n, n)) < 0.45), 1)
    marks = (marks + np.where(marks > 0, rng.integers(1, 4, size=(n, n)), 0).T).astype(np.uint8)
    graph = naive.from_array(marks)
    root = int(rng.integers(n))
    allowed = rng.random(n) < 0.8
    node, parent, level = kernels.pds_tree(marks, allowed.astype(np.uint8), root, depth)
    pairs = naive.pds_pairs(graph, root, np.flatnonzero(allowed), depth) if depth else []
    for k, expected in enumerate(pairs, start=1):
        entries = np.flatnonzero(level == k)
        assert len(entries) == len(expected)
        assert {(int(node[parent[m]]), int(node[m])) for m in entries} == expected
    assert level.max() <= depth
    for m in np.flatnonzero(level >= 2):
        u, v = node[parent[parent[m]]], node[parent[m]]
        assert naive.legal(graph, u, v, node[m])
    start, neighbour = kernels.neighbour_lists(marks)
    tiers = np.sort(rng.integers(0, 3, size=n))
    needed = (rng.random(n) < 0.8).astype(np.uint8)
    matrix = kernels.pds_distance_matrix(marks, start, neighbour, tiers, max(1, depth), needed)
    closure = kernels.possible_ancestor_matrix(marks, start, neighbour)
    for x in range(n):
        distance = naive.pds_distance(graph, x, np.flatnonzero(tiers <= tiers[x]), max(1, depth))
        found = {int(z): int(matrix[x, z]) for z in np.flatnonzero(matrix[x])}
        assert found == (distance if needed[x] else {})
        assert set(np.flatnonzero(closure[x]).tolist()) == naive.possible_ancestors(graph, x)
    size = int(rng.integers(0, n))
    members = np.array([z for z in rng.permutation(n) if z != root][:size], dtype=np.int64)
    legal = kernels.is_pds_set(
        marks, root, members, size, np.empty((size + 1, max(1, size)), np.uint8),
        np.empty((max(1, size * (size + 1)), 2), np.int64), np.empty(max(1, size), np.uint8),
    )  # fmt: skip
    assert legal == naive.is_pds_set(graph, root, [int(z) for z in members])


@examples(6 * EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 10), simultaneous=st.booleans())
def test_orientation(seed, n, simultaneous):
    """All rules on random skeletons with random separating sets (most of them contradictory)."""
    rng = np.random.default_rng(seed)
    skeleton = np.triu(rng.random((n, n)) < rng.choice([0.3, 0.5, 0.7]), 1)
    marks = (skeleton | skeleton.T).astype(np.uint8)
    tiers = random_tiers(rng, n)
    start = np.zeros((n, n), dtype=np.int64)
    size = np.zeros((n, n), dtype=np.int16)
    nodes: list[int] = []
    sepset = {}
    for i, j in np.argwhere(np.triu(~skeleton, 1)):
        others = [k for k in range(n) if k not in (i, j)]
        members = [k for k in others if rng.random() < 0.4]
        start[i, j], size[i, j] = len(nodes), len(members)
        nodes += members
        sepset[int(i), int(j)] = tuple(members)
    graph = {(int(i), int(j)): ">" if tiers[j] > tiers[i] else "o" for i, j in np.argwhere(marks)}
    twin = naive.Orientation(graph, n, sepset, simultaneous)
    twin.orient()
    claims = kernels.orient(
        marks, tiers, np.zeros((0, 0), dtype=np.uint8), start, size,
        np.array(nodes, dtype=np.int64), simultaneous,
    )  # fmt: skip
    np.testing.assert_array_equal(marks, naive.to_array(graph, n))
    assert {(int(i), int(j)) for i, j in np.argwhere(claims == kernels.CONFLICT)} == twin.frozen
    twin.complete()
    kernels.complete_tails(marks, claims)
    np.testing.assert_array_equal(marks, naive.to_array(graph, n))


@pytest.mark.parametrize("density", [0.02, 0.2, 0.9])
@pytest.mark.parametrize("n", [3, 8, 31, 64] if JIT else [3, 8, 13])
@pytest.mark.parametrize("copies", [False, True])
def test_order_one(n, density, copies):
    """Both ways through the candidates (lists and whole rows), with and without singular pairs."""
    rng = np.random.default_rng(n)
    data = rng.normal(size=(2 * n, n)) + rng.normal(size=(2 * n, 1))
    if copies:
        data[:, n - 1] = data[:, 0]
    correlation = np.asarray(np.corrcoef(data, rowvar=False))
    marks = np.triu(rng.random((n, n)) < density, 1).astype(np.uint8)
    marks[0, 1] = 1
    marks |= marks.T
    tiers = np.sort(rng.integers(0, max(2, n // 2), size=n))
    edges = np.ascontiguousarray(np.argwhere(np.triu(marks)), dtype=np.int64)
    left = np.maximum(1 - correlation**2, 1e-12)
    inverse = np.where(left > 1e-9, 1 / left, -1.0)
    best = np.empty(len(edges))
    member, tests, blind = (np.empty(len(edges), dtype=np.int64) for _ in range(3))
    lists = kernels.neighbour_lists(marks)
    prepared = kernels.prepare_one(inverse, marks, *lists, tiers)
    candidates = kernels.order_one(
        correlation, inverse, marks, *lists, tiers, prepared, edges, best, member, tests, blind
    )
    total = 0
    for e, (a, b) in enumerate(edges):
        near = set(np.flatnonzero(marks[b]))
        if tiers[a] == tiers[b]:
            near |= set(np.flatnonzero(marks[a]))
        choices = [c for c in sorted(near - {a, b}) if tiers[c] <= tiers[b]]
        total += len(choices)
        singular = [c for c in choices if 1 - 1e-9 <= max(abs(correlation[[a, b], c]))]
        values = {
            c: naive.partial_correlation(correlation, a, b, [c]) ** 2
            for c in choices
            if c not in singular and abs(correlation[a, b]) < 1 - 1e-9
        }
        assert tests[e] + blind[e] == len(choices)
        assert blind[e] == len(singular)
        if values:
            assert best[e] == pytest.approx(min(values.values()), rel=1e-9, abs=1e-14)
            assert values[member[e]] == pytest.approx(best[e], rel=1e-9, abs=1e-14)
    assert candidates == total
