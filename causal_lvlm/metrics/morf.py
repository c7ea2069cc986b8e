"""MoRF and LeRF: the target's margin while units vanish, most or least relevant first.

1. Order the units by score (ties as the case breaks them); LeRF takes the same order backwards.
2. Take them out one by one, with their input embeddings set to zero, as in the evaluation of
   AttnLRP (``morf[zero]``; another masking may be asked for).
3. Read the score at each point. The published curves read the logit; softmax does not see a shift
   of all logits, so the margin to the strongest other token is read here, which has the unit of a
   logit and does not saturate as a probability does (`score` chooses).
4. The value is the area under the curve over the share of units; the gap is LeRF minus MoRF.

References
----------
W. Samek et al., "Evaluating the Visualization of What a Deep Neural Network Has Learned", IEEE
TNNLS 28(11), 2017.
R. Achtibat et al., "AttnLRP", ICML 2024, arXiv:2402.05602 (zeroed embeddings, area between the
curves).
"""

from __future__ import annotations

import numpy.typing as npt

from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.curves import Curve, area, curve
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = ["METRICS", "lerf", "morf", "morf_lerf_gap"]


def _relevance_curve(
    case: Case, scores: npt.ArrayLike, least: bool, steps: int | None, score: str
) -> Curve:
    order = case.order(scores)
    return curve(case, order[::-1] if least else order, keep=False, steps=steps, score=score)


def morf(
    case: Case, scores: npt.ArrayLike, *, steps: int | None = None, score: str = "margin"
) -> Measured:
    """Return the mean score while units vanish, most relevant first; lower wins.

    Parameters
    ----------
    case : Case
        `evaluate` takes it with ``masking="zero"``, as published.
    scores : array_like of float, shape (U,)
    steps : int, optional
    score : {"margin", "log_prob", "prob"}
        See the module's text.

    Returns
    -------
    Measured

    Raises
    ------
    ValueError
        As `insertion`.

    References
    ----------
    Samek et al. 2017, section III; Achtibat et al. 2024, section 4.1.
    """
    before = case.asked
    found = _relevance_curve(case, scores, False, steps, score)
    detail = found.detail() | {"score": score}
    return Measured(area(found.share, found.values), detail, case.asked - before)


def lerf(
    case: Case, scores: npt.ArrayLike, *, steps: int | None = None, score: str = "margin"
) -> Measured:
    """Return the mean score while units vanish, least relevant first; higher wins; see `morf`."""
    before = case.asked
    found = _relevance_curve(case, scores, True, steps, score)
    detail = found.detail() | {"score": score}
    return Measured(area(found.share, found.values), detail, case.asked - before)


def morf_lerf_gap(
    case: Case, scores: npt.ArrayLike, *, steps: int | None = None, score: str = "margin"
) -> Measured:
    """Return LeRF minus MoRF, the area between the two curves; higher wins; see `morf`.

    A map whose order says nothing has the same curve in both directions in the mean: gap 0.
    """
    before = case.asked
    most = _relevance_curve(case, scores, False, steps, score)
    least = _relevance_curve(case, scores, True, steps, score)
    first, last = area(most.share, most.values), area(least.share, least.values)
    detail = {"morf": most.detail(), "lerf": least.detail(), "score": score}
    return Measured(last - first, detail, case.asked - before)


_SOURCE = "Samek et al. 2017; Achtibat et al. 2024, arXiv:2402.05602"

# function, better, summary
_TABLE = (
    (morf, "lower", "mean margin while embeddings are zeroed, most relevant first"),
    (lerf, "higher", "mean margin while embeddings are zeroed, least relevant first"),
    (morf_lerf_gap, "higher", "lerf minus morf"),
)

METRICS = tuple(
    (f, MetricInfo(f.__name__, "faithfulness", better, "scores", summary, _SOURCE, "zero"))
    for f, better, summary in _TABLE
)
