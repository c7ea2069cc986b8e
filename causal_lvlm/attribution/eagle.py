"""EAGLE: an order of units by two terms, and the same with few candidates in most rounds.

``eagle`` grows a set S of units. U is their number; every set is asked about twice, with only S
visible and with S hidden.

    1. Evaluate F for S and each unit left, F(S) = a mean_j p(y_j | S) +
       b (1 - mean_j p(y_j | all but S)) over the target's tokens y_j;
    2. add the best; repeat. U (U + 1) runs.

``eagle_fast``
    1. every `update_step` rounds evaluate all units left and sort them by F; in the rounds between
       evaluate only the first `search_scope` of that ranking. Add the best to S;
    2. the first D is the last of the first ranking; later, while more than `pending` units are
       left, evaluate F for all units but D and each of the last `pending`, and append the one
       whose loss leaves F largest;
    3. the order is S, then D backwards. About U^2 / 10 + 16 U runs.

A set is never evaluated twice (`model_runs` counts evaluations), so that runs lie a little below
what the loops ask for, which stands in the notes. Ties go to the lower unit, in ``eagle_fast`` to
the one ranked higher. What becomes of an order is said in `causal_lvlm.attribution.orders`.

References
----------
VPS: R. Chen et al., "Interpreting Object-level Foundation Models via Visual Precision Search",
CVPR 2025, arXiv:2411.16198 (the two terms, for detectors).
EAGLE: R. Chen et al., "Where MLLMs Attend and What They Rely On: Explaining Autoregressive Token
Generation", 2025, arXiv:2509.22496. Loops, counts and defaults were checked against the authors'
released programs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from causal_lvlm.asker import Asker
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.objective import SetObjective, VisibleSets
from causal_lvlm.attribution.orders import (
    Placed,
    checked_weights,
    finished,
    greedy_order,
    placing,
)
from causal_lvlm.attribution.result import Scores
from causal_lvlm.checks import whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["TABLE", "eagle", "eagle_fast", "scoped_order"]


def scoped_order(
    objective: SetObjective,
    n_units: int,
    search_scope: int,
    pending: int,
    update_step: int,
    placed: Placed,
) -> list[int]:
    """Return all units, looking only at the top of a ranking between full rounds (EAGLE)."""
    chosen: list[int] = []
    worst: list[int] = []
    ranked = list(range(n_units))
    rounds = 0
    while ranked:
        if len(ranked) == 1:
            chosen.append(ranked.pop())
            break
        if rounds % update_step == 0:
            values = objective.extensions(chosen, ranked).total
            ranked = [ranked[i] for i in np.argsort(-values, kind="stable")]
            best = 0
        else:
            best = int(np.argmax(objective.extensions(chosen, ranked[:search_scope]).total))
        chosen.append(ranked.pop(best))
        if not worst:
            worst.append(ranked.pop())
        elif len(ranked) > pending:
            doubtful = ranked[-pending:]
            least = int(np.argmax(objective.reductions(worst, doubtful)))
            worst.append(doubtful[least])
            ranked.remove(doubtful[least])
        rounds += 1
        placed(n_units - len(ranked))
    placed(n_units)
    return chosen + worst[::-1]


def eagle(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    weights: Sequence[float] = (1.0, 1.0),
    against: int | str | None = None,
    masking: str = "remove",
    backend: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Order units by greedy selection with EAGLE's two terms.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    weights : sequence of two floats
        Of the target's probability with only S visible, and of its loss with S hidden.
    against, masking, backend, batch_size, progress
        As in `causal_lvlm.attribution.submodular.smdl`.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """
    asker = Asker(
        trace, target, units, masking=masking, backend=backend, against=against,
        batch_size=batch_size,
    )  # fmt: skip
    sets = VisibleSets(asker, "mean_prob")
    objective = _two_terms(sets, weights)
    order = greedy_order(objective, len(units), placing(progress, "eagle", units))
    return finished(objective, order, {"weights": list(weights)})


def eagle_fast(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    weights: Sequence[float] = (1.0, 1.0),
    search_scope: int = 10,
    pending: int = 8,
    update_step: int = 5,
    against: int | str | None = None,
    masking: str = "remove",
    backend: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Order units by EAGLE's two terms, looking at few candidates in most rounds.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    weights : sequence of two floats
        As in `eagle`.
    search_scope, pending, update_step : int
        Candidates for the best, candidates for the worst, and rounds from one full ranking to the
        next; the defaults are the authors'.
    against, masking, backend, batch_size, progress
        As in `causal_lvlm.attribution.submodular.smdl`.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """
    whole_number("search_scope", search_scope, 1)
    whole_number("pending", pending, 1)
    whole_number("update_step", update_step, 1)
    asker = Asker(
        trace, target, units, masking=masking, backend=backend, against=against,
        batch_size=batch_size,
    )  # fmt: skip
    sets = VisibleSets(asker, "mean_prob")
    objective = _two_terms(sets, weights)
    placed = placing(progress, "eagle_fast", units)
    order = scoped_order(objective, len(units), search_scope, pending, update_step, placed)
    options = {
        "weights": list(weights),
        "search_scope": search_scope,
        "pending": pending,
        "update_step": update_step,
    }
    return finished(objective, order, options)


def _two_terms(sets: VisibleSets, weights: Sequence[float]) -> SetObjective:
    shown, hidden = checked_weights(weights, 2)
    return SetObjective(sets, (0.0, 0.0, shown, hidden))


TABLE: Table = (
    (
        eagle,
        MethodInfo(
            "eagle",
            ("vps",),
            "perturbation",
            "greedy selection by the target's probability with and without the set",
            "U (U + 1) forwards",
            needs=("units",),
            reference="Chen et al. 2025 (EAGLE), arXiv:2509.22496; VPS, arXiv:2411.16198",
            optional=True,
        ),
    ),
    (
        eagle_fast,
        MethodInfo(
            "eagle_fast",
            (),
            "perturbation",
            "the same, looking at few candidates in most rounds",
            "about U^2 / 10 + 16 U forwards",
            needs=("units",),
            reference="Chen et al. 2025 (EAGLE), arXiv:2509.22496",
        ),
    ),
)
