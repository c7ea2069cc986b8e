"""Figures of all targets and of each kind of question, aligned mean maps, and the cases to show.

1. ``on_object``: share of the set's cells that the objects cover (12 % of a cell or more); chance
   is the share of all cells. ``near``: the same with every cell that touches those, diagonally too.
   ``other``: the share on another object of the scene.
2. ``iou``: of the set and the objects' cells. A set is as small as possible, an object is not, so
   this cannot be near 1.
3. Aligned maps: scenes shifted so that the one object the answer depends on is in the centre; the
   mean over targets of each cell's value, divided by how often that cell was inside the image
   (cells that fewer than a tenth of the targets have are left out). For the sets also the means of
   the best, the middle and the worst tenth of the targets by share on the object (after AggAtt of
   Rao, Boehle, Schiele, CVPR 2022, arXiv 2205.10435: samples sorted by localisation, and bins of
   them averaged; their bins are others, and their cells need no aligning).
4. Cases: targets sorted by share on the object, then IoU, then number; the first, the middle and
   the last ones are shown, whatever they look like.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.metrics.statistics import bootstrap_mean, paired_difference
from causal_lvlm.tiny.scenes import GRID, PATCH_SIZE
from experiments.common.tables import rounded

SHOWN = 4  # cases of each group
REACH = 5  # cells around the object's centre in the aligned maps
LEAST = 0.1  # share of the targets that must have a cell for it to be shown
SET = "verified set"
GROUPS = ("best", "median", "worst")
OF_SETS = ("size", "on_object", "chance", "near", "near_chance", "other", "any", "iou")


def summarise(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return everything that the tables and the sheet show."""
    found = [{"number": line["key"], **line["result"]} for line in lines]
    placed = [t for t in found if t["objects"] and t["verified"]]
    for target in placed:
        target["figure"] = set_figures(target)
    single = [t for t in placed if len(t["boxes"]) == 1]
    kinds = sorted({t["kind"] for t in found})
    return {
        "kind": "localisation summary",
        "targets": len(found),
        "with_objects": sum(bool(t["objects"]) for t in found),
        "placed": len(placed),
        "seconds": round(sum(line["seconds"] for line in lines)),
        "all": _row(found, placed),
        "kinds": {
            k: _row([t for t in found if t["kind"] == k], [t for t in placed if t["kind"] == k])
            for k in kinds
        },
        "against_chance": _against(placed, "on_object", "chance"),
        "methods": _methods(placed),
        "aligned": aligned(single),
        "tenths": {
            group: aligned(part)
            for group, part in by_rule(single, max(len(single) // 10, 1)).items()
        },
        "cases": {g: [t["number"] for t in part] for g, part in by_rule(placed, SHOWN).items()},
    }  # fmt: skip


def set_figures(target: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one set."""
    chosen, objects = set(target["set"]), set(target["objects"])
    near = around(objects)
    return {
        "size": len(chosen),
        "on_object": len(chosen & objects) / len(chosen),
        "chance": len(objects) / GRID**2,
        "near": len(chosen & near) / len(chosen),
        "near_chance": len(near) / GRID**2,
        "other": len(chosen & set(target["other_objects"])) / len(chosen),
        "any": float(bool(chosen & objects)),
        "iou": len(chosen & objects) / len(chosen | objects),
    }


def around(cells: set[int]) -> set[int]:
    """Return cells and all that touch them."""
    grown = set()
    for cell in cells:
        row, column = divmod(cell, GRID)
        for r in range(max(row - 1, 0), min(row + 2, GRID)):
            for c in range(max(column - 1, 0), min(column + 2, GRID)):
                grown.add(r * GRID + c)
    return grown


def by_rule(placed: list[dict[str, Any]], n: int) -> dict[str, list[dict[str, Any]]]:
    """Return the first, the middle and the last `n` targets by share on the object."""
    ranked = sorted(
        placed, key=lambda t: (-t["figure"]["on_object"], -t["figure"]["iou"], t["number"])
    )
    n = min(n, len(ranked))
    middle = (len(ranked) - n) // 2
    return {
        "best": ranked[:n], "median": ranked[middle : middle + n],
        "worst": ranked[len(ranked) - n :],
    }  # fmt: skip


def aligned(single: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean maps around the centre of the one object; None for a cell that few have."""
    width = 2 * REACH + 1
    names = [SET, *(single[0]["maps"] if single else ()), "object"]
    total = {name: np.zeros((width, width)) for name in names}
    count = np.zeros((width, width))
    for target in single:
        left, top, right, bottom = target["boxes"][0]
        centre = np.array([(top + bottom) / 2, (left + right) / 2]) / PATCH_SIZE - 0.5
        layers = {
            SET: _share_map(target["set"]), "object": _share_map(target["objects"], share=False),
            **{name: np.array(cells) / 1000 for name, cells in target["maps"].items()},
        }  # fmt: skip
        for cell in range(GRID**2):
            row, column = np.rint(np.array(divmod(cell, GRID)) - centre).astype(int) + REACH
            if 0 <= row < width and 0 <= column < width:
                count[row, column] += 1
                for name in names:
                    total[name][row, column] += layers[name][cell]
    count[count < LEAST * len(single)] = 0  # of too few scenes to be a mean over them
    means = {name: _mean(total[name], count) for name in names}
    return {"targets": len(single), "reach": REACH, "maps": means}


def _share_map(cells: list[int], *, share: bool = True) -> FloatArray:
    values: FloatArray = np.zeros(GRID**2)
    values[cells] = 1.0 / len(cells) if share else 1.0
    return values


def _mean(total: FloatArray, count: FloatArray) -> list[list[float | None]]:
    return [
        [rounded(float(t / c), 4) if c else None for t, c in zip(row, counts, strict=True)]
        for row, counts in zip(total, count, strict=True)
    ]


def _row(found: list[dict[str, Any]], placed: list[dict[str, Any]]) -> dict[str, Any]:
    with_objects = [t for t in found if t["objects"]]
    row: dict[str, Any] = {
        "targets": len(found),
        "with_objects": len(with_objects),
        "verified": len(placed),
        "not_maskable": sum(t["outcome"] in ("not_maskable", "not_found") for t in with_objects),
        "object_flips": _plain([float(t["object_flips"]) for t in with_objects]),
        "runs": _plain([t["runs"] for t in found]),
    }
    for name in OF_SETS:
        row[name] = _plain([t["figure"][name] for t in placed])
    scenes = [t["scene"] for t in placed]
    interval = bootstrap_mean([t["figure"]["on_object"] for t in placed], scenes)
    row["on_object_interval"] = [_number(interval.low), _number(interval.high)]
    return row


def _methods(placed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean figures of every map; as many cells as the set has, against the set."""
    rows: dict[str, Any] = {}
    scenes = [t["scene"] for t in placed]
    own = np.array([t["figure"]["on_object"] for t in placed])
    for name in placed[0]["figures"] if placed else ():
        values = {
            metric: np.array([_nan(t["figures"][name][metric]) for t in placed])
            for metric in placed[0]["figures"][name]
        }
        rows[name] = {metric: _plain(v) for metric, v in values.items()}
        gap = paired_difference(own, values["same_size"], scenes)
        rows[name]["set_minus_same_size"] = [
            _number(v) for v in (gap.difference.mean, gap.difference.low, gap.difference.high)
        ]
        rows[name]["p"] = _number(gap.p_value)
    return rows


def _against(placed: list[dict[str, Any]], first: str, second: str) -> dict[str, Any]:
    scenes = [t["scene"] for t in placed]
    mine, other = ([t["figure"][name] for t in placed] for name in (first, second))
    test = paired_difference(mine, other, scenes)
    difference = test.difference
    return {
        "difference": _number(difference.mean), "low": _number(difference.low),
        "high": _number(difference.high), "p": _number(test.p_value),
    }  # fmt: skip


def _plain(values: Any) -> float | None:
    known = [v for v in values if not math.isnan(v)]
    return rounded(float(np.mean(known)), 4) if known else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else rounded(float(value), 4)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
