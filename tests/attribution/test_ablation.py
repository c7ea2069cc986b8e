"""Leave one out against its formula, against captum, and in what it asks of the model."""

from __future__ import annotations

import numpy as np
import numpy.testing as npt
import pytest

from causal_lvlm.attribution.ablation import leave_one_out
from causal_lvlm.tokens import Units, candidate_units
from tests.attribution.set_fakes import SetTrace, additive, make_layout


def unit_sums(scores, units):
    return np.array([scores.values[list(m)].sum() for m in units.members])


def random_weights(layout, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(len(layout)) / (2 * len(layout))


def test_drops_of_an_additive_model_are_its_weights():
    layout = make_layout()
    weights = random_weights(layout)
    trace = SetTrace(additive(weights, 0.3), layout)
    units = trace.units(pool=2)
    assert max(map(len, units.members)) > 1
    scores = leave_one_out(trace, trace.target(), units=units, score="prob")
    expected = [weights[list(m)].sum() for m in units.members]
    npt.assert_allclose(unit_sums(scores, units), expected, atol=1e-12)
    for members in units.members:  # divided evenly
        assert np.ptp(scores.values[list(members)]) == 0
    assert np.count_nonzero(scores.values) == sum(map(len, units.members))


@pytest.mark.parametrize("score", ["prob", "log_prob", "margin", "mean_prob"])
@pytest.mark.parametrize("against", [None, 5])
def test_every_score_is_the_drop_of_its_formula(score, against):
    layout = make_layout(answer=2)
    first, second = random_weights(layout, 1), random_weights(layout, 2)

    def chance(visible):
        return [0.2 + first @ visible, 0.4 + second @ visible]

    def value(visible):
        p, q = chance(visible)
        if against is not None:
            other = (1 - p) / 2
            if score in ("prob", "mean_prob"):
                return p / (p + other)
            return np.log(p) - np.log(other)
        return {
            "prob": p * q,
            "log_prob": np.log(p * q),
            "margin": min(np.log(p / (1 - p)), np.log(q / (1 - q))),
            "mean_prob": (p + q) / 2,
        }[score]

    trace = SetTrace(chance, layout)
    units = trace.units()
    found = leave_one_out(trace, trace.target(), units=units, score=score, against=against)
    everything = np.ones(len(layout), dtype=bool)
    expected = []
    for members in units.members:
        without = everything.copy()
        without[list(members)] = False
        expected.append(value(everything) - value(without))
    npt.assert_allclose(unit_sums(found, units), expected, atol=1e-12)
    assert found.parameters["full"] == pytest.approx(value(everything))


def test_each_unit_costs_one_run_and_options_reach_the_model():
    trace = SetTrace(additive(random_weights(make_layout()), 0.3))
    units = trace.units()
    seen = []
    scores = leave_one_out(
        trace,
        trace.target(),
        units=units,
        masking="neutral",
        batch_size=3,
        progress=lambda *step: seen.append(step),
    )
    assert scores.model_runs == trace.rows == len(units) + 1
    assert trace.options[0]["masking"] == "neutral" and trace.options[0]["batch_size"] == 3
    assert seen[0][1:] == (0, len(units)) and seen[-1][1:] == (len(units), len(units))


def test_relative_drops_are_shares_of_the_full_score():
    trace = SetTrace(additive(random_weights(make_layout()), 0.3))
    units = trace.units()
    plain = leave_one_out(trace, trace.target(), units=units, score="prob")
    share = leave_one_out(trace, trace.target(), units=units, score="prob", relative=True)
    npt.assert_allclose(share.values * plain.parameters["full"], plain.values)


def test_an_unknown_score_is_refused():
    trace = SetTrace(additive(random_weights(make_layout()), 0.3))
    with pytest.raises(ValueError, match="score must be one of"):
        leave_one_out(trace, trace.target(), units=trace.units(), score="logit")


def test_without_units_nothing_is_scored():
    trace = SetTrace(additive(random_weights(make_layout()), 0.3))
    assert not leave_one_out(trace, trace.target(), units=Units((), ())).values.any()


def test_equals_feature_ablation_of_captum_on_the_tiny_model(tiny_trace):
    captum = pytest.importorskip("captum.attr")
    torch = pytest.importorskip("torch")
    trace = tiny_trace
    target = trace.target(0)
    units = candidate_units(trace.layout, target, pool=4)
    members = [list(m) for m in units.members]

    def score(visible):  # (K, U): 1 where the unit is there
        keep = np.ones((len(visible), len(trace.layout)), dtype=bool)
        for row, there in zip(keep, visible.numpy(), strict=True):
            for unit in np.flatnonzero(there == 0):
                row[members[unit]] = False
        return torch.tensor(trace.evaluate(keep, target, backend="block").log_prob)

    theirs = captum.FeatureAblation(score).attribute(
        torch.ones(1, len(units)), perturbations_per_eval=len(units)
    )
    ours = leave_one_out(trace, target, units=units)
    npt.assert_allclose(unit_sums(ours, units), theirs.numpy()[0], atol=1e-4)
    assert np.abs(theirs.numpy()).max() > 0.01


@pytest.fixture(scope="module")
def tiny_trace(embedded_model):
    from causal_lvlm.tiny import sample_inputs

    sample = next(s for s in sample_inputs() if s.kind == "colour")
    return embedded_model.run(sample.image_path, sample.prompt)
