"""Where a covariance comes from: the matrix M whose rows say what each token took from others.

`source_matrices` gives one matrix per head for attention and head outputs, and one in all for the
effective attention (composed over layers) and the relevancy matrix. The rest are the few pieces of
linear algebra behind `causal_lvlm.correlation`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import AttentionError
from causal_lvlm.tokens import Target

__all__ = [
    "correlation_of_rows",
    "effective_attention",
    "find_sinks",
    "partial_out",
    "source_matrices",
]

# A column is a sink when later rows give it this share of their weight on average.
SINK_SHARE = 0.3


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


def source_matrices(
    trace: Any, target: Target, source: str, layer: int | str, heads: Any
) -> list[tuple[int | None, FloatArray, FloatArray | None, int | str | None]]:
    """Return (head, weights (T, T), values (T, d) or None, layer) of every matrix asked for.

    Raises
    ------
    AttentionError
        If weights are not finite, or a layer or head does not exist.
    ValueError
        If an option has no effect on this source, or is of the wrong kind.
    """
    combined = source == "relevancy" or layer == "effective"
    if combined and not (isinstance(heads, str) and heads == "all"):
        raise AttentionError(f"heads={heads!r} was given, but this source combines all heads")
    if source == "relevancy":
        if layer != -1:
            raise ValueError(f"source='relevancy' spans all layers; layer={layer!r} has no effect")
        # Imported here: the attribution room is beside the pipeline, not in front of it.
        from causal_lvlm.attribution.relevancy import relevancy_matrix

        return [(None, _checked(relevancy_matrix(trace, target), "relevancy"), None, None)]
    if layer == "effective":
        if source != "attention":
            raise ValueError(f"layer='effective' composes attention; source={source!r} has no such")
        return [(None, _checked(effective_attention(trace), "effective attention"), None, layer)]
    if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
        raise ValueError(f"layer must be an integer or 'effective', got {layer!r}")
    n_layers = trace.n_layers
    if not -n_layers <= layer < n_layers:
        raise AttentionError(
            f"layer {layer} is out of range for {trace.model_id}, which has {n_layers} layers "
            f"(0..{n_layers - 1} or negative)"
        )
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
