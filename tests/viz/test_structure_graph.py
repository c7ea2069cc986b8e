"""Whole graphs and differences: every mark at its own end, nothing left out in silence."""

from __future__ import annotations

import builtins
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.structure import PAG, EdgeStability
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz import draw_difference, draw_structure, graph_figure, graph_layout
from causal_lvlm.viz import graph as target_graph
from causal_lvlm.viz import graph_parts as parts
from causal_lvlm.viz.graph_figure import Line, box_size
from causal_lvlm.viz.graph_layout import place_graph
from tests.viz.fakes import fake_view, head_graph

# 0 o-> 1, 1 --> 2, 0 <-> 3, 2 o-o 3, 3 --- 4, 4 o-- 5; node 6 alone.
# marks[i, j] is the mark at j (1 circle, 2 arrowhead, 3 tail).
MARKS = np.zeros((7, 7), dtype=np.uint8)
for i, j, at_i, at_j in (
    (0, 1, 1, 2), (1, 2, 3, 2), (0, 3, 2, 2), (2, 3, 1, 1), (3, 4, 3, 3), (4, 5, 1, 3),
):  # fmt: skip
    MARKS[j, i], MARKS[i, j] = at_i, at_j
PAG7 = PAG(MARKS)
WANTED = {(0, 1): (1, 2), (0, 3): (2, 2), (1, 2): (3, 2), (2, 3): (1, 1), (3, 4): (3, 3),
          (4, 5): (1, 3)}  # fmt: skip
ENGINES = ["graphviz", "networkx"]


def pag(*codes: int) -> PAG:
    """Return a graph of two nodes."""
    return PAG(np.array(codes, dtype=np.uint8).reshape(2, 2))


class Spy:
    """Keeps what is drawn: lines and layout of the page, and every mark with its tip."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages: list[tuple[Any, Any, list[Line], dict[str, Any]]] = []
        self.marks: list[tuple[np.ndarray, int, str]] = []
        draw, mark = graph_figure.draw_page, graph_figure._draw_mark

        def page(layout, names, lines, **more):
            self.pages.append((layout, names, list(lines), more))
            return draw(layout, names, lines, **more)

        def one(axes, start, tip, kind, colour, size):
            self.marks.append((np.array(tip), kind, colour))
            return mark(axes, start, tip, kind, colour, size)

        monkeypatch.setattr(parts, "draw_page", page)
        monkeypatch.setattr(graph_figure, "_draw_mark", one)

    def edges(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {(li.first, li.second): (li.mark_first, li.mark_second) for li in self.pages[-1][2]}

    def legend(self) -> str:
        return " | ".join(item.text for item in self.pages[-1][3]["legend"])

    def notes(self) -> str:
        return " ".join(self.pages[-1][3]["notes"])


@pytest.fixture
def spy(monkeypatch) -> Spy:
    return Spy(monkeypatch)


def need(engine: str) -> None:
    if engine == "graphviz":
        pytest.importorskip("pygraphviz")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["dot", "spread"])
def test_every_mark_is_drawn_at_the_border_of_its_own_node(spy, engine, layout):
    need(engine)
    draw_structure(PAG7, engine=engine, layout=layout)
    assert spy.edges() == WANTED
    placed, names, lines, _ = spy.pages[0]
    assert placed.engine == engine and set(placed.places) == set(range(7))
    drawn = iter(spy.marks)
    # The second end of a line is drawn first; the page moves the layout as a whole.
    start = lines[0]
    curve = placed.curves.get((start.first, start.second))
    end = placed.curves[start.second, start.first][0] if curve is None else curve[-1]
    shift = spy.marks[0][0] - end
    for line in lines:
        for node, mark in ((line.second, line.mark_second), (line.first, line.mark_first)):
            tip, kind, _ = next(drawn)
            assert kind == mark
            offset = np.abs(tip - shift - placed.places[node])
            half = box_size(names[node]) / 2
            assert (offset <= half + 3).all() and (offset >= half - 3).any()


@pytest.mark.parametrize("layout", ["auto", "dot", "spread", "neato"])
def test_curves_run_from_the_first_node_to_the_second(layout):
    pytest.importorskip("pygraphviz")
    sizes = {n: box_size(f"variable {n}") for n in range(7)}
    pairs = [(1, 0), (1, 2), (3, 0), (2, 3), (4, 3), (4, 5), (5, 6), (6, 0), (0, 4), (2, 6)]
    placed = place_graph(sizes, pairs, engine="graphviz", program=layout)
    assert set(placed.curves) == set(pairs)
    for (a, b), curve in placed.curves.items():
        for node, end in ((a, curve[0]), (b, curve[-1])):
            assert (np.abs(end - placed.places[node]) <= sizes[node] / 2 + 3).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_boxes_do_not_overlap_and_stay_on_the_page(engine):
    need(engine)
    rng = np.random.default_rng(2)
    sizes = {n: box_size(f"a longer name {n}") for n in range(40)}
    pairs = sorted({(int(a), int(b)) for a, b in rng.integers(0, 34, (70, 2)) if a < b})
    placed = place_graph(sizes, pairs, engine=engine)
    for n in range(40):
        assert (placed.places[n] - sizes[n] / 2 >= 0).all()
        assert (placed.places[n] + sizes[n] / 2 <= [placed.width, placed.height]).all()
        for m in range(n):
            room = (sizes[n] + sizes[m]) / 2
            assert (np.abs(placed.places[n] - placed.places[m]) >= room - 0.01).any(), (m, n)


def test_without_graphviz_the_same_edges_are_drawn(spy, monkeypatch):
    pytest.importorskip("pygraphviz")
    sure = np.full((7, 7), 0.5)
    draw_structure(PAG7, confidence=sure)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pygraphviz":
            raise ImportError("no pygraphviz here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    draw_structure(PAG7, confidence=sure)
    (first, _, lines, _), (second, _, others, _) = spy.pages
    assert (first.engine, second.engine) == ("graphviz", "networkx")
    assert lines == others and set(first.places) == set(second.places)
    assert set(first.curves) == set(second.curves)
    with pytest.raises(ImportError):
        draw_structure(PAG7, engine="graphviz")


def test_confidence_is_thickness_and_number(spy):
    sure = np.zeros((7, 7))
    for (i, j), value in zip(WANTED, (0.1, 0.3, 0.5, 0.7, 0.9, 1.0), strict=True):
        sure[i, j] = sure[j, i] = value
    draw_structure(PAG7, confidence=sure, confidence_label="share of 20 runs")
    widths = [line.width for line in spy.pages[0][2]]
    assert widths == sorted(widths) and len(set(widths)) == 6
    labels = [line.label for line in spy.pages[0][2]]
    assert labels == ["0.10", "0.30", "0.50", "0.70", "0.90", "1.00"]
    assert "thickness and number: share of 20 runs" in spy.legend()


def test_a_stability_result_is_a_confidence(spy):
    share = np.full((7, 7), 0.25)
    stability = EdgeStability(share, np.repeat(share[..., None], 4, axis=2), np.ones(40), 40, 0, {})
    draw_structure(PAG7, confidence=stability)
    assert "share of 40 resampled runs with this edge" in spy.legend()
    assert {line.label for line in spy.pages[0][2]} == {"0.25"}


def test_unknown_confidence_is_a_thin_line_without_a_number(spy):
    sure = np.full((7, 7), 0.5)
    draw_structure(PAG7, confidence=sure)
    assert "unknown" not in spy.legend()
    sure[0, 1] = sure[1, 0] = np.nan
    sure[0, 6] = sure[6, 0] = np.nan  # no edge there
    draw_structure(PAG7, confidence=sure)
    lines = {(line.first, line.second): line for line in spy.pages[-1][2]}
    unknown = lines.pop((0, 1))
    assert unknown.label == "" and {line.label for line in lines.values()} == {"0.50"}
    assert unknown.width < min(line.width for line in lines.values())
    assert "no number: unknown" in spy.legend()
    draw_structure(PAG7, confidence=sure, max_nodes=3)  # NaN is no weight of a node
    assert len(spy.pages[-1][1]) == 3 and 3 in spy.pages[-1][1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((3, 3)), "needs \\(7, 7\\)"),
        (np.full((7, 7), 1.5), "between 0 and 1"),
        (np.full((7, 7), np.inf), "between 0 and 1"),
        (np.where(np.triu(np.ones((7, 7)), 1), np.nan, 0.0), "one end"),
        (np.triu(np.ones((7, 7))), "symmetric"),
    ],
)
def test_bad_confidence_is_refused(bad, message):
    with pytest.raises(StructureError, match=message):
        draw_structure(PAG7, confidence=bad)


def test_a_structure_brings_its_names_and_kind(spy):
    structure = SimpleNamespace(pag=pag(0, 3, 3, 0), names=("smoking", "tar"), kind="cpdag")
    draw_structure(structure)
    assert list(spy.pages[0][1].values()) == ["smoking", "tar"]
    assert "direction not determined" in spy.legend() and "circle" not in spy.legend()
    draw_structure(structure.pag)
    assert "circle: not determined" in spy.legend() and "not a cause" in spy.legend()
    with pytest.raises(StructureError, match="3 names were given for 2 nodes"):
        draw_structure(structure, names=["a", "b", "c"])


def test_large_graphs_are_cut_and_the_picture_says_so(spy):
    n = 90
    marks = np.zeros((n, n), dtype=np.uint8)
    for k in range(n - 1):  # a chain, and node 3 linked to the even ones
        marks[k, k + 1] = marks[k + 1, k] = 1
    marks[3, 6::2] = marks[6::2, 3] = 1
    chain = PAG(marks)
    draw_structure(chain, max_nodes=10)
    shown = spy.pages[-1][1]
    assert len(shown) == 10 and 3 in shown
    edges = np.count_nonzero(marks) // 2
    inside = np.count_nonzero(marks[np.ix_(list(shown), list(shown))]) // 2
    assert f"10 of 90 nodes shown, those with most edges, and the {inside} of {edges}" in (
        spy.notes()
    )
    draw_structure(chain, around="89", names=[str(k) for k in range(n)], max_nodes=4)
    assert set(spy.pages[-1][1]) == {89, 88, 3, 87} and spy.pages[-1][3]["framed"] == (89,)
    assert "those nearest to 89" in spy.notes()
    draw_structure(chain, max_edges=12)
    assert len(spy.pages[-1][2]) <= 12 and "more would not be readable" in spy.notes()


def test_strong_edges_are_kept_first(spy):
    n = 20
    marks = np.full((n, n), 1, dtype=np.uint8)
    np.fill_diagonal(marks, 0)
    sure = np.full((n, n), 0.1)
    strong = [2, 5, 11, 17]
    sure[np.ix_(strong, strong)] = 1.0
    draw_structure(PAG(marks), confidence=sure, max_nodes=4)
    assert list(spy.pages[0][1]) == strong and "most confidence" in spy.notes()


def test_a_far_node_is_not_near(spy):
    """Around an isolated node there is nothing else to show."""
    draw_structure(PAG7, around=6, max_nodes=3)
    assert list(spy.pages[0][1]) == [6] and "1 of 7 nodes" in spy.notes()


def test_difference_tells_the_four_kinds_apart(spy):
    truth = MARKS.copy()
    truth[0, 1] = 3  # at node 1 a tail, where the first graph has an arrowhead
    truth[1, 2] = truth[2, 1] = 0  # extra in the first
    truth[5, 6], truth[6, 5] = 2, 1  # missing in the first
    draw_difference(PAG7, PAG(truth), names=[f"v{k}" for k in range(7)], learned_name="ours")
    lines = {(li.first, li.second): li for li in spy.pages[0][2]}
    assert set(lines) == {*WANTED, (5, 6)}
    changed, extra, missing = lines[0, 1], lines[1, 2], lines[5, 6]
    assert (changed.mark_first, changed.mark_second) == (1, 2)
    assert (changed.boxed_first, changed.boxed_second) == (0, 3)
    assert (extra.mark_first, extra.mark_second) == (3, 2)
    assert (missing.mark_first, missing.mark_second) == (1, 2)
    same = lines[2, 3]
    looks = {(li.style, li.colour) for li in (changed, extra, missing, same)}
    assert len({style for style, _ in looks}) == 4 and len({colour for _, colour in looks}) == 4
    assert spy.notes().startswith(
        "4 edges the same, 1 with other marks, 1 only in “ours”, 1 only in “true”"
    )
    for text in ("in both", "in both, other marks", "only in “ours”", "only in “true”"):
        assert text in spy.legend()


def test_a_cut_difference_keeps_what_differs(spy):
    n = 80
    marks = np.zeros((n, n), dtype=np.uint8)
    for k in range(n - 1):
        marks[k, k + 1] = marks[k + 1, k] = 1
    other = marks.copy()
    other[40, 41] = other[70, 71] = 2
    draw_difference(PAG(marks), PAG(other), max_nodes=4)
    assert {40, 41, 70, 71} == set(spy.pages[0][1])
    assert "Cut to 4 of 80 nodes" in spy.notes() and "2 of 79 edges" in spy.notes()


def test_differences_need_the_same_nodes_and_the_same_kind():
    with pytest.raises(StructureError, match="7 and 2 nodes"):
        draw_difference(PAG7, pag(0, 1, 1, 0))
    first, second = (SimpleNamespace(pag=PAG7, kind=kind) for kind in ("pag", "cpdag"))
    with pytest.raises(StructureError, match="CPDAG"):
        draw_difference(first, second)


def test_a_bare_graph_takes_the_kind_of_the_other_if_it_can(spy):
    learned = SimpleNamespace(pag=pag(0, 2, 3, 0), kind="cpdag")
    for circles in (pag(0, 2, 1, 0), pag(0, 1, 1, 0), pag(0, 2, 2, 0)):
        for pair in ((learned, circles), (circles, learned)):
            with pytest.raises(StructureError, match="this graph has circles or <->"):
                draw_difference(*pair)
    draw_difference(pag(0, 3, 3, 0), learned)
    assert "direction not determined" in spy.legend() and "circle" not in spy.legend()


def test_pictures_are_written_by_suffix(tmp_path):
    heads = {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.pdf": b"%PDF"}
    for name, head in heads.items():
        draw_structure(PAG7, names=["a $x$ b", *"bcdefg"], title="100 $", path=tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)
    first = (tmp_path / "a.pdf").read_bytes()
    draw_structure(PAG7, names=["a $x$ b", *"bcdefg"], title="100 $", path=tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes() == first
    with pytest.raises(OutputError, match=r"\.png, \.svg, \.pdf"):
        draw_difference(PAG7, PAG7, path=tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="cannot write"):
        draw_structure(PAG7, path=tmp_path / "a.pdf" / "a.png")  # a file is no folder


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="engine"):
        draw_structure(PAG7, engine="magic")
    with pytest.raises(ValueError, match="layout"):
        draw_structure(PAG7, layout="magic")
    with pytest.raises(StructureError, match="'nobody'"):
        draw_structure(PAG7, around="nobody")
    with pytest.raises(StructureError, match=r"nodes are 0\.\.6"):
        draw_structure(PAG7, around=7)


@pytest.mark.parametrize("n", [1, 2])
def test_graphs_without_edges_are_drawn(n, spy):
    empty = PAG(np.zeros((n, n), np.uint8))
    image = draw_structure(empty, title="empty")
    assert image.width > 300 and spy.pages[0][2] == []
    assert draw_difference(empty, empty).width > 300


@pytest.mark.parametrize("engine", ENGINES)
def test_the_graph_around_a_target_takes_a_confidence_too(engine):
    need(engine)
    view = fake_view()
    target = resolve_target(view.layout, "red")
    marks = np.array([[0, 2, 0], [1, 0, 2], [0, 3, 0]], dtype=np.uint8)  # 0 o-> 1 --> 2
    graph = head_graph(view.layout, target, marks, np.array([12, 13, 73]))
    sure = np.array([[0, 0.25, 0], [0.25, 0, 1], [0, 1, 0]])
    image = target_graph.draw_graph(view, graph, {}, engine=engine, confidence=sure)
    assert image.width >= 640
    if engine == "graphviz":
        edges = target_graph.edges_between(marks, (0, 1, 2))
        made = target_graph.agraph({n: {} for n in range(3)}, edges, 2, {(0, 1): 0.25, (1, 2): 1.0})
        attributes = [made.get_edge(a, b).attr for a, b in (("0", "1"), ("1", "2"))]
        assert [a["label"] for a in attributes] == ["0.25", "1.00"]
        assert float(attributes[0]["penwidth"]) < float(attributes[1]["penwidth"])
        assert [a["arrowtail"] for a in attributes] == ["odot", "none"]
    with pytest.raises(StructureError, match=r"needs \(3, 3\)"):
        target_graph.draw_graph(view, graph, {}, confidence=np.ones((2, 2)))


def test_bezier_points_of_a_straight_line_are_on_it():
    """Graphviz writes a start and three points per piece."""
    curve = graph_layout._bezier("0,0 10,20 20,40 30,60")
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [30, 60]
    assert np.allclose(curve[:, 1], 2 * curve[:, 0]) and (np.diff(curve[:, 0]) > 0).all()


def test_cutting_a_curve_takes_off_its_length():
    curve = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 100.0]])
    rest, end = graph_figure._cut(curve, 20.0)
    assert end == pytest.approx([100.0, 80.0]) and rest[-1] == pytest.approx([100.0, 80.0])
    assert rest[0] == pytest.approx([0.0, 0.0])
    short, _ = graph_figure._cut(np.array([[0.0, 0.0], [10.0, 0.0]]), 20.0)
    assert short[-1] == pytest.approx([5.5, 0.0])  # never more than nearly half of a line
