"""The PDS-tree of the target: rings by radius, a node once for every way to reach it.

A node may occur several times, because the legal unit of a possible-d-sep path is the pair
(previous, node). Lines are steps of such paths; they carry no edge marks.

Every node stands in the middle of the angles of the leaves below it, so branches stay apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.viz.nodes import TokenGraph, node_members, node_picture, target_text
from causal_lvlm.viz.style import CAUSE, FAINT, MUTED, PAPER, caption, font, stack
from causal_lvlm.viz.view import TraceView

__all__ = ["draw_tree", "leaf_angles", "shown_occurrences"]

_SCALE = 2


def shown_occurrences(depth: IntArray, radius: int | None, limit: int) -> tuple[IntArray, int]:
    """Return the indices (breadth-first) that are drawn, and the depth up to which all are.

    Parameters
    ----------
    depth : ndarray of int64, shape (M,)
        Of a PDS-tree in breadth-first order; index 0 is the root.
    radius : int or None
        Greatest depth wanted.
    limit : int
        Greatest number of occurrences, the root not counted.
    """
    deepest = int(depth.max()) if radius is None else min(int(radius), int(depth.max()))
    wanted = np.flatnonzero(depth <= deepest)
    if len(wanted) - 1 <= limit:
        return wanted, deepest
    for level in range(deepest, 0, -1):
        chosen = np.flatnonzero(depth <= level)
        if len(chosen) - 1 <= limit:
            return chosen, level
    return wanted[: limit + 1], 0


def leaf_angles(parent: IntArray) -> FloatArray:
    """Return an angle for every occurrence, in [0, 2π): the middle of the leaves below it.

    Parameters
    ----------
    parent : ndarray of int64, shape (M,)
        Index of the parent in the same array, -1 for the root; parents come before children.
    """
    count = len(parent)
    leaves = np.zeros(count)
    for index in range(count - 1, -1, -1):
        leaves[index] = max(leaves[index], 1.0)
        if index:
            leaves[parent[index]] += leaves[index]
    start = np.zeros(count)
    used = np.zeros(count)
    for index in range(1, count):
        above = parent[index]
        start[index] = start[above] + used[above]
        used[above] += leaves[index]
    return np.asarray(2.0 * math.pi * (start + leaves / 2.0) / leaves[0], dtype=np.float64)


def draw_tree(
    view: TraceView,
    graph: TokenGraph,
    numbers: Mapping[int, int],
    *,
    radius: int | None = None,
    max_occurrences: int = 48,
    title: str = "",
) -> Image.Image:
    """Draw the PDS-tree of a head's graph.

    Parameters
    ----------
    view : TraceView
    graph : HeadGraph
    numbers : mapping of int to int
        Position -> number of the explaining set's unit.
    radius : int, optional
    max_occurrences : int
        The deepest rings are left out when there are more; the picture says so.
    title : str

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    tree = graph.tree
    nodes, depth = np.asarray(tree.node), np.asarray(tree.depth)
    shown, complete = shown_occurrences(depth, radius, max_occurrences)
    parent = np.asarray(tree.parent)[shown]  # breadth-first, so indices stay valid
    angles, level = leaf_angles(parent), depth[shown]
    members = node_members(graph)
    size = 50 if len(shown) <= 30 else 38
    rings = _ring_radii(level, angles, size)
    reach = (rings[-1] + size + 26) * _SCALE
    page = Image.new("RGB", (int(2 * reach), int(2 * reach)), PAPER)
    draw = ImageDraw.Draw(page)
    for ring in range(1, len(rings)):
        r = rings[ring] * _SCALE
        draw.ellipse((reach - r, reach - r, reach + r, reach + r), outline=FAINT, width=2)
    places = np.stack(
        [
            reach + np.asarray(rings)[level] * np.cos(angles - math.pi / 2) * _SCALE,
            reach + np.asarray(rings)[level] * np.sin(angles - math.pi / 2) * _SCALE,
        ],
        axis=1,
    )
    places[0] = (reach, reach)
    for index in range(1, len(shown)):
        hit = any(p in numbers for p in members[int(nodes[shown[index]])])
        ends = [tuple(places[parent[index]]), tuple(places[index])]
        draw.line(ends, fill=CAUSE if hit else "#87919b", width=6 if hit else 3)
    for index in range(len(shown) - 1, -1, -1):
        node = int(nodes[shown[index]])
        number = next((numbers[p] for p in members[node] if p in numbers), None)
        text = target_text(graph, node) if index == 0 else None
        picture = node_picture(view, members[node], number=number, target=text, size=size)
        corner = (
            round(places[index, 0] - picture.width / 2),
            round(places[index, 1] - picture.height / 2),
        )
        page.paste(picture, corner, picture)
    face = font(13 * _SCALE)
    for ring in range(1, len(rings)):
        r = rings[ring] * _SCALE
        gap, middle = _widest_gap(angles[level == ring])
        # A crowded ring has no room for its name: then it stands just inside.
        r -= 0 if gap * rings[ring] > size + 90 else (size / 2 + 22) * _SCALE
        spot = (reach + r * math.sin(middle), reach - r * math.cos(middle))
        text = f"radius {ring}"
        box = draw.textbbox(spot, text, font=face, anchor="mm")
        draw.rectangle((box[0] - 6, box[1] - 3, box[2] + 6, box[3] + 3), fill=PAPER)
        draw.text(spot, text, font=face, fill=MUTED, anchor="mm")
    half = page.resize((page.width // _SCALE, page.height // _SCALE), Image.Resampling.LANCZOS)
    return _with_notes(half, title, _sentence(nodes, depth, shown, complete, radius))


def _ring_radii(level: IntArray, angles: FloatArray, size: int) -> list[float]:
    """Return the radius of every ring: wide enough for neighbours on it to stand apart."""
    radii = [0.0]
    for ring in range(1, int(level.max()) + 1):
        around = np.sort(angles[level == ring])
        steps = np.diff(np.append(around, around[0] + 2 * math.pi)) if len(around) else [math.pi]
        nearest = min(float(np.min(steps)), math.pi)
        apart = (size + 40) / (2 * math.sin(nearest / 2))
        radii.append(max(radii[-1] + size + 52, apart))
    return radii


def _widest_gap(angles: FloatArray) -> tuple[float, float]:
    """Return width and middle of the widest gap between angles: there is room for a label."""
    around = np.sort(angles)
    steps = np.diff(np.append(around, around[0] + 2 * math.pi))
    widest = int(np.argmax(steps))
    return float(steps[widest]), float(around[widest] + steps[widest] / 2)


def _sentence(
    nodes: IntArray, depth: IntArray, shown: IntArray, complete: int, radius: int | None
) -> str:
    total, drawn = len(nodes) - 1, len(shown) - 1
    if total == 0:
        return "The PDS-tree is empty: the target has no neighbour in this graph."
    different = len(set(nodes[1:].tolist()))
    if total == 1:
        text = "One node is within reach"
    elif different == total:
        text = f"{total} nodes are within reach, each by one way"
    else:
        text = f"{different} different nodes occur {total} times, once per way to reach them"
    if drawn == total:
        text += "; all are shown." if total > 1 else "."
    elif complete:
        text += f"; {drawn} occurrences shown (all up to radius {complete})."
    else:
        text += f"; the first {drawn} are shown."
    return text + " Lines are steps of possible-d-sep paths; they carry no edge marks."


def _with_notes(image: Image.Image, title: str, note: str) -> Image.Image:
    width = max(image.width, 520)
    page = Image.new("RGB", (width, image.height), PAPER)
    page.paste(image, ((width - image.width) // 2, 0))
    parts = [caption(title, width)] if title else []
    return stack([*parts, page, caption(note, width, size=14, bold=False)])
