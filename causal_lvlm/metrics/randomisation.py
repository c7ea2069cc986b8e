"""Model-parameter randomisation: an explanation of a trained model must not fit a random one.

`mprt` (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv 1810.03292, section 3,
cascading; the name is Quantus'):

1. For d = 1, 2, ... layers: re-initialise the head and the top d decoder layers, cumulatively
   (`LVLM.randomised`); ask the same sequence and the same target of that model (`Trace.on`).
2. Run the method there; rho_d is Spearman's correlation of its scores with those of the trained
   model over the same units.
3. The value is the mean of 1 - |rho_d| over depths: 0 for a map that does not depend on the
   weights, near 1 for one that does. The absolute value, because a map turned upside down by chance
   still shows the same structure.

It is a check of maps. ``causal`` (and an `Explanation`) explains what the model really says, and a
random model says something else. So it is asked, of the trained model too, about the probability
of the target instead of the choice: ``tester="drop"``, a set is verified where masking it halves
that probability (`causal_lvlm.metrics.rerun.ANY_MODEL`; ``detail["asked_with"]`` says so). That is
the published question, the same class explained in a random network. The random model's own choice
as the target would compare maps of two different tokens. Where `method_options` name another
tester, random models are refused and there is no value. The graphs behind it are checked by
`causal_lvlm.metrics.graph_randomisation`, which asks about no choice at all.

Passing says little by itself: a method that adds noise passes too. Failing says a lot. What is left
at full depth is what the map owes to the input embeddings, the position and the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.checks import whole_number
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.ranks import spearman_rho
from causal_lvlm.metrics.rerun import ANY_MODEL, REFUSALS, Recipe, Rerun

__all__ = ["METRICS", "chosen_depths", "mean_known", "mprt", "or_none"]

STEPS = 4  # depths that are looked at by default


def mprt(
    case: Case,
    result: Recipe,
    rerun: Rerun,
    *,
    depths: Sequence[int] | None = None,
    head: bool = True,
    method_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Measured:
    """Return how much a map changes when the model's upper layers are made random.

    Parameters
    ----------
    case : Case
        Its trace must have a model.
    result : str, Attribution, Explanation or callable
        The method, see `causal_lvlm.metrics.rerun`; it runs on the trained model too.
    rerun : callable
        Makes it ready to be asked (`causal_lvlm.methods.rerun`).
    depths : sequence of int, optional
        Numbers of decoder layers to randomise, from the top; by default all of them in four
        steps (every one in a model of up to four layers), since each takes a copy of the model.
    head : bool
        Whether the head and the last norm are random as well.
    method_options : mapping, optional
        Options of the method.
    seed : int, optional
        Of the weights and of the method; by default that of the case.

    Returns
    -------
    Measured
        Higher is better. None if no depth has a correlation (constant maps). The detail holds
        ``depths``, ``rho`` (None where a map is constant) and ``curve`` (1 - |rho|).

    Raises
    ------
    ValueError
        If a depth is not in 1..number of layers.
    """
    seed = case.seed if seed is None else whole_number("seed", seed, 0)
    run = rerun(result, method_options, seed, any_model=True)
    chosen = chosen_depths(case, depths)
    trained = run(case.trace, case.target, case.units).scores
    rho, refused = [], []
    for depth in chosen:
        model = case.trace.model.randomised(depth, seed=seed, head=head)
        try:
            there = run(case.trace.on(model), case.target, case.units).scores
        except REFUSALS as error:
            refused.append(str(error))
            rho.append(math.nan)
            continue
        rho.append(spearman_rho(trained, there))
    case.asker.count(run.model_runs)
    curve = [1.0 - abs(r) for r in rho]
    detail: dict[str, Any] = {
        "depths": chosen,
        "rho": [or_none(r) for r in rho],
        "curve": [or_none(c) for c in curve],
        "head": head,
        "seed": seed,
        "backward_passes": run.backward_passes,
        "refused": len(refused),
    }
    if ANY_MODEL.items() <= run.options.items():
        detail["asked_with"] = dict(ANY_MODEL)
    value = mean_known(curve)
    if value is None:
        detail["undefined"] = (
            f"the method refuses random models: {refused[0]}"
            if refused
            else "a map is constant at every depth, so ranks do not correlate"
        )
    return Measured(value, detail, run.model_runs)


def chosen_depths(case: Case, depths: Sequence[int] | None) -> list[int]:
    """Return how many upper layers are randomised, one number after the other."""
    most = int(case.trace.n_layers)
    if depths is None:
        steps = min(most, STEPS)
        return [round(most * step / steps) for step in range(1, steps + 1)]
    chosen = [whole_number("depths", depth, 1) for depth in depths]
    if not chosen or max(chosen) > most:
        raise ValueError(
            f"depths must be numbers of layers, 1..{most} of them in this model, got {list(depths)}"
        )
    return chosen


def mean_known(values: Sequence[float] | FloatArray) -> float | None:
    """Return the mean of the values that are not NaN, None without any."""
    known = [float(v) for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else None


def or_none(value: float) -> float | None:
    """Return a value that is not NaN, else None."""
    return None if math.isnan(value) else float(value)


METRICS = (
    (
        mprt,
        MetricInfo(
            "mprt", "sanity", "higher", "result",
            "1 - |Spearman| with the map of a model whose upper layers are random, over depths",
            "Adebayo et al. 2018, arXiv 1810.03292, section 3 (cascading)",
        ),
    ),
)  # fmt: skip
