"""How stable every edge and every mark is when what was chosen or measured varies a little.

1. Every run draws a setting: a level (alpha or threshold), a number of samples, a head. All
   combinations are gone through in a shuffled order, again and again, so that with a multiple of
   their number of runs each occurs equally often.
2. Every run resamples its source (`causal_lvlm.structure.resample`): the rows of an attention
   matrix are jittered, the rows of a data table drawn again, or a correlation matrix replaced by
   one that as many samples from it could have shown.
3. The graph is learned, in parallel threads, since the compiled learner releases the GIL. Each run
   has a random stream of its own and frequencies are sums of whole numbers, so the result does not
   depend on `n_jobs`.
4. The frequency of an edge is the share of runs that have it, that of a mark the share of runs that
   have it at that end of that edge.

A frequency says how much an edge depends on chance and on settings, not how probable it is: what
is wrong in every run (an assumption that does not hold) is wrong with frequency 1.

References: resampling graphs by the bootstrap, Friedman, Goldszmidt, Wyner, UAI 1999; subsamples of
half the size, Meinshausen, Bühlmann, Journal of the Royal Statistical Society B 72 (2010).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import IntArray, UInt8Array
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.storage import to_jsonable
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.resample import (
    KINDS,
    in_threads,
    levels_to_vary,
    sampler,
    shuffled_turns,
    stop_if_interrupted,
)
from causal_lvlm.structure.stability_result import EdgeStability

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["edge_stability"]


def edge_stability(
    source: Any,
    *,
    kind: str = "attention",
    runs: int = 100,
    seed: int = 0,
    alphas: float | Sequence[float] | None = None,
    thresholds: float | Sequence[float] | None = None,
    n_samples: int | Sequence[int] | None = None,
    jitter: float | None = None,
    heads: str | Sequence[int] = "all",
    nodes: npt.ArrayLike | None = None,
    sink: str = "keep",
    resample: str = "bootstrap",
    names: Sequence[str] | None = None,
    n_jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    **learn_options: Any,
) -> EdgeStability:
    """Learn the graph many times from resampled input and say how often each edge and mark came.

    Parameters
    ----------
    source : array_like or object with an attribute ``correlation``
        For ``kind="attention"`` a matrix of weights whose rows are the nodes, shape (T, T), or
        one per head, (H, T, T). For ``"data"`` a table of shape (n, N), one column per node. For
        ``"correlation"`` a matrix of shape (N, N), or an object such as `TokenCorrelation`.
    kind : {"attention", "data", "correlation"}
    runs : int, default 100
    seed : int, default 0
    alphas, thresholds : float or sequence of float, optional
        Levels to vary: either of them, see `learn_structure`.
    n_samples : int or sequence of int, optional
        Sample sizes to vary. For data the number of rows drawn (default: all n, or half of them
        for ``resample="subsample"``); for a correlation the number of samples drawn.
    jitter : float, optional
        Only for attention: standard deviation of the logarithm of the factor by which each weight
        is multiplied before its row is brought back to its sum. Zeros stay zeros. Default 0.1.
    heads : "all" or sequence of int
        Only for attention of several heads: the heads that runs are drawn from.
    nodes : array_like of int, optional
        Only for attention: the rows that are nodes; all columns are kept.
    sink : {"keep", "drop"}
        Only for attention: whether the columns of attention sinks count.
    resample : {"bootstrap", "subsample"}
        Only for data: rows with replacement, or without. Repeated rows make a bootstrap sample
        look more dependent than fresh data would, so it tends to keep more edges.
    names : sequence of str, optional
    n_jobs : int or None, default 1
        Threads; None is one per processor.
    progress : callable, optional
        Called as ``progress(done, runs)`` after each run.
    **learn_options
        Passed to `learn_structure`: ``algorithm``, ``tiers``, ``knowledge``, ... A ``time_limit``
        or ``max_tests`` is for each run; runs that it ended are counted as they are, and their
        number is `EdgeStability.incomplete_runs`. Without an algorithm each run takes the default
        for this kind of source.

    Returns
    -------
    EdgeStability

    Raises
    ------
    AttentionError, DataError, CorrelationError
        If the source cannot be used; with a row or column that is to blame.
    StructureError
        If an argument does not fit the kind of source.
    """
    check_choice("kind", kind, KINDS)
    runs, seed = whole_number("runs", runs, 1), whole_number("seed", seed, 0)
    source_of_runs = sampler(
        source, kind=kind, jitter=jitter, heads=heads, nodes=nodes, sink=sink,
        resample=resample, n_samples=n_samples, names=names,
    )  # fmt: skip
    levels = levels_to_vary(alphas, thresholds, learn_options, source_of_runs.threshold)
    settings = [
        {**level, "n_samples": size, "head": head}
        for level, size, head in itertools.product(
            levels, source_of_runs.sizes, source_of_runs.heads
        )
    ]
    turns = shuffled_turns(len(settings), runs, seed)
    streams = np.random.SeedSequence(seed).spawn(runs)

    def one(run: int) -> tuple[UInt8Array, bool, str, dict[str, Any]]:
        chosen = settings[turns[run]]
        drawn = source_of_runs.sampled(
            np.random.default_rng(streams[run]), chosen["head"], chosen["n_samples"]
        )
        found = learn_structure(
            drawn,
            alpha=chosen["alpha"],
            threshold=chosen["threshold"],
            # A threshold leaves the sample size without a part in the test.
            n_samples=None if chosen["threshold"] is not None else chosen["n_samples"],
            **{"evidence": False, **learn_options},
        )
        stop_if_interrupted(found)
        return found.pag.marks, found.complete, found.kind, found.parameters

    parameters = {
        "kind": kind,
        "runs": runs,
        "seed": seed,
        "alphas": [level["alpha"] for level in levels],
        "thresholds": [level["threshold"] for level in levels],
        "n_samples": list(source_of_runs.sizes),
        "heads": list(source_of_runs.heads),
        **source_of_runs.parameters,
    }
    return _count(one, runs, n_jobs, parameters, source_of_runs.names, progress)


def _count(
    one: Callable[[int], tuple[UInt8Array, bool, str, dict[str, Any]]],
    runs: int,
    n_jobs: int | None,
    parameters: dict[str, Any],
    names: tuple[str, ...] | None,
    progress: Callable[[int, int], None] | None,
) -> EdgeStability:
    votes: IntArray = np.zeros((0, 0, 4), dtype=np.int64)
    counts: list[int] = []
    incomplete, graph, used = 0, "pag", dict[str, Any]()
    for marks, complete, kind, options in in_threads(one, runs, n_jobs):
        if not counts:
            graph, used = kind, options
            votes = np.zeros((*marks.shape, 4), dtype=np.int64)
        for code in range(4):
            votes[:, :, code] += marks == code
        counts.append(int(np.count_nonzero(marks)) // 2)
        incomplete += not complete
        if progress is not None:
            progress(len(counts), runs)
    return EdgeStability(
        edge_frequency=votes[:, :, 1:].sum(axis=2) / runs,
        mark_frequency=votes / runs,
        edge_counts=np.array(counts),
        n_runs=runs,
        incomplete_runs=incomplete,
        parameters={**parameters, "first_run": to_jsonable(used)},
        names=names,
        kind=graph,
    )
