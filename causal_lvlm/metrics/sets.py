"""Metrics of explaining sets: does masking the set really do what is claimed, and is all needed?

In necessary mode a set explains if masking it changes the model's first choice; in sufficient mode
if the choice stays when nothing else is visible.

``validity``        1 if the set explains, else 0: the model is run again
``size``            number of units
``necessity``       share of members without which the rest no longer explains
``optimality_gap``  units more than the smallest explaining set, by trying all smaller subsets
``model_runs``      forward passes that the method spent

`optimality_gap` tries the sizes from 1 up to one below the set's own and stops at the first hit, so
it needs C(U, 1) + ... + C(U, s - 1) runs; beyond `max_runs` it is undefined. It does not assume
that supersets of explaining sets explain: models are not monotone.

References
----------
R. Y. Rohekar, Y. Gurwicz, S. Nisimov, "Causal Interpretation of Self-Attention in Pre-Trained
Transformers" (CLEANN), NeurIPS 2023, arXiv:2310.20307 (sets, their size); the rest ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, islice
from math import comb
from typing import Any

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = ["METRICS", "model_runs", "necessity", "optimality_gap", "size", "validity"]

MODES = ("necessary", "sufficient")
_BATCH = 256


def _explains(case: Case, subsets: list[tuple[int, ...]], mode: str) -> list[bool]:
    answers = case.without(subsets) if mode == "necessary" else case.keep(subsets)
    return [bool(c) == (mode == "necessary") for c in answers.changed]


def _members(case: Case, members: Iterable[int]) -> tuple[int, ...]:
    """Return the units of a set, ascending, each once."""
    chosen = tuple(sorted(frozenset(int(u) for u in members)))
    wrong = [u for u in chosen if not 0 <= u < case.n_units]
    if wrong:
        raise ValueError(f"units {wrong} do not exist, allowed: 0..{case.n_units - 1}")
    return chosen


def validity(case: Case, members: Iterable[int], *, mode: str = "necessary") -> Measured:
    """Return 1.0 if the set explains the target when the model is asked again, else 0.0.

    Parameters
    ----------
    case : Case
    members : iterable of int
        Units of the set.
    mode : {"necessary", "sufficient"}

    Returns
    -------
    Measured
        ``detail``: probabilities of the target with everything visible and under the set's mask.

    Raises
    ------
    ValueError
        If `mode` is unknown or a unit does not exist.
    """
    check_choice("mode", mode, MODES)
    before = case.asked
    chosen = _members(case, members)
    answers = case.without([chosen]) if mode == "necessary" else case.keep([chosen])
    explains = bool(answers.changed[0]) == (mode == "necessary")
    detail = {
        "p_full": case.full,
        "p_masked": float(answers.prob[0]),
        "margin": float(answers.margin[0]),
        "members": list(chosen),
    }
    return Measured(float(explains), detail, case.asked - before)


def size(case: Case, members: Iterable[int]) -> Measured:
    """Return the number of units in the set; ``detail["share"]`` is its share of all units.

    Raises
    ------
    ValueError
        If a unit does not exist.
    """
    count = len(_members(case, members))
    return Measured(float(count), {"share": count / case.n_units}, 0)


def necessity(case: Case, members: Iterable[int], *, mode: str = "necessary") -> Measured:
    """Return the share of members that cannot be left out alone; 1 means irreducible.

    Parameters
    ----------
    case, members, mode
        See `validity`.

    Returns
    -------
    Measured
        Undefined for an empty set and for one that does not explain. ``detail["superfluous"]``
        lists members without which the rest still explains.

    Raises
    ------
    ValueError
        As `validity`.
    """
    check_choice("mode", mode, MODES)
    before = case.asked
    chosen = _members(case, members)
    if not chosen:
        return Measured(None, {"undefined": "the set is empty"}, 0)
    rest = [tuple(u for u in chosen if u != member) for member in chosen]
    explains, *without = _explains(case, [chosen, *rest], mode)
    if not explains:
        return Measured(None, {"undefined": "the set does not explain"}, case.asked - before)
    superfluous = [u for u, yes in zip(chosen, without, strict=True) if yes]
    share = 1.0 - len(superfluous) / len(chosen)
    return Measured(share, {"superfluous": superfluous}, case.asked - before)


def optimality_gap(
    case: Case, members: Iterable[int], *, mode: str = "necessary", max_runs: int = 5000
) -> Measured:
    """Return how many units the set has more than the smallest explaining set; 0 is optimal.

    Parameters
    ----------
    case, members, mode
        See `validity`.
    max_runs : int
        Undefined where all smaller subsets are more than this.

    Returns
    -------
    Measured
        ``detail["smallest"]``: one smallest set (None where the set itself is one).

    Raises
    ------
    ValueError
        As `validity`, or if `max_runs` is not positive.
    """
    check_choice("mode", mode, MODES)
    whole_number("max_runs", max_runs, 1)
    before = case.asked
    chosen = _members(case, members)
    if not _explains(case, [chosen], mode)[0]:
        return Measured(None, {"undefined": "the set does not explain"}, case.asked - before)
    least = 0 if mode == "sufficient" else 1
    needed = sum(comb(case.n_units, k) for k in range(least, len(chosen)))
    detail: dict[str, Any] = {"smaller_subsets": needed, "smallest": None}
    if needed > max_runs:
        detail["undefined"] = f"{needed} smaller subsets, more than max_runs={max_runs}"
        return Measured(None, detail, case.asked - before)
    for count in range(least, len(chosen)):
        subsets = combinations(range(case.n_units), count)
        while batch := list(islice(subsets, _BATCH)):
            hits = [s for s, yes in zip(batch, _explains(case, batch, mode), strict=True) if yes]
            if hits:
                detail["smallest"] = list(hits[0])
                return Measured(float(len(chosen) - count), detail, case.asked - before)
    return Measured(0.0, detail, case.asked - before)


def model_runs(case: Case, result: Attribution | Explanation) -> Measured:
    """Return the forward passes that a method spent on its result.

    Parameters
    ----------
    case : Case
        Not used; every metric has one.
    result : Attribution or Explanation

    Returns
    -------
    Measured
        ``detail``: backward passes and seconds, where the result knows them.
    """
    detail = {
        name: getattr(result, name)
        for name in ("backward_passes", "seconds", "peak_memory")
        if getattr(result, name, None) is not None
    }
    return Measured(float(result.model_runs), detail, 0)


_CLEANN = "Rohekar et al. 2023, arXiv:2310.20307"

# function, better, needs, summary, reference
_TABLE = (
    (validity, "higher", "set", "1 if masking the set changes the answer", _CLEANN),
    (size, "lower", "set", "number of units in the set", _CLEANN),
    (necessity, "higher", "set",
     "share of members without which the set no longer explains", "ours"),
    (optimality_gap, "lower", "set",
     "units more than the smallest explaining set, by exhaustive search", "ours"),
    (model_runs, "lower", "result", "forward passes spent on the result", "ours"),
)  # fmt: skip

METRICS = tuple(
    (f, MetricInfo(f.__name__, "set", better, needs, summary, reference))
    for f, better, needs, summary, reference in _TABLE
)
