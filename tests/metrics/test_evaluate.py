"""The table of metrics: names, memory, options, files; and the embedded model once."""

from __future__ import annotations

import json

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.attribution import Attribution
from causal_lvlm.errors import OutputError, TargetError
from causal_lvlm.methods import attribute, evaluate
from causal_lvlm.metrics import Case, MetricTable, list_metrics, metric_function
from causal_lvlm.metrics.registry import METRICS
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import resolve_target
from tests.explanation.fakes import FakeTrace
from tests.metrics.fakes import additive, boolean

WEIGHTS = [0.05, 0.1, 0.15, 0.2, 0.1, 0.05]
OPTIONS = {"units": "patch+token"}


def an_attribution(trace, scores, method="map"):
    values = np.zeros(len(trace.layout))
    values[1:7] = scores
    return Attribution(
        method=method, scores=values, target=resolve_target(trace.layout, 0), parameters={},
        model_runs=3, backward_passes=1, seconds=0.5, model_id="fake",
    )  # fmt: skip


def test_values_equal_the_metric_functions_and_names_carry_the_masking():
    trace = additive(0.2, WEIGHTS)
    table = evaluate(
        trace, 0, an_attribution(trace, WEIGHTS),
        ["deletion", "insertion[neutral]", "morf", "size", "pointing_game", "model_runs"],
        region=[False, False, True, True, False, False], **OPTIONS,
    )  # fmt: skip
    assert table.metrics == (
        "deletion[remove]", "insertion[neutral]", "morf[zero]", "pointing_game", "model_runs",
    )  # fmt: skip
    case = Case(trace, 0, **OPTIONS)
    for name, one in (("deletion", case), ("insertion", case.under("neutral"))):
        assert table.get("map", name).value == metric_function(name)(one, WEIGHTS).value
    assert table.get("map", "model_runs").value == 3 and set(trace.calls) == {
        "remove", "neutral", "embeddings",
    }  # fmt: skip


def test_what_one_method_asked_is_free_for_the_next():
    trace = additive(0.2, WEIGHTS)
    results = [("a", WEIGHTS), ("b", WEIGHTS)]
    table = evaluate(trace, 0, results, "deletion", **OPTIONS)
    first, second = table.values
    assert (first.model_runs, second.model_runs) == (7, 0)
    assert first.asked == second.asked == 7 and first.value == second.value
    assert table.model_runs == trace.rows == 7
    case = Case(trace, 0, **OPTIONS)
    evaluate(trace, 0, results, "deletion", case=case)
    assert evaluate(trace, 0, results, "deletion", case=case).model_runs == 0


def test_options_reach_the_metrics_that_have_them_and_unknown_ones_are_refused():
    trace = additive(0.2, WEIGHTS)
    table = evaluate(
        trace, 0, ("a", WEIGHTS), ["deletion", "comprehensiveness"], steps=2, bins=[0.5], **OPTIONS
    )
    assert table.get("a", "deletion").detail["counts"] == [0, 3, 6]
    assert table.get("a", "deletion").parameters == {"steps": 2}
    assert table.get("a", "comprehensiveness").detail["counts"] == [3]
    with pytest.raises(TypeError, match=r"no chosen metric has an option color.*steps"):
        evaluate(trace, 0, ("a", WEIGHTS), ["deletion"], color=1, **OPTIONS)


def test_sets_get_set_metrics_only_and_maps_get_none_of_them():
    trace = boolean(lambda v: bool({1, 5} & v))
    table = evaluate(
        trace, 0, [("set", {0, 4}), ("map", WEIGHTS)], ["validity", "size", "deletion"], **OPTIONS
    )
    found = {(v.method, v.metric): v.value for v in table.values}
    assert found[("set", "validity[remove]")] == 1.0 and found[("set", "size")] == 2.0
    assert ("set", "deletion[remove]") not in found and ("map", "size") not in found
    assert "| set | 1.000 | 2.000 | – |" in table.table()
    assert "deletion[remove] ↓" in table.table()


def test_an_explanation_without_a_set_is_there_without_a_value():
    stubborn = FakeTrace(lambda visible: True)  # no mask changes it
    table = evaluate(stubborn, 0, cl.explain(stubborn, 0), ["validity", "size"], **OPTIONS)
    assert [v.value for v in table.values] == [None, None]
    assert "not_maskable" in table.get("causal", "size").detail["undefined"]


def test_a_method_that_cannot_be_run_again_leaves_a_gap_and_not_a_ruin(monkeypatch):
    def fails(case, result):
        raise TargetError("the changed model says something else")

    trace = additive(0.2, WEIGHTS)
    monkeypatch.setitem(METRICS, "model_runs", (fails, METRICS["model_runs"][1]))
    table = evaluate(trace, 0, an_attribution(trace, WEIGHTS), ["model_runs", "size"], **OPTIONS)
    assert table.get("map", "model_runs").value is None
    assert "says something else" in table.get("map", "model_runs").detail["undefined"]


def test_the_set_of_an_explanation_is_judged_in_its_own_mode_and_over_whole_units():
    trace = FakeTrace(lambda visible: {1, 5} <= visible)
    for mode, size in (("necessary", 1), ("sufficient", 2)):
        found = cl.explain(trace, 0, mode=mode)
        table = evaluate(trace, 0, found, ["validity", "size", "necessity"], **OPTIONS)
        assert [v.value for v in table.values] == [1.0, size, 1.0]
        assert table.get("causal", "validity").parameters["mode"] == mode
    pooled = evaluate(trace, 0, found, ["size"], units="block:2+token")
    assert pooled.get("causal", "size").value == 2
    assert pooled.get("causal", "size").parameters["widened"] == 3


def test_a_table_survives_the_disk_and_damage_is_named(tmp_path):
    trace = additive(0.5, [0.001] * 6)
    results = [("a", WEIGHTS), ("a", WEIGHTS[::-1])]
    table = evaluate(trace, 0, results, ["deletion", "normalised_deletion"], **OPTIONS)
    assert table.methods == ("a", "a (2)")
    again = MetricTable.load(table.save(tmp_path / "table.json"))
    assert again.table() == table.table() and again.to_dict() == table.to_dict()
    assert again.get("a", "normalised_deletion").value is None
    (tmp_path / "bad.json").write_text(json.dumps({"kind": "metrics", "values": []}))
    with pytest.raises(OutputError, match="no complete table"):
        MetricTable.load(tmp_path / "bad.json")
    with pytest.raises(KeyError, match="methods: a"):
        table.get("b", "deletion")


def test_progress_is_told_of_every_entry():
    told = []
    evaluate(
        additive(0.2, WEIGHTS), 0, [("a", WEIGHTS), ("b", WEIGHTS)], ["deletion", "insertion"],
        progress=lambda *x: told.append(x), **OPTIONS,
    )  # fmt: skip
    assert told[0] == ("a: deletion[remove]", 0, 4) and told[-1] == ("done", 4, 4)
    assert len(told) == 5


@pytest.mark.parametrize(
    ("results", "metrics", "error", "words"),
    [
        (("a", WEIGHTS), "accuracy", ValueError, "unknown metric"),
        (("a", WEIGHTS), "deletion[grey]", ValueError, "masking"),
        (("a", WEIGHTS), "soft_ns[remove]", ValueError, "zero"),
        (("a", WEIGHTS), "pointing_game", ValueError, "region"),
        (("a", WEIGHTS), "pointing_game[zero]", ValueError, "masks nothing"),
        (("a", WEIGHTS), "kendall", ValueError, "metric_function"),
        (("a", WEIGHTS[:3]), "deletion", ValueError, "6 units"),
        (("a", {9}), "size", ValueError, "units"),
        ("nothing", "deletion", TypeError, "Attribution"),
    ],
)
def test_bad_requests_say_what_is_allowed(results, metrics, error, words):
    with pytest.raises(error, match=words):
        evaluate(additive(0.2, WEIGHTS), 0, results, metrics, **OPTIONS)


def test_an_attribution_of_another_target_or_trace_is_refused():
    trace = additive(0.2, WEIGHTS)
    other = an_attribution(trace, WEIGHTS)
    shifted = Attribution(**{
        **{f: getattr(other, f) for f in ("method", "parameters", "model_runs", "seconds")},
        "scores": other.scores[:-1], "target": other.target, "backward_passes": 0,
        "model_id": "fake",
    })  # fmt: skip
    with pytest.raises(ValueError, match="another trace"):
        evaluate(trace, 0, shifted, "deletion", **OPTIONS)
    with pytest.raises(ValueError, match="make one of this trace"):
        evaluate(trace, 0, other, case=Case(additive(0.2, WEIGHTS), 0, **OPTIONS))


def test_every_listed_metric_has_a_direction_a_summary_and_a_reference():
    assert [info.name for info in list_metrics()] == list(METRICS)
    for info in list_metrics():
        assert info.summary and info.reference
        assert info.better in ("higher", "lower") or info.family in ("agreement", "graph", "sanity")


@pytest.fixture(scope="module")
def traced(embedded_model):
    model = embedded_model
    sample = next(s for s in sample_inputs() if s.kind == "colour")
    return model.run(sample.image_path, sample.prompt)


@pytest.mark.slow
def test_on_the_embedded_model_real_maps_beat_chance_and_the_set_is_valid(traced):
    units = Case(traced, 0).units
    relevancy = attribute(traced, 0, "relevancy")
    explanation = cl.explain(traced, 0)
    rng = np.random.default_rng(0)
    chance = [(f"random {k}", rng.random(len(units))) for k in range(3)]
    metrics = [
        "deletion", "insertion", "comprehensiveness", "sufficiency", "morf_lerf_gap", "soft_nc",
        "soft_ns", "average_highest_confidence", "validity", "size", "necessity",
    ]  # fmt: skip
    table = evaluate(traced, 0, [relevancy, explanation, *chance], metrics, n_samples=4)
    assert table.get("causal", "validity").value == 1.0
    assert table.get("causal", "size").value == explanation.main.size
    for name in ("comprehensiveness", "deletion"):
        sign = 1 if name == "comprehensiveness" else -1
        random = np.mean([table.get(n, name).value for n, _ in chance])
        assert sign * (table.get("causal", name).value - random) > 0
    full = Case(traced, 0).full
    assert table.get("relevancy", "comprehensiveness").detail["p_full"] == pytest.approx(full)
    assert full == pytest.approx(np.exp(traced.log_probs[0]), abs=1e-4)
    assert all(0 <= v.value <= 1 for v in table.values if v.metric == "soft_ns[zero]")


def test_on_the_embedded_model_values_are_those_of_hand_made_masks(traced):
    case = Case(traced, 0)
    scores = np.random.default_rng(1).random(case.n_units)
    table = evaluate(traced, 0, ("map", scores), ["comprehensiveness", "morf"], steps=4, case=case)
    order = np.argsort(-scores)
    half = order[: case.n_units // 2]
    masked = [p for u in half for p in case.units.members[u]]
    keep = np.ones((1, len(traced.layout)), dtype=bool)
    keep[0, masked] = False
    p_half = np.exp(traced.evaluate(keep, 0).log_prob[0])
    found = table.get("map", "comprehensiveness").detail
    assert found["per_bin"][-1] == pytest.approx(found["p_full"] - p_half, abs=1e-6)
    zeroed = traced.embeddings().copy()
    zeroed[masked] = 0
    margin = traced.evaluate_embeddings(zeroed[None], 0).margin[0, 0]
    curve = table.get("map", "morf").detail
    assert curve["values"][2] == pytest.approx(margin, abs=1e-3) and curve["share"][2] == 0.5
