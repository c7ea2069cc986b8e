"""`evaluate`: several explanations of one target, measured by the same questions.

1. All results are scored on the same units of one `Case`: what one method has asked the model is
   free for the next.
2. Each result becomes an `Entry`: a map its scores over units, a set its members, an explanation
   both, scored through `from_explanation`. Sets are judged in the mode of their explanation, and by
   the first choice of the model: one found with another tester or another masking need not be
   valid here.
3. `causal_lvlm.metrics.measure` asks every metric about every entry; metrics that run a method
   again are given `causal_lvlm.methods.registry.rerun`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.errors import OptionTypeError
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.methods.explained import from_explanation
from causal_lvlm.methods.registry import rerun
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.measure import DEFAULT_METRICS, Entry, Progress, choose, measure
from causal_lvlm.metrics.result import MetricTable
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import TargetLike, Units, check_trace, resolve_target

__all__ = ["evaluate"]


def evaluate(
    trace: TraceLike,
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
        scored through `causal_lvlm.methods.from_explanation`; its set is the main one.
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
    chosen = choose(
        metrics, masking if case is None else case.masking, options, region=region is not None
    )
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
    given = options if region is None else {**options, "region": region}
    table = measure(own, _entries(own, results), chosen, given, rerun=rerun, progress=progress)
    return replace(table, seconds=time.perf_counter() - started)


# -- results --------------------------------------------------------------------------------------


def _entries(case: Case, results: Any) -> list[Entry]:
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


def _entry(case: Case, result: Any) -> Entry:
    if _is_pair(result):
        name, what = result
        if isinstance(what, (set, frozenset)):
            return Entry(name, members=_checked_members(case, what))
        return Entry(name, scores=case.scores(what))
    if isinstance(result, Attribution):
        return Entry(result.method, scores=_scores_of(case, result), result=result)
    if isinstance(result, Explanation):
        members, widened = _members_of(case, result)
        attribution = from_explanation(result, case.units)
        return Entry(
            name=attribution.method,
            scores=_scores_of(case, attribution),
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


def _scores_of(case: Case, attribution: Attribution) -> FloatArray:
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


def _members_of(case: Case, explanation: Explanation) -> tuple[frozenset[int] | None, int]:
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
