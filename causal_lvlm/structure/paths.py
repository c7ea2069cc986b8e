"""Possibly directed paths: can a node be a cause of another, as far as a graph says?

A path from i to j is possibly directed if none of its edges has an arrowhead at the end that comes
earlier, so that in some graph that fits to the marks every edge may point towards j (Zhang,
Artificial Intelligence 172, 2008). A tail at the later end does not end a path: in a PAG such an
edge has an arrowhead at the earlier end, or it is undirected (selection, or the open direction of a
CPDAG). A walk is as good as a path, since what is left when its loops are cut out has the same
edges.

1. An edge u - v can be passed from u to v if the mark at u is a circle or a tail. That is in row v
   of the marks, so the nodes before v are read along a row.
2. From j all nodes before it, then all before those, until there are no new ones: each row is read
   once (2,500 nodes: some milliseconds).
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import BoolArray, UInt8Array
from causal_lvlm.structure.marks import CIRCLE, TAIL

__all__ = ["possible_causes", "possible_effects", "possibly_directed", "reached"]


def possibly_directed(marks: UInt8Array, i: int, j: int) -> bool:
    """Tell whether a possibly directed path leads from i to j.

    Parameters
    ----------
    marks : ndarray of shape (N, N)
        Of a PAG or CPDAG: ``pag.marks``.
    i, j : int
        Nodes. No path leads from a node to itself.

    Examples
    --------
    0 o-> 1 o-> 2, and 0 <-> 3:

    >>> marks = np.array([[0, 2, 0, 2], [1, 0, 2, 0], [0, 1, 0, 0], [2, 0, 0, 0]], dtype=np.uint8)
    >>> possibly_directed(marks, 0, 2), possibly_directed(marks, 2, 0)
    (True, False)
    >>> possibly_directed(marks, 0, 3), possible_causes(marks, 2).tolist()
    (False, [True, True, False, False])
    """
    return bool(possible_causes(marks, j)[i])


def possible_causes(marks: UInt8Array, node: int) -> BoolArray:
    """Return bool (N,): from where a possibly directed path leads to the node (not from itself)."""
    return reached((marks == CIRCLE) | (marks == TAIL), node)


def possible_effects(marks: UInt8Array, node: int) -> BoolArray:
    """Return bool (N,): to where a possibly directed path leads from the node (not to itself)."""
    return reached(((marks == CIRCLE) | (marks == TAIL)).T, node)


def reached(step: BoolArray, node: int) -> BoolArray:
    """Return bool (N,): where steps lead from the node (not itself), ``step[u, v]`` from u to v."""
    found = np.zeros(len(step), dtype=bool)
    found[node] = True
    front = found.copy()
    while front.any():
        front = step[front].any(axis=0) & ~found
        found |= front
    found[node] = False
    return found
