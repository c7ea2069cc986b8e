"""Random scores: the floor under every table. A method that is no better says nothing.

The order of the units is drawn anew for each seed, sequence and target, from nothing else, so that
the same call gives the same order. Sequences with equal token ids (the same question about two
images, answered in the same words) draw the same order: where items are compared, give each its
own seed.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.attribution.info import MethodInfo, Table
from causal_lvlm.attribution.result import Scores, spread
from causal_lvlm.checks import whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["TABLE", "random"]


def random(trace: TraceLike, target: Target, *, units: Units, seed: int = 0) -> Scores:
    """Score units by a random permutation of 1/U, 2/U, ..., 1.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    seed : int
        Not negative.

    Returns
    -------
    Scores
        No model is run.

    Raises
    ------
    ValueError
        If the seed is no whole number of at least 0.
    """
    layout = trace.layout
    entropy = [whole_number("seed", seed, 0), *target.positions, *layout.token_ids.tolist()]
    order = np.random.default_rng(entropy).permutation(len(units))
    scores = (order + 1.0) / max(len(units), 1)
    return Scores(spread(scores, units, len(layout)), {}, model_runs=0)


TABLE: Table = (
    (
        random,
        MethodInfo(
            "random",
            (),
            "random",
            "a seeded random order of the units: the floor of every comparison",
            "none",
            needs=("units",),
        ),
    ),
)
