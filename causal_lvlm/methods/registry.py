"""The attribution methods by name, and the one function that runs them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from causal_lvlm.attribution import (
    ablation,
    attattr,
    eagle,
    embeddings,
    floor,
    gradcam,
    gradients,
    heads,
    lens,
    lrp,
    mmel,
    reagent,
    relevancy,
    rise,
    submodular,
    weights,
)
from causal_lvlm.attribution.info import MethodFunction, MethodInfo, Progress, Table
from causal_lvlm.attribution.result import Attribution, Scores
from causal_lvlm.attribution.weights import check_finite
from causal_lvlm.checks import check_annotated, check_names, one_name, shown, whole_number
from causal_lvlm.errors import DetachedTraceError, OptionTypeError, TargetError, quoted
from causal_lvlm.methods import causal, consensus
from causal_lvlm.methods.rerunner import Rerunner
from causal_lvlm.protocols import TraceLike
from causal_lvlm.storage import to_jsonable
from causal_lvlm.tokens import Target, TargetLike, check_trace, resolve_target
from causal_lvlm.units import UnitsLike, make_units, units_name

__all__ = [
    "METHODS",
    "MethodInfo",
    "attribute",
    "check_method_options",
    "list_methods",
    "method_name",
    "rerun",
]

# Cheap ones first; whoever adds a method adds it to its module's table, or a module here.
_TABLE: Table = (
    *weights.TABLE,
    *relevancy.TABLE,
    *gradients.TABLE,
    *gradcam.TABLE,
    *mmel.TABLE,
    *heads.TABLE,
    *lens.TABLE,
    *attattr.TABLE,
    *embeddings.TABLE,
    *lrp.TABLE,
    *ablation.TABLE,
    *rise.TABLE,
    *reagent.TABLE,
    *submodular.TABLE,
    *eagle.TABLE,
    *causal.TABLE,
    *consensus.TABLE,
    *floor.TABLE,
)

METHODS: dict[str, MethodFunction] = {
    name: function for function, info in _TABLE for name in (info.name, *info.aliases)
}
_INFO: dict[str, MethodInfo] = {
    name: info for _, info in _TABLE for name in (info.name, *info.aliases)
}
# Methods that take any option, and who knows which there are.
_PASSED_ON = {"causal": causal.check_passed_on, "attn_attrib": heads.check_passed_on}
_OURS = ("trace", "target", "units", "against", "seed", "progress")


def list_methods() -> list[MethodInfo]:
    """Return the methods that `attribute` knows, cheap ones first."""
    return [info for _, info in _TABLE]


def method_name(name: Any) -> str:
    """Return the registered name of a method; case, - for _ and aliases do not matter.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Raises
    ------
    OptionError, OptionTypeError
        If there is no such method, or `name` is no text.
    """
    known = {alias: info.name for alias, info in _INFO.items()}
    return one_name(
        "method", name, known,
        "scores of your own are measured by evaluate(trace, target, ('name', scores), ...)",
    )  # fmt: skip


def check_method_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, and values that it could not take.

    Parameters
    ----------
    name : str
        As `method_name` returns it.
    options : mapping
        Options of the method itself.

    Raises
    ------
    OptionError, OptionTypeError
    """
    function = METHODS[name]
    own = {k: p for k, p in inspect.signature(function).parameters.items() if k not in _OURS}
    named = {k for k, p in own.items() if p.kind is not p.VAR_KEYWORD}
    rest = {k: v for k, v in options.items() if k not in named}
    if rest and len(named) == len(own):
        check_names(f"method {name!r}", rest, named)
    check_annotated(function, options)
    if rest and name in _PASSED_ON:
        _PASSED_ON[name](rest)


def attribute(
    trace: TraceLike,
    target: TargetLike,
    method: str = "relevancy",
    *,
    units: UnitsLike = "patch+token",
    against: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Attribution:
    """Score every position before a generated token by how much it matters to it.

    Parameters
    ----------
    trace : Trace
        What `LVLM.run` returned.
    target : str, int, slice, Target or callable
        Generated token, word or span; see `resolve_target`.
    method : str
        Name or alias, see `list_methods`. The default is the language model's relevancy row.
    units : str or Units
        What is masked or scored as one, see `causal_lvlm.units.make_units`. Methods that score
        positions do not depend on it.
    against : int or str, optional
        Another token, by id or text (its first token): "why the target and not this?". It is
        compared with the target's first token. Only some methods can answer that.
    seed : int
        For methods that draw random numbers, not negative; the result says whether the method did.
    progress : callable, optional
        Called as ``progress(what, done, total)`` by methods with many model runs.
    **options
        Options of the method; an unknown one raises `TypeError` and names those allowed.

    Returns
    -------
    Attribution

    Raises
    ------
    TargetError
        If the answer holds no such token, or `against` is that token itself.
    AttentionError
        If attention, its gradient or the scores hold values that are not finite.
    UnsupportedModelError
        If the method needs a part that the model or the question lacks, such as a class token or a
        picture.
    IndexError
        If the model has no such layer.
    ValueError
        If the method, the units or an option's value is unknown, or the seed is negative.
    TypeError
        If the method has no such option, or explains no contrast.

    Examples
    --------
    >>> from causal_lvlm.lvlm import load_model
    >>> from causal_lvlm.tiny import sample_inputs
    >>> sample = sample_inputs()[0]
    >>> trace = load_model().run(sample.image_path, sample.prompt)
    >>> found = attribute(trace, trace.answer, "attention", head="max")
    >>> found.scores.shape == (len(trace.layout),)
    True
    """
    name = method_name(method)
    check_trace(trace)
    check_method_options(name, options)
    function = METHODS[name]
    signature = inspect.signature(function).parameters
    has = {key for key, parameter in signature.items() if parameter.kind != parameter.VAR_KEYWORD}
    passes_on = len(has) < len(signature)  # takes any option and checks it itself
    if against is not None and "against" not in has and not passes_on:
        able = ", ".join(
            info.name for fn, info in _TABLE if "against" in inspect.signature(fn).parameters
        )
        raise OptionTypeError(f"method {name!r} has no option against; these have: {able}")
    asked = units_name(units)
    seed = whole_number("seed", seed, 0)
    found = resolve_target(trace.layout, target)
    if against is not None:
        _check_rival(trace, found, against)
    given: dict[str, Any] = {"against": against, "seed": seed, "progress": progress}
    if "units" in has:
        given["units"] = make_units(trace, found, units)
    if passes_on and against is not None:
        has.add("against")
    if "methods" in has:  # a method of methods is handed them, ready to be asked
        named = options.get("methods", signature["methods"].default)
        pairs = [(m, {}) if isinstance(m, str | Attribution) else m for m in named]
        options["methods"] = [rerun(method, own, seed) for method, own in pairs]
    options.update((key, value) for key, value in given.items() if key in has)
    with _peak_memory(trace) as memory:
        started = time.perf_counter()
        scores = function(trace, found, **options)
        seconds = time.perf_counter() - started - scores.seconds_apart
    values, errors = _checked(scores, name, len(trace.layout), found.start)
    notes = tuple(scores.notes)
    if not values.any():
        notes += ("all scores are zero: the method says nothing about this target",)
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
        units_name=asked,
        seed=seed if "seed" in has else None,
        peak_memory=memory.bytes,
        notes=notes,
        standard_error=errors,
    )


rerun = partial(Rerunner, attribute=attribute, methods=METHODS)
"""Makes a method ready to be asked again, see `causal_lvlm.metrics.rerun.Rerun`."""


def _check_rival(trace: TraceLike, target: Target, against: Any) -> None:
    """Raise unless `against` is another token than the target's first."""
    if isinstance(against, bool) or not isinstance(against, (str, int, np.integer)):
        raise OptionTypeError(f"against must be a token's text or id, got {shown(against)}")
    rival = trace.token_id(against) if isinstance(against, str) else against
    if rival == target.token_ids[0]:
        raise TargetError(
            f"against is {against!r}, the first token of the target {target.text!r} itself: a "
            "contrast needs another token"
        )


def _checked(
    scores: Scores, name: str, length: int, start: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Return values and standard errors (T,), finite, zero from the target on."""
    checked: list[np.ndarray[Any, Any] | None] = []
    for values, what in ((scores.values, "scores"), (scores.standard_error, "standard error")):
        if values is None:
            checked.append(None)
            continue
        array = np.array(values, dtype=np.float64)
        if array.shape != (length,):
            raise ValueError(
                f"{what} of {quoted(name)} must be of shape ({length},), got {array.shape}"
            )
        check_finite(array, f"{what} of {name!r}")
        array[start:] = 0.0
        checked.append(array)
    first = checked[0]
    if first is None:
        raise ValueError(f"method {quoted(name)} returned no scores")
    return first, checked[1]


def _peak_memory(trace: TraceLike) -> AbstractContextManager[Any]:
    """Return what measures the memory of a block, where there is a model that can run in it."""
    try:
        return trace.model.peak_memory()
    except DetachedTraceError:
        return nullcontext(SimpleNamespace(bytes=None))
