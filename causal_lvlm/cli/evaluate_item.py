"""The work of one item of ``causal-lvlm evaluate``; runs in any process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.cli.targets import default_target, find_target
from causal_lvlm.errors import one_line

if TYPE_CHECKING:
    from causal_lvlm.arrays import BoolArray
    from causal_lvlm.attribution.result import Attribution
    from causal_lvlm.lvlm import LVLM
    from causal_lvlm.metrics import Case
    from causal_lvlm.tokens import Units

__all__ = ["evaluate_item", "explaining_set"]

KEPT = ("model_runs", "backward_passes", "seconds", "peak_memory", "notes")


def evaluate_item(item: dict[str, Any], model: LVLM, *, config: dict[str, Any]) -> dict[str, Any]:
    """Ask, explain and measure.

    Parameters
    ----------
    item : dict
        One of `causal_lvlm.cli.items.read_items`.
    model : LVLM
    config : dict
        Methods, metrics, options, units, masking, seed, max_new_tokens.

    Returns
    -------
    dict
        Answer, target, and what every method cost and how every metric judged it.

    Raises
    ------
    CausalLVLMError
        If the model cannot answer, or its answer has no such target.
    """
    from causal_lvlm.metrics import Case
    from causal_lvlm.metrics.localisation import region_units

    images = item["images"]
    asked = images if len(images) > 1 else (images[0] if images else None)
    trace = model.run(asked, item["prompt"], max_new_tokens=config["max_new_tokens"])
    wanted = item["target"]
    if wanted is None:
        target, _ = default_target(trace.layout)
    elif isinstance(wanted, str):
        target = find_target(trace.layout, wanted)
    else:
        target = trace.target(slice(*wanted) if isinstance(wanted, list) else wanted)
    case = Case(
        trace, target, units=config["units"], masking=config["masking"], seed=config["seed"]
    )
    boxes = item["boxes"]
    region = None if boxes is None else region_units(trace.layout, case.units, boxes)
    return {
        "answer": trace.answer,
        "target": target.text,
        "positions": list(target.positions),
        "n_units": case.n_units,
        **_measure(case, config, region),
    }


def _measure(case: Case, config: dict[str, Any], region: BoolArray | None) -> dict[str, Any]:
    """Return what every method cost and how every metric judged it.

    A method that cannot be used here becomes an entry with its error; the others go on.

    Returns
    -------
    dict
        ``methods``: by name, cost and ``metrics`` (by name with masking: value, asked, seconds).
    """
    import causal_lvlm as cl
    from causal_lvlm.methods import evaluate
    from causal_lvlm.metrics import metric_info

    infos = {name: metric_info(name) for name in config["metrics"]}
    metrics = [m for m, info in infos.items() if info.needs != "region" or region is not None]
    of_sets = [m for m, info in infos.items() if info.needs == "set"]
    methods: dict[str, Any] = {}
    for name in config["methods"]:
        options = config["options"].get(name, {})
        try:
            found = cl.attribute(
                case.trace, case.target, name, units=case.units, seed=config["seed"], **options
            )
            table = evaluate(case.trace, case.target, found, metrics, case=case, region=region)
            values = list(table.values)
            members = explaining_set(found, case.units) if of_sets else None
            if members is not None:
                own = (name, members)
                values += evaluate(case.trace, case.target, own, of_sets, case=case).values
        except Exception as error:  # any method may fail on any model; the others go on
            methods[name] = {"error": {"type": type(error).__name__, "message": one_line(error)}}
            continue
        methods[name] = {
            **{key: getattr(found, key) for key in KEPT},
            "metrics": {
                v.metric: {"value": v.value, "asked": v.asked, "seconds": v.seconds} for v in values
            },
        }
    return {"methods": methods, "masked_rows": case.runs}


def explaining_set(found: Attribution, units: Units) -> frozenset[int] | None:
    """Return the verified set that a causal attribution was made of, None where there is none.

    In its scores no unit outside the main set reaches the weight of membership, see
    `causal_lvlm.methods.explained`; with weights for which that is not so there is no set.
    """
    weights = found.parameters.get("weights") if found.method == "causal" else None
    if weights is None:
        return None
    least = weights["membership"]
    others = 0.5 * least + weights["effect"] + weights["radius"] + weights["strength"]
    members = np.flatnonzero(found.unit_scores(units) > least - 1e-9)  # sums of parts may round
    return frozenset(members.tolist()) if others < least - 1e-6 and len(members) else None
