"""Consensus on additive models, whose faithfulness can be added up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata

from causal_lvlm.attribution import Attribution
from causal_lvlm.methods import attribute
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.metrics.fakes import additive

WEIGHTS = [0.02, 0.30, 0.05, 0.20, 0.01, 0.10]  # of positions 1..6: four patches, two words
COUNTS = [1, 1, 1, 2, 3]  # ERASER's bins of six units


def make_trace():
    return additive(0.1, WEIGHTS)


def result(trace, values, method):
    """An attribution that gives the six candidates these scores."""
    scores = np.zeros(len(trace.layout))
    scores[1:7] = values
    return Attribution(method, scores, resolve_target(trace.layout, "red"), {}, 1, 0, 0.0, "fake")


def faithfulness(values):
    """Comprehensiveness minus sufficiency of an additive model, by hand."""
    order = np.argsort(-np.asarray(values))
    ordered = np.array(WEIGHTS)[order]
    return float(np.mean([ordered[:k].sum() - ordered[k:].sum() for k in COUNTS]))


MAPS = {
    "right": WEIGHTS,
    "half": [0.1, 0.3, 0.2, 0.0, 0.25, 0.05],
    "wrong": [-w for w in WEIGHTS],
}


def run(trace, maps, **options):
    made = [result(trace, values, name) for name, values in maps.items()]
    return attribute(trace, "red", "consensus", methods=made, **options)


def test_weights_are_the_measured_faithfulness_above_the_floor():
    trace = make_trace()
    for sharpness in (1.0, 4.0):
        found = run(trace, MAPS, sharpness=sharpness).parameters
        for name, values in MAPS.items():
            assert found["faithfulness"][name] == pytest.approx(faithfulness(values))
        floor = found["faithfulness_random"]
        assert faithfulness(MAPS["wrong"]) < floor < faithfulness(WEIGHTS)
        above = [max(faithfulness(v) - floor, 0) ** sharpness for v in MAPS.values()]
        assert list(found["weights"].values()) == pytest.approx(list(np.array(above) / sum(above)))
        assert found["weights"]["wrong"] == 0


def test_scores_are_the_weighted_mean_of_ranks():
    trace = make_trace()
    found = run(trace, MAPS)
    ranks = np.stack([rankdata(v) / 6 for v in MAPS.values()])
    expected = np.array(list(found.parameters["weights"].values())) @ ranks
    assert found.scores[1:7] == pytest.approx(expected)


def test_the_floor_is_the_mean_over_all_orders_in_the_long_run():
    found = run(make_trace(), MAPS, n_random=400).parameters
    # a random top-k holds k/6 of the weight on average
    mean = np.mean([(2 * k / 6 - 1) * sum(WEIGHTS) for k in COUNTS])
    assert found["faithfulness_random"] == pytest.approx(mean, abs=0.03)


def test_a_wrong_method_does_not_change_the_order_of_a_right_one():
    trace = make_trace()
    units = candidate_units(trace.layout, resolve_target(trace.layout, "red"))
    found = run(trace, {"right": WEIGHTS, "wrong": MAPS["wrong"]})
    assert found.ranking(units) == tuple(np.argsort(-np.array(WEIGHTS)))


def test_methods_at_chance_or_below_weigh_the_same_and_a_note_says_so():
    worst = [-w for w in WEIGHTS]
    found = run(make_trace(), {"a": worst, "b": worst})
    assert list(found.parameters["weights"].values()) == [0.5, 0.5]
    assert any("random orders" in note for note in found.notes)


def test_disagreement_is_warned_of_with_the_method_that_masking_supports():
    found = run(make_trace(), {"right": WEIGHTS, "wrong": MAPS["wrong"]})
    assert found.parameters["agreement"]["mean_kendall"] == pytest.approx(-1)
    (note,) = [note for note in found.notes if "disagree" in note]
    assert "masking supports right" in note
    same = run(make_trace(), {"one": WEIGHTS, "two": [3 * w + 1 for w in WEIGHTS]})
    assert same.parameters["agreement"]["mean_kendall"] == pytest.approx(1)
    assert same.parameters["agreement"]["mean_top_k_jaccard"] == pytest.approx(1)
    assert not same.notes
    tau = kendalltau(MAPS["right"], MAPS["half"]).statistic
    pair = {name: MAPS[name] for name in ("right", "half")}
    threshold = float(tau)
    below = run(make_trace(), pair, disagreement=threshold + 0.01)
    above = run(make_trace(), pair, disagreement=threshold - 0.01)
    assert any("disagree" in n for n in below.notes)
    assert not any("disagree" in n for n in above.notes)


def test_a_note_says_when_one_method_alone_is_better():
    found = run(make_trace(), {"right": WEIGHTS, "half": MAPS["half"]}, sharpness=0.01)
    own = found.parameters["faithfulness_consensus"]
    assert own == pytest.approx(faithfulness(found.scores[1:7]))
    said = any("right alone is more faithful" in note for note in found.notes)
    assert said == (own < faithfulness(WEIGHTS))


def test_every_masked_row_is_counted_and_given_results_cost_nothing_again():
    trace = make_trace()
    found = run(trace, MAPS)
    assert found.model_runs == trace.rows
    assert found.backward_passes == 0


def test_the_seed_decides_and_the_same_seed_gives_the_same():
    one, two, other = (run(make_trace(), MAPS, seed=s) for s in (0, 0, 1))
    assert one.parameters == two.parameters and np.array_equal(one.scores, two.scores)
    assert one.parameters["faithfulness_random"] != other.parameters["faithfulness_random"]


def test_wrong_arguments_are_named():
    trace = make_trace()
    with pytest.raises(ValueError, match="at least two methods"):
        run(trace, {"right": WEIGHTS})
    with pytest.raises(ValueError, match="sharpness"):
        run(trace, MAPS, sharpness=0)
    with pytest.raises(ValueError, match="no better direction or no value"):
        run(trace, MAPS, metrics=("size", "comprehensiveness"))
    foreign = result(trace, WEIGHTS, "right")
    object.__setattr__(foreign.target, "positions", (5,))
    with pytest.raises(ValueError, match="the result of 'right' explains"):
        attribute(trace, "red", "consensus", methods=[foreign, foreign])


def test_named_methods_run_on_the_embedded_model_and_the_result_is_saved(tmp_path, embedded_model):
    from causal_lvlm.tiny import sample_inputs

    sample = sample_inputs()[0]
    trace = embedded_model.run(sample.image_path, sample.prompt)
    steps = []
    found = attribute(
        trace, 0, "consensus", units="patch+word", n_random=2,
        methods=["relevancy", ("attention", {"head": "max"}), "attention"],
        progress=lambda text, done, total: steps.append((done, total)),
    )  # fmt: skip
    assert found.parameters["methods"] == ["relevancy", "attention", "attention (2)"]
    assert found.backward_passes == 1 and steps[-1][0] == steps[-1][1]
    assert Attribution.load(found.save(tmp_path / "c.json")).parameters == found.parameters


def test_a_consensus_made_again_asks_its_members_with_their_options(tmp_path, embedded_model):
    from causal_lvlm.methods import rerun
    from causal_lvlm.tiny import sample_inputs

    sample = sample_inputs()[0]
    trace = embedded_model.run(sample.image_path, sample.prompt)
    given = attribute(trace, 0, "rollout", head="max")
    methods = ["attention", ("attention", {"head": "max", "layer": 0}), given]
    found = attribute(trace, 0, "consensus", methods=methods, n_random=2, sharpness=1.0, seed=3)
    loaded = Attribution.load(found.save(tmp_path / "consensus.json"))
    units = candidate_units(trace.layout, found.target)
    for recipe in (found, loaded):
        again = rerun(recipe, seed=3)
        assert again(trace, found.target, units).scores == pytest.approx(
            found.unit_scores(units), abs=0
        )
    plain = attribute(
        trace, 0, "consensus", methods=["attention", "attention", "rollout"], n_random=2,
        sharpness=1.0, seed=3,
    )  # fmt: skip
    assert np.abs(plain.scores - found.scores).max() > 0.01
    # What was given as a result costs nothing then, and is asked anew on another trace.
    assert again.model_runs > found.model_runs
