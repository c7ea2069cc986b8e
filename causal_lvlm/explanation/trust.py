"""How far a graph over tokens can be trusted: the same target, with attention that varies.

The whole way from attention to graph is gone again and again, including the choice of nodes, from
a trace whose weights are changed when they are read: every weight is jittered, heads and levels
vary (`causal_lvlm.structure.stability`).

Influence is made of weights times gradients: there every layer's products are jittered, the
gradients being those of the run. Relevancy clips products before it adds them, and is left out:
there only levels can vary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.checks import whole_number
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.errors import StructureError
from causal_lvlm.explanation.changed import LEARN_OPTIONS, ChangedTrace, influence_products
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.stability import Members, TargetStability
from causal_lvlm.sources import Readable
from causal_lvlm.storage import to_jsonable
from causal_lvlm.structure.aggregate import aggregate_graphs
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.resample import (
    in_threads,
    levels_to_vary,
    shuffled_turns,
    stop_if_interrupted,
)
from causal_lvlm.structure.stability_result import EdgeStability
from causal_lvlm.structure.weights import jittered
from causal_lvlm.tokens import TargetLike, resolve_target

__all__ = ["explanation_stability", "target_stability"]


def target_stability(
    trace: Readable,
    target: TargetLike,
    *,
    runs: int = 100,
    seed: int = 0,
    alphas: float | Sequence[float] | None = None,
    thresholds: float | Sequence[float] | None = None,
    n_samples: int | Sequence[int] | None = None,
    jitter: float = 0.1,
    heads: Literal["all"] | Sequence[int] = "all",
    n_jobs: int | None = 1,
    **options: Any,
) -> TargetStability:
    """Learn the graph of one target many times from jittered attention, other heads and levels.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
    runs, seed, alphas, thresholds, n_samples, jitter, n_jobs
        See `causal_lvlm.structure.stability.edge_stability`. Without a level it is the default
        threshold of the source.
    heads : "all" or sequence of int
        Heads that runs are drawn from.
    **options
        Passed to `attention_correlations` (``layer``, ``source``, ``sink``, ``pool``, ...) or to
        `learn_structure` (``algorithm``, ``variant``, ``max_conditioning_size``, ``max_tests``,
        ``time_limit``).

    Returns
    -------
    TargetStability

    Raises
    ------
    StructureError
        If levels do not fit, or jitter is asked for where weights are made of gradients.
    DegenerateTargetError
        If the target's row is degenerate in every run.
    """
    runs, seed = whole_number("runs", runs, 1), whole_number("seed", seed, 0)
    if not (np.isfinite(jitter) and jitter >= 0.0):
        raise StructureError(f"jitter must be 0 or more, not {jitter}")
    if jitter > 0.0 and options.get("source") == "relevancy":
        raise StructureError(
            "relevancy is made of clipped gradients and has no weights to jitter; give jitter=0 "
            "and vary thresholds, or use source='influence' or 'attention'"
        )
    chosen = resolve_target(trace.layout, target)
    products: list[FloatArray] = []
    if jitter > 0.0 and options.get("source") == "influence":
        products = influence_products(trace, chosen)
    learn = {name: options.pop(name) for name in LEARN_OPTIONS if name in options}
    levels = levels_to_vary(alphas, thresholds, options)
    sizes = [None] if n_samples is None else np.atleast_1d(n_samples).tolist()
    # The trace says which heads there are; this also finds mistakes before any thread starts.
    first = attention_correlations(trace, chosen, heads=heads, **options)
    known = [found.head if isinstance(found, TokenCorrelation) else None for found in first]
    drawn_heads = _heads(heads, known, len(first))
    settings = list(itertools.product(levels, sizes, drawn_heads))
    turns = shuffled_turns(len(settings), runs, seed)
    streams = np.random.SeedSequence(seed).spawn(runs)

    def one(run: int) -> tuple[PAG, Members, bool, dict[str, Any]] | Exception:
        level, size, head = settings[turns[run]]
        rng = np.random.default_rng(streams[run])
        changed = ChangedTrace(trace, lambda w: jittered(w, jitter, rng) if jitter else w, products)
        (found,) = attention_correlations(
            changed, chosen, heads="all" if head is None else [head],
            threshold=level["threshold"], n_samples=size, **options,
        )  # fmt: skip
        if not isinstance(found, TokenCorrelation):
            return found
        graph = learn_structure(found, alpha=level["alpha"], evidence=False, **learn)
        stop_if_interrupted(graph)
        return graph.pag, found.members, graph.complete, graph.parameters

    results = list(in_threads(one, runs, n_jobs))
    good = [result for result in results if not isinstance(result, Exception)]
    if not good:
        raise next(result for result in results if isinstance(result, Exception))
    end = good[0][1][-1]
    ids = [*sorted({m for _, members, _, _ in good for m in members} - {end}), end]
    union = aggregate_graphs(
        [pag for pag, _, _, _ in good], nodes=[members for _, members, _, _ in good], order=ids
    )
    frequency = union.mark_votes / runs
    frequency[:, :, 0] = 1.0 - frequency[:, :, 1:].sum(axis=2)
    names = [trace.layout.label(m[0]) for m in ids]
    names[-1] = chosen.text
    edges = EdgeStability(
        edge_frequency=union.votes / runs,
        mark_frequency=frequency,
        edge_counts=np.array([0 if isinstance(r, Exception) else r[0].n_edges for r in results]),
        n_runs=runs,
        incomplete_runs=sum(not complete for _, _, complete, _ in good),
        parameters={
            "kind": "target", "target": chosen.text, "runs": runs, "seed": seed, "jitter": jitter,
            "alphas": [level["alpha"] for level in levels],
            "thresholds": [level["threshold"] for level in levels],
            "n_samples": sizes, "heads": drawn_heads, **to_jsonable(options),
            "first_run": to_jsonable(good[0][3]),
        },
        names=tuple(names),
    )  # fmt: skip
    return TargetStability(
        edges, np.array([m[0] for m in ids]), tuple(ids), len(ids) - 1, runs - len(good), chosen
    )


def explanation_stability(
    trace: Readable, explanation: Explanation, *, runs: int = 20, seed: int = 0, jitter: float = 0.1
) -> TargetStability:
    """Learn the graph of an explanation again and again, with its own settings.

    Parameters
    ----------
    trace : Trace
    explanation : Explanation
    runs, seed, jitter
        See `target_stability`.

    Returns
    -------
    TargetStability

    Raises
    ------
    StructureError
        If the source has no weights to jitter.
    """
    names = (
        "source", "layer", "heads", "sink", "row", "tiers", "pool", "top_k", "min_attention",
        "n_samples", "alpha", "threshold", *LEARN_OPTIONS[:-1],
    )  # fmt: skip
    known = explanation.parameters
    options = {name: known[name] for name in names if known.get(name) is not None}
    return target_stability(
        trace, explanation.target, runs=runs, seed=seed, jitter=jitter, **options
    )


def _heads(
    heads: Literal["all"] | Sequence[int], known: list[int | None], count: int
) -> list[int | None]:
    """Return the heads by number (``[None]`` where they are combined)."""
    if not isinstance(heads, str):
        return [int(head) for head in heads]
    # A head whose target is degenerate has no number here, but heads come in order.
    return [None] if count == 1 and known == [None] else list(range(count))
