"""The marks of edges: their codes, which edges there are, and what may be said about them.

``marks[i, j]`` is the mark **at j** on the edge i-j: 0 no edge, 1 circle, 2 arrowhead, 3 tail (the
coding of the R package pcalg).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from causal_lvlm.arrays import FloatArray, UInt8Array, frozen
from causal_lvlm.errors import StructureError

__all__ = [
    "ARROW",
    "CIRCLE",
    "CODES",
    "KINDS",
    "NAMES",
    "NONE",
    "TAIL",
    "HasMarks",
    "check_confidence",
    "check_kind",
    "edge_symbol",
    "edges",
    "empty_marks",
    "node_texts",
]

NONE, CIRCLE, ARROW, TAIL = 0, 1, 2, 3
_LEFT = {CIRCLE: "o", ARROW: "<", TAIL: "-"}
_RIGHT = {CIRCLE: "o", ARROW: ">", TAIL: "-"}
NAMES = {CIRCLE: "circle", ARROW: "arrow", TAIL: "tail"}
CODES = {name: code for code, name in NAMES.items()}
KINDS = ("pag", "cpdag")
MAX_NODES = 20_000  # of a graph from a file; its matrix of marks has the square of it


class HasMarks(Protocol):
    """A graph as far as its marks go: `causal_lvlm.structure.PAG`."""

    @property
    def marks(self) -> UInt8Array:
        """Codes of the marks, uint8 (N, N)."""

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""


def edges(pag: HasMarks) -> list[tuple[int, int]]:
    """Return the edges as pairs (i, j) with i < j, in lexicographic order."""
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(pag.marks))]


def edge_symbol(pag: HasMarks, i: int, j: int) -> str:
    """Return the edge between i and j as text, such as ``"o->"``; empty if there is none."""
    if pag.marks[i, j] == NONE:
        return ""
    return _LEFT[int(pag.marks[j, i])] + "-" + _RIGHT[int(pag.marks[i, j])]


def check_kind(pag: HasMarks, kind: str) -> None:
    """Raise StructureError if the kind is unknown, or the graph cannot be of that kind."""
    if kind not in KINDS:
        raise StructureError(f"kind must be 'pag' or 'cpdag', not {kind!r}")
    marks = pag.marks
    if kind == "cpdag" and ((marks == CIRCLE) | ((marks == ARROW) & (marks.T != TAIL))).any():
        raise StructureError(
            "a CPDAG has only the edges --> and ---, but this graph has circles or <->; "
            "is it a PAG (kind='pag')?"
        )


def empty_marks(n: int) -> UInt8Array:
    """Return the marks of a graph without edges, uint8 (n, n), to be filled from a file.

    Raises
    ------
    StructureError
        If a file names more nodes than a graph can have here.
    """
    if n > MAX_NODES:
        raise StructureError(f"a graph of {n} nodes is too large; at most {MAX_NODES} are read")
    return np.zeros((n, n), dtype=np.uint8)


def node_texts(pag: HasMarks, labels: Sequence[str] | None) -> list[str]:
    """Return a text for each node, by default its number; raise if their number is wrong."""
    if labels is None:
        return [str(node) for node in range(pag.n_nodes)]
    if len(labels) != pag.n_nodes:
        raise StructureError(f"{len(labels)} labels were given for {pag.n_nodes} nodes")
    return [str(label) for label in labels]


def check_confidence(pag: HasMarks, confidence: Any) -> FloatArray | None:
    """Return the confidence of each edge as float64 (N, N); NaN where there is none.

    Raises
    ------
    StructureError
        If it is not symmetric of shape (N, N), or a value of an edge is not in [0, 1].
    """
    if confidence is None:
        return None
    values: FloatArray = frozen(confidence, np.float64)
    n = pag.n_nodes
    if values.shape != (n, n):
        raise StructureError(f"confidence has shape {values.shape}; {n} nodes need {(n, n)}")
    here = values[pag.marks > 0]
    if ((here < 0) | (here > 1)).any():
        raise StructureError(
            f"confidence must lie between 0 and 1, not between {np.nanmin(here):g} and "
            f"{np.nanmax(here):g}"
        )
    if not np.array_equal(values, values.T, equal_nan=True):
        raise StructureError("confidence must be symmetric: it belongs to an edge, not to an end")
    return values
