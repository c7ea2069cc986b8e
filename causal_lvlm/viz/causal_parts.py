"""Which part of a verified causal graph is shown.

1. The target, every edge of a verified set and every proven cause are always shown.
2. Learned edges are added by the size of their estimated effect, those at the target first, until
   there are as many nodes as can be read.
3. Image patches that touch and have the same edges are merged into rectangles, for display only;
   patches of verified edges and proven causes stay by themselves.
4. Out of a special token that a verified edge leads into, a step of the frame goes to the target.
"""

from __future__ import annotations

from typing import NamedTuple

from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import CausalEdge
from causal_lvlm.tokens import TokenLayout
from causal_lvlm.viz.marks import ARROW, CIRCLE, TAIL

__all__ = ["ShownGraph", "end_marks", "shown_graph"]

_ENDS = {"<": ARROW, ">": ARROW, "o": CIRCLE, "-": TAIL}


class ShownGraph(NamedTuple):
    """What is shown of a graph.

    Attributes
    ----------
    members : dict of int to tuple of int
        Positions of each shown node, by the first node that it stands for.
    edges : list of CausalEdge
        Between shown nodes; of merged patches the one with the largest estimate stands for all.
    frame : list of (int, int)
        Steps along edges that are never cut.
    left_out : (int, int)
        Nodes and edges with an edge that are not shown.
    """

    members: dict[int, tuple[int, ...]]
    edges: list[CausalEdge]
    frame: list[tuple[int, int]]
    left_out: tuple[int, int]


def end_marks(symbol: str) -> tuple[int, int]:
    """Return the marks at both ends of an edge such as ``o->``: 1 circle, 2 arrowhead, 3 tail."""
    return _ENDS[symbol[0]], _ENDS[symbol[-1]]


def shown_graph(
    graph: CausalGraph, layout: TokenLayout | None = None, *, max_nodes: int = 16
) -> ShownGraph:
    """Choose what is shown.

    Parameters
    ----------
    graph : CausalGraph
    layout : TokenLayout, optional
        Where patches lie; without one none are merged.
    max_nodes : int
        Learned edges are left out beyond it, verified ones never.
    """
    target = graph.nodes.target
    proven = {cause.node for cause in graph.causes} | {target}
    proven |= {n for e in graph.edges if e.verified != "none" for n in (e.source, e.reader)}
    drawn = [e for e in graph.edges if e.verified != "none" or e.marks]
    stands = _merged(graph, drawn, proven, layout)
    chosen = set(proven)
    learned = sorted(
        (e for e in drawn if e.verified == "none"),
        key=lambda e: (target not in (e.source, e.reader), -abs(e.estimated or 0.0)),
    )
    for edge in learned:
        ends = {stands[edge.source], stands[edge.reader]}
        linked = bool(ends & chosen) or not chosen
        if linked and len(chosen | ends) <= max(max_nodes, len(proven)):
            chosen |= ends
    best: dict[tuple[int, int], CausalEdge] = {}
    for edge in drawn:
        pair = stands[edge.source], stands[edge.reader]
        if pair[0] in chosen and pair[1] in chosen and pair[0] != pair[1]:
            old = best.get(pair)
            if old is None or abs(edge.estimated or 0.0) > abs(old.estimated or 0.0):
                best[pair] = edge
    members: dict[int, tuple[int, ...]] = {}
    for node, first in sorted(stands.items()):
        if first in chosen:
            members[first] = (*members.get(first, ()), *graph.nodes.members[node])
    for node in sorted(chosen):
        members.setdefault(node, graph.nodes.members[node])
    steps = [
        (n, target)
        for n in sorted(proven)
        if graph.nodes.kinds[n] == "special" and (n, target) not in best
    ]
    nodes_left = len({n for n, first in stands.items() if first not in chosen})
    inside = sum(stands[e.source] in chosen and stands[e.reader] in chosen for e in drawn)
    shown = [_between(edge, *pair) for pair, edge in best.items()]
    return ShownGraph(members, shown, steps, (nodes_left, len(drawn) - inside))


def _between(edge: CausalEdge, source: int, reader: int) -> CausalEdge:
    if (edge.source, edge.reader) == (source, reader):
        return edge
    return CausalEdge(source, reader, edge.learned, edge.marks, edge.estimated)


def _merged(
    graph: CausalGraph, drawn: list[CausalEdge], proven: set[int], layout: TokenLayout | None
) -> dict[int, int]:
    """Return for every node with an edge the node that stands for it."""
    edges: dict[int, list[tuple[int, int, str]]] = {}
    for e in drawn:
        edges.setdefault(e.source, []).append((0, e.reader, e.marks))
        edges.setdefault(e.reader, []).append((1, e.source, e.marks))
    stands = {node: node for node in edges}
    if layout is None:
        return stands
    alike: dict[tuple[int, tuple[tuple[int, int, str], ...]], dict[tuple[int, int], int]] = {}
    for node, own in edges.items():
        members = graph.nodes.members[node]
        cell = layout.patch_cell(members[0]) if len(members) == 1 else None
        if cell is not None and node not in proven:
            place = alike.setdefault((cell[0], tuple(sorted(own))), {})
            place[cell[1], cell[2]] = node
    for cells in alike.values():
        for rectangle in _rectangles(set(cells)):
            first = min(cells[cell] for cell in rectangle)
            stands.update({cells[cell]: first for cell in rectangle})
    return stands


def _rectangles(cells: set[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Divide cells into rectangles: runs in a row, then equal runs of rows that follow."""
    found: list[list[tuple[int, int]]] = []
    runs: list[tuple[int, int, int]] = []  # row, first and last column
    for row, column in sorted(cells):
        if runs and runs[-1][0] == row and runs[-1][2] == column - 1:
            runs[-1] = (row, runs[-1][1], column)
        else:
            runs.append((row, column, column))
    open_: dict[tuple[int, int], tuple[int, list[tuple[int, int]]]] = {}
    for row, first, last in runs:
        own = [(row, column) for column in range(first, last + 1)]
        below = open_.get((first, last))
        if below is not None and below[0] == row - 1:
            below[1].extend(own)
            open_[first, last] = (row, below[1])
        else:
            found.append(own)
            open_[first, last] = (row, own)
    return found
