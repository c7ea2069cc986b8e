"""The PAG around a target, drawn with the marks that carry its meaning.

1. `choose_nodes` picks what is shown (see `causal_lvlm.viz.nodes`).
2. Every edge between two shown nodes is drawn once, with a mark at each end: ``marks[i, j]`` is the
   mark at j (1 circle, 2 arrowhead, 3 tail), so the line i–j carries ``marks[j, i]`` at i.
3. Graphviz lays out and draws; where pygraphviz or Graphviz is missing, networkx lays out and
   matplotlib draws the same marks.
4. Below the picture stand what was left out and what the marks mean.

References
----------
Zhang, J. (2008). On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias. Artificial Intelligence 172: section 2 (marks of a PAG).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from causal_lvlm.arrays import FloatArray, UInt8Array
from causal_lvlm.errors import StructureError, quoted
from causal_lvlm.viz.marks import ARROW, CIRCLE, EDGE, TAIL, legend
from causal_lvlm.viz.nodes import (
    NodeChoice,
    TokenGraph,
    choose_nodes,
    node_members,
    node_picture,
    target_text,
)
from causal_lvlm.viz.style import PAPER, TARGET, caption, stack
from causal_lvlm.viz.view import TraceView

__all__ = [
    "Edge",
    "agraph",
    "check_confidence",
    "draw_graph",
    "edges_between",
    "line_width",
]

logger = logging.getLogger(__name__)

_GRAPHVIZ_MARK = {CIRCLE: "odot", ARROW: "normal", TAIL: "none"}
THINNEST, THICKEST = 0.7, 3.6  # lines of confidence 0 and 1


class Edge(NamedTuple):
    """One edge: its nodes (first < second) and the mark at each of them."""

    first: int
    second: int
    mark_first: int
    mark_second: int


def edges_between(marks: UInt8Array, nodes: tuple[int, ...]) -> list[Edge]:
    """Return the edges among some nodes; ``marks[i, j]`` is the mark at j."""
    return [
        Edge(i, j, int(marks[j, i]), int(marks[i, j]))
        for at, i in enumerate(nodes)
        for j in nodes[at + 1 :]
        if marks[i, j] or marks[j, i]
    ]


def draw_graph(
    view: TraceView,
    graph: TokenGraph,
    numbers: Mapping[int, int],
    *,
    radius: int | None = None,
    max_nodes: int = 24,
    title: str = "",
    engine: str = "auto",
    confidence: npt.ArrayLike | None = None,
    confidence_label: str = "confidence of the edge, 0 to 1",
) -> Image.Image:
    """Draw the PAG of one head around its target.

    Parameters
    ----------
    view : TraceView
    graph : HeadGraph or TokenUnion
    numbers : mapping of int to int
        Position -> number of the explaining set's unit.
    radius : int, optional
        Depth of the PDS-tree to be shown; by default as far as `max_nodes` allows.
    max_nodes : int
    title : str
    engine : {"auto", "graphviz", "networkx"}
        ``"auto"`` takes Graphviz if it works here.
    confidence : array_like of shape (N, N), optional
        Between 0 and 1 for every pair of nodes of the graph: drawn as thickness and as a number.
    confidence_label : str
        What the confidence is, said below the picture.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    ValueError
        If `engine` is unknown.
    StructureError
        If the confidence does not fit the graph.
    """
    if engine not in ("auto", "graphviz", "networkx"):
        raise ValueError(f"engine must be 'auto', 'graphviz' or 'networkx', got {quoted(engine)}")
    choice = choose_nodes(graph, numbers, radius=radius, max_nodes=max_nodes)
    edges = edges_between(graph.structure.pag.marks, choice.nodes)
    pictures = node_pictures(view, graph, choice, numbers)
    strength: dict[tuple[int, int], float] = {}
    if confidence is not None:
        sure = check_confidence(confidence, len(graph.positions))
        strength = {(e.first, e.second): float(sure[e.first, e.second]) for e in edges}
    drawn: Image.Image | None = None
    if engine != "networkx":
        try:
            drawn = _with_graphviz(pictures, edges, int(graph.target_node), strength)
        except (ImportError, OSError, ValueError) as error:
            if engine == "graphviz":
                raise
            logger.info("Graphviz is not usable here (%s); networkx lays out the graph", error)
    if drawn is None:
        from causal_lvlm.viz.fallback import draw_with_networkx

        drawn = draw_with_networkx(pictures, edges, int(graph.target_node), strength)
    drawn = _at_least(drawn, 640)
    parts = [caption(title, drawn.width)] if title else []
    said = choice.sentence()
    if strength:
        said += f" Thickness and number of a line: {confidence_label}."
    parts += [drawn, caption(said, drawn.width, size=14, bold=False)]
    return stack([*parts, legend(drawn.width, view.has_patches)])


def node_pictures(
    view: TraceView, graph: TokenGraph, choice: NodeChoice, numbers: Mapping[int, int]
) -> dict[int, Image.Image]:
    """Return the picture of every chosen node."""
    members = node_members(graph)
    pictures = {}
    for node in choice.nodes:
        number = next((numbers[p] for p in members[node] if p in numbers), None)
        text = target_text(graph, node)
        pictures[node] = node_picture(view, members[node], number=number, target=text)
    return pictures


def check_confidence(given: npt.ArrayLike, n: int) -> FloatArray:
    """Return a confidence per pair of n nodes, float64 of shape (n, n).

    Raises
    ------
    StructureError
        If the shape is another one, it is not symmetric, or a number is not between 0 and 1.
    """
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (n, n):
        raise StructureError(
            f"confidence has shape {values.shape}; a graph of {n} nodes needs ({n}, {n})"
        )
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > 1:
        raise StructureError("confidence must hold numbers between 0 and 1")
    if not np.allclose(values, values.T):
        raise StructureError("confidence must be symmetric: one number for each pair")
    return values


def line_width(share: float) -> float:
    """Return the thickness of an edge by its confidence."""
    return THINNEST + (THICKEST - THINNEST) * share


def agraph(
    nodes: Mapping[int, Mapping[str, str]],
    edges: list[Edge],
    target: int,
    strength: Mapping[tuple[int, int], float] | None = None,
) -> Any:
    """Return the graph as pygraphviz knows it; every edge has ``dir=both`` and a mark per end.

    Parameters
    ----------
    nodes : mapping of int to mapping of str to str
        Graphviz attributes of every node.
    edges : list of Edge
    target : int
        Placed at the bottom.
    strength : mapping of (int, int) to float, optional
        Confidence of the edges that have one.
    """
    import pygraphviz

    graph = pygraphviz.AGraph(strict=True, directed=True)
    graph.graph_attr.update(
        rankdir="TB", nodesep="0.28", ranksep="0.62", splines="true", outputorder="edgesfirst",
        dpi="96", pad="0.15", bgcolor="white",
    )  # fmt: skip
    graph.edge_attr.update(dir="both", color=EDGE, penwidth="1.5", arrowsize="0.85")
    for node, attributes in nodes.items():
        graph.add_node(str(node), **attributes)
    for edge in edges:
        touches = target in (edge.first, edge.second)
        graph.add_edge(
            str(edge.first),
            str(edge.second),
            arrowtail=_GRAPHVIZ_MARK[edge.mark_first],
            arrowhead=_GRAPHVIZ_MARK[edge.mark_second],
            color=TARGET if touches else EDGE,
        )
        share = (strength or {}).get((edge.first, edge.second))
        if share is not None:
            graph.get_edge(str(edge.first), str(edge.second)).attr.update(
                penwidth=f"{line_width(share):.2f}", label=f"{share:.2f}", fontsize="11",
                fontname="DejaVu Sans",
            )  # fmt: skip
    return graph


def _with_graphviz(
    pictures: Mapping[int, Image.Image],
    edges: list[Edge],
    target: int,
    strength: Mapping[tuple[int, int], float] | None = None,
) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        nodes = {}
        for node, picture in pictures.items():
            path = Path(folder) / f"{node}.png"
            picture.save(path)
            # Pictures have two pixels per shown pixel, and 96 shown pixels make an inch.
            nodes[node] = {
                "label": "",
                "shape": "box",
                "penwidth": "0",
                "margin": "0",
                "image": str(path),
                "imagescale": "true",
                "fixedsize": "true",
                "width": f"{picture.width / 192:.3f}",
                "height": f"{picture.height / 192:.3f}",
            }
        graph = agraph(nodes, edges, target, strength)
        out = Path(folder) / "graph.png"
        graph.draw(str(out), format="png", prog="dot")
        with Image.open(out) as image:
            return image.convert("RGB")


def _at_least(image: Image.Image, width: int) -> Image.Image:
    """Centre a narrow drawing on a page that has room for the legend."""
    if image.width >= width:
        return image
    page = Image.new("RGB", (width, image.height), PAPER)
    page.paste(image, ((width - image.width) // 2, 0))
    return page
