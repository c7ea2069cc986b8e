"""Options of an explanation: checked once, before the model is run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.errors import BudgetError, SelfCheckError, TargetError, quoted
from causal_lvlm.explanation.testers import TESTERS, Tester
from causal_lvlm.tokens import Target

__all__ = [
    "MASKINGS",
    "MODES",
    "ask_unmasked",
    "check_budget",
    "check_choice",
    "check_drop_ratio",
    "check_self_check",
    "scope_option",
    "whole_number",
]

MASKINGS = ("remove", "edges", "neutral", "pixels-blur", "pixels-mean")
MODES = ("necessary", "sufficient")


def check_drop_ratio(drop_ratio: float) -> None:
    """Raise ValueError unless the ratio lies strictly between 0 and 1."""
    if not 0.0 < drop_ratio < 1.0:
        raise ValueError(f"drop_ratio must lie between 0 and 1, got {drop_ratio}")


def check_budget(max_runs: Any, time_limit: Any, least: int) -> None:
    """Raise BudgetError if nothing at all could be done."""
    try:
        whole_number("max_runs", max_runs, least)
    except ValueError as error:
        raise BudgetError(f"{error}: the plain input, and everything masked") from None
    if time_limit is not None and not (math.isfinite(time_limit) and time_limit > 0):
        raise BudgetError(f"time_limit must be a positive number of seconds, got {time_limit}")


def check_self_check(trace: Any, force: bool) -> None:
    """Raise SelfCheckError if the trace is not the computation that generated the answer."""
    if not force and (trace.self_check is None or not trace.self_check.passed):
        raise SelfCheckError(
            "the teacher-forced pass does not reproduce this generation "
            f"({trace.self_check}); an explanation would be of another computation. "
            "Load the model in float32, or pass force=True"
        )


def scope_option(candidates: Any, masking: str) -> str | list[int]:
    """Return `candidates` as a word or a list of ints; pixels can only mask the image."""
    if not isinstance(candidates, str):
        return [whole_number("each of candidates", p, 0) for p in candidates]
    check_choice("candidates", candidates, ("all", "image", "text"))
    if masking.startswith("pixels"):
        if candidates == "text":
            raise ValueError(
                f"masking={quoted(masking)} changes pixels; text has none: use 'remove'"
            )
        return "image"
    return candidates


def ask_unmasked(
    trace: Any,
    target: Target,
    *,
    tester: str,
    drop_ratio: float,
    against: str | int | None,
    backend: str,
) -> tuple[Tester, Any, int]:
    """Run the model with nothing masked and make the tester that compares with it.

    Returns
    -------
    tester : Tester
    evaluation : Evaluation
        One row.
    runs : int
        1, or 2 where the rival had to be found first.

    Raises
    ------
    TargetError
        If the rival is unknown or the target itself, or if the target is not the model's choice.
    """
    check_choice("tester", tester, TESTERS)
    everything = np.ones((1, len(trace.layout)), dtype=np.bool_)
    rival: int | None = None
    runs = 1
    if tester != "contrast":
        if against is not None:
            raise ValueError(f"against={quoted(against)} is used by tester='contrast' only")
    elif against is None:
        full = trace.evaluate(everything, target, masking="remove", backend=backend)
        rival, runs = int(full.runner_up[0, 0]), 2
    else:
        try:
            rival = int(trace.token_id(against))
        except (KeyError, ValueError) as error:
            raise TargetError(f"against={against!r} is no token of this model: {error}") from error
        if rival == target.token_ids[0]:
            raise TargetError(f"against={against!r} is the target itself; name another token")
    full = trace.evaluate(everything, target, masking="remove", backend=backend, against=rival)
    judge = Tester(tester, target.token_ids, float(full.log_prob[0]), drop_ratio, rival)
    if bool(judge.changed(full)[0]):
        raise TargetError(
            f"with nothing masked the model's choice is not {target.text!r} (tester {tester!r}): "
            "the token was sampled or the rival is stronger already, so nothing can be explained; "
            "generate greedily, or name another rival"
        )
    return judge, full, runs
