"""Numbers below the methods are what the model says when their tokens are masked."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from causal_lvlm.methods import measure_faithfulness
from causal_lvlm.metrics.masked_top import measurable, ranked
from causal_lvlm.metrics.result import MASKED_TOP, MetricTable
from causal_lvlm.viz.payload import case_payload
from causal_lvlm.viz.sections import masked_lines
from tests.viz.fakes import explaining_set, fake_attribution, fake_explanation, fake_view

VIEW = fake_view()
LAYOUT = VIEW.layout
WORD = LAYOUT.tokens.index("circle")
RED, GREEN = int(LAYOUT.token_ids[LAYOUT.n_prompt]), 7


class Additive:
    """A model whose probability of the target is a sum over what is visible: known for any mask."""

    layout = LAYOUT
    model_id, revision = "additive", "0"

    def __init__(self):
        self.share = np.zeros(len(LAYOUT))
        self.share[[13, WORD, 14]] = 0.5, 0.3, 0.1
        self.rows = []

    def probability(self, keep):
        return 0.05 + float(self.share[np.asarray(keep)].sum())

    def evaluate(self, keep, target, *, masking="remove", **_):
        self.rows += [tuple(row) for row in keep]
        p = np.array([self.probability(row) for row in keep])
        return SimpleNamespace(
            token_log_probs=np.log(p)[:, None],
            log_prob=np.log(p),
            argmax=np.where(p > 0.5, RED, GREEN)[:, None],
            runner_up=np.where(p > 0.5, GREEN, RED)[:, None],
            margin=(p - 0.5)[:, None],
            against_log_prob=None,
            backend="fake",
            check=None,
        )

    def token_text(self, token):
        return {RED: "red", GREEN: "green"}[token]


def maps():
    scores = np.zeros(len(LAYOUT))
    scores[[13, WORD, 20]] = 3.0, 2.0, 1.0
    good = replace(fake_attribution(VIEW), method="good", scores=scores)
    flat = replace(fake_attribution(VIEW), method="flat", scores=np.zeros(len(LAYOUT)))
    return [good, flat]


SETS = {"joint": explaining_set("joint", (13,), (WORD,)), "image": explaining_set("image", (13,))}


def rows_of(table, method):
    (value,) = (v for v in table.values if v.method == method and v.metric.startswith(MASKED_TOP))
    return value


def test_every_number_is_that_of_the_mask_and_each_mask_is_run_once():
    model, found = Additive(), fake_explanation(VIEW, sets=SETS)
    table = measure_faithfulness(model, found, maps(), metrics=(), most=3)
    assert table.model_runs == len(model.rows) == len(set(model.rows))
    for attribution in maps():
        value = rows_of(table, attribution.method)
        assert {(r["scope"], r["k"]) for r in value.detail["rows"]} == {
            (scope, k) for scope in ("all", "image", "text") for k in (1, 2, 3)
        }
        for row in value.detail["rows"]:
            expected = ranked(LAYOUT, attribution, row["scope"])[: row["k"]]
            keep = np.ones(len(LAYOUT), dtype=bool)
            keep[expected] = False
            p = model.probability(keep)
            assert row["positions"] == expected
            assert row["probability"] == pytest.approx(p)
            assert row["changed"] == (p <= 0.5)
            assert row["first_choice"] == ["red" if p > 0.5 else "green"]
    assert rows_of(table, "good").value == pytest.approx(0.05 + 0.1)  # both causes are masked
    assert rows_of(table, "flat").value == pytest.approx(0.95)


def test_a_sufficient_set_is_compared_by_keeping_the_tokens_alone():
    model = Additive()
    found = fake_explanation(VIEW, sets=SETS, mode="sufficient")
    table = measure_faithfulness(model, found, maps(), metrics=())
    assert rows_of(table, "good").value == pytest.approx(0.05 + 0.5 + 0.3)
    assert rows_of(table, "flat").value == pytest.approx(0.05)
    (line,) = masked_lines([table], maps()[0])
    assert "keeping" in line


def test_metrics_stand_beside_and_the_explanation_is_among_the_methods(tmp_path):
    model, found = Additive(), fake_explanation(VIEW, sets=SETS)
    table = measure_faithfulness(model, found, maps(), metrics=("deletion",), steps=4)
    assert table.model_runs == len(model.rows)
    value = table.get("good", "deletion")
    assert len(value.detail["counts"]) == 5 and table.parameters["steps"] == 4
    assert table.get("causal", "deletion").value < table.get("flat", "deletion").value
    again = MetricTable.load(table.save(tmp_path / "m.json"))
    assert again.to_dict() == table.to_dict()
    (data,) = case_payload(VIEW, [found], maps(), key="k", metrics=[again])["explanations"]
    known = {
        tuple(positions): (p, words, changed) for positions, p, words, changed in data["asked"]
    }
    p, words, changed = known[tuple(sorted((13, WORD)))]
    assert (p, words, changed) == (pytest.approx(0.15), "says “green”", True)
    assert f"{table.model_runs} masked model runs" in data["metricNote"]
    assert "5 points" in data["metricNote"]


def test_the_page_ranks_tokens_as_they_were_masked():
    close = replace(
        fake_attribution(VIEW), scores=1.0 + 1e-9 * np.arange(len(LAYOUT))
    )  # alike in the digits that are sent
    (data,) = case_payload(VIEW, [], [close], key="k")["attributions"]
    assert len(set(data["scores"])) == 1
    for scope in ("all", "image", "text"):
        assert data["top"][scope] == ranked(LAYOUT, close, scope)[:64]
    assert data["top"]["image"][0] == max(LAYOUT.grids[0].positions)


def test_methods_of_other_words_are_left_out_and_what_needs_more_is_refused():
    other = fake_attribution(VIEW, "circle")
    table = measure_faithfulness(Additive(), fake_explanation(VIEW, sets=SETS), [other], metrics=())
    assert [v.method for v in table.values] == ["causal"] and table.model_runs == 0
    assert table.values[0].value == 0.02  # what the search verified
    measurable(["deletion", "validity"])
    with pytest.raises(ValueError, match="region"):
        measurable(["pointing_game"])
    with pytest.raises(ValueError, match="unknown metric"):
        measurable(["guesswork"])
