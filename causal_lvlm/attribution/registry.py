"""The relevancy methods by name, and the one function that runs them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.attribution.gradients import grad_attention
from causal_lvlm.attribution.protocols import TraceLike
from causal_lvlm.attribution.relevancy import (
    relevancy,
    relevancy_all,
    relevancy_all_v2,
    relevancy_chain,
    relevancy_llama,
    relevancy_vit,
)
from causal_lvlm.attribution.result import Attribution, Scores
from causal_lvlm.attribution.weights import raw_attention, rollout
from causal_lvlm.storage import to_jsonable
from causal_lvlm.tokens import TargetLike, resolve_target

__all__ = ["METHODS", "MethodInfo", "attribute", "list_methods"]

MethodFunction = Callable[..., Scores]

ONE_FORWARD = "1 forward"
ONE_BACKWARD = "1 forward, 1 backward"


@dataclass(frozen=True)
class MethodInfo:
    """What a user chooses a method by.

    Attributes
    ----------
    name : str
    aliases : tuple of str
        Other names that `attribute` accepts.
    family : {"attention", "gradient"}
    summary : str
    cost : str
        Passes through the model for one target.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    summary: str
    cost: str


# One line adds a method: a function (trace, target, **options) -> Scores and its description.
_TABLE: tuple[tuple[MethodFunction, MethodInfo], ...] = (
    (
        raw_attention,
        MethodInfo(
            "attention",
            ("raw_attention",),
            "attention",
            "attention weights of the target's row in one layer",
            ONE_FORWARD,
        ),
    ),
    (
        rollout,
        MethodInfo(
            "rollout",
            ("attention_rollout",),
            "attention",
            "attention with the residual path multiplied over layers (Abnar & Zuidema 2020)",
            ONE_FORWARD,
        ),
    ),
    (
        relevancy,
        MethodInfo(
            "relevancy",
            ("chefer",),
            "gradient",
            "gradient-weighted attention composed over the language model (Chefer et al. 2021)",
            ONE_BACKWARD,
        ),
    ),
    (
        relevancy_llama,
        MethodInfo(
            "relevancy-llama",
            ("llama",),
            "gradient",
            "the same row divided by its sum; LVLM-Interpret's 'llama'",
            ONE_BACKWARD,
        ),
    ),
    (
        relevancy_vit,
        MethodInfo(
            "relevancy-vit",
            ("vit",),
            "gradient",
            "class-token row of the vision tower; LVLM-Interpret's 'vit'",
            ONE_BACKWARD,
        ),
    ),
    (
        relevancy_all,
        MethodInfo(
            "relevancy-all",
            ("all",),
            "gradient",
            "class-token row over tower and image block; LVLM-Interpret's 'all'",
            ONE_BACKWARD,
        ),
    ),
    (
        relevancy_all_v2,
        MethodInfo(
            "relevancy-all_v2",
            ("all_v2",),
            "gradient",
            "class-token row with the target's row put in; LVLM-Interpret's 'all_v2'",
            ONE_BACKWARD,
        ),
    ),
    (
        relevancy_chain,
        MethodInfo(
            "relevancy-chain",
            ("chain",),
            "gradient",
            "relevancy carried on through the vision tower to its input patches",
            ONE_BACKWARD,
        ),
    ),
    (
        grad_attention,
        MethodInfo(
            "grad_attention",
            ("attention_x_gradient", "gradient_x_attention"),
            "gradient",
            "positive part of gradient x attention in the target's row",
            ONE_BACKWARD,
        ),
    ),
)

METHODS: dict[str, MethodFunction] = {
    name: function for function, info in _TABLE for name in (info.name, *info.aliases)
}
_INFO: dict[str, MethodInfo] = {
    name: info for _, info in _TABLE for name in (info.name, *info.aliases)
}


def list_methods() -> list[MethodInfo]:
    """Return the methods that `attribute` knows, cheap ones first."""
    return [info for _, info in _TABLE]


def _canonical(name: str) -> str:
    """Return the registered name that differs from `name` at most in case and - for _."""
    plain = name.lower().replace("-", "_")
    matches = [known for known in METHODS if known.lower().replace("-", "_") == plain]
    if not matches:
        known = ", ".join(info.name for info in list_methods())
        raise ValueError(f"unknown method {name!r}; known methods: {known}")
    return _INFO[matches[0]].name


def attribute(
    trace: TraceLike, target: TargetLike, method: str = "relevancy", **options: Any
) -> Attribution:
    """Score every position before a generated token by how much it matters to it.

    Parameters
    ----------
    trace : Trace
        What `LVLM.run` returned.
    target : str, int, slice, Target or callable
        Generated token, word or phrase; see `resolve_target`.
    method : str
        Name or alias, see `list_methods`. The default is the language model's relevancy row.
    **options
        Options of the method; an unknown one raises `TypeError` and names those allowed.

    Returns
    -------
    Attribution

    Raises
    ------
    TargetError
        If the answer holds no such token.
    AttentionError
        If attention or its gradient holds values that are not finite.
    UnsupportedModelError
        If the method needs a class token and the model's vision tower has none.
    ValueError
        If the method or an option's value is unknown.

    Examples
    --------
    >>> attribute(trace, "red", "attention", head="max").ranking(units)  # doctest: +SKIP
    """
    name = _canonical(method)
    function = METHODS[name]
    allowed = [p for p in inspect.signature(function).parameters if p not in ("trace", "target")]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise TypeError(
            f"method {name!r} has no option {', '.join(unknown)}; it has {', '.join(allowed)}"
        )
    found = resolve_target(trace.layout, target)
    started = time.perf_counter()
    scores = function(trace, found, **options)
    seconds = time.perf_counter() - started
    values = np.array(scores.values, dtype=np.float64)
    values[found.start :] = 0.0
    return Attribution(
        method=name,
        scores=values,
        target=found,
        parameters=to_jsonable(scores.parameters),
        model_runs=scores.model_runs,
        backward_passes=scores.backward_passes,
        seconds=seconds,
        model_id=trace.model_id,
        revision=trace.revision,
    )
