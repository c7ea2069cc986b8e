"""From one line per target to the numbers of the tables; no drawing, no text.

What counts as known about a target and a scope:

- *maskable*: some masking within the scope changes the answer;
- *best known*: the smallest verified set of any method here, brute force included;
- *provable*: brute force has tried every smaller set than the best known one, so that this is the
  minimum. That holds for minima of up to three units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from causal_lvlm.metrics.statistics import bootstrap_mean, paired_difference

Row = dict[str, Any]
NECESSARY = ("guided", "guided, joint alone", "graph first, influence",
             "published", "published, 300 runs")  # fmt: skip


def best_known(row: Row, scope: str) -> int | None:
    """Return the size of the smallest verified necessary set of a scope, or None."""
    sizes = [row["truth"][scope]["size"]]
    sizes += [m["size"] for m in row["orders"].get(scope, {}).values()]
    for name in NECESSARY:
        one = row["explain"][name]["sets"].get(scope)
        sizes.append(one["size"] if one and one["verified"] else None)
    sizes += [curve[scope][-1][1] for curve in row["curves"].values() if curve[scope]]
    return min((s for s in sizes if s), default=None)


def provable(row: Row, scope: str) -> bool:
    """Whether every smaller set than the best known one was tried and failed."""
    best, truth = best_known(row, scope), row["truth"][scope]
    return best is not None and (truth["size"] == best or truth["failed_to"] >= best - 1)


def maskable(rows: Iterable[Row], scope: str) -> list[Row]:
    """Return the targets that some masking within the scope changes."""
    return [r for r in rows if best_known(r, scope) is not None]


def share(values: Sequence[Any]) -> float | None:
    """Return the mean of what is known, or None."""
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if known else None


def explain_numbers(rows: list[Row], name: str) -> dict[str, Any]:
    """Return the figures of one setting of `explain` (necessary sets)."""
    result: dict[str, Any] = {
        "runs": share([r["explain"][name]["runs"] for r in rows]),
        "runs_max": max(r["explain"][name]["runs"] for r in rows),
    }
    for scope in ("joint", "image", "text"):
        some = [r for r in maskable(rows, scope) if scope in r["explain"][name]["sets"]]
        sets = [r["explain"][name]["sets"][scope] for r in some]
        done = [(r, s) for r, s in zip(some, sets, strict=True) if s["verified"]]
        known = [(r, s) for r, s in zip(some, sets, strict=True) if provable(r, scope)]
        result[scope] = {
            "maskable": len(some),
            "verified": len(done),
            "size": share([s["size"] for _, s in done]),
            "best_known": share([best_known(r, scope) for r, _ in done]),
            "provable": len(known),
            "optimal": sum(s["verified"] and s["size"] == best_known(r, scope) for r, s in known),
            "as_small_as_known": sum(s["size"] == best_known(r, scope) for r, s in done),
            "minimum": share([s["minimality"] == "minimum" for _, s in done]),
            "by_graph": share([s["found_by"] == "graph" for _, s in done]),
            "random": share([s["random_flip_rate"] for _, s in done]),
        }
    return result


def sufficient_numbers(rows: list[Row], name: str) -> dict[str, Any]:
    """Return the figures of one setting of `explain` in sufficient mode."""
    result: dict[str, Any] = {"runs": share([r["explain"][name]["runs"] for r in rows])}
    others = [n for n in rows[0]["explain"] if n.endswith("sufficient")]
    for scope in ("joint", "image", "text"):
        pairs = [(r, r["explain"][name]["sets"][scope]) for r in rows]
        pairs = [(r, s) for r, s in pairs if s["outcome"] not in ("not_maskable", "no_candidates")]
        done = [s for _, s in pairs if s["verified"]]
        optimal = known = 0
        for r, s in pairs:
            truth = r["truth"].get(f"{scope}, sufficient")
            if truth is None or not truth["maskable"]:
                continue
            met = [r["explain"][n]["sets"][scope] for n in others]
            least = min([m["size"] for m in met if m["verified"]] + [truth["size"] or 99])
            if truth["size"] == least or truth["failed_to"] >= least - 1:
                known += 1
                optimal += s["verified"] and s["size"] == least
        common = [
            s["size"] for r, s in pairs
            if all(r["explain"][n]["sets"][scope]["verified"] for n in others)
        ]  # fmt: skip
        result[scope] = {
            "needing": len(pairs), "verified": len(done), "size": share([s["size"] for s in done]),
            "common": len(common), "size_common": share(common),
            "provable": known, "optimal": optimal,
            "minimum": share([s["minimality"] == "minimum" for s in done]),
        }  # fmt: skip
    return result


def order_numbers(rows: list[Row], scope: str) -> dict[str, dict[str, Any]]:
    """Return the figures of every order and search within one scope."""
    some = [r for r in rows if r["orders"].get(scope)]
    names = list(dict.fromkeys(n for r in some for n in r["orders"][scope]))
    result = {}
    for name in names:
        pairs = [(r, r["orders"][scope][name]) for r in some if name in r["orders"][scope]]
        sizes = [filled_size(r, m, scope) for r, m in pairs]
        known = [(r, m) for r, m in pairs if provable(r, scope)]
        mean = bootstrap_mean(sizes, list(range(len(sizes))), seed=0)
        result[name] = {
            "targets": len(pairs),
            "found": sum(m["size"] is not None for _, m in pairs),
            "size": mean.mean, "low": mean.low, "high": mean.high,
            "size_found": share([m["size"] for _, m in pairs]),
            "runs": share([m["runs"] for _, m in pairs]),
            "provable": len(known),
            "optimal": sum(m["size"] == best_known(r, scope) for r, m in known),
        }  # fmt: skip
    return result


def filled_size(row: Row, measured: dict[str, Any], scope: str) -> int:
    """Return the size of the set, all units of the scope where none was found."""
    return int(measured["size"] or row["units"][scope])


def difference(rows: list[Row], scope: str, first: str, second: str) -> Any:
    """Return the paired difference of the sizes that two searches reach within one scope."""
    some = [r for r in rows if first in r["orders"].get(scope, {})]
    sizes = [[filled_size(r, r["orders"][scope][n], scope) for r in some] for n in (first, second)]
    return paired_difference(sizes[0], sizes[1], list(range(len(some))), seed=0)


def graph_numbers(rows: list[Row], name: str) -> dict[str, Any]:
    """Return what the PDS-trees of one source hold."""
    depths = [{u: d for u, d in r["graphs"][name]} for r in rows]
    result: dict[str, Any] = {
        f"tokens_{radius}": share([sum(d <= radius for d in one.values()) for one in depths])
        for radius in (1, 3)
    }
    for radius in (1, 3):
        inside = [{u for u, d in one.items() if d <= radius} for one in depths]
        result[f"cause_{radius}"] = share(
            [bool(set(r["causes"]) & held) for r, held in zip(rows, inside, strict=True)
             if r["causes"]]
        )  # fmt: skip
        for scope in ("joint", "image"):
            result[f"{scope}_{radius}"] = share(
                [any(set(s) <= held for s in smallest_sets(r, scope))
                 for r, held in zip(rows, inside, strict=True) if smallest_sets(r, scope)]
            )  # fmt: skip
    return result


def smallest_sets(row: Row, scope: str) -> list[list[int]]:
    """Return the verified sets of the best known size that any method met."""
    best = best_known(row, scope)
    if best is None:
        return []
    met = list(row["truth"][scope]["sets"])
    met += [m["units"] for m in row["orders"].get(scope, {}).values()]
    met += [
        row["explain"][name]["sets"][scope]["units"]
        for name in NECESSARY
        if scope in row["explain"][name]["sets"]
    ]
    return [list(s) for s in {tuple(sorted(s)) for s in met if len(s) == best}]


def mean_curve(rows: list[Row], scope: str, name: str, runs: Sequence[int]) -> list[float]:
    """Return the mean size of the smallest verified set after each number of runs.

    Before a target has one, everything counts: all units of the scope do change the answer.
    """
    curves = []
    for r in rows:
        if not r["orders"].get(scope):
            continue
        if name in r["curves"]:
            points = r["curves"][name][scope]
        elif name in r["orders"][scope]:
            points = r["orders"][scope][name]["curve"]
        else:
            continue
        sizes = [
            min([size for at, size in points if at <= n], default=r["units"][scope]) for n in runs
        ]
        curves.append(sizes)
    return [float(v) for v in np.mean(curves, axis=0)]
