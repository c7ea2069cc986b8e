"""The lines of the edges of a graph on an image: past circles, marks and each other.

1. Edges between words, and from words to the target, have one way each: an arc at the right of the
   column, a quarter of an arch at its left.
2. The others choose, one after another, among curves with different bends the one that costs
   least: nearness to circles it does not belong to, to marks and to edges that lie already, leaving
   the panel, and bending.

Lengths are points; y points down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from causal_lvlm.arrays import FloatArray

__all__ = ["MARK", "Spot", "Way", "find_routes"]

MARK = 8.0  # length of an arrowhead, width of a circle
_BENDS = (0.0, 0.1, -0.1, 0.2, -0.2, 0.33, -0.33, 0.5, -0.5)
_SAMPLES = np.linspace(0.0, 1.0, 61)[:, None]


class Spot(NamedTuple):
    """A node: ``patch`` (a circle, `half` its radius twice), ``word`` or ``target`` (boxes)."""

    kind: str
    middle: FloatArray
    half: FloatArray
    text: str = ""


class Way(NamedTuple):
    """An edge: entry in the graph's list, and its line from border to border of its nodes."""

    edge: int
    line: FloatArray


def find_routes(
    spots: Mapping[int, Spot], edges: Sequence[tuple[int, int]],
    ports: Mapping[tuple[int, int], FloatArray], rank: Mapping[int, int],
) -> list[Way]:  # fmt: skip
    """Return the ways of all edges; those that cannot choose, and short ones, come first.

    Parameters
    ----------
    spots : mapping of int to Spot
        By node; one of them is the target.
    edges : sequence of (int, int)
    ports : mapping
        Where the edge from a node to another ends, by both; a circle has no such places.
    rank : mapping of int to int
        Places of the words in their column.
    """
    found: dict[int, Way] = {}
    laid = np.empty((0, 2))
    marks = np.empty((0, 2))
    bar = next(spot for spot in spots.values() if spot.kind == "target")
    ground = (-6.0, 0.0, 2 * float(bar.middle[0]), float(bar.middle[1] - bar.half[1]))

    def length(at: int) -> tuple[bool, float]:
        i, j = edges[at]
        free = "patch" in (spots[i].kind, spots[j].kind)
        return free, float(np.hypot(*(spots[i].middle - spots[j].middle)))

    for at in sorted(range(len(edges)), key=length):
        i, j = edges[at]
        options = [_trimmed(line, spots[i], spots[j]) for line in _curves(spots, i, j, ports, rank)]
        others = [s for n, s in spots.items() if s.kind == "patch" and n not in (i, j)]
        costs = [
            0.05 * k + _cost(line, others, marks, laid, ground) if len(options) > 1 else 0.0
            for k, line in enumerate(options)
        ]
        line = options[int(np.argmin(costs))]
        found[at] = Way(at, line)
        marks = np.concatenate([marks, _marks_of(line)])
        laid = np.concatenate([laid, line[::3]])
    return [found[at] for at in sorted(found)]


def _curves(
    spots: Mapping[int, Spot], i: int, j: int, ports: Mapping[tuple[int, int], FloatArray],
    rank: Mapping[int, int],
) -> list[FloatArray]:  # fmt: skip
    """Return the lines an edge may take, from i to j, the straightest first."""
    a, b = ports.get((i, j), spots[i].middle), ports.get((j, i), spots[j].middle)
    kinds = (spots[i].kind, spots[j].kind)
    if kinds == ("word", "word"):
        bulge = np.array([4 / 3 * min(64.0, 12.0 + 7.0 * abs(rank[i] - rank[j])), 0.0])
        return [_bezier(a, a + bulge, b + bulge, b)]
    if set(kinds) == {"word", "target"}:
        chip, bar = (a, b) if kinds[0] == "word" else (b, a)
        corner = np.array([bar[0], chip[1]])
        return [_bezier(a, (a + 2 * corner) / 3, (b + 2 * corner) / 3, b)]
    step = b - a
    normal = np.array([step[1], -step[0]])
    ends = [a + step / 3, b - step / 3]
    for k, (kind, place) in enumerate(zip(kinds, (a, b), strict=True)):
        if kind == "target":
            ends[k] = place - np.array([0.0, 0.4 * abs(step[1])])
        elif kind == "word":
            ends[k] = place - np.array([min(40.0, 0.4 * abs(step[0])), 0.0])
    found = []
    longest = min(1.0, 160.0 / max(float(np.hypot(*step)), 1e-9))
    for bend in _BENDS:
        first, second = (
            end + (longest * bend * normal if kind == "patch" else 0.0)
            for kind, end in zip(kinds, ends, strict=True)
        )
        found.append(_bezier(a, first, second, b))
    return found


def _bezier(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    t = _SAMPLES
    return (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d


def _trimmed(line: FloatArray, first: Spot, second: Spot) -> FloatArray:
    """Return the part of a line outside of the circles at its ends."""
    keep = np.ones(len(line), dtype=np.bool_)
    for spot in (first, second):
        if spot.kind == "patch":
            keep &= np.hypot(*(line - spot.middle).T) > spot.half[0] + 1.5
    return line[keep] if keep.sum() >= 4 else line[len(line) // 3 : -(len(line) // 3)]


def _marks_of(line: FloatArray) -> FloatArray:
    """Return the middles of the marks at both ends of a line."""
    found = []
    for way in (line, line[::-1]):
        far = np.flatnonzero(np.hypot(*(way - way[0]).T) >= MARK / 2)
        found.append(way[far[0]] if len(far) else way[0])
    return np.array(found)


def _near(points: FloatArray, others: FloatArray) -> FloatArray:
    """Return the distance of every point to the nearest of the others."""
    if not len(others):
        return np.full(len(points), np.inf)
    apart = points[:, None] - others[None]
    return np.asarray(np.sqrt((apart**2).sum(axis=2).min(axis=1)), dtype=np.float64)


def _cost(
    line: FloatArray, others: Sequence[Spot], marks: FloatArray, laid: FloatArray,
    ground: tuple[float, float, float, float],
) -> float:  # fmt: skip
    ends = _marks_of(line)
    left, top, right, bottom = ground
    (x, y), (low, high) = line.max(axis=0), line.min(axis=0)
    beyond = max(0.0, left - low, top - high, x - right, y - bottom)
    cost = 2.0 + beyond / 5.0 if beyond else 0.0
    for spot in others:
        apart = float(np.hypot(*(line - spot.middle).T).min()) - spot.half[0]
        cost += 3.0 * max(0.0, 1.0 - max(apart, 0.0) / 5.0)
    room = MARK + 1.0
    cost += 3.0 * float(np.maximum(0.0, 1.0 - _near(ends, marks) / room).sum())
    cost += 1.5 * float(np.maximum(0.0, 1.0 - _near(ends, laid) / (room / 2)).sum())
    if len(marks):
        cost += 1.5 * float(np.maximum(0.0, 1.0 - _near(marks, line) / (room / 2)).sum())
    return cost + 6.0 * float((_near(line, laid) < 3.0).mean())
