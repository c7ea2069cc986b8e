"""`evaluate`: several explanations of one target, measured by the same questions.

1. All results are scored on the same units of one `Case`: what one method has asked the model is
   free for the next.
2. A metric takes what it needs of a result: its scores over units, its explaining set, the result
   itself. What a result does not have is left out of the table (a map has no explaining set); an
   explanation that found no set is there without a value, so that nobody averages over successes.
   Sets are judged in the mode of their explanation, and by the first choice of the model: one
   found with another tester or another masking need not be valid here.
3. A masking in brackets, ``"deletion[neutral]"``, chooses another one for this metric; metrics
   with a published masking of their own (``morf[zero]``) take that unless told otherwise.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.checks import check_annotated, check_choice, nearest
from causal_lvlm.errors import CausalLVLMError, ModelMemoryError, OptionTypeError
from causal_lvlm.metrics.case import MASKINGS, Case
from causal_lvlm.metrics.registry import metric_function, metric_info, option_names
from causal_lvlm.metrics.result import Measured, MetricInfo, MetricTable, MetricValue
from causal_lvlm.storage import to_jsonable
from causal_lvlm.tokens import TargetLike, Units, check_trace, resolve_target

__all__ = ["evaluate", "members_of", "scores_of"]

DEFAULT_METRICS = ("deletion", "insertion", "comprehensiveness", "sufficiency")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Entry:
    """One result in the forms that metrics ask for."""

    name: str
    scores: FloatArray | None
    members: frozenset[int] | None
    result: Any
    parameters: dict[str, Any]
    defaults: dict[str, Any]  # options that the result itself decides
    without_set: str = ""  # outcome of an explanation that has no verified set


def evaluate(
    trace: Any,
    target: TargetLike,
    results: Any,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    units: str | Units = "patch+word",
    masking: str = "remove",
    region: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
    backend: str = "auto",
    batch_size: int | None = None,
    max_memory: int | str | None = None,
    ties: str = "random",
    case: Case | None = None,
    **options: Any,
) -> MetricTable:
    """Measure attributions and explanations of one target.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        See `resolve_target`.
    results : Attribution, Explanation, pair, or sequence of them
        A pair is ``(name, scores over units)`` or ``(name, set of units)``. An `Explanation` is
        scored through `causal_lvlm.attribution.causal.from_explanation`; its set is the main one.
        Names that occur twice get a number.
    metrics : str or sequence of str
        Names, see `list_metrics`; ``"name[masking]"`` chooses a masking.
    units, masking, seed, backend, batch_size, max_memory, ties
        See `Case`.
    region : array_like, optional
        What the target is about, for metrics of localisation: one bool per unit, boxes or a mask
        in pixels (see `causal_lvlm.metrics.localisation`).
    progress : callable, optional
        Called with (text, done, total) before each entry and once at the end.
    case : Case, optional
        A case of this trace and target that has answers in memory; its units, masking and seed are
        used instead of those above.
    **options
        Options of metrics, given to every metric that has one of this name.

    Returns
    -------
    MetricTable

    Raises
    ------
    TargetError
        If the answer holds no such target, or a result explains another one.
    TypeError
        If no chosen metric has such an option, or a result is none of the kinds above.
    ValueError
        If a metric is unknown, needs something that is missing, or a value is not allowed.

    Examples
    --------
    >>> import causal_lvlm as cl
    >>> from causal_lvlm.tiny import sample_inputs
    >>> sample = sample_inputs()[0]
    >>> trace = cl.load_model().run(sample.image_path, sample.prompt)
    >>> maps = [cl.attribute(trace, trace.answer, name) for name in ("attention", "rollout")]
    >>> [value.method for value in evaluate(trace, trace.answer, maps, ("deletion",)).values]
    ['attention', 'rollout']
    """
    started = time.perf_counter()
    check_trace(trace)
    names = _listed(metrics)
    own_masking = masking if case is None else case.masking
    chosen = [_parse(name, own_masking) for name in names]
    available = dict(options)
    if region is not None:
        available["region"] = region
    _check_options(chosen, options, region is not None)
    own = case or Case(
        trace, target, units=units, masking=masking, seed=seed, backend=backend,
        batch_size=batch_size, max_memory=max_memory, ties=ties,
    )  # fmt: skip
    wanted = resolve_target(trace.layout, target)
    if own.trace is not trace or own.target.positions != wanted.positions:
        raise ValueError(
            f"the case is of {own.target.text!r} at {own.target.positions} of its own trace; make "
            f"one of this trace and the target {wanted.text!r} at {wanted.positions}"
        )
    before = own.runs
    entries = _entries(own, results)
    values: list[MetricValue] = []
    total = len(entries) * len(chosen)
    for i, entry in enumerate(entries):
        for j, (info, masked_by) in enumerate(chosen):
            label = f"{info.name}[{masked_by}]" if info.masks else info.name
            if progress is not None:
                progress(f"{entry.name}: {label}", i * len(chosen) + j, total)
            value = _measure(own.under(masked_by), entry, info, label, available, own)
            if value is not None:
                values.append(value)
    if progress is not None:
        progress("done", total, total)
    return MetricTable(
        values=tuple(values),
        target=own.target,
        parameters=to_jsonable(
            {
                "units": own.units_name,
                "n_units": own.n_units,
                "masking": own.masking,
                "seed": own.seed,
                "ties": own.ties,
            }
        ),
        model_runs=own.runs - before,
        seconds=time.perf_counter() - started,
        model_id=getattr(trace, "model_id", None),
        revision=getattr(trace, "revision", None),
    )


def _listed(metrics: Any) -> list[Any]:
    """Return the metrics one by one; what they are is checked later."""
    several = isinstance(metrics, Iterable) and not isinstance(metrics, str)
    return [*metrics] if several else [metrics]


def _parse(name: str, masking: str) -> tuple[MetricInfo, str]:
    """Return a metric and the masking it is measured with."""
    info = metric_info(name)
    if info.needs == "other":
        raise ValueError(
            f"{info.name} is not a metric of one result on one target; call "
            f"causal_lvlm.metrics.metric_function({info.name!r}) with what its docstring names"
        )
    _, bracket, rest = name.partition("[")
    if not bracket:
        return info, info.masking or masking
    wanted = rest.rstrip("] ")
    check_choice(f"the masking in {name!r}", wanted, info.maskings or MASKINGS)
    if not info.masks:
        raise ValueError(f"{info.name} masks nothing; leave out [{wanted}]")
    return info, wanted


def _check_options(
    chosen: Iterable[tuple[MetricInfo, str]], given: Mapping[str, Any], has_region: bool
) -> None:
    known: set[str] = set()
    for info, _ in chosen:
        known.update(option_names(metric_function(info.name)))
        check_annotated(metric_function(info.name), given)
        if info.needs == "region" and not has_region:
            raise ValueError(f"{info.name} needs region=: one bool per unit, boxes or pixels")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise OptionTypeError(
            f"no chosen metric has an option {unknown[0]}{nearest(unknown[0], known)}; "
            f"they have: {', '.join(sorted(known)) or 'none'}"
        )


def _measure(
    case: Case,
    entry: _Entry,
    info: MetricInfo,
    label: str,
    available: Mapping[str, Any],
    family: Case,
) -> MetricValue | None:
    """Return one value, or None where the result has not what the metric needs."""
    function = metric_function(info.name)
    subject: Any
    if info.needs == "set":
        subject = entry.members
    elif info.needs == "result":
        subject = entry.result
    else:
        subject = entry.scores
    if subject is None and not (info.needs == "set" and entry.without_set):
        return None
    accepted = inspect.signature(function).parameters
    offered = {**entry.defaults, **available}
    chosen = {key: value for key, value in offered.items() if key in accepted}
    started, runs = time.perf_counter(), family.runs
    if subject is None:
        found = Measured(None, {"undefined": f"no verified set: {entry.without_set}"}, 0)
    else:
        try:
            found = function(case, subject, **chosen)
        except CausalLVLMError as error:
            if info.needs != "result" or isinstance(error, ModelMemoryError):
                raise
            # A method that is run again on a changed model or input may have nothing to explain.
            found = Measured(None, {"undefined": f"{type(error).__name__}: {error}"}, 0)
    return MetricValue(
        metric=label,
        method=entry.name,
        value=None if found.value is None else float(found.value),
        detail=found.detail,
        model_runs=family.runs - runs,
        asked=found.asked,
        seconds=time.perf_counter() - started,
        parameters=to_jsonable(
            {**entry.parameters, **{k: v for k, v in chosen.items() if k != "region"}}
        ),
    )


# -- results --------------------------------------------------------------------------------------


def _entries(case: Case, results: Any) -> list[_Entry]:
    """Return results with unique names."""
    several = isinstance(results, (list, tuple)) and not _is_pair(results)
    found = [_entry(case, result) for result in (results if several else [results])]
    count: dict[str, int] = {}
    named = []
    for entry in found:
        count[entry.name] = count.get(entry.name, 0) + 1
        number = count[entry.name]
        name = entry.name if number == 1 else f"{entry.name} ({number})"
        named.append(replace(entry, name=name))
    return named


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _entry(case: Case, result: Any) -> _Entry:
    if _is_pair(result):
        name, what = result
        if isinstance(what, (set, frozenset)):
            return _Entry(name, None, _checked_members(case, what), None, {}, {})
        return _Entry(name, case.scores(what), None, None, {}, {})
    if isinstance(result, Attribution):
        return _Entry(result.method, scores_of(case, result), None, result, {}, {})
    if hasattr(result, "main") and hasattr(result, "graphs"):
        from causal_lvlm.attribution.causal import from_explanation

        members, widened = members_of(case, result)
        attribution = from_explanation(result, case.units)
        return _Entry(
            name=attribution.method,
            scores=scores_of(case, attribution),
            members=members,
            result=result,
            parameters={"widened": widened} if widened else {},
            defaults={"mode": result.mode},
            without_set="" if members is not None else str(result.outcome),
        )
    raise OptionTypeError(
        "a result is an Attribution, an Explanation, or (name, scores over units or set of "
        f"units), got {type(result).__name__}"
    )


def scores_of(case: Case, attribution: Attribution) -> FloatArray:
    """Return an attribution's scores over the units of a case, float64 (U,).

    Raises
    ------
    ValueError
        If it explains another target or sequence, or holds values that are not finite.
    """
    if len(attribution.scores) != len(case.trace.layout):
        raise ValueError(
            f"the attribution {attribution.method!r} has {len(attribution.scores)} positions, "
            f"the trace {len(case.trace.layout)}: it is of another trace"
        )
    if attribution.target.positions != case.target.positions:
        raise ValueError(
            f"the attribution {attribution.method!r} explains {attribution.target.text!r} at "
            f"{attribution.target.positions}, not {case.target.text!r} at {case.target.positions}"
        )
    return case.scores(attribution.unit_scores(case.units))


def members_of(case: Case, explanation: Any) -> tuple[frozenset[int] | None, int]:
    """Return the main explaining set as units of a case, None where none was found.

    Where the set was found over smaller units than the case has, every unit that it touches is
    taken whole; the second value says how many positions were added that way.
    """
    positions = set(explanation.main.positions)
    if not explanation.main.verified:
        return None, 0
    members = frozenset(
        unit for unit, own in enumerate(case.units.members) if positions.intersection(own)
    )
    covered = {p for unit in members for p in case.units.members[unit]}
    if positions - covered:  # it holds what these units leave out
        return None, 0
    return members, len(covered - positions)


def _checked_members(case: Case, members: Iterable[int]) -> frozenset[int]:
    found = frozenset(int(u) for u in members)
    wrong = sorted(u for u in found if not 0 <= u < case.n_units)
    if wrong:
        raise ValueError(f"units {wrong} do not exist, allowed: 0..{case.n_units - 1}")
    return found
