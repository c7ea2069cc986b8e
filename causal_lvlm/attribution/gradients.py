"""Gradient x attention of the target's own row, without composition over layers."""

from __future__ import annotations

import numpy as np

from causal_lvlm.attribution.info import ONE_BACKWARD, MethodInfo, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.weights import check_finite, target_rows
from causal_lvlm.errors import quoted
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target

__all__ = ["TABLE", "grad_attention"]


def grad_attention(
    trace: TraceLike,
    target: Target,
    *,
    layers: str = "last",
    signed: bool = False,
    score: str = "logit",
    against: int | str | None = None,
) -> Scores:
    """Score positions by mean over heads of (gradient * attention)⁺ in the predicting row.

    Only the predicting row makes sense here: the row where the target token is itself the query
    comes after the prediction, so its gradient is zero in the last layer.

    Parameters
    ----------
    trace : Trace
    target : Target
    layers : {"last", "all"}
        The last layer of the language model, or the sum over all of them.
    signed : bool
        Keep negative products; by default they are set to zero before heads are averaged.
    score : {"logit", "log_prob"}
        What is differentiated.
    against : optional
        Token that is subtracted from the score, as `Trace.backward` takes it.

    Returns
    -------
    Scores
        Sum over the target's predicting rows.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    ValueError
        If an option is unknown.
    """
    if layers not in ("last", "all"):
        raise ValueError(f"layers must be 'last' or 'all', got {quoted(layers)}")
    rows = target_rows(target, "predictor")
    values = np.zeros(len(trace.layout))
    for layer in trace.backward(target, score=score, against=against).language():
        product = layer.attention[:, rows] * layer.gradient[:, rows]  # (n_heads, n_rows, T)
        check_finite(product, f"gradient x attention of layer {layer.layer}")
        if not signed:
            product = np.maximum(product, 0)
        values += product.mean(axis=0, dtype=np.float64).sum(axis=0)
        if layers == "last":
            break
    parameters = {"layers": layers, "signed": signed, "score": score, "against": against}
    return Scores(values, parameters, model_runs=1, backward_passes=1)


TABLE: Table = (
    (
        grad_attention,
        MethodInfo(
            "grad_attention",
            ("attention_x_gradient", "gradient_x_attention"),
            "gradient",
            "positive part of gradient x attention in the target's row",
            ONE_BACKWARD,
            reference="compare Grad-SAM, Barkan et al. 2021, arXiv:2204.11073",
        ),
    ),
)
