"""Cards for notebooks, figures for papers, and the command that makes a page of saved files."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from causal_lvlm.cards import trace_card
from causal_lvlm.cli import app
from causal_lvlm.cli.report import read_results
from causal_lvlm.errors import OutputError
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz import draw_explanation_figure
from tests.viz.fakes import (
    COLOURS,
    explaining_set,
    fake_attribution,
    fake_explanation,
    fake_trace,
    fake_view,
    several_view,
    text_view,
)

VIEW = fake_view()


def pictures(html):
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


# -- cards --------------------------------------------------------------------------------------


def test_card_shows_sentence_verdict_and_the_words_of_the_set():
    html = fake_explanation(VIEW)._repr_html_()
    assert "because of 1 image patch and the word “circle”" in html
    assert ">verified</span>" in html and ">minimum</span>" in html and "137 model runs" in html
    assert re.search(r"background:#fbe3d2\">circle<sup>2</sup>", html)
    assert re.search(r"background:#d7ebf7\">red<", html)
    assert "<script" not in html and "http" not in html


def test_card_outlines_the_patch_at_its_place():
    (picture,) = pictures(fake_explanation(VIEW)._repr_html_())
    left, top, right, bottom = (v * picture.width / 96 for v in VIEW.layout.patch_box(13))
    edge = np.asarray(picture)[round(top) : round(bottom), round(left)]
    orange = np.abs(edge.astype(int) - (0xB3, 0x47, 0x00)).max(axis=1) < 8
    assert orange.mean() > 0.9
    orange = np.abs(np.asarray(picture).astype(int) - (0xB3, 0x47, 0x00)).max(axis=2) < 8
    rows, cols = np.nonzero(orange)
    assert left - 2 <= cols.min() and cols.max() <= right + 2
    assert top - 2 <= rows.min() and rows.max() <= bottom + 2


def test_card_of_an_unverified_set_does_not_call_it_verified():
    sets = {"joint": explaining_set("joint", (13,), verified=False, minimality="none")}
    html = fake_explanation(VIEW, sets=sets)._repr_html_()
    assert ">not verified</span>" in html and ">verified<" not in html


def test_card_describes_each_picture_as_it_is():
    (one,) = re.findall('alt="([^"]*)"', fake_explanation(VIEW)._repr_html_())
    assert one == "the image with 1 member of the set outlined"  # the other member is a word
    view = several_view()
    sets = {"joint": explaining_set("joint", (8,), (9,))}
    html = fake_explanation(view, "red", sets=sets, graphs=(), model_runs=1)._repr_html_()
    none = "no member of the set is on it"
    assert re.findall('alt="([^"]*)"', html) == [
        f"image 0; {none}", "image 1 with 2 members of the set outlined", f"image 2; {none}"
    ]  # fmt: skip
    assert re.findall(r"\[image[^]]*\]", html) == ["[image 0]", "[image 1]", "[image 2]"]
    assert ">1 model run<" in html


def test_card_escapes_what_comes_from_outside():
    view = fake_view(("<b>bold</b>", "red"))
    html = fake_explanation(view, "red")._repr_html_()
    assert "<b>bold" not in html and "&lt;b&gt;bold" in html


def test_card_shows_every_image_with_its_own_patches():
    view = several_view()
    sets = {"joint": explaining_set("joint", (8,))}
    shown = pictures(fake_explanation(view, "red", sets=sets, graphs=())._repr_html_())
    assert len(shown) == 3
    marked = [len(picture.getcolors(1 << 20)) > 1 for picture in shown]
    assert marked == [False, True, False]
    assert all(p.getpixel((0, 0)) is not None for p in shown) and len(COLOURS) == 3


def test_card_of_a_trace_gives_answer_and_probabilities():
    said = {"answer": "red <circle>", "log_probs": np.log([0.9, 0.25])}
    trace = replace(fake_trace(), **said)
    html = trace_card(trace)
    assert "red &lt;circle&gt;" in html and 'title="probability 0.25"' in html
    assert "64 of them image tokens" in html and len(pictures(html)) == 1
    assert pictures(trace_card(text_view().run)) == []


# -- figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_figures_are_written_in_the_format_of_their_name(tmp_path, ending):
    path = draw_explanation_figure(fake_explanation(VIEW), tmp_path / f"a.{ending}")
    start = path.read_bytes()[:300]
    assert {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[ending] in start


def test_figures_are_the_same_when_drawn_again(tmp_path):
    one, two = (
        draw_explanation_figure(fake_explanation(VIEW), tmp_path / f"{n}.pdf") for n in "ab"
    )
    assert one.read_bytes() == two.read_bytes()


def test_figures_work_without_image_graph_or_set(tmp_path):
    sets = {"joint": explaining_set("joint", verified=False, outcome="not_maskable", found_by=None)}
    bare = fake_explanation(text_view(), "blue", sets=sets, graphs=())
    assert draw_explanation_figure(bare, tmp_path / "bare.svg").stat().st_size > 500
    several = fake_explanation(several_view(), "red", sets={"joint": explaining_set("joint", (8,))})
    assert draw_explanation_figure(several, tmp_path / "several.svg").stat().st_size > 500


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(OutputError, match="end the name in"):
        draw_explanation_figure(fake_explanation(VIEW), tmp_path / "a.txt")


# -- causal-lvlm report -------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Two explanations of one run, one of another, an attribution of the first and a stranger."""
    other = fake_view(("blue", "circle"))
    fake_explanation(VIEW, "red").save(tmp_path / "1.json")
    fake_explanation(VIEW, "circle").save(tmp_path / "2.json")
    third = fake_explanation(other, "blue").save(tmp_path / "3.json")
    value = json.loads(third.read_text(encoding="utf-8"))
    value["trace"]["token_ids"] = [i + 1000 for i in value["trace"]["token_ids"]]
    third.write_text(json.dumps(value), encoding="utf-8")
    fake_attribution(VIEW).save(tmp_path / "4.json")
    stranger = text_view()
    scores = replace(fake_attribution(VIEW), scores=np.zeros(6),
                     target=resolve_target(stranger.layout, "blue"))  # fmt: skip
    scores.save(tmp_path / "5.json")
    (tmp_path / "6.json").write_text('{"kind": "pag"}')
    return tmp_path


def test_saved_results_are_sorted_into_their_runs(saved):
    cases, remarks = read_results([saved])
    assert [[e.target.text for e in case.explanations] for case in cases] == [
        ["red", "circle"], ["blue"],
    ]  # fmt: skip
    assert [len(case.attributions) for case in cases] == [1, 0]
    assert remarks == ["1 of the attribution files fit no run of an explanation: left out"]
    assert [case.name for case in cases] == ["red circle", "blue circle"]


def test_the_command_writes_a_page(saved):
    out = saved / "page.html"
    done = CliRunner().invoke(app, ["report", str(saved / "1.json"), str(saved / "4.json"),
                                    "--out", str(out), "--title", "A <title>"])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 explanation, 1 attribution, 1 run" in done.output
    page = out.read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))
    assert [e["text"] for e in data["runs"][0]["explanations"]] == ["red"]


@pytest.mark.parametrize(
    ("name", "message"), [("6.json", "holds 'pag'"), ("4.json", "no saved explanation"),
                          ("none.json", "cannot read")],
)  # fmt: skip
def test_what_is_no_result_is_said_in_one_line(saved, name, message):
    done = CliRunner().invoke(app, ["report", str(saved / name), "--out", str(saved / "x.html")])
    assert done.exit_code == 2 and message in done.output and "Traceback" not in done.output
