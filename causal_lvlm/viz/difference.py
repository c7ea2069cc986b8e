"""What differs between two graphs over the same nodes, in one picture.

An edge is drawn once: as in both, with other marks, only in the first, only in the second. Colour
and line style say which, so that the picture can be read without colours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from causal_lvlm.arrays import UInt8Array
from causal_lvlm.errors import StructureError
from causal_lvlm.structure.marks import check_kind
from causal_lvlm.structure.pag import PAG
from causal_lvlm.viz.graph_figure import LegendItem, Line
from causal_lvlm.viz.graph_parts import (
    Drawable,
    finish,
    graph_page,
    linked_pairs,
    mark_legend,
    named_graph,
    readable_nodes,
)
from causal_lvlm.viz.marks import TAIL
from causal_lvlm.viz.style import CAUSE, TARGET

__all__ = ["draw_difference"]

_CHANGED = "#a8438a"


def draw_difference(
    learned: Drawable,
    truth: Drawable,
    *,
    names: Sequence[str] | None = None,
    max_nodes: int = 60,
    max_edges: int = 140,
    engine: str = "auto",
    layout: str = "auto",
    title: str = "",
    learned_name: str = "learned",
    truth_name: str = "true",
    path: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw what differs between two graphs over the same nodes.

    An edge in both with the same marks is grey and solid; in both with other marks purple and
    dash-dotted, with the marks of the first graph, and where the second differs its mark in a
    little box beside that end; only in the first orange and dashed; only in the second blue and
    dotted.

    Parameters
    ----------
    learned, truth : LearnedStructure, PAG, or any object with an attribute ``pag``
        Nodes are matched by number. A graph that does not say its kind takes the other's.
    names : sequence of str, optional
    max_nodes, max_edges : int
        A union of both graphs larger than that is cut: edges that differ are kept first.
    engine, layout, title, path
        See `draw_structure`.
    learned_name, truth_name : str
        What the two graphs are called in the legend.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    StructureError
        If the graphs differ in their number of nodes or in their kind, a graph that does not say
        its kind cannot be of the other's, or names do not fit.
    ValueError, OutputError
        As `draw_structure`.
    """
    first, second = named_graph(learned, names), named_graph(truth, None)
    if first.marks.shape != second.marks.shape:
        raise StructureError(
            f"the graphs have {len(first.marks)} and {len(second.marks)} nodes; a difference needs "
            "two graphs over the same nodes"
        )
    kinds = {getattr(g, "kind", None) for g in (learned, truth)} - {None}
    if len(kinds) > 1:
        raise StructureError(
            "one graph is a PAG and the other a CPDAG; the same mark means different things in "
            "them, so a difference of the two would mislead"
        )
    kind = str(kinds.pop()) if kinds else "pag"
    for graph in (first, second):
        check_kind(PAG(graph.marks), kind)
    union = np.where(first.marks > 0, first.marks, second.marks)
    differs = ((first.marks != second.marks) | (first.marks != second.marks).T).astype(np.float64)
    shown = readable_nodes(union, differs, None, max_nodes, max_edges)
    lines, count = [], {"same": 0, "changed": 0, "extra": 0, "missing": 0}
    for i, j in linked_pairs(union, shown):
        what, line = _difference(first.marks, second.marks, i, j)
        lines.append(line)
        count[what] += 1
    notes = [
        f"{count['same']} edges the same, {count['changed']} with other marks, "
        f"{count['extra']} only in “{learned_name}”, "
        f"{count['missing']} only in “{truth_name}”.",
    ]
    if len(shown) < len(union):
        notes.append(
            f"Cut to {len(shown)} of {len(union)} nodes, those with most differences: "
            f"{len(lines)} of {np.count_nonzero(union) // 2} edges are counted above; more would "
            "not be readable."
        )
    legend = [
        LegendItem(Line(0, 1, TAIL, TAIL), "in both"),
        LegendItem(Line(0, 1, TAIL, TAIL, _CHANGED, "dashdot", 1.8), "in both, other marks"),
        LegendItem("box", f"mark at this end in “{truth_name}”"),
        LegendItem(Line(0, 1, TAIL, TAIL, CAUSE, "dashed", 1.8), f"only in “{learned_name}”"),
        LegendItem(Line(0, 1, TAIL, TAIL, TARGET, "dotted", 2.0), f"only in “{truth_name}”"),
        *mark_legend(kind),
    ]
    figure = graph_page(first, shown, lines, engine, layout, None, title, notes, legend)
    return finish(figure, path)


def _difference(learned: UInt8Array, truth: UInt8Array, i: int, j: int) -> tuple[str, Line]:
    mine, other = (int(learned[j, i]), int(learned[i, j])), (int(truth[j, i]), int(truth[i, j]))
    if not mine[0]:
        return "missing", Line(i, j, *other, TARGET, "dotted", 2.0)
    if not other[0]:
        return "extra", Line(i, j, *mine, CAUSE, "dashed", 1.8)
    if mine == other:
        return "same", Line(i, j, *mine)
    boxed = [b if a != b else 0 for a, b in zip(mine, other, strict=True)]
    return "changed", Line(i, j, *mine, _CHANGED, "dashdot", 1.8, "", *boxed)
