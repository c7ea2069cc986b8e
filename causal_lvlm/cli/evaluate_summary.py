"""The table that ``causal-lvlm evaluate`` prints: means with intervals, and what methods cost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.errors import OutputError
from causal_lvlm.fields import maybe, number, record, text
from causal_lvlm.fields import table as table_of

__all__ = ["check_line", "summarise", "table"]

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


_MEASURED = record(
    {
        "model_runs": number(0.0),
        "backward_passes": number(0.0),
        "seconds": number(0.0),
        "peak_memory": maybe(number()),
        "metrics": table_of(record({"value": maybe(number())})),
    }
)
_FAILED = record({"error": record({"message": text})})


def _entry(value: Any, where: str) -> dict[str, Any]:
    failed = isinstance(value, Mapping) and "error" in value
    checked: dict[str, Any] = (_FAILED if failed else _MEASURED)(value, where)
    return checked


def check_line(line: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Refuse a line that was damaged since `evaluate_item` made it; the summary relies on the rest.

    Raises
    ------
    OutputError
        Names the item and what is not as it was written.
    """
    try:
        record({"methods": record(dict.fromkeys(config["methods"], _entry))})(line["result"], "")
    except OutputError as error:
        raise OutputError(
            f"the results of {str(line['key'])[:40]!r} in {str(path)!r} are damaged ({error}); "
            "take the line out and start again: the item is done again"
        ) from error


def summarise(
    lines: list[dict[str, Any]], config: dict[str, Any], clusters: Mapping[Any, Hashable]
) -> list[dict[str, Any]]:
    """Return one row per method.

    Parameters
    ----------
    lines : list of dict
        Lines of `causal_lvlm.items_file.read_lines` that have a result.
    config : dict
    clusters : mapping
        By key of an item, what intervals are resampled by (its images).

    Returns
    -------
    list of dict
        ``method``, ``items``, ``errors``, ``model_runs``, ``backward_passes``, ``seconds`` (means),
        ``peak_memory`` (largest, None where unknown) and ``metrics``: by name, the fields of
        `causal_lvlm.metrics.statistics.Interval`, 95 %.
    """
    from causal_lvlm.metrics.statistics import bootstrap_mean

    rows = []
    for name in config["methods"]:
        found = [(line["key"], line["result"]["methods"].get(name)) for line in lines]
        good = [(key, entry) for key, entry in found if entry and "error" not in entry]
        metrics = dict.fromkeys(m for _, entry in good for m in entry["metrics"])
        memory = [e["peak_memory"] for _, e in good if e["peak_memory"] is not None]
        rows.append(
            {
                "method": name,
                "items": len(good),
                "errors": len(found) - len(good),
                **{
                    key: float(np.mean([e[key] for _, e in good])) if good else None
                    for key in ("model_runs", "backward_passes", "seconds")
                },
                "peak_memory": max(memory, default=None),
                "metrics": {
                    metric: bootstrap_mean(
                        [_number(e["metrics"].get(metric)) for _, e in good],
                        [clusters[key] for key, _ in good],
                    ).to_dict()
                    for metric in metrics
                },
            }
        )
    return rows


def table(rows: list[dict[str, Any]], n_items: int) -> str:
    """Return the rows as a markdown table with a line about what it shows."""
    from causal_lvlm.metrics.registry import direction

    metrics = list(dict.fromkeys(m for row in rows for m in row["metrics"]))
    heads = ["method", *(m + ARROWS[direction(m)] for m in metrics),
             "runs", "backward", "seconds", "peak MiB"]  # fmt: skip
    body = []
    for row in rows:
        plural = "" if row["errors"] == 1 else "s"
        cells = [row["method"] + (f" ({row['errors']} error{plural})" if row["errors"] else "")]
        cells += [_interval(row["metrics"].get(m)) for m in metrics]
        memory = row["peak_memory"]
        cells += [_plain(row["model_runs"], 1), _plain(row["backward_passes"], 1),
                  _plain(row["seconds"], 3),
                  "–" if memory is None else f"{memory / 2**20:.1f}"]  # fmt: skip
        body.append(cells)
    widths = [max(len(line[i]) for line in (heads, *body)) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in (heads, ["-" * w for w in widths], *body)
    ]
    plural = "item" if n_items == 1 else "items"
    return (
        f"{n_items} {plural}; mean [95 % bootstrap interval over images]; runs and seconds are the "
        "method's own, a mean per item; peak is the largest\n" + "\n".join(lines)
    )


def _number(entry: dict[str, Any] | None) -> float:
    return math.nan if entry is None or entry["value"] is None else float(entry["value"])


def _interval(value: dict[str, Any] | None) -> str:
    if value is None or math.isnan(value["mean"]):
        return "–"
    left = f" n={value['n']}" if value["left_out"] else ""
    if math.isnan(value["low"]):
        return f"{value['mean']:.3f}{left}"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{left}"


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
