"""`learn_structure`: arguments, errors, budgets, numbering, near-singular input, files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import (
    BudgetError,
    CausalLVLMError,
    CorrelationError,
    OutputError,
    SampleSizeError,
    StructureError,
)
from causal_lvlm.structure import LearnedStructure, learn_structure
from tests import naive
from tests.examples import examples

DATA = Path(__file__).resolve().parents[1] / "data"
HEADS = dict(np.load(DATA / "attention_correlations_n50.npz"))
GOOD = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.4], [0.2, 0.4, 1.0]])


def changed(i, j, value, symmetric=True):
    matrix = GOOD.copy()
    matrix[i, j] = value
    if symmetric:
        matrix[j, i] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.ones((2, 3)), "square"),
        (np.ones(3), "square"),
        (np.ones((0, 0)), "not empty"),
        ([["a", "b"], ["c", "d"]], "numbers"),
        (changed(0, 1, np.nan), "nan"),
        (changed(0, 1, np.inf), "inf"),
        (changed(0, 1, 0.7, symmetric=False), "not symmetric"),
        (changed(1, 1, 2.0), "diagonal"),
        (changed(0, 1, 1.5), "1.5"),
        (changed(0, 2, -0.9), "eigenvalue"),
    ],
)
def test_bad_matrices(matrix, words):
    with pytest.raises(CorrelationError, match=words) as error:
        learn_structure(matrix, input="correlation", n_samples=100)
    assert isinstance(error.value, ValueError) and isinstance(error.value, CausalLVLMError)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, StructureError, "n_samples"),
        ({"n_samples": 3}, SampleSizeError, "at least 4"),
        ({"n_samples": 4, "max_conditioning_size": 1}, SampleSizeError, "size 1"),
        ({"n_samples": 50, "alpha": 0.0}, StructureError, "alpha"),
        ({"n_samples": 50, "alpha": 1.5}, StructureError, "alpha"),
        ({"threshold": 1.0}, StructureError, "threshold"),
        ({"threshold": float("nan")}, StructureError, "threshold"),
        ({"threshold": 0.3, "alpha": 0.1}, StructureError, "either"),
        ({"threshold": 0.3, "algorithm": "lingam"}, StructureError, "'lingam'"),
        ({"threshold": 0.3, "variant": "fast"}, StructureError, "'fast'"),
        ({"threshold": 0.3, "selection_bias": True}, StructureError, "selection"),
        ({"threshold": 0.3, "order": [0, 1]}, StructureError, "shape"),
        ({"threshold": 0.3, "order": [0, 1, 1]}, StructureError, "lacks \\[2\\]"),
        ({"threshold": 0.3, "order": [0.0, 1.0, 2.0]}, StructureError, "integers"),
        ({"threshold": 0.3, "order": [0, 1, 2], "tiers": [1, 0, 1]}, StructureError, "decrease"),
        ({"threshold": 0.3, "order": [0, 1, 2], "algorithm": "icd"}, StructureError, "no order"),
        ({"threshold": 0.3, "max_conditioning_size": -1}, StructureError, "-1"),
        ({"threshold": 0.3, "time_limit": 0}, BudgetError, "time_limit"),
        ({"threshold": 0.3, "max_tests": 0}, BudgetError, "max_tests"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        learn_structure(GOOD, **arguments)


@pytest.mark.parametrize("algorithm", ["ordered_icd", "fci", "pc"])
def test_tiers_alone_are_an_order(algorithm):
    """Whatever the order of the rows: the same as rows sorted by tier."""
    rng = np.random.default_rng(4)
    r = np.corrcoef(rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)), rowvar=False)
    tiers = np.array([2, 0, 1, 0, 2, 1, 1])
    by_tier = np.argsort(tiers, kind="stable")
    mixed = learn_structure(r, threshold=0.2, tiers=tiers, algorithm=algorithm)
    rows = learn_structure(
        r[np.ix_(by_tier, by_tier)], threshold=0.2, tiers=tiers[by_tier], algorithm=algorithm
    )
    np.testing.assert_array_equal(mixed.pag.marks[np.ix_(by_tier, by_tier)], rows.pag.marks)
    assert mixed.tests_per_size == rows.tests_per_size
    across = tiers[:, None] < tiers[None, :]
    assert (mixed.pag.marks[across] != 3).all()  # no tail at a later end


def test_eigenvalues_down_to_rounding_are_accepted():
    """Both sides of the limit of -1e-5, and the value is recorded."""
    for lowest, accepted in ((-0.9e-5, True), (-1.5e-5, False)):
        # equicorrelation -1/2 - delta of three variables has the eigenvalue -2 delta
        r = np.full((3, 3), -0.5 + lowest / 2)
        np.fill_diagonal(r, 1.0)
        if accepted:
            structure = learn_structure(r, n_samples=100)
            assert structure.smallest_eigenvalue == pytest.approx(lowest, rel=1e-6)
        else:
            with pytest.raises(CorrelationError, match=r"-1\.5e-05"):
                learn_structure(r, n_samples=100)


def test_copies_are_undecided_not_decided():
    """Given a copy of itself a variable has no variance left: no answer, and it is said so."""
    data = np.random.default_rng(1).normal(size=(200, 4))
    data[:, 3] = data[:, 0] + data[:, 1]
    data = np.column_stack([data, data[:, 3]])  # 4 is a copy of 3
    for variant in ("stable", "sequential"):
        structure = learn_structure(
            np.corrcoef(data, rowvar=False), n_samples=200, algorithm="icd", variant=variant
        )
        assert structure.pag.marks[3, 4] and structure.pag.marks[0, 3]
        assert [0, 3] in structure.undecided.tolist() and structure.undecided_edges >= 1
        assert np.isfinite(structure.smallest_eigenvalue)


@pytest.mark.parametrize("name", sorted(HEADS))
@pytest.mark.parametrize("variant", ["stable", "sequential"])
def test_attention_heads(name, variant):
    """Real attention (float32): same graph from a float64 copy, from lists of arrays, and again."""
    first = learn_structure(HEADS[name], n_samples=128, variant=variant)
    assert first == learn_structure(HEADS[name].astype(np.float64), n_samples=128, variant=variant)
    assert first.complete and first.stopped == "no_more_sets"
    marks = first.pag.marks
    assert (marks[np.triu_indices(50, 1)] != 3).all()  # the later end is never a tail
    assert (marks[np.triu(marks > 0)] == 2).all()
    for i, j in first.separated[:200]:
        members = first.sepset(i, j)
        assert members is not None
        r = naive.partial_correlation(HEADS[name], i, j, members)
        assert abs(r) <= first.thresholds[len(members)] + 1e-7
        assert all(k < max(i, j) for k in members)


def test_thresholds_are_fishers_z():
    from scipy import stats

    structure = learn_structure(HEADS["last5_n50"], n_samples=64, alpha=0.001)
    assert len(structure.thresholds) == len(structure.tests_per_size) >= 3
    for size, r in enumerate(structure.thresholds):
        p_value = 2 * stats.norm.sf(np.arctanh(r) * np.sqrt(64 - size - 3))
        assert p_value == pytest.approx(0.001, rel=1e-9)
    assert structure.min_abs_partial == pytest.approx(structure.thresholds[0], rel=1e-12)
    fixed = learn_structure(HEADS["last5_n50"], threshold=0.4)
    assert fixed.thresholds == pytest.approx([0.4] * len(fixed.tests_per_size))
    assert fixed.min_abs_partial == pytest.approx(0.4)


def test_reads_a_correlation_object():
    """Tiers, and threshold or n_samples, come along unless given."""
    tiers = np.arange(50) // 10
    source = SimpleNamespace(
        correlation=HEADS["last0_n50"], tiers=tiers, n_samples=64, threshold=None
    )
    expected = learn_structure(HEADS["last0_n50"], tiers=tiers, n_samples=64)
    assert learn_structure(source) == expected
    source.threshold = 0.5
    expected = learn_structure(HEADS["last0_n50"], tiers=tiers, threshold=0.5)
    assert learn_structure(source) == expected
    source.threshold = None
    plain = learn_structure(HEADS["last0_n50"], n_samples=64, algorithm="icd")
    assert learn_structure(source, algorithm="icd") == plain


@examples(40)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9), threshold=st.sampled_from([0.1, 0.2, 0.3])
)
def test_stable_does_not_depend_on_numbering(seed, n, threshold):
    rng = np.random.default_rng(seed)
    correlation = np.asarray(np.corrcoef(rng.normal(size=(n + 4, n)), rowvar=False))
    shuffle = rng.permutation(n)
    moved = correlation[np.ix_(shuffle, shuffle)]  # new node k is old node shuffle[k]
    place = np.argsort(shuffle)
    tiers = np.sort(rng.integers(0, 4, size=n))
    for old, new in (
        ({"algorithm": "icd"}, {"algorithm": "icd"}),
        ({}, {"order": place}),
        ({"tiers": tiers}, {"order": place, "tiers": tiers[shuffle]}),
    ):
        a = learn_structure(correlation, threshold=threshold, **old)
        b = learn_structure(moved, threshold=threshold, **new)
        np.testing.assert_array_equal(a.pag.marks[np.ix_(shuffle, shuffle)], b.pag.marks)
        assert a.tests_per_size == b.tests_per_size and a.conflicts == b.conflicts
        for i, j in b.separated:
            renamed = sorted(int(shuffle[k]) for k in b.sepset(i, j) or ())
            assert a.sepset(shuffle[i], shuffle[j]) == tuple(renamed)


def test_within_a_tier_numbering_does_not_matter():
    """Attention, an image block of 30 unordered tokens: shuffle it."""
    correlation = HEADS["mid3_n50"]
    tiers = np.concatenate([np.zeros(30, dtype=int), np.arange(1, 21)])
    shuffle = np.concatenate([np.random.default_rng(0).permutation(30), np.arange(30, 50)])
    a = learn_structure(correlation, threshold=0.3, tiers=tiers)
    b = learn_structure(correlation[np.ix_(shuffle, shuffle)], threshold=0.3, tiers=tiers)
    np.testing.assert_array_equal(a.pag.marks[np.ix_(shuffle, shuffle)], b.pag.marks)
    assert a.n_tests == b.n_tests


def test_isolated_node_changes_nothing():
    correlation = HEADS["last5_n50"].astype(np.float64)
    wider = np.eye(51)
    wider[:50, :50] = correlation
    a, b = (learn_structure(c, n_samples=128, algorithm="icd") for c in (correlation, wider))
    np.testing.assert_array_equal(a.pag.marks, b.pag.marks[:50, :50])
    assert not b.pag.marks[50].any()


def test_size_limits():
    head = HEADS["last5_n50"]
    capped = learn_structure(head, n_samples=128, max_conditioning_size=1)
    assert (capped.stopped, capped.complete) == ("max_conditioning_size", False)
    assert len(capped.tests_per_size) == 2
    few = learn_structure(head, n_samples=5, alpha=0.9)
    assert (few.stopped, few.complete) == ("n_samples", False)
    for n, expected in ((1, (0,)), (2, (1,))):
        tiny = learn_structure(np.full((n, n), 0.5) + 0.5 * np.eye(n), threshold=0.1)
        assert tiny.complete and tiny.tests_per_size == expected


def factor_model(n, load):
    r = np.full((n, n), load**2)
    np.fill_diagonal(r, 1.0)
    return r


@pytest.mark.parametrize("variant", ["stable", "sequential"])
def test_budgets_end_a_hopeless_search(variant):
    """One latent factor behind 60 tokens: every subset of every size would have to be tried."""
    import time

    began = time.monotonic()
    structure = learn_structure(
        factor_model(60, 0.95), threshold=0.05, time_limit=0.5, variant=variant, algorithm="icd"
    )
    assert time.monotonic() - began < 20
    assert (structure.stopped, structure.complete) == ("time_limit", False)
    assert structure.pag.n_edges == 60 * 59 // 2
    structure = learn_structure(
        factor_model(60, 0.95), threshold=0.05, max_tests=10**5, variant=variant
    )
    assert (structure.stopped, structure.complete) == ("max_tests", False)
    assert structure.n_tests < 10**8


def test_interrupted_stable_search_leaves_out_the_unfinished_size():
    rng = np.random.default_rng(0)
    weights = naive.random_dag(rng, 60, 5)
    correlation = naive.population_correlation(weights, np.arange(60))
    full = learn_structure(correlation, threshold=0.05, algorithm="icd")
    assert len(full.tests_per_size) > 3
    two = learn_structure(correlation, threshold=0.05, algorithm="icd", max_conditioning_size=2)
    cut = learn_structure(
        correlation, threshold=0.05, algorithm="icd", max_tests=sum(full.tests_per_size[:3])
    )
    assert cut.stopped == "max_tests" and cut.pag == two.pag


def test_progress():
    calls = []
    learn_structure(HEADS["last5_n50"], n_samples=128, progress=lambda *call: calls.append(call))
    assert [size for size, _, _ in calls] == sorted(size for size, _, _ in calls)
    assert all(0 < done <= count for _, done, count in calls)
    assert calls[0][0] == 1 and calls[0][1] == calls[0][2]


def test_sepset_arguments():
    structure = learn_structure(GOOD, n_samples=100, alpha=0.01)
    assert structure.sepset(2, 0) == structure.sepset(0, 2)
    assert structure.sepset(0, 1) is None
    for pair in ((0, 0), (0, 3), (-1, 0)):
        with pytest.raises(StructureError, match="pair"):
            structure.sepset(*pair)


def test_save_and_load(tmp_path):
    structure = learn_structure(HEADS["last5_n50"], n_samples=128)
    path = structure.save(tmp_path / "head.json")
    text = json.loads(path.read_text())
    assert text["kind"] == "learned_structure" and text["n_tests"] == structure.n_tests
    loaded = LearnedStructure.load(path)
    assert loaded == structure
    assert loaded.summary() == json.loads(json.dumps(structure.summary()))
    assert loaded.sepset(0, 49) == structure.sepset(0, 49)
    with pytest.raises(OutputError):
        LearnedStructure.load(tmp_path / "missing.json")
    (tmp_path / "head.npz").write_bytes(b"not an archive")
    with pytest.raises(OutputError):
        LearnedStructure.load(path)
    with pytest.raises(OutputError, match=r"\.json"):
        structure.save(tmp_path / "head.npz")


def test_results_are_read_only():
    structure = learn_structure(GOOD, n_samples=100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(structure, "complete", False)  # noqa: B010
    arrays: list[Any] = [structure.pag.marks, structure.undecided, structure.unseparated]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    mine = GOOD.copy()
    learn_structure(mine, n_samples=100)
    mine[0, 1] = 0.1  # the caller's array is neither frozen nor shared
