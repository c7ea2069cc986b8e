"""Mass on blocked tokens: known exactly for made-up methods, near zero for honest real ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.errors import TargetError
from causal_lvlm.methods import evaluate, rerun
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.impossible import impossible_attribution
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.explanation import fakes


@dataclass
class Blockable(fakes.FakeTrace):
    hidden: tuple[int, ...] = ()

    def blocked(self, positions):
        return replace(self, hidden=tuple(positions))


def make_case(**options):
    layout = fakes.layout(3, 4)
    units = candidate_units(layout, resolve_target(layout, 0))
    return Case(Blockable(lambda visible: True, layout), 0, units=units, **options)


def honest(trace, target, units):
    return np.array([not set(m) & set(trace.hidden) for m in units.members], dtype=float)


def blind(trace, target, units):
    return np.where(np.arange(len(units)) % 2, 1.0, -1.0)


def guilty(trace, target, units):
    return 1e-320 * (1.0 - honest(trace, target, units))


def half(trace, target, units):
    """Half of the mass on blocked units, whatever their number, of either sign."""
    clean = honest(trace, target, units)
    return clean / clean.sum() - (1 - clean) / (1 - clean).sum()


@pytest.mark.parametrize(
    ("method", "expected"), [(honest, 1.0), (blind, 10 / 14), (guilty, 0.0), (half, 0.5)]
)
def test_value_is_the_mass_that_may_be_there(method, expected):
    found = impossible_attribution(make_case(), method, rerun, blocked_share=0.3, repeats=4)
    assert found.value == pytest.approx(expected)
    assert found.detail["chance"] == pytest.approx(10 / 14)
    assert len(found.detail["each"]) == 4 and "caveat" not in found.detail


def test_shuffling_an_honest_map_brings_it_down_to_chance():
    rng = np.random.default_rng(0)

    def shuffled(trace, target, units):
        return rng.permutation(honest(trace, target, units))

    found = impossible_attribution(make_case(), shuffled, rerun, repeats=100)
    assert found.value == pytest.approx(found.detail["chance"], abs=0.05)


def test_refusals_are_counted_and_other_subsets_drawn():
    def picky(trace, target, units):
        if 1 in trace.hidden:
            raise TargetError("the model says something else")
        return honest(trace, target, units)

    found = impossible_attribution(make_case(), picky, rerun, blocked_share=0.5, repeats=6)
    assert found.value == 1.0 and len(found.detail["each"]) == 6 and found.detail["refused"] > 0
    assert not any(0 in chosen for chosen in found.detail["units"])  # unit 0 is position 1

    def never(trace, target, units):
        raise TargetError("the model says something else")

    found = impossible_attribution(make_case(), never, rerun, repeats=2)
    assert found.value is None and found.detail["refused"] == 6
    assert "something else" in found.detail["undefined"]


def test_no_mass_anywhere_has_no_value():
    found = impossible_attribution(
        make_case(), lambda trace, target, units: np.zeros(len(units)), rerun
    )
    assert found.value is None and "no mass" in found.detail["undefined"]


def test_subsets_repeat_with_the_seed_and_differ_among_each_other():
    first = impossible_attribution(make_case(seed=1), blind, rerun)
    assert first.detail == impossible_attribution(make_case(), blind, rerun, seed=1).detail
    other = impossible_attribution(make_case(seed=2), blind, rerun)
    assert first.detail["units"] != other.detail["units"]
    assert len({tuple(s) for s in first.detail["units"]}) > 1


def test_bad_arguments_are_refused():
    for options in ({"blocked_share": 0.0}, {"blocked_share": 1.0}, {"repeats": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="must"):
            impossible_attribution(make_case(), blind, rerun, **options)
    with pytest.raises(TypeError, match="a method is given by"):
        impossible_attribution(make_case(), 3, rerun)
    with pytest.raises(ValueError, match="one finite number"):
        impossible_attribution(make_case(), lambda trace, target, units: [1.0], rerun)


@pytest.fixture(scope="module")
def trace(embedded_model):
    sample = sample_inputs()[0]
    return embedded_model.run(sample.image_path, sample.prompt)


@pytest.mark.parametrize("method", ["attention", "relevancy", "grad_attention", "leave_one_out"])
def test_methods_that_read_the_model_put_nothing_on_blocked_tokens(trace, method):
    found = impossible_attribution(Case(trace, 0), method, rerun, repeats=2)
    assert found.value == pytest.approx(1.0, abs=1e-6)


def test_a_method_that_does_not_look_at_the_model_is_at_chance(trace):
    found = impossible_attribution(Case(trace, 0), "random", rerun, repeats=40)
    assert found.value == pytest.approx(found.detail["chance"], abs=0.05)


def test_an_attribution_is_made_again_with_its_own_options(trace):
    made = cl.attribute(trace, 0, "attention", layer=0, head=1)
    case = Case(trace, 0)
    found = impossible_attribution(case, made, rerun, repeats=2)
    assert found.value == pytest.approx(1.0, abs=1e-6) and found.asked == 2 == case.runs
    with pytest.raises(TypeError, match="no option"):
        impossible_attribution(case, made, rerun, method_options={"heads": 3})


def test_maps_of_the_vision_tower_carry_their_caveat(trace):
    found = impossible_attribution(Case(trace, 0), "relevancy-chain", rerun, repeats=1)
    assert "mixes patches" in found.detail["caveat"]


def test_metrics_of_this_room_run_through_evaluate(trace):
    made = [cl.attribute(trace, 0, "relevancy"), cl.attribute(trace, 0, "random")]
    names = ["pointing_game", "energy_pointing_game", "iou", "remainder", "impossible_attribution"]
    region = np.arange(len(Case(trace, 0).units)) < 8
    table = evaluate(trace, 0, made, [*names, "mprt"], region=region, depths=[3], repeats=1)
    assert table.get("relevancy", "impossible_attribution").value == pytest.approx(1.0, abs=1e-6)
    assert table.get("random", "mprt").value == pytest.approx(0.0)
    assert len(table.values) == 12 and table.get("random", "remainder").metric.endswith("[remove]")


def test_a_propagation_method_runs_again_without_asking_for_its_note_anew(trace):
    made = cl.attribute(trace, 0, "cp_lrp", accept_patent_note=True)
    table = evaluate(trace, 0, made, ["impossible_attribution"], repeats=1)
    assert table.get("cp_lrp", "impossible_attribution").value == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="patent"):  # by name alone nothing was accepted
        impossible_attribution(Case(trace, 0), "cp_lrp", rerun, repeats=1)
