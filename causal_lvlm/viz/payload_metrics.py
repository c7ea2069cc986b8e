"""Faithfulness numbers as a page shows them: which belong to whom, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.wording import amount, said
from causal_lvlm.metrics.registry import direction
from causal_lvlm.metrics.result import MASKED_TOP, MetricTable
from causal_lvlm.tokens import Target
from causal_lvlm.viz import wording
from causal_lvlm.viz.payload_graph import short

__all__ = ["asked", "measures", "metric_note", "metrics_of"]


def asked(metrics: Sequence[MetricTable], explanation: Explanation) -> list[list[Any]]:
    """Return what the model said with the tokens masked that methods rank highest.

    Positions, probability, first choice, whether it changed; each mask once.
    """
    found: dict[tuple[int, ...], list[Any]] = {}
    for table in metrics:
        for value in table.values:
            same = value.metric == f"{MASKED_TOP}[{explanation.masking}]"
            if not same or value.detail.get("mode") != explanation.mode:
                continue
            for row in value.detail["rows"]:
                positions = tuple(sorted(int(p) for p in row["positions"]))
                p, words = short(row["probability"]), said(tuple(row["first_choice"]))
                found.setdefault(positions, [list(positions), p, words, bool(row["changed"])])
    return list(found.values())


def measures(table: MetricTable, explanation: Explanation) -> bool:
    """Whether a table is about this explanation: a word may have several, each with a table."""
    if tuple(table.target.positions) != tuple(explanation.target.positions):
        return False
    for value in table.values:
        if value.metric.startswith(MASKED_TOP):
            if value.metric != f"{MASKED_TOP}[{explanation.masking}]":
                return False
            if value.detail.get("mode", explanation.mode) != explanation.mode:
                return False
            after = explanation.main.probability_after
            if value.method != "causal" or value.value is None or after is None:
                continue
            if abs(value.value - after) > 1e-6:
                return False
    return True


def metric_note(tables: Sequence[MetricTable]) -> str:
    """Return how the numbers of an explanation were measured, empty if none were."""
    for table in tables:
        steps = table.parameters.get("steps")
        points = f"; curves are read at {steps + 1} points" if steps else ""
        return f"The numbers cost {amount(table.model_runs, 'masked model run')}{points}."
    return ""


def metrics_of(tables: Sequence[MetricTable], method: str, target: Target) -> list[list[str]]:
    """Return name, value as text and which direction is better, for one method and target.

    What two tables say alike is said once.
    """
    found: list[list[str]] = []
    for table in tables:
        if tuple(table.target.positions) != tuple(target.positions):
            continue
        for value in table.values:
            if value.method == method and not value.metric.startswith(MASKED_TOP):
                better = {"higher": "↑", "lower": "↓", None: ""}[direction(value.metric)]
                entry = [value.metric, _digits(value.value), better]
                if entry not in found:
                    found.append(entry)
    return found


def _digits(value: float | None) -> str:
    """Return a metric's value to three digits, as tables of metrics have it."""
    if value is None:
        return wording.number(value)
    return f"{round(value, 3) + 0.0:.3f}"  # no minus in front of nothing
