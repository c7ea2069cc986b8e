"""How many edges the graph of a target would have by chance.

The whole way from attention to graph is gone again and again, including the choice of nodes, from
a trace whose weights are permuted when they are read: those of every row among the keys it may
attend to, sinks left where they are (`causal_lvlm.structure.null`). Sources made of gradients have
no weights to permute.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.checks import whole_number
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation, find_sinks
from causal_lvlm.errors import AttentionError, StructureError
from causal_lvlm.explanation.changed import LEARN_OPTIONS, ChangedTrace
from causal_lvlm.source_options import SPANNING
from causal_lvlm.sources import Readable
from causal_lvlm.storage import to_jsonable
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.null_result import NullEdges
from causal_lvlm.structure.resample import in_threads, stop_if_interrupted
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.weights import permuted_rows
from causal_lvlm.tokens import TargetLike, resolve_target

__all__ = ["target_null"]

Members = tuple[tuple[int, ...], ...]


def target_null(
    trace: Readable,
    target: TargetLike,
    *,
    head: int | None = None,
    permutations: int = 200,
    seed: int = 0,
    n_jobs: int | None = 1,
    alpha: float | None = None,
    **options: Any,
) -> NullEdges:
    """Say how many edges the graph of one target would have by chance.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
    head : int, optional
        Must be left out for ``layer="effective"`` and ``"mean"``, where the weights of all heads
        are permuted.
    permutations, seed, n_jobs
        See `causal_lvlm.structure.null.null_edges`.
    alpha : float, optional
    **options
        As for `target_stability`, with ``threshold`` or ``n_samples``.

    Returns
    -------
    NullEdges
        Nodes are those of the graph learned from the trace as it is. Where nodes are chosen by
        weight (``top_k``, ``min_attention``), permuted graphs may have others, whose edges count
        in `counts` only.

    Raises
    ------
    StructureError
        If the source is made of gradients.
    DegenerateTargetError
        If the target's row is degenerate.
    """
    count, seed = whole_number("permutations", permutations, 1), whole_number("seed", seed, 0)
    if options.get("source") in SPANNING:
        raise StructureError(
            f"{options['source']} is made of gradients and has no weights to permute; use "
            "source='attention', 'output' or layer='effective'"
        )
    chosen = resolve_target(trace.layout, target)
    learn = {name: options.pop(name) for name in LEARN_OPTIONS if name in options}
    heads: Any = "all" if head is None else [head]
    if head is None and options.get("layer") not in ("effective", "mean"):
        raise AttentionError("one head must be chosen: pass head=0, 1, ...")

    def graph(source: Readable) -> tuple[LearnedStructure, TokenCorrelation]:
        (found,) = attention_correlations(source, chosen, heads=heads, **options)
        if not isinstance(found, TokenCorrelation):
            raise found
        learned = learn_structure(found, alpha=alpha, evidence=False, **learn)
        stop_if_interrupted(learned)
        return learned, found

    own, nodes = graph(trace)
    place = {members: k for k, members in enumerate(nodes.members)}
    streams = np.random.SeedSequence(seed).spawn(count)

    def one(run: int) -> tuple[LearnedStructure, Members]:
        rng = np.random.default_rng(streams[run])
        found, correlation = graph(ChangedTrace(trace, lambda w: _permuted(w, rng)))
        return found, correlation.members

    n = own.n_nodes
    counts, degrees = np.zeros(count, dtype=np.int64), np.zeros((count, n), dtype=np.int64)
    frequency: FloatArray = np.zeros((n, n))
    incomplete = 0
    for k, (found, members) in enumerate(in_threads(one, count, n_jobs)):
        pag = found.pag
        incomplete += not found.complete
        counts[k] = pag.n_edges
        shared = [i for i, m in enumerate(members) if m in place]
        at = np.array([place[members[i]] for i in shared])
        linked = pag.marks > 0
        degrees[k, at] = np.count_nonzero(linked[shared], axis=1)
        frequency[np.ix_(at, at)] += linked[np.ix_(shared, shared)]
    parameters = {
        "kind": "target", "target": chosen.text, "head": head, "permutations": count, "seed": seed,
        **to_jsonable(options), "learn": to_jsonable(own.parameters),
    }  # fmt: skip
    names = [trace.layout.label(m[0]) for m in nodes.members]
    names[-1] = chosen.text
    return NullEdges(
        own.pag, counts, degrees, frequency / count, parameters, names=tuple(names),
        incomplete=incomplete,
    )  # fmt: skip


def _permuted(weights: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Permute every head's rows within the keys up to the query, its sinks left out."""
    result = np.empty_like(weights)
    for head, matrix in enumerate(weights):
        allowed = np.tril(np.ones(matrix.shape, dtype=bool))
        allowed[:, list(find_sinks(matrix))] = False
        result[head] = permuted_rows(matrix, allowed, rng)
    return result
