"""Threads, parts of a size, many matrices, and arguments that no run could use."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from causal_lvlm import structure
from causal_lvlm.errors import (
    BudgetError,
    CausalLVLMError,
    CorrelationError,
    SampleSizeError,
    StructureError,
)
from causal_lvlm.structure import chunks

# What is given and asked for here is not always what the annotations promise.
learn_structure: Any = structure.learn_structure
learn_structures: Any = structure.learn_structures

SETTINGS: dict[str, dict[str, Any]] = {
    "ordered_icd": {"algorithm": "ordered_icd"},
    "tiers": {"algorithm": "ordered_icd", "tiers": np.repeat(np.arange(6), 3)},
    "icd": {"algorithm": "icd"},
    "icd-selection": {"algorithm": "icd", "selection_bias": True},
    "fci": {"algorithm": "fci"},
    "fci-tiers": {"algorithm": "fci", "tiers": np.repeat(np.arange(6), 3)},
    "pc": {"algorithm": "pc"},
}
SMALL: dict[str, Any] = {"threshold": 0.02, "max_conditioning_size": 3}


def example(seed, n=18):
    rng = np.random.default_rng(seed)
    data = 2 * rng.normal(size=(200, 1)) + rng.normal(size=(200, n))
    return np.corrcoef(data.T)


def same(one, other):
    assert one == other
    for name in ("stopped", "unfinished_size", "edges_left", "tests_per_size", "thresholds"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_parts_of_a_size_do_not_matter(setting, variant, monkeypatch):
    """Tiny parts and tiny budgets of sets per kernel call, so that edges are begun again."""
    arguments = {"variant": variant, **SMALL, **SETTINGS[setting]}
    correlation = example(0)
    expected = learn_structure(correlation, **arguments)
    few = sum(expected.tests_per_size[:2]) + 40
    cut = learn_structure(correlation, max_tests=few, **arguments)
    assert len(expected.tests_per_size) > 2 and expected.evidence.tests.max() > 30
    monkeypatch.setattr(chunks, "_CHUNK", 5)
    monkeypatch.setattr(chunks, "_CHUNK_ONE", 7)
    monkeypatch.setattr(chunks, "_BUDGET", 20)
    for n_jobs in (1, 3):
        calls: list[tuple[int, int, int]] = []
        found = learn_structure(
            correlation, n_jobs=n_jobs, progress=lambda *call, calls=calls: calls.append(call),
            **arguments,
        )  # fmt: skip
        same(found, expected)
        # progress: done grows from part to part up to all edges, then the next size begins
        assert max(sum(1 for _ in group) for _, group in itertools.groupby(c[2] for c in calls)) > 3
        for before, after in itertools.pairwise(calls):
            if before[1] == before[2]:
                assert after[0] == before[0] + 1 or (setting.startswith("fci") and after[0] == 1)
            else:
                assert after[0] == before[0] and after[2] == before[2] and after[1] > before[1]
        assert calls[-1][1] == calls[-1][2]
        if variant == "stable":
            same(learn_structure(correlation, n_jobs=n_jobs, max_tests=few, **arguments), cut)


@pytest.mark.parametrize("n_jobs", [1, 2, 7])
def test_many(n_jobs):
    stack = np.stack([example(seed, 12) for seed in range(5)])
    expected = [learn_structure(one, **SMALL) for one in stack]
    for sources in (stack, list(stack), iter(stack), (one for one in stack), stack[:0], []):
        found = learn_structures(sources, n_jobs=n_jobs, **SMALL)
        assert isinstance(found, tuple)
        for one, other in zip(found, expected, strict=False):
            same(one, other)
        assert len(found) in (0, 5)
    named = [SimpleNamespace(correlation=one, names=list("abcdefghijkl")) for one in stack]
    objects = np.empty(5, dtype=object)
    objects[:] = named
    for sources in (named, objects):
        found = learn_structures(sources, n_jobs=n_jobs, **SMALL)
        assert [one.names for one in found] == [tuple("abcdefghijkl")] * 5


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_errors_of_many(n_jobs):
    good = example(0, 6)
    bad, worse = np.full((2, 2), 0.5), np.array([[1.0, 0.5], [0.2, 1.0]])
    with pytest.raises(CorrelationError, match="diagonal"):
        learn_structures([good, bad, worse], n_jobs=n_jobs, input="correlation", **SMALL)
    with pytest.raises(CorrelationError, match="symmetric"):
        learn_structures([good, worse, bad], n_jobs=n_jobs, input="correlation", **SMALL)
    with pytest.raises(StructureError, match="'lingam'"):
        learn_structures([good], n_jobs=n_jobs, algorithm="lingam", **SMALL)


@pytest.mark.parametrize("sources", [np.eye(3), SimpleNamespace(correlation=np.eye(3)), None, 3])
def test_one_is_not_many(sources):
    with pytest.raises(StructureError, match="sources"):
        learn_structures(sources, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_samples": float("nan")}, SampleSizeError, "nan"),
        ({"n_samples": float("inf")}, SampleSizeError, "inf"),
        ({"n_samples": 99.5}, SampleSizeError, "whole"),
        ({"n_samples": "100"}, SampleSizeError, "'100'"),
        ({"n_samples": True}, SampleSizeError, "True"),
        ({"alpha": "0.1"}, StructureError, "alpha"),
        ({"alpha": [0.1]}, StructureError, "alpha"),
        ({"n_samples": None, "alpha": None, "threshold": "0.1"}, StructureError, "threshold"),
        ({"max_conditioning_size": "1"}, StructureError, "whole"),
        ({"max_conditioning_size": 1.5}, StructureError, "whole"),
        ({"max_tests": 2.5}, BudgetError, "whole"),
        ({"max_tests": "4"}, BudgetError, "whole"),
        ({"max_tests": float("inf")}, BudgetError, "whole"),
        ({"n_jobs": 1.5}, BudgetError, "whole"),
        ({"n_jobs": 0}, BudgetError, "positive"),
        ({"n_jobs": "2"}, BudgetError, "whole"),
        ({"time_limit": "1"}, BudgetError, "seconds"),
        ({"time_limit": float("nan")}, BudgetError, "positive"),
        ({"selection_bias": "no", "algorithm": "icd"}, StructureError, "True or False"),
        ({"progress": 3}, StructureError, "callable"),
        ({"algorithm": ["icd"]}, StructureError, "unknown"),
        ({"order": [[0], [1, 2]]}, StructureError, "order"),
        ({"order": "abc"}, StructureError, "order"),
        ({"tiers": [0, 1, 0.5]}, StructureError, "integers"),
    ],
)
def test_typed_errors(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        learn_structure(np.eye(3), **{"n_samples": 100, "alpha": 0.1, **arguments})
    assert isinstance(caught.value, CausalLVLMError) and isinstance(caught.value, ValueError)


def test_whole_numbers_may_be_floats():
    correlation = example(1, 8)
    plain = learn_structure(correlation, n_samples=1000, alpha=0.1)
    other = learn_structure(
        correlation, n_samples=1e3, alpha=0.1, max_tests=1e6, n_jobs=np.int64(1),
        max_conditioning_size=6.0,
    )  # fmt: skip
    same(plain, other)
    assert type(other.parameters["max_tests"]) is int
