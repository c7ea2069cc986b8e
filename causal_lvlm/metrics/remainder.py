"""Does what an explanation left out still predict? Completeness of the masked remainder.

An explanation may name true causes and still be incomplete: where the answer is written twice in
the input, naming one place leaves the other. The question is asked of the remainder, the input
without the named units (the question is put by work on complete masks such as COMET; the
definition here is ours):

1. Mask the named units; p is the target's probability from what is left.
2. Normalise by what is possible at all: ``r = (p - p_empty) / (p_full - p_empty)``. 0: the rest is
   as good as nothing, the explanation is complete; 1: the rest says the target as before. Below 0
   and above 1 are possible (masking may help) and not clipped.
3. `remainder` of a map: the mean of r over the ERASER bins of its highest units. With one p_full
   and p_empty it orders methods as comprehensiveness does, but r compares targets: an answer that
   is guessed from the bare question with p = 0.6 counts only for what the input adds.
   `set_remainder` of an explaining set: r without its members.
4. ``detail["still_said"]``: the share of these masks under which the target is still the first
   choice of the model (accuracy, where `r` is confidence).
5. With ``n_random`` the same is asked of random sets of the same sizes: what is left matters only
   compared with what any set of that size leaves.

Where `p_full` does not exceed `p_empty` by `least_gap`, nothing in the units carries the answer,
and there is no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.checks import whole_number
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.eraser import BINS, bin_counts
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = ["METRICS", "remainder", "set_remainder"]

LEAST_GAP = 0.01
_STREAM = 5  # so that other random choices of a case's seed are others


def remainder(
    case: Case,
    scores: FloatArray,
    *,
    bins: Sequence[float] = BINS,
    n_random: int = 0,
    least_gap: float = LEAST_GAP,
) -> Measured:
    """Return how much of the answer is left without a map's highest units, averaged over bins.

    Parameters
    ----------
    case : Case
    scores : ndarray of float64, shape (U,)
    bins : sequence of float in (0, 1]
        Shares of the units that are masked, see `causal_lvlm.metrics.eraser.bin_counts`.
    n_random : int
        Random sets of each size to compare with; the detail then holds ``random`` (their mean
        remainder) and ``random_se`` (its standard error over draws).
    least_gap : float
        Smallest ``p_full - p_empty`` for which the ratio is taken.

    Returns
    -------
    Measured
        Lower is better.

    Raises
    ------
    ValueError
        If a bin is not in (0, 1], or another option is out of range.
    """
    order = case.order(scores)
    counts = bin_counts(case.n_units, bins)
    found = _left(case, [order[:count] for count in counts], n_random, least_gap)
    found.detail.update({"bins": [float(q) for q in bins], "counts": counts})
    return found


def set_remainder(
    case: Case,
    members: Iterable[int],
    *,
    n_random: int = 0,
    least_gap: float = LEAST_GAP,
) -> Measured:
    """Return how much of the answer is left without the members of an explaining set.

    Parameters
    ----------
    case : Case
    members : iterable of int
        Units of the set.
    n_random, least_gap
        See `remainder`.

    Returns
    -------
    Measured
        Lower is better.

    Raises
    ------
    ValueError
        If a member is no unit, or an option is out of range.
    """
    return _left(case, [tuple(sorted(set(members)))], n_random, least_gap)


def _left(case: Case, named: Sequence[Sequence[int]], n_random: int, least_gap: float) -> Measured:
    """Return the mean normalised probability without each of some sets of units."""
    whole_number("n_random", n_random, 0)
    if not least_gap > 0.0:
        raise ValueError(f"least_gap must be positive, got {least_gap}")
    before = case.asked
    full, empty = case.full, case.empty
    detail: dict[str, Any] = {"full": full, "empty": empty}
    if full - empty < least_gap:
        detail["undefined"] = (
            f"p_full - p_empty = {full - empty:.3g} is below {least_gap:g}: masking everything "
            "does not make the target less likely"
        )
        return Measured(None, detail, case.asked - before)
    answers = case.without(named)
    left = (answers.prob - empty) / (full - empty)
    detail |= {
        "probabilities": answers.prob.tolist(),
        "remainders": left.tolist(),
        "still_said": float(1.0 - answers.changed.mean()),
    }
    if n_random:
        rng = np.random.default_rng([case.seed, _STREAM])
        drawn = [
            rng.choice(case.n_units, size=len(members), replace=False).tolist()
            for _ in range(n_random)
            for members in named
        ]
        random = (case.without(drawn).prob - empty) / (full - empty)
        means = random.reshape(n_random, len(named)).mean(axis=1)
        spread = means.std(ddof=1) / np.sqrt(n_random) if n_random > 1 else float("nan")
        detail |= {"random": float(means.mean()), "random_se": float(spread)}
    return Measured(float(left.mean()), detail, case.asked - before)


METRICS = (
    (
        remainder,
        MetricInfo(
            "remainder", "faithfulness", "lower", "scores",
            "how much of the answer is left without the highest units (normalised, ERASER bins)",
            "this package; bins of DeYoung et al. 2020",
        ),
    ),
    (
        set_remainder,
        MetricInfo(
            "set_remainder", "set", "lower", "set",
            "how much of the answer is left without the members of an explaining set (normalised)",
            "this package",
        ),
    ),
)  # fmt: skip
