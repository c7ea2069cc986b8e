"""The figure's layout: nothing overlaps, every end is seen, whatever the graph; PNG colours."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz import draw_explanation_figure
from causal_lvlm.viz.paper_layout import plan_graph, shorten
from causal_lvlm.viz.paper_routes import MARK
from causal_lvlm.viz.payload_graph import graph_payload
from causal_lvlm.viz.style import CAUSE, TARGET, font, png_bytes
from tests.viz.fakes import (
    explaining_set,
    fake_explanation,
    fake_view,
    large_view,
    random_graph,
    several_view,
    text_view,
    view_like,
)


def wide_view():
    """An image ten times as wide as high, and a word that is wider than a column."""
    view = fake_view()
    image, grid = view.images[0].resize((960, 96)), view.layout.grids[0]
    tokens = list(view.layout.tokens)
    tokens[68] = "incomprehensibilities-of-an-uncommon-length"
    grid = replace(grid, boxes=grid.boxes * [10, 1, 10, 1], image_size=(960, 96))
    layout = replace(view.layout, tokens=tuple(tokens), grids=(grid,))
    return view_like((image,), layout)


VIEWS = {
    "one": (fake_view(), "circle"), "several": (several_view(), "red"),
    "text": (text_view(), "blue"), "wide": (wide_view(), "circle"),
    "large": (large_view(), "spoon"),
}  # fmt: skip


def planned(name, cap, density=0.1):
    view, word = VIEWS[name]
    target = resolve_target(view.layout, word)
    graph = random_graph(view.layout, target, density=density if name != "large" else 0.002)
    data = graph_payload(graph, {}, cap=cap)
    return data, plan_graph(view, target.text, data)


CASES = [(name, cap) for name in VIEWS for cap in (1, 6, 14)]


@pytest.mark.parametrize(("name", "cap"), CASES)
def test_every_edge_runs_from_border_to_border_of_its_nodes(name, cap):
    data, plan = planned(name, cap)
    assert len(plan.spots) == len(data["nodes"])
    assert [way.edge for way in plan.ways] == list(range(len(data["edges"])))
    for way in plan.ways:
        for node, end in zip(data["edges"][way.edge][:2], way.line[[0, -1]], strict=True):
            spot = plan.spots[node]
            if spot.kind == "patch":
                away = np.hypot(*(end - spot.middle)) - spot.half[0]
                assert 0.0 < away < 12.0
            else:
                outside = np.abs(end - spot.middle) - spot.half
                assert 0.0 < outside.max() < 4.0


@pytest.mark.parametrize(("name", "cap"), CASES)
def test_no_edge_passes_below_a_chip(name, cap):
    data, plan = planned(name, cap)
    for way in plan.ways:
        for spot in plan.spots:
            if spot.kind != "patch":
                inside = (np.abs(way.line - spot.middle) < spot.half - 0.5).all(axis=1)
                assert not inside.any(), (data["edges"][way.edge], spot)


@pytest.mark.parametrize(("name", "cap"), CASES)
def test_marks_at_chips_do_not_overlap(name, cap):
    data, plan = planned(name, cap, density=0.05)
    for node, spot in enumerate(plan.spots):
        ends = [
            way.line[0 if data["edges"][way.edge][0] == node else -1]
            for way in plan.ways if node in data["edges"][way.edge][:2]
        ]  # fmt: skip
        if spot.kind == "patch" or len(ends) < 2:
            continue
        apart = np.hypot(*(np.array(ends)[:, None] - np.array(ends)[None]).transpose(2, 0, 1))
        assert apart[np.triu_indices(len(ends), 1)].min() > MARK


@pytest.mark.parametrize("name", VIEWS)
def test_chips_and_images_keep_apart_and_all_lies_on_the_page(name):
    _, plan = planned(name, 14)
    boxes = [(*s.middle, *s.half) for s in plan.spots if s.kind != "patch"] + plan.images
    for at, (x, y, a, b) in enumerate(boxes):
        assert -0.01 <= x - a and x + a <= plan.width + 0.01
        assert -0.01 <= y - b and y + b <= plan.height + 0.01
        for u, v, c, d in boxes[:at]:
            assert abs(x - u) >= a + c or abs(y - v) >= b + d
    for way in plan.ways:
        assert way.line[:, 0].max() <= plan.width


def test_an_upper_patch_goes_round_the_one_below_it():
    view = fake_view()
    target = resolve_target(view.layout, "circle")
    nodes = [[[3 + 8 * 1 + 2], 1], [[3 + 8 * 3 + 2], 1], [[target.predictor], 0]]
    edges = [[n, 2, 1, 2, None, None, None, None] for n in (0, 1)]
    data = {"nodes": nodes, "edges": edges, "target": 2}
    plan = plan_graph(view, "circle", data)
    upper, lower = plan.spots[:2]
    assert upper.middle[0] == lower.middle[0] and upper.middle[1] < lower.middle[1]
    assert np.hypot(*(plan.ways[0].line - lower.middle).T).min() > lower.half[0] + 3.0


def test_long_words_are_cut_to_their_room():
    text = shorten("incomprehensibilities-of-an-uncommon-length", 10, 90.0)
    assert text.endswith("…") and font(10).getlength(text) <= 90.0
    assert shorten("cup", 10, 90.0) == "cup"


@pytest.mark.parametrize("name", ["wide", "text", "large"])
@pytest.mark.parametrize("nodes", [1, 14])
def test_figures_are_drawn_of_every_kind_of_run(tmp_path, name, nodes):
    view, word = VIEWS[name]
    graph = random_graph(view.layout, resolve_target(view.layout, word), density=0.002)
    explanation = fake_explanation(
        view, word, graphs=(graph,), sets={"joint": explaining_set("joint", (2,))}
    )
    with Image.open(
        draw_explanation_figure(explanation, tmp_path / "a.png", max_nodes=nodes)
    ) as drawn:
        assert drawn.width > 600


def test_sets_and_targets_keep_their_colour_in_pictures_with_few_colours():
    rng = np.random.default_rng(0)
    low = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    picture = low.resize((160, 160), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((40, 40, 60, 60), outline=CAUSE)
    draw.line((80, 10, 110, 10), fill=TARGET)
    truth = np.asarray(picture, dtype=int)

    def lost(reduced):
        changed = np.abs(np.asarray(reduced.convert("RGB"), dtype=int) - truth)
        return changed[40, 40:61].max(), changed[10, 80:111].max(), changed.max()

    with Image.open(io.BytesIO(png_bytes(picture, palette=True))) as found:
        assert found.mode == "P"
        orange, blue, worst = lost(found)
    assert (orange, blue) == (0, 0) and worst < 40
    assert min(lost(picture.quantize(256, dither=Image.Dither.NONE))[:2]) > 5


def test_pictures_with_few_colours_lose_none():
    picture = Image.new("RGB", (40, 30), "#ffffff")
    picture.paste((10, 20, 30), (5, 5, 20, 20))
    picture.paste(CAUSE, (6, 6, 9, 9))
    with Image.open(io.BytesIO(png_bytes(picture, palette=True))) as found:
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(picture))
