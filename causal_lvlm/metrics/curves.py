"""Curves: the target's score while units are put in or taken out in order of their attribution.

1. Order the units by score (ties as the case breaks them).
2. For k = 0 .. U take the first k units: visible alone (insertion), or masked (deletion).
3. Read the target's score at each point; both ends, nothing and everything visible, are part of
   every curve.
4. The value is the area by the trapezoid rule over the share of units (or of positions, which is
   EAGLE's share of area: ``share="positions"``), so that it is a mean of the score: 0 to 1 for a
   probability.

``steps=n`` reads the curve at n + 1 counts, spread evenly, instead of at all U + 1; the area is
then that of the coarser polygon, and ``detail["exact"]`` says so.

A target whose probability with nothing visible is almost that with everything visible cannot tell
maps apart. Normalised curves, (p - p_empty) / (p_full - p_empty), are therefore undefined where
p_full - p_empty is below `min_effect`; they are not clipped, a curve may leave [0, 1].

References
----------
V. Petsiuk, A. Das, K. Saenko, "RISE", BMVC 2018, arXiv:1806.07421 (insertion, deletion).
R. Chen et al., "Less is More: Fewer Interpretable Region via Submodular Subset Selection", ICLR
2024, arXiv:2402.09164 (average highest confidence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.errors import quoted
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = [
    "METRICS",
    "Curve",
    "area",
    "average_highest_confidence",
    "curve",
    "deletion",
    "insertion",
    "normalised_deletion",
    "normalised_insertion",
]


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes
    ----------
    counts : ndarray of int64, shape (P,)
        Units put in or taken out at each point; 0 and U are among them.
    share : ndarray of float64, shape (P,)
        The same as a share, 0 to 1.
    values : ndarray of float64, shape (P,)
        The target's score.
    exact : bool
        Whether every count is there.
    """

    counts: IntArray
    share: FloatArray
    values: FloatArray
    exact: bool

    def detail(self) -> dict[str, Any]:
        """Return the curve as plain lists."""
        return {
            "counts": self.counts.tolist(),
            "share": self.share.tolist(),
            "values": self.values.tolist(),
            "exact": self.exact,
        }


def curve(
    case: Case,
    order: tuple[int, ...],
    *,
    keep: bool,
    steps: int | None = None,
    share: str = "units",
    score: str = "prob",
) -> Curve:
    """Read the target's score along an order of the units.

    Parameters
    ----------
    case : Case
    order : tuple of int
        A permutation of the units.
    keep : bool
        True: the first k units are the only visible ones. False: they are the masked ones.
    steps : int, optional
        Read the curve at this many steps; all U by default.
    share : {"units", "positions"}
        What the horizontal axis counts.
    score : {"prob", "log_prob", "margin"}

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        If an option has a value that is not allowed.
    """
    check_choice("share", share, ("units", "positions"))
    n_units = case.n_units
    counts = np.arange(n_units + 1)
    if steps is not None and whole_number("steps", steps, 1) < n_units:
        counts = np.unique(np.rint(np.linspace(0, n_units, steps + 1)).astype(np.int64))
    rank = np.empty(n_units, dtype=np.int64)
    rank[list(order)] = np.arange(n_units)
    first = rank[None, :] < counts[:, None]
    answers = case.keep(first) if keep else case.without(first)
    sizes = np.ones(n_units)
    if share == "positions":
        sizes = np.array([len(members) for members in case.units.members], dtype=np.float64)
    reached = np.concatenate([[0.0], np.cumsum(sizes[list(order)])])[counts]
    return Curve(
        counts=counts.astype(np.int64),
        share=reached / sizes.sum(),
        values=answers.read(score),
        exact=len(counts) == n_units + 1,
    )


def area(share: FloatArray, values: FloatArray) -> float:
    """Return the area under a polygon by the trapezoid rule."""
    return float(np.sum(np.diff(share) * (values[1:] + values[:-1]) / 2))


def _measured(case: Case, before: int, value: float | None, detail: dict[str, Any]) -> Measured:
    return Measured(value, detail, case.asked - before)


def insertion(
    case: Case,
    scores: npt.ArrayLike,
    *,
    steps: int | None = None,
    share: str = "units",
) -> Measured:
    """Return the area under the target's probability while units appear, best first; higher wins.

    Parameters
    ----------
    case : Case
    scores : array_like of float, shape (U,)
    steps : int, optional
    share : {"units", "positions"}
        See the module's text.

    Returns
    -------
    Measured
        ``detail`` holds the curve.

    Raises
    ------
    ValueError
        If the scores are not one finite number per unit, or an option is not allowed.

    References
    ----------
    Petsiuk et al. 2018, section 4.1.
    """
    before = case.asked
    found = curve(case, case.order(scores), keep=True, steps=steps, share=share)
    return _measured(case, before, area(found.share, found.values), found.detail())


def deletion(
    case: Case,
    scores: npt.ArrayLike,
    *,
    steps: int | None = None,
    share: str = "units",
) -> Measured:
    """Return the area under the target's probability while units vanish, best first; lower wins.

    Parameters, result and errors as `insertion`.

    References
    ----------
    Petsiuk et al. 2018, section 4.1.
    """
    before = case.asked
    found = curve(case, case.order(scores), keep=False, steps=steps, share=share)
    return _measured(case, before, area(found.share, found.values), found.detail())


def _normalised(
    case: Case, before: int, found: Curve, ends: tuple[float, float], min_effect: float
) -> Measured:
    empty, full = ends
    detail = found.detail() | {"p_empty": empty, "p_full": full}
    if full - empty < min_effect:
        detail["undefined"] = (
            f"masking all units lowers the probability by {full - empty:.3g}, less than "
            f"min_effect={min_effect:g}"
        )
        return _measured(case, before, None, detail)
    values = (found.values - empty) / (full - empty)
    return _measured(case, before, area(found.share, values), detail)


def normalised_insertion(
    case: Case,
    scores: npt.ArrayLike,
    *,
    steps: int | None = None,
    share: str = "units",
    min_effect: float = 0.05,
) -> Measured:
    """Return the insertion area after the curve's ends are moved to 0 and 1; higher wins.

    Parameters
    ----------
    case, scores, steps, share
        See `insertion`.
    min_effect : float
        Undefined (None) where p_full - p_empty is smaller.

    Returns
    -------
    Measured

    Raises
    ------
    ValueError
        As `insertion`.
    """
    before = case.asked
    found = curve(case, case.order(scores), keep=True, steps=steps, share=share)
    ends = (float(found.values[0]), float(found.values[-1]))
    return _normalised(case, before, found, ends, min_effect)


def normalised_deletion(
    case: Case,
    scores: npt.ArrayLike,
    *,
    steps: int | None = None,
    share: str = "units",
    min_effect: float = 0.05,
) -> Measured:
    """Return the deletion area after the curve's ends are moved to 1 and 0; lower wins.

    Parameters, result and errors as `normalised_insertion`.
    """
    before = case.asked
    found = curve(case, case.order(scores), keep=False, steps=steps, share=share)
    ends = (float(found.values[-1]), float(found.values[0]))
    return _normalised(case, before, found, ends, min_effect)


def average_highest_confidence(
    case: Case,
    scores: npt.ArrayLike,
    *,
    steps: int | None = None,
    share: str = "units",
    within: float = 1.0,
) -> Measured:
    """Return the highest probability on the insertion curve; the mean over samples is the metric.

    With ``within=1`` the whole input is on the curve, so the value is at least p_full: a map gains
    only where less input makes the target more likely. A smaller `within` looks at the first part
    alone (Chen et al. report 25, 50 and 75 % as well).

    Parameters
    ----------
    case, scores, steps, share
        See `insertion`.
    within : float
        Largest share that is looked at, in (0, 1].

    Returns
    -------
    Measured
        ``detail["at_share"]``: where the maximum lies.

    Raises
    ------
    ValueError
        As `insertion`, or if `within` is not in (0, 1].
    """
    if not 0 < within <= 1:
        raise ValueError(f"within must be in (0, 1], got {quoted(within)}")
    before = case.asked
    found = curve(case, case.order(scores), keep=True, steps=steps, share=share)
    inside = found.values[found.share <= within + 1e-12]
    best = int(np.argmax(inside))
    detail = found.detail() | {"at_share": float(found.share[best])}
    return _measured(case, before, float(inside[best]), detail)


_RISE = "Petsiuk et al. 2018, arXiv:1806.07421"
_OURS = f"{_RISE}; normalisation ours"
_CHEN = "Chen et al. 2024, arXiv:2402.09164"

# function, better, summary, reference
_TABLE = (
    (deletion, "lower",
     "area under the target's probability while the best units are masked one by one", _RISE),
    (insertion, "higher",
     "area under the target's probability while the best units appear one by one", _RISE),
    (normalised_deletion, "lower", "deletion with the curve's ends moved to 1 and 0", _OURS),
    (normalised_insertion, "higher",
     "insertion with the curve's ends moved to 0 and 1", _OURS),
    (average_highest_confidence, "higher",
     "highest probability on the insertion curve", _CHEN),
)  # fmt: skip

METRICS = tuple(
    (f, MetricInfo(f.__name__, "faithfulness", better, "scores", summary, reference))
    for f, better, summary, reference in _TABLE
)
