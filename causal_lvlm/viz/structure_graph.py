"""Picture of a whole (small) graph.

1. A graph that is too large to be read is cut, to the surroundings of a node or to the nodes with
   the strongest edges, and the picture says what it leaves out.
2. Every edge is one line with a mark at each end. With a confidence, its thickness and a number
   say how sure the edge is.

References
----------
Zhang, J. (2008). On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias. Artificial Intelligence 172: section 2 (marks of a PAG).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import StructureError
from causal_lvlm.structure.aggregate import UnionGraph
from causal_lvlm.structure.stability_result import EdgeStability
from causal_lvlm.viz.graph import check_confidence, line_width
from causal_lvlm.viz.graph_figure import LegendItem, Line
from causal_lvlm.viz.graph_parts import (
    Drawable,
    NamedGraph,
    finish,
    graph_page,
    linked_pairs,
    mark_legend,
    named_graph,
    readable_nodes,
)
from causal_lvlm.viz.marks import EDGE, TAIL

__all__ = ["draw_structure"]


def draw_structure(
    structure: Drawable,
    *,
    names: Sequence[str] | None = None,
    confidence: npt.ArrayLike | EdgeStability | UnionGraph | None = None,
    confidence_label: str = "",
    around: int | str | None = None,
    max_nodes: int = 60,
    max_edges: int = 140,
    engine: str = "auto",
    layout: str = "auto",
    title: str = "",
    path: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw a PAG or a CPDAG.

    Parameters
    ----------
    structure : LearnedStructure, PAG, UnionGraph, or any object with an attribute ``pag``
        Its ``names`` (or ``ids``) and ``kind`` (``"pag"`` or ``"cpdag"``) are used if it has
        them.
    names : sequence of str, optional
        Text of each node; by default the structure's own, or the node numbers.
    confidence : array_like of shape (N, N), EdgeStability or UnionGraph, optional
        Between 0 and 1 for each edge, symmetric: drawn as thickness and as a number. NaN is
        unknown: the thinnest line, without a number.
    confidence_label : str, optional
        What the confidence is, for the legend.
    around : int or str, optional
        A node (number or name): it is framed, and a graph that must be cut is cut to the nodes
        nearest to it.
    max_nodes, max_edges : int
        A picture with more of either cannot be read.
    engine : {"auto", "graphviz", "networkx"}
        ``"auto"`` takes Graphviz if it works here.
    layout : {"auto", "spread", "dot", "neato", "fdp", "sfdp", "circo", "twopi"}
        Layout program of Graphviz, see `causal_lvlm.viz.graph_layout.place_graph`.
    title : str
    path : path-like, optional
        Also write the picture there: PNG, SVG or PDF by its ending.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    StructureError
        If names or confidence do not fit the graph, or `around` is no node.
    ValueError
        If `engine` or `layout` is unknown.
    OutputError
        If `path` has another ending, or cannot be written.

    Examples
    --------
    >>> from causal_lvlm.structure import PAG
    >>> pag = PAG([[0, 2, 0], [3, 0, 2], [0, 1, 0]])
    >>> image = draw_structure(pag, names=["smoking", "tar", "cough"], engine="networkx")
    >>> image.mode
    'RGB'
    """
    graph = named_graph(structure, names)
    sure, meaning = _confidence(confidence, confidence_label, len(graph.marks))
    centre = _node(graph, around)
    weight = None if sure is None else np.nan_to_num(sure)
    shown = readable_nodes(graph.marks, weight, centre, max_nodes, max_edges)
    lines = [
        Line(i, j, int(graph.marks[j, i]), int(graph.marks[i, j]), **_strength(sure, i, j))
        for i, j in linked_pairs(graph.marks, shown)
    ]
    notes = [_left_out(graph, lines, shown, centre, sure is not None)]
    legend = mark_legend(graph.kind)
    if sure is not None:
        sample = Line(0, 1, TAIL, TAIL, EDGE, "solid", line_width(1.0), "0.9")
        legend.append(LegendItem(sample, f"thickness and number: {meaning}"))
        if any(np.isnan(sure[i, j]) for i, j in linked_pairs(graph.marks, shown)):
            thin = Line(0, 1, TAIL, TAIL, EDGE, "solid", line_width(0.0))
            legend.append(LegendItem(thin, "no number: unknown"))
    if centre is not None:
        legend.append(LegendItem("frame", "the node the picture is about"))
    figure = graph_page(graph, shown, lines, engine, layout, centre, title, notes, legend)
    return finish(figure, path)


def _confidence(
    given: npt.ArrayLike | EdgeStability | UnionGraph | None, label: str, n: int
) -> tuple[FloatArray | None, str]:
    """Check a confidence, NaN where it is unknown; return it with what it means."""
    if given is None:
        return None, ""
    if isinstance(given, EdgeStability):
        label = label or f"share of {given.n_runs} resampled runs with this edge"
        given = given.edge_frequency
    elif isinstance(given, UnionGraph):
        label = label or f"weighted share of {given.n_graphs} graphs with this edge"
        given = given.confidence
    values = np.asarray(given, dtype=np.float64)
    unknown = np.isnan(values)
    known = check_confidence(np.where(unknown, 0.0, values), n)
    if (unknown != unknown.T).any():
        raise StructureError("confidence must be symmetric: NaN stands at one end of a pair only")
    return np.where(unknown, np.nan, known), label or "confidence of the edge, 0 to 1"


def _node(graph: NamedGraph, around: int | str | None) -> int | None:
    if around is None:
        return None
    if isinstance(around, str):
        if around not in graph.names:
            raise StructureError(f"no node is called {around!r}; names: {', '.join(graph.names)}")
        return graph.names.index(around)
    if not 0 <= int(around) < len(graph.names):
        raise StructureError(f"there is no node {around}; nodes are 0..{len(graph.names) - 1}")
    return int(around)


def _strength(sure: FloatArray | None, i: int, j: int) -> dict[str, Any]:
    if sure is None:
        return {}
    share = float(sure[i, j])
    if np.isnan(share):
        return {"width": line_width(0.0)}
    return {"width": line_width(share), "label": f"{share:.2f}"}


def _left_out(
    graph: NamedGraph,
    lines: Sequence[Line],
    shown: Sequence[int],
    centre: int | None,
    weighed: bool,
) -> str:
    n, edges = len(graph.marks), int(np.count_nonzero(graph.marks)) // 2
    if len(shown) == n:
        return f"{n} nodes, {edges} edges."
    rule = "those with most edges"
    if weighed:
        rule = "those whose edges have most confidence together"
    if centre is not None:
        rule = f"those nearest to {graph.names[centre]}"
    return (
        f"{len(shown)} of {n} nodes shown, {rule}, and the {len(lines)} of {edges} edges between "
        "them; more would not be readable."
    )
