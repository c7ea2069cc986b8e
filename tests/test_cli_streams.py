"""Readers that go, names that are no UTF-8, arguments that are empty."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from causal_lvlm import cli
from causal_lvlm.cli.items import read_items
from causal_lvlm.cli.streams import patient_streams
from causal_lvlm.errors import DataError, PromptError

BYTE = os.fsdecode(b"\xe4")  # what a byte of another encoding becomes


@pytest.fixture
def table(tmp_path):
    path = tmp_path / f"data{BYTE}.csv"
    path.write_text("a,b,c\n" + "".join(f"{k % 7},{k * k % 11},{k * 3 % 5}\n" for k in range(40)))
    return path


def gone():
    """Return a text stream into a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8")


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [["models"], ["models", "--json"], ["methods"], ["methods", "--json"], ["--help"],
     ["learn", "--help"], ["learn", "DATA", "--out", "OUT", "--progress"]],
)  # fmt: skip
def test_a_reader_that_has_gone_ends_nothing(arguments, both, table, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    names = {"DATA": str(table), "OUT": str(out)}
    with gone() as stdout, gone() as stderr:
        monkeypatch.setattr(sys, "stdout", stdout)
        if both:
            monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as end:
            cli.main([names.get(text, text) for text in arguments])
        monkeypatch.undo()
    assert end.value.code in (0, None)
    assert "Broken" not in capfd.readouterr().err
    if "learn" in arguments and "OUT" in arguments:
        assert (out / "pag.json").is_file()  # the work was not in vain


def test_streams_are_given_back(capsys):
    before = sys.stdout, sys.stderr
    with patient_streams():
        assert sys.stdout is not before[0] and sys.stdout.isatty() is False
        print(f"name{BYTE}")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "name\\udce4\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("learn", "x.csv", "--out", ""), "--out is empty"),
        (("learn", "x.csv", "--out="), "--out is empty"),
        (("learn", ""), "an argument is empty"),
        (("learn", "x.csv", "--picture", ""), "--picture is empty"),
        (("explain", "x.png", "what ?", "-t", ""), "-t is empty"),
        (("evaluate", "", "--out", "x"), "an argument is empty"),
        (("demo", "--out", ""), "--out is empty"),
    ],
)
def test_empty_arguments_are_refused_at_once(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 2 and words in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_seeds_are_not_negative():
    for command in (("explain", "what ?"), ("evaluate", "x", "--out", "y")):
        result = CliRunner().invoke(cli.app, [*command, "--seed", "-1"])
        assert result.exit_code == 2 and "seed" in result.stderr


def test_files_may_have_any_name(table, tmp_path, capsys):
    out, picture = tmp_path / f"out{BYTE}", tmp_path / f"p{BYTE}.svg"
    with pytest.raises(SystemExit) as end:
        cli.main(["learn", str(table), "--out", str(out), "--picture", str(picture)])
    assert end.value.code in (0, None) and "out\\udce4" in capsys.readouterr().out
    assert (out / "pag.json").is_file() and "data\\udce4.csv" in picture.read_text("utf-8")


def test_prompts_that_are_no_text_are_refused_before_a_model_is_loaded(monkeypatch):
    import causal_lvlm

    monkeypatch.setattr(causal_lvlm, "load_model", None)
    for prompt in (f"what {BYTE} ?", "what \ud800 ?"):
        result = CliRunner().invoke(cli.app, ["explain", prompt])
        assert result.exit_code == 2 and "at position 5" in result.stderr


@pytest.mark.parametrize("field", ["id", "prompt", "target"])
def test_items_hold_no_half_characters(tmp_path, field):
    path = tmp_path / "items.jsonl"
    text = '{"image": null, "prompt": "what ?", "FIELD": "x\\ud800"}'.replace("FIELD", field)
    path.write_text(text.replace('"prompt": "what ?", "prompt"', '"prompt"'))
    with pytest.raises(DataError, match=f"{field} holds .* at position 1"):
        read_items(path)


def test_pictures_of_items_by_address_and_by_any_name(tmp_path):
    from PIL import Image

    folder = tmp_path / "items"
    folder.mkdir()
    for name in ("a.png", f"b{BYTE}.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("what ?")
    assert list(read_items(folder)) == ["a.png", "b\\udce4.png"]
    path = tmp_path / "items.jsonl"
    uri = (folder / "a.png").as_uri()
    path.write_text(f'{{"image": "{uri}", "prompt": "what ?"}}')
    assert [Path(p).name for p in read_items(path)["line 1"]["images"]] == ["a.png"]
    for address, words in (
        ("https://example.org/a.png", "not fetched.*download"),
        ("data:image/png;base64,iVBO", "not fetched.*b64decode"),
        ("x" * 5000 + ".png", "no image|too long|does not exist"),
    ):
        path.write_text(f'{{"image": "{address}", "prompt": "what ?"}}')
        with pytest.raises(DataError, match=words):
            read_items(path)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ("https://example.org/a.png", "pictures are not fetched"),
        ("data:image/png;base64,iVBORw0KGgo=", "b64decode"),
        ("file://elsewhere/a.png", "another machine"),
        ("file:///nowhere/a.png", "does not exist"),
    ],
)
def test_pictures_by_address_are_refused_before_a_model_is_loaded(picture, words, monkeypatch):
    import causal_lvlm

    monkeypatch.setattr(causal_lvlm, "load_model", None)
    result = CliRunner().invoke(cli.app, ["explain", picture, "what ?"])
    assert result.exit_code == 2 and words in result.stderr


def test_the_embedded_model_has_no_revision_and_no_model_is_on_meta(tmp_path):
    for options, words in (
        (["--revision", "main"], "the embedded model has no revisions"),
        (["--device", "meta"], "shapes without values"),
    ):
        result = CliRunner().invoke(cli.app, ["explain", "what ?", *options])
        assert result.exit_code == 2 and words in result.stderr


def test_prompts_of_runs(lvlm_prompt=f"what {BYTE} ?"):
    import causal_lvlm as cl

    model = cl.load_model()
    turns = [{"role": "user", "content": [{"type": "text", "text": lvlm_prompt}]}]
    for prompt in (lvlm_prompt, turns):
        with pytest.raises(PromptError, match="is no character"):
            model.run(None, prompt)
    for wrong in (0, -1, 1.5, "3", None, True, float("nan")):
        with pytest.raises(ValueError, match="max_new_tokens"):
            model.run(None, "what ?", max_new_tokens=wrong)
    with pytest.raises(ValueError, match="seed"):
        model.run(None, "what ?", seed=-1)
