"""A PAG in other formats: networkx, DOT, GraphML, JSON. Nothing here needs Graphviz."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import networkx as nx

from causal_lvlm.errors import StructureError
from causal_lvlm.storage import write_bytes
from causal_lvlm.structure.pag import ARROW, CIRCLE, PAG, TAIL, edge_symbol, edges

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["from_dict", "to_dict", "to_dot", "to_graphml", "to_json", "to_networkx"]

_NAMES = {CIRCLE: "circle", ARROW: "arrow", TAIL: "tail"}
_DOT = {CIRCLE: "odot", ARROW: "normal", TAIL: "none"}


def _labels(pag: PAG, labels: Sequence[str] | None) -> list[str]:
    if labels is None:
        return [str(node) for node in range(pag.n_nodes)]
    if len(labels) != pag.n_nodes:
        raise StructureError(f"{len(labels)} labels were given for {pag.n_nodes} nodes")
    return [str(label) for label in labels]


def to_networkx(pag: PAG, labels: Sequence[str] | None = None) -> nx.DiGraph:
    """Return a networkx graph with one arc per edge and the marks as attributes.

    The arc of an edge runs from the end with the circle or tail to the end with the arrowhead
    where they differ, otherwise from the smaller node to the larger. Attributes of an arc (u, v):
    ``mark_source`` (at u) and ``mark_target`` (at v), each ``"circle"``, ``"arrow"`` or
    ``"tail"``, and ``kind``, such as ``"o->"``. Nodes are integers with an attribute ``label``.

    Raises
    ------
    StructureError
        If the number of labels is not the number of nodes.
    """
    graph = nx.DiGraph(kind="pag")
    for node, label in enumerate(_labels(pag, labels)):
        graph.add_node(node, label=label)
    for i, j in edges(pag):
        if pag.marks[j, i] == ARROW and pag.marks[i, j] != ARROW:
            i, j = j, i
        graph.add_edge(
            i,
            j,
            mark_source=_NAMES[int(pag.marks[j, i])],
            mark_target=_NAMES[int(pag.marks[i, j])],
            kind=edge_symbol(pag, i, j),
        )
    return graph


def to_dot(pag: PAG, labels: Sequence[str] | None = None) -> str:
    """Return the graph in Graphviz's DOT language, with both marks of every edge drawn."""
    lines = ["digraph pag {", "  edge [dir=both];"]
    for node, label in enumerate(_labels(pag, labels)):
        text = label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'  {node} [label="{text}"];')
    for u, v in to_networkx(pag).edges:
        tail, head = _DOT[int(pag.marks[v, u])], _DOT[int(pag.marks[u, v])]
        lines.append(f"  {u} -> {v} [arrowtail={tail}, arrowhead={head}];")
    return "\n".join([*lines, "}"]) + "\n"


def to_graphml(
    pag: PAG, path: str | os.PathLike[str] | None = None, labels: Sequence[str] | None = None
) -> str | Path:
    """Return GraphML text, or write it to ``path`` and return that.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    stream = io.BytesIO()
    graph = to_networkx(pag, labels)
    # XML has no control characters; token texts may.
    for node in graph.nodes:
        label = graph.nodes[node]["label"]
        graph.nodes[node]["label"] = "".join(
            char if char >= " " or char in "\t\n" else "�" for char in label
        )
    nx.write_graphml(graph, stream, encoding="utf-8")
    if path is None:
        return stream.getvalue().decode("utf-8")
    return write_bytes(path, stream.getvalue())


def to_dict(pag: PAG, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Return nodes with labels and edges with marks (at either end) as plain lists."""
    return {
        "kind": "pag",
        "nodes": [{"node": node, "label": text} for node, text in enumerate(_labels(pag, labels))],
        "edges": [
            {
                "source": i,
                "target": j,
                "mark_source": _NAMES[int(pag.marks[j, i])],
                "mark_target": _NAMES[int(pag.marks[i, j])],
                "kind": edge_symbol(pag, i, j),
            }
            for i, j in edges(pag)
        ],
    }


def from_dict(value: dict[str, Any]) -> PAG:
    """Invert `to_dict`.

    Raises
    ------
    StructureError
        If the value does not describe a PAG.
    """
    codes = {name: code for code, name in _NAMES.items()}
    try:
        n = len(value["nodes"])
        marks = [[0] * n for _ in range(n)]
        for edge in value["edges"]:
            marks[edge["source"]][edge["target"]] = codes[edge["mark_target"]]
            marks[edge["target"]][edge["source"]] = codes[edge["mark_source"]]
    except (KeyError, IndexError, TypeError) as error:
        raise StructureError(f"not a PAG as `to_dict` writes it: {error!r}") from error
    return PAG(marks)  # type: ignore[arg-type]


def to_json(pag: PAG, labels: Sequence[str] | None = None) -> str:
    """Return `to_dict` as JSON text."""
    return json.dumps(to_dict(pag, labels), ensure_ascii=False)
