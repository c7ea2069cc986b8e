"""Picture of a verified causal graph.

1. Nodes are words and image patches (see `causal_lvlm.viz.nodes`); the target stands at the end,
   proven causes carry a number. The image stands beside the graph.
2. Edges of a verified set are bold arrows from what is read to what reads it. Which set holds an
   edge is said by colour, by the kind of line and in words, with the measured fall of the margin.
   Learned edges are thin and grey with the marks of the reconciled graph; steps along edges that
   are never cut are dashed.
3. Below stand what was verified, what the model says instead, the routes, what was refuted (which
   is never drawn) and what was left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import CausalEdge
from causal_lvlm.explanation.wording import amount
from causal_lvlm.protocols import Recorded
from causal_lvlm.viz.causal_parts import ShownGraph, end_marks, shown_graph
from causal_lvlm.viz.causal_words import (
    EDGE_MEANING,
    FRAME_MEANING,
    graph_sentences,
    refuted,
    signed,
)  # fmt: skip
from causal_lvlm.viz.graph_figure import LegendItem, Line, draw_page, picture_size
from causal_lvlm.viz.graph_layout import GraphLayout, place_graph
from causal_lvlm.viz.graph_parts import finish
from causal_lvlm.viz.marks import ARROW, CIRCLE, TAIL
from causal_lvlm.viz.nodes import node_picture
from causal_lvlm.viz.sheet import sheet_of
from causal_lvlm.viz.style import CAUSE, INK, PAPER, TARGET
from causal_lvlm.viz.view import TraceView, view_of

__all__ = ["draw_causal_graph"]

_LEARNED = "#8a949e"
_LOOKS: dict[str, dict[str, Any]] = {
    "sufficient": {"colour": TARGET, "style": "solid", "width": 2.6},
    "necessary": {"colour": CAUSE, "style": "dashdot", "width": 2.6},
    "both": {"colour": INK, "style": "solid", "width": 4.4},
    "none": {"colour": _LEARNED, "style": "solid", "width": 0.8},
    "frame": {"colour": _LEARNED, "style": "dashed", "width": 1.4},
}
_SCENE, _SIDE = -1, 480  # the image is a node of its own; its longer side in pixels


def draw_causal_graph(
    graph: CausalGraph,
    *,
    trace: Recorded | TraceView | Mapping[str, Any] | None = None,
    max_nodes: int = 16,
    scene: bool = True,
    engine: str = "auto",
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw a verified causal graph.

    Parameters
    ----------
    graph : CausalGraph
    trace : Trace or mapping, optional
        By default what the graph carries of its trace.
    max_nodes : int
        Nodes beyond those of verified edges are shown up to so many.
    scene : bool
        Whether the image stands beside the graph.
    engine : {"auto", "graphviz", "networkx"}
        ``"auto"`` takes Graphviz if it works here.
    title : str, optional
    path : path-like, optional
        Also write the picture there: PNG, SVG or PDF by its ending.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    ValueError
        If `engine` is unknown.
    OutputError
        If `path` has another ending, or cannot be written, or the trace lacks a part.
    """
    view = view_of(graph.summary if trace is None else trace)
    shown = shown_graph(graph, view.layout, max_nodes=max_nodes)
    numbers = {cause.node: at for at, cause in enumerate(graph.causes, start=1)}
    pictures = {
        node: node_picture(
            view, members, number=numbers.get(node),
            target=graph.target.text.strip() if node == graph.nodes.target else None,
        )
        for node, members in shown.members.items()
    }  # fmt: skip
    lines = [_line(e) for e in shown.edges]
    lines += [Line(a, b, TAIL, ARROW, label="frame", **_LOOKS["frame"]) for a, b in shown.frame]
    layout = place_graph(
        {node: picture_size(picture) for node, picture in pictures.items()},
        [(line.first, line.second) for line in lines],
        engine=engine,
    )
    if scene and view.images:
        pictures[_SCENE] = _scene(view, graph, shown)
        layout = _beside(layout, pictures[_SCENE])
    figure = draw_page(
        layout, {}, lines, pictures=pictures,
        title=f"What made the model say “{graph.target.text.strip()}”" if title is None else title,
        notes=[_asked(view), *graph_sentences(graph), *refuted(graph), *_said(shown)],
        legend=_legend(graph, lines, bool(numbers)), narrowest=640.0,
    )  # fmt: skip
    return finish(figure, path)


def _line(edge: CausalEdge) -> Line:
    """Return an arrow for a verified edge, else a line with the marks of the reconciled graph."""
    look = _LOOKS[edge.verified]
    if edge.verified == "none":
        return Line(edge.source, edge.reader, *end_marks(edge.marks), **look)
    label = edge.verified
    if edge.measured is not None:
        label += f" {signed(edge.measured)}"
    return Line(edge.source, edge.reader, TAIL, ARROW, label=label, **look)


def _scene(view: TraceView, graph: CausalGraph, shown: ShownGraph) -> Image.Image:
    """Return the image with the patches of verified edges outlined."""
    ends = {n for e in shown.edges if e.verified != "none" for n in (e.source, e.reader)}
    units = [shown.members[n] for n in sorted(ends) if view.region(shown.members[n])]
    sheet = sheet_of(view, 28)
    picture = sheet.image.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for region in filter(None, map(view.region, units)):
        pen.rectangle(sheet.place(region.image, region.box), outline=INK, width=5)
        pen.rectangle(sheet.place(region.image, region.box), outline=PAPER, width=2)
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _beside(layout: GraphLayout, picture: Image.Image) -> GraphLayout:
    """Put the image to the left of the graph, both in the middle of their height."""
    wide, tall = picture_size(picture)
    height = max(layout.height, tall + 12.0)
    shift = np.array([wide + 24.0, (height - layout.height) / 2])
    places = {node: place + shift for node, place in layout.places.items()}
    places[_SCENE] = np.array([wide / 2 + 12.0, height / 2])
    curves = {pair: curve + shift for pair, curve in layout.curves.items()}
    return GraphLayout(places, curves, layout.width + shift[0], height, layout.engine)


def _asked(view: TraceView) -> str:
    """Return question and answer; of the prompt, without its template."""
    tokens = [view.layout.tokens[p] for p in view.layout.positions("prompt")]
    spaced = any(token[:1].isspace() for token in tokens)
    question = ("" if spaced else " ").join(tokens).strip()
    return f"Asked: “{question}” Answer: “{view.run.answer.strip()}”"


def _said(shown: ShownGraph) -> list[str]:
    """Return what the numbers at the edges are, and what the picture leaves out."""
    nodes, edges = shown.left_out
    found = []
    if any(e.measured is not None for e in shown.edges):
        found.append("Number at an edge: how the target's margin changes when it alone is cut.")
    if not edges:
        return found
    return [
        *found,
        f"Not shown: {amount(edges, 'learned edge')} and {amount(nodes, 'node')} of the learned "
        "graph; no verified edge is left out.",
    ]


def _legend(graph: CausalGraph, lines: list[Line], numbered: bool) -> list[LegendItem]:
    used = {e.verified for e in graph.edges if e.verified != "none"}
    items = [
        LegendItem(Line(0, 1, TAIL, ARROW, **_LOOKS[kind]), EDGE_MEANING[kind])
        for kind in ("both", "sufficient", "necessary")
        if kind in used
    ]
    if any(line.width == _LOOKS["none"]["width"] for line in lines):
        items.append(LegendItem(Line(0, 1, TAIL, TAIL, **_LOOKS["none"]), EDGE_MEANING["none"]))
        marks = (
            (CIRCLE, "circle: not determined"),
            (ARROW, "arrowhead: this end is not a cause of the other"),
            (TAIL, "no mark: this end is a cause of the other"),
        )
        ends = {m for li in lines if li.colour == _LEARNED for m in (li.mark_first, li.mark_second)}
        for mark, text in (item for item in marks if item[0] in ends):
            items.append(LegendItem(Line(0, 1, TAIL, mark, **_LOOKS["none"]), text))
    if any(line.style == "dashed" for line in lines):
        items.append(LegendItem(Line(0, 1, TAIL, ARROW, **_LOOKS["frame"]), FRAME_MEANING))
    items.append(LegendItem("frame", "the target"))
    if numbered:
        items.append(LegendItem("cause", "proven cause, numbered"))
    return items
