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

from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.fields import choice, many, maybe, record, text, whole
from causal_lvlm.storage import write_bytes
from causal_lvlm.structure.named import (
    NamedGraph,
    check_confidence,
    check_kind,
    empty_marks,
    node_texts,
)
from causal_lvlm.structure.pag import ARROW, CIRCLE, PAG, TAIL, edge_symbol, edges

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "from_dict", "from_networkx", "named_from_dict", "to_dict", "to_dot", "to_graphml", "to_json",
    "to_networkx",
]  # fmt: skip

_NAMES = {CIRCLE: "circle", ARROW: "arrow", TAIL: "tail"}
_CODES = {name: code for code, name in _NAMES.items()}
# What XML 1.0 (section 2.2, Char) does not allow; token texts may hold it. A carriage return is
# allowed, but parsers read it as a line feed (section 2.11).
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DOT = {CIRCLE: "odot", ARROW: "normal", TAIL: "none"}


def to_networkx(
    pag: PAG,
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
            mark_source=_NAMES[int(pag.marks[j, i])],
            mark_target=_NAMES[int(pag.marks[i, j])],
            kind=edge_symbol(pag, i, j),
        )
        if values is not None and not math.isnan(values[i, j]):
            graph.edges[i, j]["confidence"] = float(values[i, j])
    return graph


def from_networkx(graph: nx.Graph) -> NamedGraph:
    """Invert `to_networkx`, also after GraphML; read plain graphs as well.

    Edges without marks are read as in a CPDAG (or DAG): an arc is ``-->``, arcs in both directions
    and edges of an undirected graph are ``---``. Nodes are named by their attribute ``label``, if
    all have one and they differ, else by what they are.

    Raises
    ------
    StructureError
        If the graph has parallel edges, loops, unknown marks, or arcs that contradict each other.
    """
    if graph.is_multigraph():
        raise StructureError("a graph with parallel edges (multigraph) is no PAG or CPDAG")
    labels = [graph.nodes[node].get("label") for node in graph.nodes]
    if None in labels or len({str(label) for label in labels}) < len(labels):
        labels = list(graph.nodes)
    position = {node: k for k, node in enumerate(graph.nodes)}
    marks = empty_marks(len(position))
    marked = False
    for u, v, data in graph.edges(data=True):
        i, j = position[u], position[v]
        if "mark_source" in data or "mark_target" in data:
            marked = True
            pair = _code(data.get("mark_source")), _code(data.get("mark_target"))
            if marks[i, j] and pair != (marks[j, i], marks[i, j]):
                raise StructureError(f"two arcs between {u!r} and {v!r} have different marks")
        else:
            both = not graph.is_directed() or graph.has_edge(v, u)
            pair = TAIL, TAIL if both else ARROW
        marks[j, i], marks[i, j] = pair
    kind = graph.graph.get("kind", None if marked else "cpdag")
    return NamedGraph(PAG(marks), tuple(labels), kind)


def _code(name: Any) -> int:
    if name not in _CODES:
        raise StructureError(f"an edge has the mark {name!r}; marks are circle, arrow and tail")
    return _CODES[name]


def to_dot(
    pag: PAG,
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
    lines = [f"digraph {kind} {{", "  edge [dir=both];"]
    for node in graph.nodes:
        text = graph.nodes[node]["label"].replace("\\", "\\\\").replace('"', '\\"')
        text = text.replace("\n", "\\n").replace("\x00", "�")
        lines.append(f'  {node} [label="{text}"];')
    for u, v, data in graph.edges(data=True):
        tail, head = _DOT[int(pag.marks[v, u])], _DOT[int(pag.marks[u, v])]
        look = f"arrowtail={tail}, arrowhead={head}"
        if "confidence" in data:
            share = data["confidence"]
            look += (
                f', penwidth={0.5 + 2.5 * share:.2f}, label="{share:.2f}", '
                f'tooltip="confidence {share:.3f}"'
            )
        lines.append(f"  {u} -> {v} [{look}];")
    return "\n".join([*lines, "}"]) + "\n"


def to_graphml(
    pag: PAG,
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
    stream = io.BytesIO()
    graph = to_networkx(pag, labels, confidence=confidence, kind=kind)
    for node in graph.nodes:
        graph.nodes[node]["label"] = _NOT_XML.sub("�", graph.nodes[node]["label"])
    nx.write_graphml(graph, stream, encoding="utf-8")
    if path is None:
        return stream.getvalue().decode("utf-8")
    return write_bytes(path, stream.getvalue())


def to_dict(
    pag: PAG,
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
            "mark_source": _NAMES[int(pag.marks[j, i])],
            "mark_target": _NAMES[int(pag.marks[i, j])],
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


def from_dict(value: Any) -> PAG:
    """Invert `to_dict`.

    Raises
    ------
    StructureError
        If the value does not describe a PAG.
    """
    return named_from_dict(value).pag


def named_from_dict(value: Any) -> NamedGraph:
    """Invert `to_dict`, names and kind included (labels that are not all different are numbered).

    Raises
    ------
    StructureError
        If the value does not describe a graph.
    """
    try:
        labels = record({"nodes": many(record({"label": text}, {"label"}))})(value, "")["nodes"]
        n = len(labels)
        mark, node = choice(*_CODES), whole(0, n - 1)
        edge = record({"source": node, "target": node, "mark_source": mark, "mark_target": mark})
        found = record({"edges": many(edge), "kind": maybe(text)}, {"kind"})(value, "")
    except OutputError as error:
        raise StructureError(f"not a PAG as `to_dict` writes it: {error}") from error
    marks = empty_marks(n)
    for one in found["edges"]:
        i, j = one["source"], one["target"]
        pair = _CODES[one["mark_source"]], _CODES[one["mark_target"]]
        if marks[i, j] and pair != (marks[j, i], marks[i, j]):
            raise StructureError(f"two edges between {i} and {j} have different marks")
        marks[j, i], marks[i, j] = pair
    names = [one.get("label", str(k)) for k, one in enumerate(labels)]
    if len(set(names)) < n:
        names = [str(k) for k in range(n)]
    return NamedGraph(PAG(marks), tuple(names), found.get("kind"))


def to_json(
    pag: PAG,
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
