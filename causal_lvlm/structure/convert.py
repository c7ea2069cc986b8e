"""Graphs of other Python packages: causal-learn and pywhy-graphs, both ways.

Neither package is needed by this one; each is imported only inside the functions for it. For
networkx see `causal_lvlm.structure.export`.

**causal-learn** keeps an array ``graph`` whose entry (i, j) is the mark **at i** on the edge i-j:
-1 tail, 1 arrowhead, 2 circle. That is `PAG.marks` transposed, with other numbers.

**pywhy-graphs** keeps one networkx graph per kind of edge. With the marks of an edge u-v:

1. ``u --> v``: directed (u, v). ``u <-> v``: bidirected. ``u --- v``: undirected.
2. A circle at v: circle (u, v). With a circle at u and an arrowhead at v, ``u o-> v``, that is
   circle (v, u) and directed (u, v); ``u o-o v`` is circle both ways.
3. A circle at u and a tail at v, ``u o-- v``, is circle (v, u) and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.errors import StructureError
from causal_lvlm.structure.marks import ARROW, CIRCLE, TAIL, edges, node_texts
from causal_lvlm.structure.named import NamedGraph
from causal_lvlm.structure.pag import PAG

__all__ = ["from_causal_learn", "from_pywhy", "to_causal_learn", "to_pywhy"]

_CAUSAL_LEARN = {TAIL: -1, ARROW: 1, CIRCLE: 2}


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StructureError(
            f"this conversion needs the package {package} (pip install {package}): {error}"
        ) from error


def to_causal_learn(pag: PAG, labels: Sequence[str] | None = None, *, kind: str = "pag") -> Any:
    """Return a ``causallearn.graph.GeneralGraph.GeneralGraph``.

    Raises
    ------
    StructureError
        If causal-learn is not installed, labels do not fit or repeat (causal-learn tells nodes
        apart by name), or the graph is not of this kind.
    """
    general = _module("causallearn.graph.GeneralGraph", "causal-learn")
    node = _module("causallearn.graph.GraphNode", "causal-learn").GraphNode
    named = NamedGraph(pag, tuple(node_texts(pag, labels)), kind)
    graph = general.GeneralGraph([node(name) for name in named.names])
    # Its add_edge refuses `o--` in silence, so the array is filled directly; directed paths are
    # then collected again, as add_edge would have done.
    codes = np.zeros(4, dtype=np.int64)
    for mark, code in _CAUSAL_LEARN.items():
        codes[mark] = code
    graph.graph = codes[pag.marks].T.copy()
    graph.reconstitute_dpath(graph.get_graph_edges())
    graph.set_pag(kind == "pag")
    graph.set_pattern(kind == "cpdag")
    return graph


def from_causal_learn(graph: Any) -> NamedGraph:
    """Read a ``GeneralGraph`` of causal-learn, or a result that has one as ``.G``.

    The kind is read from its flags ``pag`` and ``pattern``, which few algorithms set.

    Raises
    ------
    StructureError
        If it is no such graph, or has two edges between two nodes.
    """
    graph = getattr(graph, "G", graph)  # what its PC returns
    try:
        array = np.asarray(graph.graph).astype(np.int64)
        names = tuple(str(node.get_name()) for node in graph.get_nodes())
    except (AttributeError, TypeError, ValueError) as error:
        raise StructureError(
            f"a GeneralGraph of causal-learn is needed, not {type(graph).__name__}: {error}"
        ) from error
    marks = np.zeros(array.shape, dtype=np.uint8)
    for mark, code in _CAUSAL_LEARN.items():
        marks[array.T == code] = mark
    strange = np.argwhere((array.T != 0) & (marks == 0))
    if len(strange):
        i, j = strange[0]
        raise StructureError(
            f"between {names[i]!r} and {names[j]!r} there is more than one edge, or a mark that is "
            "neither circle, arrowhead nor tail"
        )
    flags = [k for k, name in (("pag", "pag"), ("cpdag", "pattern")) if getattr(graph, name, False)]
    return NamedGraph(PAG(marks), names, flags[0] if len(flags) == 1 else None)


def to_pywhy(pag: PAG, labels: Sequence[str] | None = None, *, kind: str = "pag") -> Any:
    """Return a ``pywhy_graphs.PAG`` or ``pywhy_graphs.CPDAG`` with the labels as nodes.

    Without labels nodes are the numbers 0..N-1.

    Raises
    ------
    StructureError
        If pywhy-graphs is not installed, labels do not fit or repeat, or the graph is not of this
        kind.
    """
    package = _module("pywhy_graphs", "pywhy-graphs")
    named = NamedGraph(pag, tuple(node_texts(pag, labels)), kind)
    nodes: Sequence[Any] = range(pag.n_nodes) if labels is None else named.names
    graph = package.PAG() if kind == "pag" else package.CPDAG()
    graph.add_nodes_from(list(nodes))
    for i, j in edges(pag):
        at_i, at_j = int(pag.marks[j, i]), int(pag.marks[i, j])
        u, v = nodes[i], nodes[j]
        if at_i == at_j == ARROW:
            graph.add_edge(u, v, graph.bidirected_edge_name)
        elif at_i == at_j == TAIL:
            graph.add_edge(u, v, graph.undirected_edge_name)
        else:
            for start, end, mark in ((v, u, at_i), (u, v, at_j)):
                if mark != TAIL:
                    of_kind = graph.directed_edge_name if mark == ARROW else graph.circle_edge_name
                    graph.add_edge(start, end, of_kind)
    return graph


def from_pywhy(graph: Any) -> NamedGraph:
    """Read a ``PAG`` or ``CPDAG`` of pywhy-graphs (any graph with ``get_graphs()`` of its kinds).

    Raises
    ------
    StructureError
        If it is no such graph, or two nodes are joined in a way that is no edge of a PAG.
    """
    nodes, found, kind = _pywhy_edges(graph)
    position = {node: k for k, node in enumerate(nodes)}
    marks = np.zeros((len(nodes), len(nodes)), dtype=np.uint8)

    def put(start: Any, end: Any, mark: int) -> None:
        i, j = position[start], position[end]
        if marks[i, j]:
            raise StructureError(f"{start!r} and {end!r} are joined by more than one edge")
        marks[i, j] = mark

    for part, mark in (("directed", ARROW), ("circle", CIRCLE)):
        for u, v in found[part]:
            put(u, v, mark)
    for part, mark in (("bidirected", ARROW), ("undirected", TAIL)):
        for u, v in found[part]:
            put(u, v, mark)
            put(v, u, mark)
    marks[(marks == 0) & (marks.T != 0)] = TAIL  # one mark alone: the other end is a tail
    directed = {(position[u], position[v]) for u, v in found["directed"]}
    both = sorted((i, j) for i, j in directed if i <= j and (j, i) in directed)
    if both:
        u, v = (nodes[k] for k in both[0])
        raise StructureError(f"{u!r} and {v!r} are joined by directed edges both ways")
    return NamedGraph(PAG(marks), tuple(str(node) for node in nodes), kind)


def _pywhy_edges(graph: Any) -> tuple[list[Any], dict[str, Any], str]:
    """Return the nodes, the edges of each of the four kinds, and the kind of the graph."""
    try:
        parts = graph.get_graphs()
        nodes = list(graph.nodes)
    except (AttributeError, TypeError) as error:
        raise StructureError(
            f"a PAG or CPDAG of pywhy-graphs is needed, not {type(graph).__name__}"
        ) from error
    names = {
        part: getattr(graph, f"{part}_edge_name", part)
        for part in ("directed", "undirected", "bidirected", "circle")
    }
    unknown = set(parts) - set(names.values())
    if unknown:
        raise StructureError(f"edges of the kind {sorted(unknown)} have no place in a PAG or CPDAG")
    found = {part: parts[name].edges if name in parts else () for part, name in names.items()}
    return nodes, found, "pag" if names["circle"] in parts else "cpdag"
