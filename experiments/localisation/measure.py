"""One target: its verified image set and two maps beside it, cell by cell of the image grid.

Maps are stored as whole thousandths of their positive sum, which is all that the pictures need;
figures are taken before that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.methods import from_explanation
from causal_lvlm.metrics import Case
from causal_lvlm.metrics.localisation import energy_pointing_game, iou, pointing_game
from causal_lvlm.tiny.scenes import draw_scene
from experiments.common.pairs import COVERED, MemoTrace, Pair, load, pair_of
from experiments.common.tables import rounded

MAX_RUNS = 100
MAPS: dict[str, dict[str, Any]] = {
    "relevancy": {"method": "relevancy"},
    "attention": {"method": "attention", "layer": "mean"},
}
CAUSAL = "causal"  # the explanation of the image scope as a map


def setup() -> Any:
    """Load the model, once per process."""
    import torch

    torch.set_num_threads(1)
    return load(None)


def work(item: dict[str, int], model: Any) -> dict[str, Any]:
    """Return what is saved of one target."""
    pair = pair_of(model, item)
    trace = MemoTrace(pair.trace)
    explanation = cl.explain(trace, pair.target, max_runs=MAX_RUNS, n_jobs=1)
    found = explanation.sets["image"]
    grid = trace.layout.grids[0]
    cell_of = {int(p): cell for cell, p in enumerate(grid.positions)}
    objects = sorted(cell_of[p] for p in pair.object_positions)
    saved: dict[str, Any] = {
        "kind": pair.kind, "scene": pair.scene, "prompt": trace.prompt,
        "answer": trace.answer.strip(), "target": explanation.target.text.strip(),
        "outcome": found.outcome, "verified": found.verified, "runs": explanation.model_runs,
        "minimality": found.minimality, "found_by": found.found_by,
        "says": " ".join(found.predicted_after).strip(),
        "set": [cell_of[p] for p in found.positions], "objects": objects, "boxes": pair.boxes,
        "other_objects": sorted(_covered(item) - set(objects)),
        "chance": pair.chance, "object_flips": _object_flips(trace, pair, explanation.target),
    }  # fmt: skip
    if not objects or not found.verified:
        return dict(rounded(saved))
    maps = {
        name: cl.attribute(pair.trace, explanation.target, units="patch", **options)
        for name, options in MAPS.items()
    }
    maps[CAUSAL] = from_explanation(replace(explanation, sets={"image": found}), trace.layout)
    case = Case(pair.trace, explanation.target, units="patch")
    region = np.array([bool(pair.object_positions & set(m)) for m in case.units.members])
    saved["maps"], saved["figures"] = {}, {}
    for name, attribution in maps.items():
        scores = attribution.unit_scores(case.units)
        saved["figures"][name] = {
            "pointing_game": pointing_game(case, scores, region=region).value,
            "energy_pointing_game": energy_pointing_game(case, scores, region=region).value,
            "iou": iou(case, scores, region=region).value,
            # As many cells as the set has: what the same number of highest cells hits.
            "same_size": _share(_highest(scores, found.size), region),
        }
        energy = np.maximum(scores, 0.0)
        shares = energy / max(float(energy.sum()), 1e-300)
        cells = np.zeros(grid.rows * grid.cols, dtype=np.int64)
        for members, share in zip(case.units.members, shares, strict=True):
            cells[cell_of[members[0]]] = round(1000 * float(share))
        saved["maps"][name] = cells.tolist()
    return dict(rounded(saved))


def _covered(item: dict[str, int]) -> set[int]:
    """Return the cells that belong to any object of the scene."""
    # As `experiments.common.pairs.plan_items` draws it.
    scene = draw_scene(np.random.default_rng([item[k] for k in ("seed", "stream", "scene")]))
    return set(np.flatnonzero(scene.coverage.max(axis=0) >= COVERED).tolist())


def _object_flips(trace: Any, pair: Pair, target: Any) -> bool | None:
    """Return whether the answer changes without all tokens of the objects."""
    if not pair.object_positions:
        return None
    keep = np.ones((1, len(trace.layout)), dtype=np.bool_)
    keep[0, sorted(pair.object_positions)] = False
    found = trace.evaluate(keep, target, masking="remove", backend="auto", against=None)
    return bool(tuple(np.asarray(found.argmax)[0].tolist()) != target.token_ids)


def _highest(scores: np.ndarray, n: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:n]


def _share(chosen: np.ndarray, region: np.ndarray) -> float:
    return float(region[chosen].mean())
