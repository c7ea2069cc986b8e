"""From the attention of one head to a correlation.

A becomes A·Aᵀ with unit diagonal: the covariance of what the rows pass on if values are
independent, see `causal_lvlm.covariance`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, plain_array
from causal_lvlm.covariance import correlation_of_rows, find_sinks, partial_out
from causal_lvlm.errors import AttentionError, StructureError
from causal_lvlm.structure.sources import CorrelationSource, aligned
from causal_lvlm.structure.tables import checked_names, is_table, read_table, shown

__all__ = ["correlation_from_attention"]


def correlation_from_attention(
    attention: Any,
    *,
    head: int | None = None,
    n_samples: int | None = None,
    threshold: float | None = None,
    names: Sequence[str] | None = None,
    sink: str = "keep",
) -> CorrelationSource:
    """Return the correlation of the rows of attention, A·Aᵀ scaled to unit diagonal.

    Rows without weight hold no information; they are left out, with a note. For the nodes that
    matter to one generated token use `causal_lvlm.attention_correlation` instead.

    Parameters
    ----------
    attention : array_like of shape (T, T) or (heads, T, T)
        Rows are queries; finite and not negative.
    head : int, optional
        Which head, if there are several; negative numbers count from the end.
    n_samples : int, optional
    threshold : float, optional
        Kept in the result: attention comes without a sample size, so one of the two is a choice.
    names : sequence of str, optional
        Names of the T rows; by default their numbers.
    sink : {"keep", "drop", "condition"}
        What to do with positions that take 0.3 or more of the weight of later rows on average:
        leave their columns out, or partial their rows out.

    Raises
    ------
    AttentionError
        If shape, head or values are wrong, or no row has any weight.

    Examples
    --------
    >>> correlation_from_attention([[1.0, 0.0], [0.6, 0.8]]).correlation.round(3).tolist()
    [[1.0, 0.6], [0.6, 1.0]]
    """
    if sink not in ("keep", "drop", "condition"):
        raise StructureError(f"sink must be 'keep', 'drop' or 'condition', not {sink!r}")
    notes: list[str] = []
    if is_table(attention):
        table = aligned(read_table(attention, names))
        attention, names = table.values, table.names
        notes.extend(table.notes)
    try:
        attention = plain_array(attention)
    except ValueError as error:
        raise AttentionError(str(error)) from error
    weights = _attention_head(attention, head)
    texts = checked_names(names, len(weights))
    sinks = list(find_sinks(weights)) if sink != "keep" else []
    rows = weights
    if sinks:
        called = shown(str(k) if texts is None else repr(texts[k]) for k in sinks)
        notes.append(f"attention sinks at {called}: sink={sink!r}")
        if sink == "drop":
            rows = weights.copy()
            rows[:, sinks] = 0.0
        else:
            rows = partial_out(weights, weights[sinks])
    before = float((weights**2).sum(axis=1).max(initial=0.0))
    strength = (rows**2).sum(axis=1)
    kept = np.flatnonzero(strength > 1e-12 * before)
    if not len(kept):
        raise AttentionError(
            "no row of the attention has any weight" + (f" after sink={sink!r}" if sinks else "")
        )
    labels = texts if texts is not None else tuple(str(k) for k in range(len(weights)))
    if len(kept) < len(weights):
        lost = np.setdiff1d(np.arange(len(weights)), kept)
        left_out = shown((labels[k] for k in lost), 20)
        notes.append(f"rows without weight are left out: [{left_out}]")
    return CorrelationSource(
        correlation_of_rows(rows[kept]),
        n_samples,
        threshold,
        names=tuple(labels[k] for k in kept),
        notes=tuple(notes),
        kind="attention",
    )


def _attention_head(attention: Any, head: int | None) -> FloatArray:
    given = np.asarray(attention)
    if given.dtype.kind not in "biuf":
        raise AttentionError(f"attention must hold real numbers, not {given.dtype}")
    if given.ndim == 3 and len(given):
        heads = len(given)
        if head is None and heads > 1:
            raise AttentionError(
                f"attention has {heads} heads; choose one with head=0..{heads - 1}"
            )
        index = operator.index(0 if head is None else head)
        if not -heads <= index < heads:
            raise AttentionError(f"there is no head {index}; choose one with head=0..{heads - 1}")
        given = given[index]
    elif head is not None:
        raise AttentionError(f"attention of shape {given.shape} has one head; leave head out")
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not len(given):
        raise AttentionError(
            f"attention must have shape (T, T) or (heads, T, T), got {np.shape(attention)}"
        )
    weights: FloatArray = np.asarray(given, dtype=np.float64)
    wrong = ~np.isfinite(weights) | (weights < 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise AttentionError(
            f"attention must be finite and non-negative, but entry ({row}, {column}) is "
            f"{weights[row, column]:g}"
        )
    return weights
