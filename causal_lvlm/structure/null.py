"""How many edges appear by chance: learning again after what rows share has been destroyed.

1. The graph of the source is learned.
2. R times, the weights of every row are put in a random order **within the row's allowed keys**
   (attention; by default keys up to the query, without the sinks, whose columns stay as they are),
   or the values of every column in a random order (data), and the graph is learned with the same
   settings. Each row keeps its weights, so what is destroyed is only which keys they go to.
3. The p-value of the observed number of edges is (1 + number of permuted graphs with at least as
   many) / (1 + R) (Phipson, Smyth, Statistical Applications in Genetics and Molecular Biology 9,
   2010): with exchangeable weights it is at most u with probability at most u.

A small p-value says that rows share more than chance would let them, not that an edge is a cause.
Nor does structure always mean more edges: rows that look at the same few keys are strongly
correlated, but one of them may separate all others, and permuted rows, which share a little of
everything, then have more edges than the rows as they are. `p_value_fewer` looks at that side.

Reference for the idea of a null by permuting values within what a unit could have had: Good,
Permutation, Parametric and Bootstrap Tests of Hypotheses, Springer 2005, chapter 3.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, IntArray, UInt8Array, frozen
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.covariance import correlation_of_rows
from causal_lvlm.errors import AttentionError, OutputError, StructureError
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
from causal_lvlm.npz import read_beside
from causal_lvlm.storage import read_json, to_jsonable, versions, write_bytes, write_json
from causal_lvlm.structure.inputs import correlation_from_data
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.marks import KINDS, check_kind
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.resample import Sampled, checked_table, in_threads, stop_if_interrupted
from causal_lvlm.structure.tables import checked_names
from causal_lvlm.structure.weights import (
    attention_rows,
    checked_attention,
    chosen_sinks,
    permuted_rows,
)

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from causal_lvlm.structure.result import LearnedStructure

__all__ = ["NullEdges", "null_edges"]

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
        target = Path(path)
        if target.suffix == ".npz":
            raise OutputError(f"{str(target)!r} is where the arrays go; give a name in .json")
        arrays = target.with_suffix(".npz")
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            marks=self.pag.marks,
            counts=self.counts,
            degrees=self.degrees,
            pair_frequency=self.pair_frequency,
        )
        write_bytes(arrays, stream.getvalue())
        return write_json(target, {"kind": _KIND, "arrays": arrays.name, **self.to_dict()})

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


def null_edges(
    source: Any,
    *,
    kind: str = "attention",
    permutations: int = 200,
    seed: int = 0,
    allowed: str | npt.ArrayLike = "causal",
    sinks: str | Sequence[int] = "auto",
    sink: str = "keep",
    nodes: npt.ArrayLike | None = None,
    names: Sequence[str] | None = None,
    n_jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    **learn_options: Any,
) -> NullEdges:
    """Say how many edges would appear by chance at these settings.

    Parameters
    ----------
    source : array_like
        For ``kind="attention"`` the weights of one head, shape (T, T), or (T, D) if `allowed` is
        given; for ``"data"`` a table of shape (n, N).
    kind : {"attention", "data"}
    permutations : int, default 200
        R; the smallest p-value possible is 1 / (1 + R).
    seed : int, default 0
    allowed : "causal", "all", or array_like of bool, shape (T, D)
        Keys among which a row's weights are permuted: those up to the query, all, or the ones
        given. Weight elsewhere stays where it is.
    sinks : "auto" or sequence of int
        Columns that are never permuted; by default those that take at least 0.3 of the weight of
        later rows on average.
    sink : {"keep", "drop"}
        Whether the sinks' columns count when graphs are learned.
    nodes : array_like of int, optional
        The rows that are nodes; all columns are kept.
    names : sequence of str, optional
        Names of the nodes, instead of the table's own.
    n_jobs : int or None, default 1
        Threads; None is one per processor. The result does not depend on it.
    progress : callable, optional
        Called as ``progress(done, permutations)`` after each permutation.
    **learn_options
        Passed to `learn_structure`: ``threshold`` or ``alpha`` and ``n_samples``, ``algorithm``,
        ``tiers``, ``knowledge``, ... A ``time_limit`` or ``max_tests`` is for each graph.

    Returns
    -------
    NullEdges

    Raises
    ------
    AttentionError
        If weights are not finite or negative, a node's row has no weight, or no row has two
        allowed keys.
    DataError
        If the table cannot be used.
    StructureError
        If an argument does not fit the kind of source.
    """
    check_choice("kind", kind, ("attention", "data"))
    check_choice("sink", sink, ("keep", "drop"))
    count, seed = whole_number("permutations", permutations, 1), whole_number("seed", seed, 0)
    parameters: dict[str, Any] = {"kind": kind, "permutations": count, "seed": seed}
    if kind == "attention":
        if np.ndim(source) != 2:
            raise AttentionError(
                f"a null is for the weights of one head, shape (T, D), not {np.shape(source)}; "
                "choose a head"
            )
        weights = checked_attention(source)[0][0]
        fixed = chosen_sinks(weights, sinks)
        free = _allowed(weights, allowed, fixed)
        rows, kept = attention_rows(weights, nodes, fixed if sink == "drop" else (), None)
        kept, free = kept[rows], free[rows]
        texts = checked_names(names, len(rows))
        if free.sum(axis=1).max() < 2:
            raise AttentionError(
                "no row has two allowed keys, so there is nothing to permute; give another "
                "allowed=... or other nodes"
            )
        parameters |= {
            "allowed": allowed if isinstance(allowed, str) else "given",
            "sinks": list(fixed),
            "sink": sink,
            "nodes": None if nodes is None else rows.tolist(),
            "rows_permuted": int(np.count_nonzero(free.sum(axis=1) > 1)),
        }

        def correlation(rng: np.random.Generator | None) -> FloatArray:
            return correlation_of_rows(kept if rng is None else permuted_rows(kept, free, rng))

    else:
        if nodes is not None or sink != "keep" or not isinstance(allowed, str):
            raise StructureError("nodes, sink and allowed have no effect on kind='data'")
        table = checked_table(source, names)
        texts = table.names
        learn_options = {"n_samples": _rows_for_test(table.values, learn_options), **learn_options}

        def correlation(rng: np.random.Generator | None) -> FloatArray:
            values = table.values if rng is None else rng.permuted(table.values, axis=0)
            return correlation_from_data(values).correlation

    streams = np.random.SeedSequence(seed).spawn(count)

    def learned(rng: np.random.Generator | None) -> LearnedStructure:
        found = learn_structure(
            Sampled(correlation(rng), names=texts, kind=kind),
            **{"evidence": False, **learn_options},
        )
        stop_if_interrupted(found)
        return found

    def permuted(k: int) -> tuple[UInt8Array, bool]:
        found = learned(np.random.default_rng(streams[k]))
        return found.pag.marks, found.complete

    own = learned(None)
    n = own.pag.n_nodes
    counts, degrees = np.zeros(count, dtype=np.int64), np.zeros((count, n), dtype=np.int64)
    frequency: FloatArray = np.zeros((n, n))
    incomplete = 0
    for k, (marks, complete) in enumerate(in_threads(permuted, count, n_jobs)):
        degrees[k] = np.count_nonzero(marks, axis=1)
        counts[k] = degrees[k].sum() // 2
        frequency += marks > 0
        incomplete += not complete
        if progress is not None:
            progress(k + 1, count)
    parameters["learn"] = to_jsonable(own.parameters)
    return NullEdges(
        own.pag, counts, degrees, frequency / count, parameters, names=texts, kind=own.kind,
        incomplete=incomplete,
    )  # fmt: skip


def _allowed(
    weights: FloatArray, allowed: str | npt.ArrayLike, sinks: tuple[int, ...]
) -> BoolArray:
    """Return which keys every row may permute, sinks left out."""
    if isinstance(allowed, str):
        check_choice("allowed", allowed, ("causal", "all"))
        mask: BoolArray = np.ones(weights.shape, dtype=bool)
        if allowed == "causal":
            mask = np.tril(mask)
            beyond = np.argwhere((weights > 0) & ~mask)
            if weights.shape[0] != weights.shape[1] or beyond.size:
                where = f"row {beyond[0][0]} has weight on key {beyond[0][1]}" if beyond.size else (
                    f"their shape is {weights.shape}"
                )  # fmt: skip
                raise AttentionError(
                    f"these are not causal weights ({where}): give allowed='all' or a mask of the "
                    "keys that each row may attend to"
                )
    else:
        mask = np.array(allowed, dtype=bool)
        if mask.shape != weights.shape:
            raise AttentionError(
                f"allowed has the shape {mask.shape}; the weights need {weights.shape}"
            )
    mask[:, list(sinks)] = False
    return mask


def _rows_for_test(table: FloatArray, options: dict[str, Any]) -> int | None:
    return None if options.get("threshold") is not None else len(table)


def _p_value(by_chance: IntArray, observed: int) -> float:
    return (1 + int(np.count_nonzero(by_chance >= observed))) / (1 + len(by_chance))
