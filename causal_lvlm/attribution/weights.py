"""Attention weights as scores: one layer's row, and rollout over all layers.

Which row stands for a generated token at position p is an explicit choice:

- ``row="predictor"``: row p - 1, whose output predicts the token (LVLM-Interpret);
- ``row="own"``: row p, where the token itself is the query after it was fed back (CLEANN). The
  teacher-forced pass holds the whole answer, so this row is there.

A target of several tokens has several rows. Raw attention and rollout rows are averaged over them:
each is a distribution over positions, and so is their mean.

References
----------
S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv:2005.00928.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import Float32Array, FloatArray
from causal_lvlm.attribution.info import ONE_FORWARD, MethodInfo, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.composition import check_finite
from causal_lvlm.errors import quoted
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target

__all__ = ["TABLE", "check_finite", "raw_attention", "rollout", "target_rows"]

Head = str | int


def target_rows(target: Target, row: str) -> list[int]:
    """Return the attention rows that stand for a target's tokens.

    Parameters
    ----------
    target : Target
    row : {"predictor", "own"}

    Raises
    ------
    ValueError
        If `row` is neither.
    """
    if row not in ("predictor", "own"):
        raise ValueError(f"row must be 'predictor' or 'own', got {quoted(row)}")
    shift = 1 if row == "predictor" else 0
    return [position - shift for position in target.positions]


def _reduce_heads(weights: Float32Array, head: Head) -> FloatArray:
    """Turn (n_heads, ...) into (...): mean, maximum, or one head."""
    if head == "mean":
        return np.asarray(weights.mean(axis=0, dtype=np.float64))
    if head == "max":
        return np.asarray(weights.max(axis=0), dtype=np.float64)
    if isinstance(head, bool) or not isinstance(head, (int, np.integer)):
        raise ValueError(f"head must be 'mean', 'max' or a number, got {quoted(head)}")
    if not -len(weights) <= head < len(weights):
        raise ValueError(
            f"head {head} is out of range: the layer has {len(weights)} heads "
            f"(0..{len(weights) - 1} or negative)"
        )
    return np.asarray(weights[head], dtype=np.float64)


def raw_attention(
    trace: TraceLike,
    target: Target,
    *,
    layer: int | str = -1,
    head: Head = "mean",
    row: str = "predictor",
) -> Scores:
    """Score each position by the attention that the target's row pays to it.

    Parameters
    ----------
    trace : Trace
    target : Target
    layer : int or "mean"
        Layer of the language model, negative from the end; or the mean over all layers.
    head : {"mean", "max"} or int
        How heads are reduced, or the one head to read.
    row : {"predictor", "own"}
        Which row stands for the target, see the module's text.

    Returns
    -------
    Scores
        Mean over the target's rows.

    Raises
    ------
    AttentionError
        If attention holds values that are not finite.
    IndexError
        If there is no such layer.
    ValueError
        If an option is unknown or out of range.
    """
    rows = target_rows(target, row)
    if layer == "mean":
        total = np.zeros(len(trace.layout))
        count = 0
        for number, weights in trace.iter_attention():
            check_finite(weights, f"attention of layer {number}")
            total += _reduce_heads(weights[:, rows], head).mean(axis=0)
            count += 1
        values = total / count
    elif isinstance(layer, (int, np.integer)) and not isinstance(layer, bool):
        weights = trace.attention(layers=(int(layer),))[0]
        check_finite(weights, f"attention of layer {layer}")
        values = _reduce_heads(weights[:, rows], head).mean(axis=0)
    else:
        raise ValueError(f"layer must be a number or 'mean', got {quoted(layer)}")
    return Scores(values, {"layer": layer, "head": head, "row": row})


def rollout(
    trace: TraceLike,
    target: Target,
    *,
    head: Head = "mean",
    row: str = "predictor",
    add_residual: str | bool = "all",
    start_layer: int = 0,
) -> Scores:
    """Compose attention over layers as if it alone moved information (attention rollout).

    1. Reduce heads: A^l, shape (T, T).
    2. Add the residual path and make rows sum to one: Ā^l = (A^l + I) / rowsum.
    3. R = Ā^L ... Ā^start, built upwards while one forward pass yields the layers.
    4. The scores are the target's row of R (Abnar & Zuidema 2020, section 3).

    R is one float32 matrix; rows after the target's last row cannot reach it and are left out.

    Parameters
    ----------
    trace : Trace
    target : Target
    head : {"mean", "max"} or int
        How heads are reduced; the paper takes the mean.
    row : {"predictor", "own"}
        Which row stands for the target, see the module's text.
    add_residual : {"all", "start", False}
        Where the identity is added: in every layer, in the first composed layer only, or nowhere.
        True means "all".
    start_layer : int
        First layer of the product, 0..L-1.

    Returns
    -------
    Scores
        Mean over the target's rows.

    Raises
    ------
    AttentionError
        If attention holds values that are not finite.
    ValueError
        If an option is unknown or out of range.
    """
    rows = target_rows(target, row)
    residual = "all" if add_residual is True else add_residual
    if residual not in ("all", "start", False):
        raise ValueError(
            f"add_residual must be 'all', 'start' or False, got {quoted(add_residual)}"
        )
    size = max(rows) + 1
    joint: Float32Array | None = None
    number = -1
    for number, weights in trace.iter_attention():
        if number < start_layer:
            continue
        step = _reduce_heads(weights[:, :size, :size], head).astype(np.float32)
        check_finite(step, f"attention of layer {number}")
        if residual == "all" or (residual == "start" and number == start_layer):
            step += np.eye(size, dtype=np.float32)
        sums = step.sum(axis=1, keepdims=True)
        step /= np.where(sums == 0, np.float32(1), sums)
        joint = step if joint is None else step @ joint
    if joint is None or start_layer < 0:
        raise ValueError(f"start_layer {start_layer} is out of range: layers are 0..{number}")
    values = np.zeros(len(trace.layout))
    values[:size] = joint[rows].mean(axis=0, dtype=np.float64)
    parameters = {
        "head": head,
        "row": row,
        "add_residual": residual,
        "start_layer": start_layer,
    }
    return Scores(values, parameters)


TABLE: Table = (
    (
        raw_attention,
        MethodInfo(
            "attention",
            ("raw_attention",),
            "attention",
            "attention weights of the target's row in one layer",
            ONE_FORWARD,
            reference="Bahdanau, Cho & Bengio 2015, arXiv:1409.0473",
        ),
    ),
    (
        rollout,
        MethodInfo(
            "rollout",
            ("attention_rollout",),
            "attention",
            "attention with the residual path multiplied over layers",
            ONE_FORWARD,
            reference="Abnar & Zuidema 2020, arXiv:2005.00928",
        ),
    ),
)
