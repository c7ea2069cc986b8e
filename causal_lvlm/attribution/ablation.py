"""Leave one out: how far does the target's score fall when one unit alone is masked?

1. Ask for the score with everything visible, and with each unit hidden in turn: U + 1 runs, in
   large batches.
2. A unit's score is the drop, f(all) - f(all but the unit); negative where the unit stood in the
   way.

Units that say the same thing cover for each other, so that neither seems to matter; methods that
look at larger sets (`rise`, `smdl`, `lima`, `eagle`) see them.

References
----------
J. Li, W. Monroe, D. Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016,
arXiv:1612.08220; there the drop of the log-likelihood is relative to the full one
(`relative=True`). Known from accounts of the paper, its text was not at hand.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.asker import Asker
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.objective import VisibleSets
from causal_lvlm.attribution.result import Scores, spread
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["TABLE", "leave_one_out"]


def leave_one_out(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    score: str = "log_prob",
    relative: bool = False,
    against: int | str | None = None,
    masking: str = "remove",
    backend: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score each unit by the drop of the target's score when it alone is masked.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    score : {"log_prob", "prob", "margin", "mean_prob"}
        What drops; see `VisibleSets`.
    relative : bool
        Divide by the score with everything visible.
    against : int or str, optional
        Compare with another first token.
    masking, backend, batch_size
        As in `Trace.evaluate`.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If an option is unknown, or `relative` is asked for and the full score is 0.
    """
    asker = Asker(
        trace, target, units, masking=masking, backend=backend, against=against,
        batch_size=batch_size,
    )  # fmt: skip
    sets = VisibleSets(asker, score)
    n_units = len(units)
    if progress is not None:
        progress("leave_one_out", 0, n_units)
    visible = np.ones((n_units + 1, n_units), dtype=np.bool_)
    visible[np.arange(n_units), np.arange(n_units)] = False
    found = sets.values(visible)
    drops = found[-1] - found[:-1]
    if relative:
        if found[-1] == 0:
            raise ValueError(
                f"the {score} of {target.text!r} with everything visible is 0, so that no drop is "
                "relative to it; use relative=False"
            )
        drops = drops / abs(found[-1])
    if progress is not None:
        progress("leave_one_out", n_units, n_units)
    parameters = {
        "score": score,
        "relative": relative,
        "against": against,
        "masking": masking,
        "full": float(found[-1]),
    }
    return Scores(spread(drops, units, len(trace.layout)), parameters, model_runs=asker.runs)


TABLE: Table = (
    (
        leave_one_out,
        MethodInfo(
            "leave_one_out",
            ("loo", "occlusion", "erasure"),
            "perturbation",
            "drop of the target's log-probability when one unit alone is masked",
            "U + 1 forwards",
            needs=("units",),
            reference="Li et al. 2016, arXiv:1612.08220",
        ),
    ),
)
