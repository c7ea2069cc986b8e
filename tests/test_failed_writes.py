"""A disk that is full, or a folder that is gone, loses nothing that was found before."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import causal_lvlm.storage
from causal_lvlm.cli import app
from causal_lvlm.errors import OutputError
from causal_lvlm.items_file import UnsavedError, read_lines
from causal_lvlm.runner import run_items
from causal_lvlm.storage import write_bytes
from tests.viz.fakes import fake_explanation, fake_view

SCENE = Path(causal_lvlm.storage.__file__).parent / "tiny" / "samples" / "colour.png"


@pytest.fixture
def full_disk(monkeypatch):
    """Every file that is written in the way of this package finds no room for its bytes."""

    class Full:
        def __init__(self, handle):
            self.handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *_):
            os.close(self.handle)

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(causal_lvlm.storage.os, "fdopen", lambda handle, _: Full(handle))


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


EXPLAIN = ("explain", SCENE, "what color is the star ?", "--max-runs", 30)


def test_what_was_explained_is_printed_before_a_full_disk_is_met(tmp_path, full_disk):
    done = run(*EXPLAIN, "--out", tmp_path / "out")
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "answer:" in done.stdout and "model run" in done.stdout
    assert "No space left" in done.stderr and "Wrote" not in done.stdout
    assert not list((tmp_path / "out").iterdir())  # no temporary file stays


def test_json_is_printed_before_a_full_disk_is_met(tmp_path, full_disk):
    done = run(*EXPLAIN, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 2 and "No space left" in done.stderr
    assert json.loads(done.stdout)["explanations"]


def test_a_learned_graph_is_printed_before_a_full_disk_is_met(tmp_path, full_disk):
    data = np.random.default_rng(0).normal(size=(60, 3))
    data[:, 2] += data[:, 0]
    np.save(tmp_path / "data.npy", data)
    picture = tmp_path / "graph.png"
    done = run("learn", tmp_path / "data.npy", "--out", tmp_path / "out", "--picture", picture)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "3 nodes" in done.stdout and done.stderr.count("No space left") == 2
    done = run("learn", tmp_path / "data.npy", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 2 and json.loads(done.stdout)["nodes"]
    assert not picture.exists()


def test_an_old_page_and_the_sentences_survive_a_failed_report(tmp_path, request):
    page = tmp_path / "page.html"
    page.write_text("old")
    explanation = fake_explanation(fake_view())
    saved = explanation.save(tmp_path / "e.json")
    request.getfixturevalue("full_disk")
    done = run("report", saved, "--out", page)
    assert done.exit_code == 2 and "No space left" in done.stderr
    assert explanation.sentence() in done.stdout and page.read_text() == "old"


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "page.html"):
        done = run("report", tmp_path / "none.json", "--out", out)
        assert done.exit_code == 2 and "none.json" not in done.stderr


def _fill(monkeypatch, after: int) -> None:
    """Let the disk be full after some lines; half of the line in hand is still written."""
    plain = os.fsync
    count = 0

    def fsync(handle):
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)


def test_the_file_of_a_run_stays_whole_and_the_item_in_hand_is_handed_out(tmp_path, monkeypatch):
    out = tmp_path / "r.jsonl"
    _fill(monkeypatch, 2)  # configuration and one item
    with pytest.raises(UnsavedError, match="No space left") as caught:
        run_items({"a": 1, "b": 2}, lambda item, _: {"twice": 2 * item}, out)
    assert caught.value.line["key"] == "b" and caught.value.line["result"] == {"twice": 4}
    assert [line["key"] for line in read_lines(out)] == ["a"]
    assert out.read_bytes().endswith(b"\n")
    monkeypatch.undo()
    assert run_items({"a": 1, "b": 2}, lambda item, _: {"twice": 2 * item}, out).done == ("b",)


def test_the_table_holds_what_the_disk_could_not(tmp_path, monkeypatch):
    items = [{"image": str(SCENE), "prompt": "what color is the star ?", "id": k} for k in "abc"]
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(json.dumps(item) for item in items))
    _fill(monkeypatch, 2)
    done = run("evaluate", data, "--methods", "attention", "--metrics", "deletion",
               "--out", tmp_path / "r.jsonl")  # fmt: skip
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "2 items; mean" in done.stdout and "No space left" in done.stderr
    assert [line["key"] for line in read_lines(tmp_path / "r.jsonl")] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_results_to_a_device_are_refused(tmp_path):
    with pytest.raises(OutputError, match="no file"):
        run_items({"a": 1}, lambda item, _: {}, "/dev/full")


def test_a_folder_that_vanished_is_made_again_or_named(tmp_path):
    path = tmp_path / "gone" / "deep" / "a.bin"
    assert write_bytes(path, b"x").read_bytes() == b"x"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a.bin", b"x")


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path):
    view = fake_view()
    explanation = fake_explanation(view, model_id="/models/\udcff", parameters={"note": "\ud800"})
    saved = explanation.save(tmp_path / "e.json")
    assert type(explanation).load(saved).model_id == "/models/�"
