"""Where a covariance comes from: the matrix M whose rows say what each token took from others.

`source_matrices` gives one matrix per head for attention and head outputs, and one in all for the
sources that combine layers: effective attention, mean attention with the residual path, the
relevancy matrix and the influence matrix. The rest are the few pieces of linear algebra behind
`causal_lvlm.correlation`.

Why the residual path matters: rows of bare attention say what a token *looks at*, so ``A·Aᵀ`` ties
a token to the target when both look at the same things. A token that the target looks at, and that
itself looks elsewhere, is invisible to it. With the identity in M a row also holds the token
itself, as the residual stream does, and "the target looks at it" becomes a correlation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.composition import SPANNING, TargetPass
from causal_lvlm.errors import AttentionError
from causal_lvlm.tokens import Target

__all__ = [
    "correlation_of_rows",
    "effective_attention",
    "find_sinks",
    "mean_attention",
    "partial_out",
    "source_matrices",
]

# A column is a sink when later rows give it this share of their weight on average.
SINK_SHARE = 0.3
# Share of a token itself in a row of `mean_attention`: chosen on the development split of
# experiments/search, where 1/2 ties the image's tokens to each other instead of to the target.
RESIDUAL_SHARE = 0.75


def correlation_of_rows(rows: FloatArray) -> FloatArray:
    """Return ``M·Mᵀ`` scaled to unit diagonal.

    Parameters
    ----------
    rows : ndarray of float64, shape (N, D)
        No row may be zero.

    Returns
    -------
    ndarray of float64, shape (N, N)

    Examples
    --------
    Two rows that share half of their weight:

    >>> correlation_of_rows(np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])).round(3).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    correlation: FloatArray = unit @ unit.T
    # Rounding leaves a few 1e-17 of asymmetry, which the learner would refuse.
    correlation = np.clip((correlation + correlation.T) / 2.0, -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def find_sinks(attention: FloatArray, share: float = SINK_SHARE) -> tuple[int, ...]:
    """Return the positions that get at least `share` of the weight of later rows on average.

    Parameters
    ----------
    attention : ndarray, shape (T, T)
        Rows are queries.
    share : float

    Returns
    -------
    tuple of int
        A column needs at least four later rows to be called a sink.
    """
    length = attention.shape[0]
    found = []
    for position in range(length - 4):
        if float(attention[position + 1 :, position].mean()) >= share:
            found.append(position)
    return tuple(found)


def effective_attention(trace: Any) -> FloatArray:
    """Compose attention over all layers with the residual path (rollout matrix), shape (T, T)."""
    length = len(trace.layout)
    composed: FloatArray = np.eye(length)
    for _, weights in trace.iter_attention():
        mixed = 0.5 * weights.mean(axis=0, dtype=np.float64) + 0.5 * np.eye(length)
        composed = mixed @ composed
    return composed


def mean_attention(trace: Any, residual: float = RESIDUAL_SHARE) -> FloatArray:
    """Mean attention over all layers and heads, with the residual path, shape (T, T).

    Parameters
    ----------
    trace : Trace
    residual : float
        Share of the token itself in each row.

    Returns
    -------
    ndarray of float64, shape (T, T)
        ``residual * I + (1 - residual) * mean(A)``. Unlike the effective attention it counts
        direct looks only, of every layer alike.
    """
    length = len(trace.layout)
    total: FloatArray = np.zeros((length, length))
    layers = 0
    for _, weights in trace.iter_attention():
        total += weights.mean(axis=0, dtype=np.float64)
        layers += 1
    mixed: FloatArray = residual * np.eye(length) + (1.0 - residual) * total / max(layers, 1)
    return mixed


def source_matrices(
    trace: Any,
    target: Target,
    source: str,
    layer: int | str,
    heads: Any,
    passed: TargetPass | None = None,
) -> list[tuple[int | None, FloatArray, FloatArray | None, int | str | None]]:
    """Return (head, weights (T, T), values (T, d) or None, layer) of every matrix asked for.

    The matrix of a spanning source is taken from `passed`, if that is given.

    Raises
    ------
    AttentionError
        If weights are not finite, or a layer or head does not exist.
    """
    if source in SPANNING:
        matrix = SPANNING[source](trace, target) if passed is None else passed.take_matrix()
        return [(None, _checked(matrix, source), None, None)]
    if layer in ("effective", "mean"):
        combine = effective_attention if layer == "effective" else mean_attention
        return [(None, _checked(combine(trace), f"{layer} attention"), None, layer)]
    layer, n_layers = numbered_layer(trace, layer), trace.n_layers
    attention = trace.attention(layers=(layer,))[0]
    values = trace.head_values(layer) if source == "output" else None
    n_heads = attention.shape[0]
    chosen = _heads(heads, n_heads)
    where = f"attention of layer {layer}"
    return [
        (
            int(h),
            _checked(attention[h], where),
            None if values is None else values[h].astype(np.float64),
            layer % n_layers,
        )
        for h in chosen
    ]


def numbered_layer(trace: Any, layer: int | str) -> int:
    """Return the number of one layer of a trace's model; raise AttentionError if there is none."""
    if layer == "global":
        try:
            layer = trace.global_layer
        except IndexError as error:
            raise AttentionError(f"{error}; give a number") from error
    n_layers, number = trace.n_layers, int(layer)
    if not -n_layers <= number < n_layers:
        raise AttentionError(
            f"layer {number} is out of range for {trace.model_id}, which has {n_layers} layers "
            f"(0..{n_layers - 1} or negative)"
        )
    return number


def _heads(heads: Any, n_heads: int) -> list[int]:
    """Return the heads asked for; raise AttentionError for anything but existing, distinct ones."""
    if isinstance(heads, str) and heads == "all":
        return list(range(n_heads))
    try:
        chosen = list(heads) if not isinstance(heads, str) else None
    except TypeError:
        chosen = None
    good = (
        chosen
        and all(isinstance(h, (int, np.integer)) and not isinstance(h, bool) for h in chosen)
        and all(0 <= h < n_heads for h in chosen)
        and len(set(chosen)) == len(chosen)
    )
    if chosen is None or not good:
        raise AttentionError(
            f"heads must be 'all' or different heads of 0..{n_heads - 1}, got {heads!r}"
        )
    return [int(h) for h in chosen]


def _checked(weights: Any, what: str) -> FloatArray:
    matrix: FloatArray = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(matrix).all():
        bad = int(np.count_nonzero(~np.isfinite(matrix)))
        raise AttentionError(
            f"the {what} holds {bad} values that are not finite; the model probably overflowed: "
            "load it in float32 or bfloat16"
        )
    return matrix


def partial_out(nodes: FloatArray, sinks: FloatArray) -> FloatArray:
    """Project the sinks' rows out of the nodes' rows: their Gram matrix is then conditional."""
    # Singular vectors, not a QR: rows of several sinks may depend on each other, and a QR would
    # then complete its basis with arbitrary directions.
    _, size, right = np.linalg.svd(sinks, full_matrices=False)
    basis = right[size > 1e-10 * max(float(size.max(initial=0.0)), 1e-300)]
    residual: FloatArray = nodes - (nodes @ basis.T) @ basis
    return residual
