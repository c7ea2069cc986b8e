"""The partial ancestral graph (PAG) as a frozen array of edge marks.

``marks[i, j]`` is the mark **at j** on the edge i-j: 0 no edge, 1 circle, 2 arrowhead, 3 tail (the
coding of the R package pcalg). What can be asked of a graph are free functions on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import UInt8Array, frozen
from causal_lvlm.errors import StructureError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import networkx as nx

__all__ = [
    "ARROW",
    "CIRCLE",
    "NONE",
    "PAG",
    "TAIL",
    "adjacent_nodes",
    "ancestors",
    "children",
    "edge_symbol",
    "edges",
    "parents",
    "spouses",
]

NONE, CIRCLE, ARROW, TAIL = 0, 1, 2, 3
_LEFT = {CIRCLE: "o", ARROW: "<", TAIL: "-"}
_RIGHT = {CIRCLE: "o", ARROW: ">", TAIL: "-"}


@dataclass(frozen=True, eq=False)
class PAG:
    """A mixed graph with circles, arrowheads and tails.

    Parameters
    ----------
    marks : array_like of shape (N, N)
        Edge marks in pcalg coding; kept as a read-only uint8 array. An edge has a mark at both
        ends (``marks[i, j]`` and ``marks[j, i]`` are both zero or both not), and no node has an
        edge to itself. Whether the marks describe a valid PAG is another question:
        `causal_lvlm.structure.check_validity`.

    Raises
    ------
    StructureError
        If the array is not square, holds other codes than 0..3, has half-edges or self-loops.

    Examples
    --------
    0 -> 1, and 1 o-> 2:

    >>> pag = PAG([[0, 2, 0], [3, 0, 2], [0, 1, 0]])
    >>> [(i, edge_symbol(pag, i, j), j) for i, j in edges(pag)]
    [(0, '-->', 1), (1, 'o->', 2)]
    """

    marks: UInt8Array

    def __post_init__(self) -> None:
        given = np.asarray(self.marks)
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise StructureError(f"marks must be a square matrix, not of shape {given.shape}")
        if given.size and not np.isin(given, (NONE, CIRCLE, ARROW, TAIL)).all():
            raise StructureError(
                f"marks hold the values {np.unique(given)[:8].tolist()}; allowed are 0 (no edge), "
                "1 (circle), 2 (arrowhead) and 3 (tail)"
            )
        marks = frozen(given, np.uint8)
        if marks.diagonal().any():
            node = int(np.flatnonzero(marks.diagonal())[0])
            raise StructureError(f"node {node} has an edge to itself; the diagonal must be 0")
        half = (marks > 0) != (marks.T > 0)
        if half.any():
            i, j = (int(k) for k in np.argwhere(half)[0])
            raise StructureError(
                f"the edge {i}-{j} has a mark at one end only ({marks[i, j]} at {j}, "
                f"{marks[j, i]} at {i}); both ends need one, or none"
            )
        object.__setattr__(self, "marks", marks)

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return int(self.marks.shape[0])

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(np.count_nonzero(self.marks)) // 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PAG) and bool(np.array_equal(self.marks, other.marks))

    def __hash__(self) -> int:
        return hash((self.n_nodes, self.marks.tobytes()))

    def __repr__(self) -> str:
        return f"PAG({self.n_nodes} nodes, {self.n_edges} edges)"

    def to_networkx(self, labels: Sequence[str] | None = None) -> nx.DiGraph:
        """See `causal_lvlm.structure.export.to_networkx`."""
        from causal_lvlm.structure import export

        return export.to_networkx(self, labels=labels)

    def to_dot(self, labels: Sequence[str] | None = None) -> str:
        """See `causal_lvlm.structure.export.to_dot`."""
        from causal_lvlm.structure import export

        return export.to_dot(self, labels=labels)

    def to_graphml(
        self, path: str | os.PathLike[str] | None = None, labels: Sequence[str] | None = None
    ) -> str | Path:
        """See `causal_lvlm.structure.export.to_graphml`."""
        from causal_lvlm.structure import export

        return export.to_graphml(self, path, labels=labels)

    def to_json(self, labels: Sequence[str] | None = None) -> str:
        """See `causal_lvlm.structure.export.to_json`."""
        from causal_lvlm.structure import export

        return export.to_json(self, labels=labels)

    def to_dict(self, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """See `causal_lvlm.structure.export.to_dict`."""
        from causal_lvlm.structure import export

        return export.to_dict(self, labels=labels)


def edges(pag: PAG) -> list[tuple[int, int]]:
    """Return the edges as pairs (i, j) with i < j, in lexicographic order."""
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(pag.marks))]


def edge_symbol(pag: PAG, i: int, j: int) -> str:
    """Return the edge between i and j as text, such as ``"o->"``; empty if there is none."""
    if pag.marks[i, j] == NONE:
        return ""
    return _LEFT[int(pag.marks[j, i])] + "-" + _RIGHT[int(pag.marks[i, j])]


def adjacent_nodes(pag: PAG, node: int) -> list[int]:
    """Return the neighbours of a node, ascending."""
    return [int(k) for k in np.flatnonzero(pag.marks[node])]


def parents(pag: PAG, node: int) -> list[int]:
    """Return the nodes k with k -> node (a tail at k, an arrowhead at the node)."""
    return [int(k) for k in np.flatnonzero((pag.marks[:, node] == 2) & (pag.marks[node] == 3))]


def children(pag: PAG, node: int) -> list[int]:
    """Return the nodes k with node -> k."""
    return [int(k) for k in np.flatnonzero((pag.marks[node] == 2) & (pag.marks[:, node] == 3))]


def spouses(pag: PAG, node: int) -> list[int]:
    """Return the nodes k with k <-> node."""
    return [int(k) for k in np.flatnonzero((pag.marks[:, node] == 2) & (pag.marks[node] == 2))]


def ancestors(pag: PAG, node: int) -> list[int]:
    """Return the nodes with a path of directed edges to the node (without itself), ascending."""
    directed = (pag.marks == ARROW) & (pag.marks.T == TAIL)  # [i, j]: i -> j
    found = np.zeros(pag.n_nodes, dtype=bool)
    found[node] = True
    front = found.copy()
    while front.any():
        front = directed[:, front].any(axis=1) & ~found
        found |= front
    found[node] = False
    return [int(k) for k in np.flatnonzero(found)]
