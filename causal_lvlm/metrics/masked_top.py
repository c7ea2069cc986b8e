"""Faithfulness numbers of the methods that a report shows: what the model itself says about them.

1. Equal budget: the k tokens that a method ranks highest are masked together (in sufficient mode:
   they alone are kept), for every k that an explaining set of that scope has. The model then says
   what it says, with a probability of the target. Masks that two methods share are run once.
2. The usual metrics (`causal_lvlm.evaluate`), the explanation among the methods as ``causal``.

Both stand in one `MetricTable`, the first as metric ``masked_top``: its value is the probability
at the size of the main set, its detail holds every budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray
from causal_lvlm.checks import whole_number
from causal_lvlm.metrics.evaluate import DEFAULT_METRICS, evaluate
from causal_lvlm.metrics.registry import metric_function, option_names
from causal_lvlm.metrics.result import MASKED_TOP, MetricTable, MetricValue
from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["DEFAULT_METRICS", "MASKED_TOP", "measure_faithfulness", "measurable", "ranked"]

KINDS = {
    "all": ("image", "prompt", "generated"),
    "image": ("image",),
    "text": ("prompt", "generated"),
}
SCOPE_OF_SET = {"joint": "all", "custom": "all", "image": "image", "text": "text"}
EXACT = 128  # with more units than that, curves are read at STEPS counts unless told otherwise
STEPS = 16
_BUDGET = 5  # where no set gives a size


def ranked(layout: TokenLayout, attribution: Any, scope: str = "all") -> list[int]:
    """Return the positions that can be masked, highest score first, equal scores by position.

    Parameters
    ----------
    layout : TokenLayout
    attribution : Attribution
    scope : {"all", "image", "text"}

    Returns
    -------
    list of int
        Without the frame, and without the position whose row predicts the target.
    """
    start = attribution.target.start
    found = _candidates(layout, attribution.target, scope)
    scores = np.asarray(attribution.scores, dtype=np.float64)[:start]
    return sorted(found, key=lambda p: (-scores[p], p))


def _candidates(layout: TokenLayout, target: Target, scope: str) -> list[int]:
    kinds = KINDS[scope]
    return [p for p in range(target.start) if layout.modality[p] in kinds and p != target.predictor]


def measurable(names: Iterable[str]) -> None:
    """Refuse a metric that a report cannot ask for, before anything is run.

    Raises
    ------
    ValueError
        If a metric is unknown, or needs more than a method's scores or an explaining set.
    """
    from causal_lvlm.metrics.registry import metric_info

    for name in names:
        needs = metric_info(name).needs
        if needs not in ("scores", "set"):
            raise ValueError(
                f"{name} needs {needs!r}, which a report does not have; choose metrics of scores "
                f"or sets, such as {', '.join(DEFAULT_METRICS)}"
            )


def measure_faithfulness(
    trace: Any,
    explanation: Any,
    attributions: Sequence[Any],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    most: int = 0,
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> MetricTable:
    """Measure an explanation and the methods beside it with the explanation's own masking.

    Parameters
    ----------
    trace : Trace
        With a model.
    explanation : Explanation
    attributions : sequence of Attribution
        Those of other targets are left out.
    metrics : sequence of str
        Names as `causal_lvlm.evaluate` takes them; may be empty.
    most : int
        Also ask for every budget from 1 to this, in every scope.
    steps : int, optional
        Points at which curves are read; default: all of up to 128 units, else 17.
    seed : int
        Of equal scores.
    progress : callable, optional
        As for `causal_lvlm.evaluate`.

    Returns
    -------
    MetricTable
        ``model_runs`` counts all masked runs.

    Raises
    ------
    ValueError
        If an option or a metric is not allowed.
    DetachedTraceError
        If the trace has no model.
    """
    whole_number("most", most, 0)
    started = time.perf_counter()
    target = explanation.target
    mine = [a for a in attributions if tuple(a.target.positions) == tuple(target.positions)]
    values, runs = _budgets(trace, explanation, mine, most)
    options: dict[str, Any] = {"masking": explanation.masking, "seed": seed}
    if explanation.masking.startswith("pixels"):
        options["units"] = "patch"  # pixels mask no word
    named = [metrics] if isinstance(metrics, str) else list(metrics)
    if any("steps" in option_names(metric_function(name)) for name in named):
        # What is masked: words may have several tokens, so this is the most units there can be.
        size = len(_candidates(trace.layout, target, "all"))
        if steps is None and size > EXACT:
            steps = STEPS
        if steps is not None:
            options["steps"] = steps
    table = evaluate(trace, target, [explanation, *mine], named, progress=progress, **options)
    return replace(
        table,
        values=(*values, *table.values),
        parameters={**table.parameters, "steps": steps, "budgets_to": most},
        model_runs=table.model_runs + runs,
        seconds=time.perf_counter() - started,
    )


def _wanted(explanation: Any, most: int) -> dict[str, list[int]]:
    """Return the budgets in tokens for every scope that the masking can mask."""
    sizes: dict[str, set[int]] = {scope: set() for scope in KINDS}
    main = len(explanation.main.positions)
    for name, item in explanation.sets.items():
        if item is not None and item.positions and name in SCOPE_OF_SET:
            sizes[SCOPE_OF_SET[name]].add(len(item.positions))
    for scope in sizes:
        sizes[scope] |= {main or _BUDGET, *range(1, most + 1)}
    if explanation.masking.startswith("pixels"):
        return {"image": sorted(sizes["image"])}
    return {scope: sorted(found) for scope, found in sizes.items()}


def _budgets(
    trace: Any, explanation: Any, attributions: Sequence[Any], most: int
) -> tuple[list[MetricValue], int]:
    """Mask what every method ranks highest; masks that several methods share are run once."""
    layout, target = trace.layout, explanation.target
    wanted = _wanted(explanation, most)
    masks: dict[frozenset[int], int] = {}
    asked: list[list[tuple[str, int, tuple[int, ...]]]] = []
    for attribution in attributions:
        mine = []
        for scope, sizes in wanted.items():
            order = ranked(layout, attribution, scope)
            for k in sizes:
                if k <= len(order):
                    mine.append((scope, k, tuple(order[:k])))
                    masks.setdefault(frozenset(order[:k]), len(masks))
        asked.append(mine)
    own = _own(explanation)
    if not masks:
        return own, 0
    keep = _keep(layout, target, list(masks), explanation.mode)
    before = time.perf_counter()
    found = trace.evaluate(keep, target, masking=explanation.masking)
    seconds = time.perf_counter() - before
    chance = np.exp(np.asarray(found.token_log_probs, dtype=np.float64).sum(axis=1))
    first = np.asarray(found.argmax)
    changed = (first != np.array(target.token_ids)).any(axis=1)
    size = len(explanation.main.positions) or _BUDGET
    values: list[MetricValue] = []
    for attribution, mine in zip(attributions, asked, strict=True):
        rows: list[dict[str, Any]] = []
        for scope, k, positions in mine:
            at = masks[frozenset(positions)]
            rows.append(
                {
                    "scope": scope,
                    "k": k,
                    "positions": list(positions),
                    "probability": float(chance[at]),
                    "first_choice": [trace.token_text(int(t)) for t in first[at]],
                    "changed": bool(changed[at]),
                }
            )
        same = [r["probability"] for r in rows if r["k"] == size]
        values.append(
            MetricValue(
                metric=f"{MASKED_TOP}[{explanation.masking}]",
                method=attribution.method,
                value=same[0] if same else None,
                detail={"mode": explanation.mode, "budget": size, "rows": rows},
                model_runs=len(masks) if not values else 0,  # shared: counted once
                asked=len(rows),
                seconds=seconds if not values else 0.0,
            )
        )
    return own + values, len(masks)


def _own(explanation: Any) -> list[MetricValue]:
    """Return the same number of the explanation: what its main set does was verified already."""
    main = explanation.main
    if not main.positions or main.probability_after is None:
        return []
    return [
        MetricValue(
            metric=f"{MASKED_TOP}[{explanation.masking}]",
            method="causal",
            value=float(main.probability_after),
            detail={"mode": explanation.mode, "budget": len(main.positions), "rows": []},
            model_runs=0,
            asked=0,
            seconds=0.0,
        )
    ]


def _keep(
    layout: TokenLayout, target: Target, masks: Sequence[frozenset[int]], mode: str
) -> BoolArray:
    """Return what stays visible: all but the mask, or of what can be masked nothing but it."""
    keep = np.ones((len(masks), len(layout)), dtype=np.bool_)
    everything = _candidates(layout, target, "all")
    for row, mask in enumerate(masks):
        hidden = mask if mode == "necessary" else set(everything) - mask
        keep[row, sorted(hidden)] = False
    return keep
