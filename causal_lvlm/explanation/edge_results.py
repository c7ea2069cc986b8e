"""What is known of single edges and sets of edges of a verified causal graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from causal_lvlm.structure import PAG
from causal_lvlm.structure.marks import ARROW, edge_symbol
from causal_lvlm.structure.paths import possible_causes

__all__ = [
    "CausalEdge",
    "Cause",
    "Contradiction",
    "CutResult",
    "EdgeSet",
    "denied",
    "symbol",
]


@dataclass(frozen=True)
class EdgeSet:
    """A set of edges that the model confirmed as a whole, or why there is none.

    Attributes
    ----------
    outcome : str
        ``verified``; ``prior`` (the answer stays with every content edge cut, so nothing is to be
        found); ``not_asked``; ``max_runs``, ``time_limit`` or ``interrupted`` (ended before a set
        was found).
    edges : tuple of (int, int)
        Source and reader as sequence positions; content edges only.
    node_edges : tuple of (int, int)
        The same between nodes.
    verified : bool
        The model was run with exactly these edges kept (or cut), and the tester said yes.
    minimality : {"minimum", "irreducible", "none"}
        ``minimum``: every smaller set of edges was tried and failed. ``irreducible``: none can be
        left out.
    probability, margin : float or None
        Of the target in that run.
    says : tuple of str
        First choices in that run, token by token (teacher-forced).
    instead : str or None
        The answer as the model goes on with these edges cut, where that was asked.
    random_rate : float or None
        Share of random sets with as many edges into each reader that pass the same test.
    n_random, model_runs, n_tried : int
    ended : str or None
        Which budget ended the search (also of a verified set), if any.
    """

    outcome: str
    edges: tuple[tuple[int, int], ...] = ()
    node_edges: tuple[tuple[int, int], ...] = ()
    verified: bool = False
    minimality: str = "none"
    probability: float | None = None
    margin: float | None = None
    says: tuple[str, ...] = ()
    instead: str | None = None
    random_rate: float | None = None
    n_random: int = 0
    model_runs: int = 0
    n_tried: int = 0
    ended: str | None = None

    @property
    def size(self) -> int:
        """Number of edges between nodes."""
        return len(self.node_edges)


@dataclass(frozen=True)
class CausalEdge:
    """One edge between nodes, and all that is known about it.

    Attributes
    ----------
    source, reader : int
        Nodes.
    learned, marks : str
        Marks of the learned and of the reconciled graph, such as ``o->``; "" without an edge.
    estimated : float or None
        How much the margin falls when it is cut, to first order.
    measured : float or None
        How much it fell when it was cut, with everything else in place.
    verified : {"sufficient", "necessary", "both", "none"}
        Which verified set holds it.
    margin : float or None
        What the margin was when it was cut: `measured` less than with nothing cut.
    says : tuple of str
        First choices then, token by token.
    """

    source: int
    reader: int
    learned: str = ""
    marks: str = ""
    estimated: float | None = None
    measured: float | None = None
    verified: str = "none"
    margin: float | None = None
    says: tuple[str, ...] = ()


class CutResult(NamedTuple):
    """What happened when an edge was cut by itself; attributes as in `CausalEdge`."""

    measured: float
    margin: float
    says: tuple[str, ...]


@dataclass(frozen=True)
class Cause:
    """A node of which an intervention proved that it is a cause of the target.

    Attributes
    ----------
    node : int
    by : {"mask", "cut"}
        Its positions were masked, or an edge out of it was cut.
    alone : bool
        Whether that alone changed the target, or as a member of an irreducible set.
    evidence : str
        What was done and what the model said, as a sentence.
    """

    node: int
    by: str
    alone: bool
    evidence: str


@dataclass(frozen=True)
class Contradiction:
    """A claim of the learned graph that an intervention refuted.

    Attributes
    ----------
    node : int
    kind : {"arrowhead", "no path"}
        The learned graph has an arrowhead at the node on its edge to the target, or no possibly
        directed path from it to the target.
    learned, verified : str
        Both pieces of evidence, as sentences.
    """

    node: int
    kind: str
    learned: str
    verified: str


def denied(pag: PAG, node: int, target: int) -> str | None:
    """Return how a graph denies that a node is a cause of the target; None if it does not.

    Parameters
    ----------
    pag : PAG
    node, target : int

    Returns
    -------
    {"arrowhead", "no path"} or None
    """
    if pag.marks[target, node] == ARROW:
        return "arrowhead"
    return None if possible_causes(pag.marks, target)[node] else "no path"


def symbol(pag: PAG | None, source: int, reader: int) -> str:
    """Return the marks of an edge, such as ``o->``; "" where there is none."""
    if pag is None or not pag.marks[source, reader]:
        return ""
    return edge_symbol(pag, source, reader)
