"""The metrics by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from causal_lvlm.checks import one_name
from causal_lvlm.metrics import (
    agreement,
    curves,
    eraser,
    graph,
    graph_randomisation,
    impossible,
    localisation,
    morf,
    randomisation,
    recovery,
    remainder,
    rewording,
    sets,
    soft,
)
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = [
    "METRICS",
    "MetricFunction",
    "direction",
    "list_metrics",
    "metric_function",
    "metric_info",
    "option_names",
]

MetricFunction = Callable[..., Measured]

# Each module lists its metrics; those about the answer come first, those about the map last.
_MODULES = (
    curves, morf, eraser, soft, remainder, sets, localisation, impossible, randomisation,
    graph, graph_randomisation, rewording, agreement, recovery,
)  # fmt: skip

METRICS: dict[str, tuple[MetricFunction, MetricInfo]] = {
    info.name: (function, info) for module in _MODULES for function, info in module.METRICS
}


def list_metrics() -> list[MetricInfo]:
    """Return all metrics, faithfulness first."""
    return [info for _, info in METRICS.values()]


def _canonical(name: str) -> str:
    plain = name.partition("[")[0] if isinstance(name, str) else name
    return one_name(
        "metric", plain, {known: known for known in METRICS},
        "call one of your own on a causal_lvlm.metrics.Case of the trace and the target",
    )  # fmt: skip


def metric_info(name: str) -> MetricInfo:
    """Return what is known of a metric; a masking in brackets is ignored.

    Raises
    ------
    ValueError
        If there is no such metric.
    """
    return METRICS[_canonical(name)][1]


def metric_function(name: str) -> MetricFunction:
    """Return the function of a metric; raises `ValueError` if there is no such metric."""
    return METRICS[_canonical(name)][0]


def direction(name: str) -> str | None:
    """Return which values are better, None where neither is or the metric is not known here."""
    plain = name.split("[")[0]
    return METRICS[plain][1].better if plain in METRICS else None


def option_names(function: MetricFunction) -> tuple[str, ...]:
    """Return the keyword options of a metric function."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
