"""One explanation as a figure for a paper: PDF or SVG with real lines and text, or PNG.

Two panels:

1. The explaining set: the images with its patches outlined and numbered, and below them the words
   of prompt and answer with those of the set marked.
2. The causal graph on the images: nodes at the middle of their patches, words of the graph in a
   column, the target as a bar below; edges with a mark at each end, as thick as the weakest partial
   correlation that keeps them (or, of a union of heads, the share of heads that have them). See
   `causal_lvlm.viz.paper_layout` for what lies where.

Lengths are points; y points down, as in images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle
from matplotlib.patheffects import withStroke

from causal_lvlm.arrays import FloatArray
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.names import visible
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.protocols import Recorded
from causal_lvlm.tokens import Target
from causal_lvlm.viz.fallback import mark_glyph
from causal_lvlm.viz.graph_figure import save_figure
from causal_lvlm.viz.paper_layout import Place, Plan, place_images, plan_graph, shorten
from causal_lvlm.viz.paper_routes import MARK, Spot
from causal_lvlm.viz.payload_causal import causal_payload
from causal_lvlm.viz.payload_graph import graph_payload
from causal_lvlm.viz.pictures import main_numbers
from causal_lvlm.viz.style import CAUSE, FAINT, INK, MUTED, PAPER, TARGET, font, wrap_text
from causal_lvlm.viz.view import TraceView, view_of

__all__ = ["draw_explanation_figure"]

_WIDTH, _GAP, _LINE = 220.0, 24.0, 24.0
_WORDS = 40  # of a longer prompt only the words that matter are drawn
_EDGE = "#20262c"


@dataclass
class _Panel:
    """Where every position of a run lies in the panel of the set, relative to its corner."""

    images: list[Place]
    places: dict[int, Place]
    words: dict[int, str] = field(default_factory=dict)
    height: float = 0.0


def draw_explanation_figure(
    explanation: Explanation,
    path: str | os.PathLike[str],
    *,
    trace: Recorded | Mapping[str, Any] | None = None,
    max_nodes: int = 24,
) -> Path:
    """Write the main set and the graph of an explanation as one figure.

    Parameters
    ----------
    explanation : Explanation
    path : path_like
        Ends in ``.pdf``, ``.svg`` or ``.png``.
    trace : Trace or mapping, optional
        By default what the explanation carries of its trace.
    max_nodes : int
        Nodes of the graph that are drawn: the target, the set, then the nearest.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OutputError
        If the ending is another one, the file cannot be written, or the trace lacks a part.
    """
    view = view_of(explanation.summary if trace is None else trace)
    target, numbers = explanation.target, main_numbers(explanation)
    graph = explanation.head_graph
    data = None if graph is None else graph_payload(graph, numbers, cap=max_nodes)
    causal = explanation.graph
    if causal is not None and causal.edges:  # its marks deny nothing that was verified
        data = causal_payload(view, causal, cap=max_nodes)
    panel, plan = _laid_out(view, target, set(numbers)), plan_graph(view, target.text, data)
    width = _WIDTH + plan.width + 3 * _GAP
    lines = wrap_text(explanation.sentence(), font(11), int(width - 2 * _GAP))
    head = 16.0 * len(lines) + 12.0
    height = max(panel.height, plan.height) + head + 46.0
    figure = Figure(figsize=(width / 72, height / 72), facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for row, line in enumerate(lines):
        _text(axes, _GAP, 14.0 + 16.0 * row, line, 11, INK, ha="left")
    corners = [np.array([x, head + 22.0]) for x in (_GAP, 2 * _GAP + _WIDTH)]
    name = "no graph" if data is None else _graph_name(graph, data)
    for corner, heading, images in zip(
        corners, ("explaining set", name), (panel.images, plan.images), strict=True
    ):
        _text(axes, corner[0], corner[1] - 10.0, heading, 9, MUTED, ha="left")
        _draw_images(axes, view, images, corner)
    _draw_set(axes, view, panel, corners[0], target, numbers)
    if data is None:
        _draw_chip(axes, plan.spots[0], corners[1], TARGET)
    else:
        _draw_nodes(axes, plan, corners[1], data, numbers)
        _draw_edges(axes, plan, corners[1], data)
    axes.set_xlim(0.0, width)
    axes.set_ylim(height, 0.0)
    axes.set_aspect("equal")
    return save_figure(figure, path)


def _graph_name(graph: HeadGraph | None, data: Mapping[str, Any]) -> str:
    head = None if graph is None else graph.head
    name = "causal graph" if head is None else f"causal graph of head {head}"
    if "tested" in data:
        name = data["title"].lower()
        name += "; bold: sufficient or necessary" if name.startswith("verified") else ""
    shown, there = len(data["nodes"]), data["total"]["nodes"]
    return name if shown == there else f"{name}: {shown} of {there} nodes"


def _laid_out(view: TraceView, target: Target, needed: set[int]) -> _Panel:
    images, patches, bottom = place_images(view, _WIDTH)
    panel = _Panel(images, dict(patches))
    words = [int(p) for p in view.layout.positions("prompt", "generated") if p < target.start]
    if len(words) > _WORDS:
        words = [p for p in words if p in needed]
    x, y = 0.0, bottom + (16.0 if images else 0.0)
    for p in [*words, target.start]:
        text = target.text if p == target.start else visible(view.layout.tokens[p]).strip()
        text = shorten(text, 10, _WIDTH - 14.0)
        extent = font(10).getlength(text) + 14.0
        if x and x + extent > _WIDTH:
            x, y = 0.0, y + _LINE + 4.0
        panel.places[p] = (x + extent / 2, y + _LINE / 2, extent / 2, 9.0)
        panel.words[p] = text
        x += extent + 6.0
    panel.height = y + _LINE
    return panel


def _text(axes: Axes, x: float, y: float, text: str, size: int, colour: str, **more: Any) -> None:
    # A "$" would start a formula; words of a prompt hold none.
    axes.text(x, y, text, fontsize=size, color=colour, parse_math=False, va="center_baseline",
              fontfamily="DejaVu Sans", **{"zorder": 8, **more})  # fmt: skip


def _draw_images(
    axes: Axes, view: TraceView, places: Sequence[Place], corner: FloatArray
) -> None:  # fmt: skip
    for image, (x, y, half, tall) in zip(view.images, places, strict=True):
        left, top = corner[0] + x, corner[1] + y
        smooth = "nearest" if max(image.size) < 200 else "antialiased"
        extent = (left - half, left + half, top + tall, top - tall)
        axes.imshow(np.asarray(image.convert("RGB")), extent=extent, interpolation=smooth, zorder=1)


def _draw_chip(axes: Axes, spot: Spot, corner: FloatArray, edge: str) -> None:
    face = {TARGET: "#d7ebf7", CAUSE: "#fbe3d2"}.get(edge, PAPER)
    (x, y), (half, tall) = corner + spot.middle, spot.half
    axes.add_patch(
        FancyBboxPatch(
            (x - half + 2.0, y - tall + 2.0), 2 * half - 4.0, 2 * tall - 4.0,
            boxstyle="round,pad=2,rounding_size=4", facecolor=face,
            edgecolor=edge, linewidth=0.8 if edge == FAINT else 1.8, zorder=3,
        )
    )  # fmt: skip
    size = 11 if spot.kind == "target" else 10
    _text(axes, x, y, spot.text, size, INK, ha="center")


def _draw_set(
    axes: Axes, view: TraceView, panel: _Panel, corner: FloatArray, target: Target,
    numbers: Mapping[int, int],
) -> None:  # fmt: skip
    for p, text in panel.words.items():
        x, y, half, tall = panel.places[p]
        edge = TARGET if p == target.start else CAUSE if p in numbers else FAINT
        _draw_chip(axes, Spot("word", np.array([x, y]), np.array([half, tall]), text), corner, edge)
    for p, number in numbers.items():
        if p not in panel.places:
            continue
        x, y, half, tall = panel.places[p]
        middle = corner + np.array([x, y])
        if view.layout.patch_cell(p) is not None:
            _outline(axes, middle, (half, tall), CAUSE, 1.8)
        else:
            middle = middle + np.array([half, -tall])
        _badge(axes, middle, number)


def _badge(axes: Axes, place: FloatArray, number: int) -> None:
    _text(axes, place[0], place[1], str(number), 8, PAPER, ha="center", fontweight="bold", zorder=9,
          path_effects=[withStroke(linewidth=3.2, foreground=CAUSE)])  # fmt: skip


def _outline(
    axes: Axes, middle: FloatArray, half: tuple[float, float], colour: str, pen: float
) -> None:
    spot = (middle[0] - half[0], middle[1] - half[1])
    for rim, wide in ((PAPER, 1.9 * pen), (colour, pen)):
        axes.add_patch(Rectangle(spot, 2 * half[0], 2 * half[1], fill=False, edgecolor=rim,
                                 linewidth=wide, zorder=2.0 + 0.1 * pen))  # fmt: skip


def _draw_nodes(
    axes: Axes, plan: Plan, corner: FloatArray, data: Mapping[str, Any], numbers: Mapping[int, int]
) -> None:
    for at, (spot, (members, _)) in enumerate(zip(plan.spots, data["nodes"], strict=True)):
        number = next((numbers[p] for p in members if p in numbers), None)
        middle = corner + spot.middle
        if at == data["target"]:
            _draw_chip(axes, spot, corner, TARGET)
            continue
        if spot.kind == "word":
            _draw_chip(axes, spot, corner, FAINT if number is None else CAUSE)
            if number is not None:
                _badge(axes, middle + spot.half * np.array([1.0, -1.0]), number)
            continue
        for p in members:
            if p in plan.patches:
                x, y, *half = plan.patches[p]
                place = corner + np.array([x, y])
                colour, pen = (MUTED, 0.8) if number is None else (CAUSE, 1.2)
                _outline(axes, place, (half[0], half[1]), colour, pen)
        radius, colour = float(spot.half[0]), _EDGE if number is None else CAUSE
        axes.add_patch(Circle(tuple(middle), radius, facecolor=PAPER, edgecolor=colour,
                              linewidth=min(2.0, 0.4 * radius), zorder=7))  # fmt: skip
        if number is not None and radius >= 5.0:
            _text(axes, middle[0], middle[1], str(number), 7, CAUSE, ha="center",
                  fontweight="bold", zorder=9)  # fmt: skip
        elif number is not None:
            _badge(axes, middle + np.array([radius + 3.0, -radius - 3.0]), number)


def _draw_edges(axes: Axes, plan: Plan, corner: FloatArray, data: Mapping[str, Any]) -> None:
    low = data["level"] or 0.0
    for way in plan.ways:
        i, j, mark_i, mark_j, share, weakest, *_ = data["edges"][way.edge]
        known = share
        if known is None and weakest is not None:
            known = max(0.0, (weakest - low) / max(1.0 - low, 1e-6))
        colour = TARGET if data["target"] in (i, j) else _EDGE
        pen = 1.2 if known is None else 0.8 + 2 * known
        if "tested" in data:
            kind = data["tested"][way.edge][0]
            colour, pen = (MUTED, 0.7) if kind in ("none", "frame") else (INK, 3.4)
        _draw_edge(axes, corner + way.line, (mark_i, mark_j), pen, colour)


def _draw_edge(
    axes: Axes, way: FloatArray, marks: Sequence[int], pen: float, colour: str
) -> None:  # fmt: skip
    """Draw a line on a white rim, with a mark at each end; marks lie above all lines."""
    rim = withStroke(linewidth=2.0, foreground=PAPER)
    size = min(MARK, 0.4 * float(np.hypot(*np.diff(way, axis=0).T).sum()))
    for mark in (marks[1], marks[0]):  # the far end first, then the line is turned round
        away = np.hypot(*(way - way[-1]).T) >= size
        back = way[np.flatnonzero(away)[-1]] if away.any() else way[0]
        glyph = mark_glyph(back, way[-1], mark, size)
        if glyph.kind == "circle":
            spot = (float(glyph.points[0, 0]), float(glyph.points[0, 1]))
            axes.add_patch(Circle(spot, size / 2 - 0.5, facecolor=PAPER, edgecolor=colour,
                                  linewidth=1.3, zorder=6, path_effects=[rim]))  # fmt: skip
        elif glyph.kind == "arrow":
            axes.add_patch(Polygon(glyph.points, closed=True, facecolor=colour, linewidth=0,
                                   zorder=6, path_effects=[rim]))  # fmt: skip
        if glyph.kind != "tail":
            way = np.concatenate([way[: np.flatnonzero(away)[-1] + 1] if away.any() else way[:1],
                                  glyph.stop[None]])  # fmt: skip
        way = way[::-1]
    axes.plot(way[:, 0], way[:, 1], color=colour, linewidth=pen, zorder=5, solid_capstyle="butt",
              path_effects=[withStroke(linewidth=pen + 2.0, foreground=PAPER)])  # fmt: skip
