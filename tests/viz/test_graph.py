"""The drawn PAG carries the right mark at the right end, with Graphviz and without it."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz import fallback, graph
from causal_lvlm.viz.graph import Edge, agraph, draw_graph, edges_between
from causal_lvlm.viz.marks import legend
from causal_lvlm.viz.nodes import choose_nodes
from causal_lvlm.viz.view import member_numbers
from tests.viz.fakes import fake_explanation, fake_view, head_graph, random_graph

VIEW = fake_view()
TARGET = resolve_target(VIEW.layout, "red")
# 0 o-> 1, 1 --> 2, 0 <-> 3, 2 o-o 3; marks[i, j] is the mark at j (1 circle, 2 arrow, 3 tail).
MARKS = np.array([[0, 2, 0, 2], [1, 0, 2, 0], [0, 3, 0, 1], [2, 0, 1, 0]], dtype=np.uint8)
EDGES = [Edge(0, 1, 1, 2), Edge(0, 3, 2, 2), Edge(1, 2, 3, 2), Edge(2, 3, 1, 1)]


def small_graph() -> Any:
    return head_graph(VIEW.layout, TARGET, MARKS, np.array([12, 13, 71, 73]))


def test_edges_read_the_mark_at_each_end():
    assert edges_between(MARKS, (0, 1, 2, 3)) == EDGES
    assert edges_between(MARKS, (1, 2)) == [Edge(1, 2, 3, 2)]


def test_graphviz_gets_both_marks_of_every_edge():
    pygraphviz = pytest.importorskip("pygraphviz")
    made = agraph({n: {} for n in range(4)}, EDGES, target=3)
    read = pygraphviz.AGraph(string=made.to_string())  # what Graphviz itself understands
    assert read.edge_attr["dir"] == "both"
    seen = {
        (u, v): (read.get_edge(u, v).attr["arrowtail"], read.get_edge(u, v).attr["arrowhead"])
        for u, v in read.edges()
    }
    assert seen == {
        ("0", "1"): ("odot", "normal"),
        ("0", "3"): ("normal", "normal"),
        ("1", "2"): ("none", "normal"),
        ("2", "3"): ("odot", "odot"),
    }


def test_a_line_ends_at_the_border_of_its_box():
    end = fallback.edge_end(np.array([0.0, 0.0]), np.array([100.0, 0.0]), np.array([10.0, 20.0]))
    assert end == pytest.approx([90.0, 0.0])
    end = fallback.edge_end(np.array([0.0, 0.0]), np.array([0.0, 100.0]), np.array([10.0, 20.0]))
    assert end == pytest.approx([0.0, 80.0])
    end = fallback.edge_end(np.array([0.0, 0.0]), np.array([100.0, 100.0]), np.array([10.0, 20.0]))
    assert end == pytest.approx([90.0, 90.0])


def test_marks_without_graphviz_point_the_right_way():
    start, tip = np.array([0.0, 0.0]), np.array([100.0, 0.0])
    arrow = fallback.mark_glyph(start, tip, 2)
    assert arrow.kind == "arrow"
    assert arrow.points[0] == pytest.approx(tip)  # the point is at the node
    assert (arrow.points[1:, 0] < 100).all() and arrow.points[1, 1] == -arrow.points[2, 1]
    circle = fallback.mark_glyph(start, tip, 1)
    assert circle.kind == "circle"
    assert np.hypot(*(circle.points[0] - tip)) == pytest.approx(6.0)  # touches the node
    tail = fallback.mark_glyph(start, tip, 3)
    assert tail.kind == "tail" and tail.stop == pytest.approx(tip)


def test_fallback_draws_each_mark_at_its_own_node(monkeypatch):
    """Every edge asks for the mark of the node it points at, from the other node."""
    asked = []
    real = fallback.mark_glyph

    def spy(start, tip, mark, size=12.0):
        asked.append((start, tip, mark))
        return real(start, tip, mark, size)

    monkeypatch.setattr(fallback, "mark_glyph", spy)
    pictures = graph.node_pictures(VIEW, small_graph(), choose_nodes(small_graph(), {}), {})
    sizes = {n: np.array([p.width / 2, p.height / 2]) for n, p in pictures.items()}
    places, _ = fallback.place_boxes(sizes, EDGES)
    fallback.draw_with_networkx(pictures, EDGES, target=3)
    assert len(asked) == 2 * len(EDGES)
    for edge, first, second in zip(EDGES, asked[::2], asked[1::2], strict=True):
        for node, (_, tip, mark), wanted in (
            (edge.first, first, edge.mark_first),
            (edge.second, second, edge.mark_second),
        ):
            assert mark == wanted
            assert (np.abs(tip - places[node]) <= sizes[node] / 2 + 1.01).all()


def test_missing_pygraphviz_falls_back(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pygraphviz":
            raise ImportError("no pygraphviz here")
        return real(name, *args, **kwargs)

    used: list[bool] = []
    draw = fallback.draw_with_networkx

    def spy(*arguments):
        used.append(True)
        return draw(*arguments)

    monkeypatch.setattr(fallback, "draw_with_networkx", spy)
    monkeypatch.setattr(builtins, "__import__", without)
    image = draw_graph(VIEW, small_graph(), {13: 1}, title="PAG")
    assert used and image.width >= 640
    with pytest.raises(ImportError):
        draw_graph(VIEW, small_graph(), {}, engine="graphviz")


def test_missing_graphviz_program_falls_back(monkeypatch):
    """pygraphviz is there but the layout program is not: it raises ValueError."""

    def broken(*_):
        raise ValueError("Program dot not found in path.")

    monkeypatch.setattr(graph, "_with_graphviz", broken)
    assert draw_graph(VIEW, small_graph(), {}).width >= 640


@pytest.mark.parametrize("engine", ["graphviz", "networkx"])
def test_nodes_of_a_dense_graph_do_not_overlap(engine):
    if engine == "graphviz":
        pytest.importorskip("pygraphviz")
    big = random_graph(VIEW.layout, TARGET, density=0.05, seed=3)
    image = draw_graph(VIEW, big, {}, engine=engine)
    assert image.width < 4000 and image.height < 4000


def test_fallback_keeps_boxes_apart():
    big = random_graph(VIEW.layout, TARGET, density=0.05, seed=3)
    choice = choose_nodes(big, {})
    pictures = graph.node_pictures(VIEW, big, choice, {})
    sizes = {n: np.array([p.width / 2, p.height / 2]) for n, p in pictures.items()}
    places, _ = fallback.place_boxes(sizes, edges_between(big.structure.pag.marks, choice.nodes))
    nodes = list(places)
    for at, i in enumerate(nodes):
        for j in nodes[at + 1 :]:
            room = (sizes[i] + sizes[j]) / 2
            assert (np.abs(places[i] - places[j]) > room).any(), (i, j)


def test_default_view_is_the_tree_that_fits_and_says_so():
    explanation = fake_explanation(VIEW)
    big = explanation.graphs[0]
    numbers = member_numbers(explanation.main.units)
    choice = choose_nodes(big, numbers, max_nodes=24)
    chosen_positions = {int(big.positions[n]) for n in choice.nodes}
    assert choice.total == len(big.positions) > len(choice.nodes)
    assert len(choice.nodes) <= 24
    assert set(numbers) <= chosen_positions and big.target_node in choice.nodes
    assert choice.radius is not None and choice.radius >= 1
    assert set(big.tree.within(choice.radius)) <= set(choice.nodes)
    assert f"{len(choice.nodes)} of {choice.total} nodes shown" in choice.sentence()


def test_too_many_neighbours_are_cut_and_it_is_said():
    positions = np.array([*range(3, 67), 73])
    marks = np.zeros((65, 65), dtype=np.uint8)
    marks[:64, 64], marks[64, :64] = 2, 1
    star = head_graph(VIEW.layout, TARGET, marks, positions)
    choice = choose_nodes(star, {}, max_nodes=10)
    assert len(choice.nodes) == 10 and choice.radius is None
    assert "10 of 65" in choice.sentence() and "nearest" in choice.sentence()


def test_dense_graphs_are_cut_until_they_can_be_read():
    positions = np.array([*range(3, 67), 73])
    marks = np.full((65, 65), 2, dtype=np.uint8)
    np.fill_diagonal(marks, 0)
    marks[:40, 64] = marks[64, :40] = 0  # the target has 24 neighbours, all linked to each other
    dense = head_graph(VIEW.layout, TARGET, marks, positions)
    choice = choose_nodes(dense, {50: 1}, max_edges=64)
    assert len(edges_between(marks, choice.nodes)) <= 64
    assert len(choice.nodes) >= 10 and 47 in choice.nodes and 64 in choice.nodes
    assert "more would not be readable" in choice.sentence()


def test_a_set_too_large_for_a_picture_is_cut_and_it_is_said():
    explanation = fake_explanation(VIEW)
    big = explanation.graphs[0]
    choice = choose_nodes(big, {p: p for p in range(3, 67)}, max_nodes=12)
    assert len(choice.nodes) == 12 and big.target_node in choice.nodes
    members = [n for n in choice.nodes if 3 <= big.positions[n] < 67]
    assert 0 < len(members) <= 11 and f"{len(members)} of the 64 members" in choice.sentence()
    first = next(int(n) for n in big.tree.node[1:] if 3 <= big.positions[n] < 67)
    assert first in choice.nodes  # nearest first


def test_a_large_set_far_away_does_not_push_out_the_neighbours():
    positions = np.array([*range(3, 67), 73])
    marks = np.zeros((65, 65), dtype=np.uint8)
    marks[60:64, 64], marks[64, 60:64] = 2, 1
    graph = head_graph(VIEW.layout, TARGET, marks, positions)
    choice = choose_nodes(graph, {p: p for p in range(3, 53)}, max_nodes=12)
    assert {60, 61, 62, 63, 64} <= set(choice.nodes) and len(choice.nodes) == 12
    assert "7 of the 50 members" in choice.sentence()


def test_a_target_without_neighbours_is_said():
    positions = np.array([*range(3, 67), 73])
    lonely = head_graph(VIEW.layout, TARGET, np.zeros((65, 65), np.uint8), positions)
    choice = choose_nodes(lonely, {5: 1})
    assert choice.nodes == (2, 64)
    assert "no neighbour" in choice.sentence()
    assert draw_graph(VIEW, lonely, {5: 1}).width >= 640


def test_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine"):
        draw_graph(VIEW, small_graph(), {}, engine="magic")


def test_legend_wraps_on_narrow_pages():
    assert legend(300).height > legend(1200).height
