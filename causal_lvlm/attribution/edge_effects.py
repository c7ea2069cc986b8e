"""How much does each edge matter? One backward pass estimates every cut; a budget measures some.

The score of an edge (source i, reader j) says how much the target's margin m falls when the edge
is cut (`causal_lvlm.edges`): m is the sum, over the target's tokens, of the logit minus the logit
of the strongest rival of the uncut run, which stays the same. Positive: the cut lowers m.

``gradient``
    First order, with what is cut spread over the rest of the row as a mask spreads it. With A the
    attention of one head in one layer and G = dm/dA,

        K[j, i] = A[j, i] / (1 - A[j, i]) (G[j, i] - sum over k of A[j, k] G[j, k])

    summed over layers and heads, since cutting i leaves A'[j, k] = A[j, k] / (1 - A[j, i]) for
    every other k. 1 - A is not taken below 1e-6. One backward pass.
``attention_gradient``
    Sum over layers and heads of the absolute value of A G: how much the edge carries of what moves
    m, in either direction. One backward pass.
``attention``
    Mean of A over layers and heads. One forward pass.
``flow``
    Information-flow routes (Ferrando & Voita, EMNLP 2024, arXiv:2403.00824). In a layer, row j is
    made of what its residual stream held and of what each head brought from each source; each part
    counts by its proximity to the sum (L1; see `causal_lvlm.lvlm.flow`), heads are summed. They
    follow edges above a threshold from the target downwards; as a score of edges that is read here
    as: relevance 1 is spread over the predicting rows and handed down, in every layer, in these
    shares, the residual stream's to the row itself. An edge scores what it hands down, summed over
    layers. What the MLP adds stays with its row. Signs are lost: scores are never negative. One
    forward pass.
``exact``
    Each edge is cut by itself, as many as `max_runs` pays for, those first that ``gradient`` gives
    the largest absolute score; the others have no score (NaN).

All of them need (T, T) numbers, never all heads and layers at once: a layer is read some rows at a
time.

References
----------
The estimate is attribution patching (Nanda 2023; Syed et al., arXiv:2310.10348) of one attention
weight under a mask that renormalises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.composition import check_finite, edge_estimates
from causal_lvlm.edges import Edges, Nodes, cut
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, TargetLike, resolve_target

__all__ = ["EDGE_KINDS", "EdgeEffects", "edge_effects"]

EDGE_KINDS = ("gradient", "attention_gradient", "attention", "flow", "exact")
AT_ONCE = 64  # cuts in one call


@dataclass(frozen=True)
class EdgeEffects:
    """Scores of the content edges of one target.

    Attributes
    ----------
    target : Target
    kind : str
        How they were computed.
    pairs : ndarray of int64, shape (E, 2)
        Source and reader of each edge, positions.
    scores : ndarray of float64, shape (E,)
        Positive where the cut lowers the margin; NaN where ``exact`` ran out of runs.
    layers : tuple of int or None
        Layers that were counted; None: all.
    runs : int
        Runs of the model: forward passes, backward passes and rows with a cut.
    """

    target: Target
    kind: str
    pairs: IntArray
    scores: FloatArray
    layers: tuple[int, ...] | None
    runs: int

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        object.__setattr__(self, "pairs", frozen(self.pairs, np.int64))
        object.__setattr__(self, "scores", frozen(self.scores, np.float64))

    def order(self) -> IntArray:
        """Return the numbers of the edges, largest score first; ties and NaN in their own order."""
        return np.argsort(-np.nan_to_num(self.scores, nan=-np.inf), kind="stable")

    def between(self, nodes: Nodes) -> tuple[IntArray, FloatArray]:
        """Return the edges between nodes, and the sum of the scores of what each is made of.

        Parameters
        ----------
        nodes : Nodes
            See `causal_lvlm.edges.Edges.nodes`.

        Returns
        -------
        pairs : ndarray of int64, shape (n, 2)
            Source and reader as numbers of nodes, as `Edges.between_nodes` returns them.
        scores : ndarray of float64, shape (n,)
            An edge of which a part has no score has none.
        """
        node_of = nodes.node_of(self.target.positions[-1])
        ends = node_of[self.pairs]
        inside = (ends >= 0).all(axis=1) & (ends[:, 0] != ends[:, 1])
        key = ends[inside, 0] * len(nodes) + ends[inside, 1]
        keys, number = np.unique(key, return_inverse=True)
        scores = np.zeros(len(keys))
        np.add.at(scores, number, self.scores[inside])
        return np.stack(np.divmod(keys, len(nodes)), axis=1).astype(np.int64), scores


def edge_effects(
    trace: TraceLike,
    target: TargetLike,
    *,
    kind: str = "gradient",
    layers: int | str | Sequence[int | str] | None = None,
    max_runs: int | None = None,
    batch_size: int | None = None,
) -> EdgeEffects:
    """Score every content edge of a target.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        See `causal_lvlm.tokens.resolve_target`.
    kind : {"gradient", "attention_gradient", "attention", "flow", "exact"}
        See the module's text.
    layers : int, "global" or sequence of them, optional
        Attention layers that count (in which ``exact`` cuts); all by default.
    max_runs : int, optional
        Most edges that ``exact`` cuts; all by default.
    batch_size : int, optional
        Rows in one call of ``exact``, as ``trace.evaluate`` takes it.

    Returns
    -------
    EdgeEffects

    Raises
    ------
    OptionError
        If an option has a value that is not allowed.
    TargetError
        If the answer holds no such target.
    UnsupportedModelError
        If some layers mix tokens without attention, so that edges cannot be cut; with ``flow`` also
        if attention's output is not added to the residual stream as it is.
    AttentionError
        If attention or its gradient holds values that are not finite.

    Examples
    --------
    >>> import causal_lvlm as cl
    >>> from causal_lvlm.tiny import sample_inputs
    >>> sample = sample_inputs()[0]
    >>> trace = cl.load_model().run(sample.image_path, sample.prompt)
    >>> effects = edge_effects(trace, trace.answer)
    >>> effects.scores.shape == (len(effects.pairs),), effects.runs
    (True, 1)
    """
    check_choice("kind", kind, EDGE_KINDS)
    if max_runs is not None:
        whole_number("max_runs", max_runs, 1)
    found = resolve_target(trace.layout, target)
    edges = trace.edges(found)
    chosen = None if layers is None else tuple(trace.layer_indices(layers))
    if kind == "attention":
        matrix, runs = _attention(trace, edges, chosen), 1
    elif kind == "flow":
        matrix, runs = _flow(trace, edges, chosen), 1
    else:
        estimate = "gradient" if kind == "exact" else kind
        matrix, runs = edge_estimates(trace, found, [estimate], chosen)[0], 1
    pairs = edges.pairs
    scores = matrix[pairs[:, 1], pairs[:, 0]]
    if kind == "exact":
        first = np.argsort(-np.abs(scores), kind="stable")[:max_runs]
        scores = np.full(len(pairs), np.nan)
        scores[first] = _exact(trace, found, pairs[first], chosen, batch_size)
        runs += 1 + len(first)
    return EdgeEffects(found, kind, pairs, scores, chosen, runs)


def _attention(trace: TraceLike, edges: Edges, layers: tuple[int, ...] | None) -> FloatArray:
    """Return the mean attention over layers and heads, (stop, stop)."""
    total: FloatArray = np.zeros((edges.stop, edges.stop))
    count = 0
    for layer, weights in trace.iter_attention():
        if layers is None or layer in layers:
            check_finite(weights, f"attention of layer {layer}")
            total += weights[:, : edges.stop, : edges.stop].mean(axis=0, dtype=np.float64)
            count += 1
    return total / max(count, 1)


def _flow(trace: TraceLike, edges: Edges, layers: tuple[int, ...] | None) -> FloatArray:
    """Return the relevance that each edge hands down from the predicting rows, (stop, stop)."""
    total: FloatArray = np.zeros((edges.stop, edges.stop))
    relevance = np.zeros(edges.stop)
    relevance[list(edges.readers)] = 1.0 / len(edges.readers)
    for layer, sources, kept in trace.iter_flow(edges.target):
        check_finite(sources, f"flow of layer {layer}")
        handed = relevance[:, None] * sources
        if layers is None or layer in layers:
            total += handed
        relevance = relevance * kept + handed.sum(axis=0)
    return total


def _exact(
    trace: TraceLike,
    target: Target,
    pairs: IntArray,
    layers: tuple[int, ...] | None,
    batch_size: int | None,
) -> FloatArray:
    """Return how much the margin falls when each edge is cut by itself, float64 (n,)."""
    everything = np.ones((1, len(trace.layout)), dtype=np.bool_)
    plain = trace.evaluate(everything, target)
    rivals = [int(r) for r in plain.runner_up[0]]
    before = float(plain.margin[0].sum())
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        cuts = [cut([tuple(pair)]) for pair in pairs[some].tolist()]
        result = trace.evaluate_edges(
            cuts, target, layers=layers, rivals=rivals, batch_size=batch_size
        )
        found[some] = before - result.fixed_margin
    return found
