"""ERASER's comprehensiveness and sufficiency over bins of the input.

1. Order the units by score (ties as the case breaks them).
2. For each share q in {1, 5, 10, 20, 50 %} take the first ceil(q U) units: at least one, so on
   short inputs small bins fall together (``detail["counts"]`` shows it).
3. Comprehensiveness: how much the target's probability falls when these units are masked.
   Sufficiency: how much it falls when only these are visible.
4. The value is the mean over the bins. ERASER's formula divides by |B| + 1, as it counts an empty
   bin whose term is 0; its own evaluation code takes the mean over the thresholds, which is done
   here.

The probability may rise; differences are not clipped.

References
----------
J. DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models", ACL 2020,
arXiv:1911.03429, section 4.2. The mean over thresholds was checked against the published code; how
a bin's count is rounded is not fixed by the paper, and is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from causal_lvlm.errors import quoted
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = ["BINS", "METRICS", "bin_counts", "comprehensiveness", "sufficiency"]

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


def bin_counts(n_units: int, bins: Sequence[float] = BINS) -> list[int]:
    """Return how many units each bin holds: ceil(q U), at least 1.

    Raises
    ------
    ValueError
        If there is no bin, or one is not in (0, 1].
    """
    if not len(bins) or not all(0 < q <= 1 for q in bins):
        raise ValueError(f"bins must be shares in (0, 1], got {quoted(tuple(bins))}")
    # 0.1 * 70 is 7.000000000000001 in floating point: the count is 7, not 8.
    return [max(1, math.ceil(q * n_units - 1e-9)) for q in bins]


def _aopc(case: Case, scores: npt.ArrayLike, bins: Sequence[float], *, keep: bool) -> Measured:
    before = case.asked
    order = case.order(scores)
    counts = bin_counts(case.n_units, bins)
    tops = [order[:count] for count in counts]
    answers = case.keep(tops) if keep else case.without(tops)
    full = case.full
    drops = full - answers.prob
    detail = {
        "bins": [float(q) for q in bins],
        "counts": counts,
        "per_bin": drops.tolist(),
        "p_full": full,
    }
    return Measured(float(np.mean(drops)), detail, case.asked - before)


def comprehensiveness(
    case: Case, scores: npt.ArrayLike, *, bins: Sequence[float] = BINS
) -> Measured:
    """Return the mean fall of the target's probability when the best units are masked.

    Parameters
    ----------
    case : Case
    scores : array_like of float, shape (U,)
    bins : sequence of float
        Shares of the units, each in (0, 1].

    Returns
    -------
    Measured
        Higher is better; ``detail["per_bin"]`` has the fall of each bin.

    Raises
    ------
    ValueError
        If the scores are not one finite number per unit, or a bin is not allowed.

    References
    ----------
    DeYoung et al. 2020, section 4.2.
    """
    return _aopc(case, scores, bins, keep=False)


def sufficiency(case: Case, scores: npt.ArrayLike, *, bins: Sequence[float] = BINS) -> Measured:
    """Return the mean fall of the target's probability when only the best units are visible.

    Lower is better. Parameters, result and errors as `comprehensiveness`.

    References
    ----------
    DeYoung et al. 2020, section 4.2.
    """
    return _aopc(case, scores, bins, keep=True)


_SOURCE = "DeYoung et al. 2020, arXiv:1911.03429"

METRICS = (
    (
        comprehensiveness,
        MetricInfo(
            "comprehensiveness",
            "faithfulness",
            "higher",
            "scores",
            "mean fall of the probability when the best 1, 5, 10, 20, 50 % are masked",
            _SOURCE,
        ),
    ),
    (
        sufficiency,
        MetricInfo(
            "sufficiency",
            "faithfulness",
            "lower",
            "scores",
            "mean fall of the probability when only the best 1, 5, 10, 20, 50 % are visible",
            _SOURCE,
        ),
    ),
)
