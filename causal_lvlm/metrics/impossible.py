"""Mass where there cannot be any: DiFull (Rao, Böhle, Schiele, CVPR 2022) for LVLMs.

DiFull builds inputs parts of which are disconnected from the output, so that attribution there is
wrong for sure; no model of what the network "should" look at is needed. The published version puts
images of several classes into a grid and gives each cell a head of its own (arXiv 2205.10435,
section 3.1). Here, ours for language models:

1. Draw a random subset of the units.
2. Block their positions: no other row sees them, in any layer (`Trace.blocked`). Whatever stands
   there cannot reach the target's prediction, so its true share is exactly zero.
3. Run the method on the blocked trace. Value: 1 - (absolute mass on the blocked units / absolute
   mass on all units), averaged over several subsets.
4. ``detail["chance"]``: what a method gets that does not notice, with its mass spread evenly: the
   share of units that stay. A value near it is a method that looks at something else than what
   the model computes.

It is a necessary condition only: a map with all its mass on one irrelevant visible unit is perfect
here. And it holds at the door of the language model: the vision tower mixes patches before, so the
*pixels* of a blocked image token do reach other image tokens. For maps that end in the tower or in
pixels (`PIXEL_METHODS`, ``masking="pixels-*"``) mass there may be right; the detail then says so
under ``caveat``, and for them the value must not be read as an error. Units are blocked whole, so
a method that scores units is not blamed for half of one.

A perturbation method that estimates from random masks puts sampling noise everywhere. That is an
error of the method at its budget, and is counted. A method that explains only what the model says
(``causal``) refuses where blocking changed the answer; other subsets are then drawn, up to a limit,
and ``detail["refused"]`` counts them: such values hold for subsets that leave the answer alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from causal_lvlm.checks import whole_number
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.rerun import PIXEL_METHODS, REFUSALS, Recipe, Rerun

__all__ = ["METRICS", "impossible_attribution"]

MOST_REFUSALS = 3  # subsets tried in vain, for each that is wanted
_STREAM = 7
_CAVEAT = (
    "the vision tower mixes patches before the language model: pixels of a blocked token reach "
    "the answer through other tokens, so mass on it need not be wrong in a map of pixels"
)


def impossible_attribution(
    case: Case,
    result: Recipe,
    rerun: Rerun,
    *,
    blocked_share: float = 0.25,
    repeats: int = 5,
    method_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Measured:
    """Return 1 minus the share of mass that a method puts on units that cannot matter.

    Parameters
    ----------
    case : Case
        Its trace must have a model.
    result : str, Attribution, Explanation or callable
        The method, see `causal_lvlm.metrics.rerun`; an attribution is made again, with the options
        that it recorded, on every blocked trace.
    rerun : callable
        Makes it ready to be asked (`causal_lvlm.methods.rerun`).
    blocked_share : float in (0, 1)
        Share of the units that is blocked, rounded; at least one, and at least one stays.
    repeats : int
        Number of random subsets.
    method_options : mapping, optional
        Options of the method.
    seed : int, optional
        By default that of the case.

    Returns
    -------
    Measured
        Higher is better, 1 is right. None if the method gave no mass at all on any blocked trace.
        The detail holds ``each`` (one value per subset), ``chance``, and the blocked ``units``.

    Raises
    ------
    ValueError
        If an option is out of range, or there are fewer than two units.
    """
    if not 0.0 < blocked_share < 1.0:
        raise ValueError(f"blocked_share must lie between 0 and 1, got {blocked_share}")
    whole_number("repeats", repeats, 1)
    if case.n_units < 2:
        raise ValueError("at least two units are needed: one that is blocked and one that is not")
    seed = case.seed if seed is None else whole_number("seed", seed, 0)
    run = rerun(result, method_options, seed)
    size = min(max(round(blocked_share * case.n_units), 1), case.n_units - 1)
    rng = np.random.default_rng([seed, _STREAM])
    each: list[float] = []
    subsets: list[list[int]] = []
    refused: list[str] = []
    while len(each) < repeats and len(refused) < MOST_REFUSALS * repeats:
        chosen = sorted(int(u) for u in rng.choice(case.n_units, size=size, replace=False))
        trace = case.trace.blocked(case.units.positions(chosen))
        try:
            mass = run(trace, case.target, case.units).mass
        except REFUSALS as error:
            refused.append(str(error))
            continue
        largest = mass.max(initial=0.0)
        # Divided first: the sum of many tiny masses must not vanish.
        share = (mass[chosen] / largest).sum() / (mass / largest).sum() if largest else math.nan
        each.append(float(1.0 - share))
        subsets.append(chosen)
    case.asker.count(run.model_runs)
    detail: dict[str, Any] = {
        "each": each,
        "chance": 1.0 - size / case.n_units,
        "units": subsets,
        "backward_passes": run.backward_passes,
        "refused": len(refused),
    }
    masking = run.options.get("masking", "")
    if run.name in PIXEL_METHODS or str(masking).startswith("pixels"):
        detail["caveat"] = _CAVEAT
    known = [value for value in each if not math.isnan(value)]
    if not known:
        detail["undefined"] = (
            "the method gave no mass to any unit" if each else f"the method refuses: {refused[0]}"
        )
        return Measured(None, detail, run.model_runs)
    return Measured(float(np.mean(known)), detail, run.model_runs)


METRICS = (
    (
        impossible_attribution,
        MetricInfo(
            "impossible_attribution", "sanity", "higher", "result",
            "1 - share of mass on random tokens that no other row can see",
            "DiFull: Rao, Böhle, Schiele 2022, arXiv 2205.10435, section 3.1; tokens: this package",
        ),
    ),
)  # fmt: skip
