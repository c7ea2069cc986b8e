"""What a comparison by metrics returns: a `MetricTable` of `MetricValue`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from causal_lvlm.errors import quoted
from causal_lvlm.fields import (
    Check,
    flag,
    instance,
    many,
    maybe,
    number,
    reading,
    record,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.metrics.registry import direction
from causal_lvlm.storage import read_json, to_jsonable, versions, write_json
from causal_lvlm.summary import target_check
from causal_lvlm.tokens import Target

__all__ = ["MetricTable", "MetricValue"]

KIND = "metrics"
MASKED_TOP = "masked_top"  # what the page shows rows of, see `causal_lvlm.metrics.masked_top`


@dataclass(frozen=True)
class MetricValue:
    """One number of a table.

    Attributes
    ----------
    metric : str
        With the masking, where the value depends on it: ``deletion[remove]``.
    method : str
    value : float or None
        None where the metric is not defined here; ``detail["undefined"]`` says why.
    detail : dict
    model_runs : int
        Rows that the model computed for it: answers in memory cost nothing.
    asked : int
        Rows that it asked for: its price without a memory.
    seconds : float
        Wall-clock time, with the memory.
    parameters : dict
    """

    metric: str
    method: str
    value: float | None
    detail: Mapping[str, Any]
    model_runs: int
    asked: int
    seconds: float
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricTable:
    """Methods x metrics on one target.

    Attributes
    ----------
    values : tuple of MetricValue
        Method by method, in the order in which they were given.
    target : Target
    parameters : dict
        Units, number of units, masking, seed, ties.
    model_runs : int
        Rows computed for the whole table.
    seconds : float
    model_id, revision : str or None
    versions : dict
    """

    values: tuple[MetricValue, ...]
    target: Target
    parameters: Mapping[str, Any]
    model_runs: int
    seconds: float
    model_id: str | None = None
    revision: str | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in order."""
        return tuple(dict.fromkeys(v.method for v in self.values))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in order."""
        return tuple(dict.fromkeys(v.metric for v in self.values))

    def get(self, method: str, metric: str) -> MetricValue:
        """Return one entry; the masking may be left out of the metric's name.

        Raises
        ------
        KeyError
            If the table has no such entry.
        """
        for value in self.values:
            if value.method == method and metric in (value.metric, value.metric.split("[")[0]):
                return value
        raise KeyError(
            f"no {quoted(metric)} of {quoted(method)} in this table; "
            f"methods: {', '.join(self.methods)}; metrics: {', '.join(self.metrics)}"
        )

    def table(self, digits: int = 3) -> str:
        """Return a markdown table: one row per method, one column per metric.

        An arrow says which direction is better; a dash stands where a metric is not defined or was
        not measured.
        """
        marks = {"higher": " ↑", "lower": " ↓", None: ""}
        heads = [f"{name}{marks[direction(name)]}" for name in self.metrics]
        lines = [
            "| method | " + " | ".join(heads) + " |",
            "|---|" + "---:|" * len(heads),
        ]
        known = {(v.method, v.metric): v.value for v in self.values}
        for method in self.methods:
            cells = []
            for metric in self.metrics:
                value = known.get((method, metric))
                cells.append("–" if value is None else f"{value:.{digits}f}")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values."""
        plain: dict[str, Any] = to_jsonable(
            {
                "kind": KIND,
                "target": asdict(self.target),
                "values": [asdict(v) for v in self.values],
                "parameters": dict(self.parameters),
                "model_runs": self.model_runs,
                "seconds": self.seconds,
                "model_id": self.model_id,
                "revision": self.revision,
                "versions": dict(self.versions),
            }
        )
        return plain

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as JSON and return its path; raises `OutputError` if it cannot."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MetricTable:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or is no saved table.
        """
        value = read_json(path, KIND)
        with reading(path, "table of metrics"):
            return cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> MetricTable:
        """Invert `to_dict`.

        Raises
        ------
        OutputError
            If a field is missing, or is not what it must be.
        """
        return cls(**_TABLE(value, ""))


_MASKED = {
    "mode": text,
    "budget": whole(0),
    "rows": many(
        record(
            {"scope": text, "k": whole(0), "positions": many(whole(0)),
             "probability": number(0.0, 1.0 + 1e-6), "first_choice": many(text), "changed": flag},
            optional={"scope"},
        )
    ),
}  # fmt: skip


def _value_check() -> Check:
    counts = {"model_runs": whole(0), "asked": whole(0)}
    read = instance(MetricValue, detail=settings(), **counts)
    masked = record(_MASKED)

    def check(value: Any, where: str) -> MetricValue:
        found: MetricValue = read(value, where)
        if found.metric.startswith(MASKED_TOP):  # the page shows what stands in there
            return replace(found, detail={**found.detail, **masked(found.detail, where)})
        return found

    return check


def _values(value: Any, where: str) -> tuple[MetricValue, ...]:
    found: tuple[MetricValue, ...] = many(_value_check())(value, where)
    return found


_TABLE = record(
    {
        "target": target_check(),
        "values": _values,
        "parameters": settings(steps=maybe(whole(0))),
        "model_runs": whole(0),
        "seconds": number(0.0),
        "model_id": maybe(text),
        "revision": maybe(text),
        "versions": table(text),
    }
)
