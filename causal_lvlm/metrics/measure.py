"""Several results of one target, measured by the same questions.

1. `choose` reads the names: a masking in brackets, ``"deletion[neutral]"``, chooses another one for
   this metric; metrics with a published masking of their own (``morf[zero]``) take that unless told
   otherwise.
2. `measure` hands a metric what it needs of each `Entry`: its scores over units, its explaining
   set, or the result itself. What an entry does not have is left out of the table (a map has no
   explaining set); one whose set was not found is there without a value, so that nobody averages
   over successes.
3. Metrics that run a method again are given `rerun` as well (`causal_lvlm.metrics.rerun.Rerun`):
   this room does not know which methods there are.

`causal_lvlm.evaluate` makes the case and the entries.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.checks import check_annotated, check_choice, nearest
from causal_lvlm.errors import CausalLVLMError, ModelMemoryError, OptionTypeError
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.metrics.case import MASKINGS, Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.registry import metric_function, metric_info, option_names
from causal_lvlm.metrics.rerun import Rerun
from causal_lvlm.metrics.result import MetricTable, MetricValue
from causal_lvlm.storage import to_jsonable

__all__ = ["DEFAULT_METRICS", "Chosen", "Entry", "Progress", "choose", "measure"]

DEFAULT_METRICS = ("deletion", "insertion", "comprehensiveness", "sufficiency")

Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called with (text, entries done, all entries)."""

Chosen: TypeAlias = "tuple[MetricInfo, str]"
"""A metric and the masking it is measured with."""


@dataclass(frozen=True)
class Entry:
    """One result in the forms that metrics ask for.

    Attributes
    ----------
    name : str
    scores : ndarray of float64, shape (U,), optional
    members : frozenset of int, optional
        Its explaining set.
    result : Attribution or Explanation, optional
    parameters : dict
        Go into every value of it.
    defaults : dict
        Options that the result itself decides.
    without_set : str
        Outcome of an explanation that has no verified set.
    """

    name: str
    scores: FloatArray | None = None
    members: frozenset[int] | None = None
    result: Attribution | Explanation | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    without_set: str = ""


def choose(
    metrics: str | Sequence[str], masking: str, options: Mapping[str, Any], *, region: bool = False
) -> list[Chosen]:
    """Return the metrics that were named, each with the masking it is measured with.

    Parameters
    ----------
    metrics : str or sequence of str
    masking : str
        For metrics without one of their own.
    options : mapping
        Options of metrics; each must be one of a chosen metric.
    region : bool
        Whether there is a region.

    Raises
    ------
    TypeError
        If no chosen metric has such an option.
    ValueError
        If a metric is unknown, needs something that is missing, or a value is not allowed.
    """
    several = isinstance(metrics, Iterable) and not isinstance(metrics, str)
    # What each of them is, is checked by `_parse`.
    chosen = [_parse(name, masking) for name in (metrics if several else [metrics])]
    known: set[str] = set()
    for info, _ in chosen:
        known.update(option_names(metric_function(info.name)))
        check_annotated(metric_function(info.name), options)
        if info.needs == "region" and not region:
            raise ValueError(f"{info.name} needs region=: one bool per unit, boxes or pixels")
    unknown = [name for name in options if name not in known]
    if unknown:
        raise OptionTypeError(
            f"no chosen metric has an option {unknown[0]}{nearest(unknown[0], known)}; "
            f"they have: {', '.join(sorted(known)) or 'none'}"
        )
    return chosen


def _parse(name: Any, masking: str) -> Chosen:
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


def measure(
    case: Case,
    entries: Sequence[Entry],
    chosen: Sequence[Chosen],
    options: Mapping[str, Any],
    *,
    rerun: Rerun | None = None,
    progress: Progress | None = None,
) -> MetricTable:
    """Measure every entry by every metric.

    Parameters
    ----------
    case : Case
    entries : sequence of Entry
    chosen : sequence of Chosen
        What `choose` returned.
    options : mapping
        Given to every metric that has one of this name; ``region`` among them.
    rerun : Rerun, optional
        For metrics that run a method again.
    progress : callable, optional
        Called before each value and once at the end.

    Returns
    -------
    MetricTable
    """
    started, before = time.perf_counter(), case.runs
    values: list[MetricValue] = []
    total = len(entries) * len(chosen)
    for i, entry in enumerate(entries):
        for j, (info, masking) in enumerate(chosen):
            label = f"{info.name}[{masking}]" if info.masks else info.name
            if progress is not None:
                progress(f"{entry.name}: {label}", i * len(chosen) + j, total)
            value = _value(case.under(masking), entry, info, label, options, rerun)
            if value is not None:
                values.append(value)
    if progress is not None:
        progress("done", total, total)
    return MetricTable(
        values=tuple(values),
        target=case.target,
        parameters=to_jsonable(
            {
                "units": case.units_name,
                "n_units": case.n_units,
                "masking": case.masking,
                "seed": case.seed,
                "ties": case.ties,
            }
        ),
        model_runs=case.runs - before,
        seconds=time.perf_counter() - started,
        model_id=case.trace.model_id,
        revision=case.trace.revision,
    )


def _value(
    case: Case,
    entry: Entry,
    info: MetricInfo,
    label: str,
    options: Mapping[str, Any],
    rerun: Rerun | None,
) -> MetricValue | None:
    """Return one value, or None where the entry has not what the metric needs."""
    forms: dict[str, Any] = {"set": entry.members, "result": entry.result}
    subject = forms.get(info.needs, entry.scores)
    if subject is None and not (info.needs == "set" and entry.without_set):
        return None
    function = metric_function(info.name)
    accepted = inspect.signature(function).parameters
    offered = {**entry.defaults, **options}
    taken = {key: value for key, value in offered.items() if key in accepted}
    started, runs = time.perf_counter(), case.runs
    if subject is None:
        found = Measured(None, {"undefined": f"no verified set: {entry.without_set}"}, 0)
    else:
        try:
            again = (rerun,) if "rerun" in accepted else ()
            found = function(case, subject, *again, **taken)
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
        model_runs=case.runs - runs,
        asked=found.asked,
        seconds=time.perf_counter() - started,
        parameters=to_jsonable(
            {**entry.parameters, **{k: v for k, v in taken.items() if k != "region"}}
        ),
    )
