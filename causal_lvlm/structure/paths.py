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
3. What every such path from i to j must pass: one of the shortest is walked along; a node of it is
   needed if no node beyond it can be reached from those before without passing it. Each row is
   read once here as well.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import BoolArray, UInt8Array
from causal_lvlm.structure.marks import CIRCLE, TAIL

__all__ = ["needed_nodes", "possible_causes", "possible_effects", "possibly_directed", "reached"]


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


def needed_nodes(marks: UInt8Array, i: int, j: int) -> list[int]:
    """Return the nodes that every possibly directed path from i to j passes, i and j included.

    Parameters
    ----------
    marks : ndarray of shape (N, N)
    i, j : int
        Nodes.

    Returns
    -------
    list of int
        In the order of the paths, which is the same in all of them. Empty if there is no path.

    Examples
    --------
    0 --> 1, two ways from 1 to 4, and 4 --> 5:

    >>> marks = np.zeros((6, 6), dtype=np.uint8)
    >>> for u, v in ((0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5)):
    ...     marks[u, v], marks[v, u] = 2, 3
    >>> needed_nodes(marks, 0, 5), needed_nodes(marks, 1, 4), needed_nodes(marks, 5, 0)
    ([0, 1, 4, 5], [1, 4], [])
    """
    back = (marks == CIRCLE) | (marks == TAIL)  # [v, u]: from u to v
    path = _shortest(back, i, j)
    step = np.ascontiguousarray(back.T)
    place = np.full(len(marks), -1)
    place[path] = np.arange(len(path))
    seen = place >= 0  # nodes of the path are passed in their turn
    needed, furthest = [], 0
    for k, node in enumerate(path):
        if furthest == k:
            needed.append(node)
        front = np.arange(len(marks)) == node
        while front.any():
            met = step[front].any(axis=0)
            furthest = max(furthest, int(place[met].max(initial=0)))
            front = met & ~seen
            seen |= front
    return needed


def _shortest(back: BoolArray, i: int, j: int) -> list[int]:
    """Return the first of the shortest paths from i to j; no node if there is none."""
    distance = np.full(len(back), -1)
    distance[j] = 0
    front = distance == 0
    while front.any() and distance[i] < 0:
        front = back[front].any(axis=0) & (distance < 0)
        distance[front] = distance.max() + 1
    path = [i] if distance[i] > 0 else []
    while path and path[-1] != j:
        node = path[-1]
        path.append(int(np.flatnonzero(back[:, node] & (distance == distance[node] - 1))[0]))
    return path


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
