"""Near-ties are decided by rule, so that no result depends on how a processor rounds.

The rule stands in `causal_kernels.partial`: |partial correlations| within 1e-12 of the smallest are
one tie, of which the lexicographically first set is taken; a value within 1e-12 of the threshold is
at it; one within 1e-12 of 1 is 1. Exact zeros of models are full of ties, so:

1. Noise of 1e-15, which is what another processor makes of the same matrix, changes nothing.
2. Nor does another kind of processor (OpenBLAS can be told to take itself for one).
3. What ties is the distance to the smallest value, not to the best so far: chains, in any order.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import causal_kernels as kernels
import numpy as np
import pytest

from causal_lvlm.structure import learn_structure, learn_structures
from tests import naive
from tests.structure.test_invariance import attention, facts

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, dict[str, Any]] = {
    "ordered_icd": {"algorithm": "ordered_icd"},
    "icd": {"algorithm": "icd"},
    "icd with selection": {"algorithm": "icd", "selection_bias": True},
    "fci": {"algorithm": "fci"},
    "pc": {"algorithm": "pc"},
}
VARIANTS = ("stable", "sequential")


def population(rng):
    """Correlation of 5-9 variables of a random linear model, some others being latent."""
    n = int(rng.integers(5, 10))
    total = n + int(rng.integers(0, 3))
    weights = naive.random_dag(rng, total, 3)
    return naive.population_correlation(weights, np.sort(rng.permutation(total)[:n]))


def noisy(rng, correlation, size=1e-15):
    """The same with errors of up to ``size`` in all entries but the diagonal, symmetric."""
    noise = np.triu(rng.uniform(-size, size, correlation.shape), 1)
    out = correlation + noise + noise.T
    np.fill_diagonal(out, 1.0)
    return out


def assert_same(one, other):
    assert facts(one) == facts(other)
    # values move by what the noise is amplified to, decisions by nothing
    np.testing.assert_allclose(one.evidence.weakest, other.evidence.weakest, atol=1e-12)
    np.testing.assert_allclose(one.evidence.p_values, other.evidence.p_values, atol=1e-9)


def check_noise(setting, variant, count, **level):
    rng = np.random.default_rng(12)
    for _ in range(count):
        correlation = population(rng)
        arguments = {**level, "variant": variant, **SETTINGS[setting]}
        found = learn_structure(correlation, **arguments)
        assert_same(learn_structure(noisy(rng, correlation), **arguments), found)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_noise_of_rounding_changes_nothing(setting, variant):
    """Without the rule the separating sets of a sixth of these matrices change."""
    check_noise(setting, variant, 300, threshold=0.02)
    check_noise(setting, variant, 50, n_samples=500, alpha=0.01)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_recomputed_in_another_order(setting, variant):
    """The covariance added up from the last variable to the first, and scaled in another way."""
    rng = np.random.default_rng(13)
    for _ in range(20):
        n = int(rng.integers(5, 9))
        mixing = np.linalg.inv(np.eye(n) - naive.random_dag(rng, n, 3))
        one = mixing @ mixing.T
        scale = 1 / np.sqrt(np.diag(one))
        other = sum(np.outer(mixing[:, k], mixing[:, k]) for k in reversed(range(n)))
        found = [
            learn_structure(matrix, threshold=0.02, variant=variant, **SETTINGS[setting])
            for matrix in (
                one * np.outer(scale, scale),
                other / np.sqrt(np.outer(np.diag(other), np.diag(other))),
            )
        ]
        assert_same(*found)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_values_at_the_threshold(setting, variant):
    """Correlations and partial correlations of exactly the threshold, give or take an ulp."""
    rng = np.random.default_rng(14)
    for threshold in (0.3, 0.1, 0.7):
        # 0 -> 1 -> 2 with links of 0.8, and 2 correlated with 0 such that the partial one is t
        partial = threshold * (1 - 0.8**2) + 0.8**2
        correlation = np.eye(5)
        for i, j, value in ((0, 1, 0.8), (1, 2, 0.8), (0, 2, partial), (3, 4, threshold)):
            correlation[i, j] = correlation[j, i] = value
        arguments = {"threshold": threshold, "variant": variant, **SETTINGS[setting]}
        found = learn_structure(correlation, **arguments)
        assert found.sepset(3, 4) == () and found.sepset(0, 2) == (1,)
        for _ in range(5):
            assert_same(learn_structure(noisy(rng, correlation), **arguments), found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_copies(variant):
    """Which of two copies separates is decided by number; |r| of 1 has a p-value of 0."""
    rng = np.random.default_rng(15)
    for _ in range(10):
        correlation = population(rng)
        keep = [0, *range(len(correlation))]
        correlation = correlation[np.ix_(keep, keep)]
        arguments = {"n_samples": 400, "alpha": 0.01, "variant": variant, "algorithm": "icd"}
        found = learn_structure(correlation, **arguments)
        assert found.evidence.z[0] == np.inf
        # here, noise of 1e-15 may lift an |entry| above 1 or leave it just below
        assert_same(learn_structure(noisy(rng, correlation), **arguments), found)
    tiny = {"n_samples": 30, "alpha": 1e-300, "variant": variant}
    assert learn_structure(np.ones((2, 2)), **tiny).pag.marks.any()
    assert learn_structure(noisy(rng, np.ones((2, 2))), **tiny).pag.marks.any()


def single_nodes(steps):
    """Nodes 0 and 1, and others that each leave a partial correlation of 1e-4 + step of them."""
    with_ends = [np.sqrt((0.3 - value) / (1 - value)) for value in 1e-4 + np.array(steps)]
    loading = np.array([np.sqrt(0.3), np.sqrt(0.3), *with_ends])
    loading[2:] = np.array(with_ends) / np.sqrt(0.3)  # so that others depend on the ends as asked
    correlation = np.outer(loading, loading)
    np.fill_diagonal(correlation, 1.0)
    return correlation


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_chain_of_near_ties(order):
    """Steps of 0.7e-12: the second ties with the smallest, the third only with the second."""
    steps = np.array([0.0, 0.7e-12, 1.4e-12, 2.1e-12])[list(order)]
    expected = 2 + min(order.index(0), order.index(1))
    edges = np.array([[0, 1]], np.int32)
    # few neighbours among many nodes are looked at one by one, many of few in whole rows
    for n in (6, 60):
        correlation = np.eye(n)
        correlation[:6, :6] = single_nodes(steps)
        there = (correlation != 0).astype(np.uint8) - np.eye(n, dtype=np.uint8)
        best, members = np.zeros(1), np.zeros((1, 1), np.int32)
        tests, blind = np.zeros(1, np.int64), np.zeros(1, np.int32)
        inverse = kernels.inverse_rest(correlation, 1e-9)
        tiers = np.zeros(n, np.int64)
        lists = kernels.neighbour_lists(there)
        prepared = kernels.prepare_one(inverse, there, *lists, tiers)
        kernels.order_one(
            correlation, inverse, there, *lists, tiers, prepared, edges, best, members[:, 0],
            tests, blind,
        )  # fmt: skip
        assert members[0, 0] == expected
        assert best[0] == pytest.approx(1e-8, rel=1e-6)


@pytest.mark.parametrize("setting", ["icd", "fci", "pc"])
def test_threads_and_ties(setting):
    """Repeated tokens: every set has twins; chunks and threads meet them in another order."""
    base = attention(np.random.default_rng(16), 20, 0.3)
    keep = np.sort(np.r_[np.arange(20), np.arange(0, 20, 2)])
    correlation = base[np.ix_(keep, keep)]
    arguments = {"threshold": 0.15, "max_conditioning_size": 2, **SETTINGS[setting]}
    expected = learn_structure(correlation, **arguments)
    assert_same(learn_structure(correlation, n_jobs=3, **arguments), expected)
    for one in learn_structures([correlation] * 2, n_jobs=2, **arguments):
        assert_same(one, expected)


def everything():
    """Results of all learners on population matrices, ready for JSON."""
    rng = np.random.default_rng(17)
    matrices = [population(rng) for _ in range(25)]
    return [
        facts(learn_structure(matrix, threshold=0.02, variant=variant, **SETTINGS[setting]))
        for matrix in matrices
        for variant in VARIANTS
        for setting in SETTINGS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Nehalem", "Zen"])
def test_processors_agree(processor):
    """Where OpenBLAS is another library, or the name means nothing to it, this is one more run."""
    code = (
        "import json; from tests.structure.test_ties import everything; "
        "print(json.dumps(everything()))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_CORETYPE": processor}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    if done.returncode < 0:
        pytest.skip(f"this machine cannot run the instructions of {processor}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == everything()
