"""One graph out of several: union with vote counts, majority marks, stable edges.

1. Nodes of the graphs are matched by their ids; the union has every id that occurs.
2. An edge is in the union if any graph has it. Its vote count is the number of graphs with it, its
   weight the weighted share of **all** graphs with it (a graph without one of its nodes counts as
   a graph without the edge).
3. A mark of the union at one end of an edge is the arrowhead or tail that more than half of the
   weight of the graphs with this edge has there, otherwise a circle. In CPDAGs an edge is directed
   if more than half of that weight directs it that way, otherwise undirected.

The union summarises; no graph need look like it, and it need not be a valid PAG.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, UInt8Array, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.structure.marks import ARROW, CIRCLE, TAIL, check_kind
from causal_lvlm.structure.pag import PAG

if TYPE_CHECKING:
    import numpy.typing as npt

    from causal_lvlm.structure.result import LearnedStructure

__all__ = ["UnionGraph", "aggregate_graphs", "majority_marks"]

_ROUNDING = 1e-12  # of sums of weights


def majority_marks(votes: npt.ArrayLike, kind: str = "pag") -> UInt8Array:
    """Return the marks that have the majority among those who have the edge.

    Parameters
    ----------
    votes : array_like of shape (N, N, 4)
        ``[i, j, c]``: votes (counts or weights) for mark c at j; index 0 is not looked at.
    kind : {"pag", "cpdag"}

    Returns
    -------
    ndarray of uint8, shape (N, N)
        Circle where neither arrowhead nor tail has more than half of the votes of the edge; for a
        CPDAG tails at both ends where neither direction has. Zero where nobody has the edge.
    """
    given = np.asarray(votes, dtype=np.float64)
    total = given[:, :, 1:].sum(axis=2)
    half = total / 2.0 + _ROUNDING * total
    marks = np.full(total.shape, CIRCLE, dtype=np.uint8)
    if kind == "cpdag":
        # An arrowhead at j is i -> j: in a CPDAG no edge has two.
        marks[:] = TAIL
        marks[given[:, :, ARROW] > half] = ARROW
    else:
        marks[given[:, :, ARROW] > half] = ARROW
        marks[given[:, :, TAIL] > half] = TAIL
    marks[total <= 0.0] = 0
    return marks


@dataclass(frozen=True, eq=False)
class UnionGraph:
    """The union of several graphs.

    Attributes
    ----------
    ids : tuple
        Id of every node.
    votes : ndarray of int64, shape (N, N)
        Symmetric: number of graphs with an edge between i and j.
    possible : ndarray of int64, shape (N, N)
        Number of graphs in which both i and j are nodes; on the diagonal those with node i.
    weight : ndarray of float64, shape (N, N)
        Symmetric: weighted share of all graphs that have the edge, between 0 and 1.
    mark_votes : ndarray of int64, shape (N, N, 4)
        ``[i, j, c]``: number of graphs with mark c **at j** on i-j (c = 0: both are nodes, but
        there is no edge).
    pag : PAG
        All edges, with majority marks.
    n_graphs : int
    weights : tuple of float
        Weight of every graph; they add up to 1.
    kind : str
        ``"pag"`` or ``"cpdag"``.
    """

    ids: tuple[Hashable, ...]
    votes: IntArray
    possible: IntArray
    weight: FloatArray
    mark_votes: IntArray
    pag: PAG
    n_graphs: int
    weights: tuple[float, ...]
    kind: str = "pag"

    def __post_init__(self) -> None:
        for name in ("votes", "possible", "mark_votes"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.int64))
        object.__setattr__(self, "weight", frozen(self.weight, np.float64))

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.ids)

    @property
    def confidence(self) -> FloatArray:
        """The weights of the edges, under the name that drawings and exports use."""
        return self.weight

    def stable(self, min_share: float = 0.5) -> PAG:
        """Return the graph of the edges whose weight is at least `min_share`, marks as in `pag`.

        Raises
        ------
        StructureError
            If `min_share` is not in [0, 1].
        """
        if not 0.0 <= min_share <= 1.0:
            raise StructureError(f"min_share must be in [0, 1], not {min_share}")
        return PAG(np.where(self.weight >= min_share - _ROUNDING, self.pag.marks, 0))

    def summary(self) -> dict[str, Any]:
        """Return the numbers without arrays: edges by how many graphs have them."""
        votes = self.votes[np.triu_indices(self.n_nodes, 1)]
        return {
            "graphs": self.n_graphs,
            "graph": self.kind,
            "nodes": self.n_nodes,
            "edges": int(np.count_nonzero(votes)),
            "edges_in_one_graph": int(np.count_nonzero(votes == 1)),
            "edges_in_half": int(np.count_nonzero(2 * votes >= self.n_graphs)),
            "edges_in_all": int(np.count_nonzero(votes == self.n_graphs)),
            "weights": list(self.weights),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return `summary`, ids, and one entry per edge with its votes, as plain data."""
        found = [
            {
                "source": int(i),
                "target": int(j),
                "votes": int(self.votes[i, j]),
                "weight": float(self.weight[i, j]),
                "mark_source": int(self.pag.marks[j, i]),
                "mark_target": int(self.pag.marks[i, j]),
                "marks_source": self.mark_votes[j, i, 1:].tolist(),
                "marks_target": self.mark_votes[i, j, 1:].tolist(),
            }
            for i, j in np.argwhere(np.triu(self.votes) > 0)
        ]
        return {**self.summary(), "ids": list(self.ids), "edge_votes": found}


def aggregate_graphs(
    structures: Sequence[PAG | LearnedStructure],
    *,
    nodes: Sequence[Sequence[Hashable]] | None = None,
    weights: Sequence[float] | None = None,
    order: Sequence[Hashable] | None = None,
) -> UnionGraph:
    """Unite graphs over the same or different nodes.

    Parameters
    ----------
    structures : sequence of PAG or LearnedStructure
        At least one, all of one kind. A bare `PAG` does not say its kind and takes the others'.
    nodes : sequence of sequences of hashable, optional
        Ids of the nodes of every graph. By default the names of the structures if all have names,
        else node numbers, for which all graphs need the same number of nodes.
    weights : sequence of float, optional
        One per graph, not negative, not all zero; by default all the same.
    order : sequence of hashable, optional
        The ids in the order that the union's nodes shall have. By default in the order in which
        they first occur.

    Returns
    -------
    UnionGraph

    Raises
    ------
    StructureError
        If there is no graph, kinds differ (or a bare graph has circles or ``<->`` and the others
        are CPDAGs), or ids or weights do not fit.

    Examples
    --------
    Two of three graphs have 0 o-> 1, one of them as 0 --> 1:

    >>> graphs = [PAG([[0, 2], [1, 0]]), PAG([[0, 2], [3, 0]]), PAG([[0, 0], [0, 0]])]
    >>> union = aggregate_graphs(graphs)
    >>> int(union.votes[0, 1]), float(union.weight[0, 1].round(3)), union.pag.marks.tolist()
    (2, 0.667, [[0, 2], [1, 0]])
    >>> union.stable(0.7).n_edges
    0
    """
    given = list(structures)
    if not given:
        raise StructureError("there is no graph to unite; give at least one")
    graphs = [graph if isinstance(graph, PAG) else graph.pag for graph in given]
    kinds = {getattr(graph, "kind", None) for graph in given} - {None}
    if len(kinds) > 1:
        raise StructureError(
            f"graphs of kinds {sorted(map(str, kinds))} cannot be united; choose one kind"
        )
    kind = str(kinds.pop()) if kinds else "pag"
    for graph in graphs:
        check_kind(graph, kind)
    ids_of = _ids(given, graphs, nodes)
    shares = _shares(weights, len(graphs))
    occurring = dict.fromkeys(name for ids in ids_of for name in ids)
    ids = tuple(occurring) if order is None else tuple(order)
    if len(set(ids)) != len(ids) or not set(occurring) <= set(ids):
        lost = [name for name in occurring if name not in set(ids)]
        raise StructureError(f"order must hold every id once; it lacks {lost[:5]} or repeats one")
    place = {name: k for k, name in enumerate(ids)}
    n = len(ids)
    votes = np.zeros((n, n, 4), dtype=np.int64)
    weighted = np.zeros((n, n, 4))
    for graph, names, share in zip(graphs, ids_of, shares, strict=True):
        at = np.array([place[name] for name in names], dtype=np.int64)
        rows, columns = at[:, None], at[None, :]
        votes[rows, columns, graph.marks] += 1
        weighted[rows, columns, graph.marks] += share
    weight = weighted[:, :, 1:].sum(axis=2)
    marks = majority_marks(weighted, kind)
    # Edges that only graphs of weight zero have are edges too; nobody says which marks they bear.
    only_zero = (votes[:, :, 1:].sum(axis=2) > 0) & (marks == 0)
    marks[only_zero] = TAIL if kind == "cpdag" else CIRCLE
    return UnionGraph(
        ids=ids,
        votes=votes[:, :, 1:].sum(axis=2),
        possible=votes.sum(axis=2),
        # Both triangles add the same numbers, but not always in one order.
        weight=np.clip((weight + weight.T) / 2.0, 0.0, 1.0),
        mark_votes=votes,
        pag=PAG(marks),
        n_graphs=len(graphs),
        weights=tuple(float(share) for share in shares),
        kind=kind,
    )


def _ids(
    given: list[Any], graphs: list[PAG], nodes: Sequence[Sequence[Hashable]] | None
) -> list[tuple[Hashable, ...]]:
    if nodes is None:
        names = [getattr(graph, "names", None) for graph in given]
        if all(name is not None for name in names):
            nodes = [name for name in names if name is not None]
        elif len({graph.n_nodes for graph in graphs}) == 1:
            nodes = [range(graphs[0].n_nodes)] * len(graphs)
        else:
            raise StructureError(
                f"the graphs have {sorted({g.n_nodes for g in graphs})} nodes; pass nodes=... to "
                "say which of them are the same"
            )
    ids = [tuple(one) for one in nodes]
    if len(ids) != len(graphs):
        raise StructureError(f"nodes are given for {len(ids)} graphs, but there are {len(graphs)}")
    for k, (graph, one) in enumerate(zip(graphs, ids, strict=True)):
        if len(one) != graph.n_nodes or len(set(one)) != len(one):
            raise StructureError(
                f"graph {k} has {graph.n_nodes} nodes and {len(set(one))} different ids out of "
                f"{len(one)}; every node needs an id of its own"
            )
    return ids


def _shares(weights: Sequence[float] | None, count: int) -> FloatArray:
    if weights is None:
        return np.full(count, 1.0 / count)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (count,):
        raise StructureError(
            f"weights have the shape {given.shape}; {count} graphs need ({count},)"
        )
    if not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise StructureError(
            f"weights must be finite, not negative and not all zero, got {given.tolist()[:8]}"
        )
    shares: FloatArray = given / given.sum()
    return shares
