"""What the guide pages show is what their scripts produce."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causal_lvlm.cli import app
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.sources import CorrelationSource
from experiments.guides.page import blocks, fill, sections
from experiments.guides.reading_a_pag import draw
from experiments.guides.structure_learning import run as guide

ROOT = Path(__file__).resolve().parent.parent
PAGES = [guide.PAGE, draw.PAGE]
AGAIN = "the page is stale: run python -m "


def made_up_table(rows: int = 400) -> np.ndarray:
    """Return a table of the guide's shape: a chain, so that there is something to learn."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=(rows, len(guide.NAMES)))
    for k in range(1, len(guide.NAMES), 2):
        values[:, k] += values[:, k - 1]
    return values


def stored_source() -> CorrelationSource:
    values = np.loadtxt(guide.RESULTS / "correlation.csv", delimiter=",", skiprows=1)
    return CorrelationSource(values, 442, names=guide.NAMES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_link_and_picture_of_a_page_is_there_and_small(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert (page.parent / link).exists(), link
    shown = {(page.parent / link).resolve() for link in links}
    for picture in (page.parent / "results").glob("*.png"):
        assert picture.stat().st_size < 150_000 and picture.resolve() in shown, picture.name


def test_the_page_shows_the_stored_output():
    lines = (guide.RESULTS / "output.txt").read_text(encoding="utf-8").splitlines()
    page = blocks(guide.PAGE.read_text(encoding="utf-8"))
    assert page == sections(lines) and len(page) == 6
    # Runs differ by their rows, not only by their three levels of alpha.
    found = {float(f) for f in re.findall(r" (\d\.\d\d)   \w", page["resampling"])}
    assert len(found - {0.33, 0.67, 1.0}) > 3


def test_the_stored_graphs_are_learned_again_from_the_stored_correlation():
    """Everything that needs no table: numbers, graphs, and what the budget leaves."""
    source, page = stored_source(), blocks(guide.PAGE.read_text(encoding="utf-8"))
    say = guide.Report()
    say("== graph")
    guide.first_graph(say, source)
    say("== recipes")
    graphs = guide.all_recipes(say, source)
    say("== comparison")
    guide.comparison(say, graphs)
    say("== budget")
    guide.early_end(say, source)
    for name, text in sections(say.lines).items():
        assert page[name] == text, AGAIN + "experiments.guides.structure_learning.run"
    stored = json.loads((guide.RESULTS / "graphs.json").read_text(encoding="utf-8"))
    assert stored == {
        name: {"kind": graph.kind, "edges": guide.text_edges(graph)}
        for name, graph in graphs.items()
    }


def test_the_script_runs_on_any_table_of_that_shape(tmp_path, capsys):
    lines = guide.run(made_up_table(), tmp_path, runs=4, permutations=3)
    found = sections(lines)
    shown = blocks(guide.PAGE.read_text(encoding="utf-8"))
    assert set(found) == set(shown)
    assert "accepted" not in found["errors"]
    # No error speaks of the data, but for one number on the covariance's diagonal.
    same = [
        a == b
        for a, b in zip(found["errors"].split("\n"), shown["errors"].split("\n"), strict=True)
    ]
    assert same.count(False) == 1
    for name in ("graph.png", "cpdag.png", "difference.png", "graphs.json", "correlation.csv"):
        assert (tmp_path / name).stat().st_size > 100
    assert capsys.readouterr().out.count("\n") == len("\n".join(lines).split("\n"))


@pytest.mark.slow
def test_the_page_is_reproduced_from_the_data(tmp_path):
    pytest.importorskip("sklearn")
    lines = guide.run(guide.load(), tmp_path, runs=300, permutations=200)
    assert sections(lines) == blocks(guide.PAGE.read_text(encoding="utf-8")), (
        AGAIN + "experiments.guides.structure_learning.run"
    )


def test_the_python_blocks_of_the_page_run():
    code = re.findall(r"```python\n(.*?)```", guide.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 3
    names: dict[str, Any] = {"table": made_up_table(), "NAMES": guide.NAMES, "TIERS": guide.TIERS,
             "KNOWLEDGE": guide.KNOWLEDGE}  # fmt: skip
    for block in code:
        fewer = block.replace("runs=300", "runs=6").replace("permutations=200", "permutations=4")
        exec(compile(fewer, "README.md", "exec"), names)
    assert names["stability"].n_runs == 6 and names["null"].n_permutations == 4
    assert names["graph"].names == guide.NAMES


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    header = ",".join(guide.NAMES)
    np.savetxt("diabetes.csv", made_up_table(), delimiter=",", header=header, comments="")
    page = guide.PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for command in code.strip().replace("\\\n", " ").split("\n"):
        program, *arguments = shlex.split(command)
        assert program == "causal-lvlm"
        with pytest.raises(SystemExit) as ended:
            app(arguments)
        assert ended.value.code in (0, None), capsys.readouterr()
    assert (tmp_path / "graph" / "pag.json").exists()
    assert "SHD" in capsys.readouterr().out


def test_filling_a_page_replaces_its_blocks_only(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- output: one -->\n```text\nold\n```\nb\n```text\nkeep\n```\n")
    fill(page, {"one": "new\nlines"})
    assert page.read_text() == (
        "a\n<!-- output: one -->\n```text\nnew\nlines\n```\nb\n```text\nkeep\n```\n"
    )
    assert blocks(page.read_text()) == {"one": "new\nlines"}
    fill(page, {"one": "again"})
    assert blocks(page.read_text()) == {"one": "again"}


def test_edge_pictures_show_the_marks_they_are_named_for():
    words = {"circle": 1, "arrow": 2, "tail": 3}
    symbols = {1: ("o", "o"), 2: ("<", ">"), 3: ("-", "-")}
    page = draw.PAGE.read_text(encoding="utf-8")
    for name, (at_a, at_b) in draw.EDGES.items():
        assert tuple(words[word] for word in name.split("-")) == (at_a, at_b)
        symbol = symbols[at_a][0] + "-" + symbols[at_b][1]
        row = next(line for line in page.splitlines() if f"results/{name}.png" in line)
        assert f"`A {symbol} B`" in row
    # A tail has nothing at its end, a circle is hollow, an arrowhead is filled.
    arrow = np.asarray(draw.edge_picture(3, 2).convert("L"), dtype=float)
    mirror = np.asarray(draw.edge_picture(2, 3).convert("L"), dtype=float)
    middle = arrow.shape[1] // 2
    dark = [(image < 128)[20:-20] for image in (arrow, mirror)]
    assert dark[0][:, middle:].sum() > dark[0][:, :middle].sum()
    assert dark[1][:, middle:].sum() < dark[1][:, :middle].sum()


def test_the_hidden_cause_shows_as_the_page_says():
    learned = draw.learn_world().pag
    page = blocks(draw.PAGE.read_text(encoding="utf-8"))
    assert page["world"].split("\n") == draw.text_edges(learned, draw.MEASURED)
    n = {name: k for k, name in enumerate(draw.MEASURED)}
    wanted = np.zeros((5, 5), dtype=np.uint8)
    for a, b, at_a, at_b in (
        ("noise", "sleep", 1, 2), ("salt", "blood pressure", 1, 2),
        ("sleep", "blood pressure", 2, 2), ("blood pressure", "heart rate", 3, 2),
    ):  # fmt: skip
        wanted[n[b], n[a]], wanted[n[a], n[b]] = at_a, at_b
    assert learned == PAG(wanted)


def test_the_tokens_of_the_page_are_those_of_the_embedded_model():
    pictures, said = draw.token_pictures()
    shown = blocks(draw.PAGE.read_text(encoding="utf-8"))["tokens"].split("\n")
    assert said[:2] == shown[:2]  # the answer, and the verified sentence
    number = re.compile(r"\d+(?:\.\d+)?")
    assert [number.sub("#", line) for line in said] == [number.sub("#", line) for line in shown]
    # Attention differs in its last digits between machines, and so may a few edges.
    for mine, theirs in zip(said[2:], shown[2:], strict=True):
        values = [[float(v) for v in number.findall(line)] for line in (mine, theirs)]
        assert values[0] == pytest.approx(values[1], rel=0.1, abs=2), theirs
    assert set(pictures) == {"token-graph", "token-union"}
    stored = json.loads((draw.RESULTS / "results.json").read_text(encoding="utf-8"))
    assert stored == blocks(draw.PAGE.read_text(encoding="utf-8"))
