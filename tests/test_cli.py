"""The command line: exit codes, clear errors, files, and that Ctrl-C loses nothing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import causal_lvlm
from causal_lvlm import cli
from causal_lvlm.cli.report import read_results
from causal_lvlm.errors import PromptError, TargetError
from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.metrics.result import MetricTable, MetricValue
from causal_lvlm.structure.stability_result import EdgeStability
from causal_lvlm.viz.bundle import write_cases
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.view import view_of
from tests.viz.fakes import (
    explaining_set,
    fake_attribution,
    fake_explanation,
    fake_layout,
    fake_trace,
    fake_view,
    random_graph,
    summary_of,
)

ROOT = Path(__file__).resolve().parents[1]
runner = CliRunner()


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Replace the model and everything that runs it; record what was asked for."""
    seen = SimpleNamespace(loaded=[], run=[], explained=[], attributed=[])

    def load_model(name=None, **options):
        seen.loaded.append((name, options))
        return SimpleNamespace(run=run)

    def run(image, prompt, **options):
        seen.run.append((image, prompt, options))
        if not prompt:
            raise PromptError("the prompt is empty;\nask something")
        return fake_trace()

    def explain(trace, target, *, progress=None, **options):
        seen.explained.append((getattr(target, "text", target), options))
        if progress is not None:
            progress("explaining set: joint", 1, 600)
        return fake_explanation(fake_view(), getattr(target, "text", target))

    def attribute(trace, target, method="relevancy"):
        seen.attributed.append((target.text, method))
        return fake_attribution(fake_view(), target.text, method)

    for name, function in (
        ("load_model", load_model), ("explain", explain), ("attribute", attribute)
    ):  # fmt: skip
        # Not setattr: reading the real one first would import torch.
        monkeypatch.setitem(causal_lvlm.__dict__, name, function)
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "y.png"):  # the command looks at them, the fakes do not
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return seen


@pytest.fixture
def looks(monkeypatch):
    """Replace what would run the model or learn graphs beside an explanation."""
    seen = SimpleNamespace(measured=[], stable=[], heads=[])
    layout = fake_layout()

    def measure_faithfulness(trace, explanation, attributions, *, metrics=("deletion",), **_):
        names = [a.method for a in attributions if a.target == explanation.target]
        seen.measured.append((explanation.target.text, names, tuple(metrics)))
        rows = [{"scope": "all", "k": 2, "positions": [4, 5], "probability": 0.31,
                 "first_choice": ["red"], "changed": False}]  # fmt: skip
        detail = {"mode": "necessary", "budget": 2, "rows": rows}
        values = [
            MetricValue(metric, name, 0.31, detail if "top" in metric else {}, 3, 3, 0.1)
            for name in names
            for metric in ("masked_top[remove]", "deletion[remove]")
        ]
        return MetricTable(tuple(values), explanation.target, {"steps": 16}, 42, 0.1)

    def explanation_stability(trace, explanation, *, runs=20, seed=0, **_):
        seen.stable.append((explanation.target.text, runs, seed))
        graph = explanation.graphs[0]
        there = (graph.structure.pag.marks > 0).astype(float) / 2
        marks = np.stack([1 - there, 0 * there, there, 0 * there], axis=2)
        edges = EdgeStability(there, marks, np.array([3] * runs), runs, 0, {})
        at = graph.target_node
        return TargetStability(edges, graph.positions, graph.members, at, 0, explanation.target)

    def head_graphs(trace, target, **_):
        seen.heads.append(target.text)
        graphs = tuple(
            replace(random_graph(layout, target, seed=k), head=k, candidate_mass=0.5)
            for k in range(2)
        )
        return HeadGraphs(target, graphs, {"layer": 1})

    for module, function in (
        ("causal_lvlm.methods", measure_faithfulness),
        ("causal_lvlm.explanation.trust", explanation_stability),
        ("causal_lvlm.explanation.head_graphs", head_graphs),
    ):
        monkeypatch.setattr(importlib.import_module(module), function.__name__, function)
    return seen


def data_of(page):
    (run,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["runs"]
    return run


def invoke(*arguments):
    return runner.invoke(cli.app, [str(a) for a in arguments])


def test_help_teaches_and_needs_no_torch():
    code = (
        "import sys\nfrom causal_lvlm.cli import main\n"
        "try:\n    main(['explain', '--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'numba', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True, text=True, check=False, cwd=ROOT.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout and "--target" in done.stdout


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "causal_lvlm", "--help"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for command in ("demo", "explain", "learn", "methods"):
        assert command in done.stdout


def test_methods_lists_every_method():
    result = invoke("methods")
    assert result.exit_code == 0
    for info in causal_lvlm.list_methods():
        assert info.name in result.stdout and info.summary in result.stdout
    listed = json.loads(invoke("methods", "--json").stdout)
    assert [row["name"] for row in listed] == [i.name for i in causal_lvlm.list_methods()]


def test_explain_writes_a_folder_and_says_so(calls, tmp_path):
    out = tmp_path / "result"
    result = invoke("explain", "x.png", "what ?", "-t", "red", "-m", "relevancy", "--out", out)
    assert result.exit_code == 0, result.output
    for name in ("report.html", "explanation.json", "pag.dot", "pag.png", "heat-relevancy.png"):
        assert (out / name).is_file()
    assert "answer: red circle" in result.stdout
    assert "1 of 1 explained target has a verified set; 137 masked model runs" in result.stdout
    assert f"Wrote {len(list(out.iterdir()))} files" in result.stdout
    assert causal_lvlm.Explanation.load(out / "explanation.json").target.text == "red"
    assert calls.attributed == [("red", "relevancy")]


def test_only_options_that_were_given_are_passed_on(calls):
    assert invoke("explain", "x.png", "what ?", "-t", "red").exit_code == 0
    assert calls.explained == [("red", {})]
    plain = {"device": "auto", "dtype": "auto", "revision": None, "max_memory": None}
    assert calls.loaded == [(None, plain)]
    invoke("explain", "x.png", "what ?", "-t", "red", "--max-memory", "2GB")
    assert calls.loaded[-1][1]["max_memory"] == "2GB"
    invoke(
        "explain", "x.png", "what ?", "-t", "red", "--layer", "effective", "--max-runs", 50,
        "--masking", "edges", "--source", "attention", "--time-limit", 2.5, "--model", "some/model",
    )  # fmt: skip
    assert calls.explained[-1][1] == {
        "layer": "effective", "max_runs": 50, "masking": "edges", "source": "attention",
        "time_limit": 2.5,
    }  # fmt: skip
    assert calls.loaded[-1][0] == "some/model"
    invoke("explain", "x.png", "what ?", "--layer", "-2")
    assert calls.explained[-1][1] == {"layer": -2}


def test_pictures_may_be_several_or_none(calls, tmp_path):
    assert invoke("explain", "x.png", "what ?", "-t", "red").exit_code == 0
    assert invoke("explain", "x.png", "y.png", "which ?", "-t", "red").exit_code == 0
    handed = [([picture.size for picture in images], text) for images, text, _ in calls.run]
    assert handed == [([(4, 4)], "what ?"), ([(4, 4), (4, 4)], "which ?")]  # decoded once
    result = invoke("explain", "what ?", "-t", "red", "--model", "some/text-model")
    assert result.exit_code == 0 and calls.run[-1][:2] == (None, "what ?")
    assert "Within the text" in result.stdout and "Within the image" not in result.stdout
    with_one = invoke("explain", "x.png", "what ?", "-t", "red")
    assert "Within the image" in with_one.stdout


def test_a_picture_without_a_question_is_not_taken_for_one(calls, tmp_path):
    (tmp_path / "scan").write_bytes(b"x")
    for only in ("x.png", tmp_path / "scan"):
        result = invoke("explain", only)
        assert result.exit_code == 2 and "there is no question" in result.stderr
    assert calls.loaded == []
    assert invoke("explain", "why " * 2000 + "?").exit_code == 0  # no file name is that long


def test_json_is_alone_on_stdout(calls):
    result = invoke("explain", "x.png", "what ?", "-t", "red", "-m", "rollout", "--json")
    value = json.loads(result.stdout)
    assert value["answer"] == "red circle"
    assert value["explanations"][0]["sets"]["joint"]["model_runs"] == 64
    assert value["attributions"][0]["method"] == "rollout"


def test_without_a_target_the_last_word_is_taken_and_named(calls):
    result = invoke("explain", "x.png", "what ?")
    assert calls.explained[0][0] == "circle"
    assert "“circle”, the last word of the answer" in result.stdout


def test_default_target_is_a_whole_word():
    layout = fake_layout(("a", "spot", "ted", "."))
    words = layout.words.copy()
    words[-2] = words[-3]  # "ted" belongs to the word of "spot"
    layout = dataclasses.replace(layout, words=words)
    target, remark = cli.default_target(layout)
    assert target.positions == (len(layout) - 3, len(layout) - 2)
    assert "last word" in remark
    single, remark = cli.default_target(fake_layout(("red",)))
    assert single.text == "red" and "only word" in remark
    with pytest.raises(TargetError, match="--target"):
        cli.default_target(fake_layout(("?",)))


def test_targets_are_words_before_they_are_numbers():
    layout = fake_layout(("two", "1", "red"))
    assert cli.find_target(layout, "1").positions == (layout.n_prompt + 1,)
    assert cli.find_target(layout, "0").positions == (layout.n_prompt,)
    assert cli.find_target(layout, "red").positions == (layout.n_prompt + 2,)
    with pytest.raises(TargetError, match="out of range"):
        cli.find_target(layout, "7")
    with pytest.raises(TargetError, match="not in the answer"):
        cli.find_target(layout, "green")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("x.png", ""), "the prompt is empty; ask something"),
        (("x.png", "what ?", "-t", "green"), "'green' is not in the answer"),
        (("x.png", "what ?", "-t", "9"), "out of range"),
        (("x.png", "what ?", "--layer", "last"), "layer must be a number"),
        (("x.png", "what ?", "-m", "guesswork"), "unknown method 'guesswork'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(calls, arguments, part):
    result = invoke("explain", *arguments)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("causal-lvlm:")]
    assert len(lines) == 1 and part in lines[0]
    assert "Traceback" not in result.output and result.stdout == ""


def test_debug_shows_where_it_came_from(calls):
    result = invoke("explain", "x.png", "", "--debug")
    assert isinstance(result.exception, PromptError)


def test_the_folder_is_checked_before_the_model_is_loaded(calls, tmp_path):
    (tmp_path / "taken").write_text("x")
    for command in (("explain", "x.png", "what ?"), ("demo",)):
        result = invoke(*command, "--out", tmp_path / "taken")
        assert result.exit_code == 2 and "cannot write" in result.stderr
    assert calls.loaded == []


def test_a_missing_picture_is_named_before_the_model_is_loaded(calls):
    result = invoke("explain", "x.png", "gone.png", "what ?")
    assert result.exit_code == 2 and "no such picture file: gone.png" in result.stderr
    assert calls.loaded == []


def test_a_budget_that_is_no_amount_of_memory_is_refused():
    result = invoke("explain", "what color is the circle ?", "--max-memory", "much")
    assert result.exit_code == 2 and "max_memory must be a number of bytes" in result.stderr


def test_an_unknown_method_is_refused_before_the_model_is_loaded(calls):
    invoke("explain", "x.png", "what ?", "-m", "guesswork")
    assert calls.loaded == []


def test_ctrl_c_between_words_keeps_what_was_found(calls, monkeypatch, tmp_path):
    done: list[object] = []

    def explain(trace, target, **_):
        if done:
            raise KeyboardInterrupt
        done.append(target)
        return fake_explanation(fake_view(), target.text)

    monkeypatch.setitem(causal_lvlm.__dict__, "explain", explain)
    result = invoke("explain", "x.png", "what ?", "-t", "red", "-t", "circle", "--out", tmp_path)
    assert result.exit_code == 130
    assert "was saved" in result.stderr
    assert causal_lvlm.Explanation.load(tmp_path / "explanation.json").target.text == "red"
    assert "interrupted" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_ctrl_c_inside_a_search_keeps_its_partial_result(calls, monkeypatch, tmp_path):
    view = fake_view()
    part = {"joint": explaining_set("joint", (13,), minimality="none", ended="interrupted")}
    monkeypatch.setitem(
        causal_lvlm.__dict__, "explain", lambda *a, **k: fake_explanation(view, sets=part)
    )
    result = invoke("explain", "x.png", "what ?", "-t", "red", "-t", "circle", "--out", tmp_path)
    assert result.exit_code == 130
    loaded = causal_lvlm.Explanation.load(tmp_path / "explanation.json")
    assert loaded.main.ended == "interrupted"


def test_ctrl_c_while_drawing_keeps_the_numbers(calls, monkeypatch, tmp_path):
    module = importlib.import_module("causal_lvlm.viz.case")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pictures_of", stop)
    result = invoke("explain", "x.png", "what ?", "-t", "red", "--out", tmp_path)
    assert result.exit_code == 130
    line = result.stderr.replace("\r", "\n").splitlines()[-1]  # the bar is gone before it
    assert line.startswith("causal-lvlm: interrupted before all was drawn; the numbers are in")
    assert causal_lvlm.Explanation.load(tmp_path / "explanation.json").target.text == "red"


def test_ctrl_c_while_the_numbers_are_written_lets_them_be_finished(calls, monkeypatch, tmp_path):
    module = importlib.import_module("causal_lvlm.viz.bundle")
    write, done = module.write_json, []

    def stop_once(path, value):
        done.append(path)
        if len(done) == 1:
            raise KeyboardInterrupt
        return write(path, value)

    monkeypatch.setattr(module, "write_json", stop_once)
    result = invoke("explain", "x.png", "what ?", "-t", "red", "-t", "circle", "--out", tmp_path)
    assert result.exit_code == 130 and "the numbers are in" in result.stderr
    index = json.loads((tmp_path / "explanation.json").read_text(encoding="utf-8"))
    assert index["interrupted"] is True
    for entry in index["runs"][0]["explanations"]:
        assert causal_lvlm.Explanation.load(tmp_path / entry["file"]).target.text
    assert not (tmp_path / "report.html").exists()


def test_ctrl_c_before_the_numbers_does_not_point_to_an_older_file(calls, monkeypatch, tmp_path):
    module = importlib.import_module("causal_lvlm.viz.bundle")

    def stop(*_):
        raise KeyboardInterrupt

    (tmp_path / "explanation.json").write_text('{"kind": "explanation"}')  # an earlier run
    monkeypatch.setattr(module, "_write_numbers", stop)
    result = invoke("explain", "x.png", "what ?", "-t", "red", "--out", tmp_path)
    assert result.exit_code == 130 and "before the numbers were written" in result.stderr


def test_ctrl_c_before_anything_was_found(calls, monkeypatch, tmp_path):
    def explain(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(causal_lvlm.__dict__, "explain", explain)
    result = invoke("explain", "x.png", "what ?", "--out", tmp_path / "out")
    assert result.exit_code == 130 and "nothing had been found" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_explain_measures_what_was_asked_for_and_the_files_say_the_same(calls, looks, tmp_path):
    out = tmp_path / "result"
    result = invoke(
        "explain", "x.png", "what ?", "-t", "red", "-m", "relevancy", "--faithfulness",
        "--stability", 7, "--heads", "--seed", 3, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert looks.measured[0][:2] == ("red", ["relevancy"])
    assert looks.stable == [("red", 7, 3)] and looks.heads == ["red"]
    assert "Faithfulness for “red” (42 model runs;" in result.stdout
    names = {p.name for p in out.iterdir()}
    assert {"metrics.json", "stability.json", "heads.json"} <= names
    page = (out / "report.html").read_text("utf-8")
    for given in (out / "explanation.json", out):
        again = invoke("report", given, "--out", tmp_path / "again.html")
        assert again.exit_code == 0, again.output
        text = (tmp_path / "again.html").read_text("utf-8")
        assert data_of(text)["explanations"] == data_of(page)["explanations"]
        assert data_of(text)["attributions"] == data_of(page)["attributions"]
    found = data_of(page)["explanations"][0]
    assert found["asked"] == [[[4, 5], 0.31, "says “red”", False]] and found["stable"]
    assert {edge[4] for edge in found["graphs"][0]["edges"]} == {0.5}
    assert [g["title"] for g in found["graphs"][1:]] == ["All heads", "Head 0", "Head 1"]
    printed = json.loads(
        invoke("explain", "x.png", "what ?", "-t", "red", "--metric", "deletion", "--json").stdout
    )
    assert printed["metrics"][0]["model_runs"] == 42 and looks.measured[-1][2] == ("deletion",)


def test_looks_that_cannot_be_had_are_refused_before_a_model_is_loaded(calls, looks):
    for arguments, part in (
        (("--metric", "guesswork"), "unknown metric"),
        (("--metric", "pointing_game"), "needs 'region'"),
        (("--stability", 3, "--source", "relevancy"), "--stability jitters weights"),
    ):
        result = invoke("explain", "x.png", "what ?", *arguments)
        assert result.exit_code == 2 and part in result.stderr
    assert calls.loaded == []


def test_results_of_one_run_do_not_stray_into_another_with_the_same_words(tmp_path):
    view = fake_view()
    image = view.images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored = view_of(replace(fake_trace(), image=image, images=()))
    cases = [
        Case(summary_of(shown), [fake_explanation(shown)], [fake_attribution(shown, method=name)])
        for shown, name in ((view, "rollout"), (mirrored, "attention"))
    ]
    write_cases(cases, tmp_path)
    for given in (tmp_path, tmp_path / "explanation.json"):
        found, remarks = read_results([given])
        assert remarks == []
        assert [[a.method for a in case.attributions] for case in found] == [
            ["rollout"], ["attention"]
        ]  # fmt: skip


def test_demo_explains_every_sample(calls, looks, monkeypatch, tmp_path):
    import causal_lvlm.tiny

    samples = [
        SimpleNamespace(
            name=name, image_path=f"{name}.png", prompt="what ?", note="A note.",
            hallucination=False,
        )
        for name in ("colour", "count")
    ]  # fmt: skip
    monkeypatch.setattr(causal_lvlm.tiny, "sample_inputs", lambda: samples)
    result = invoke("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert [image for image, _, _ in calls.run] == ["colour.png", "count.png"]
    assert "2 of 2 explained targets have a verified set; 274 masked model runs" in result.stdout
    for counted in (
        "writing numbers: .* 0/3",
        "drawing “circle”: .* 1/3",
        "drawing “circle”: .* 2/3",
    ):
        assert re.search(counted, result.stderr), counted
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"report.html", "explanation.json", "1-circle-pag.png", "2-circle-pag.dot"} <= names
    for run in json.loads((tmp_path / "demo" / "explanation.json").read_text("utf-8"))["runs"]:
        loaded = causal_lvlm.Explanation.load(tmp_path / "demo" / run["explanations"][0]["file"])
        assert loaded.target.text == "circle"
        for kind in ("metrics", "stability", "heads"):
            assert (tmp_path / "demo" / run[kind][0]["file"]).is_file()
    measured = [names for _, names, _ in looks.measured]
    assert len(measured) == 2 and all("leave_one_out" in names for names in measured)


def test_a_stage_that_fails_loses_nothing_that_was_found(calls, looks, monkeypatch, tmp_path):
    def impossible(*_, **__):
        raise ValueError("this cannot\nbe measured")

    for module, name in (
        ("causal_lvlm.methods", "measure_faithfulness"),
        ("causal_lvlm.explanation.trust", "explanation_stability"),
    ):
        monkeypatch.setattr(importlib.import_module(module), name, impossible)
    attribute = causal_lvlm.attribute

    def some(trace, target, method="relevancy"):
        if method == "rollout":
            raise ValueError("needs more layers")
        return attribute(trace, target, method)

    monkeypatch.setitem(causal_lvlm.__dict__, "attribute", some)
    out = tmp_path / "out"
    result = invoke(
        "explain", "x.png", "what ?", "-t", "red", "-t", "circle", "-m", "rollout", "-m",
        "attention", "--faithfulness", "--stability", 3, "--heads", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    lines = [line for line in result.stderr.split("causal-lvlm: ") if "failed" in line]
    assert len(lines) == 6, result.stderr  # rollout and two looks, for each of two words
    assert "--faithfulness for “circle” failed: this cannot be measured" in result.stderr
    names = {p.name for p in out.iterdir()}
    assert {"red.json", "circle.json", "report.html", "red-heads.json"} <= names
    assert {"red-heat-attention.json", "circle-heat-attention.json"} <= names


def test_a_second_word_that_fails_leaves_the_first(calls, monkeypatch, tmp_path):
    first = causal_lvlm.explain

    def explain(trace, target, **options):
        if target.text == "circle":
            raise TargetError("no row of this target")
        return first(trace, target, **options)

    monkeypatch.setitem(causal_lvlm.__dict__, "explain", explain)
    out = tmp_path / "out"
    result = invoke("explain", "x.png", "what ?", "-t", "red", "-t", "circle", "--out", out)
    assert result.exit_code == 2 and "“circle” failed: no row of this target" in result.stderr
    assert json.loads((out / "explanation.json").read_text("utf-8"))["target"]["text"] == "red"
    monkeypatch.setitem(causal_lvlm.__dict__, "attribute", first)
    alone = invoke("explain", "x.png", "what ?", "-t", "circle", "--out", tmp_path / "none")
    assert alone.exit_code == 2 and list((tmp_path / "none").iterdir()) == []


@pytest.mark.parametrize("stage", ["attribute", "measure_faithfulness", "explanation_stability",
                                   "head_graphs"])  # fmt: skip
def test_ctrl_c_in_any_later_stage_keeps_what_was_found(calls, looks, monkeypatch, tmp_path, stage):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    homes = {
        "measure_faithfulness": "causal_lvlm.methods",
        "explanation_stability": "causal_lvlm.explanation.trust",
        "head_graphs": "causal_lvlm.explanation.head_graphs",
    }
    if stage == "attribute":
        monkeypatch.setitem(causal_lvlm.__dict__, stage, stopped)
    else:
        monkeypatch.setattr(importlib.import_module(homes[stage]), stage, stopped)
    out = tmp_path / "out"
    result = invoke(
        "explain", "x.png", "what ?", "-t", "red", "-m", "rollout", "--faithfulness",
        "--stability", 3, "--heads", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 130 and "what had been found was saved" in result.stderr
    names = {p.name for p in out.iterdir()}
    assert {"explanation.json", "report.html"} <= names
    done = ["attribute", *homes].index(stage)
    for at, name in enumerate(("heat-rollout.json", "metrics.json", "stability.json"), start=1):
        assert (name in names) == (at <= done), name
    assert "interrupted" in (out / "report.html").read_text("utf-8")
