"""`attribute` itself: what it passes on, what it records, and the seeded floor."""

from __future__ import annotations

import os
import sys

import numpy as np
import numpy.testing as npt
import pytest

from causal_lvlm.attribution import Attribution, spread
from causal_lvlm.attribution.info import MethodInfo
from causal_lvlm.attribution.result import Scores
from causal_lvlm.errors import AttentionError
from causal_lvlm.methods import attribute, registry
from causal_lvlm.tokens import Units
from causal_lvlm.units import make_units
from tests.attribution.traces import embedded


@pytest.fixture
def method(monkeypatch):
    """Register a function under the name "mine"; returns the function that does it."""

    def register(function):
        monkeypatch.setitem(registry.METHODS, "mine", function)
        monkeypatch.setitem(registry._INFO, "mine", MethodInfo("mine", (), "random", "-", "-"))

    return register


def test_a_method_is_given_only_what_its_signature_names(trace, method):
    seen = {}

    def mine(trace, target, *, units, seed, progress, against=None, width=1):
        seen.update(units=units, seed=seed, progress=progress, against=against, width=width)
        return Scores(np.arange(15.0), {"width": width}, model_runs=4, notes=("remark",),
                      standard_error=np.ones(15))  # fmt: skip

    method(mine)

    def progress(what, done, total):
        pass

    result = attribute(trace, "red", "mine", units="block:2+word", seed=7, progress=progress,
                       against=3, width=2)  # fmt: skip
    units = make_units(trace.layout, result.target, "block:2+word")
    assert seen == dict(units=units, seed=7, progress=progress, against=3, width=2)
    assert (result.units_name, result.seed, result.notes) == ("block:2+word", 7, ("remark",))
    assert result.parameters == {"width": 2} and result.model_runs == 4
    assert not result.scores[13:].any() and not result.standard_error[13:].any()
    assert result.standard_error[:13].all()

    method(lambda trace, target: Scores(np.zeros(15), {}))
    assert attribute(trace, "red", "mine", seed=7).seed is None  # it drew nothing


def test_a_method_that_takes_any_option_checks_them_itself(trace, method):
    def mine(trace, target, **options):
        return Scores(np.zeros(15), options)

    method(mine)
    result = attribute(trace, "red", "mine", alpha=0.1, against=2)
    assert result.parameters == {"alpha": 0.1, "against": 2}


def test_scores_of_a_wrong_shape_or_not_finite_are_refused(trace, method):
    for values, error, match in (
        (np.zeros(14), ValueError, r"must be of shape \(15,\)"),
        (np.full(15, np.nan), AttentionError, "scores of 'mine': 15 of 15"),
    ):
        method(lambda trace, target, values=values: Scores(values, {}))
        with pytest.raises(error, match=match):
            attribute(trace, "red", "mine")


def test_random_orders_are_seeded_permutations_of_the_units(trace):
    asked = "block:2+token"
    first = attribute(trace, "red", "random", units=asked, seed=1)
    units = make_units(trace.layout, first.target, asked)
    assert first.model_runs == 0 and first.seed == 1
    npt.assert_allclose(
        np.sort(first.unit_scores(units)), np.arange(1, len(units) + 1) / len(units)
    )
    again = attribute(trace, "red", "random", units=asked, seed=1)
    npt.assert_array_equal(first.scores, again.scores)
    firsts = {attribute(trace, "red", "random", units=asked, seed=s).ranking(units)[0]
              for s in range(60)}  # fmt: skip
    assert firsts == set(range(len(units)))  # every unit comes first for some seed
    other = attribute(trace, "dark", "random", units=asked, seed=1)
    assert other.ranking(units)[:3] != first.ranking(units)[:3] or len(units) < 3


def test_peak_memory_is_measured_where_the_system_says_it():
    found = attribute(embedded(), 0, "input_x_gradient").peak_memory
    if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
        assert isinstance(found, int) and 0 <= found < 2**40
    else:
        assert found is None or found >= 0


def test_spread_gives_the_units_scores_back():
    units = Units(((0,), (1, 2, 5), (3,)), ("image",) * 3)
    values = spread([2.0, -3.0, 0.5], units, 7)
    npt.assert_array_equal(values, [2, -1, -1, 0.5, 0, -1, 0])
    result = Attribution("random", values, None, {}, 0, 0, 0.0, "fake")
    npt.assert_allclose(result.unit_scores(units), [2.0, -3.0, 0.5])
    assert result.ranking(units) == (0, 2, 1)
    assert result.unit_scores(Units((), ())).shape == (0,)
    with pytest.raises(ValueError, match=r"scores \(3,\)"):
        spread([1.0], units, 7)
    with pytest.raises(ValueError, match="reach to position 9"):
        result.unit_scores(Units(((9,),), ("image",)))
