"""What structure learning returns: the graph, what separates the other pairs, how it ended."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from causal_lvlm.arrays import IntArray, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.fields import array, choice, reading, record, whole
from causal_lvlm.npz import read_beside, write_beside
from causal_lvlm.storage import read_json, versions
from causal_lvlm.structure import export
from causal_lvlm.structure.checks import smallest_eigenvalue
from causal_lvlm.structure.evidence import PairEvidence, pair_index
from causal_lvlm.structure.marks import KINDS, check_kind
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.saved import evidence_arrays, separations, summary_fields
from causal_lvlm.structure.validity import Violation, check_validity

if TYPE_CHECKING:
    import os

    import networkx as nx

__all__ = ["LearnedStructure"]

_KIND = "learned_structure"
_EVIDENCE = ("weakest", "z", "tests")


@dataclass(frozen=True, eq=False)
class LearnedStructure:
    """A learned graph with the evidence it rests on.

    Parameters
    ----------
    pag : PAG
        Nodes are the rows of the correlation matrix, in the caller's numbering.
    separator_start : ndarray of shape (M + 1,), int32
        Where the separating set of pair m of `separated` begins in `separator_nodes`, and where
        that of pair m - 1 ends.
    separator_nodes : ndarray of int32
    tests_per_size : tuple of int
        Number of CI tests per size of the conditioning set, from size 0. A test that gave no
        answer (see `undecided`) does not count.
    undecided : ndarray of shape (K, 2), int32
        Pairs i < j for which at least one test had no answer, because a variance left over was
        within rounding of zero. Such a test neither separates nor connects.
    complete : bool
        Whether every conditioning set that the algorithm asks for was tried.
    stopped : str
        ``"no_more_sets"``, ``"max_conditioning_size"``, ``"n_samples"`` (too few samples for larger
        sets), ``"time_limit"``, ``"max_tests"`` or ``"interrupted"`` (Ctrl-C).
    conflicts : int
        Marks that rules claimed as both tail and arrowhead and that therefore stayed circles
        (always 0 in the sequential variant, where the last rule wins).
    thresholds : tuple of float
        Smallest |partial correlation| that counts as dependence, per size.
    parameters : dict
        The arguments learning was called with, the order and the tiers it used.
    correlation : array_like of shape (N, N), optional
        What was learned from, as it was given (no copy, so it should not be changed); not saved.
    kind : {"pag", "cpdag"}
        A CPDAG (from PC) has only ``i -> j`` and ``i - j``, a tail at both ends.
    unseparated : ndarray of shape (K, 2), int32
        Pairs i < j whose edge went only because background knowledge forbids it.
    restored : ndarray of shape (K, 2), int32
        Pairs (i, j) that the data separated, but whose edge i -> j is drawn: background knowledge
        says that i is a cause of j, and no possibly directed path was left.
    unfinished_size : int, optional
        Conditioning size at which learning was ended by a budget or Ctrl-C.
    edges_left : int
        Edges not yet tested with sets of that size (in the stable variant: all of them, since
        nothing of an unfinished size counts).
    evidence : PairEvidence, optional
        Numbers about the tests of each pair.
    names : tuple of str, optional
        A name for each node.
    notes : tuple of str
        What was noticed about the input.
    """

    pag: PAG
    separator_start: IntArray
    separator_nodes: IntArray
    tests_per_size: tuple[int, ...]
    undecided: IntArray
    complete: bool
    stopped: str
    conflicts: int
    thresholds: tuple[float, ...]
    parameters: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)
    correlation: Any = field(default=None, repr=False)
    kind: str = "pag"
    unseparated: IntArray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    restored: IntArray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    unfinished_size: int | None = None
    edges_left: int = 0
    evidence: PairEvidence | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    _eigenvalue: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # int32: separating sets of all pairs are most of what a result takes in memory
        for name in ("separator_start", "separator_nodes"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.int32))
        for name in ("undecided", "unseparated", "restored"):
            values = np.asarray(getattr(self, name), dtype=np.int32).reshape(-1, 2)
            object.__setattr__(self, name, frozen(values, np.int32))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LearnedStructure) and (
            self.pag == other.pag
            and self.tests_per_size == other.tests_per_size
            and self.stopped == other.stopped
            and self.conflicts == other.conflicts
            and self.kind == other.kind
            and self.evidence == other.evidence
            and np.array_equal(self.unseparated, other.unseparated)
            and np.array_equal(self.restored, other.restored)
            and np.array_equal(self.undecided, other.undecided)
            and np.array_equal(self.separator_start, other.separator_start)
            and np.array_equal(self.separator_nodes, other.separator_nodes)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def separated(self) -> IntArray:
        """The pairs i < j without an edge, in lexicographic order, shape (M, 2)."""
        return np.argwhere(np.triu(self.pag.marks == 0, k=1)).astype(np.int64)

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return self.pag.n_nodes

    @property
    def n_tests(self) -> int:
        """Number of CI tests, all sizes together."""
        return sum(self.tests_per_size)

    @property
    def min_abs_partial(self) -> float:
        """Smallest |correlation| that counts as dependence (conditioning size 0)."""
        return self.thresholds[0]

    @property
    def undecided_edges(self) -> int:
        """Number of edges that stayed although some of their tests had no answer."""
        return int(np.count_nonzero(self.pag.marks[self.undecided[:, 0], self.undecided[:, 1]]))

    @cached_property
    def smallest_eigenvalue(self) -> float:
        """Smallest eigenvalue of the correlation matrix (computed when first asked for)."""
        if self._eigenvalue is not None:
            return self._eigenvalue
        if self.correlation is None:
            return math.nan
        return smallest_eigenvalue(np.asarray(self.correlation, dtype=np.float64))

    @cached_property
    def violations(self) -> tuple[Violation, ...]:
        """Where the graph is no valid PAG (computed when first asked for), see `check_validity`."""
        return check_validity(self.pag, self.kind)

    def sepset(self, i: int, j: int) -> tuple[int, ...] | None:
        """Return the separating set of two nodes, ascending.

        None if they are adjacent, or if nothing separated them and background knowledge forbade
        the edge (`unseparated`).

        Parameters
        ----------
        i, j : int
            Nodes, in either order.

        Raises
        ------
        StructureError
            If i or j is no node, or they are the same.
        """
        n = self.n_nodes
        low, high = self._pair(i, j)
        if self.pag.marks[low, high] or (self.unseparated == (low, high)).all(axis=1).any():
            return None
        m = int(np.searchsorted(self._keys, low * n + high))
        start, stop = self.separator_start[m : m + 2]
        return tuple(int(k) for k in self.separator_nodes[start:stop])

    @cached_property
    def _keys(self) -> IntArray:
        separated = self.separated
        return separated[:, 0] * self.n_nodes + separated[:, 1]

    def _pair(self, i: int, j: int) -> tuple[int, int]:
        n = self.n_nodes
        try:
            # plain integers: sums of small numpy integers would wrap around
            first, second = operator.index(i), operator.index(j)
        except TypeError as error:
            raise StructureError(f"a node is an integer, unlike one of {i!r}, {j!r}") from error
        if not (0 <= first < n and 0 <= second < n) or first == second:
            raise StructureError(f"({i}, {j}) is no pair of two different nodes of 0..{n - 1}")
        return min(first, second), max(first, second)

    def p_value(self, i: int, j: int) -> float:
        """Return the largest p-value over all tests of two nodes (NaN with a fixed threshold).

        Of a pair without an edge that is the p-value of its separating set, or of an even better
        one of another size.

        Parameters
        ----------
        i, j : int
            Nodes, in either order.

        Raises
        ------
        StructureError
            If i and j are no pair of nodes, or no evidence was kept.
        """
        where, evidence = self._evidence_of(i, j)
        return float(2.0 * special.ndtr(-evidence.z[where]))

    def weakest(self, i: int, j: int) -> float:
        """Return the smallest |partial correlation| over all tests of two nodes.

        Of an edge that is the weakest of the dependences that kept it.

        Parameters
        ----------
        i, j : int
            Nodes, in either order.

        Raises
        ------
        StructureError
            If i and j are no pair of nodes, or no evidence was kept.
        """
        where, evidence = self._evidence_of(i, j)
        return float(evidence.weakest[where])

    def tests_of(self, i: int, j: int) -> int:
        """Return the number of CI tests of two nodes that gave an answer.

        Parameters
        ----------
        i, j : int
            Nodes, in either order.

        Raises
        ------
        StructureError
            If i and j are no pair of nodes, or no evidence was kept.
        """
        where, evidence = self._evidence_of(i, j)
        return int(evidence.tests[where])

    def _evidence_of(self, i: int, j: int) -> tuple[int, PairEvidence]:
        low, high = self._pair(i, j)
        if self.evidence is None:
            raise StructureError("no evidence was kept; learn with evidence=True")
        return pair_index(self.n_nodes, low, high), self.evidence

    def to_networkx(self, confidence: Any = None) -> nx.DiGraph:
        """Return the graph with its names, see `causal_lvlm.structure.export.to_networkx`.

        Parameters
        ----------
        confidence : ndarray, shape (N, N), or EdgeStability, optional
            Written at every edge.
        """
        return export.to_networkx(self.pag, self.names, confidence=confidence, kind=self.kind)

    def to_dot(self, confidence: Any = None) -> str:
        """Return DOT text with names, see `causal_lvlm.structure.export.to_dot`.

        Parameters
        ----------
        confidence : ndarray, shape (N, N), or EdgeStability, optional
            Written at every edge.
        """
        return export.to_dot(self.pag, self.names, confidence=confidence, kind=self.kind)

    def to_graphml(
        self, path: str | os.PathLike[str] | None = None, confidence: Any = None
    ) -> str | Path:
        """Return or write GraphML with names, see `causal_lvlm.structure.export.to_graphml`.

        Parameters
        ----------
        path : str or path-like
            Where to write; the text is returned without one.
        confidence : ndarray, shape (N, N), or EdgeStability, optional
            Written at every edge.
        """
        return export.to_graphml(self.pag, path, self.names, confidence=confidence, kind=self.kind)

    def to_dict(self, confidence: Any = None) -> dict[str, Any]:
        """Return nodes and edges with names, see `causal_lvlm.structure.export.to_dict`.

        Parameters
        ----------
        confidence : ndarray, shape (N, N), or EdgeStability, optional
            Written at every edge.
        """
        return export.to_dict(self.pag, self.names, confidence=confidence, kind=self.kind)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of this result (no arrays), ready for JSON."""
        return {
            "nodes": self.n_nodes,
            "edges": self.pag.n_edges,
            "n_tests": self.n_tests,
            "tests_per_size": list(self.tests_per_size),
            "complete": self.complete,
            "stopped": self.stopped,
            "unfinished_size": self.unfinished_size,
            "edges_left": self.edges_left,
            "forbidden_without_separation": len(self.unseparated),
            **({"restored_causes": len(self.restored)} if len(self.restored) else {}),
            "conflicts": self.conflicts,
            "undecided_pairs": len(self.undecided),
            "undecided_edges": self.undecided_edges,
            "min_abs_partial": self.min_abs_partial,
            "thresholds": list(self.thresholds),
            "smallest_eigenvalue": self.smallest_eigenvalue,
            "violations": [str(violation) for violation in self.violations],
            "names": None if self.names is None else list(self.names),
            "notes": list(self.notes),
            "parameters": self.parameters,
            "versions": self.versions,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``path`` (JSON) and, beside it, the arrays (same name, ``.npz``).

        Parameters
        ----------
        path : str or path-like
            Of the JSON file; the arrays get its name with ``.npz``.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        names = ("separator_start", "separator_nodes", "undecided", "unseparated")
        arrays = {"marks": self.pag.marks, **{name: getattr(self, name) for name in names}}
        if len(self.restored):
            arrays["restored"] = self.restored
        if self.evidence is not None:
            arrays |= {f"evidence_{name}": getattr(self.evidence, name) for name in _EVIDENCE}
        return write_beside(path, _KIND, {"graph": self.kind, **self.summary()}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LearnedStructure:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path-like
            A JSON file that `save` wrote, its arrays beside it.

        Raises
        ------
        OutputError
            If a file is missing, unreadable or holds something else.
        """
        value = read_json(path, _KIND)
        with reading(path, "saved structure"):
            data = read_beside(path, value)
            n = record({"nodes": whole(0)})(value, "")["nodes"]
            pag = PAG(record({"marks": array(np.int64, n, n)})(data, "")["marks"])
            kind = record({"graph": choice(*KINDS)})(value, "")["graph"]
            check_kind(pag, kind)
            return cls(
                pag=pag,
                **separations(pag, data),
                evidence=evidence_arrays(n, data, lead="evidence_"),
                kind=kind,
                **summary_fields(n, value),
            )
