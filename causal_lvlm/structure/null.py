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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, UInt8Array
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.covariance import correlation_of_rows
from causal_lvlm.errors import AttentionError, StructureError
from causal_lvlm.storage import to_jsonable
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.null_result import NullEdges
from causal_lvlm.structure.resample import Sampled, checked_table, in_threads, stop_if_interrupted
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.tables import checked_names
from causal_lvlm.structure.weights import (
    attention_rows,
    checked_attention,
    chosen_sinks,
    permuted_rows,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["null_edges"]


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
    if kind == "attention":
        permutable = _attention(source, allowed, sinks, sink, nodes, names)
    elif nodes is not None or sink != "keep" or not isinstance(allowed, str):
        raise StructureError("nodes, sink and allowed have no effect on kind='data'")
    else:
        permutable = _data(source, names)
        rows = None if learn_options.get("threshold") is not None else permutable.n_rows
        learn_options = {"n_samples": rows, **learn_options}
    streams = np.random.SeedSequence(seed).spawn(count)

    def learned(rng: np.random.Generator | None) -> LearnedStructure:
        found = learn_structure(
            Sampled(permutable.correlation(rng), names=permutable.names, kind=kind),
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
    parameters = {
        "kind": kind, "permutations": count, "seed": seed, **permutable.parameters,
        "learn": to_jsonable(own.parameters),
    }  # fmt: skip
    return NullEdges(
        own.pag, counts, degrees, frequency / count, parameters, names=permutable.names,
        kind=own.kind, incomplete=incomplete,
    )  # fmt: skip


@dataclass(frozen=True)
class _Permutable:
    """``correlation(rng)`` is that of permuted input, ``correlation(None)`` of the input as it is.

    `n_rows` is the sample size of a table; `parameters` say what is permuted.
    """

    correlation: Callable[[np.random.Generator | None], FloatArray]
    names: tuple[str, ...] | None
    parameters: dict[str, Any]
    n_rows: int | None = None


def _attention(
    source: Any,
    allowed: str | npt.ArrayLike,
    sinks: str | Sequence[int],
    sink: str,
    nodes: npt.ArrayLike | None,
    names: Sequence[str] | None,
) -> _Permutable:
    """Return what permutes each row of one head's weights within its allowed keys."""
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
    parameters = {
        "allowed": allowed if isinstance(allowed, str) else "given",
        "sinks": list(fixed),
        "sink": sink,
        "nodes": None if nodes is None else rows.tolist(),
        "rows_permuted": int(np.count_nonzero(free.sum(axis=1) > 1)),
    }

    def correlation(rng: np.random.Generator | None) -> FloatArray:
        return correlation_of_rows(kept if rng is None else permuted_rows(kept, free, rng))

    return _Permutable(correlation, texts, parameters)


def _data(source: Any, names: Sequence[str] | None) -> _Permutable:
    """Return what permutes each column of a table."""
    table = checked_table(source, names)

    def correlation(rng: np.random.Generator | None) -> FloatArray:
        values = table.values if rng is None else rng.permuted(table.values, axis=0)
        return correlation_from_data(values).correlation

    return _Permutable(correlation, table.names, {}, len(table.values))


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
