"""Where the boxes and lines of a whole graph go; what is drawn there is somebody else's matter.

1. Small sparse graphs are laid out in layers by Graphviz (``dot``), others by Kamada and Kawai's
   method (1989); in both, Graphviz bends the lines around boxes. Where it is missing, the second
   layout is used for all, with straight lines.
2. Nodes without an edge stand in rows below.

All lengths are points (1/72 inch), y up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import quoted
from causal_lvlm.viz.fallback import edge_end, place_boxes
from causal_lvlm.viz.graph import Edge

__all__ = ["ENGINES", "PROGRAMS", "GraphLayout", "place_graph"]

logger = logging.getLogger(__name__)

ENGINES = ("auto", "graphviz", "networkx")
PROGRAMS = ("auto", "spread", "dot", "neato", "fdp", "sfdp", "circo", "twopi")
_SAMPLES = 16  # points per Bezier piece
_GAP = 14.0
_DENSE = 2.0  # edges per node from which layers hold more crossings than they explain
_LARGE = 26  # nodes from which layers become too wide
_ROOM = (175.0, 110.0)
_APART = 26.0  # two marks fit between boxes


class GraphLayout(NamedTuple):
    """Geometry of a drawing.

    Attributes
    ----------
    places : dict of int to ndarray of shape (2,)
        Centre of every box.
    curves : dict of (int, int) to ndarray of shape (K, 2)
        Points of every line, from the border of the first node's box to the second's.
    width, height : float
    engine : str
        ``"graphviz"`` or ``"networkx"``, the one that was used.
    """

    places: dict[int, FloatArray]
    curves: dict[tuple[int, int], FloatArray]
    width: float
    height: float
    engine: str


def place_graph(
    sizes: Mapping[int, FloatArray],
    pairs: Sequence[tuple[int, int]],
    *,
    engine: str = "auto",
    program: str = "auto",
) -> GraphLayout:
    """Lay out a graph.

    Parameters
    ----------
    sizes : mapping of int to ndarray of shape (2,)
        Width and height of every node's box.
    pairs : sequence of (int, int)
        The lines; layered layouts put the first node of a pair above the second.
    engine : {"auto", "graphviz", "networkx"}
        ``"auto"`` takes Graphviz if it works here.
    program : {"auto", "spread", "dot", "neato", "fdp", "sfdp", "circo", "twopi"}
        Of Graphviz, or ``"spread"`` (Kamada and Kawai). ``"auto"`` is ``dot`` (layers) for small
        sparse graphs, else ``spread``.

    Returns
    -------
    GraphLayout

    Raises
    ------
    ValueError
        If `engine` or `program` is unknown.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {quoted(engine)}")
    if program not in PROGRAMS:
        raise ValueError(f"layout must be one of {', '.join(PROGRAMS)}; got {quoted(program)}")
    linked = sorted({node for pair in pairs for node in pair})
    places: dict[int, FloatArray] = {}
    curves: dict[tuple[int, int], FloatArray] = {}
    used = "networkx" if engine == "networkx" else "graphviz"
    if linked and engine != "networkx":
        try:
            places, curves = _with_graphviz(sizes, linked, pairs, program)
        except (ImportError, OSError, ValueError) as error:
            if engine == "graphviz":
                raise
            logger.info("Graphviz is not usable here (%s); networkx lays out the graph", error)
            used = "networkx"
    if linked and not places:
        places, curves = _with_networkx({n: sizes[n] for n in linked}, pairs)
    return _with_rows(places, curves, sizes, used)


def _with_graphviz(
    sizes: Mapping[int, FloatArray],
    linked: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    program: str,
) -> tuple[dict[int, FloatArray], dict[tuple[int, int], FloatArray]]:
    import pygraphviz

    if program == "auto":
        layered = len(linked) < _LARGE and len(pairs) <= _DENSE * len(linked)
        program = "dot" if layered else "spread"
    fixed = _spread({n: sizes[n] for n in linked}, pairs) if program == "spread" else {}
    graph = pygraphviz.AGraph(strict=True, directed=True)
    graph.graph_attr.update(
        rankdir="TB", nodesep="0.32", ranksep="0.75", splines="true", overlap="scalexy", sep="+14",
        esep="+4", mode="major", start="1",
    )  # fmt: skip
    # Lines run from border to border; the marks are drawn by us, on top.
    graph.edge_attr.update(dir="none", len="1.5")
    for node in linked:
        width, height = (float(v) / 72 for v in sizes[node])
        graph.add_node(
            str(node), shape="box", label="", fixedsize="true",
            width=f"{width:.4f}", height=f"{height:.4f}",
        )  # fmt: skip
        if node in fixed:
            graph.get_node(str(node)).attr["pos"] = f"{fixed[node][0]:.3f},{fixed[node][1]:.3f}"
    for first, second in pairs:
        graph.add_edge(str(first), str(second))
    if fixed:
        # Places are taken as they are; only lines are routed.
        graph.graph_attr["overlap"] = "true"
        graph.layout(prog="nop")
    else:
        graph.layout(prog=program)
    places = {n: _point(graph.get_node(str(n)).attr["pos"]) for n in linked}
    curves = {}
    for first, second in pairs:
        curve = _bezier(graph.get_edge(str(first), str(second)).attr["pos"])
        if np.hypot(*(curve[0] - places[first])) > np.hypot(*(curve[-1] - places[first])):
            curve = curve[::-1]
        curves[first, second] = curve
    return places, curves


def _point(text: str) -> FloatArray:
    return np.array([float(v) for v in text.rstrip("!").split(",")[:2]])


def _bezier(text: str) -> FloatArray:
    """Return points on a line as Graphviz writes it: a start, then three points per piece."""
    first = text.split(";")[0].split()
    points = np.array([_point(item) for item in first if item[0] not in "es"])
    t = np.linspace(0.0, 1.0, _SAMPLES + 1)[1:, None]
    parts = [points[:1]]
    for at in range(0, len(points) - 1, 3):
        a, b, c, d = points[at : at + 4]
        parts.append(
            (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        )
    return np.concatenate(parts)


def _with_networkx(
    sizes: Mapping[int, FloatArray], pairs: Sequence[tuple[int, int]]
) -> tuple[dict[int, FloatArray], dict[tuple[int, int], FloatArray]]:
    places = _spread(sizes, pairs)
    curves = {}
    for first, second in pairs:
        start, end = places[first], places[second]
        curves[first, second] = np.array(
            [edge_end(end, start, sizes[first] / 2), edge_end(start, end, sizes[second] / 2)]
        )
    return places, curves


def _spread(
    sizes: Mapping[int, FloatArray], pairs: Sequence[tuple[int, int]]
) -> dict[int, FloatArray]:
    edges = [Edge(min(pair), max(pair), 0, 0) for pair in pairs]
    down, _ = place_boxes(sizes, edges, room=_ROOM, gap=_APART)
    return {n: place * np.array([1.0, -1.0]) for n, place in down.items()}


def _with_rows(
    places: dict[int, FloatArray],
    curves: dict[tuple[int, int], FloatArray],
    sizes: Mapping[int, FloatArray],
    engine: str,
) -> GraphLayout:
    """Put nodes without an edge below the others, and move everything to positive numbers."""
    low, high = np.zeros(2), np.zeros(2)
    if places:
        boxes = [(places[n] - sizes[n] / 2, places[n] + sizes[n] / 2) for n in places]
        low = np.min([*(a for a, _ in boxes), *(c.min(axis=0) for c in curves.values())], axis=0)
        high = np.max([*(b for _, b in boxes), *(c.max(axis=0) for c in curves.values())], axis=0)
    widest = max(high[0] - low[0], 360.0)
    x, y, tall = low[0], low[1] - 2 * _GAP, 0.0
    for node in (n for n in sorted(sizes) if n not in places):
        width, height = sizes[node]
        if x > low[0] and x + width > low[0] + widest:
            x, y, tall = low[0], y - tall - _GAP, 0.0
        places[node] = np.array([x + width / 2, y - height / 2])
        x, tall = x + width + _GAP, max(tall, float(height))
        high[0] = max(high[0], x - _GAP)
        low[1] = min(low[1], y - height)
    low, high = low - _GAP, high + _GAP
    return GraphLayout(
        {node: place - low for node, place in places.items()},
        {pair: curve - low for pair, curve in curves.items()},
        float(high[0] - low[0]),
        float(high[1] - low[1]),
        engine,
    )
