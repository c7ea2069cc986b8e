"""Edges of a graph beside those that appear by chance; `causal_lvlm.structure.null` finds them."""

from __future__ import annotations

import os
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
    reading,
    record,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.npz import read_beside, write_beside
from causal_lvlm.storage import read_json, versions
from causal_lvlm.structure.marks import KINDS, check_kind
from causal_lvlm.structure.pag import PAG

__all__ = ["NullEdges"]

_KIND = "null_edges"


@dataclass(frozen=True, eq=False)
class NullEdges:
    """Edges of a graph beside those of graphs learned from permuted input.

    Attributes
    ----------
    pag : PAG
        Learned from the source as it is.
    counts : ndarray of int64, shape (R,)
        Number of edges of every permuted graph.
    degrees : ndarray of int64, shape (R, N)
        Number of neighbours of every node in every permuted graph.
    pair_frequency : ndarray of float64, shape (N, N)
        Symmetric: share of permuted graphs with an edge between i and j.
    parameters, versions : dict
    names : tuple of str or None
        Names of the nodes.
    kind : str
        ``"pag"`` or ``"cpdag"``.
    incomplete : int
        Permuted graphs that a budget ended.
    """

    pag: PAG
    counts: IntArray
    degrees: IntArray
    pair_frequency: FloatArray
    parameters: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)
    names: tuple[str, ...] | None = None
    kind: str = "pag"
    incomplete: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", frozen(self.counts, np.int64))
        object.__setattr__(self, "degrees", frozen(self.degrees, np.int64))
        object.__setattr__(self, "pair_frequency", frozen(self.pair_frequency, np.float64))

    @property
    def observed(self) -> int:
        """Number of edges learned from the source as it is."""
        return self.pag.n_edges

    @property
    def n_permutations(self) -> int:
        """Number R of permuted graphs."""
        return len(self.counts)

    @property
    def mean(self) -> float:
        """Mean number of edges by chance."""
        return float(self.counts.mean())

    @property
    def quantiles(self) -> dict[float, float]:
        """Quantiles of the number of edges by chance: 0.05, 0.5 and 0.95."""
        return {q: float(np.quantile(self.counts, q)) for q in (0.05, 0.5, 0.95)}

    @property
    def p_value(self) -> float:
        """(1 + permuted graphs with at least as many edges) / (1 + R)."""
        return _p_value(self.counts, self.observed)

    @property
    def p_value_fewer(self) -> float:
        """The same for at most as many edges: small where rows share what separates them."""
        fewer = int(np.count_nonzero(self.counts <= self.observed))
        return (1 + fewer) / (1 + len(self.counts))

    def node_p_value(self, node: int) -> float:
        """Return the same for the number of neighbours of one node.

        Raises
        ------
        StructureError
            If there is no such node.
        """
        if not 0 <= node < self.pag.n_nodes:
            raise StructureError(f"{node} is no node; there are 0..{self.pag.n_nodes - 1}")
        return _p_value(self.degrees[:, node], int(np.count_nonzero(self.pag.marks[node])))

    def summary(self) -> dict[str, Any]:
        """Return the numbers without arrays."""
        return {
            "nodes": self.pag.n_nodes,
            "graph": self.kind,
            "observed": self.observed,
            "permutations": self.n_permutations,
            "incomplete": self.incomplete,
            "mean": self.mean,
            "quantiles": {f"{q:g}": value for q, value in self.quantiles.items()},
            "p_value": self.p_value,
            "p_value_fewer": self.p_value_fewer,
            "parameters": self.parameters,
            "versions": self.versions,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return `summary`, the counts, and the chance of every observed edge, as plain data."""
        found = [
            {"source": int(i), "target": int(j), "by_chance": float(self.pair_frequency[i, j])}
            for i, j in np.argwhere(np.triu(self.pag.marks))
        ]
        names = None if self.names is None else list(self.names)
        counts = self.counts.tolist()
        return {**self.summary(), "names": names, "counts": counts, "edges": found}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``path`` (JSON) and, beside it, the arrays (same name, ``.npz``).

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        arrays = {
            "marks": self.pag.marks,
            "counts": self.counts,
            "degrees": self.degrees,
            "pair_frequency": self.pair_frequency,
        }
        return write_beside(path, _KIND, self.to_dict(), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NullEdges:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If a file is missing, unreadable or holds something else.
        """
        value = read_json(path, _KIND)
        with reading(path, "null"):
            fields = record({"nodes": whole(0), "permutations": whole(1), "graph": choice(*KINDS)})
            n, runs, kind = fields(value, "").values()
            arrays = record(
                {
                    "marks": array(np.int64, n, n),
                    "counts": array(np.int64, runs, low=0),
                    "degrees": array(np.int64, runs, n, low=0),
                    "pair_frequency": array(np.float64, n, n, low=0.0, high=1.0 + 1e-9),
                }
            )(read_beside(path, value), "")
            pag = PAG(arrays.pop("marks"))
            check_kind(pag, kind)
            more = record(
                {
                    "parameters": settings(),
                    "versions": table(text),
                    "names": maybe(many(text, length=n)),
                    "incomplete": whole(0),
                }
            )(value, "")
            return cls(pag, **arrays, kind=kind, **more)


def _p_value(by_chance: IntArray, observed: int) -> float:
    return (1 + int(np.count_nonzero(by_chance >= observed))) / (1 + len(by_chance))
