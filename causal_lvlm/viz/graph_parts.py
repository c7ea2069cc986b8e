"""What pictures of a whole graph and of a difference share: reading, cutting, laying out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from causal_lvlm.arrays import FloatArray, UInt8Array
from causal_lvlm.errors import StructureError
from causal_lvlm.structure import PAG
from causal_lvlm.viz.graph_figure import LegendItem, Line, box_size, draw_page, save_figure
from causal_lvlm.viz.graph_layout import place_graph
from causal_lvlm.viz.marks import ARROW, MARK_MEANING, TAIL
from causal_lvlm.viz.style import figure_image

__all__ = [
    "Drawable",
    "NamedGraph",
    "readable_nodes",
    "finish",
    "graph_page",
    "linked_pairs",
    "mark_legend",
    "named_graph",
]


@runtime_checkable
class HasPAG(Protocol):
    """What was learned: a graph, perhaps with ``names`` (or ``ids``) and ``kind``."""

    @property
    def pag(self) -> PAG:
        """The graph."""


Drawable: TypeAlias = HasPAG | PAG | npt.ArrayLike


class NamedGraph(NamedTuple):
    """Marks, uint8 (N, N) in pcalg coding, with a name for every node and the kind of graph."""

    marks: UInt8Array
    names: tuple[str, ...]
    kind: str


def named_graph(structure: Drawable, names: Sequence[str] | None) -> NamedGraph:
    """Read marks, names and kind from whatever was given."""
    found = structure.pag if isinstance(structure, HasPAG) else structure
    marks = found.marks if isinstance(found, PAG) else PAG(np.asarray(found)).marks
    given = names
    for attribute in ("names", "ids"):
        given = getattr(structure, attribute, None) if given is None else given
    if given is None:
        given = [str(node) for node in range(len(marks))]
    if len(given) != len(marks):
        raise StructureError(f"{len(given)} names were given for {len(marks)} nodes")
    kind = str(getattr(structure, "kind", "pag"))
    return NamedGraph(marks, tuple(str(n) for n in given), "cpdag" if kind == "cpdag" else "pag")


def linked_pairs(marks: UInt8Array, shown: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs of shown nodes that have an edge, each once."""
    return [(i, j) for at, i in enumerate(shown) for j in shown[at + 1 :] if marks[i, j]]


def readable_nodes(
    marks: UInt8Array,
    weight: FloatArray | None,
    centre: int | None,
    max_nodes: int,
    max_edges: int,
) -> list[int]:
    """Return the nodes to be shown, ascending: all, or as many as can be read.

    Around a node by distance, otherwise by the weight of a node's edges (without weights their
    number); ties by node number.
    """
    n = len(marks)
    linked = marks > 0
    if n <= max_nodes and np.count_nonzero(linked) // 2 <= max_edges:
        return list(range(n))
    strength = (linked if weight is None else linked * weight).sum(axis=1)
    key = np.stack([-strength, -linked.sum(axis=1).astype(np.float64)], axis=1)
    if centre is not None:
        key[:, 0] = _distances(linked, centre)
    order = sorted(range(n), key=lambda node: (*key[node], node))
    chosen: list[int] = []
    edges = 0
    for node in order:
        more = int(np.count_nonzero(linked[node, chosen]))
        full = len(chosen) == max_nodes or (chosen and edges + more > max_edges)
        if full or np.isinf(key[node, 0]):
            break
        chosen.append(node)
        edges += more
    return sorted(chosen)


def _distances(linked: npt.NDArray[np.bool_], centre: int) -> FloatArray:
    """Return the number of edges on the shortest path from a node to each other."""
    distance = np.full(len(linked), np.inf)
    front = np.zeros(len(linked), dtype=bool)
    front[centre] = True
    step = 0
    while front.any():
        distance[front] = step
        front = linked[front].any(axis=0) & np.isinf(distance)
        step += 1
    return distance


def mark_legend(kind: str) -> list[LegendItem]:
    """Return what the marks of this kind of graph mean, one line each."""
    if kind == "cpdag":
        return [
            LegendItem(Line(0, 1, TAIL, ARROW), "arrow: from cause to effect"),
            LegendItem(Line(0, 1, TAIL, TAIL), "no arrowhead: direction not determined"),
        ]
    return [LegendItem(Line(0, 1, TAIL, mark), text) for mark, text in MARK_MEANING]


def _downward(line: Line) -> tuple[int, int]:
    """Return the nodes of a line with the one at the arrowhead last, so that causes stand above."""
    if line.mark_first == ARROW and line.mark_second != ARROW:
        return line.second, line.first
    return line.first, line.second


def graph_page(
    graph: NamedGraph,
    shown: Sequence[int],
    lines: Sequence[Line],
    engine: str,
    program: str,
    centre: int | None,
    title: str,
    notes: Sequence[str],
    legend: Sequence[LegendItem],
) -> Figure:
    """Draw the shown nodes and lines with title, notes and legend."""
    names = {node: graph.names[node] for node in shown}
    sizes = {node: box_size(name) for node, name in names.items()}
    placed = place_graph(sizes, [_downward(li) for li in lines], engine=engine, program=program)
    framed = () if centre is None else (centre,)
    return draw_page(placed, names, lines, framed=framed, title=title, notes=notes, legend=legend)


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Image.Image:
    """Save the figure where a path is given, and return it as a picture."""
    if path is not None:
        save_figure(figure, path)
    return figure_image(figure)
