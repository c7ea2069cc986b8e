"""Which nodes of a graph are shown, and the small picture of each.

1. The default view is the target, the explaining set and the PDS-tree of the target up to the
   largest radius that still fits: not too many nodes, and not too many edges between them. If even
   radius 1 does not fit, nodes are taken as long as they fit: the target, members of the set
   (nearest first), the rest of the tree in breadth-first order. Of a set that would fill the
   picture alone, members outside the tree come last.
2. A patch is shown as the piece of the image it stands for, a word as the word. Both graph views
   and the tree use the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.union import TokenUnion
from causal_lvlm.viz.style import CAUSE, FAINT, INK, PAPER, TARGET, font, text_size
from causal_lvlm.viz.view import TraceView

__all__ = [
    "NodeChoice", "TokenGraph", "choose_nodes", "crop", "node_members", "node_picture",
    "target_text",
]  # fmt: skip

TokenGraph: TypeAlias = HeadGraph | TokenUnion  # what can be drawn around a target

_SCALE = 2  # pictures are drawn at twice the size they are shown at


@dataclass(frozen=True)
class NodeChoice:
    """Nodes to be drawn.

    Attributes
    ----------
    nodes : tuple of int
        Ascending.
    total : int
        Number of nodes of the graph.
    radius : int or None
        Everything in the PDS-tree up to this depth is shown; None if the tree was cut.
    members, members_shown : int
        Nodes of the explaining set, and how many of them are shown.
    """

    nodes: tuple[int, ...]
    total: int
    radius: int | None
    members: int = 0
    members_shown: int = 0

    def sentence(self) -> str:
        """Return what the picture must say about what it leaves out."""
        if len(self.nodes) == self.total:
            return (
                f"All {self.total} nodes are shown." if self.total > 1 else "It is the only node."
            )
        text = f"{len(self.nodes)} of {self.total} nodes shown: "
        if self.members_shown < self.members:
            return text + (
                f"the target, nodes of its PDS-tree, and {self.members_shown} of the "
                f"{self.members} members of the set; more would not be readable."
            )
        if self.radius is None:
            return text + (
                "the target, the set and the nearest nodes of the target's PDS-tree; more would "
                "not be readable."
            )
        if self.radius == 0:
            return text + "the target and the set; the target has no neighbour in this graph."
        return text + f"the target's PDS-tree up to radius {self.radius}, and the set."


def node_members(graph: TokenGraph) -> list[tuple[int, ...]]:
    """Return the sequence positions of every node of a graph."""
    return [tuple(int(p) for p in unit) for unit in graph.members]


def choose_nodes(
    graph: TokenGraph,
    numbers: Mapping[int, int],
    *,
    radius: int | None = None,
    max_nodes: int = 24,
    max_edges: int = 48,
) -> NodeChoice:
    """Choose the nodes of the default view.

    Parameters
    ----------
    graph : HeadGraph or TokenUnion
    numbers : mapping of int to int
        Positions of the explaining set (see `causal_lvlm.viz.view.member_numbers`).
    radius : int, optional
        Greatest depth of the PDS-tree; by default all of it.
    max_nodes, max_edges : int
        A picture with more of either cannot be read.

    Returns
    -------
    NodeChoice
    """
    units = node_members(graph)
    total, target, tree = len(units), int(graph.target_node), graph.tree
    linked = np.asarray(graph.structure.pag.marks) > 0
    deepest = int(max(tree.depth, default=0)) if radius is None else int(radius)
    near = [int(n) for n, d in zip(tree.node, tree.depth, strict=True) if 0 < d <= deepest]
    inside = {n for n, unit in enumerate(units) if any(p in numbers for p in unit)} - {target}
    must = [target, *(n for n in dict.fromkeys(near) if n in inside)]
    must += sorted(inside - set(must))

    def fits(nodes: set[int]) -> bool:
        chosen = sorted(nodes)
        edges = int(linked[np.ix_(chosen, chosen)].sum()) // 2
        return len(nodes) <= max_nodes and edges <= max_edges

    def choice(nodes: set[int], depth: int | None) -> NodeChoice:
        shown = len(inside & nodes)
        return NodeChoice(tuple(sorted(nodes)), total, depth, len(inside), shown)

    if radius is None and fits(set(range(total))):
        return choice(set(range(total)), deepest)
    for depth in range(deepest, -1, -1):
        chosen = {*must, *(int(n) for n in tree.within(depth))}
        # Radius 0 is the target and the set alone: only right if there is nothing nearer.
        if fits(chosen) and (depth or not near):
            return choice(chosen, depth)
    chosen = {target}
    order = [*must, *near]
    if len(inside) > max_nodes // 2:
        order = [*(n for n in must if n in near), *near, *must]
    for node in order:
        if not fits({*chosen, node}):
            break
        chosen.add(node)
    return choice(chosen, None)


def target_text(graph: TokenGraph, node: int) -> str | None:
    """Return the target's text if the node stands for the target, else None."""
    return graph.labels[node] if node == graph.target_node else None


def node_picture(
    view: TraceView,
    members: Sequence[int],
    *,
    number: int | None = None,
    target: str | None = None,
    size: int = 64,
) -> Image.Image:
    """Return the picture of one node: framed patch with its cell below it, or framed word.

    Parameters
    ----------
    view : TraceView
    members : sequence of int
        Positions the node stands for.
    number : int, optional
        Number in the explaining set: orange frame and badge.
    target : str, optional
        Text of the target, if this node stands for it: drawn as that text in a blue frame (the
        node's position may be the predicting one, so its own token would mislead).
    size : int
        Side of a patch as shown; the picture has twice as many pixels.

    Returns
    -------
    PIL.Image.Image
        RGBA.
    """
    if target is not None:
        return _word_picture(f"“{target}”", TARGET, 4 * _SCALE, None, True)
    colour = CAUSE if number is not None else FAINT
    pen = (4 if number is not None else 2) * _SCALE
    side = size * _SCALE
    piece = crop(view, members, side)
    label = view.label(members)
    if piece is None:
        return _word_picture(label, colour, pen, number, False)
    face = font(11 * _SCALE)
    width, height = text_size(label, face)
    total = (max(side, width + 4) + 2 * pen, side + height + 3 * pen // 2 + 4)
    page = Image.new("RGBA", total, colour)
    draw = ImageDraw.Draw(page)
    draw.rectangle((pen, pen, total[0] - pen - 1, total[1] - pen - 1), fill=PAPER)
    page.paste(piece, ((total[0] - side) // 2, pen))
    middle = (total[0] / 2, side + pen + (total[1] - side - 2 * pen) / 2)
    draw.text(middle, label, font=face, fill=INK, anchor="mm")
    if number is not None:
        _corner(draw, 0, number)
    return page


def crop(view: TraceView, members: Iterable[int], size: int) -> Image.Image | None:
    """Cut a unit's rectangle and some of its surroundings out of its image.

    The unit itself is outlined and shown as it is; the surroundings, three quarters of its
    size on each side, are paled. A single patch alone could rarely be recognised.

    Parameters
    ----------
    view : TraceView
    members : iterable of int
        Positions of the unit.
    size : int
        Side of the square returned, in pixels.

    Returns
    -------
    PIL.Image.Image or None
        None if the unit holds no patch.
    """
    region = view.region(members)
    if region is None:
        return None
    image, box = view.images[region.image], region.box
    extent = max(box[2] - box[0], box[3] - box[1], 1e-9)
    scale = size / (extent * 2.5)
    corner = (
        (box[0] + box[2]) / 2 - extent * 1.25,
        (box[1] + box[3]) / 2 - extent * 1.25,
    )
    square = Image.new("RGB", (size, size), "#ffffff")
    seen = _inside(image, (*corner, corner[0] + extent * 2.5, corner[1] + extent * 2.5))
    place = _scaled(seen, corner, scale)
    shape = (max(1, place[2] - place[0]), max(1, place[3] - place[1]))
    piece = image.resize(shape, Image.Resampling.BICUBIC, box=seen)
    square.paste(piece, place[:2])
    inner = _scaled(box, corner, scale)
    core = square.crop(inner)
    square = Image.blend(square, Image.new("RGB", square.size, "#ffffff"), 0.5)
    square.paste(core, inner[:2])
    ImageDraw.Draw(square).rectangle(inner, outline="#1b1f24", width=max(1, size // 58))
    return square


def _inside(
    image: Image.Image, box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Clip a rectangle to the image: cells of padded images may reach beyond it."""
    width, height = image.size
    left, top = min(max(box[0], 0.0), width - 1.0), min(max(box[1], 0.0), height - 1.0)
    return left, top, max(left + 1, min(box[2], width)), max(top + 1, min(box[3], height))


def _scaled(
    box: tuple[float, float, float, float], corner: tuple[float, float], scale: float
) -> tuple[int, int, int, int]:
    """Return a rectangle in pixels of a picture whose corner and scale are given."""
    left, top, right, bottom = box
    x, y = corner
    return (
        round((left - x) * scale),
        round((top - y) * scale),
        round((right - x) * scale),
        round((bottom - y) * scale),
    )


def _corner(draw: ImageDraw.ImageDraw, left: float, number: int) -> None:
    face = font(11 * _SCALE, bold=True)
    width = max(face.getlength(str(number)) + 6 * _SCALE, 17 * _SCALE)
    draw.rectangle((left, 0, left + width, 17 * _SCALE), fill=CAUSE)
    middle = (left + width / 2, 8.5 * _SCALE)
    draw.text(middle, str(number), font=face, fill=PAPER, anchor="mm")


def _word_picture(
    label: str, colour: str, pen: int, number: int | None, target: bool
) -> Image.Image:
    face = font(15 * _SCALE, bold=target or number is not None)
    shown = label if len(label) <= 24 else label[:22] + "…”"
    width, height = text_size(shown, face)
    room = 20 * _SCALE if number is not None else 0
    total = (width + room + 16 * _SCALE + 2 * pen, height + 10 * _SCALE + 2 * pen)
    page = Image.new("RGBA", total, (255, 255, 255, 0))
    draw = ImageDraw.Draw(page)
    fill = "#d7ebf7" if target else "#fbe3d2" if number is not None else "#f4f6f8"
    box = (pen // 2, pen // 2, total[0] - pen // 2 - 1, total[1] - pen // 2 - 1)
    draw.rounded_rectangle(box, radius=6 * _SCALE, fill=fill, outline=colour, width=pen)
    middle = (room + (total[0] - room) / 2, total[1] / 2)
    draw.text(middle, shown, font=face, fill=INK, anchor="mm")
    if number is not None:
        _corner(draw, pen / 2, number)
    return page
