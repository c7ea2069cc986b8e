"""The picture of the rooms in ``docs/rooms.svg``, made from what the modules import today.

1. The import graph of all modules (`tests.imports`) is shrunk to the rooms of `tests.test_layers`.
2. An arrow that follows from others is left out (transitive reduction).
3. What is handed on while a token is explained is drawn on top, by `FLOW`.

``python -m tests.architecture`` writes the picture; `tests.test_architecture` compares.
"""

from __future__ import annotations

import html
import re
import textwrap
from itertools import pairwise
from pathlib import Path

import networkx as nx

from tests.imports import import_graph, room_of
from tests.test_layers import ROOMS, ROW

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "rooms.svg"
TORCH = "#fbe3d3"  # rooms that may import torch
PLAIN = "#e8eef5"
WIDTH = 30  # letters in a line
INK, MEMBERS, IMPORT, HANDED = "#1b1f24", "#5b6672", "#8d99a6", "#c2410c"
# What is handed on from room to room, in this order. From and to `lvlm` it goes across the seam.
FLOW = (
    ("picture and prompt", "lvlm", ""),
    ("lvlm", "core", "1 trace"),
    ("core", "structure", "2 correlation"),
    ("structure", "explanation", "3 PAG, PDS-tree"),
    ("explanation", "lvlm", "4 masked: still said?"),
    ("explanation", "viz", "5 verified sets"),
    ("viz", "report", ""),
)
# What is drawn side by side, in this order.
ROWS = (
    ("causal_kernels", "core", "lvlm", "picture and prompt"), ("structure", "attribution"),
    ("methods", "viz", "report"),
)  # fmt: skip


def rooms() -> nx.DiGraph:
    """Return which room imports which, without what follows from the rest."""
    found = nx.DiGraph()
    found.add_nodes_from(room.name for room in ROOMS)
    for importer, imported in import_graph().edges:
        pair = [ROW[room_of(module)].name for module in (importer, imported)]
        if pair[0] != pair[1]:
            found.add_edge(*pair)
    return nx.transitive_reduction(found)


def drawn(svg: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the rooms and the imports that a picture shows, without what is handed on."""
    titles = re.findall(r'<g id="([\w-]+)" class="(node|edge)">\s*<title>(.*?)</title>', svg)
    shown = [(kind, html.unescape(t)) for name, kind, t in titles if not name.startswith("flow")]
    edges = [tuple(title.split("->")) for kind, title in shown if kind == "edge"]
    return {title for kind, title in shown if kind == "node"}, {(a, b) for a, b in edges}


def draw() -> str:
    """Return the picture as SVG; needs Graphviz."""
    import pygraphviz

    graph = pygraphviz.AGraph(directed=True, strict=False)
    graph.graph_attr.update(rankdir="TB", nodesep=0.35, ranksep=0.55, fontname="Helvetica")
    graph.node_attr.update(shape="box", style="rounded,filled", fontname="Helvetica", fontsize=12,
                           color=INK, penwidth=0.8, margin="0.14,0.08")  # fmt: skip
    graph.edge_attr.update(fontname="Helvetica", fontsize=11)
    for room in ROOMS:
        names = [] if room.members == (room.name,) else [", ".join(room.members)]
        rows = [(room.holds, "10", ""), *((line, "9", f" COLOR='{MEMBERS}'") for line in names)]
        label = "".join(
            f"<BR/><FONT POINT-SIZE='{size}'{colour}>{html.escape(line)}</FONT>"
            for text, size, colour in rows
            for line in textwrap.wrap(text, WIDTH)
        )
        fill = TORCH if "torch" in room.packages else PLAIN
        graph.add_node(room.name, label=f"<<B>{room.name}</B>{label}>", fillcolor=fill)
    for importer, imported in sorted(rooms().edges):
        graph.add_edge(importer, imported, color=IMPORT, arrowsize=0.7)
    for number, (giver, taker, what) in enumerate(FLOW):
        inside = graph.has_node(giver) and graph.has_node(taker)
        for end in (giver, taker):
            if not graph.has_node(end):
                graph.add_node(end, id=f"flow-{number}", shape="plaintext", style="",
                               fontcolor=HANDED)  # fmt: skip
        seam = inside and "lvlm" in (giver, taker)
        ends = "both" if seam and taker == "lvlm" else "forward"
        graph.add_edge(
            giver, taker, key=str(number), id=f"flow{number}", label=what, color=HANDED,
            penwidth=2, fontcolor=HANDED, constraint=False, arrowsize=0.8,
            style="dashed" if seam else "solid", dir=ends,
        )  # fmt: skip
    for row in ROWS:
        graph.add_subgraph(row, rank="same")
        for left, right in pairwise(row):
            graph.add_edge(left, right, key="beside", id=f"flow-{left}", style="invis")
    text = graph.draw(format="svg", prog="dot").decode("utf-8")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8", newline="\n")
