"""How often every edge and every mark was learned; `causal_lvlm.structure.stability` counts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.fields import (
    array,
    choice,
    many,
    maybe,
    number,
    reading,
    record,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.npz import read_beside, write_beside
from causal_lvlm.storage import read_json, versions
from causal_lvlm.structure.aggregate import majority_marks
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.resample import KINDS

__all__ = ["EdgeStability", "saved_runs"]

_KIND = "edge_stability"


@dataclass(frozen=True, eq=False)
class EdgeStability:
    """How often every edge and every mark was learned.

    Attributes
    ----------
    edge_frequency : ndarray of float64, shape (N, N)
        Symmetric: share of runs with an edge between i and j.
    mark_frequency : ndarray of float64, shape (N, N, 4)
        ``[i, j, c]``: share of runs with mark c **at j** on the edge i-j (0 no edge, 1 circle,
        2 arrowhead, 3 tail). The four add up to 1; the last three to the edge's frequency. The
        diagonal has no edge in every run.
    edge_counts : ndarray of int64, shape (R,)
        Number of edges of every run.
    n_runs : int
    incomplete_runs : int
        Runs that a budget ended.
    parameters : dict
        What was resampled and how, with the seed; ``first_run`` holds the learner's own.
    versions : dict
    names : tuple of str or None
    kind : str
        ``"pag"`` or ``"cpdag"``.
    """

    edge_frequency: FloatArray
    mark_frequency: FloatArray
    edge_counts: IntArray
    n_runs: int
    incomplete_runs: int
    parameters: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)
    names: tuple[str, ...] | None = None
    kind: str = "pag"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edge_frequency", frozen(self.edge_frequency, np.float64))
        object.__setattr__(self, "mark_frequency", frozen(self.mark_frequency, np.float64))
        object.__setattr__(self, "edge_counts", frozen(self.edge_counts, np.int64))
        n = len(self.edge_frequency)
        if self.edge_frequency.shape != (n, n) or self.mark_frequency.shape != (n, n, 4):
            raise StructureError(
                f"frequencies need the shapes (N, N) and (N, N, 4), got "
                f"{self.edge_frequency.shape} and {self.mark_frequency.shape}"
            )

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.edge_frequency)

    @property
    def confidence(self) -> FloatArray:
        """The edge frequencies, under the name that drawings and exports use."""
        return self.edge_frequency

    def consensus(self, threshold: float = 0.5) -> PAG:
        """Return the graph of the edges that at least this share of the runs have.

        A mark is the arrowhead or tail that more than half of the runs with the edge have at that
        end, otherwise a circle; in a CPDAG an edge is directed if more than half of the runs with
        the edge direct it that way, otherwise undirected. No run need have learned this graph, and
        it need not be a valid PAG (`check_validity`).

        Parameters
        ----------
        threshold : float, default 0.5
            In (0, 1].

        Raises
        ------
        StructureError
            If the threshold is not in (0, 1].
        """
        if not 0.0 < threshold <= 1.0:
            raise StructureError(f"threshold must be in (0, 1], not {threshold}")
        # Counts, not shares: 0.3 of 10 runs must not fall to rounding.
        needed = np.ceil(threshold * self.n_runs - 1e-9)
        votes = np.rint(self.mark_frequency * self.n_runs)
        marks = majority_marks(votes, self.kind)
        marks[np.rint(self.edge_frequency * self.n_runs) < needed] = 0
        return PAG(marks)

    def summary(self) -> dict[str, Any]:
        """Return the numbers without arrays: how many edges there are, and how many are stable."""
        upper = self.edge_frequency[np.triu_indices(self.n_nodes, 1)]
        return {
            "nodes": self.n_nodes,
            "graph": self.kind,
            "runs": self.n_runs,
            "incomplete_runs": self.incomplete_runs,
            "mean_edges": float(self.edge_counts.mean()),
            "least_edges": int(self.edge_counts.min()),
            "most_edges": int(self.edge_counts.max()),
            "edges_ever": int(np.count_nonzero(upper)),
            "edges_in_half": int(np.count_nonzero(upper >= 0.5)),
            "edges_in_all": int(np.count_nonzero(upper >= 1.0)),
            "parameters": self.parameters,
            "versions": self.versions,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return `summary` and one entry per edge that occurred, as plain data."""
        found = [
            {
                "source": int(i),
                "target": int(j),
                "frequency": float(self.edge_frequency[i, j]),
                "marks_source": self.mark_frequency[j, i, 1:].tolist(),
                "marks_target": self.mark_frequency[i, j, 1:].tolist(),
            }
            for i, j in np.argwhere(np.triu(self.edge_frequency) > 0)
        ]
        names = None if self.names is None else list(self.names)
        return {**self.summary(), "names": names, "edges": found}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``path`` (JSON) and, beside it, the arrays (same name, ``.npz``).

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        names = None if self.names is None else list(self.names)
        arrays = {
            "edge_frequency": self.edge_frequency,
            "mark_frequency": self.mark_frequency,
            "edge_counts": self.edge_counts,
        }
        return write_beside(path, _KIND, {"names": names, **self.summary()}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EdgeStability:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If a file is missing, unreadable or holds something else.
        """
        value = read_json(path, _KIND)
        with reading(path, "stability"):
            n = record({"nodes": whole(1)})(value, "")["nodes"]
            most = 1.0 + 1e-9
            arrays = record(
                {
                    "edge_frequency": array(np.float64, n, n, low=0.0, high=most),
                    "mark_frequency": array(np.float64, n, n, 4, low=0.0, high=most),
                    "edge_counts": array(np.int64, None, low=0),
                }
            )(read_beside(path, value), "")
            return cls(**arrays, **saved_runs(value, n))


def saved_runs(value: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return the checked fields of a saved stability of n nodes, except for its arrays.

    Raises
    ------
    OutputError
        If one is missing, or is not what it must be.
    """
    fields = record(
        {
            "runs": whole(1),
            "incomplete_runs": whole(0),
            "parameters": settings(
                kind=choice(*KINDS, "target"), seed=whole(None, None), jitter=maybe(number(0.0)),
            ),
            "versions": table(text),
            "names": maybe(many(text, length=n)),
            "graph": choice("pag", "cpdag"),
        }
    )(value, "")  # fmt: skip
    return {"n_runs": fields.pop("runs"), "kind": fields.pop("graph"), **fields}
