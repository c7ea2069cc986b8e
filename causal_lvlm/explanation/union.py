"""One graph over tokens instead of one per head.

1. Nodes of different heads are the same if they stand for the same positions.
2. Edges are counted over heads and weighted by how much each head looks at the candidates
   (`HeadGraph.candidate_mass`): a head that gives all its weight to a sink says little about them.
3. A mark is the arrowhead or tail that more than half of the weight of the heads **with this edge**
   has at that end, otherwise a circle (`causal_lvlm.structure.aggregate`).
4. Edges below a share may be left out; the PDS-tree of the target is grown in what is left.

The result has what pictures read of a head's graph, so it can be drawn like one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.structure.aggregate import UnionGraph, aggregate_graphs
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.pds import PDSTree, pds_tree

__all__ = ["TokenUnion", "union_graph"]


# Of the PDS-tree: deeper, that of a dense union holds every node many times.
_DEPTH = 5


@dataclass(frozen=True, eq=False)
class TokenUnion:
    """The graphs of several heads as one graph over tokens.

    Attributes
    ----------
    union : UnionGraph
        Votes, weights and marks of all edges; its ids are `members`.
    pag : PAG
        The edges whose weight is at least `min_share`, with majority marks.
    tree : PDSTree
        Rooted at `target_node`, in `pag`.
    positions : ndarray of int64, shape (N,)
        First sequence position of each node, ascending; the target is the last node.
    members : tuple of tuple of int
        All positions of each node.
    labels : tuple of str
    target_node : int
    heads : tuple of (int or None)
        The heads that were united, in the order of ``union.weights``.
    min_share : float
    sink_mass : float
        Weighted mean over heads.
    candidate_mass : float
        Mean over heads; NaN if a head's is unknown.
    sinks : tuple of int
        Positions that are a sink in any head.
    """

    union: UnionGraph
    pag: PAG
    tree: PDSTree
    positions: IntArray
    members: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    target_node: int
    heads: tuple[int | None, ...]
    min_share: float
    sink_mass: float
    candidate_mass: float
    sinks: tuple[int, ...] = ()

    head = None  # pictures leave out the number of the head

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", frozen(self.positions, np.int64))

    @property
    def structure(self) -> TokenUnion:
        """Return the union itself: pictures look for ``graph.structure.pag``."""
        return self

    @property
    def kind(self) -> str:
        """``"pag"`` or ``"cpdag"``, as the heads' graphs."""
        return self.union.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, under the name that exports use."""
        return self.labels

    @property
    def confidence(self) -> FloatArray:
        """Weighted share of the heads with each edge, shape (N, N)."""
        return self.union.weight

    @property
    def isolated(self) -> bool:
        """Whether the target has no neighbour."""
        return len(self.tree.node) <= 1

    def stable(self, min_share: float = 0.5) -> TokenUnion:
        """Return the same union with only the edges of at least this weighted share of heads.

        Raises
        ------
        StructureError
            If `min_share` is not in [0, 1].
        """
        pag = self.union.stable(min_share)
        values = {**vars(self), "pag": pag, "min_share": min_share}
        tree = pds_tree(pag, root=self.target_node, max_depth=_DEPTH)
        return TokenUnion(**{**values, "tree": tree})

    def summary(self) -> dict[str, Any]:
        """Return the numbers without arrays."""
        return {
            **self.union.summary(),
            "heads": list(self.heads),
            "min_share": self.min_share,
            "edges_kept": self.pag.n_edges,
            "neighbours_of_target": len(self.tree.within(1)),
            "sink_mass": self.sink_mass,
            "candidate_mass": None if math.isnan(self.candidate_mass) else self.candidate_mass,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return `summary`, nodes, votes of every edge and the PDS-tree, as plain data."""
        return {
            **self.union.to_dict(),
            **self.summary(),
            "ids": [list(m) for m in self.members],
            "positions": self.positions.tolist(),
            "labels": list(self.labels),
            "target_node": self.target_node,
            "sinks": list(self.sinks),
            "tree": self.tree.to_dict(),
        }


class HasGraphs(Protocol):
    """An `Explanation`, or anything else that has graphs of heads."""

    @property
    def graphs(self) -> Sequence[HeadGraph]:
        """One graph per head."""


def union_graph(
    graphs: HasGraphs | Sequence[HeadGraph],
    *,
    weights: str | Sequence[float] | None = "candidate_mass",
    min_share: float = 0.0,
) -> TokenUnion:
    """Unite the graphs of an explanation's heads.

    Parameters
    ----------
    graphs : Explanation or sequence of HeadGraph
        All for the same target.
    weights : "candidate_mass", sequence of float or None
        Weight of each head: its `candidate_mass`, the numbers given, or all the same.
    min_share : float, default 0
        Edges that a smaller weighted share of the heads has are left out of ``pag`` and ``tree``
        (not of ``union``).

    Returns
    -------
    TokenUnion

    Raises
    ------
    StructureError
        If there is no graph, the graphs are of different targets, or weights do not fit.
    """
    heads = list(graphs if isinstance(graphs, Sequence) else graphs.graphs)
    if not heads:
        raise StructureError(
            "there is no graph to unite: no head of this explanation has one (see its "
            "dropped_heads)"
        )
    targets = {graph.members[graph.target_node] for graph in heads}
    if len(targets) > 1:
        raise StructureError(
            f"the graphs are of different targets, at the positions {sorted(targets)[:4]}; unite "
            "those of one target"
        )
    masses = [graph.candidate_mass for graph in heads]
    shares: Sequence[float] | None
    if isinstance(weights, str):
        if weights != "candidate_mass":
            raise StructureError(
                f"weights must be 'candidate_mass', one number per head, or None, not {weights!r}"
            )
        unknown = [graph.head for graph in heads if math.isnan(graph.candidate_mass)]
        if unknown or not sum(masses) > 0.0:
            which = f"of heads {unknown[:8]} is unknown" if unknown else "is zero in every head"
            raise StructureError(f"candidate_mass {which}; give weights=None or numbers")
        shares = masses
    else:
        shares = weights
    target = targets.pop()
    labels = {m: name for g in heads for m, name in zip(g.members, g.labels, strict=True)}
    ids = [*sorted(set(labels) - {target}), target]
    union = aggregate_graphs(
        [graph.structure for graph in heads],
        nodes=[graph.members for graph in heads],
        weights=shares,
        order=ids,
    )
    pag = union.stable(min_share)
    return TokenUnion(
        union=union,
        pag=pag,
        tree=pds_tree(pag, root=len(ids) - 1, max_depth=_DEPTH),
        positions=np.array([m[0] for m in ids]),
        members=tuple(ids),
        labels=tuple(labels[m] for m in ids),
        target_node=len(ids) - 1,
        heads=tuple(graph.head for graph in heads),
        min_share=float(min_share),
        sink_mass=float(np.dot(union.weights, [graph.sink_mass for graph in heads])),
        candidate_mass=float(np.mean(masses)),
        sinks=tuple(sorted({p for graph in heads for p in graph.sinks})),
    )
