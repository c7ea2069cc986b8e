"""A graph as other programs see it: marks with names of the nodes and the kind of graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, UInt8Array, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.structure.pag import ARROW, CIRCLE, PAG, TAIL

__all__ = ["NamedGraph", "check_confidence", "check_kind", "empty_marks", "node_texts"]

KINDS = ("pag", "cpdag")
MAX_NODES = 20_000  # of a graph from a file; its matrix of marks has the square of it


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


def check_kind(pag: PAG, kind: str) -> None:
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


def node_texts(pag: PAG, labels: Sequence[str] | None) -> list[str]:
    """Return a text for each node, by default its number; raise if their number is wrong."""
    if labels is None:
        return [str(node) for node in range(pag.n_nodes)]
    if len(labels) != pag.n_nodes:
        raise StructureError(f"{len(labels)} labels were given for {pag.n_nodes} nodes")
    return [str(label) for label in labels]


def check_confidence(pag: PAG, confidence: Any) -> FloatArray | None:
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
