"""What searches for an order of units share: plain greedy growth, weights, progress, scores.

Scores fall strictly along the order. They are the published saliency (`path_saliency`) and, with
one part in a thousand, the rank; order, path of F and the bare saliency by unit are among the
parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from causal_lvlm.attribution.info import Progress
from causal_lvlm.attribution.objective import SetObjective, path_saliency, strict
from causal_lvlm.attribution.result import Scores, spread
from causal_lvlm.tokens import Units

__all__ = ["Placed", "checked_weights", "finished", "greedy_order", "placing"]

Placed = Callable[[int], None]


def greedy_order(objective: SetObjective, n_units: int, placed: Placed) -> list[int]:
    """Return all units, each the best addition to those before it."""
    chosen: list[int] = []
    left = list(range(n_units))
    while left:
        best = int(np.argmax(objective.extensions(chosen, left).total))
        chosen.append(left.pop(best))
        placed(len(chosen))
    return chosen


def checked_weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """Return an objective's weights as floats; raise `ValueError` unless they can be ones."""
    values = tuple(float(w) for w in weights)
    if len(values) != count or not all(np.isfinite(values)) or min(values) < 0 or not any(values):
        raise ValueError(
            f"weights must be {count} numbers of at least 0, one of them positive, "
            f"got {tuple(weights)}"
        )
    return values


def placing(progress: Progress | None, stage: str, units: Units) -> Placed:
    """Return what a search calls with the number of units placed so far."""

    def placed(done: int) -> None:
        if progress is not None:
            progress(stage, done, len(units))

    placed(0)
    return placed


def finished(
    objective: SetObjective, order: list[int], options: dict[str, Any], features: str = ""
) -> Scores:
    """Turn an order into scores.

    Parameters
    ----------
    objective : SetObjective
        That of the search: it knows the sets that were asked about.
    order : list of int, length U
        Units, best first.
    options : dict
        Options of the method, for the record.
    features : str
        What units were told apart by; ``"hidden"`` costs one more run.

    Returns
    -------
    Scores
    """
    sets, asker = objective.sets, objective.sets.asker
    asked, runs = asker.asked, asker.runs
    path = objective.path(order)  # of sets that the search has mostly seen
    saliency = path_saliency(order, path)
    parameters = {
        **options,
        "score": sets.score,
        "against": asker.against,
        "masking": asker.masking,
        "order": order,
        "path": path.tolist(),
        "published_saliency": saliency.tolist(),
    }
    hidden = int(features == "hidden" and objective.distance is not None)
    return Scores(
        spread(strict(order, saliency), asker.units, len(asker.trace.layout)),
        parameters,
        model_runs=asker.runs + hidden,
        notes=(f"the search asked about {asked} sets, {runs} of them different",),
    )
