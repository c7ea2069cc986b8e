"""Submodular search for the order in which units matter: SMDL and LiMA.

Both grow a set S of units by what an objective F(S) of four scores says (see `SetObjective`), where
every set is asked about twice: with only S visible, and with S hidden. U is the number of units.

``smdl``
    1. Evaluate F for S and each unit left; add the best; repeat. U (U + 1) runs.
``lima``
    Works from both ends, with a set S of the best and a list D of the worst units:

    1. evaluate F for S and each unit left, add the best to S;
    2. while more than n_p units are left: of these scores (with the diversity term of D instead of
       S) take the n_p lowest without the one just added, evaluate F for D and each of them, append
       the lowest to D;
    3. the order is S, then D backwards. About U^2 / 2 + n_p U runs.

A set is never evaluated twice (`model_runs` counts evaluations), so that runs lie a little below
what the loops ask for, which stands in the notes. Ties go to the lower unit. What becomes of an
order is said in `causal_lvlm.attribution.orders`.

References
----------
SMDL: R. Chen et al., ICLR 2024, arXiv:2402.09164. LiMA: R. Chen et al., 2025, arXiv:2504.00470.
Loops, counts and defaults were checked against the authors' released programs, which differ from
the papers in two harmless places: they score a single member's effectiveness 1 (here 0; the same
for all candidates of a step), and their confidence is the entropy itself (weight 0 by default).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray
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
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["TABLE", "bidirectional_order", "lima", "smdl"]

FEATURES = ("embedding", "hidden")


def bidirectional_order(
    objective: SetObjective, n_units: int, pending: int, placed: Placed
) -> list[int]:
    """Return all units, found from both ends (LiMA)."""
    chosen: list[int] = []
    worst: list[int] = []
    left = list(range(n_units))
    while left:
        if len(left) == 1:
            chosen.append(left.pop())
            break
        terms = objective.extensions(chosen, left)
        best = int(np.argmax(terms.total))
        if len(left) > pending:
            low = np.argsort(terms.model + objective.diversity(worst, left), kind="stable")
            doubtful = [left[i] for i in low[:pending] if i != best]
        else:
            doubtful = []
        chosen.append(left.pop(best))
        if doubtful:
            lowest = int(np.argmin(objective.extensions(worst, doubtful).total))
            worst.append(doubtful[lowest])
            left.remove(doubtful[lowest])
        placed(n_units - len(left))
    placed(n_units)
    return chosen + worst[::-1]


def smdl(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    weights: Sequence[float] = (0.0, 0.05, 1.0, 1.0),
    features: str = "embedding",
    against: int | str | None = None,
    masking: str = "remove",
    backend: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Order units by greedy submodular selection with four scores (SMDL).

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    weights : sequence of four floats
        Of confidence, effectiveness, consistency and collaboration; the authors' for CLIP models.
        Confidence needs the whole prediction, so it must be 0 unless ``masking="neutral"``.
    features : {"embedding", "hidden"}
        What tells units apart in the effectiveness term. The authors encode each region alone. A
        unit of a sequence is not an input of its own, so its tokens' mean embedding stands for it
        (for image tokens the tower's features, which have seen their surroundings), or their mean
        hidden state after the last layer (one more run).
    against : int or str, optional
        p(y) becomes the share p(y) / (p(y) + p(against)) of the first token.
    masking, backend, batch_size
        As in `Trace.evaluate`.
    progress : callable, optional
        Called with (stage, units placed, units).

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
    sets = VisibleSets(asker, "prob")
    objective = _four_scores(sets, weights, features)
    order = greedy_order(objective, len(units), placing(progress, "smdl", units))
    options = {"weights": list(weights), "features": features}
    return finished(objective, order, options, features)


def lima(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    weights: Sequence[float] = (0.0, 0.05, 20.0, 1.0),
    pending: int = 8,
    features: str = "embedding",
    against: int | str | None = None,
    masking: str = "remove",
    backend: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Order units by bidirectional greedy selection with four scores (LiMA).

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    weights : sequence of four floats
        As in `smdl`; the defaults are the authors' for CLIP ViT-L.
    pending : int
        n_p: how many of the lowest units are looked at in each round.
    features, against, masking, backend, batch_size, progress
        As in `smdl`.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """
    whole_number("pending", pending, 1)
    asker = Asker(
        trace, target, units, masking=masking, backend=backend, against=against,
        batch_size=batch_size,
    )  # fmt: skip
    sets = VisibleSets(asker, "prob")
    objective = _four_scores(sets, weights, features)
    placed = placing(progress, "lima", units)
    order = bidirectional_order(objective, len(units), pending, placed)
    options = {"weights": list(weights), "pending": pending, "features": features}
    return finished(objective, order, options, features)


def _four_scores(sets: VisibleSets, weights: Sequence[float], features: str) -> SetObjective:
    conf, eff, cons, colla = checked_weights(weights, 4)
    check_choice("features", features, FEATURES)
    asker = sets.asker
    if conf and asker.masking != "neutral":
        raise ValueError(
            f"the confidence term (weight {conf}) needs the whole prediction, which is only "
            f"available with masking='neutral', not {asker.masking!r}; set its weight to 0"
        )
    return SetObjective(
        sets,
        (conf, eff, cons, colla),
        distance=_distances(asker.trace, asker.units, features) if eff else None,
        confidence=_confidence(asker) if conf else None,
    )


def _distances(trace: TraceLike, units: Units, features: str) -> FloatArray:
    """Return arccos of the cosine of two units' mean features, divided by pi; float64 (U, U)."""
    states = trace.embeddings() if features == "embedding" else trace.hidden_states(-1)
    states = np.asarray(states, dtype=np.float64)
    means = np.array([states[list(m)].mean(axis=0) for m in units.members])
    means = means.reshape(len(units), states.shape[1])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means /= np.where(lengths > 0, lengths, 1.0)
    return np.asarray(np.arccos(np.clip(means @ means.T, -1.0, 1.0)) / np.pi)


def _confidence(asker: Asker) -> Callable[[BoolArray], FloatArray]:
    """Return s_conf of sets: 1 - H(prediction) / ln V, mean over the target's tokens."""
    own = np.asarray(asker.trace.embeddings())
    neutral = np.asarray(asker.trace.baseline_embeddings("mean"))

    def confidence(visible: BoolArray) -> FloatArray:
        keep = asker.keep(visible)
        found = asker.trace.evaluate_embeddings(
            lambda row: np.where(keep[row][:, None], own, neutral),
            asker.target,
            n_rows=len(keep),
            distribution=True,
            batch_size=asker.batch_size,
        )
        asker.count(len(keep))
        chances = np.asarray(found.distributions, dtype=np.float64)
        logs = np.log(np.where(chances > 0, chances, 1.0))
        entropy = -(chances * logs).sum(axis=2)
        return np.asarray(1.0 - (entropy / np.log(chances.shape[2])).mean(axis=1))

    return confidence


TABLE: Table = (
    (
        smdl,
        MethodInfo(
            "smdl",
            (),
            "perturbation",
            "greedy submodular selection with four scores",
            "U (U + 1) forwards",
            needs=("units",),
            reference="Chen et al. 2024, arXiv:2402.09164",
            optional=True,
        ),
    ),
    (
        lima,
        MethodInfo(
            "lima",
            (),
            "perturbation",
            "bidirectional greedy submodular selection with four scores",
            "about U^2 / 2 + 8 U forwards",
            needs=("units",),
            reference="Chen et al. 2025, arXiv:2504.00470",
        ),
    ),
)
