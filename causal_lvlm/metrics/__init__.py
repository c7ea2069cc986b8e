"""Metrics: how far to believe an attribution or an explaining set.

`list_metrics` says which metrics there are; `causal_lvlm.evaluate` measures several results on one
target.
"""

from __future__ import annotations

from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.registry import list_metrics, metric_function, metric_info
from causal_lvlm.metrics.result import MetricTable, MetricValue

__all__ = [
    "Case", "Measured", "MetricInfo", "MetricTable", "MetricValue", "list_metrics",
    "metric_function", "metric_info",
]  # fmt: skip
