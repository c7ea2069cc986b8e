"""Options of an explanation: checked once, before the model is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from causal_lvlm.checks import check_choice, number, shown, whole_number
from causal_lvlm.errors import (
    BudgetError,
    OptionError,
    OptionTypeError,
    SelfCheckError,
)
from causal_lvlm.explanation.testers import TESTERS
from causal_lvlm.protocols import BACKENDS, MASKINGS
from causal_lvlm.results import SelfCheck
from causal_lvlm.source_options import check_source
from causal_lvlm.structure.algorithms import ALGORITHMS

__all__ = [
    "MODES",
    "SEARCHES",
    "check_against",
    "check_budget",
    "check_choice",
    "check_drop_ratio",
    "check_options",
    "default_source",
    "check_self_check",
    "scope_option",
    "whole_number",
]

MODES = ("necessary", "sufficient")
SEARCHES = ("guided", "graph")
VARIANTS = ("stable", "sequential")


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse what no explanation could honour; needs no model and no trace.

    Parameters
    ----------
    given : mapping
        Every option of `causal_lvlm.explain`, by name.

    Raises
    ------
    OptionError, OptionTypeError
        If a value is not allowed, of a wrong type, or ruled out by another one.
    BudgetError
        If `max_runs` or `time_limit` allows nothing.
    """
    for name, allowed in (
        ("mode", MODES), ("masking", MASKINGS), ("search", SEARCHES), ("tester", TESTERS),
        ("backend", BACKENDS), ("algorithm", ALGORITHMS), ("variant", VARIANTS),
    ):  # fmt: skip
        check_choice(name, given[name], allowed)
    check_drop_ratio(given["drop_ratio"])
    check_against(given["tester"], given["against"])
    check_budget(given["max_runs"], given["time_limit"], 3 if given["tester"] == "contrast" else 2)
    _check_numbers(given)
    heads, layer, row = given["heads"], given["layer"], given["row"]
    source = default_source(heads, layer, row) if given["source"] is None else given["source"]
    check_source(
        source, layer, heads, row, given["sink"], given["tiers"], given["n_samples"],
        given["threshold"],
    )  # fmt: skip
    scope_option(given["candidates"], given["masking"])
    if not isinstance(given["force"], (bool, np.bool_)):
        raise OptionTypeError(f"force must be True or False, got {shown(given['force'])}")
    if given["progress"] is not None and not callable(given["progress"]):
        raise OptionTypeError(
            f"progress must be callable as progress(stage, used, most), got "
            f"{shown(given['progress'])}"
        )


def _check_numbers(given: Mapping[str, Any]) -> None:
    for name, least in (("max_radius", 1), ("pool", 1), ("n_random", 0), ("seed", 0)):
        whole_number(name, given[name], least)
    for name, least in (
        ("max_size", 1), ("max_tests", 1), ("n_jobs", 1), ("top_k", 1), ("n_samples", 4),
        ("max_conditioning_size", 0),
    ):  # fmt: skip
        if given[name] is not None:
            whole_number(name, given[name], least)
    for name in ("alpha", "threshold"):
        if given[name] is not None:
            number(name, given[name], 0, 1)
    if given["min_attention"] is not None:
        number("min_attention", given["min_attention"], -1)
    if given["alpha"] is not None and given["n_samples"] is None:
        raise OptionError("alpha goes with n_samples; without it give threshold, or neither")


def default_source(heads: Any, layer: Any, row: Any) -> Any:
    """Return the covariance source where none is given: influence, unless it lacks an option."""
    among_heads = not (isinstance(heads, str) and heads == "all") or layer != -1
    return "attention" if among_heads or row == "own" else "influence"


def check_drop_ratio(drop_ratio: Any) -> None:
    """Raise OptionError unless the ratio lies strictly between 0 and 1."""
    number("drop_ratio", drop_ratio, 0, 1)


def check_against(tester: str, against: Any) -> None:
    """Raise OptionError unless the rival is a token's text or id, and the tester asks for one."""
    if against is None:
        return
    if isinstance(against, (bool, np.bool_)) or not isinstance(against, (str, int, np.integer)):
        raise OptionTypeError(f"against must be a token's text or id, got {shown(against)}")
    if isinstance(against, str) and not against.strip():
        raise OptionError(f"against={against!r} names no token; give the rival's text or id")
    if tester != "contrast":
        raise OptionError(
            f"against={shown(against)} is used by tester='contrast' only, not by {tester!r}"
        )


def check_budget(max_runs: Any, time_limit: Any, least: int) -> None:
    """Raise BudgetError if nothing at all could be done."""
    try:
        whole_number("max_runs", max_runs, least)
        if time_limit is not None:
            number("time_limit, in seconds,", time_limit, 0)
    except OptionError as error:
        more = ": the plain input, and everything masked" if "max_runs" in str(error) else ""
        raise BudgetError(f"{error}{more}") from None


def check_self_check(found: SelfCheck | None, force: bool) -> None:
    """Raise SelfCheckError if a trace is not the computation that generated the answer."""
    if not force and (found is None or not found.passed):
        raise SelfCheckError(
            "the teacher-forced pass does not reproduce this generation "
            f"({found}); an explanation would be of another computation. "
            "Load the model in float32, or pass force=True"
        )


def scope_option(candidates: Any, masking: str) -> str | list[int]:
    """Return `candidates` as a word or a list of ints; pixels can only mask the image."""
    if not isinstance(candidates, str):
        try:
            positions = list(candidates)
        except TypeError:
            raise OptionTypeError(
                f"candidates must be 'all', 'image', 'text' or a list of positions, got "
                f"{shown(candidates)}"
            ) from None
        return [whole_number("each of candidates", p, 0) for p in positions]
    check_choice("candidates (unless positions)", candidates, ("all", "image", "text"))
    if masking.startswith("pixels"):
        if candidates == "text":
            raise OptionError(f"masking={masking!r} changes pixels; text has none: use 'remove'")
        return "image"
    return candidates
