"""Forty random DAGs, some with latent variables, whose true PAG is known (tests/data)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causal_lvlm.structure import learn_structure
from tests import naive

DATA = np.load(Path(__file__).resolve().parents[1] / "data" / "oracle_pags.npz")
CASES = range(int(DATA["count"]))
EXACT: dict[str, Any] = {"n_samples": 10**13, "alpha": 0.01}  # |r| > 8e-7 is dependence


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("case", CASES)
def test_icd_is_exact(case, variant):
    structure = learn_structure(
        DATA[f"{case}/correlation"], algorithm="icd", variant=variant, **EXACT
    )
    np.testing.assert_array_equal(structure.pag.marks, DATA[f"{case}/marks"])
    assert structure.complete and structure.conflicts == 0 and structure.violations == ()
    assert len(structure.undecided) == 0


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("case", CASES)
def test_ordered_icd_is_sound_and_knows_more(case, variant):
    truth, weights = DATA[f"{case}/marks"], DATA[f"{case}/weights"]
    observed = DATA[f"{case}/observed"]
    order = naive.order_of(weights, observed)
    structure = learn_structure(DATA[f"{case}/correlation"], order=order, variant=variant, **EXACT)
    marks = structure.pag.marks
    np.testing.assert_array_equal(marks > 0, truth > 0)
    known = truth > 1
    np.testing.assert_array_equal(marks[known], truth[known])
    place = np.argsort(order)
    causes = naive.ancestry_of(weights)
    for i, j in np.argwhere(marks):
        if place[j] > place[i]:
            assert marks[i, j] == 2  # an arrowhead at the later end
        if marks[i, j] != 1:
            assert marks[i, j] == (3 if causes.has_edge(observed[j], observed[i]) else 2)
    assert structure.conflicts == 0 and structure.violations == ()


@pytest.mark.parametrize("case", CASES[::4])
def test_tiers_lie_between(case):
    """Whatever one tier says, finer tiers say too; and it is all true."""
    weights, observed = DATA[f"{case}/weights"], DATA[f"{case}/observed"]
    order = naive.order_of(weights, observed)
    n = len(order)
    place = np.argsort(order)
    causes = naive.ancestry_of(weights)
    coarser = DATA[f"{case}/marks"]
    for tiers in (place * 2 // n, place * 4 // n, place):
        structure = learn_structure(DATA[f"{case}/correlation"], order=order, tiers=tiers, **EXACT)
        marks = structure.pag.marks
        np.testing.assert_array_equal(marks > 0, coarser > 0)
        np.testing.assert_array_equal(marks[coarser > 1], coarser[coarser > 1])
        for i, j in np.argwhere(marks > 1):
            assert marks[i, j] == (3 if causes.has_edge(observed[j], observed[i]) else 2)
        coarser = marks
