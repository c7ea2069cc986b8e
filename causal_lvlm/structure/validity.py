"""Is a learned graph a valid PAG? Violations are found and named, not repaired.

Attention correlations need not be faithful to any causal graph, so a learned graph may be one that
no causal model has. Checked here, on what the marks say for certain (circles accuse no one):

1. ``cycle``: directed edges that form a cycle, one violation per strongly connected component.
2. ``almost_cycle``: i <-> j although a directed path leads from i to j.
3. ``arrow_at_undirected`` (PAG only): an arrowhead at a node that has an undirected edge.
4. ``not_maximal``: two nodes without an edge that an inducing path joins; every inner node of it
   is a collider and an ancestor of one of the two ends, so no set separates them (Richardson and
   Spirtes, Ancestral graph Markov models, Annals of Statistics 30, 2002, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np

from causal_lvlm.arrays import BoolArray
from causal_lvlm.structure.marks import ARROW, TAIL
from causal_lvlm.structure.pag import PAG

__all__ = ["Violation", "check_validity", "reachability"]


@dataclass(frozen=True)
class Violation:
    """One reason why a graph is no valid PAG.

    Parameters
    ----------
    kind : str
        ``"cycle"``, ``"almost_cycle"``, ``"arrow_at_undirected"`` or ``"not_maximal"``.
    nodes : tuple of int
        The nodes of the cycle, ascending; the node with the arrowhead and the other end of its
        undirected edge; or the two nodes i < j concerned.
    """

    kind: str
    nodes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind}: {', '.join(str(node) for node in self.nodes)}"


def reachability(directed: BoolArray) -> BoolArray:
    """Return [i, j]: a directed path of at least one edge leads from i to j."""
    reach = directed.copy()
    while True:
        step = reach.astype(np.float32)
        longer = reach | (step @ step > 0)
        if np.array_equal(longer, reach):
            return reach
        reach = longer


def check_validity(pag: PAG, kind: str = "pag") -> tuple[Violation, ...]:
    """Find cycles, almost-cycles, arrowheads at undirected edges and violations of maximality.

    Parameters
    ----------
    pag : PAG
    kind : {"pag", "cpdag"}
        In a CPDAG an edge with two tails is one whose direction is open, so arrowheads may meet it.

    Returns
    -------
    tuple of Violation
        Sorted by kind, then by nodes; empty if nothing is wrong.

    Examples
    --------
    >>> [str(violation) for violation in check_validity(PAG([[0, 2, 3], [3, 0, 2], [2, 3, 0]]))]
    ['cycle: 0, 1, 2']
    """
    marks = pag.marks
    arrow_at_column = marks == ARROW
    directed = arrow_at_column & (marks.T == TAIL)
    bidirected = arrow_at_column & arrow_at_column.T
    ancestor = reachability(directed)
    found = [
        Violation("cycle", tuple(sorted(int(node) for node in component)))
        for component in nx.strongly_connected_components(nx.from_numpy_array(
            directed, create_using=nx.DiGraph
        ))
        if len(component) > 1
    ]  # fmt: skip
    clash = bidirected & (ancestor | ancestor.T)
    found += [Violation("almost_cycle", _pair(i, j)) for i, j in np.argwhere(np.triu(clash))]
    undirected = (marks == TAIL) & (marks.T == TAIL)
    if kind == "pag":
        meets = undirected.any(axis=1) & arrow_at_column.any(axis=0)
        found += [
            Violation("arrow_at_undirected", (int(node), int(other)))
            for node in np.flatnonzero(meets)
            for other in np.flatnonzero(undirected[node])
        ]
    found += [
        Violation("not_maximal", pair) for pair in _induced(marks > 0, arrow_at_column, ancestor)
    ]
    return tuple(sorted(found, key=lambda violation: (violation.kind, violation.nodes)))


def _pair(i: int, j: int) -> tuple[int, int]:
    return int(i), int(j)


def _induced(
    adjacent: BoolArray, arrow_at_column: BoolArray, ancestor: BoolArray
) -> list[tuple[int, int]]:
    """Return the non-adjacent pairs that are joined by an inducing path.

    A walk is as good as a path here: between two colliders that are ancestors of an end, a loop
    can be cut out, since every edge of the walk has arrowheads at both inner ends.
    """
    bidirected = arrow_at_column & arrow_at_column.T
    pairs: list[tuple[int, int]] = []
    # Necessary, and cheap for all pairs at once: an edge i *-> v into an ancestor v of i or j, and
    # the same from j.
    step = arrow_at_column.astype(np.float32)
    above = ancestor.astype(np.float32)
    first = (step @ above > 0) | ((step * above.T).sum(axis=1) > 0)[:, None]
    for i, j in np.argwhere(np.triu(first & first.T & ~adjacent, k=1)):
        allowed = ancestor[:, i] | ancestor[:, j]
        allowed[[i, j]] = False
        if not allowed.any():
            continue
        front = arrow_at_column[i] & allowed
        seen = front.copy()
        goal = arrow_at_column[j] & allowed
        while front.any():
            if (seen & goal).any():
                pairs.append(_pair(i, j))
                break
            front = bidirected[front].any(axis=0) & allowed & ~seen
            seen |= front
    return pairs
