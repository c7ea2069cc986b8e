"""The page is whole, safe and says the same numbers as the objects it was made from."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from causal_lvlm.attribution import Attribution
from causal_lvlm.errors import OutputError
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.wording import outcome
from causal_lvlm.reporting import report
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz import wording
from causal_lvlm.viz.bundle import file_stem, write_bundle, write_cases
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.explanation_section import explanation_html
from causal_lvlm.viz.pictures import pictures_of, united_graph
from causal_lvlm.viz.report import _scale, page_script, report_cases
from tests.viz.fakes import (
    explaining_set,
    fake_attribution,
    fake_explanation,
    fake_sets,
    fake_trace,
    fake_view,
    random_graph,
    summary_of,
)

VIEW = fake_view()
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects what a browser would load and whether tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values)
        self.links += [values[k] for k in ("href", "src") if values.get(k)]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "red.html"
    attributions = [fake_attribution(VIEW), fake_attribution(VIEW, method="rollout")]
    report(fake_trace(), [fake_explanation(VIEW)], path, attributions=attributions)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def static(page):
    """What is there without script: the page without its data and code."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_page_asks_nothing_of_the_network(page, parsed):
    assert "link" not in parsed.tags and "iframe" not in parsed.tags
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert "http" not in re.sub(r'src="data:[^"]*"|http-equiv', "", page)
    assert "@import" not in page and "url(" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert "unsafe-eval" not in policy


def test_script_never_parses_text_as_html_or_code():
    script = page_script()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "Function(", "write("):
        assert word not in script, word


def test_every_picture_is_inside_and_described(parsed):
    assert len(parsed.images) >= 7
    for image in parsed.images:
        assert image["alt"]
        data = base64.b64decode(image["src"].partition("base64,")[2])
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()


def test_text_from_outside_is_escaped(page, parsed):
    assert "<blue>" not in page and "&lt;blue&gt;" in page
    assert "fake <model>" not in page and "fake &lt;model&gt;" in page
    assert "model" not in parsed.tags and "blue" not in parsed.tags


def test_page_says_the_numbers(parsed):
    text = " ".join(" ".join(parsed.text).split())
    for part in ("0.970", "0.020", "4.20 → -1.50", "the graph of head 1, radius 1", "64"):
        assert part in text, part
    assert "1 of 20 change it" in text and "random sets" in text
    assert "says “<blue>”" in text
    assert "137 masked model runs" in text
    assert "Whole input" in text and "Within the image" in text and "Within the text" in text
    assert "search outside the graph" in text
    assert "irreducible" in text and "minimum" in text
    assert outcome(fake_sets(VIEW.layout)["text"]) in text


def test_no_layer_is_named_beside_a_source_that_spans_all():
    for source, named in (("influence", False), ("relevancy", False), ("attention", True)):
        options = {"source": source, "layer": -1, "row": "predictor"}
        found = fake_explanation(VIEW, parameters=options)
        html = explanation_html(VIEW, found, [])
        assert f"source {source}" in html and ("layer -1" in html) == named


def test_page_is_readable_in_dark_and_on_paper(page):
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_an_unverified_set_is_called_a_candidate(tmp_path):
    word = VIEW.layout.tokens.index("circle")
    sets = {"joint": explaining_set("joint", (word,), verified=False, minimality="none")}
    path = report(fake_trace(), [fake_explanation(VIEW, sets=sets)], tmp_path / "a.html")
    text = static(path.read_text(encoding="utf-8"))
    assert "candidate set, not verified" in text
    assert "verified by running" not in text


def test_report_of_a_saved_explanation_equals_the_live_one(tmp_path):
    explanation = fake_explanation(VIEW)
    loaded = Explanation.load(explanation.save(tmp_path / "e.json"))
    live = report(fake_trace(), [explanation], tmp_path / "live.html").read_text(encoding="utf-8")
    saved = report(loaded.summary, [loaded], tmp_path / "saved.html").read_text(encoding="utf-8")
    cut = re.compile(r"<p class=.small muted.>The pass.*?</p>")
    assert cut.sub("", static(saved)) == cut.sub("", static(live))
    (one,), (other,) = data_of(saved)["runs"], data_of(live)["runs"]
    one["probs"] = other["probs"] = None  # the fakes differ in them
    assert one == other


def test_explanations_without_sets_or_graphs_still_make_a_page(tmp_path):
    sets = {"joint": explaining_set("joint", verified=False, outcome="not_maskable", found_by=None)}
    bare = fake_explanation(VIEW, sets=sets, graphs=(), graph_outcome="target_dropped")
    text = report(summary_of(VIEW), [bare], tmp_path / "bare.html").read_text(encoding="utf-8")
    assert outcome(sets["joint"]) in text
    assert wording.graph_outcome("target_dropped").replace("'", "&#x27;") in text


def several_heads(*masses):
    """Heads 0, 1, ... with random graphs, looking at the candidates as much as given."""
    layout = VIEW.layout
    target = resolve_target(layout, "red")
    return tuple(
        replace(random_graph(layout, target, seed=k), head=k, candidate_mass=mass)
        for k, mass in enumerate(masses)
    )


@pytest.mark.parametrize("masses", [(0.6, 0.2, 0.2), (0.5, math.nan), (0.0, 0.0)])
def test_several_heads_are_drawn_as_one_graph(tmp_path, masses):
    explanation = fake_explanation(VIEW, graphs=several_heads(*masses))
    written = write_bundle(fake_trace(), [explanation], [], tmp_path)
    names = [path.name for path in written]
    assert names.index("pag.png") + 1 == names.index("pag-union.png")
    union = united_graph(explanation)
    # The share of an edge is the weight of the heads that have it.
    known = sum(masses) > 0 and not any(map(math.isnan, masses))
    weights = np.array(masses) / sum(masses) if known else np.full(len(masses), 1 / len(masses))
    both = np.array([g.structure.pag.marks > 0 for g in explanation.graphs])
    assert np.allclose(union.confidence, np.tensordot(weights, both, axes=1))
    assert union.pag.n_edges == both.any(axis=0).sum() // 2
    picture = next(p for p in pictures_of(VIEW, explanation) if p.name == "pag-union")
    assert f"{len(masses)} heads" in picture.alt and f"{len(masses)} heads" in picture.caption
    assert (tmp_path / "pag-union.png").read_bytes() == picture.png
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(base64.b64encode(picture.png).decode()) == 1


def test_a_single_head_is_drawn_once():
    explanation = fake_explanation(VIEW)
    assert united_graph(explanation) is None
    assert "pag-union" not in [p.name for p in pictures_of(VIEW, explanation)]


def test_bundle_of_one_word_is_the_explanation_itself(tmp_path):
    explanation, out = fake_explanation(VIEW), tmp_path / "out"
    written = write_bundle(fake_trace(), [explanation], [fake_attribution(VIEW)], out)
    names = {path.name for path in written}
    assert names == {
        "explanation.json", "patches-joint.png", "patches-image.png", "prompt.png", "pag.png",
        "pds-tree.png", "pag.dot", "pag.json", "pag.graphml", "heat-relevancy.png",
        "heat-relevancy.json", "report.html",
    }  # fmt: skip
    assert {p.name for p in out.iterdir()} == names
    assert len(names) == len(written) and written[-1].name == "report.html"
    saved = explanation.save(tmp_path / "saved.json").read_bytes()
    assert (out / "explanation.json").read_bytes() == saved
    loaded = Explanation.load(out / "explanation.json")
    assert loaded.to_dict() == explanation.to_dict()
    heat = Attribution.load(out / "heat-relevancy.json")
    assert heat.scores.tolist() == fake_attribution(VIEW).scores.tolist()
    pag = explanation.graphs[0].structure.pag
    assert len(nx.read_graphml(out / "pag.graphml").edges) == pag.n_edges
    assert (out / "pag.dot").read_text(encoding="utf-8").count("->") == pag.n_edges


def test_bundle_of_several_words_is_an_index_and_a_file_each(tmp_path):
    words = ("red", "circle")
    explanations = [fake_explanation(VIEW, word) for word in words]
    heats = [fake_attribution(VIEW, word) for word in words]
    write_bundle(fake_trace(), explanations, heats, tmp_path)
    index = tmp_path / "explanation.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    assert content["kind"] == "explanations" and content["interrupted"] is False
    run = content["runs"][0]
    assert run["answer"] == "red circle" and run["prompt"] == VIEW.run.prompt
    for word, explanation, entry, heat in zip(
        words, explanations, run["explanations"], run["attributions"], strict=True
    ):
        assert entry["file"] == f"{word}.json" and (tmp_path / f"{word}-pag.png").is_file()
        assert Explanation.load(tmp_path / entry["file"]).to_dict() == explanation.to_dict()
        assert entry["sentence"] == explanation.sentence()
        assert entry["sets"]["joint"]["model_runs"] == 64
        assert entry["parameters"] == explanation.parameters
        assert heat["file"] == f"{word}-heat-relevancy.json"
        assert Attribution.load(tmp_path / heat["file"]).target.text == word
    # Evidence stands in the files it refers to.
    assert index.stat().st_size < 0.2 * sum((tmp_path / f"{w}.json").stat().st_size for w in words)
    with pytest.raises(OutputError, match="explanations"):
        Explanation.load(index)


def test_names_that_would_collide_are_told_apart(tmp_path):
    """Words that look like the folder's own files, and the same word in two places."""
    view = fake_view(("explanation", "red", "pag", "red"))
    start = view.layout.n_prompt
    targets: list[str | int] = ["explanation", "red", "red pag", start + 3 - len(view.layout)]
    explanations = [fake_explanation(view, target) for target in targets]
    heats = [fake_attribution(view, t, m) for t in (1, 3) for m in ("relevancy", "relevancy")]
    written = write_bundle(view, explanations, heats, tmp_path)
    names = [path.name for path in written]
    assert len(set(names)) == len(names)
    assert {p.name for p in tmp_path.iterdir()} == set(names)
    run = json.loads((tmp_path / "explanation.json").read_text(encoding="utf-8"))["runs"][0]
    for explanation, entry in zip(explanations, run["explanations"], strict=True):
        assert Explanation.load(tmp_path / entry["file"]).target == explanation.target
    for attribution, entry in zip(heats, run["attributions"], strict=True):
        assert Attribution.load(tmp_path / entry["file"]).target == attribution.target


def test_bundles_of_several_words_do_not_overwrite_each_other(tmp_path):
    explanations = [fake_explanation(VIEW, "red"), fake_explanation(VIEW, "circle")] * 2
    written = write_bundle(fake_trace(), explanations, [], tmp_path)
    assert len({p.name for p in written}) == len(written)
    assert {"red-pag.png", "circle-pag.png", "red-2-pag.png"} <= {p.name for p in written}


def test_several_runs_share_a_page(tmp_path):
    cases = [
        Case(fake_trace(), [fake_explanation(VIEW)], [], "colour", "A <note>."),
        Case(fake_trace(), [fake_explanation(VIEW)], [fake_attribution(VIEW)], "second"),
    ]
    written = write_cases(cases, tmp_path, title="Demo", interrupted=True)
    names = {p.name for p in written}
    assert {"1-red-pag.png", "2-red-pag.png", "2-red-heat-relevancy.png"} <= names
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A &lt;note&gt;." in text and 'href="#case2"' in text and "interrupted" in text


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputError, match="taken"):
        write_bundle(fake_trace(), [fake_explanation(VIEW)], [], tmp_path / "taken")


def test_report_of_nothing_is_a_page(tmp_path):
    assert report_cases([Case(fake_trace(), [])], tmp_path / "x.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "stem"), [("red", "red"), ("../a b", "a-b"), ("???", "token"), ("Straße", "strasse")]
)
def test_words_become_safe_file_names(text, stem):
    assert file_stem(text) == stem


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0.5, "0.500"), (2e-7, "2.0e-07"), (0, "0.000")],
)
def test_numbers(value, text):
    assert wording.number(value) == text


def test_photographs_of_a_page_with_many_weigh_what_those_of_a_small_page_do():
    def scale(words, maps):
        explanations = [fake_explanation(VIEW)] * words
        return _scale([Case(VIEW, explanations, [fake_attribution(VIEW)] * (words * maps))])

    assert scale(1, 2) == 1.0
    areas = [(words * (maps + 2)) * scale(words, maps) ** 2 for words, maps in ((2, 3), (5, 5))]
    assert all(area <= 6.01 for area in areas)
    assert scale(100, 5) == 0.4  # smaller ones could not be read
