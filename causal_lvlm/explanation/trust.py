"""How far a graph over tokens can be trusted: the same target, with attention that varies.

The whole way from attention to graph is gone again and again, including the choice of nodes, from
a trace whose weights are changed when they are read:

- `target_stability`: every weight is jittered, heads and levels vary
  (`causal_lvlm.structure.stability`);
- `target_null`: the weights of every row are permuted among the keys it may attend to, sinks left
  where they are (`causal_lvlm.structure.null`).

Influence is made of weights times gradients: there every layer's products are jittered, the
gradients being those of the run. Relevancy clips products before it adds them, and is left out:
there only levels can vary. Neither can be permuted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.checks import whole_number
from causal_lvlm.correlation import TokenCorrelation, attention_correlations
from causal_lvlm.covariance import SPANNING, find_sinks
from causal_lvlm.errors import AttentionError, OutputError, StructureError
from causal_lvlm.storage import read_json, to_jsonable, write_json
from causal_lvlm.structure.aggregate import aggregate_graphs
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.null import NullEdges
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.resample import (
    in_threads,
    levels_to_vary,
    shuffled_turns,
    stop_if_interrupted,
)
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.stability import EdgeStability
from causal_lvlm.structure.weights import jittered, permuted_rows
from causal_lvlm.tokens import Target, TargetLike, resolve_target

__all__ = ["TargetStability", "explanation_stability", "target_null", "target_stability"]

KIND = "target-stability"
_LEARN = ("algorithm", "variant", "max_conditioning_size", "max_tests", "time_limit")
Members = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class TargetStability:
    """Stability of the graph over tokens of one target.

    Attributes
    ----------
    edges : EdgeStability
        Its names are the labels. A run in which one of two tokens was no node counts as a run
        without that edge.
    positions : ndarray of int64, shape (N,)
        First sequence position of each node; the target is the last node.
    members : tuple of tuple of int
    target_node : int
    runs_without_target : int
        Runs in which the target's row was degenerate, so that there was no graph.
    target : Target or None
    """

    edges: EdgeStability
    positions: IntArray
    members: Members
    target_node: int
    runs_without_target: int
    target: Target | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", frozen(self.positions, np.int64))

    @property
    def labels(self) -> tuple[str, ...]:
        """Short name of each node."""
        return self.edges.names or ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: nodes, and the edges that occurred with their frequencies."""
        return {
            **self.edges.to_dict(),
            "positions": self.positions.tolist(),
            "members": [list(m) for m in self.members],
            "target_node": self.target_node,
            "runs_without_target": self.runs_without_target,
            "answer_target": None if self.target is None else asdict(self.target),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` as JSON and return the path; raises `OutputError` if it cannot."""
        counts = self.edges.edge_counts.tolist()
        return write_json(path, {**self.to_dict(), "kind": KIND, "edge_counts": counts})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TargetStability:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or holds no such result.
        """
        value = read_json(path, KIND)
        try:
            return cls.from_dict(value)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise OutputError(
                f"{str(path)!r} holds no complete stability ({error!r}); save it again"
            ) from error

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TargetStability:
        """Rebuild what `save` wrote from its JSON."""
        n = len(value["members"])
        frequency, marks = np.zeros((n, n)), np.zeros((n, n, 4))
        for edge in value["edges"]:
            i, j = edge["source"], edge["target"]
            frequency[i, j] = frequency[j, i] = edge["frequency"]
            marks[j, i, 1:], marks[i, j, 1:] = edge["marks_source"], edge["marks_target"]
        marks[:, :, 0] = 1.0 - marks[:, :, 1:].sum(axis=2)
        edges = EdgeStability(
            edge_frequency=frequency,
            mark_frequency=marks,
            edge_counts=np.array(value["edge_counts"]),
            n_runs=value["runs"],
            incomplete_runs=value["incomplete_runs"],
            parameters=value["parameters"],
            versions=value["versions"],
            names=None if value["names"] is None else tuple(value["names"]),
            kind=value["graph"],
        )
        found = value["answer_target"]
        return cls(
            edges=edges,
            positions=np.array(value["positions"]),
            members=tuple(tuple(m) for m in value["members"]),
            target_node=value["target_node"],
            runs_without_target=value["runs_without_target"],
            target=None
            if found is None
            else Target(
                positions=tuple(found["positions"]),
                token_ids=tuple(found["token_ids"]),
                text=found["text"],
                occurrence=(found["occurrence"][0], found["occurrence"][1]),
            ),
        )


class _ChangedTrace:
    """A trace whose attention is changed when it is read; everything else is the trace's own.

    `products` are |weight * gradient| of every layer, the last first, where these are changed.
    """

    def __init__(
        self,
        trace: Any,
        change: Callable[[FloatArray], FloatArray],
        products: Sequence[FloatArray] = (),
    ) -> None:
        self._trace, self._change, self._products = trace, change, products

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def attention(self, layers: Any = (-1,)) -> FloatArray:
        weights = self._trace.attention(layers=layers)
        return np.stack([self._change(np.asarray(w, dtype=np.float64)) for w in weights])

    def iter_attention(self) -> Iterator[tuple[int, FloatArray]]:
        for layer, weights in self._trace.iter_attention():
            yield layer, self._change(np.asarray(weights, dtype=np.float64))

    def backward(self, target: Target, **options: Any) -> Any:
        if not self._products:
            return self._trace.backward(target, **options)
        # What is made of them takes |weight * gradient|: one head, whose gradient is 1 everywhere.
        one = np.ones((1, 1, 1))
        layers = (
            SimpleNamespace(attention=self._change(product)[None], gradient=one)
            for product in self._products
        )
        return SimpleNamespace(language=lambda: layers)


def _products(trace: Any, target: Target) -> list[FloatArray]:
    """Return mean |weight * gradient| over heads of every layer, the last first, (T, T) each."""
    found: list[FloatArray] = []
    for layer in trace.backward(target, score="logit").language():
        product = np.asarray(layer.attention, np.float64) * np.asarray(layer.gradient, np.float64)
        found.append(np.abs(product).mean(axis=0))
    return found


def target_stability(
    trace: Any,
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
        products = _products(trace, chosen)
    learn = {name: options.pop(name) for name in _LEARN if name in options}
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
        changed = _ChangedTrace(
            trace, lambda w: jittered(w, jitter, rng) if jitter else w, products
        )
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
    trace: Any, explanation: Any, *, runs: int = 20, seed: int = 0, jitter: float = 0.1
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
        "n_samples", "alpha", "threshold", *_LEARN[:-1],
    )  # fmt: skip
    known = explanation.parameters
    options = {name: known[name] for name in names if known.get(name) is not None}
    return target_stability(
        trace, explanation.target, runs=runs, seed=seed, jitter=jitter, **options
    )


def _heads(heads: Any, known: list[int | None], count: int) -> list[int | None]:
    """Return the heads by number (``[None]`` where they are combined)."""
    if not isinstance(heads, str):
        return [int(head) for head in heads]
    # A head whose target is degenerate has no number here, but heads come in order.
    return [None] if count == 1 and known == [None] else list(range(count))


def target_null(
    trace: Any,
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
    learn = {name: options.pop(name) for name in _LEARN if name in options}
    heads: Any = "all" if head is None else [head]
    if head is None and options.get("layer") not in ("effective", "mean"):
        raise AttentionError("one head must be chosen: pass head=0, 1, ...")

    def graph(source: Any) -> tuple[LearnedStructure, TokenCorrelation]:
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
        found, correlation = graph(_ChangedTrace(trace, lambda w: _permuted(w, rng)))
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
