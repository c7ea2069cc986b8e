"""Two graphs of two runs on common nodes, so that they can be compared.

1. A node is known by what it is: an image cell by grid, row and column; a word by its text and by
   how often it occurred before; the target as the target, whatever word it is.
2. The union of both graphs' nodes are the nodes of both; a node that one run does not have has no
   edge there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import numpy as np

from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.structure import PAG, compare_graphs
from causal_lvlm.structure.compare import GraphComparison
from causal_lvlm.tokens import TokenLayout

__all__ = ["common_nodes", "graph_difference"]

_TARGET = ("target",)


def node_names(graph: HeadGraph, layout: TokenLayout) -> list[tuple[Hashable, ...]]:
    """Return what identifies each node of a graph in any run."""
    seen: Counter[str] = Counter()
    names: list[tuple[Hashable, ...]] = []
    for node, members in enumerate(graph.members):
        cell = layout.patch_cell(members[0])
        if node == graph.target_node:
            names.append(_TARGET)
        elif cell is not None:
            names.append(("image", *cell))
        else:
            text = "".join(layout.tokens[p] for p in members).strip()
            seen[text] += 1
            names.append(("word", text, seen[text]))
    return names


def common_nodes(
    first: HeadGraph, first_layout: TokenLayout, second: HeadGraph, second_layout: TokenLayout
) -> tuple[PAG, PAG, list[str]]:
    """Return both graphs over the union of their nodes, and the nodes' labels.

    Parameters
    ----------
    first, second : HeadGraph
    first_layout, second_layout : TokenLayout
    """
    one, two = node_names(first, first_layout), node_names(second, second_layout)
    union = [*[name for name in dict.fromkeys([*one, *two]) if name != _TARGET], _TARGET]
    place = {name: index for index, name in enumerate(union)}
    graphs = []
    for graph, names in ((first, one), (second, two)):
        marks = np.zeros((len(union), len(union)), dtype=np.uint8)
        index = [place[name] for name in names]
        marks[np.ix_(index, index)] = graph.structure.pag.marks
        graphs.append(PAG(marks))
    words = {first.labels[first.target_node], second.labels[second.target_node]}
    labels = [_label(name, " / ".join(sorted(words))) for name in union]
    return graphs[0], graphs[1], labels


def _label(name: tuple[Hashable, ...], target: str) -> str:
    if name == _TARGET:
        return f"target: {target}"
    if name[0] == "image":
        tile = f"{name[1]}." if name[1] else ""
        return f"[{tile}{name[2]},{name[3]}]"
    return str(name[1]) if name[2] == 1 else f"{name[1]} #{name[2]}"


def graph_difference(
    first: HeadGraph, first_layout: TokenLayout, second: HeadGraph, second_layout: TokenLayout
) -> tuple[GraphComparison, PAG, PAG, list[str]]:
    """Compare the graphs of two explanations; see `causal_lvlm.compare_graphs`."""
    one, two, labels = common_nodes(first, first_layout, second, second_layout)
    return compare_graphs(one, two), one, two, labels
