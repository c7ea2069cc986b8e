"""Means, intervals, paired tests, and the choice of winners, from what was saved of every target.

The rule of choice, fixed before the tuning split was measured:

1. ``sets``: of the eligible settings with the default's search, those whose sets cannot be told
   from the smallest (95 % interval of the paired difference in size reaches 0); among them the one
   that had met its sets after the fewest model runs.
2. ``graph``: of all eligible settings, those whose prefix (units in the graph's own order until the
   answer changes) cannot be told from the shortest; among them the one that names the fewest
   candidates next to the target.

Size is the mean of the joint and the image set's (where both can be); prefix likewise. Ties go to
the setting that is listed first.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.items_file import read_lines
from causal_lvlm.metrics.statistics import bootstrap_mean, holm, paired_difference
from experiments.ablations.measure import COLUMNS
from experiments.ablations.settings import BY_NAME, CROSSING, DEFAULT, GRAPH_FIRST
from experiments.common.tables import rounded

TESTED = ("size", "met", "on_object", "prefix")
# Means of the joint and the image scope.
DERIVED = {part: (f"{part}_joint", f"{part}_image") for part in ("size", "prefix", "held")}


PARTS = ("tuning", "crossed")  # the files of the tuning split


def tuning_lines(out: Path) -> list[dict[str, Any]]:
    """Return the lines of the tuning split: one per target, with the settings of both files."""
    whole: dict[Any, dict[str, Any]] = {}
    for part in PARTS:
        for line in read_lines(out / f"{part}.jsonl"):
            seen = whole.setdefault(line["key"], {**line, "seconds": 0.0})
            seen["seconds"] += line["seconds"]
            rows = {**seen["result"]["settings"], **line["result"]["settings"]}
            seen["result"] = {**seen["result"], "settings": rows}
    return list(whole.values())


class Results:
    """What was saved, one array per setting and column; NaN where there is no value."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.targets = [line["result"] for line in lines]
        self.scenes = [t["scene"] for t in self.targets]
        self.names = [n for n in BY_NAME if any(n in t["settings"] for t in self.targets)]
        empty = [None] * len(COLUMNS)
        self.table = {
            name: np.array([t["settings"].get(name, empty) for t in self.targets], dtype=np.float64)
            for name in self.names
        }

    def values(self, name: str, column: str) -> FloatArray:
        """Return one value per target; NaN where none was measured."""
        if column in DERIVED:
            parts = np.array([self.values(name, part) for part in DERIVED[column]])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a target without either
                mean: FloatArray = np.nanmean(parts, axis=0)
            return mean
        found: FloatArray = self.table[name][:, COLUMNS.index(column)]
        return found

    def measured(self, name: str, column: str) -> bool:
        return bool(np.isfinite(self.values(name, column)).any())


def choose(found: Results) -> dict[str, str]:
    """Return the winner of each rule; see the module's text."""
    eligible = [n for n in found.names if BY_NAME[n].eligible]
    guided = [n for n in eligible if n != GRAPH_FIRST and BY_NAME[n].factor != CROSSING]
    return {
        "sets": _winner(found, guided, "size", "met"),
        "graph": _winner(found, eligible, "prefix", "nodes_1"),
    }


def _winner(found: Results, names: list[str], first: str, second: str) -> str:
    names = [n for n in names if found.measured(n, first)]
    means = {n: float(np.nanmean(found.values(n, first))) for n in names}
    best = min(names, key=lambda n: means[n])
    reference = found.values(best, first)
    near = []
    for name in names:
        gap = bootstrap_mean(found.values(name, first) - reference, found.scenes)
        if not gap.low > 0.0:  # NaN: a single scene
            near.append(name)
    return min(near, key=lambda n: float(np.nanmean(found.values(n, second))))


def summarise(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return everything that the tables show of one split."""
    found = Results(lines)
    chances = [t["chance"] for t in found.targets if t["chance"]]
    return {
        "targets": len(found.targets),
        "with_objects": len(chances),
        "maskable": {
            scope: int(np.isfinite(found.values(DEFAULT, f"size_{scope}")).sum())
            for scope in ("joint", "image", "text")
        },
        "with_single_cause": sum(t["causes"] > 0 for t in found.targets),
        "seconds": round(sum(line["seconds"] for line in lines)),
        "settings": {name: _row(found, name) for name in found.names},
        "tests": {column: _tests(found, column) for column in TESTED},
    }


def _row(found: Results, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"n": sum(name in t["settings"] for t in found.targets)}
    for column in (*COLUMNS, *DERIVED):
        values = found.values(name, column)
        if not np.isfinite(values).any():
            continue
        row[column] = rounded(float(np.nanmean(values)))
        if column in TESTED:
            interval = bootstrap_mean(values, found.scenes)
            row[f"{column}_interval"] = [_plain(interval.low), _plain(interval.high)]
    placed = np.isfinite(found.values(name, "on_object"))
    if placed.any():
        chance = [t["chance"] for t, yes in zip(found.targets, placed, strict=True) if yes]
        row["chance"] = rounded(float(np.mean(chance)))
    return row


def _tests(found: Results, column: str) -> dict[str, Any]:
    """Compare every setting with the one it stands beside, Holm-corrected over all of them."""
    names = [n for n in found.names if n != DEFAULT and found.measured(n, column)]
    names = [n for n in names if BY_NAME[n].beside in found.names]
    tests = [
        paired_difference(
            found.values(n, column), found.values(BY_NAME[n].beside, column), found.scenes
        )
        for n in names
    ]
    adjusted = holm([test.p_value for test in tests])
    return {
        name: {
            "difference": _plain(test.difference.mean), "low": _plain(test.difference.low),
            "high": _plain(test.difference.high), "p": _plain(float(p)),
            "targets": _n_different(found, name, column),
        }
        for name, test, p in zip(names, tests, adjusted, strict=True)
    }  # fmt: skip


def _n_different(found: Results, name: str, column: str) -> int:
    """Return how many targets have another value than under the setting beside."""
    gap = found.values(name, column) - found.values(BY_NAME[name].beside, column)
    return int((np.abs(gap) > 1e-9).sum())  # a missing one is no other one


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")
