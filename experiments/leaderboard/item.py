"""One target: every method explains it on the plain trace, then every metric measures every method.

1. Methods run one after another on a trace without a memory, so runs, seconds and memory are their
   own. Heap that earlier methods left to the allocator is given back first, or it would hide what
   the next one takes.
2. All rows that the curves of all methods need are asked in one call: rows of one length are
   computed together, and the metrics then find their answers in the case's memory.
3. The deletion curve also says how many units of a ranking must go until the answer changes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import sys
from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.cli.evaluate_item import explaining_set
from causal_lvlm.errors import CausalLVLMError
from causal_lvlm.methods import evaluate
from causal_lvlm.metrics import Case, MetricTable
from experiments.common.pairs import Pair, load, pair_of
from experiments.common.tables import rounded
from experiments.leaderboard.settings import (
    COLUMNS,
    COSTLY,
    EXTRA,
    FLIP_SIZE,
    GAP_RUNS,
    MASKING,
    METRICS,
    SANITY,
    SANITY_OPTIONS,
    SANITY_RUNS,
    SETS,
    UNITS,
)


def setup(methods: list[str], options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Load the model, and run every method once: nobody pays for imports and compilation."""
    import torch

    torch.set_num_threads(1)
    model = load(None)
    sample = {"seed": 0, "stream": 0, "scene": 0, "question": 0}
    pair = pair_of(model, sample)
    case = Case(pair.trace, pair.target, units=UNITS)
    for name in methods:
        if name not in COSTLY:
            attribution(case, name, options)
    return {"model": model, "methods": methods, "options": options}


def attribution(case: Case, name: str, options: dict[str, dict[str, Any]]) -> Attribution:
    given = {"seed": case.seed, **options.get(name, {})}
    return cl.attribute(case.trace, case.target, name, units=case.units, **given)


def work(item: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return what is saved of one target."""
    pair = pair_of(state["model"], item)
    case = Case(pair.trace, pair.target, units=UNITS, masking=MASKING, seed=item["seed"])
    gc.collect()  # once: it takes a quarter of a second
    maskable = bool(case.keep([()]).changed[0])  # also warms up what the first method would pay
    found: dict[str, Attribution] = {}
    for name in state["methods"]:
        if name in COSTLY and not item["costly"]:
            continue
        _trim()
        found[name] = attribution(case, name, state["options"])
    orders = {name: case.order(result.unit_scores(case.units)) for name, result in found.items()}
    prefixes = {name: _prefixes(order) for name, order in orders.items()}
    everything = np.concatenate(list(prefixes.values()))
    case.keep(everything)
    case.without(everything)
    if item["extra"]:  # with zeroed embeddings, most and least relevant first
        reverse = [case.order(-r.unit_scores(case.units)) for r in found.values()]
        zeroed = case.under("zero")
        zeroed.without(np.concatenate([everything, *map(_prefixes, reverse)]))
    metrics = [*METRICS, *(EXTRA if item["extra"] else ())]
    region = _region(case, pair)
    if region is None:
        metrics = [m for m in metrics if m not in ("pointing_game", "energy_pointing_game", "iou")]
    rows: dict[str, Any] = {}
    for name, result in found.items():
        values = _values(evaluate(case.trace, case.target, result, metrics, case=case,
                                  region=region))  # fmt: skip
        values[FLIP_SIZE] = _flip_size(case, prefixes[name])
        if item["sanity"] and result.model_runs + result.backward_passes <= SANITY_RUNS:
            for metric in SANITY:
                values |= _sanity(case, result, metric)
        members = explaining_set(result, case.units)
        if members is not None:
            wanted = SETS if item["costly"] else [m for m in SETS if m != "optimality_gap"]
            own: dict[str, Any] = {"max_runs": GAP_RUNS} if item["costly"] else {}
            table = evaluate(case.trace, case.target, (name, members), wanted, case=case, **own)
            values |= _values(table)
        rows[name] = {
            "cost": [result.model_runs, result.backward_passes, rounded(result.seconds, 4),
                     result.peak_memory],
            "values": rounded([values.get(column) for column in COLUMNS]),
        }  # fmt: skip
    return {
        "kind": pair.kind, "scene": pair.scene, "n_units": case.n_units, "maskable": maskable,
        "p_full": rounded(case.full), "p_empty": rounded(case.empty), "region": region is not None,
        "methods": rows,
    }  # fmt: skip


def _values(table: MetricTable) -> dict[str, float | None]:
    return {v.metric.split("[")[0]: v.value for v in table.values}


def _sanity(case: Case, result: Attribution, metric: str) -> dict[str, float | None]:
    """Run a method again where the model is broken; an explanation may find nothing to explain."""
    options: dict[str, Any] = SANITY_OPTIONS if metric == "impossible_attribution" else {}
    try:
        return _values(evaluate(case.trace, case.target, result, metric, case=case, **options))
    except CausalLVLMError:
        return {metric: None}


def _prefixes(order: tuple[int, ...]) -> np.ndarray:
    """Return the first 0, 1, ..., U units of an order, bool (U + 1, U)."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[list(order)] = np.arange(len(order))
    return rank[None, :] < np.arange(len(order) + 1)[:, None]


def _flip_size(case: Case, prefixes: np.ndarray) -> float | None:
    changed = case.without(prefixes).changed
    return float(np.argmax(changed)) if changed.any() else None


def _region(case: Case, pair: Pair) -> np.ndarray | None:
    """Return the units that are image tokens of the objects the answer depends on."""
    if not pair.object_positions:
        return None
    return np.array([bool(pair.object_positions & set(m)) for m in case.units.members])


def _trim() -> None:
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
        if trim is not None:  # the C library of some systems has none
            trim(0)
