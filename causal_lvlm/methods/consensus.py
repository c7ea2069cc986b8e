"""Consensus: several methods, each weighted by how faithful it was measured to be on this trace.

LVLM-Interpret names this as future work; the combination is this package's own.

1. Every method scores the same units.
2. Its faithfulness f on this very target is measured by masking: the sum of metrics for which
   higher is better minus those for which lower is better; by default comprehensiveness minus
   sufficiency (ERASER's bins), which take ten masked rows a method.
3. The floor f0 is the mean over seeded random orders, measured in the same way. Weight of a method:
   w = ((f - f0)⁺)^sharpness, divided by the sum. A method that is no better than chance has no
   say; if none is better, all weigh the same and a note says so.
4. Ranks (ties share their mean rank), divided by the number of units, are averaged with these
   weights. Ranks, because scores of different methods have no common scale.
5. The agreement between the methods (Kendall's tau-b, Jaccard overlap of the best tenth) is in the
   parameters. Where the mean tau of the pairs lies below `disagreement` a note warns that the
   methods tell different stories, and which of them the masking supports.
6. The consensus is measured as well: a note says when its best member was better alone.

Caution. The weights come from masking. A table that scores the consensus by the same metrics on the
same target measures, in part, what it was made from; compare it by others (insertion, another
masking) or on the members' terms. And agreement is no evidence of faithfulness ("A Song of
(Dis)agreement", Neely et al. 2022, arXiv:2205.04559): it is reported, never used as a weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.result import Attribution, Scores, spread
from causal_lvlm.checks import whole_number
from causal_lvlm.errors import quoted
from causal_lvlm.methods.rerunner import Rerunner
from causal_lvlm.metrics.agreement import CAUTION, agreement_matrix
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.measure import Entry, choose, measure
from causal_lvlm.metrics.registry import metric_info
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["DEFAULT_METHODS", "DISAGREEMENT", "TABLE", "consensus"]

DEFAULT_METHODS = ("rollout", "relevancy", "grad_attention", "input_x_gradient", "tam")
"""One forward or one backward pass each, and of different kinds."""

DEFAULT_METRICS = ("comprehensiveness", "sufficiency")
SHARPNESS = 4.0
"""On development scenes of the embedded model comprehensiveness minus sufficiency was 0.45, 0.51,
0.58, 0.61 for 1, 2, 4, 8 (masking "remove"; 0.42, 0.46, 0.55, 0.56 with "neutral"), 0.54 for the
best single method."""

DISAGREEMENT = 0.3
"""Mean Kendall tau-b of the pairs below which a note warns; 1 is agreement, 0 what chance gives."""

_NO_VALUE = (
    "{} has no better direction or no value for scores; use metrics of faithfulness such as "
    "comprehensiveness, sufficiency, insertion"
)


def consensus(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    seed: int = 0,
    progress: Progress | None = None,
    methods: Sequence[Any] = DEFAULT_METHODS,
    metrics: Sequence[str] = DEFAULT_METRICS,
    masking: str = "remove",
    sharpness: float = SHARPNESS,
    n_random: int = 5,
    disagreement: float = DISAGREEMENT,
    batch_size: int | None = None,
) -> Scores:
    """Average the ranks of several methods, weighted by their measured faithfulness.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
        At least one.
    seed : int
        Of random orders, of ties, and of the methods.
    progress : callable, optional
        Called with (text, steps done, steps).
    methods : sequence of str, (str, dict) or Attribution
        Names, names with options, or results that are there already (of this target; they cost
        nothing again). At least two. `causal_lvlm.attribute` hands each on as a `Rerunner`.
    metrics : sequence of str
        Metrics with a better direction, see `causal_lvlm.metrics.list_metrics`.
    masking : str
        How faithfulness is measured, see `causal_lvlm.metrics.Case`.
    sharpness : float
        Positive; the larger, the more the most faithful method counts.
    n_random : int
        Random orders that make the floor.
    disagreement : float
        Threshold of the warning.
    batch_size : int, optional
        Most masked rows in one call.

    Returns
    -------
    Scores
        From 0 to 1 per unit. ``parameters`` holds weights, faithfulness and agreement, and under
        ``members`` every method with the options that it is asked with again (by
        `causal_lvlm.metrics`, on another trace); runs are those of the methods and of the
        measurements.

    Raises
    ------
    ValueError
        If fewer than two methods are given, a result is of another target, or a metric has no
        better direction.
    TargetError
        If nothing before the target can be masked.
    """
    whole_number("n_random", n_random, 1)
    if not (np.isfinite(sharpness) and sharpness > 0):
        raise ValueError(f"sharpness must be a positive number, got {sharpness}")
    if len(methods) < 2:
        raise ValueError(f"a consensus needs at least two methods, got {len(methods)}")
    case = Case(
        trace, target, units=units, masking=masking, seed=seed, batch_size=batch_size
    )  # fmt: skip
    members: Sequence[Rerunner] = methods
    steps = 2 * len(methods) + 2
    tell = progress or (lambda text, done, total: None)
    found: list[Attribution] = []
    for done, member in enumerate(members):
        tell(f"consensus: {member.name}", done, steps)
        if member.made is not None:
            _check_same(member.made, trace, target)
        found.append(member.made or member.attribution(trace, target, units))
    names = _distinct([one.method for one in found])
    scores = [one.unit_scores(units) for one in found]
    measured: list[float] = []
    for done, (name, values) in enumerate(zip(names, scores, strict=True)):
        tell(f"consensus: faithfulness of {name}", len(methods) + done, steps)
        measured.append(_faithfulness(case, values, metrics))
    tell("consensus: random orders", steps - 2, steps)
    floor = _floor(case, metrics, n_random, seed)
    weights, notes = _weights(np.array(measured), floor, sharpness)
    ranks = np.stack([rankdata(values) / len(values) for values in scores])
    combined = np.asarray(weights @ ranks)
    own = _faithfulness(case, combined, metrics)
    agreement = _agreement(names, scores)
    notes += _warnings(names, measured, weights, agreement, own, disagreement)
    tell("consensus", steps, steps)
    parameters = {
        "methods": names,
        "members": [{"method": m.name, "options": m.options} for m in members],
        "weights": dict(zip(names, weights.tolist(), strict=True)),
        "faithfulness": dict(zip(names, measured, strict=True)),
        "faithfulness_random": floor,
        "faithfulness_consensus": own,
        "metrics": list(metrics),
        "masking": masking,
        "sharpness": sharpness,
        "n_random": n_random,
        "disagreement": disagreement,
        "agreement": agreement,
    }
    return Scores(
        spread(combined, units, len(trace.layout)),
        parameters,
        model_runs=sum(m.model_runs for m in members) + case.runs,
        backward_passes=sum(m.backward_passes for m in members),
        notes=notes,
    )


def _check_same(result: Attribution, trace: TraceLike, target: Target) -> None:
    """Raise unless a result is of this target."""
    if result.target.positions != target.positions or len(result.scores) != len(trace.layout):
        raise ValueError(
            f"the result of {result.method!r} explains {quoted(result.target.text)} at "
            f"{result.target.positions}, not {quoted(target.text)} at {target.positions}"
        )


def _distinct(names: Sequence[str]) -> list[str]:
    """Give names that occur twice a number."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out


def _faithfulness(case: Case, scores: FloatArray, metrics: Sequence[str]) -> float:
    """Return the metrics' sum, each with the sign that makes higher better."""
    entry = Entry("scores", scores=case.scores(scores))
    table = measure(case, [entry], choose(tuple(metrics), case.masking, {}), {})
    total = 0.0
    for value in table.values:
        better = metric_info(value.metric.partition("[")[0]).better
        if better is not None and value.value is not None:
            total += value.value if better == "higher" else -value.value
            continue
        raise ValueError(_NO_VALUE.format(value.metric))
    if len(table.values) < len(metrics):  # metrics of sets say nothing about scores
        raise ValueError(_NO_VALUE.format(", ".join(metrics)))
    return total


def _floor(case: Case, metrics: Sequence[str], n_random: int, seed: int) -> float:
    rng = np.random.default_rng([seed, *case.target.positions])
    orders = [rng.permutation(case.n_units).astype(np.float64) for _ in range(n_random)]
    return float(np.mean([_faithfulness(case, order, metrics) for order in orders]))


def _weights(
    measured: FloatArray, floor: float, sharpness: float
) -> tuple[FloatArray, tuple[str, ...]]:
    above = np.maximum(measured - floor, 0.0) ** sharpness
    if above.sum() > 0:
        return np.asarray(above / above.sum()), ()
    note = "no method was more faithful than random orders on this target: all weigh the same"
    return np.full(len(measured), 1.0 / len(measured)), (note,)


def _agreement(names: Sequence[str], scores: Sequence[FloatArray]) -> dict[str, Any]:
    """Return both matrices of pairs and their means."""
    maps = dict(zip(names, scores, strict=True))
    result: dict[str, Any] = {"caution": CAUTION}
    for name in ("kendall", "top_k_jaccard"):
        matrix = agreement_matrix(maps, name)
        result[name] = matrix.values.tolist()
        result[f"mean_{name}"] = matrix.mean()
    return result


def _warnings(
    names: Sequence[str],
    measured: Sequence[float],
    weights: FloatArray,
    agreement: Mapping[str, Any],
    own: float,
    disagreement: float,
) -> tuple[str, ...]:
    notes: list[str] = []
    tau, best = float(agreement["mean_kendall"]), int(np.argmax(measured))
    if np.isnan(tau) or tau < disagreement:
        notes.append(
            f"the methods disagree (mean Kendall tau {tau:.2f} < {disagreement:g}, best tenth "
            f"shared {agreement['mean_top_k_jaccard']:.2f}); masking supports {names[best]} most "
            f"(weight {weights[best]:.2f})"
        )
    if own < measured[best]:
        notes.append(
            f"{names[best]} alone is more faithful here ({measured[best]:.3f}) than the consensus "
            f"({own:.3f})"
        )
    return tuple(notes)


TABLE: Table = (
    (
        consensus,
        MethodInfo(
            "consensus",
            (),
            "consensus",
            "ranks of several methods, weighted by their faithfulness on this very target",
            "the methods', and 10 masked rows for each, 50 for the floor",
            needs=("units",),
            reference="future work of Ben Melech Stan et al. 2024, arXiv:2404.03118",
        ),
    ),
)
