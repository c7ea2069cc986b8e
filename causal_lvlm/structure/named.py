"""A graph as other programs see it: marks with names of the nodes and the kind of graph.

What `causal_lvlm.structure.export` writes as a networkx graph or as plain lists is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.fields import choice, many, maybe, record, text, whole
from causal_lvlm.structure.marks import ARROW, CODES, TAIL, check_kind, empty_marks
from causal_lvlm.structure.pag import PAG

__all__ = ["NamedGraph", "from_dict", "from_networkx", "named_from_dict"]


@dataclass(frozen=True)
class NamedGraph:
    """A graph that was read from a file or taken from another package.

    Parameters
    ----------
    pag : PAG
        The marks.
    names : tuple of str
        One for each node, all different.
    kind : {"pag", "cpdag"} or None
        None where the source does not say. In a CPDAG a tail at both ends is an undirected edge of
        the Markov class; in a PAG it says that samples were selected.

    Raises
    ------
    StructureError
        If names do not fit, or a CPDAG has other edges than ``-->`` and ``---``.
    """

    pag: PAG
    names: tuple[str, ...]
    kind: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        if len(self.names) != self.pag.n_nodes:
            raise StructureError(f"{len(self.names)} names for {self.pag.n_nodes} nodes")
        if len(set(self.names)) < len(self.names):
            twice = next(name for k, name in enumerate(self.names) if name in self.names[:k])
            raise StructureError(f"two nodes are named {twice!r}; names tell nodes apart")
        if self.kind is not None:
            check_kind(self.pag, self.kind)

    def in_order_of(self, names: Sequence[str]) -> NamedGraph:
        """Return the same graph with its nodes in another order.

        Raises
        ------
        StructureError
            If `names` are not the names of this graph.
        """
        missing = [name for name in names if name not in self.names]
        left = [name for name in self.names if name not in names]
        if missing or left:
            lacking = f"; it lacks {missing[:5]}" if missing else ""
            extra = f"; {left[:5]} are not asked for" if left else ""
            raise StructureError(
                f"the graph has the nodes {list(self.names[:8])}"
                f"{' and more' if len(self.names) > 8 else ''}{lacking}{extra}"
            )
        order = [self.names.index(name) for name in names]
        marks = self.pag.marks[np.ix_(order, order)]
        return NamedGraph(PAG(marks), tuple(names), self.kind)


def from_networkx(graph: nx.Graph) -> NamedGraph:
    """Invert `export.to_networkx`, also after GraphML; read plain graphs as well.

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
    if name not in CODES:
        raise StructureError(f"an edge has the mark {name!r}; marks are circle, arrow and tail")
    return CODES[name]


def from_dict(value: Any) -> PAG:
    """Invert `export.to_dict`.

    Raises
    ------
    StructureError
        If the value does not describe a PAG.
    """
    return named_from_dict(value).pag


def named_from_dict(value: Any) -> NamedGraph:
    """Invert `export.to_dict`, names and kind included (numbers if names repeat).

    Raises
    ------
    StructureError
        If the value does not describe a graph.
    """
    try:
        labels = record({"nodes": many(record({"label": text}, {"label"}))})(value, "")["nodes"]
        n = len(labels)
        mark, node = choice(*CODES), whole(0, n - 1)
        edge = record({"source": node, "target": node, "mark_source": mark, "mark_target": mark})
        found = record({"edges": many(edge), "kind": maybe(text)}, {"kind"})(value, "")
    except OutputError as error:
        raise StructureError(f"not a PAG as `to_dict` writes it: {error}") from error
    marks = empty_marks(n)
    for one in found["edges"]:
        i, j = one["source"], one["target"]
        pair = CODES[one["mark_source"]], CODES[one["mark_target"]]
        if marks[i, j] and pair != (marks[j, i], marks[i, j]):
            raise StructureError(f"two edges between {i} and {j} have different marks")
        marks[j, i], marks[i, j] = pair
    names = [one.get("label", str(k)) for k, one in enumerate(labels)]
    if len(set(names)) < n:
        names = [str(k) for k in range(n)]
    return NamedGraph(PAG(marks), tuple(names), found.get("kind"))
