"""A PAG or CPDAG in other formats: networkx, DOT, GraphML, JSON. Nothing here needs Graphviz.

``confidence`` (everywhere the same: an array of shape (N, N), from 0 to 1, NaN for unknown) becomes
an attribute of each edge. Text formats of other programs: `causal_lvlm.structure.texts`; objects of
other packages: `causal_lvlm.structure.convert`.
"""

from __future__ import annotations

import io
import json
import math
import re
from typing import TYPE_CHECKING, Any

import networkx as nx

from causal_lvlm.storage import write_bytes
from causal_lvlm.structure.marks import (
    ARROW,
    CIRCLE,
    NAMES,
    TAIL,
    HasMarks,
    check_confidence,
    check_kind,
    edge_symbol,
    edges,
    node_texts,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "dot_quoted", "dot_text", "graphml_text", "to_dict", "to_dot", "to_graphml", "to_json",
    "to_networkx",
]  # fmt: skip

# What XML 1.0 (section 2.2, Char) does not allow; token texts may hold it. A carriage return is
# allowed, but parsers read it as a line feed (section 2.11).
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DOT = {NAMES[CIRCLE]: "odot", NAMES[ARROW]: "normal", NAMES[TAIL]: "none"}


def to_networkx(
    pag: HasMarks,
    labels: Sequence[str] | None = None,
    *,
    confidence: Any = None,
    kind: str = "pag",
) -> nx.DiGraph:
    """Return a networkx graph with one arc per edge and the marks as attributes.

    The arc of an edge runs from the end with the circle or tail to the end with the arrowhead
    where they differ, otherwise from the smaller node to the larger. Attributes of an arc (u, v):
    ``mark_source`` (at u) and ``mark_target`` (at v), each ``"circle"``, ``"arrow"`` or
    ``"tail"``, ``kind``, such as ``"o->"``, and ``confidence`` where it is known. Nodes are
    integers with an attribute ``label``. The graph has an attribute ``kind``.

    Parameters
    ----------
    pag : PAG
    labels : sequence of str, optional
        Names of the nodes; their numbers by default.
    confidence : ndarray, shape (N, N), or EdgeStability, optional
        Written at every edge.
    kind : {"pag", "cpdag"}

    Raises
    ------
    StructureError
        If the number of labels is not the number of nodes, or confidence or kind do not fit.
    """
    check_kind(pag, kind)
    values = check_confidence(pag, confidence)
    graph = nx.DiGraph(kind=kind)
    for node, label in enumerate(node_texts(pag, labels)):
        graph.add_node(node, label=label)
    for i, j in edges(pag):
        if pag.marks[j, i] == ARROW and pag.marks[i, j] != ARROW:
            i, j = j, i
        graph.add_edge(
            i,
            j,
            mark_source=NAMES[int(pag.marks[j, i])],
            mark_target=NAMES[int(pag.marks[i, j])],
            kind=edge_symbol(pag, i, j),
        )
        if values is not None and not math.isnan(values[i, j]):
            graph.edges[i, j]["confidence"] = float(values[i, j])
    return graph


def to_dot(
    pag: HasMarks,
    labels: Sequence[str] | None = None,
    *,
    confidence: Any = None,
    kind: str = "pag",
) -> str:
    """Return the graph in Graphviz's DOT language, with both marks of every edge drawn.

    Confidence becomes the width of a line, its label and its tooltip.

    Parameters
    ----------
    pag : PAG
    labels : sequence of str, optional
        Names of the nodes; their numbers by default.
    confidence : ndarray, shape (N, N), or EdgeStability, optional
        Written at every edge.
    kind : {"pag", "cpdag"}
    """
    graph = to_networkx(pag, labels, confidence=confidence, kind=kind)
    looks = {}
    for u, v, data in graph.edges(data=True):
        looks[u, v] = ""
        if "confidence" in data:
            share = data["confidence"]
            looks[u, v] = (
                f', penwidth={0.5 + 2.5 * share:.2f}, label="{share:.2f}", '
                f'tooltip="confidence {share:.3f}"'
            )
    return dot_text(graph, kind, looks)


def dot_text(graph: nx.DiGraph, name: str, looks: Mapping[tuple[int, int], str]) -> str:
    """Return a networkx graph in the DOT language.

    Parameters
    ----------
    graph : networkx.DiGraph
        Nodes have a ``label``, arcs ``mark_source`` and ``mark_target``, see `to_networkx`.
    name : str
        Of the graph.
    looks : mapping of (int, int) to str
        More attributes of an arc, each after a comma.
    """
    lines = [f"digraph {name} {{", "  edge [dir=both];"]
    for node in graph.nodes:
        lines.append(f'  {node} [label="{dot_quoted(graph.nodes[node]["label"])}"];')
    for u, v, data in graph.edges(data=True):
        tail, head = _DOT[data["mark_source"]], _DOT[data["mark_target"]]
        lines.append(f"  {u} -> {v} [arrowtail={tail}, arrowhead={head}{looks[u, v]}];")
    return "\n".join([*lines, "}"]) + "\n"


def dot_quoted(text: str) -> str:
    """Return a text as it stands between quotes in DOT."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("\n", "\\n").replace("\x00", "�")


def to_graphml(
    pag: HasMarks,
    path: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    *,
    confidence: Any = None,
    kind: str = "pag",
) -> str | Path:
    """Return GraphML text, or write it to ``path`` and return that.

    Parameters
    ----------
    pag : PAG
    path : str or path-like, optional
        Where to write; the text is returned without one.
    labels : sequence of str, optional
        Names of the nodes; their numbers by default.
    confidence : ndarray, shape (N, N), or EdgeStability, optional
        Written at every edge.
    kind : {"pag", "cpdag"}

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    graph = to_networkx(pag, labels, confidence=confidence, kind=kind)
    return graphml_text(graph, path)


def graphml_text(graph: nx.DiGraph, path: str | os.PathLike[str] | None = None) -> str | Path:
    """Return a networkx graph as GraphML, or write it to ``path``; texts without what XML forbids.

    Parameters
    ----------
    graph : networkx.DiGraph
        Changed where it holds such texts.
    path : str or path-like, optional
    """
    stream = io.BytesIO()
    tables = [graph.graph, *(d for _, d in graph.nodes(data=True))]
    for data in (*tables, *(d for _, _, d in graph.edges(data=True))):
        data.update({k: _NOT_XML.sub("�", v) for k, v in data.items() if isinstance(v, str)})
    nx.write_graphml(graph, stream, encoding="utf-8")
    if path is None:
        return stream.getvalue().decode("utf-8")
    return write_bytes(path, stream.getvalue())


def to_dict(
    pag: HasMarks,
    labels: Sequence[str] | None = None,
    *,
    confidence: Any = None,
    kind: str = "pag",
) -> dict[str, Any]:
    """Return nodes with labels and edges with marks (at either end) as plain lists.

    Parameters
    ----------
    pag : PAG
    labels : sequence of str, optional
        Names of the nodes; their numbers by default.
    confidence : ndarray, shape (N, N), or EdgeStability, optional
        Written at every edge.
    kind : {"pag", "cpdag"}
    """
    check_kind(pag, kind)
    values = check_confidence(pag, confidence)
    listed = []
    for i, j in edges(pag):
        edge: dict[str, Any] = {
            "source": i,
            "target": j,
            "mark_source": NAMES[int(pag.marks[j, i])],
            "mark_target": NAMES[int(pag.marks[i, j])],
            "kind": edge_symbol(pag, i, j),
        }
        if values is not None:
            known = not math.isnan(values[i, j])
            edge["confidence"] = float(values[i, j]) if known else None
        listed.append(edge)
    texts = node_texts(pag, labels)
    return {
        "kind": kind,
        "nodes": [{"node": node, "label": text} for node, text in enumerate(texts)],
        "edges": listed,
    }


def to_json(
    pag: HasMarks,
    labels: Sequence[str] | None = None,
    *,
    confidence: Any = None,
    kind: str = "pag",
) -> str:
    """Return `to_dict` as JSON text.

    Parameters
    ----------
    pag : PAG
    labels : sequence of str, optional
        Names of the nodes; their numbers by default.
    confidence : ndarray, shape (N, N), or EdgeStability, optional
        Written at every edge.
    kind : {"pag", "cpdag"}
    """
    return json.dumps(to_dict(pag, labels, confidence=confidence, kind=kind), ensure_ascii=False)
