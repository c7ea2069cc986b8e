"""Faithfulness numbers of the methods that a report shows: what the model itself says about them.

1. Equal budget: what every method ranks highest is masked (`causal_lvlm.metrics.masked_top`).
2. The usual metrics (`causal_lvlm.evaluate`), the explanation among the methods as ``causal``.

Both stand in one `MetricTable`, the first as metric ``masked_top``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.checks import whole_number
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.methods.evaluate import evaluate
from causal_lvlm.metrics.masked_top import masked_top
from causal_lvlm.metrics.measure import DEFAULT_METRICS, Progress
from causal_lvlm.metrics.registry import metric_function, option_names
from causal_lvlm.metrics.result import MetricTable
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import candidate_units

__all__ = ["measure_faithfulness"]

EXACT = 128  # with more units than that, curves are read at STEPS counts unless told otherwise
STEPS = 16


def measure_faithfulness(
    trace: TraceLike,
    explanation: Explanation,
    attributions: Sequence[Attribution],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    most: int = 0,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
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
    values, runs = masked_top(trace, explanation, mine, most)
    options: dict[str, Any] = {"masking": explanation.masking, "seed": seed}
    if explanation.masking.startswith("pixels"):
        options["units"] = "patch"  # pixels mask no word
    named = [metrics] if isinstance(metrics, str) else list(metrics)
    if any("steps" in option_names(metric_function(name)) for name in named):
        # What is masked: words may have several tokens, so this is the most units there can be.
        size = len(candidate_units(trace.layout, target))
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
