"""From one line per target to the numbers of the tables; no text.

Intervals resample whole scenes: up to three targets share one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from causal_lvlm.metrics.statistics import Interval, PairedTest, bootstrap_mean, paired_difference
from experiments.graph import settings

Row = dict[str, Any]


def maskable(rows: Sequence[Row]) -> list[Row]:
    """Return the targets whose answer needs content edges."""
    return [r for r in rows if not r["prior"]]


def defined(rows: Sequence[Row]) -> list[Row]:
    """Return the maskable targets for which faithfulness is defined."""
    return [r for r in maskable(rows) if r["curves"][settings.LEARNED][0][0] is not None]


def mean(values: Sequence[float | None], rows: Sequence[Row]) -> Interval:
    """Return the mean of one value for each target; None is left out."""
    return bootstrap_mean(_floats(values), [r["scene"] for r in rows], seed=0)


def difference(
    first: Sequence[float | None], second: Sequence[float | None], rows: Sequence[Row]
) -> PairedTest:
    """Return the paired difference of two values for each target."""
    scenes = [r["scene"] for r in rows]
    return paired_difference(_floats(first), _floats(second), scenes, seed=0)


def _floats(values: Sequence[float | None]) -> list[float]:
    return [np.nan if v is None else float(v) for v in values]


# -- the verified graph -------------------------------------------------------------------------


def done(row: Row) -> bool:
    """Whether both sets were verified within the budget, with all their random controls."""
    graph = row["graph"]
    both = [graph["sufficient"], graph["necessary"]]
    inside = graph["runs"] <= settings.BUDGET
    return inside and all(one["verified"] and one["controls"] for one in both)


def size_of(row: Row, mode: str) -> int | None:
    """Return the size of a set of the verified graph; None where none was found."""
    found = row["graph"][mode]
    return found["size"] if found["verified"] else None


def graph_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `causal_graph` found for some maskable targets."""
    result: dict[str, Any] = {
        "targets": len(rows),
        "done": sum(done(r) for r in rows),
        "runs": mean([r["graph"]["runs"] for r in rows], rows),
        "runs_most": max(r["graph"]["runs"] for r in rows),
        "seconds": float(np.median([r["graph"]["seconds"] for r in rows])),
    }
    for mode in ("sufficient", "necessary"):
        sets = [r["graph"][mode] for r in rows]
        sizes = [size_of(r, mode) for r in rows]
        known = [s for s in sets if s["verified"]]
        result[mode] = {
            "verified": len(known),
            "controls": sum(s["controls"] for s in known),
            "size": mean(sizes, rows),
            "largest": max((s["size"] for s in known), default=None),
            "minimum": _share([s["minimality"] == "minimum" for s in known]),
            "irreducible": _share([s["minimality"] != "none" for s in known]),
            "random": _share([s["random_rate"] for s in known if s["random_rate"] is not None]),
        }
    return result


def _share(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def image_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how often image sources of sufficient graphs lie on the objects asked about."""
    some = [r for r in rows if r["image"]["chance"] is not None and r["image"]["sources"]]
    known = [r for r in rows if r["image"]["chance"] is not None]
    return {
        "with_object": len(known),
        "targets": len(some),
        "on": mean([r["image"]["on_object"] / r["image"]["sources"] for r in some], some),
        "all_on": sum(r["image"]["on_object"] == r["image"]["sources"] for r in some),
        "chance": mean([r["image"]["chance"] for r in some], some),
    }


def contradiction_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the graphs of `causal_graph` denied of the causes that their own cuts proved."""
    graphs = [r["graph"] for r in rows]
    return {
        "causes": sum(g["causes"] for g in graphs),
        "denied": sum(len(g["contradictions"]) for g in graphs),
        "graphs": sum(bool(g["contradictions"]) for g in graphs),
        "after": sum(g["contradictions_after"] for g in graphs),
    }


# -- orders of edges ----------------------------------------------------------------------------


def curve(row: Row, name: str) -> list[float]:
    """Return the faithfulness of an order at each share of the edges (mean of its draws)."""
    return [float(f) for f in np.mean(row["curves"][name], axis=0)]


def cpr(row: Row, name: str) -> float:
    """Return the area under the faithfulness of an order."""
    return float(np.mean([np.trapezoid(c, settings.SHARES) for c in row["curves"][name]]))


def cmd(row: Row, name: str) -> float:
    """Return the area between the faithfulness of an order and 1."""
    distance = [np.abs(1.0 - np.array(c)) for c in row["curves"][name]]
    return float(np.mean([np.trapezoid(d, settings.SHARES) for d in distance]))


def same_size(row: Row, name: str, what: str) -> float | None:
    """Return what an order keeps with as many edges as the learned graph has (mean of draws)."""
    values = [one[what] for one in row["same_size"][name]]
    return None if values[0] is None else float(np.mean(values))


def order_numbers(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return the figures of every order."""
    some, known = maskable(rows), defined(rows)
    return {
        name: {
            "curve": np.mean([curve(r, name) for r in known], axis=0).tolist(),
            "cpr": mean([cpr(r, name) for r in known], known),
            "cmd": mean([cmd(r, name) for r in known], known),
            "f": mean([same_size(r, name, "f") for r in known], known),
            "keeps": mean([same_size(r, name, "keeps") for r in some], some),
        }
        for name in settings.ORDERS
    }


def order_tests(rows: Sequence[Row], other: str) -> dict[str, PairedTest]:
    """Return the learned graph beside another order: paired differences."""
    some, known = maskable(rows), defined(rows)

    def both(value: Any, among: Sequence[Row]) -> PairedTest:
        first, second = ([value(r, n) for r in among] for n in (settings.LEARNED, other))
        return difference(first, second, among)

    return {
        "keeps": both(lambda r, n: same_size(r, n, "keeps"), some),
        "f": both(lambda r, n: same_size(r, n, "f"), known),
        "cpr": both(cpr, known),
        "cmd": both(cmd, known),
    }


# -- searches along one order -------------------------------------------------------------------


def search_numbers(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Return the sets found along one order, and how `causal_graph` compares with them."""
    result: dict[str, Any] = {"runs": mean([r["searches"][name]["runs"] for r in rows], rows)}
    for mode in ("sufficient", "necessary"):
        sizes = [r["searches"][name][mode]["size"] for r in rows]
        own = [size_of(r, mode) for r in rows]
        proved = [r["searches"][name][mode]["minimality"] != "none" for r in rows]
        result[mode] = {
            "found": sum(s is not None for s in sizes),
            "size": mean(sizes, rows),
            "median": float(np.nanmedian(_floats(sizes))),
            "irreducible": _share(proved),
            "difference": difference(own, sizes, rows),
        }
    return result


# -- sources, estimates -------------------------------------------------------------------------


def source_numbers(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Return what the graphs of one source keep, and what they deny."""
    pairs = [(r, r["sources"][name]) for r in rows if r["sources"][name] is not None]
    some, found = [r for r, _ in pairs], [s for _, s in pairs]
    return {
        "targets": len(found),
        "edges": mean([s["edges"] for s in found], some),
        "leading": mean([s["leading"] for s in found], some),
        "keeps": mean([s["keeps"] for s in found], some),
        "keeps_carried": mean([s["keeps_carried"] for s in found], some),
        **{k: sum(s[k] for s in found)
           for k in ("causes", "not_a_node", "arrowhead", "no_path", "after")},
    }  # fmt: skip


def threshold_numbers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what graphs of each threshold keep, and |A·dA| with as many edges.

    The last entry takes for each target the sparsest of them that keeps the answer (the densest if
    none does), of each of the two by itself.
    """
    picks: list[Callable[[Row, str], Row]] = [
        partial(_numbered, number) for number in range(len(settings.THRESHOLDS))
    ]
    result = []
    for pick in [*picks, _sparsest]:
        own, carried = ([pick(r, name) for r in rows] for name in ("keeps", "keeps_carried"))
        result.append({
            "edges": mean([one["edges"] for one in own], rows),
            "keeps": mean([one["keeps"] for one in own], rows),
            "edges_carried": mean([one["edges"] for one in carried], rows),
            "keeps_carried": mean([one["keeps_carried"] for one in carried], rows),
        })  # fmt: skip
    return result


def _numbered(number: int, row: Row, _: str) -> Row:
    one: Row = row["thresholds"][number]
    return one


def _sparsest(row: Row, keeps: str) -> Row:
    found: list[Row] = row["thresholds"]
    return next((one for one in found if one[keeps]), found[-1])


def estimate_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rank correlations of the scores with the effect of each cut."""
    some = [r["exact"] for r in maskable(rows) if r["exact"] is not None]
    rho = {name: np.array([e["rho"][name] for e in some]) for name in settings.KINDS}
    return {
        "targets": len(some),
        "edges": sum(e["edges"] for e in some),
        "rho": {
            name: {"median": float(np.median(v)), "least": float(v.min())}
            for name, v in rho.items()
            if len(v)
        },
    }
