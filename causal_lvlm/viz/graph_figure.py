"""A page with a graph on it: boxes, lines with a mark at each end, title, notes, legend.

One figure serves PNG, SVG and PDF. Lengths are points, y up, as in `causal_lvlm.viz.graph_layout`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle
from PIL import Image

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import OutputError
from causal_lvlm.storage import write_bytes
from causal_lvlm.viz.fallback import mark_glyph
from causal_lvlm.viz.graph_layout import GraphLayout
from causal_lvlm.viz.marks import ARROW, EDGE, TAIL
from causal_lvlm.viz.style import (
    CAUSE,
    FAINT,
    INK,
    MUTED,
    PAPER,
    TARGET,
    font,
    text_size,
    wrap_text,
)

__all__ = [
    "SUFFIXES",
    "LegendItem",
    "Line",
    "box_size",
    "draw_page",
    "picture_size",
    "save_figure",
]

DPI = 110
SUFFIXES = (".png", ".svg", ".pdf")
_NAME, _SMALL, _TITLE = 11, 9, 13
_MARGIN, _NARROWEST = 12.0, 470.0
_FRAMES = {"frame": ("#d7ebf7", TARGET), "cause": ("#fbe3d2", CAUSE)}
_POINTS = 0.375  # of a pixel of a node's picture
_STYLES: dict[str, Any] = {
    "solid": "-",
    "dashed": (0, (5, 2.4)),
    "dotted": (0, (1.2, 1.8)),
    "dashdot": (0, (7, 2, 1.4, 2)),
}


@dataclass(frozen=True)
class Line:
    """An edge as it is drawn.

    Attributes
    ----------
    first, second : int
        Nodes.
    mark_first, mark_second : int
        Marks at them: 1 circle, 2 arrowhead, 3 tail.
    colour : str
    style : {"solid", "dashed", "dotted", "dashdot"}
    width : float
    label : str
        Stands on the middle of the line.
    boxed_first, boxed_second : int
        A second mark, drawn in a little box beside that end; 0 for none.
    """

    first: int
    second: int
    mark_first: int
    mark_second: int
    colour: str = EDGE
    style: str = "solid"
    width: float = 1.4
    label: str = ""
    boxed_first: int = 0
    boxed_second: int = 0


class LegendItem(NamedTuple):
    """One entry of the legend: a sample (a line whose right end is looked at) and its meaning."""

    sample: Line | str  # a line; or "frame", "cause", "box"
    text: str


def box_size(name: str) -> FloatArray:
    """Return width and height of the box of a node with this name (lines break at newlines)."""
    face = font(_NAME, True)  # a framed name is bold
    lines = name.split("\n")
    width = max(text_size(line, face)[0] for line in lines)
    return np.array([max(width + 16.0, 28.0), 15.0 * len(lines) + 9.0])


def picture_size(picture: Image.Image) -> FloatArray:
    """Return width and height of a node's picture, which has two pixels for each shown one."""
    return np.array(picture.size) * _POINTS


def draw_page(
    layout: GraphLayout,
    names: Mapping[int, str],
    lines: Sequence[Line],
    *,
    framed: Sequence[int] = (),
    pictures: Mapping[int, Image.Image] | None = None,
    title: str = "",
    notes: Sequence[str] = (),
    legend: Sequence[LegendItem] = (),
    narrowest: float = _NARROWEST,
) -> Figure:
    """Draw a graph that has been laid out.

    Parameters
    ----------
    layout : GraphLayout
    names : mapping of int to str
        Text of every placed node.
    lines : sequence of Line
        Each needs a curve in `layout`, from its first to its second node or the other way round.
    framed : sequence of int
        Nodes drawn in a thick blue frame.
    pictures : mapping of int to PIL.Image.Image, optional
        Nodes that are drawn as a picture instead of a box, at `picture_size`.
    title : str
    notes : sequence of str
        Sentences below the graph.
    legend : sequence of LegendItem
    narrowest : float
        The page is at least as wide, so that the legend has room.

    Returns
    -------
    matplotlib.figure.Figure
    """
    width = max(layout.width, narrowest)
    room = int(width - 2 * _MARGIN)
    heading = wrap_text(title, font(_TITLE, True), room) if title else []
    said = [line for note in notes for line in wrap_text(note, font(10), room)]
    rows = _legend_rows(legend, room)
    above = 20.0 * len(heading) + (10.0 if heading else 0.0)
    below = 15.0 * len(said) + (8.0 if said else 0.0) + 18.0 * len(rows) + (14.0 if rows else 0.0)
    height = above + layout.height + below
    figure = Figure(figsize=(width / 72, height / 72), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    for at, text in enumerate(heading):
        _text(axes, _MARGIN, height - 18.0 - 20.0 * at, text, _TITLE, INK, weight="bold")
    shift = np.array([(width - layout.width) / 2, below])
    for line in lines:
        _draw_line(axes, line, _curve(layout, line) + shift)
    for node, place in layout.places.items():
        picture = (pictures or {}).get(node)
        if picture is None:
            _draw_box(axes, place + shift, names[node], node in framed)
        else:
            _draw_picture(axes, place + shift, picture)
    axes.set_xlim(0, width)  # showing a picture had changed them
    axes.set_ylim(0, height)
    y = below - 14.0
    for text in said:
        _text(axes, _MARGIN, y, text, 10, MUTED)
        y -= 15.0
    if rows:
        y += 4.0
        axes.plot((_MARGIN, width - _MARGIN), (y, y), color=FAINT, linewidth=0.8)
    for row in rows:
        y -= 17.0
        x = _MARGIN
        for item, extent in row:
            _draw_sample(axes, x, y, item.sample)
            _text(axes, x + 42.0, y, item.text, _SMALL, INK, va="center")
            x += extent
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, SVG or PDF, by the name's ending.

    Raises
    ------
    OutputError
        If the ending is another one, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"cannot tell the format of {target.name!r}; end the name in {', '.join(SUFFIXES)}"
        )
    # Without the date, the same graph gives the same PNG and PDF.
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
    kind = target.suffix.lower()
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind[1:], dpi=DPI, metadata=dates[kind])
    return write_bytes(target, drawn.getvalue())


def _text(axes: Axes, x: float, y: float, text: str, size: int, colour: str, **more: Any) -> None:
    # A "$" would start a formula; names and titles hold no formulas.
    more = {"zorder": 6, "fontfamily": "DejaVu Sans", "parse_math": False, **more}
    axes.text(x, y, text, fontsize=size, color=colour, **more)


def _curve(layout: GraphLayout, line: Line) -> FloatArray:
    if (line.first, line.second) in layout.curves:
        return layout.curves[line.first, line.second]
    return layout.curves[line.second, line.first][::-1]


def _draw_box(axes: Axes, place: FloatArray, name: str, framed: bool) -> None:
    width, height = box_size(name)
    corner = (place[0] - width / 2 + 2, place[1] - height / 2 + 2)
    axes.add_patch(
        FancyBboxPatch(
            corner, width - 4, height - 4, boxstyle="round,pad=2,rounding_size=4",
            facecolor="#d7ebf7" if framed else "#f4f6f8", edgecolor=TARGET if framed else "#8a949e",
            linewidth=2.2 if framed else 0.9, zorder=3,
        )
    )  # fmt: skip
    _text(axes, place[0], place[1], name, _NAME, INK, ha="center", va="center_baseline",
          weight="bold" if framed else "normal")  # fmt: skip


def _draw_picture(axes: Axes, place: FloatArray, picture: Image.Image) -> None:
    left, low = place - picture_size(picture) / 2
    right, high = place + picture_size(picture) / 2
    axes.imshow(np.asarray(picture), extent=(left, right, low, high), aspect="auto", zorder=3,
                interpolation="antialiased")  # fmt: skip


def _cut(curve: FloatArray, length: float) -> tuple[FloatArray, FloatArray]:
    """Return the curve without the last `length` points of its way, and where it now ends."""
    back = curve[::-1]
    steps = np.hypot(*np.diff(back, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    length = min(length, 0.45 * way[-1])
    at = int(np.searchsorted(way, length, side="right")) - 1
    share = (length - way[at]) / max(steps[min(at, len(steps) - 1)], 1e-12)
    end = back[at] + share * (back[min(at + 1, len(back) - 1)] - back[at])
    return np.concatenate([curve[: len(curve) - 1 - at], end[None]]), end


def _draw_line(axes: Axes, line: Line, curve: FloatArray) -> None:
    size = 8.0 + 1.1 * line.width
    for mark, boxed in ((line.mark_second, line.boxed_second), (line.mark_first, line.boxed_first)):
        tip = curve[-1].copy()
        rest, before = _cut(curve, size)
        _draw_mark(axes, before, tip, mark, line.colour, size)
        if boxed:
            _draw_boxed(axes, curve, boxed)
        # The next round looks at the other end.
        curve = (rest if mark != TAIL else curve)[::-1]
    axes.plot(
        curve[:, 0], curve[:, 1], color=line.colour, linewidth=line.width,
        linestyle=_STYLES[line.style], zorder=1, solid_capstyle="butt",
    )  # fmt: skip
    if line.label:
        length = float(np.hypot(*np.diff(curve, axis=0).T).sum())
        middle = _cut(curve, length / 2 if length else 0.0)[1]
        _text(axes, middle[0], middle[1], line.label, 8, line.colour, ha="center", va="center",
              bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}, zorder=2)  # fmt: skip


def _draw_mark(
    axes: Axes, start: FloatArray, tip: FloatArray, mark: int, colour: str, size: float
) -> None:
    glyph = mark_glyph(start, tip, mark, size)
    if glyph.kind == "circle":
        centre = (float(glyph.points[0, 0]), float(glyph.points[0, 1]))
        axes.add_patch(
            Circle(centre, size / 2 - 0.6, facecolor=PAPER, edgecolor=colour, linewidth=1.3,
                   zorder=4)
        )  # fmt: skip
    elif glyph.kind == "arrow":
        axes.add_patch(Polygon(glyph.points, closed=True, facecolor=colour, linewidth=0, zorder=4))


def _draw_boxed(axes: Axes, curve: FloatArray, mark: int) -> None:
    """Draw a mark in a little box beside the last end of a curve."""
    tip, far = curve[-1], _cut(curve, 24.0)[1]
    along = (tip - far) / max(float(np.hypot(*(tip - far))), 1e-9)
    centre = far + np.array([-along[1], along[0]]) * 13.0
    axes.plot((far[0], centre[0]), (far[1], centre[1]), color=TARGET, linewidth=0.8, zorder=1.5)
    _mark_box(axes, centre, along, mark)


def _mark_box(axes: Axes, centre: FloatArray, along: FloatArray, mark: int) -> None:
    half = 7.5
    axes.add_patch(
        Rectangle((centre[0] - half, centre[1] - half), 2 * half, 2 * half, facecolor=PAPER,
                  edgecolor=TARGET, linewidth=1.0, zorder=5)
    )  # fmt: skip
    start, tip = centre - along * 5.5, centre + along * 5.5
    glyph = mark_glyph(start, tip, mark, 6.0)
    stop = glyph.stop
    axes.plot((start[0], stop[0]), (start[1], stop[1]), color=TARGET, linewidth=1.2, zorder=5.1,
              solid_capstyle="butt")  # fmt: skip
    if glyph.kind == "circle":
        axes.add_patch(Circle((float(glyph.points[0, 0]), float(glyph.points[0, 1])), 2.6,
                              facecolor=PAPER, edgecolor=TARGET, linewidth=1.0,
                              zorder=5.2))  # fmt: skip
    elif glyph.kind == "arrow":
        axes.add_patch(Polygon(glyph.points, closed=True, facecolor=TARGET, zorder=5.2))


def _legend_rows(items: Sequence[LegendItem], room: int) -> list[list[tuple[LegendItem, float]]]:
    """Break the legend into rows; each item comes with the width it takes."""
    rows: list[list[tuple[LegendItem, float]]] = []
    used = float(room)
    for item in items:
        extent = text_size(item.text, font(_SMALL))[0] + 60.0
        if not rows or used + extent > room:
            rows.append([])
            used = 0.0
        rows[-1].append((item, extent))
        used += extent
    return rows


def _draw_sample(axes: Axes, x: float, y: float, sample: Line | str) -> None:
    if isinstance(sample, Line):
        _draw_line(axes, sample, np.array([[x, y], [x + 34.0, y]]))
    elif sample in _FRAMES:
        face, edge = _FRAMES[sample]
        axes.add_patch(Rectangle((x + 8, y - 6), 22, 12, facecolor=face, edgecolor=edge,
                                 linewidth=2.0))  # fmt: skip
    else:
        _mark_box(axes, np.array([x + 19.0, y]), np.array([1.0, 0.0]), ARROW)
