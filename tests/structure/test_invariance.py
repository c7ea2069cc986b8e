"""What must not change a result: names of nodes, threads, and whether kernels are compiled.

1. Learn on a renamed matrix, rename back: marks, separating sets, tests per size, conflicts and the
   evidence of each pair are the same (stable variant). Matrices come from samples, from attention
   with a sink, and from models; all but the last are faithful to no graph.
2. The same results with 1, 2 and 4 threads, over matrices and inside one.
3. The same results from plain Python (a subprocess with the JIT off).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causal_lvlm.structure import learn_structure, learn_structures
from tests import truth

ROOT = Path(__file__).resolve().parents[2]
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
SETTINGS: dict[str, dict[str, Any]] = {
    "icd": {"algorithm": "icd"},
    "icd with selection": {"algorithm": "icd", "selection_bias": True},
    "fci": {"algorithm": "fci"},
    "fci with selection": {"algorithm": "fci", "selection_bias": True},
    "pc": {"algorithm": "pc"},
}
TIERED = ["ordered_icd", "fci", "pc"]


def matrix(rng, n):
    """A correlation matrix of a random kind and a threshold that leaves a graph of some density."""
    kind = rng.integers(4)
    if kind == 0:  # a few samples of noise
        return np.corrcoef(rng.normal(size=(n + 4, n)), rowvar=False), rng.choice([0.15, 0.3])
    if kind == 1:  # a common factor
        data = rng.normal(size=(3 * n, n)) + rng.normal(size=(3 * n, 1))
        return np.corrcoef(data, rowvar=False), rng.choice([0.1, 0.25])
    if kind == 2:  # rows of causal attention with a sink
        return attention(rng, n + 4, 0.5)[-n:, -n:], rng.choice([0.1, 0.2, 0.3])
    case = truth.random_case(rng, n, 2, 1, 2.5)
    samples = rng.multivariate_normal(np.zeros(n), case.correlation, size=200)
    return np.corrcoef(samples, rowvar=False), 0.15


def attention(rng, n, sink):
    """Correlation of A A' for a causal A whose first column holds at least the share ``sink``."""
    weights = np.tril(rng.gamma(0.3, size=(n, n)) + 1e-6)
    weights *= (1 - sink) / weights.sum(axis=1, keepdims=True)
    weights[:, 0] += sink
    covariance = weights @ weights.T
    scale = 1 / np.sqrt(np.diag(covariance))
    correlation = covariance * np.outer(scale, scale)
    correlation = (correlation + correlation.T) / 2
    np.fill_diagonal(correlation, 1.0)
    return correlation


def facts(structure, names=None):
    """Everything that must be equal, as plain values; ``names[i]`` is the name of node i."""
    n = structure.n_nodes
    names = np.arange(n) if names is None else np.asarray(names)
    place = np.argsort(names)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    sepsets = {}
    for i, j in pairs:
        members = structure.sepset(int(place[i]), int(place[j]))
        sepsets[f"{i}-{j}"] = None if members is None else sorted(int(names[k]) for k in members)
    return {
        "marks": structure.pag.marks[np.ix_(place, place)].tolist(),
        "sepsets": sepsets,
        "tests": list(structure.tests_per_size),
        "conflicts": structure.conflicts,
        "stopped": structure.stopped,
        "undecided": sorted(sorted(int(names[k]) for k in pair) for pair in structure.undecided),
        "tests of a pair": [structure.tests_of(int(place[i]), int(place[j])) for i, j in pairs],
    }


def weakest(structure, names=None):
    """Smallest |partial correlation| of each pair, which rounding may change in its last digits."""
    n = structure.n_nodes
    place = np.argsort(np.arange(n) if names is None else names)
    return [structure.weakest(int(place[i]), int(place[j])) for i in range(n) for j in range(i)]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(40))
def test_names_do_not_matter(setting, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 12))
    correlation, threshold = matrix(rng, n)
    expected = learn_structure(correlation, threshold=threshold, **SETTINGS[setting])
    for _ in range(3):
        names = rng.permutation(n)
        renamed = learn_structure(
            correlation[np.ix_(names, names)], threshold=threshold, **SETTINGS[setting]
        )
        assert facts(renamed, names) == facts(expected)
        np.testing.assert_allclose(weakest(renamed, names), weakest(expected), atol=1e-9)


@pytest.mark.parametrize("algorithm", TIERED)
@pytest.mark.parametrize("seed", range(40))
def test_names_do_not_matter_within_tiers(algorithm, seed):
    """Tiers move with their nodes; the order inside a tier says nothing."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 12))
    correlation, threshold = matrix(rng, n)
    tiers = np.sort(rng.integers(0, int(rng.integers(1, n + 1)), size=n))
    expected = learn_structure(correlation, threshold=threshold, algorithm=algorithm, tiers=tiers)
    for _ in range(3):
        names = rng.permutation(n)
        order = np.lexsort((rng.random(n), tiers[names]))
        renamed = learn_structure(
            correlation[np.ix_(names, names)], threshold=threshold, algorithm=algorithm,
            order=order, tiers=tiers[names],
        )  # fmt: skip
        assert facts(renamed, names) == facts(expected)
        np.testing.assert_allclose(weakest(renamed, names), weakest(expected), atol=1e-9)


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_do_not_matter_with_fishers_z(setting):
    """Sizes have different thresholds; few samples end learning early."""
    rng = np.random.default_rng(1)
    for n_samples in (7, 12, 40, 300):
        n = 9
        correlation, _ = matrix(rng, n)
        arguments = {"n_samples": n_samples, "alpha": 0.1, **SETTINGS[setting]}
        names = rng.permutation(n)
        expected = learn_structure(correlation, **arguments)
        renamed = learn_structure(correlation[np.ix_(names, names)], **arguments)
        assert facts(renamed, names) == facts(expected)
        for i in range(n):
            for j in range(i):
                place = np.argsort(names)
                assert renamed.p_value(place[i], place[j]) == pytest.approx(
                    expected.p_value(i, j), rel=1e-6, abs=1e-12
                )


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(20))
def test_names_do_not_matter_with_copies(setting, seed):
    """Copies of a column: the same pairs are undecided and the same edges stay.

    Which of two copies separates a pair is a tie that only a number can break, so marks, which rest
    on separating sets, and larger sizes, which rest on marks, are not compared.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 11))
    data = rng.normal(size=(40, n)) + 0.5 * rng.normal(size=(40, 1))
    data[:, 5] = data[:, 2]
    correlation = np.corrcoef(data, rowvar=False)
    arguments = {"threshold": 0.2, "max_conditioning_size": 1, **SETTINGS[setting]}
    expected = learn_structure(correlation, **arguments)
    assert expected.pag.marks[2, 5]
    for _ in range(3):
        names = rng.permutation(n)
        renamed = learn_structure(correlation[np.ix_(names, names)], **arguments)
        assert facts(renamed, names)["undecided"] == facts(expected)["undecided"]
        edges = np.array(facts(renamed, names)["marks"]) > 0
        np.testing.assert_array_equal(edges, expected.pag.marks > 0)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", [*SETTINGS, "ordered_icd"])
def test_threads_do_not_matter(setting, variant):
    rng = np.random.default_rng(2)
    arguments = {"threshold": 0.2, "variant": variant, **SETTINGS.get(setting, {})}
    stack = np.array([attention(rng, 20, 0.3) for _ in range(5)])
    expected = [facts(one) for one in learn_structures(stack, n_jobs=1, **arguments)]
    assert expected == [facts(learn_structure(one, **arguments)) for one in stack]
    for n_jobs in (2, 4):
        assert [facts(s) for s in learn_structures(stack, n_jobs=n_jobs, **arguments)] == expected
    assert len({json.dumps(one["marks"]) for one in expected}) > 1


@pytest.mark.parametrize("setting", [*SETTINGS, "ordered_icd"])
def test_threads_inside_one_matrix_do_not_matter(setting):
    """Large enough that the edges of a size are given to the kernels in several parts."""
    rng = np.random.default_rng(3)
    n = 60
    correlation = attention(rng, n, 0.3)
    arguments = {"threshold": 0.15, "max_conditioning_size": 3, **SETTINGS.get(setting, {})}
    expected = learn_structure(correlation, **arguments)
    assert expected.n_tests > 5000
    for n_jobs in (2, 4):
        other = learn_structure(correlation, n_jobs=n_jobs, **arguments)
        assert facts(other) == facts(expected)
        np.testing.assert_array_equal(weakest(other), weakest(expected))


def everything():
    """Results of all algorithms on small matrices, ready for JSON."""
    out = []
    rng = np.random.default_rng(4)
    for k in range(6):
        n = 5 + k % 3
        correlation, threshold = matrix(rng, n)
        if k == 5:
            correlation[:, 1], correlation[1] = correlation[:, 0], correlation[0]
        tiers = np.sort(rng.integers(0, 3, size=n))
        for variant in ("stable", "sequential"):
            for arguments in (
                *SETTINGS.values(),
                {"algorithm": "ordered_icd"},
                *({"algorithm": name, "tiers": tiers} for name in TIERED),
            ):
                out.append(
                    facts(
                        learn_structure(
                            correlation, threshold=threshold, variant=variant, **arguments
                        )
                    )
                )
    return out


@pytest.mark.skipif(not JIT, reason="this is the run with the JIT disabled")
def test_compilation_does_not_matter():
    code = (
        "import json; from tests.structure.test_invariance import everything; "
        "print(json.dumps(everything()))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "NUMBA_DISABLE_JIT": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found, expected = json.loads(done.stdout), everything()
    assert len(found) == len(expected) == 6 * 2 * 9
    for one, other in zip(found, expected, strict=True):
        assert one == other
