"""``causal-lvlm evaluate``: data checked first, nothing lost, same results however it is run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from causal_lvlm import cli
from causal_lvlm.cli.items import read_items
from causal_lvlm.errors import DataError
from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.tiny import samples_path

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(samples_path())
CHEAP = ("--methods", "attention,random", "--metrics", "comprehensiveness,iou")
runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(cli.app, ["evaluate", *(str(a) for a in arguments)])


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@pytest.fixture
def three(tmp_path):
    """Return a file with three items of the bundled samples."""
    colour = {"image": str(SAMPLES / "colour.png"), "prompt": "what color is the star?"}
    return write(
        tmp_path / "items.jsonl",
        [
            {**colour, "id": "with boxes", "target": "yellow", "boxes": [[10, 11, 31, 32]]},
            {**colour, "target": 0},
            {"image": str(SAMPLES / "caption.png"), "prompt": "describe the image.",
             "target": [1, 3], "id": "phrase"},
        ],
    )  # fmt: skip


def plain(path):
    """Return what must not depend on how a run went: no seconds and no memory."""

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in ("seconds", "peak_memory")}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(read_lines(path))


def test_items_are_explained_measured_and_summarised(three, tmp_path):
    out = tmp_path / "r.jsonl"
    done = invoke(three, *CHEAP, "--out", out)
    assert done.exit_code == 0, done.output
    lines = {line["key"]: line["result"] for line in read_lines(out)}
    assert set(lines) == {"with boxes", "line 2", "phrase"}
    assert lines["with boxes"]["target"] == "yellow" and lines["with boxes"]["answer"] == "yellow"
    assert len(lines["phrase"]["positions"]) == 2
    first = lines["with boxes"]["methods"]["attention"]
    assert first["model_runs"] == 1 and first["seconds"] > 0
    assert set(first["metrics"]) == {"comprehensiveness[remove]", "iou"}
    assert set(lines["line 2"]["methods"]["attention"]["metrics"]) == {"comprehensiveness[remove]"}
    assert "2 of 3 items have no boxes: iou left out there" in done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| attention")]
    values = [
        r["methods"]["attention"]["metrics"]["comprehensiveness[remove]"]["value"]
        for r in lines.values()
    ]
    assert f"{sum(values) / 3:.3f} [" in table[0] and "3 items" in done.stdout
    assert read_config(out)["units"] == "patch+word"


def test_a_value_is_what_the_library_measures(three, tmp_path, embedded_model):
    import causal_lvlm as cl
    from causal_lvlm.methods import evaluate

    out = tmp_path / "r.jsonl"
    assert invoke(three, *CHEAP, "--out", out, "--limit", 1, "--units", "block:2").exit_code == 0
    trace = embedded_model.run(SAMPLES / "colour.png", "what color is the star?")
    found = cl.attribute(trace, "yellow", "attention")
    table = evaluate(trace, "yellow", found, "comprehensiveness", units="block:2")
    saved = read_lines(out)[0]["result"]["methods"]["attention"]["metrics"]
    assert saved["comprehensiveness[remove]"]["value"] == pytest.approx(table.values[0].value)


def test_sets_and_options_of_methods(three, tmp_path):
    out = tmp_path / "r.jsonl"
    done = invoke(three, "--methods", "causal,attention", "--metrics", "validity,size",
                  "--option", "causal.max_runs=40", "--limit", 1, "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    methods = read_lines(out)[0]["result"]["methods"]
    assert methods["causal"]["model_runs"] <= 45  # and passes for attention and gradient
    assert methods["causal"]["metrics"]["validity[remove]"]["value"] == 1.0
    assert methods["attention"]["metrics"] == {}


def test_a_method_that_fails_leaves_the_others_alone(three, tmp_path):
    out = tmp_path / "r.jsonl"
    done = invoke(three, "--methods", "attention,random", "--metrics", "comprehensiveness",
                  "--option", "attention.layer=99", "--limit", 1, "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    methods = read_lines(out)[0]["result"]["methods"]
    assert "99" in methods["attention"]["error"]["message"]
    assert "metrics" in methods["random"] and "attention (1 error)" in done.stdout
    assert "attention failed on 1 items, first on with boxes" in done.stderr


def test_an_item_that_fails_is_kept_and_tried_again_on_request(three, tmp_path):
    out, items = tmp_path / "r.jsonl", three.read_text(encoding="utf-8").splitlines()
    wrong = write(tmp_path / "wrong.jsonl", [json.loads(items[0]), {
        "image": str(SAMPLES / "colour.png"), "prompt": "what color is the star?", "id": "x",
        "target": "elephant"}])  # fmt: skip
    done = invoke(wrong, *CHEAP, "--out", out)
    assert done.exit_code == 1 and "failed: x: TargetError" in done.stderr
    assert "1 item;" in done.stdout
    again = invoke(wrong, *CHEAP, "--out", out)
    assert again.exit_code == 1 and "2 of 2 items were there already" in again.stderr
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3
    invoke(wrong, *CHEAP, "--out", out, "--retry-errors")
    assert len(out.read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.slow
def test_processes_and_a_limit_then_the_rest_give_the_same_results(three, tmp_path):
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    assert invoke(three, *CHEAP, "--out", one).exit_code == 0
    assert invoke(three, *CHEAP, "--out", two, "--limit", 1).exit_code == 0
    assert len(read_lines(two)) == 1
    assert invoke(three, *CHEAP, "--out", two, "--jobs", 2).exit_code == 0
    assert plain(one) == plain(two)


@pytest.mark.slow
def test_a_killed_run_resumes_and_gives_what_an_undisturbed_one_gives(tmp_path):
    image, count = str(SAMPLES / "colour.png"), 30
    items = [{"image": image, "prompt": "what color is the star?", "id": f"{k:02}"}
             for k in range(count)]  # fmt: skip
    data, out = write(tmp_path / "items.jsonl", items), tmp_path / "r.jsonl"
    arguments = [str(data), "--methods", "leave_one_out", "--metrics", "deletion,insertion",
                 "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "causal_lvlm", "evaluate", *arguments], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = out.read_bytes()
    finished = len(read_lines(out))
    assert 3 <= finished < count
    short = ["--limit", str(finished + 2)]  # the rest would only take longer
    done = invoke(*arguments, *short)
    assert done.exit_code == 0 and f"{finished} of {finished + 2} items were there" in done.stderr
    assert out.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    other = tmp_path / "other.jsonl"
    assert invoke(*arguments[:-1], other, "--limit", 1).exit_code == 0
    same = plain(other)[0]["result"]
    assert all(line["result"] == same for line in plain(out))
    assert [line["key"] for line in read_lines(out)] == [f"{k:02}" for k in range(finished + 2)]


def test_ctrl_c_keeps_the_finished_items_and_says_how_to_go_on(three, tmp_path, monkeypatch):
    from causal_lvlm.cli import evaluate_item

    out, plain_work = tmp_path / "r.jsonl", evaluate_item.evaluate_item

    def interrupted(item, model, *, config):
        if item["target"] == 0:  # the second item
            raise KeyboardInterrupt
        return plain_work(item, model, config=config)

    monkeypatch.setattr(evaluate_item, "evaluate_item", interrupted)
    done = invoke(three, *CHEAP, "--out", out)
    assert done.exit_code == 130 and "the same command goes on" in done.stderr
    assert [line["key"] for line in read_lines(out)] == ["with boxes"]
    monkeypatch.undo()
    done = invoke(three, *CHEAP, "--out", out, "--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [(row["method"], row["items"]) for row in rows] == [("attention", 3), ("random", 3)]


def test_other_settings_are_refused_unless_restarted(three, tmp_path):
    out = tmp_path / "r.jsonl"
    assert invoke(three, *CHEAP, "--out", out, "--limit", 1).exit_code == 0
    done = invoke(three, *CHEAP, "--out", out, "--limit", 1, "--masking", "neutral")
    assert done.exit_code == 2 and 'masking was "remove", now "neutral"' in done.stderr
    done = invoke(three, *CHEAP, "--out", out, "--limit", 1, "--masking", "neutral", "--restart")
    assert done.exit_code == 0 and read_config(out)["masking"] == "neutral"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "nonsense"), "unknown method 'nonsense'"),
        (("--methods", ","), "no method was named"),
        (("--metrics", "nonsense"), "unknown metric 'nonsense'"),
        (("--metrics", "deletion[fog]"), "unknown masking in 'deletion[fog]'"),
        (("--metrics", "kendall"), "call it from Python"),
        (("--masking", "fog"), "unknown masking 'fog'"),
        (("--units", "atoms"), "atoms"),
        (("--option", "rise.n_masks=3"), "--option must be METHOD.NAME=VALUE"),
        (("--option", "relevancy.nonsense=3"), "'relevancy' has no option nonsense"),
        (("--jobs", "0"), "jobs must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(three, tmp_path, arguments, message):
    done = invoke(three, "--out", tmp_path / "r.jsonl", *arguments)
    assert done.exit_code == 2 and message in done.stderr
    assert not (tmp_path / "r.jsonl").exists()


def test_every_bad_line_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    good = {"image": "a.png", "prompt": "what?"}
    lines = [
        json.dumps(good), "{", "[1]", "", json.dumps({**good, "prompt": " "}),
        json.dumps({**good, "image": "b.png"}), json.dumps({"prompt": "what?"}),
        json.dumps({**good, "boxes": [[3, 1, 2, 4]]}), json.dumps({**good, "target": 1.5}),
        json.dumps({**good, "colour": 1}), json.dumps({**good, "id": "line 1"}),
        json.dumps({"image": None, "prompt": "what?", "boxes": [[1, 2, 3, 4]]}),
        json.dumps({"image": None, "prompt": "what?"}),
        json.dumps({"image": ["a.png", "a.png"], "prompt": "what?"}),
    ]  # fmt: skip
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_items(file)
    said = str(caught.value)
    for expected in (
        "line 2: no JSON", "line 3: not an object", "line 5: prompt must be", "line 6: there is no",
        "line 7: no image", "line 8: a box is", "line 9: target must be", "line 10: unknown field",
        "line 11: id 'line 1' is also that of line 1", "line 12: boxes without",
    ):  # fmt: skip
        assert expected in said
    assert not any(f"line {k}:" in said for k in (1, 4, 13, 14))
    done = invoke(file, "--out", tmp_path / "r.jsonl")
    assert done.exit_code == 2 and "line 5" in done.stderr and not (tmp_path / "r.jsonl").exists()


def test_a_folder_of_images_with_a_file_for_each(tmp_path):
    for name in ("a.png", "b.jpg", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("what is this?\n", encoding="utf-8")
    (tmp_path / "b.json").write_text('{"prompt": "how many?", "target": 0}', encoding="utf-8")
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=r"c\.png: no prompt"):
        read_items(tmp_path)
    items = read_items(tmp_path, "describe it")
    assert {k: (v["prompt"], v["target"]) for k, v in items.items()} == {
        "a.png": ("what is this?", None), "b.jpg": ("how many?", 0), "c.png": ("describe it", None)
    }  # fmt: skip
    assert items["a.png"]["images"] == [str((tmp_path / "a.png").resolve())]
    (tmp_path / "b.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.json: no JSON"):
        read_items(tmp_path, "x")
    write(tmp_path / "items.jsonl", [{"image": "a.png", "prompt": "line"}])
    assert list(read_items(tmp_path)) == ["line 1"]


def test_no_data_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no item"):
        read_items(tmp_path)
    with pytest.raises(DataError, match="cannot read items"):
        read_items(tmp_path / "nowhere.jsonl")


def test_intervals_are_over_images_and_questions_without_one_stand_alone(tmp_path):
    image = str(SAMPLES / "colour.png")
    prompts = ["what color is the star?", "is there a spoon?"]
    items = [{"image": image, "prompt": p} for p in prompts]
    done = {}
    for name, values in {
        "one picture": items,
        "no picture": [{**item, "image": None} for item in items],
    }.items():
        data = write(tmp_path / "items.jsonl", values)
        result = invoke(data, "--methods", "random", "--metrics", "comprehensiveness", "--json",
                        "--out", tmp_path / f"{name}.jsonl")  # fmt: skip
        assert result.exit_code == 0, result.output
        done[name] = json.loads(result.stdout)[0]["metrics"]["comprehensiveness[remove]"]
    assert done["one picture"]["n_clusters"] == 1 and done["one picture"]["low"] is None
    assert done["no picture"]["n_clusters"] == 2 and done["no picture"]["low"] is not None


@pytest.mark.parametrize("change", [
    {"methods": None}, {"methods": {}}, {"methods": {"random": 1}},
    {"methods": {"random": {"error": "x"}}}, {"methods": {"random": {"metrics": {}}}},
    {"methods": {"random": {"model_runs": "1", "backward_passes": 0, "seconds": 1, "metrics": {}}}},
    {"methods": {"random": {"model_runs": 1, "backward_passes": 0, "seconds": 1, "metrics": []}}},
    {"methods": {"random": {"model_runs": 1, "backward_passes": 0, "seconds": 1,
                            "metrics": {"size": {"value": "x"}}}}},
])  # fmt: skip
def test_a_damaged_result_is_named(three, tmp_path, change):
    out = tmp_path / "r.jsonl"
    arguments = [three, "--methods", "random", "--metrics", "size", "--limit", 1, "--out", out]
    assert invoke(*arguments).exit_code == 0
    first, line = out.read_text(encoding="utf-8").splitlines()
    out.write_text(f"{first}\n{json.dumps({**json.loads(line), 'result': change})}\n")
    done = invoke(*arguments)
    assert done.exit_code == 2 and "are damaged" in done.stderr and "Traceback" not in done.stderr
