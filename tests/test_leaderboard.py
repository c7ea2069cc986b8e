"""The leaderboard says what was measured, and its targets are what they are said to be."""

from __future__ import annotations

import json
from argparse import Namespace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.methods import evaluate
from causal_lvlm.metrics import Case
from causal_lvlm.metrics.statistics import bootstrap_mean
from experiments.common import streams
from experiments.common.pairs import Pair, draw_pairs, pair_of, plan_items
from experiments.common.tables import filled, markdown, rounded
from experiments.leaderboard import item, page, run, settings
from experiments.leaderboard.summary import Results, summarise, verdicts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "leaderboard" / "results"


@pytest.fixture(scope="module")
def model(embedded_model):
    return embedded_model


@pytest.fixture(scope="module")
def saved():
    summary = json.loads((RESULTS / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((RESULTS / "config.json").read_text(encoding="utf-8"))
    return summary, config


# --- what is shown -------------------------------------------------------------------------------


def test_readme_and_table_say_what_the_json_says(saved):
    summary, config = saved
    shown = page.PAGE.read_text(encoding="utf-8")
    assert filled(shown, page.texts(summary, config)) == shown, (
        "stale: run python -m experiments.leaderboard.run --render"
    )
    table = (RESULTS / "table.md").read_text(encoding="utf-8")
    assert table == page.full_table(summary) + "\n"
    assert (RESULTS / "figure.png").stat().st_size < 400_000


def test_the_summary_is_of_the_saved_targets(saved):
    summary, config = saved
    lines = read_lines(RESULTS / "results.jsonl")
    written = read_config(RESULTS / "results.jsonl")
    assert {k: config[k] for k in written} == written
    assert summary["targets"] == len(lines) == config["targets"] >= 300
    assert not any("error" in line for line in lines)
    found = Results(lines, written["columns"])
    assert summary["scenes"] == len(set(found.scenes)) > 100
    for row in summary["methods"]:
        for metric, shown in row["metrics"].items():
            values = found.values(row["method"], metric)
            assert shown["n"] == np.isfinite(values).sum()
            assert shown["mean"] == pytest.approx(np.nanmean(values), rel=1e-4, abs=1e-12)
    causal = next(row for row in summary["methods"] if row["method"] == "causal")
    again = bootstrap_mean(found.values("causal", "deletion"), found.scenes)
    assert causal["metrics"]["deletion"]["low"] == pytest.approx(again.low, rel=1e-4)


def test_parts_are_drawn_as_the_settings_say(saved):
    _, config = saved
    lines = read_lines(RESULTS / "results.jsonl")
    for name in config["costly"]:
        n = sum(name in line["result"]["methods"] for line in lines)
        assert n in (0, round(config["shares"]["costly"] * config["targets"]))


# --- how it is summarised ------------------------------------------------------------------------


def line(scene, **values):
    """Return a saved target: per method, its value of each metric of `settings.HEADLINE`."""
    methods = {
        name: {"cost": [1, 0, 0.5, 1024], "values": [value] * len(settings.HEADLINE)}
        for name, value in values.items()
    }
    return {"result": {"scene": scene, "maskable": True, "region": True, "methods": methods}}


def test_best_order_and_verdicts_follow_the_direction_of_each_metric():
    rng = np.random.default_rng(0)
    lines = [
        line(k // 2, high=0.9 + 0.01 * rng.random(), low=0.1 + 0.01 * rng.random(),
             causal=0.5 + 0.01 * rng.random(), **({"part": 0.5} if k < 4 else {}))
        for k in range(40)
    ]  # fmt: skip
    summary = summarise(lines, list(settings.HEADLINE))
    rows = {row["method"]: row for row in summary["methods"]}
    assert summary["tests"]["deletion"]["best"] == "low"
    assert summary["tests"]["insertion"]["best"] == "high"
    assert rows["part"]["n"] == 4 and rows["high"]["metrics"]["deletion"]["n"] == 40
    said = verdicts(summary, "deletion")  # lower is better
    assert said == {"beats": ["high"], "loses": ["low"], "open": ["part"]}
    assert verdicts(summary, "insertion")["beats"] == ["low"]
    assert summary["scenes"] == 20 and rows["high"]["mean_rank"] == 2.5
    assert rows["high"]["seconds"] == 0.5 and rows["high"]["peak_memory"] == 1024


def test_blocks_of_a_page_must_match():
    shown = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb"
    assert filled(shown, {"x": "new"}) == "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb"
    with pytest.raises(ValueError, match="blocks"):
        filled(shown, {"y": "new"})
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    assert rounded({"a": [1.23456789, 3]}, 3) == {"a": [1.23, 3]}


def test_methods_measured_again_take_the_place_of_their_saved_rows_only(tmp_path, monkeypatch):
    header = {"kind": "items", "config": {"methods": ["a", "b"]}}
    lines = [{"key": k, "digest": "-", "result": {"methods": {"a": k, "b": k}}} for k in (0, 1)]
    text = "".join(json.dumps(line) + "\n" for line in (header, *lines))
    (tmp_path / "results.jsonl").write_text(text)
    config = {"methods": ["a", "b"], "options": {}, "targets": 2, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(run, "load", lambda name: None)
    monkeypatch.setattr(run, "items_of", lambda *_: ({0: {"n": 5}, 1: {"n": 6}}, 0))
    monkeypatch.setattr(item, "setup", lambda methods, options: methods)
    monkeypatch.setattr(
        item, "work", lambda i, methods: {"methods": dict.fromkeys(methods, i["n"])}
    )
    run.measure_again(Namespace(out=tmp_path, again=["b"], jobs=1, restart=False))
    found = read_lines(tmp_path / "results.jsonl")
    assert [line["result"]["methods"] for line in found] == [{"a": 0, "b": 5}, {"a": 1, "b": 6}]
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["again"]) == ["b"] and not (tmp_path / "again.jsonl").exists()
    with pytest.raises(SystemExit, match="saved methods"):
        run.measure_again(Namespace(out=tmp_path, again=["c"], jobs=1, restart=False))


# --- what is measured ----------------------------------------------------------------------------


def test_no_two_splits_share_a_stream():
    numbers = [v for k, v in vars(streams).items() if k.isupper()]
    assert len(numbers) == len(set(numbers)) and min(numbers) > 1000


def test_first_light_draws_the_pairs_that_it_saved(model):
    path = ROOT / "experiments" / "first_light" / "results" / "pairs.jsonl"
    with path.open(encoding="utf-8") as stream:
        rows = [json.loads(text) for text in islice(stream, 3)]
    drawn = draw_pairs(model, 3, seed=0, stream=streams.FIRST_LIGHT_REPORT)
    pairs = [pair for pair in drawn if isinstance(pair, Pair)]
    for row, pair in zip(rows, pairs, strict=True):
        assert (row["prompt"], row["answer"]) == (pair.trace.prompt, pair.trace.answer)
        assert (row["target"], row["chance"]) == (pair.target, pair.chance)


def test_planned_targets_are_right_answers_and_the_same_in_any_process(model):
    items, _ = plan_items(model, 7, seed=3, stream=streams.LEADERBOARD)
    again, _ = plan_items(model, 5, seed=3, stream=streams.LEADERBOARD)
    assert items[:5] == again
    assert max(np.bincount([i["scene"] for i in items])) <= 3
    for planned in items[:2]:
        one, two = pair_of(model, planned), pair_of(model, planned)
        assert one.target == two.target and one.boxes == two.boxes
        assert one.trace.answer == two.trace.answer
        grid = one.trace.layout.grids[0]
        for left, top, right, bottom in one.boxes:
            inside = [
                p for p, (a, b, c, d) in zip(grid.positions, grid.boxes, strict=True)
                if a < right and c > left and b < bottom and d > top
            ]  # fmt: skip
            assert one.object_positions & set(inside)


def test_parts_are_nested_and_seeded(monkeypatch):
    monkeypatch.setattr(run, "plan_items", lambda *_, **__: ([{"scene": k} for k in range(40)], []))
    items, _ = run.items_of(None, 40, 1)
    parts = {n: {k for k, i in items.items() if i[n]} for n in settings.SHARES}
    assert len(parts["costly"]) == round(settings.SHARES["costly"] * 40)
    assert parts["sanity"] <= parts["costly"]
    assert items == run.items_of(None, 40, 1)[0] != run.items_of(None, 40, 2)[0]


def test_one_target_is_measured_as_the_library_measures_it(model):
    planned = {**plan_items(model, 1, seed=3, stream=streams.LEADERBOARD)[0][0],
               "costly": False, "extra": False, "sanity": False}  # fmt: skip
    state = {"model": model, "methods": ["attention", "causal"],
             "options": {"causal": {"max_runs": 40}}}  # fmt: skip
    result = item.work(planned, state)
    pair = pair_of(model, planned)
    case = Case(pair.trace, pair.target, units=settings.UNITS)
    found = cl.attribute(pair.trace, pair.target, "attention", units=settings.UNITS)
    table = evaluate(pair.trace, pair.target, found, settings.METRICS[:8], case=case)
    saved = dict(zip(settings.COLUMNS, result["methods"]["attention"]["values"], strict=True))
    for value in table.values:
        assert saved[value.metric.split("[")[0]] == pytest.approx(value.value, rel=1e-4)
    order = case.order(found.unit_scores(case.units))
    flips = [k for k in range(len(order) + 1) if case.without([order[:k]]).changed[0]]
    assert saved[settings.FLIP_SIZE] == (flips[0] if flips else None)
    causal = dict(zip(settings.COLUMNS, result["methods"]["causal"]["values"], strict=True))
    assert causal["validity"] in (None, 1.0)
    assert result["methods"]["causal"]["cost"][0] <= 45
