"""The report in a real browser: what a reader can do on the page, and that it asks nobody.

Needs Playwright and Chromium; skipped where one of them is missing.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.tried import TriedSet
from causal_lvlm.metrics.result import MetricTable, MetricValue
from causal_lvlm.reporting import report
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.payload_graph import graph_payload
from causal_lvlm.viz.report import report_cases
from tests.viz.fakes import (
    explaining_set,
    fake_attribution,
    fake_explanation,
    fake_view,
    large_view,
    learned_graph,
    random_graph,
    several_view,
    sparse_graph,
    summary_of,
    text_view,
)
from tests.viz.test_causal import fake_graph

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

HOSTILE = "<img/src=x/onerror=alert(1)></script><svg/onload=alert(2)>"
VIEW = fake_view(("red", "circle", HOSTILE))
TARGET = resolve_target(VIEW.layout, "red")
WORD = VIEW.layout.tokens.index("circle")


def heads(layout, target):
    return tuple(
        replace(random_graph(layout, target, density=0.05, seed=k), head=k, candidate_mass=0.5)
        for k in range(3)
    )


@pytest.fixture(scope="module")
def explanations():
    tried = (
        TriedSet((), 0.97, ("red",), False, 4.2),
        TriedSet(((13,),), 0.5, ("red",), False, 0.1),
        TriedSet(((WORD,),), 0.4, ("green",), True, -0.1),
    )
    return [
        fake_explanation(VIEW, word, graphs=heads(VIEW.layout, resolve_target(VIEW.layout, word)),
                         tried=tried)
        for word in ("red", "circle")
    ]  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory, explanations):
    path = tmp_path_factory.mktemp("page") / "report.html"
    scores = [fake_attribution(VIEW), fake_attribution(VIEW, method="rollout")]
    return report(VIEW, explanations, path, attributions=scores).as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


class Watched:
    """A page that remembers errors, and every request that goes further than its own file."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 900}, **options}
        )
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda m: self.trouble.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self.trouble.append(f"error: {e}"))
        self.page.on("dialog", lambda d: (self.trouble.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", self.asked)
        self.address = address
        self.page.goto(address)

    def asked(self, request):
        if not request.url.startswith(("data:", "file:", "about:")):
            self.trouble.append(f"request: {request.url}")

    def __enter__(self):
        return self.page

    def __exit__(self, *error):
        if error[0] is None:
            shown = self.page.inner_text("body").split()
            assert not {"null", "undefined", "NaN"} & set(shown)
        self.context.close()
        if error[0] is None:
            assert self.trouble == []


def open_view(page, name):
    page.click(f"#tab-{name}")
    assert page.get_attribute(f"#tab-{name}", "aria-selected") == "true"


def set_range(page, label, value):
    page.locator(f"input[type=range][aria-label='{label}']").fill(str(value))


def drawn_nodes(page):
    found = page.eval_on_selector_all("[data-node]", "all => all.map(e => e.dataset.node)")
    return {int(node) for node in found}


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_word_is_chosen_with_the_keyboard(browser, address, explanations):
    with Watched(browser, address) as page:
        assert page.locator(".static").is_hidden()
        words = page.locator("button.word")
        assert words.all_inner_texts() == ["red", "circle"]
        assert words.nth(0).get_attribute("aria-pressed") == "true"
        assert page.locator(".sentence:visible").inner_text() == explanations[0].sentence()
        words.nth(0).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert words.nth(1).get_attribute("aria-pressed") == "true"
        assert page.locator(".sentence:visible").inner_text() == explanations[1].sentence()
        # From the answer, the tab key leads to the views; arrows choose among them.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "tab-set"
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#tab-graph", "aria-selected") == "true"
        assert page.evaluate("document.activeElement.id") == "tab-graph"


def test_text_from_outside_stays_text(browser, address):
    with Watched(browser, address) as page:
        assert HOSTILE in page.locator(".answer-line").inner_text()
        for view in ("set", "graph", "tree", "compare", "mask", "numbers"):
            open_view(page, view)
        assert page.locator("img[src=x]").count() == 0


def test_patches_of_the_set_are_framed_at_their_places(browser, address, explanations):
    with Watched(browser, address) as page:
        image = page.locator("#panel use").first.bounding_box()
        cells = page.locator("#panel rect.cell.cause")
        assert cells.count() == 1  # position 13; the other member is a word
        found = cells.first.bounding_box()
        left, top, right, _ = VIEW.layout.patch_box(13)  # type: ignore[misc]
        scale = image["width"] / VIEW.images[0].width
        assert found["x"] + 1.5 == pytest.approx(image["x"] + left * scale, abs=2.5)
        assert found["y"] + 1.5 == pytest.approx(image["y"] + top * scale, abs=2.5)
        assert found["width"] - 3 == pytest.approx((right - left) * scale, abs=3)
        assert page.locator("#panel text.pill-text.cause").all_text_contents() == ["circle"]
        page.get_by_role("radio", name="Within the image").click()
        assert page.locator("#panel rect.cell.cause").count() == 3


def test_radius_grows_the_candidates_as_the_tree_says(browser, address, explanations):
    tree, deepest = explanations[0].graphs[1].tree, explanations[0].graphs[1].tree.max_depth
    with Watched(browser, address) as page:
        open_view(page, "graph")
        assert deepest > 1
        before = 0
        for radius in range(1, deepest + 1):
            set_range(page, "Radius", radius)
            expected = len(tree.within(radius))
            info = page.locator("#panel p[aria-live]").first.inner_text()
            assert f"Within radius {radius}: {expected} candidate" in info
            if radius > 1:
                assert f"{expected - before} more than at radius {radius - 1}" in info
            before = expected


def test_pressing_an_edge_of_the_verified_graph_tells_what_its_cut_did(browser, tmp_path):
    target = fake_explanation(VIEW, "red")
    where = report(VIEW, [target, fake_graph()], tmp_path / "report.html")
    with Watched(browser, where.as_uri()) as page:
        open_view(page, "graph")
        page.locator(".proven-both[data-edge]").dispatch_event("click")
        assert "margin 7.1 → −2.0, the model says “blue”" in page.inner_text(".evidence")
        assert page.locator(".proven-sufficient[data-edge]").count() == 1
        page.get_by_role("radio", name="As learned").click()
        assert (
            page.locator("input[type=range]").count() and not page.locator(".proven-both").count()
        )


def test_marks_are_drawn_as_the_graph_has_them(browser, address, explanations):
    graph = explanations[0].graphs[1]
    marks = graph.structure.pag.marks
    with Watched(browser, address) as page:
        open_view(page, "graph")
        set_range(page, "Radius", 1)
        numbers = {p for unit in explanations[0].main.units for p in unit}
        shown = {graph.target_node, *graph.tree.within(1)}
        shown |= {n for n, unit in enumerate(graph.members) if numbers & set(unit)}
        ends = [marks[i, j] for i in shown for j in shown if i != j and marks[i, j]]
        assert page.locator("#panel .drawing g.edge").count() == len(ends) // 2
        assert page.locator("#panel .drawing .mark.open").count() == ends.count(1)
        assert page.locator("#panel .drawing .mark.full").count() == ends.count(2)
        assert len(drawn_nodes(page)) == len(shown)


def test_edges_and_pairs_of_nodes_show_their_evidence(browser, tmp_path):
    graph = learned_graph(VIEW.layout, TARGET)
    explanation = fake_explanation(VIEW, graphs=(graph,))
    address = report(VIEW, [explanation], tmp_path / "learned.html").as_uri()
    data = graph_payload(graph, {})
    with Watched(browser, address) as page:
        open_view(page, "graph")
        set_range(page, "Radius", graph.tree.max_depth)
        drawn = drawn_nodes(page)

        def press(node):
            page.locator(f"[data-node='{node}']").focus()
            page.keyboard.press("Enter")

        def evidence():
            return page.locator("#panel .evidence").inner_text()

        page.mouse.move(0, 0)  # away from all edges: the pointer would show another's evidence
        edge = page.locator("#panel [data-edge]").first
        edge.focus()
        said = edge.get_attribute("aria-label").removeprefix("edge ")
        assert page.locator(".evidence h4").inner_text() == said
        assert re.search(r" [o<–]–[o>–] ", said)
        pairs = [e for e in data["apart"] if e[2] and {e[0], e[1]} <= drawn]
        for i, j, between, weakest, *_ in pairs[:3]:
            press(i)
            assert "second node" in evidence()
            press(j)
            names = ", ".join(f"patch {VIEW.label((p,))}" for p in between)
            assert f"the separating set {{ {names} }}" in evidence()
            assert f"{weakest:.3f}" in evidence()
            press(i)
            press(j)
        i, j, _, _, _, weakest, _, tests = data["edges"][0]
        press(i)
        press(j)
        assert f"{weakest:.3f}" in evidence() and f"CI tests\n{tests}" in evidence()
        edge.press("Enter")  # keeps its evidence when the focus goes on
        page.locator("#tab-graph").focus()
        assert page.locator(".evidence h4").inner_text() == said


def test_another_head_shows_its_own_graph(browser, address, explanations):
    with Watched(browser, address) as page:
        open_view(page, "graph")
        for head, graph in enumerate(explanations[0].graphs):
            page.get_by_role("radio", name=f"Head {head}:").click()
            set_range(page, "Radius", 1)
            info = page.locator("#panel p[aria-live]").first.inner_text()
            assert f"Within radius 1: {len(graph.tree.within(1))} candidate" in info
        page.get_by_role("radio", name="All heads:").click()
        assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
        share = page.locator("input[aria-label='Edges in at least']")
        everything = page.locator("#panel g.edge[data-edge]").count()
        share.fill("1")
        assert page.locator("#panel g.edge[data-edge]").count() < everything
        open_view(page, "tree")
        assert page.locator("#panel svg.rings").count() == 1


def test_masking_shows_what_the_model_said(browser, address):
    with Watched(browser, address) as page:
        open_view(page, "mask")
        toggle = page.get_by_role("checkbox", name="“circle”")
        toggle.click()
        answer = page.locator("#panel .answer")
        assert "says “green”" in answer.inner_text() and "0.40" in answer.inner_text()
        assert toggle.get_attribute("aria-checked") == "true"
        page.locator("[data-unit]").nth(0).focus()
        page.keyboard.press(" ")  # position 3 and the word: nobody asked
        assert "Nobody asked" in answer.inner_text()
        page.get_by_role("button", name="the set: whole input").click()
        assert "0.02" in answer.inner_text() and "<blue>" in answer.inner_text()
        # Arrow keys go to the patch beside, and to the one below.
        page.locator("[data-unit]").nth(0).focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        at = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert at.startswith("patch [1,1]")


def test_every_method_gets_the_same_budget(browser, address):
    with Watched(browser, address) as page:
        open_view(page, "compare")
        assert "2 tokens (as the set)" in page.locator("#panel output").first.inner_text()
        for budget in (1, 5):
            set_range(page, "Budget", budget)
            for card in page.locator("article.method").all()[1:]:
                marked = card.locator("rect.cell.picked").count()
                assert marked + card.locator("mark.picked").count() == budget
        page.get_by_role("radio", name="Words only").click()
        assert page.locator("rect.cell.picked").count() == 0
        assert page.locator("article.method").nth(1).locator("mark.picked").all_inner_texts() == [
            "what", "color", "is", "the", "circle",
        ]  # fmt: skip


def test_methods_stand_beside_what_the_model_says_with_their_tokens_masked(browser, tmp_path):
    scores = np.zeros(len(VIEW.layout))
    scores[[20, 21, 22]] = 3.0, 2.0, 1.0
    method = replace(fake_attribution(VIEW), method="m", scores=scores)
    rows = [
        {"scope": "all", "k": 2, "positions": [20, 21], "probability": 0.31,
         "first_choice": ["red"], "changed": False},
        {"scope": "all", "k": 3, "positions": [20, 21, 22], "probability": 0.001,
         "first_choice": ["blue"], "changed": True},
    ]  # fmt: skip
    values = (
        MetricValue("masked_top[remove]", "m", 0.31, {"mode": "necessary", "budget": 2,
                                                      "rows": rows}, 2, 2, 0.1),
        MetricValue("deletion[remove]", "m", 0.125, {}, 40, 40, 0.1),
    )  # fmt: skip
    explanation = fake_explanation(VIEW)
    table = MetricTable(values, explanation.target, {"steps": 16}, 42, 0.1)
    path = report(VIEW, [explanation], tmp_path / "m.html", attributions=[method], metrics=table)
    with Watched(browser, path.as_uri()) as page:
        open_view(page, "compare")
        card = page.locator("article.method").nth(1)
        set_card = page.locator("article.method").first.inner_text()
        assert "masking these 2: p 0.97 → 0.02, says “<blue>”" in set_card
        assert "masking these 2: p 0.97 → 0.31, still says “red”" in card.inner_text()
        assert "deletion ↓" in card.inner_text() and "0.125" in card.inner_text()
        note = page.locator("#panel > p").last.inner_text()
        assert "cost 42 masked model runs; curves are read at 17 points" in note
        assert "not tested by masking" not in note
        set_range(page, "Budget", 3)
        assert "masking these 3: p 0.97 → <0.01, says “blue”" in card.inner_text()
        set_range(page, "Budget", 4)
        assert "masking these 4: the model was not asked at this budget" in card.inner_text()
        open_view(page, "mask")  # the same answers, to whoever masks these tokens by hand
        for position in (20, 21):
            page.get_by_role("checkbox", name=f"patch {VIEW.label((position,))}").click()
        assert "0.31" in page.locator("#panel .answer").inner_text()
        page.emulate_media(media="print")
        static = page.locator(".static").inner_text()
        assert "masking its first 2 tokens: p 0.310, the model says “red”" in static


def test_graphs_of_heads_stand_beside_the_one_that_was_searched(browser, tmp_path):
    own = replace(learned_graph(VIEW.layout, TARGET), head=None)
    explanation = fake_explanation(VIEW, graphs=(own,))
    extra = HeadGraphs(
        TARGET,
        tuple(
            replace(learned_graph(VIEW.layout, TARGET, seed=k), head=k, candidate_mass=0.5)
            for k in range(3)
        ),
        {"layer": 5},
    )
    path = report(VIEW, [explanation], tmp_path / "heads.html", heads=extra)
    with Watched(browser, path.as_uri()) as page:
        open_view(page, "graph")
        names = page.locator(".strip [role=radio]").evaluate_all(
            "all => all.map(e => e.querySelector('span').textContent)"
        )
        assert names == ["All layers (searched)", "All heads", "Head 0", "Head 1", "Head 2"]
        assert page.locator(".strip [aria-checked=true]").inner_text().startswith("All layers")
        page.get_by_role("radio", name="Head 2:").click()
        assert "attention of layer 5, learned for this view only" in (
            page.locator(".notes").inner_text()
        )
        page.get_by_role("radio", name="All heads:").click()
        page.locator("input[aria-label='Edges in at least']").fill("0")
        said = ""
        for edge in page.locator("#panel [data-edge]").all():
            edge.focus()
            said += page.locator(".evidence").inner_text()
        assert re.search(r"Head 0: edge, weakest \|partial r\| 0\.\d", said)
        assert re.search(r"no edge: separated by \{ patch \[", said)


def first_view(page):
    """Pixels of the bottom of what is seen first: the picture, and the probabilities."""
    return page.evaluate(
        "['#panel svg.stage', '.sentence', '#panel .bars', '.tabs', '.badges', '.answer-line']"
        ".map(name => [...document.querySelectorAll(name)].find(e => e.getClientRects().length)"
        ".getBoundingClientRect().bottom)"
    )


def test_the_first_screen_holds_answer_sentence_and_picture(browser, address):
    with Watched(browser, address) as page:
        assert max(first_view(page)) <= 900
        assert page.locator("#panel use").first.bounding_box()["height"] > 300
        open_view(page, "graph")
        assert page.locator("#panel .drawing svg.stage").first.bounding_box()["y"] < 480
    with Watched(browser, address, viewport={"width": 390, "height": 844}) as page:
        image = page.locator("#panel use").first.bounding_box()
        assert image["y"] + image["height"] <= 844 and image["height"] >= 200


def test_words_stand_beside_the_image_and_marks_are_not_hidden(browser, tmp_path):
    graph = random_graph(VIEW.layout, TARGET, density=0.2, seed=4)
    path = report(VIEW, [fake_explanation(VIEW, graphs=(graph,))], tmp_path / "g.html")
    for width, height in ((1440, 900), (390, 844)):
        with Watched(browser, path.as_uri(), viewport={"width": width, "height": height}) as page:
            open_view(page, "graph")
            image = page.locator("#panel .drawing use").first.bounding_box()
            words = [
                page.locator(f"[data-node='{n}']").bounding_box()
                for n in drawn_nodes(page)
                if page.locator(f"[data-node='{n}'] .pill").count()
            ]
            assert len(words) > 1
            for word in words:
                if width > 900:
                    assert word["x"] > image["x"] + image["width"]
                else:
                    assert word["y"] > image["y"] + image["height"]
            hidden = page.evaluate(
                "[...document.querySelectorAll('#panel .to-target .mark')].filter(mark => {"
                "mark.scrollIntoView({block: 'center'}); const b = mark.getBoundingClientRect();"
                "const top = document.elementFromPoint(b.x + b.width / 2, b.y + b.height / 2);"
                "return !top || !top.closest('.edge'); }).length"
            )
            assert page.locator("#panel .to-target .mark").count() > 3 and hidden == 0
            # Edges of neither target nor set are pale until one of their nodes is pointed at.
            quiet = page.locator("#panel .edge.quiet")
            assert float(quiet.first.evaluate("e => getComputedStyle(e).opacity")) < 0.5
            i, j = graph_ends(page, quiet.first)
            page.locator(f"[data-node='{i}']").focus()
            lit = quiet.first.evaluate("e => [e.matches('.lit'), getComputedStyle(e).opacity]")
            assert lit == [True, "1"], (i, j)


def graph_ends(page, edge):
    """Nodes of an edge, from the data of the page."""
    at = int(edge.get_attribute("data-edge"))
    return page.evaluate(
        "at => JSON.parse(document.getElementById('data').textContent)"
        ".runs[0].explanations[0].graphs[0].edges[at].slice(0, 2)",
        at,
    )


def test_names_of_rings_do_not_lie_on_nodes(browser, tmp_path):
    graphs = tuple(random_graph(VIEW.layout, TARGET, density=0.02, seed=k) for k in range(3))
    for graph in graphs:
        path = report(VIEW, [fake_explanation(VIEW, graphs=(graph,))], tmp_path / "t.html")
        with Watched(browser, path.as_uri()) as page:
            open_view(page, "tree")  # radius 1, where the set was found
            boxes = page.evaluate(
                "['.rings .ring-name', '.rings g > rect'].map(name => "
                "[...document.querySelectorAll(name)].map(e => e.getBBox())"
                ".map(b => [b.x, b.y, b.x + b.width, b.y + b.height]))"
            )
            names, nodes = boxes
            assert len(names) == 1 and len(nodes) > 1
            for a in names:
                for b in nodes:
                    apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                    assert apart, (a, b)


def test_without_script_and_on_paper_the_static_page_says_it_all(browser, address, explanations):
    with Watched(browser, address, java_script_enabled=False) as page:
        assert page.locator(".sentence:visible").count() == 2
        assert explanations[0].sentence() in page.locator("body").inner_text()
        assert page.locator("table:visible").count() == 2
    with Watched(browser, address) as page:
        page.emulate_media(media="print")
        assert page.locator("#app").is_hidden() and page.locator(".static").is_visible()
        assert page.locator(".sentence:visible").all_inner_texts() == [
            e.sentence() for e in explanations
        ]


def test_nothing_is_wider_than_a_phone(browser, address, tmp_path):
    view = several_view()
    target = resolve_target(view.layout, "red")
    sets = {"joint": explaining_set("joint", (2,), (9,), (15,))}
    several = fake_explanation(view, graphs=(random_graph(view.layout, target, density=0.2),),
                               sets=sets)  # fmt: skip
    other = report(view, [several], tmp_path / "several.html").as_uri()
    for where in (address, other):
        with Watched(browser, where, viewport={"width": 390, "height": 844}) as page:
            for name in ("set", "graph", "tree", "compare", "mask", "numbers"):
                open_view(page, name)
                assert fits(page), name


def test_a_run_without_an_image_speaks_of_words_only(browser, tmp_path):
    view = text_view()
    target = resolve_target(view.layout, "blue")
    sets = {"joint": explaining_set("joint", (2,))}
    explanation = fake_explanation(
        view, "blue", sets=sets, graphs=(random_graph(view.layout, target, density=0.9),)
    )
    scores = replace(fake_attribution(VIEW), scores=np.arange(6.0), target=target)
    path = report(view, [explanation], tmp_path / "text.html", attributions=[scores])
    with Watched(browser, path.as_uri()) as page:
        for name in ("set", "graph", "tree", "compare", "mask"):
            open_view(page, name)
            text = page.locator("#panel").inner_text().casefold()
            assert "patch" not in text and "image" not in text, name


@pytest.mark.slow
def test_a_page_of_576_patches_is_small_and_opens_at_once(browser, tmp_path):
    view = large_view()
    target = resolve_target(view.layout, "spoon")
    graphs = tuple(sparse_graph(view.layout, target, mean=3.0, seed=k) for k in range(4))
    sets = {"joint": explaining_set("joint", (100,), (101,), (125,), head=0)}
    explanation = fake_explanation(view, "spoon", graphs=graphs, sets=sets)
    rng = np.random.default_rng(0)
    scores = [
        replace(fake_attribution(VIEW), method=f"m{k}", target=target,
                scores=np.where(np.arange(len(view.layout)) < target.start, rng.random(
                    len(view.layout)), 0.0))
        for k in range(2)
    ]  # fmt: skip
    path = report(view, [explanation], tmp_path / "large.html", attributions=scores)
    assert Path(path).stat().st_size < 3_000_000
    with Watched(browser, "about:blank") as page:
        devtools = page.context.new_cdp_session(page)
        # Processor time of the page's thread: what the clock says depends on who else is at work.
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri())
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        took = {m["name"]: m["value"] for m in metrics}["TaskDuration"]
        for name in ("graph", "tree", "compare", "mask"):
            open_view(page, name)
        assert page.locator("[data-unit]").count() > 576
        opened = page.evaluate("performance.getEntriesByName('first-view')[0].startTime") / 1000
    assert 0.01 < took < 1.0, took
    assert 0.01 < opened < 5.0, opened  # by the clock: < 1 on a machine with nothing else to do


def focused(page):
    return page.evaluate("document.activeElement.textContent")


def test_focus_stays_where_the_keyboard_chose(browser, tmp_path, explanations):
    other = fake_explanation(VIEW, tester="drop")
    cases = [
        Case(summary_of(VIEW), [explanations[0], other], name="one"),
        Case(summary_of(VIEW), [explanations[1]], name="two"),
    ]
    path = report_cases(cases, tmp_path / "runs.html")
    with Watched(browser, path.as_uri()) as page:
        page.locator("[aria-label='Which explanation'] [aria-checked=true]").focus()
        page.keyboard.press("ArrowRight")
        assert focused(page) == "necessary, drop, remove"
        page.locator("[aria-label='Which run'] [aria-checked=true]").focus()
        for name in ("two", "one"):
            page.keyboard.press("ArrowRight")
            assert focused(page) == name
        open_view(page, "mask")  # a list whose entries are made again when one is pressed
        page.locator("#panel .side ul button").first.focus()
        page.keyboard.press("Enter")
        assert focused(page).startswith("Masked: ")
        open_view(page, "graph")
        page.locator("#panel .node.target").focus()
        page.keyboard.press("Enter")
        page.locator("#panel .evidence button").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.className") == "evidence"


def test_images_without_a_word_between_them_are_both_in_the_prompt(browser, tmp_path):
    view = several_view()
    assert view.layout.grids[1].positions[0] == view.layout.grids[0].positions[-1] + 1
    sets = {"joint": explaining_set("joint", (2,))}
    path = report(view, [fake_explanation(view, sets=sets)], tmp_path / "s.html")
    with Watched(browser, path.as_uri()) as page:
        shown = page.locator(".prompt-line .t-image").all_inner_texts()
        assert shown == ["[image 0]", "[image 1]", "[image 2]"]


def test_a_sufficient_set_is_asked_about_by_masking_the_rest(browser, tmp_path):
    word = VIEW.layout.tokens.index("circle")
    rest = tuple((int(p),) for p in VIEW.layout.positions("image", "prompt") if p not in (13, word))
    tried = (TriedSet(rest, 0.9, ("red",), False, 2.0),)
    sets = {"joint": explaining_set("joint", (13,), (word,), predicted_after=("red",))}
    found = fake_explanation(VIEW, mode="sufficient", tried=tried, sets=sets)
    path = report(VIEW, [found], tmp_path / "s.html")
    with Watched(browser, path.as_uri()) as page:
        open_view(page, "mask")
        page.get_by_role("button", name="all but the set: whole input").click()
        said = page.locator("#panel .answer").inner_text()
        assert "Masked: everything but patch [1,2], “circle”" in said
        assert "says “red”: the answer stays" in said


def test_where_no_set_was_found_no_bar_says_that_one_was_masked(browser, tmp_path):
    sets = {"joint": explaining_set("joint", verified=False, outcome="not_maskable", found_by=None,
                                    probability_after=None, predicted_after=())}  # fmt: skip
    path = report(VIEW, [fake_explanation(VIEW, sets=sets)], tmp_path / "n.html")
    with Watched(browser, path.as_uri()) as page:
        assert page.locator("#panel .bars").count() == 0
        assert "Masking everything here does not change" in page.locator("#panel").inner_text()
        assert "no set was found" in page.locator(".badges").inner_text()


def test_blocks_of_patches_are_not_counted_as_patches(browser, tmp_path):
    sets = {"joint": explaining_set("joint", (3, 4, 11, 12), (5, 6, 13, 14))}
    path = report(VIEW, [fake_explanation(VIEW, sets=sets)], tmp_path / "b.html")
    with Watched(browser, path.as_uri()) as page:
        label = page.locator("#panel svg.stage").get_attribute("aria-label")
        assert label == "Whole input: 2 blocks of patches"
