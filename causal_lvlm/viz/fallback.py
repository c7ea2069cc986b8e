"""The PAG without Graphviz: networkx lays out, matplotlib draws lines and marks.

1. Kamada and Kawai's layout (1989) of the shown nodes, isolated ones in a row below.
2. Nodes whose pictures overlap are pushed apart.
3. Each edge ends at the borders of its nodes' pictures; its marks are drawn there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from PIL import Image

from causal_lvlm.arrays import FloatArray
from causal_lvlm.viz.marks import ARROW, CIRCLE, EDGE
from causal_lvlm.viz.style import PAPER, TARGET, figure_image

__all__ = ["Glyph", "draw_with_networkx", "edge_end", "mark_glyph", "place_boxes"]

_GAP = 42.0


class EdgeLike(Protocol):
    """An edge between two nodes with a mark at each; see `causal_lvlm.viz.graph.Edge`."""

    @property
    def first(self) -> int:
        """One node."""

    @property
    def second(self) -> int:
        """The other."""

    @property
    def mark_first(self) -> int:
        """Mark at the first node."""

    @property
    def mark_second(self) -> int:
        """Mark at the second node."""


class Glyph(NamedTuple):
    """A mark at the end of a line: its kind, its corner points and where the line stops."""

    kind: str
    points: FloatArray
    stop: FloatArray


def edge_end(start: FloatArray, end: FloatArray, half: FloatArray) -> FloatArray:
    """Return where the line from `start` to `end` enters the box around `end`.

    Parameters
    ----------
    start, end : ndarray of float64, shape (2,)
    half : ndarray of float64, shape (2,)
        Half width and half height of the box.
    """
    step = start - end
    with np.errstate(divide="ignore"):
        reach = np.min(np.where(np.abs(step) > 1e-9, half / np.abs(step), np.inf))
    return np.asarray(end + min(reach, 1.0) * step, dtype=np.float64)


def mark_glyph(start: FloatArray, tip: FloatArray, mark: int, size: float = 12.0) -> Glyph:
    """Return the mark at `tip` of a line that comes from `start`."""
    step = tip - start
    length = float(np.hypot(*step))
    along = step / length if length > 0 else np.array([1.0, 0.0])
    across = np.array([-along[1], along[0]])
    if mark == CIRCLE:
        return Glyph("circle", (tip - along * size / 2)[None], tip - along * size)
    if mark == ARROW:
        base = tip - along * size
        corners = np.array([tip, base + across * size / 2.2, base - across * size / 2.2])
        return Glyph("arrow", corners, base)
    return Glyph("tail", np.empty((0, 2)), tip)


def draw_with_networkx(
    pictures: Mapping[int, Image.Image],
    edges: Sequence[EdgeLike],
    target: int,
    strength: Mapping[tuple[int, int], float] | None = None,
) -> Image.Image:
    """Draw nodes (pictures at twice their size) and edges; see `causal_lvlm.viz.graph.agraph`.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    sizes = {n: np.array([p.width / 2, p.height / 2]) for n, p in pictures.items()}
    places, shape = place_boxes(sizes, edges)
    dpi = 96
    figure = Figure(figsize=(shape[0] / dpi, shape[1] / dpi), dpi=dpi, facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, shape[0])
    axes.set_ylim(shape[1], 0)
    axes.set_axis_off()
    for edge in edges:
        colour = TARGET if target in (edge.first, edge.second) else EDGE
        first, second = places[edge.first], places[edge.second]
        tips = (
            edge_end(second, first, sizes[edge.first] / 2 + 1),
            edge_end(first, second, sizes[edge.second] / 2 + 1),
        )
        glyphs = (
            mark_glyph(tips[1], tips[0], edge.mark_first),
            mark_glyph(tips[0], tips[1], edge.mark_second),
        )
        stops = np.array([glyphs[0].stop, glyphs[1].stop])
        share = (strength or {}).get((edge.first, edge.second))
        width = 1.3 if share is None else 0.7 + 2.9 * share
        axes.plot(stops[:, 0], stops[:, 1], color=colour, linewidth=width, zorder=1)
        if share is not None:
            middle = stops.mean(axis=0)
            axes.text(middle[0], middle[1], f"{share:.2f}", fontsize=9, color=colour, zorder=2,
                      ha="center", va="center",
                      bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0})  # fmt: skip
        for glyph in glyphs:
            if glyph.kind == "circle":
                where = (float(glyph.points[0, 0]), float(glyph.points[0, 1]))
                axes.add_patch(
                    Circle(where, 5.0, facecolor=PAPER, edgecolor=colour, linewidth=1.3, zorder=4)
                )
            elif glyph.kind == "arrow":
                axes.add_patch(Polygon(glyph.points, closed=True, color=colour, zorder=4))
    for node, picture in pictures.items():
        (x, y), (width, height) = places[node], sizes[node]
        extent = (x - width / 2, x + width / 2, y + height / 2, y - height / 2)
        axes.imshow(np.asarray(picture), extent=extent, zorder=3, interpolation="antialiased")
    axes.set_xlim(0, shape[0])
    axes.set_ylim(shape[1], 0)
    axes.set_aspect("equal")
    return figure_image(figure)


def place_boxes(
    sizes: Mapping[int, FloatArray],
    edges: Sequence[EdgeLike],
    *,
    room: tuple[float, float] = (170.0, 170.0),
    gap: float = _GAP,
) -> tuple[dict[int, FloatArray], tuple[float, float]]:
    """Return the centre of every node in pixels (y down), and the page's width and height.

    `room` is the width and height that a node gets before boxes are pushed `gap` apart.
    """
    graph = nx.Graph()
    graph.add_nodes_from(sizes)
    graph.add_edges_from((e.first, e.second) for e in edges)
    linked = [n for n in graph if graph.degree(n)]
    places: dict[int, FloatArray] = {}
    for part in nx.connected_components(graph.subgraph(linked)) if linked else ():
        inner = nx.kamada_kawai_layout(graph.subgraph(sorted(part)))
        points = {n: np.asarray(p, dtype=np.float64) for n, p in inner.items()}
        spread = _spread(points, sizes, room, gap)
        left = max((p[0] + sizes[n][0] / 2 for n, p in places.items()), default=-gap) + gap
        shift = min(p[0] - sizes[n][0] / 2 for n, p in spread.items())
        places.update({n: p + np.array([left - shift, 0.0]) for n, p in spread.items()})
    bottom = max((p[1] + sizes[n][1] / 2 for n, p in places.items()), default=0.0)
    x, row = 0.0, bottom + _GAP
    for node in (n for n in sizes if n not in places):
        if x > 900:
            x, row = 0.0, row + 110
        places[node] = np.array([x + sizes[node][0] / 2, row + 50])
        x += sizes[node][0] + _GAP
    low = np.min([places[n] - sizes[n] / 2 for n in sizes], axis=0) - _GAP
    high = np.max([places[n] + sizes[n] / 2 for n in sizes], axis=0) + _GAP
    return {n: p - low for n, p in places.items()}, (high[0] - low[0], high[1] - low[1])


def _spread(
    places: dict[int, FloatArray],
    sizes: Mapping[int, FloatArray],
    room: tuple[float, float],
    gap: float,
) -> dict[int, FloatArray]:
    """Scale a layout to pixels, then push nodes apart until no two boxes overlap."""
    nodes = list(places)
    extent = float(np.ptp([places[n] for n in nodes], axis=0).max()) if len(nodes) > 1 else 1.0
    scale = np.array(room) * math.sqrt(len(nodes)) / max(extent, 1e-9)
    spots = {n: p * scale for n, p in places.items()}
    for _ in range(200):
        moved = False
        for at, i in enumerate(nodes):
            for j in nodes[at + 1 :]:
                apart = spots[j] - spots[i]
                overlap = (sizes[i] + sizes[j]) / 2 + gap - np.abs(apart)
                if (overlap <= 0).any():
                    continue
                axis = int(np.argmin(overlap))
                step = math.copysign(overlap[axis] / 2 + 0.5, apart[axis])
                spots[i][axis] -= step
                spots[j][axis] += step
                moved = True
        if not moved:
            break
    return spots
