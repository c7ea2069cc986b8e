"""Equal budget: what the model says when as many tokens as an explaining set has are masked.

1. The k tokens that a method ranks highest are masked together (in sufficient mode: they alone are
   kept), for every k that an explaining set of that scope has.
2. The model then says what it says, with a probability of the target. Masks that two methods share
   are run once.
3. The value of metric ``masked_top`` is the probability at the size of the main set, its detail
   holds every budget.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from causal_lvlm.asker import Asker
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.metrics.measure import DEFAULT_METRICS
from causal_lvlm.metrics.registry import metric_info
from causal_lvlm.metrics.result import MASKED_TOP, MetricValue
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import TokenLayout, candidate_units

__all__ = ["SCOPES", "masked_top", "measurable", "ranked"]

SCOPES = ("all", "image", "text")
SCOPE_OF_SET = {"joint": "all", "custom": "all", "image": "image", "text": "text"}
_BUDGET = 5  # where no set gives a size


def ranked(layout: TokenLayout, attribution: Attribution, scope: str = "all") -> list[int]:
    """Return the positions that can be masked, highest score first, equal scores by position.

    Parameters
    ----------
    layout : TokenLayout
    attribution : Attribution
    scope : {"all", "image", "text"}

    Returns
    -------
    list of int
        Without the frame, and without the position whose row predicts the target.
    """
    found = candidate_units(layout, attribution.target, candidates=scope)
    scores = np.asarray(attribution.scores, dtype=np.float64)
    return sorted((p for (p,) in found.members), key=lambda p: (-scores[p], p))


def measurable(names: Iterable[str]) -> None:
    """Refuse a metric that a report cannot ask for, before anything is run.

    Raises
    ------
    ValueError
        If a metric is unknown, or needs more than a method's scores or an explaining set.
    """
    for name in names:
        needs = metric_info(name).needs
        if needs not in ("scores", "set"):
            raise ValueError(
                f"{name} needs {needs!r}, which a report does not have; choose metrics of scores "
                f"or sets, such as {', '.join(DEFAULT_METRICS)}"
            )


def _wanted(explanation: Explanation, most: int) -> dict[str, list[int]]:
    """Return the budgets in tokens for every scope that the masking can mask."""
    sizes: dict[str, set[int]] = {scope: set() for scope in SCOPES}
    main = len(explanation.main.positions)
    for name, item in explanation.sets.items():
        if item is not None and item.positions and name in SCOPE_OF_SET:
            sizes[SCOPE_OF_SET[name]].add(len(item.positions))
    for scope in sizes:
        sizes[scope] |= {main or _BUDGET, *range(1, most + 1)}
    if explanation.masking.startswith("pixels"):
        return {"image": sorted(sizes["image"])}
    return {scope: sorted(found) for scope, found in sizes.items()}


def masked_top(
    trace: TraceLike, explanation: Explanation, attributions: Sequence[Attribution], most: int = 0
) -> tuple[list[MetricValue], int]:
    """Mask what every method ranks highest; masks that several methods share are run once.

    Parameters
    ----------
    trace : Trace
        With a model.
    explanation : Explanation
    attributions : sequence of Attribution
        Of the explanation's target.
    most : int
        Also ask for every budget from 1 to this, in every scope.

    Returns
    -------
    (list of MetricValue, int)
        The explanation's own value and one for each method; how many masks were run.

    Raises
    ------
    DetachedTraceError
        If the trace has no model.
    """
    units = candidate_units(trace.layout, explanation.target)
    unit_of, everything = units.unit_of(), frozenset(range(len(units)))
    wanted = _wanted(explanation, most)
    tops: list[list[tuple[str, list[int]]]] = []  # of each method, scope and positions
    masks: list[frozenset[int]] = []  # of all methods, one after the other
    for attribution in attributions:
        mine = []
        for scope, sizes in wanted.items():
            order = ranked(trace.layout, attribution, scope)
            mine += [(scope, order[:k]) for k in sizes if k <= len(order)]
        tops.append(mine)
        for _, positions in mine:
            top = frozenset(unit_of[p] for p in positions)
            masks.append(top if explanation.mode == "necessary" else everything - top)
    own = _own(explanation)
    if not masks:
        return own, 0
    asker = Asker(trace, explanation.target, units, masking=explanation.masking)
    before = time.perf_counter()
    answers = asker.sets(masks)
    seconds = time.perf_counter() - before
    chance, changed, at = answers.prob, answers.changed, iter(range(len(masks)))
    size = len(explanation.main.positions) or _BUDGET
    values: list[MetricValue] = []
    for attribution, mine in zip(attributions, tops, strict=True):
        rows: list[dict[str, Any]] = [
            {
                "scope": scope,
                "k": len(positions),
                "positions": positions,
                "probability": float(chance[row]),
                "first_choice": [trace.token_text(int(t)) for t in answers.argmax[row]],
                "changed": bool(changed[row]),
            }
            for (scope, positions), row in zip(mine, at, strict=False)
        ]
        same = [r["probability"] for r in rows if r["k"] == size]
        values.append(
            MetricValue(
                metric=f"{MASKED_TOP}[{explanation.masking}]",
                method=attribution.method,
                value=same[0] if same else None,
                detail={"mode": explanation.mode, "budget": size, "rows": rows},
                model_runs=asker.runs if not values else 0,  # shared: counted once
                asked=len(rows),
                seconds=seconds if not values else 0.0,
            )
        )
    return own + values, asker.runs


def _own(explanation: Explanation) -> list[MetricValue]:
    """Return the same number of the explanation: what its main set does was verified already."""
    main = explanation.main
    if not main.positions or main.probability_after is None:
        return []
    return [
        MetricValue(
            metric=f"{MASKED_TOP}[{explanation.masking}]",
            method="causal",
            value=float(main.probability_after),
            detail={"mode": explanation.mode, "budget": len(main.positions), "rows": []},
            model_runs=0,
            asked=0,
            seconds=0.0,
        )
    ]
