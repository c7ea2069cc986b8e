"""Where everything of a graph on an image lies: patches, words, the target, and every edge.

1. Images at the left; a patch is a circle at its middle.
2. Words of the graph in a column at their right, in the order of reading. A chip is as high as its
   edges need: each has an end of its own on the chip's side, patches and target at the left, other
   words at the right. Their order on a side keeps edges from crossing there.
3. The target is a bar below everything. Ends on it are as near to where they come from as a gap
   between them allows (isotonic regression, by pooling adjacent violators).
4. `causal_lvlm.viz.paper_routes` finds the lines between the ends.

Lengths are points; y points down, as in images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.viz.paper_routes import Spot, Way, find_routes
from causal_lvlm.viz.style import font
from causal_lvlm.viz.view import TraceView

__all__ = ["Place", "Plan", "place_images", "plan_graph", "shorten"]

Place = tuple[float, float, float, float]  # middle, half width, half height
_IMAGE, _COLUMN, _ROW, _TALLEST = 280.0, 110.0, 8.0, 52.0
_DROP, _BAR, _NARROWEST = 46.0, 13.0, 200.0
_PITCH, _SLOT = 10.0, 13.0  # between ends on a chip, on the target
_AIR = 2.5  # between a chip and the ends of its edges


@dataclass
class Plan:
    """The panel, relative to its corner.

    Attributes
    ----------
    spots : list of Spot
        In the order of the graph's nodes; without a graph only the target.
    ways : list of Way
    images : list of tuple
        Middle, half width and half height of every image.
    patches : dict of int to tuple
        The same of every patch, by position.
    width, height : float
    """

    spots: list[Spot] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    images: list[Place] = field(default_factory=list)
    patches: dict[int, Place] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def shorten(text: str, size: int, room: float) -> str:
    """Return a text that is no wider than `room`, cut at its end if it must be."""
    face = font(size)
    if face.getlength(text) <= room:
        return text
    while text and face.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def place_images(
    view: TraceView, width: float
) -> tuple[list[Place], dict[int, Place], float]:  # fmt: skip
    """Return the places of the images, two in a row, and of their patches, and the height."""
    columns = 1 if len(view.images) < 2 else 2
    room = (width - 8.0 * (columns - 1)) / columns
    top = tallest = 0.0
    images: list[Place] = []
    factors: list[tuple[float, float, float]] = []
    for number, image in enumerate(view.images):
        if number % columns == 0 and number:
            top, tallest = top + tallest + 8.0, 0.0
        factor = min(room / image.width, width / image.height)
        left = (number % columns) * (room + 8.0) + (room - factor * image.width) / 2
        factors.append((left, top, factor))
        half = (factor * image.width / 2, factor * image.height / 2)
        images.append((left + half[0], top + half[1], *half))
        tallest = max(tallest, factor * image.height)
    patches: dict[int, Place] = {}
    for grid in view.layout.grids if view.images else ():
        x, y, factor = factors[grid.image]
        for p, (left, up, right, down) in zip(grid.positions.tolist(), grid.boxes, strict=True):
            patches[p] = (
                x + factor * (left + right) / 2, y + factor * (up + down) / 2,
                factor * (right - left) / 2, factor * (down - up) / 2,
            )  # fmt: skip
    return images, patches, top + tallest


def plan_graph(view: TraceView, target: str, data: Mapping[str, Any] | None) -> Plan:
    """Lay out a graph as `causal_lvlm.viz.payload_graph.graph_payload` gives it.

    Parameters
    ----------
    view : TraceView
    target : str
        Text of the target.
    data : mapping or None
        None for no graph: the images and the target.
    """
    plan = Plan()
    plan.images, plan.patches, bottom = place_images(view, _IMAGE)
    nodes = [] if data is None else [tuple(unit) for unit, _ in data["nodes"]]
    root = 0 if data is None else int(data["target"])
    edges = [] if data is None else [(int(e[0]), int(e[1])) for e in data["edges"]]
    circles = {n: _circle(plan, unit) for n, unit in enumerate(nodes) if n != root}
    words = sorted(
        (n for n in range(len(nodes)) if n != root and circles[n] is None), key=lambda n: nodes[n]
    )
    names = {n: shorten(view.label(nodes[n]).replace("“", "").replace("”", ""), 10, _COLUMN)
             for n in words}  # fmt: skip

    left, right = _sides(words, edges)
    heights = [
        min(_TALLEST, max(20.0, _PITCH * max(len(left[n]), len(right[n])) + 4.0)) for n in words
    ]
    column = sum(heights) + _ROW * max(0, len(words) - 1)
    falling = [n for n in words if root in left[n]]
    gutter = min(90.0, max(44.0, _SLOT * len(falling) + 20.0)) if words else 0.0
    start = (_IMAGE if view.images else 60.0) + gutter
    half = max((font(10).getlength(names[n]) for n in words), default=0.0) / 2 + 8.0
    tall = max(bottom, column)
    down = tall - bottom  # a low image lies at the bottom, near the target
    plan.images = [(x, y + down, a, b) for x, y, a, b in plan.images]
    plan.patches = {p: (x, y + down, a, b) for p, (x, y, a, b) in plan.patches.items()}
    spots: dict[int, Spot] = {}
    for n, circle in circles.items():
        if circle is not None:
            middle, radius = circle
            spots[n] = Spot("patch", middle + np.array([0.0, down]), np.full(2, radius))
    y = (tall - column) / 2
    for n, high in zip(words, heights, strict=True):
        spots[n] = Spot("word", np.array([start + half, y + high / 2]), np.array([half, high / 2]),
                        names[n])  # fmt: skip
        y += high + _ROW
    inside = start + 2 * half if words else _IMAGE
    wide = max(inside, _NARROWEST)
    bar = np.array([wide / 2, tall + (_DROP if tall else 0.0) + _BAR])
    spots[root] = Spot("target", bar, np.array([wide / 2, _BAR]), shorten(target, 11, wide - 16.0))
    plan.height = float(bar[1]) + _BAR
    plan.spots = [spots[n] for n in sorted(spots)]
    ports = _ports(spots, left, right, root)
    ports.update(_slots(spots, edges, root, words))
    plan.ways = find_routes(spots, edges, ports, {n: k for k, n in enumerate(words)})
    reach = max((float(way.line[:, 0].max()) for way in plan.ways), default=0.0)
    plan.width = max(wide, reach + 4.0)
    return plan


def _circle(plan: Plan, unit: Sequence[int]) -> tuple[FloatArray, float] | None:
    """Return middle and radius of a unit of patches: of the patch nearest to its middle."""
    places = np.array([plan.patches[p] for p in unit if p in plan.patches])
    if not len(places):
        return None
    apart = np.hypot(*(places[:, :2] - places[:, :2].mean(axis=0)).T)
    x, y, a, b = places[int(np.argmin(apart))]
    return np.array([x, y]), float(np.clip(0.4 * min(a, b), 3.0, 6.5))


def _sides(
    words: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return the neighbours of every word whose edges leave its left, and its right side."""
    left: dict[int, list[int]] = {n: [] for n in words}
    right: dict[int, list[int]] = {n: [] for n in words}
    for i, j in edges:
        for one, other in ((i, j), (j, i)):
            if one in left:
                (right if other in left else left)[one].append(other)
    return left, right


def _ports(
    spots: Mapping[int, Spot], left: Mapping[int, list[int]], right: Mapping[int, list[int]],
    root: int,
) -> dict[tuple[int, int], FloatArray]:  # fmt: skip
    """Return where the edge to a neighbour ends on a word's chip, by word and neighbour."""
    found = {}
    for n, others in left.items():
        # The target is below all patches.
        ordered = sorted(others, key=lambda m: (m == root, spots[m].middle[1], m))
        found.update(_side(n, ordered, spots[n], -1.0))
    for n, others in right.items():
        # Upwards the nearest is the innermost arc and so the highest; downwards the lowest.
        y = spots[n].middle[1]
        up = sorted((m for m in others if spots[m].middle[1] < y),
                    key=lambda m: -spots[m].middle[1])  # fmt: skip
        rest = sorted((m for m in others if m not in up), key=lambda m: -spots[m].middle[1])
        found.update(_side(n, [*up, *rest], spots[n], 1.0))
    return found


def _side(
    node: int, others: Sequence[int], spot: Spot, side: float
) -> dict[tuple[int, int], FloatArray]:
    pitch = min(_PITCH, (2 * spot.half[1] - 4.0) / max(1, len(others)))
    first = -(len(others) - 1) / 2
    return {
        (node, other): spot.middle + np.array([side * (spot.half[0] + _AIR), (first + k) * pitch])
        for k, other in enumerate(others)
    }


def _slots(
    spots: Mapping[int, Spot], edges: Sequence[tuple[int, int]], root: int, words: Sequence[int]
) -> dict[tuple[int, int], FloatArray]:
    """Return where every edge to the target ends on its bar."""
    near = {i + j - root for i, j in edges if root in (i, j)}
    ordered = sorted((n for n in near if n not in words), key=lambda n: (*spots[n].middle, n))
    wished = [float(spots[n].middle[0]) for n in ordered]
    falling = [n for n in words if n in near]  # the highest is the outermost curve
    for k, n in enumerate(falling):
        edge = float(spots[n].middle[0] - spots[n].half[0])
        wished.append(edge - 18.0 - _SLOT * (len(falling) - 1 - k))
    ordered += falling
    bar = spots[root]
    low, high = bar.middle[0] - bar.half[0] + 9.0, bar.middle[0] + bar.half[0] - 9.0
    gap = min(_SLOT, (high - low) / max(1, len(ordered) - 1))
    top = bar.middle[1] - bar.half[1] - _AIR
    places = _spread(wished, gap, low, high)
    return {(root, n): np.array([x, top]) for n, x in zip(ordered, places, strict=True)}


def _spread(wished: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places in the same order, at least `gap` apart, nearest to those wished for."""
    pools: list[tuple[float, int]] = []  # mean of what is left without the gaps, and size
    for k, x in enumerate(wished):
        pools.append((x - k * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    found = [mean for mean, size in pools for _ in range(size)]
    last = len(found) - 1
    return [
        max(low + k * gap, min(high - (last - k) * gap, x + k * gap)) for k, x in enumerate(found)
    ]
