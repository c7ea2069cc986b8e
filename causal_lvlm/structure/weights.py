"""Matrices of attention weights as input of resampling: checks, jitter, permutation."""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, IntArray
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.covariance import find_sinks
from causal_lvlm.errors import AttentionError

__all__ = ["attention_rows", "checked_attention", "chosen_sinks", "jittered", "permuted_rows"]


def checked_attention(source: Any, heads: Any = "all") -> tuple[FloatArray, tuple[Any, ...]]:
    """Return weights of shape (H, T, D) and the heads chosen of them (``(None,)`` for a matrix).

    Raises
    ------
    AttentionError
        If they have another shape, are not finite or negative, or a head does not exist.
    """
    try:
        weights = np.asarray(source, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AttentionError(f"attention weights must be numbers: {error}") from error
    if weights.ndim not in (2, 3) or weights.size == 0:
        raise AttentionError(
            f"attention must have the shape (queries, keys) or (heads, queries, keys), not "
            f"{weights.shape}"
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        bad = int(np.count_nonzero(~np.isfinite(weights) | (weights < 0)))
        raise AttentionError(f"{bad} attention weights are negative or not finite")
    if weights.ndim == 2:
        if not (isinstance(heads, str) and heads == "all"):
            raise AttentionError(f"heads={heads!r} was given, but the weights are of one head")
        return weights[None], (None,)
    if isinstance(heads, str) and heads == "all":
        return weights, tuple(range(len(weights)))
    chosen = [] if isinstance(heads, str) else list(heads)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(weights))):
        raise AttentionError(
            f"heads must be 'all' or different heads of 0..{len(weights) - 1}, got {heads!r}"
        )
    return weights, tuple(int(head) for head in chosen)


def chosen_sinks(weights: FloatArray, sinks: Any) -> tuple[int, ...]:
    """Return the sink columns of a matrix: found (``"auto"``), or the ones given."""
    if isinstance(sinks, str):
        check_choice("sinks", sinks, ("auto",))
        return find_sinks(weights) if weights.shape[0] == weights.shape[1] else ()
    found = tuple(sorted({whole_number("a sink", k, 0) for k in sinks}))
    if found and found[-1] >= weights.shape[1]:
        raise AttentionError(f"sink {found[-1]} is no key; there are 0..{weights.shape[1] - 1}")
    return found


def attention_rows(
    weights: FloatArray, nodes: Any, sinks: tuple[int, ...], head: int | None
) -> tuple[IntArray, FloatArray]:
    """Return which rows are nodes, and the weights with the sinks' columns set to zero.

    Raises
    ------
    AttentionError
        If a node does not exist or has no weight left.
    """
    length = len(weights)
    chosen = np.arange(length) if nodes is None else np.asarray(nodes)
    if (
        chosen.ndim != 1
        or not np.issubdtype(chosen.dtype, np.integer)
        or len(set(chosen.tolist())) < len(chosen)
        or chosen.size == 0
        or chosen.min() < 0
        or chosen.max() >= length
    ):
        raise AttentionError(f"nodes must be different rows of 0..{length - 1}, got {nodes!r}")
    kept = weights
    if sinks:
        kept = weights.copy()
        kept[:, list(sinks)] = 0.0
    empty = np.flatnonzero(kept[chosen].sum(axis=1) <= 0.0)
    if empty.size:
        where = "" if head is None else f" of head {head}"
        why = f" without the sinks {sinks}" if sinks else ""
        raise AttentionError(
            f"row {int(chosen[empty[0]])}{where} has no weight{why}, so it correlates with nothing;"
            " leave it out with nodes=..."
        )
    return chosen.astype(np.int64), kept


def jittered(weights: FloatArray, jitter: float, rng: np.random.Generator) -> FloatArray:
    """Multiply weights by log-normal factors and bring every row back to its sum.

    Parameters
    ----------
    weights : ndarray, shape (..., D)
        Not negative. Zeros stay zeros and rows of zeros are left alone.
    jitter : float
        Standard deviation of the factors' logarithm.
    rng : numpy.random.Generator
    """
    before = weights.sum(axis=-1, keepdims=True)
    moved = weights * np.exp(jitter * rng.standard_normal(weights.shape))
    after = moved.sum(axis=-1, keepdims=True)
    result: FloatArray = moved * np.divide(before, after, out=np.ones_like(after), where=after > 0)
    return result


def permuted_rows(weights: FloatArray, allowed: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Return weights in which every row has its allowed entries in a random order.

    Parameters
    ----------
    weights : ndarray, shape (N, D)
    allowed : ndarray of bool, shape (N, D)
    rng : numpy.random.Generator
    """
    # Sorting by a random key within (row, allowed) puts allowed entries in a random order.
    order = np.argsort(np.where(allowed, rng.random(weights.shape), 2.0), axis=1, kind="stable")
    place = np.argsort(~allowed, axis=1, kind="stable")
    result = np.empty_like(weights)
    np.put_along_axis(result, place, np.take_along_axis(weights, order, axis=1), axis=1)
    return result
