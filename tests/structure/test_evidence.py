"""Evidence of each pair against everything that the plain twin asked; `tests.naive` counts.

ICD, FCI and PC in the order-independent variant are compared in test_truth_learners.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from scipy import special

from causal_lvlm import structure
from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.structure import LearnedStructure, evidence
from tests import naive

# What is given and asked for here is not always what the annotations promise.
learn_structure: Any = structure.learn_structure
PairEvidence: Any = evidence.PairEvidence


def sample(rng, n, n_samples):
    weights = naive.random_dag(rng, n + 2, 3.0)
    data = rng.normal(size=(n_samples, n + 2)) @ np.linalg.inv(np.eye(n + 2) - weights).T
    return np.corrcoef(data[:, :n].T)


def asked(correlation, tiers, stable, threshold):
    """Every test that the twin makes, by pair."""
    plain = naive.correlation_test(correlation)
    met: dict[tuple[int, int], list[tuple[int, float]]] = {}

    def test(i, j, given):
        value = plain(i, j, given)
        met.setdefault((min(i, j), max(i, j)), []).append((len(given), value))
        return value

    n = len(correlation)
    naive.learn(test, n, threshold, tier=lambda node: int(tiers[node]), stable=stable)
    return met


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("tiered", ["icd", "ordered", "tiers"])
def test_all_tests_count(tiered, variant):
    """With an order that renumbers the nodes, Fisher's z, and a p-value for each pair."""
    rng = np.random.default_rng(0)
    alpha, deepest = 0.1, 0
    for _ in range(20):
        n, n_samples = int(rng.integers(3, 8)), int(rng.integers(12, 60))
        correlation = sample(rng, n, n_samples)
        level = {"icd": np.zeros(n), "ordered": np.arange(n), "tiers": np.arange(n) // 3}[tiered]
        order = rng.permutation(n) if tiered != "icd" else np.arange(n)
        tiers = np.empty(n, dtype=int)
        tiers[order] = level
        arguments: dict[str, Any] = {"algorithm": "icd"}
        if tiered != "icd":
            arguments = {"order": order, "tiers": tiers}
        found = learn_structure(
            correlation, n_samples=n_samples, alpha=alpha, variant=variant, **arguments
        )

        def z_value(value, size, n_samples=n_samples):
            return np.arctanh(value) * np.sqrt(n_samples - size - 3)

        quantile = -special.ndtri(alpha / 2)

        def threshold(size, n_samples=n_samples, quantile=quantile):
            return np.tanh(quantile / np.sqrt(n_samples - size - 3))

        met = asked(correlation[np.ix_(order, order)], level, variant == "stable", threshold)
        assert found.evidence.tests.sum() == found.n_tests == sum(map(len, met.values()))
        for (a, b), values in met.items():
            i, j = int(order[a]), int(order[b])
            deepest = max(deepest, max(size for size, _ in values))
            assert found.tests_of(i, j) == found.tests_of(j, i) == len(values)
            assert found.weakest(j, i) == pytest.approx(min(v for _, v in values), abs=1e-9)
            p_value = max(2 * special.ndtr(-z_value(v, size)) for size, v in values)
            assert found.p_value(i, j) == pytest.approx(p_value, rel=1e-6)
            assert (found.p_value(i, j) > alpha) == (found.sepset(i, j) is not None)
    assert deepest >= 2


def test_a_fixed_threshold_has_no_p_values():
    correlation = sample(np.random.default_rng(1), 6, 50)
    found = learn_structure(correlation, threshold=0.2, n_samples=50, algorithm="icd")
    met = asked(correlation, np.zeros(6), True, lambda size: 0.2)
    assert np.isnan(found.evidence.z).all() and np.isnan(found.evidence.p_values).all()
    for (i, j), values in met.items():
        assert np.isnan(found.p_value(i, j)) and found.tests_of(i, j) == len(values)
        assert found.weakest(i, j) == pytest.approx(min(v for _, v in values), abs=1e-9)
        assert (found.weakest(i, j) <= 0.2) == (found.sepset(i, j) is not None)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("algorithm", ["ordered_icd", "icd", "fci", "pc"])
def test_copies(algorithm, variant):
    """|r| = 1: p-value 0, and what has no answer is no test."""
    data = np.random.default_rng(2).normal(size=(100, 4))
    data[:, 2] += data[:, 0]
    data = np.column_stack([data, -data[:, 2]])  # 4 is minus 2
    correlation = np.array(np.corrcoef(data.T))
    correlation[2, 4] = correlation[4, 2] = -1.0
    found = learn_structure(
        correlation, n_samples=100, alpha=0.01, algorithm=algorithm, variant=variant
    )
    # a correlation that was computed: 1 but for rounding
    assert found.p_value(2, 4) == 0.0 and found.weakest(2, 4) == pytest.approx(1.0, abs=1e-12)
    assert found.evidence.log10_p_values[8] == -np.inf  # pair (2, 4) is entry 8 of 0..9
    assert [0, 2] in found.undecided.tolist() or algorithm == "ordered_icd"
    assert not np.isnan(found.evidence.z).any() and not np.isnan(found.evidence.weakest).any()


def test_tiny_p_values_have_a_logarithm():
    correlation = np.array([[1.0, 0.9], [0.9, 1.0]])
    found = learn_structure(correlation, n_samples=2000, alpha=0.01)
    assert found.p_value(0, 1) == 0.0
    z = np.arctanh(0.9) * np.sqrt(1997)
    # the leading term of the tail: density / z
    expected = (np.log(2) - z * z / 2 - np.log(z * np.sqrt(2 * np.pi))) / np.log(10)
    assert found.evidence.log10_p_values[0] == pytest.approx(expected, rel=1e-4)


def test_pairs_of_any_integer_type():
    """Indices of 8 bits must not wrap around when they are multiplied with the number of nodes."""
    rng = np.random.default_rng(3)
    n = 120
    found = learn_structure(np.corrcoef(rng.normal(size=(n, 40))), n_samples=40, alpha=0.05)
    for i, j in itertools.islice(itertools.combinations(range(n - 1, 0, -1), 2), 0, None, 37):
        for kind in (np.uint8, np.int16):
            a, b = kind(i), kind(j)
            assert found.sepset(a, b) == found.sepset(i, j)
            assert found.p_value(a, b) == found.p_value(i, j)
            assert found.tests_of(a, b) == found.tests_of(i, j)
    for pair in ((0.0, 1), ("a", 1), (None, 1), (0, 0), (-1, 2), (0, n)):
        for method in (found.sepset, found.p_value, found.weakest, found.tests_of):
            with pytest.raises(StructureError, match=r"node|pair"):
                method(*pair)


def test_condensed_order():
    found = learn_structure(
        np.corrcoef(np.random.default_rng(4).normal(size=(7, 30))), n_samples=30
    )
    for at, (i, j) in enumerate(itertools.combinations(range(7), 2)):
        assert found.weakest(i, j) == found.evidence.weakest[at]


def test_no_evidence(tmp_path):
    correlation = sample(np.random.default_rng(5), 8, 60)
    lean = learn_structure(correlation, n_samples=60, alpha=0.05, evidence=False)
    full = learn_structure(correlation, n_samples=60, alpha=0.05)
    assert lean.evidence is None and lean.pag == full.pag and lean != full
    for method in (lean.p_value, lean.weakest, lean.tests_of):
        with pytest.raises(StructureError, match="evidence=True"):
            method(0, 1)
    for one in (lean, full):
        loaded = LearnedStructure.load(one.save(tmp_path / "one.json"))
        assert loaded == one and loaded.evidence == one.evidence


def test_saved_evidence_and_equality(tmp_path):
    data = np.random.default_rng(6).normal(size=(60, 6))
    found = learn_structure(data, input="data", alpha=0.05, algorithm="icd")
    loaded = LearnedStructure.load(found.save(tmp_path / "one.json"))
    assert loaded == found and loaded.p_value(2, 4) == found.p_value(2, 4)
    assert loaded.parameters == found.parameters and loaded.notes == found.notes
    assert loaded.summary() == {**found.summary(), "smallest_eigenvalue": pytest.approx(
        found.smallest_eigenvalue
    )}  # fmt: skip
    changed = found.evidence.weakest.copy()
    changed[3] += 1e-3
    other = dataclasses.replace(found.evidence, weakest=changed)
    assert other != found.evidence and dataclasses.replace(found, evidence=other) != found
    assert found.evidence != 3
    with pytest.raises(ValueError, match="read-only"):
        found.evidence.tests[0] = 3
    with pytest.raises(StructureError, match="one entry for each pair"):
        PairEvidence(np.zeros(3), np.zeros(3), np.zeros(2))
    (tmp_path / "one.npz").unlink()
    with pytest.raises(OutputError):
        LearnedStructure.load(tmp_path / "one.json")


def test_one_node_has_no_pairs(tmp_path):
    found = learn_structure([[1.0]], n_samples=10)
    assert len(found.evidence.tests) == 0 and found.n_tests == 0
    assert LearnedStructure.load(found.save(tmp_path / "one.json")) == found
