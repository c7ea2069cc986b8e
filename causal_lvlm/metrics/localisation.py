"""Does a map point at the thing the answer is about? Plausibility, not faithfulness.

A region is given as one bool per unit, as boxes, or as a mask in pixels of the original image, and
becomes a set of units (`causal_lvlm.metrics.regions`).

1. `pointing_game`: does the highest unit lie in the region? (Zhang et al., IJCV 126, 2018,
   section 4.1: a hit, averaged over images, is the accuracy.) Several units may share the maximum:
   ``ties="share"`` takes the share of them that lies inside, which is the chance of a hit when one
   is picked at random; ``"any"`` counts one inside as a hit, as some released code does, and
   gives a constant map a perfect score; ``"all"`` wants all inside. The original's tolerance of 15
   pixels around the box is left out: units are cells, and `share` says how much of one suffices.
2. `energy_pointing_game`: sum of positive scores inside / sum of positive scores (Wang et al.,
   Score-CAM, CVPR workshops 2020, section 4.3). Negative scores count as zero.
3. `iou`: intersection over union of the region and the units that the map selects: as many as the
   region has (default; then a larger selection cannot help), or those with at least `threshold`
   times the maximum. Where the cut runs through a tie, the value is the expectation over random
   ways to break it: the number of tied units inside is hypergeometric.

Every detail holds ``chance``: what a constant map gets. A region is only where the *object* is. If
the model answers for another reason, a faithful map misses it: read these beside faithfulness.

By default only image units take part (``over="image"``); the region may hold words instead with
``over="all"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from causal_lvlm.arrays import BoolArray, FloatArray
from causal_lvlm.checks import check_choice
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.regions import SHARE, Region, region_units

__all__ = ["METRICS", "energy_pointing_game", "iou", "pointing_game", "region_units"]

TIES = ("share", "any", "all")
OVER = ("image", "all")


def pointing_game(
    case: Case,
    scores: FloatArray,
    *,
    region: Region,
    ties: str = "share",
    over: str = "image",
    share: float = SHARE,
    image: int = 0,
) -> Measured:
    """Return 1 if the highest unit lies in the region, else 0; ties as `ties` says.

    Parameters
    ----------
    case : Case
    scores : ndarray of float64, shape (U,)
    region, share, image
        See `region_units`.
    ties : {"share", "any", "all"}
        See the module's text.
    over : {"image", "all"}
        Units that take part.

    Returns
    -------
    Measured
        None where no unit, or every unit, is in the region.

    Raises
    ------
    ValueError
        If an option is unknown, or the region holds text units with ``over="image"``.
    """
    check_choice("ties", ties, TIES)
    values, inside, detail = _prepare(case, scores, region, over, share, image)
    if "undefined" in detail:
        return Measured(None, detail)
    top = values == values.max()
    hits = inside[top]
    detail |= {"tied": int(top.sum()), "tied_inside": int(hits.sum()), "ties": ties}
    value = {"share": hits.mean(), "any": hits.any(), "all": hits.all()}[ties]
    return Measured(float(value), detail)


def energy_pointing_game(
    case: Case,
    scores: FloatArray,
    *,
    region: Region,
    over: str = "image",
    share: float = SHARE,
    image: int = 0,
) -> Measured:
    """Return the share of the positive scores that lies in the region.

    Parameters, errors and undefined cases as in `pointing_game`; also None where no score is
    positive.
    """
    values, inside, detail = _prepare(case, scores, region, over, share, image)
    if "undefined" in detail:
        return Measured(None, detail)
    # Divided first: sums of tiny scores must not vanish, nor those of huge ones overflow.
    values = values / (np.abs(values).max() or 1.0)
    energy = np.maximum(values, 0.0)
    detail["negative_share"] = _share(np.maximum(-values, 0.0).sum(), np.abs(values).sum())
    if not energy.any():
        detail["undefined"] = "no score is positive"
        return Measured(None, detail)
    energy = energy / energy.max()
    return Measured(float(energy[inside].sum() / energy.sum()), detail)


def iou(
    case: Case,
    scores: FloatArray,
    *,
    region: Region,
    threshold: float | None = None,
    over: str = "image",
    share: float = SHARE,
    image: int = 0,
) -> Measured:
    """Return intersection over union of the region and the units that the map selects.

    Parameters
    ----------
    case, scores, region, over, share, image
        See `pointing_game`.
    threshold : float in (0, 1], optional
        Select units with at least this share of the maximum, instead of as many as the region has.

    Returns
    -------
    Measured
        ``detail["tied_at_cut"]`` says how many units shared the value at which was cut.

    Raises
    ------
    ValueError
        See `pointing_game`; also if `threshold` is out of range.
    """
    if threshold is not None and not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    values, inside, detail = _prepare(case, scores, region, over, share, image)
    if "undefined" in detail:
        return Measured(None, detail)
    size = int(inside.sum())
    if threshold is not None:
        detail["threshold"] = threshold
        if values.max() <= 0.0:
            detail["undefined"] = "no score is positive, so a share of the maximum selects nothing"
            return Measured(None, detail)
        chosen = values >= threshold * values.max()
        detail |= {"selected": int(chosen.sum()), "tied_at_cut": 0}
        return Measured(float((chosen & inside).sum() / (chosen | inside).sum()), detail)
    cut = np.sort(values)[::-1][size - 1]
    sure, tied = values > cut, values == cut
    left = size - int(sure.sum())
    # Of the tied units `left` are drawn without replacement; how many of them lie inside?
    hits = np.arange(left + 1)
    chance = stats.hypergeom.pmf(hits, int(tied.sum()), int((tied & inside).sum()), left)
    both = int((sure & inside).sum()) + hits
    detail |= {"selected": size, "tied_at_cut": int(tied.sum()) if left < tied.sum() else 0}
    return Measured(float((chance * both / (2 * size - both)).sum()), detail)


def _prepare(
    case: Case, scores: FloatArray, region: Region, over: str, share: float, image: int
) -> tuple[FloatArray, BoolArray, dict[str, Any]]:
    """Return the scores and the region of the units that take part, and what a reader needs."""
    check_choice("over", over, OVER)
    values = case.scores(scores)
    inside = region_units(case.trace.layout, case.units, region, share=share, image=image)
    taking_part = np.array(
        [over == "all" or modality == "image" for modality in case.units.modality], dtype=np.bool_
    )
    outside = np.flatnonzero(inside & ~taking_part)
    if len(outside):
        raise ValueError(
            f"the region holds the text units {outside.tolist()}, which do not take part; use "
            "over='all' to point at words too"
        )
    values, inside = values[taking_part], inside[taking_part]
    detail: dict[str, Any] = {
        "region_units": int(inside.sum()),
        "units": len(inside),
        "over": over,
        "chance": _share(inside.sum(), len(inside)),
    }
    if not inside.any():
        detail["undefined"] = f"no unit has {share:g} of its area in the region"
    elif inside.all():
        detail["undefined"] = "the region holds every unit, so nothing could miss it"
    return values, inside, detail


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


METRICS = (
    (
        pointing_game,
        MetricInfo(
            "pointing_game", "localisation", "higher", "region",
            "does the highest unit lie in the region?",
            "Zhang et al. 2018, IJCV 126, section 4.1 (ties: see ties=)",
        ),
    ),
    (
        energy_pointing_game,
        MetricInfo(
            "energy_pointing_game", "localisation", "higher", "region",
            "share of the positive scores that lies in the region",
            "Wang et al. 2020, Score-CAM, section 4.3",
        ),
    ),
    (
        iou,
        MetricInfo(
            "iou", "localisation", "higher", "region",
            "intersection over union of the region and as many highest units",
            "Jaccard 1901; expectation over ties",
        ),
    ),
)  # fmt: skip
