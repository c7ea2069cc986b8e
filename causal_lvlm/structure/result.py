"""What structure learning returns: the graph, what separates the other pairs, how it ended."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.storage import read_json, versions, write_bytes, write_json
from causal_lvlm.structure.checks import smallest_eigenvalue
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.validity import Violation, check_validity

if TYPE_CHECKING:
    import os

__all__ = ["LearnedStructure"]

_KIND = "learned_structure"


@dataclass(frozen=True, eq=False)
class LearnedStructure:
    """A learned graph with the evidence it rests on.

    Parameters
    ----------
    pag : PAG
        Nodes are the rows of the correlation matrix, in the caller's numbering.
    separated : ndarray of shape (M, 2), int64
        The pairs i < j without an edge, in lexicographic order.
    separator_start : ndarray of shape (M + 1,), int64
        Where the separating set of pair m begins in `separator_nodes`, and ends for pair m - 1.
    separator_nodes : ndarray of int64
    tests_per_size : tuple of int
        Number of CI tests per size of the conditioning set, from size 0. A test that gave no
        answer (see `undecided`) does not count.
    undecided : ndarray of shape (K, 2), int64
        Pairs i < j for which at least one test had no answer, because a variance left over was
        within rounding of zero. Such a test neither separates nor connects.
    complete : bool
        Whether every conditioning set that the algorithm asks for was tried.
    stopped : str
        ``"no_more_sets"``, ``"max_conditioning_size"``, ``"n_samples"`` (too few samples for larger
        sets), ``"time_limit"`` or ``"max_tests"``.
    conflicts : int
        Marks that rules claimed as both tail and arrowhead and that therefore stayed circles
        (always 0 in the sequential variant, where the last rule wins).
    thresholds : tuple of float
        Smallest |partial correlation| that counts as dependence, per size.
    parameters : dict
        The arguments learning was called with, the order and the tiers it used.
    correlation : ndarray of shape (N, N), optional
        What was learned from; not saved.
    """

    pag: PAG
    separated: IntArray
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
    correlation: FloatArray | None = field(default=None, repr=False)
    kind: str = "pag"
    _eigenvalue: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("separated", "separator_start", "separator_nodes", "undecided"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.int64))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LearnedStructure) and (
            self.pag == other.pag
            and self.tests_per_size == other.tests_per_size
            and self.stopped == other.stopped
            and self.conflicts == other.conflicts
            and np.array_equal(self.separated, other.separated)
            and np.array_equal(self.separator_start, other.separator_start)
            and np.array_equal(self.separator_nodes, other.separator_nodes)
        )

    __hash__ = None  # type: ignore[assignment]

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
        return math.nan if self.correlation is None else smallest_eigenvalue(self.correlation)

    @cached_property
    def violations(self) -> tuple[Violation, ...]:
        """Where the graph is no valid PAG (computed when first asked for), see `check_validity`."""
        return check_validity(self.pag)

    def sepset(self, i: int, j: int) -> tuple[int, ...] | None:
        """Return the separating set of two nodes, ascending; None if they are adjacent.

        Raises
        ------
        StructureError
            If i or j is no node, or they are the same.
        """
        n = self.n_nodes
        if not (0 <= i < n and 0 <= j < n) or i == j:
            raise StructureError(f"({i}, {j}) is no pair of two different nodes of 0..{n - 1}")
        if self.pag.marks[i, j]:
            return None
        low, high = min(i, j), max(i, j)
        m = int(np.searchsorted(self._keys, low * n + high))
        start, stop = self.separator_start[m : m + 2]
        return tuple(int(k) for k in self.separator_nodes[start:stop])

    @cached_property
    def _keys(self) -> IntArray:
        return self.separated[:, 0] * self.n_nodes + self.separated[:, 1]

    def summary(self) -> dict[str, Any]:
        """Return the numbers of this result (no arrays), ready for JSON."""
        return {
            "nodes": self.n_nodes,
            "edges": self.pag.n_edges,
            "n_tests": self.n_tests,
            "tests_per_size": list(self.tests_per_size),
            "complete": self.complete,
            "stopped": self.stopped,
            "conflicts": self.conflicts,
            "undecided_pairs": len(self.undecided),
            "undecided_edges": self.undecided_edges,
            "min_abs_partial": self.min_abs_partial,
            "thresholds": list(self.thresholds),
            "smallest_eigenvalue": self.smallest_eigenvalue,
            "violations": [str(violation) for violation in self.violations],
            "parameters": self.parameters,
            "versions": self.versions,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``path`` (JSON) and, beside it, the arrays (same name, ``.npz``).

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        target = Path(path)
        if target.suffix == ".npz":
            raise OutputError(f"{str(target)!r} is where the arrays go; give a name in .json")
        arrays = target.with_suffix(".npz")
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            marks=self.pag.marks,
            separated=self.separated,
            separator_start=self.separator_start,
            separator_nodes=self.separator_nodes,
            undecided=self.undecided,
        )
        write_bytes(arrays, stream.getvalue())
        value = {"kind": _KIND, "graph": self.kind, "arrays": arrays.name, **self.summary()}
        return write_json(target, value)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LearnedStructure:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If a file is missing, unreadable or holds something else.
        """
        value = read_json(path, _KIND)
        arrays = Path(path).with_name(str(value.get("arrays")))
        try:
            with np.load(arrays, allow_pickle=False) as stored:
                data: Mapping[str, Any] = {name: stored[name] for name in stored.files}
            eigenvalue = value["smallest_eigenvalue"]
            return cls(
                pag=PAG(data["marks"]),
                separated=data["separated"],
                separator_start=data["separator_start"],
                separator_nodes=data["separator_nodes"],
                undecided=data["undecided"],
                tests_per_size=tuple(value["tests_per_size"]),
                complete=value["complete"],
                stopped=value["stopped"],
                conflicts=value["conflicts"],
                thresholds=tuple(value["thresholds"]),
                parameters=value["parameters"],
                versions=value["versions"],
                kind=value["graph"],
                _eigenvalue=math.nan if eigenvalue is None else eigenvalue,
            )
        except (OSError, KeyError, ValueError) as error:
            raise OutputError(
                f"cannot read a saved structure from {str(path)!r}: {error}"
            ) from error
