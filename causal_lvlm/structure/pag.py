"""The partial ancestral graph (PAG) as a frozen array of edge marks.

The codes are those of `causal_lvlm.structure.marks`. What can be asked of a graph are free
functions on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import UInt8Array, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.structure import export
from causal_lvlm.structure.marks import ARROW, CIRCLE, NONE, TAIL

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import networkx as nx

__all__ = ["PAG", "adjacent_nodes", "ancestors", "children", "parents", "spouses"]


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

    >>> from causal_lvlm.structure.marks import edge_symbol, edges
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
        return export.to_networkx(self, labels=labels)

    def to_dot(self, labels: Sequence[str] | None = None) -> str:
        """See `causal_lvlm.structure.export.to_dot`."""
        return export.to_dot(self, labels=labels)

    def to_graphml(
        self, path: str | os.PathLike[str] | None = None, labels: Sequence[str] | None = None
    ) -> str | Path:
        """See `causal_lvlm.structure.export.to_graphml`."""
        return export.to_graphml(self, path, labels=labels)

    def to_json(self, labels: Sequence[str] | None = None) -> str:
        """See `causal_lvlm.structure.export.to_json`."""
        return export.to_json(self, labels=labels)

    def to_dict(self, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """See `causal_lvlm.structure.export.to_dict`."""
        return export.to_dict(self, labels=labels)


def adjacent_nodes(pag: PAG, node: int) -> list[int]:
    """Return the neighbours of a node, ascending."""
    return [int(k) for k in np.flatnonzero(pag.marks[node])]


def parents(pag: PAG, node: int) -> list[int]:
    """Return the nodes k with k -> node (a tail at k, an arrowhead at the node)."""
    here, there = pag.marks[:, node], pag.marks[node]
    return [int(k) for k in np.flatnonzero((here == ARROW) & (there == TAIL))]


def children(pag: PAG, node: int) -> list[int]:
    """Return the nodes k with node -> k."""
    here, there = pag.marks[:, node], pag.marks[node]
    return [int(k) for k in np.flatnonzero((here == TAIL) & (there == ARROW))]


def spouses(pag: PAG, node: int) -> list[int]:
    """Return the nodes k with k <-> node."""
    here, there = pag.marks[:, node], pag.marks[node]
    return [int(k) for k in np.flatnonzero((here == ARROW) & (there == ARROW))]


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
