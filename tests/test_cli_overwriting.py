"""No command writes over what it reads, nor over files of other people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from causal_lvlm.cli import app
from causal_lvlm.cli.overwriting import EXPLAINED, LEARNED, results_folder, spare
from causal_lvlm.errors import OutputError
from causal_lvlm.tiny import sample_inputs


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


def refused(*arguments, because="would be lost"):
    """Run a command that must end with one line, and change no file that is there."""
    before = {path: path.read_bytes() for path in files()}
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    said = done.stderr.rpartition("\r")[2]  # behind a bar that is gone
    assert because in said and len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in files()} == before


def files():
    return sorted(path for path in Path().rglob("*") if path.is_file())


def by_other_names(path):
    """Return names under which a file is the same file."""
    Path("link").symlink_to(path)
    Path("hard").hardlink_to(path)
    Path("folder").mkdir()
    return [path, f"./folder/../{path}", Path(path).resolve(), "link", "hard"]


def test_evaluate_keeps_the_questions_and_the_pictures():
    sample = sample_inputs()[0]
    Path("picture.png").write_bytes(sample.image_path.read_bytes())
    Path("items.jsonl").write_text(
        json.dumps({"image": "picture.png", "prompt": sample.prompt}) + "\n"
    )
    for name in by_other_names("items.jsonl"):
        for option in ("--restart", "--resume"):
            refused("evaluate", "items.jsonl", "--out", name, option)
    refused("evaluate", "items.jsonl", "--out", "picture.png", "--restart")
    refused("evaluate", ".", "--out", "items.jsonl", "--restart", because="is left as it is")
    Path("notes.txt").write_text("a year of notes")
    refused("evaluate", "items.jsonl", "--out", "notes.txt", "--restart",
            because="is left as it is")  # fmt: skip


def test_learn_keeps_the_table_and_the_graph_it_compares_with():
    table = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt("data.csv", table, delimiter=",", header="a,b,c", comments="")
    level = ("--alpha", "0.01")
    np.savez("structure.npz", data=table)
    refused("learn", "structure.npz", "--key", "data", *level, "--out", ".")
    Path("structure.npz").unlink()
    Path("pag.json").write_text(
        '{"marks": [[0, 0, 0], [0, 0, 0], [0, 0, 0]], "names": ["a", "b", "c"]}'
    )
    refused("learn", "data.csv", *level, "--compare", "pag.json", "--out", ".")
    refused("learn", "data.csv", *level, "--out", ".", because="no earlier run of this command")
    Path("pag.json").rename("truth.png")
    refused("learn", "data.csv", *level, "--compare", "truth.png", "--picture", "truth.png")
    refused("learn", "data.csv", *level, "--compare", "truth.png", "--picture", "a.png",
            "--difference", "./a.png", because="two results go to")  # fmt: skip


def test_explain_and_demo_keep_pictures_and_files_of_other_people():
    sample = sample_inputs()[0]
    Path("prompt.png").write_bytes(sample.image_path.read_bytes())
    refused("explain", "prompt.png", sample.prompt, "--out", ".")
    refused("demo", "--out", ".", because="'prompt.png', which no earlier run")
    Path("prompt.png").rename("report.html")
    refused("demo", "--out", ".", because="'report.html', which no earlier run")


def test_report_keeps_the_results_that_it_shows():
    Path("explanation.json").write_text('{"kind": "explanation"}')
    for name in by_other_names("explanation.json"):
        refused("report", "explanation.json", "--out", name)
    refused("report", ".", "--out", "explanation.json")


@pytest.mark.parametrize(("names", "first", "kind"), [
    (EXPLAINED, "explanation.json", "explanation"), (EXPLAINED, "explanation.json", "explanations"),
    (LEARNED, "structure.json", "learned_structure")])  # fmt: skip
def test_a_folder_of_an_earlier_run_is_used_again(tmp_path, names, first, kind):
    (tmp_path / "notes.txt").write_text("not in the way")
    assert results_folder(tmp_path / "new", names) == tmp_path / "new"
    assert results_folder(tmp_path, names) == tmp_path
    for other in ("red-pag.json", "report.html", "cpdag.pcalg.txt", "heat-rise.png", "null.npz"):
        (tmp_path / other).write_text("x")
    (tmp_path / first).write_text("{")
    with pytest.raises(OutputError, match="no earlier run"):
        results_folder(tmp_path, names)
    (tmp_path / first).write_text(json.dumps({"kind": kind}))
    results_folder(tmp_path, names)


def test_what_is_not_there_cannot_be_lost(tmp_path):
    spare([tmp_path / "new", None], [None, tmp_path / "other"])
    spare([tmp_path / ("x" * 5000)], [tmp_path])
