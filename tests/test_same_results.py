"""The comparison of two commits sees the last bit, and nothing that no two runs share."""

from __future__ import annotations

import numpy as np
import pytest

from tests.same_calls import of_structure
from tests.same_results import differences, digest


def test_the_last_bit_counts_and_times_do_not():
    value = {"scores": np.linspace(0, 1, 7), "p": 0.1, "sets": {(1, 2), (3,)}, "seconds": 3.0}
    assert digest(value) == digest({**value, "seconds": 4.0, "scores": value["scores"].copy()})
    assert digest(value) != digest({**value, "p": np.nextafter(0.1, 1)})
    moved = value["scores"].copy()
    moved[3] = np.nextafter(moved[3], 1)
    assert digest(value) != digest({**value, "scores": moved})
    assert digest(value) != digest({**value, "scores": value["scores"].astype(np.float32)})
    with pytest.raises(TypeError, match="function"):
        digest(lambda: 0)


def test_what_differs_and_what_is_missing_is_named():
    lines = differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "x", "d": "4"})
    assert lines == ["differs b: 2 | x", "only before: c", "only now: d"]
    assert differences({"a": "1"}, {"a": "1"}) == []


def test_two_runs_of_one_commit_are_the_same(embedded_model):
    found = [
        {name: digest(work()) for name, work in of_structure(embedded_model) if "/icd/" in name}
        for _ in range(2)
    ]
    assert len(found[0]) == 8 and differences(*found) == []
