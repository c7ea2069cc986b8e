"""All explaining sets up to a size, by trying every subset: the truth that searches are held to.

1. For size 1, 2, ...: mask every subset of that size and run the model.
2. The first size with a hit is the minimum; all sets of that size that pass are returned.

The number of runs grows as the binomial coefficients: for small candidate sets only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from typing import Literal

import numpy as np

from causal_lvlm.budget import Budget
from causal_lvlm.errors import BudgetError
from causal_lvlm.explanation.options import (
    MODES,
    check_against,
    check_choice,
    check_drop_ratio,
    scope_option,
    whole_number,
)
from causal_lvlm.explanation.testers import TESTERS, ask_unmasked
from causal_lvlm.protocols import BACKENDS, MASKINGS, TraceLike
from causal_lvlm.tokens import TargetLike, candidate_units, check_trace, resolve_target

__all__ = ["ExhaustiveResult", "exhaustive_explanation"]


@dataclass(frozen=True)
class ExhaustiveResult:
    """Every explaining set of the smallest size that has one.

    Attributes
    ----------
    size : int or None
        Units in the smallest explaining sets; None if none has up to `max_size` units.
    sets : tuple of tuple of int
        Sequence positions of each of them, in lexicographic order of units.
    max_size : int
        Sizes that were tried.
    model_runs : int
    """

    size: int | None
    sets: tuple[tuple[int, ...], ...]
    max_size: int
    model_runs: int


def exhaustive_explanation(
    trace: TraceLike,
    target: TargetLike,
    *,
    max_size: int = 2,
    mode: Literal["necessary", "sufficient"] = "necessary",
    tester: Literal["flip", "drop", "contrast"] = "flip",
    against: str | int | None = None,
    drop_ratio: float = 0.5,
    candidates: Literal["all", "image", "text"] | Sequence[int] = "all",
    pool: int = 1,
    masking: str = "remove",
    backend: str = "auto",
    max_runs: int = 100_000,
    batch_size: int = 64,
) -> ExhaustiveResult:
    """Try every subset of the candidates up to a size.

    Parameters
    ----------
    trace : Trace
    target, mode, tester, against, drop_ratio, candidates, pool, masking, backend
        See `explain`.
    max_size : int
    max_runs : int
        Refused beforehand if the subsets are more than this.
    batch_size : int

    Returns
    -------
    ExhaustiveResult

    Raises
    ------
    BudgetError
        If there are more than `max_runs` subsets.
    TargetError
        If the target is not in the answer, or not the model's choice with nothing masked.
    ValueError
        If an option has a value that is not allowed.
    """
    check_trace(trace)
    check_choice("mode", mode, MODES)
    check_choice("tester", tester, TESTERS)
    check_choice("backend", backend, BACKENDS)
    check_against(tester, against)
    whole_number("max_runs", max_runs, 1)
    whole_number("pool", pool, 1)
    check_choice("masking", masking, MASKINGS)
    check_drop_ratio(drop_ratio)
    whole_number("max_size", max_size, 1)
    whole_number("batch_size", batch_size, 1)
    chosen = resolve_target(trace.layout, target)
    scope = scope_option(candidates, masking)
    units = candidate_units(trace.layout, chosen, candidates=scope, pool=pool)
    largest = min(max_size, len(units))
    first = 0 if mode == "sufficient" else 1
    total = 2 + sum(comb(len(units), size) for size in range(first, largest + 1))
    if total > max_runs:
        raise BudgetError(
            f"{len(units)} candidates need {total} runs for subsets of up to {largest}, more than "
            f"max_runs={max_runs}; choose fewer candidates, a larger pool or a smaller max_size"
        )
    budget = Budget()
    asker, judge = ask_unmasked(
        trace, chosen, units, budget, tester=tester, drop_ratio=drop_ratio, against=against,
        masking=masking, backend=backend,
    )  # fmt: skip
    for size in range(first, largest + 1):
        hits = []
        subsets = combinations(range(len(units)), size)
        while batch := list(islice(subsets, batch_size)):
            members = np.zeros((len(batch), len(units)), dtype=np.bool_)
            members[np.arange(len(batch))[:, None], np.array(batch, dtype=np.int64)] = True
            answers = asker.rows(~members if mode == "necessary" else members)
            hits += [
                s
                for s, changed in zip(batch, judge.changed(answers), strict=True)
                if bool(changed) == (mode == "necessary")
            ]
        if hits:
            sets = tuple(units.positions(s) for s in hits)
            return ExhaustiveResult(size, sets, largest, budget.used)
    return ExhaustiveResult(None, (), largest, budget.used)
