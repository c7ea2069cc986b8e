"""Self-attention attribution (AttAttr): integrated gradients over a layer's attention weights.

1. One layer's attention A (H, T, T) is scaled by α from 0 to 1, all its heads together, everything
   else left as it is; p(αA) is the target's probability.
2. Attr_h = A_h ⊙ ∫₀¹ ∂p(αA)/∂A_h dα, the integral by a sum of m steps. As published the sum takes
   α = 1/m, ..., m/m (``rule="right"``); the authors' code takes 0/m, ..., (m-1)/m (``"left"``); the
   middle of each step is closest to the integral (``"midpoint"``; on the embedded model's samples
   the published sum misses a third to three fifths of the change, the middle of steps a tenth or
   less).
3. Heads are summed. The scores are the predicting rows of the sum; or, with ``rows="all"``, its
   column sums, which add up to p(A) - p(0·A) (completeness) as far as m steps allow.
4. For one layer and a score that is a probability or its logarithm, p(A) - p(0·A) is measured (two
   more runs, the second with the layer's heads silenced), and the gap is noted. Where a model is
   sure of its answer, p(αA) can rise within a small part of the way, which 20 steps may miss or
   count twice: a large gap says so. The logarithm is milder.

In the last layer only predicting rows have a gradient, so there both kinds of rows are the same.

Not checked against the paper's own text: the definition, and what is said of the authors' code
(left points, 20 steps, zero baseline), come from descriptions of arXiv:2004.11207. It explains a
classifier; that the probability of a generated token stands for the class's, and that a token's
score is the predicting row, is our reading.

References
----------
Y. Hao, L. Dong, F. Wei, K. Xu, "Self-Attention Attribution: Interpreting Information Interactions
Inside Transformer", AAAI 2021, arXiv:2004.11207, section 3 (attribution of attention heads).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.attribution.gradcam import layer_number
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.weights import check_finite, target_rows
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target

__all__ = ["TABLE", "attattr"]

_RULES = {"right": 1.0, "midpoint": 0.5, "left": 0.0}
_SCORES = ("prob", "log_prob", "logit")


def attattr(
    trace: TraceLike,
    target: Target,
    *,
    layer: int | str = -1,
    n_steps: int = 20,
    rule: str = "right",
    rows: str = "predictor",
    score: str = "prob",
    against: int | str | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score positions by attention weights times their gradient along the way from no attention.

    Parameters
    ----------
    trace : Trace
    target : Target
    layer : int, "global" or "all"
        Layer of the language model, negative from the end; the last one without a window; or the
        sum over all layers, each scaled alone.
    n_steps : int
        Steps of the integral; each is a forward and a backward pass.
    rule : {"right", "midpoint", "left"}
        Where in each step the gradient is taken.
    rows : {"predictor", "all"}
        Rows that are summed.
    score : {"prob", "log_prob", "logit"}
        What is differentiated; the paper takes the probability.
    against : int or str, optional
        Token whose score at the first predicting row is subtracted.
    progress : callable, optional
        Called as ``progress("attattr", layers done, layers)``.

    Returns
    -------
    Scores
        Signed.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    ValueError
        If an option is unknown or out of range.
    """
    steps = whole_number("n_steps", n_steps, 1)
    check_choice("rule", rule, tuple(_RULES))
    check_choice("rows", rows, ("predictor", "all"))
    check_choice("score", score, _SCORES)
    everything = isinstance(layer, str) and layer == "all"
    kinds = trace.attention_kinds
    one = 0 if everything else layer_number(layer, trace.n_layers, kinds)
    chosen = range(trace.n_layers) if everything else [one]
    alphas = [(step + _RULES[rule]) / steps for step in range(steps)]
    values, total = np.zeros(len(trace.layout)), 0.0
    for done, number in enumerate(chosen, start=1):
        gradient = trace.scaled_attention_gradient(
            target, number, alphas, score=score, against=against
        )
        attention = trace.attention(layers=(number,))[0]
        used = target_rows(target, "predictor") if rows == "predictor" else slice(None)
        for weights, slope in zip(attention, gradient, strict=True):
            product = weights.astype(np.float64) * slope
            values += product[used].sum(axis=0)
            total += float(product.sum())
        if progress is not None:
            progress("attattr", done, len(chosen))
    check_finite(values, "attention x gradient")
    parameters: dict[str, Any] = {
        "layer": "all" if everything else chosen[0],
        "n_steps": steps,
        "rule": rule,
        "rows": rows,
        "score": score,
        "against": against,
    }
    notes: tuple[str, ...] = ()
    measured = not everything and against is None and score != "logit"
    if measured:
        change = _effect(trace, target, chosen[0], len(attention), score)
        parameters.update(score_change=change, completeness_gap=total - change)
        notes = (
            f"completeness gap {total - change:.3g}: attributions of all rows add up to "
            f"{total:.4g}, {score}(A) - {score}(0 A) is {change:.4g} ({steps} steps)",
        )
    return Scores(
        values,
        parameters,
        model_runs=len(chosen) * (steps + 1) + 2 * measured,
        backward_passes=len(chosen) * steps,
        notes=notes,
    )


def _effect(trace: TraceLike, target: Target, layer: int, n_heads: int, score: str) -> float:
    """Return what the score loses when the layer's heads say nothing."""
    silenced = np.zeros((2, trace.n_layers, n_heads), dtype=np.bool_)
    silenced[1, layer] = True
    found = trace.evaluate_heads(silenced, target, source="zero").log_prob
    high, low = np.exp(found) if score == "prob" else found
    return float(high - low)


TABLE: Table = (
    (
        attattr,
        MethodInfo(
            "attattr",
            ("self_attention_attribution",),
            "gradient",
            "attention weights times their gradient, integrated from no attention, signed",
            "23 forward, 20 backward",
            reference="Hao et al. 2021, arXiv:2004.11207",
        ),
    ),
)
