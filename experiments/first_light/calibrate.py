"""Choose defaults on a development split: threshold, row, sink, tiers for each covariance source.

1. Draw development pairs (a stream of their own; the table never uses them).
2. Mask every unit alone: the units that flip the answer by themselves are its true causes.
3. For each setting learn the graphs and report: share of empty PDS-trees over heads, nodes within
   radius 1, share of targets whose tree at radius 1 and 3 holds a true cause, and the size to
   which the graph's order must grow until the answer flips (units outside the trees come last, in
   the order of their gradient).

``python -m experiments.first_light.calibrate --pairs 60 --out experiments/first_light/results``
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from causal_lvlm.storage import versions, write_json
from experiments.first_light.orders import GRAPH_SOURCES, PLAIN, Job, graph_order
from experiments.first_light.pairs import DEVELOPMENT_STREAM, Pair, draw_pairs, load

THRESHOLDS = {
    "attention": (0.1, 0.2, 0.3, 0.5),
    "output": (0.1, 0.2, 0.3, 0.5),
    "effective": (0.05, 0.1, 0.2, 0.3, 0.5),
    "relevancy": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}
LONGEST = 36  # longer prefixes are not tried: the size then counts as all units


def first_flip(job: Job, order: list[int]) -> int | None:
    """Return the length of the shortest prefix that flips the answer."""
    length = len(job.trace.layout)
    for start in range(0, min(LONGEST, len(order)), 6):
        masks = [order[:k] for k in range(start + 1, min(start + 6, len(order)) + 1)]
        keep = job.units.keep_without(masks, length)
        changed = job.tester.changed(job.trace.evaluate(keep, job.target, **PLAIN))
        if changed.any():
            return start + 1 + int(np.argmax(changed))
    return None


def study(pairs: list[Pair], settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row of figures per setting."""
    jobs, singles, by_gradient = [], [], []
    for pair in tqdm(pairs, desc="single masking"):
        job = Job.of(pair)
        units = range(len(job.units))
        everything = job.trace.evaluate(
            job.units.keep_without([units], len(job.trace.layout)), job.target, **PLAIN
        )
        if not job.tester.changed(everything)[0]:
            continue
        keep = job.units.keep_without([[u] for u in units], len(job.trace.layout))
        changed = job.tester.changed(job.trace.evaluate(keep, job.target, **PLAIN))
        strength = np.abs(job.trace.backward(job.target).input_x_gradient)
        weight = [float(strength[list(m)].sum()) for m in job.units.members]
        jobs.append(job)
        singles.append(frozenset(np.flatnonzero(changed).tolist()))
        by_gradient.append([int(u) for u in np.argsort(-np.array(weight), kind="stable")])
    rows = []
    for setting in tqdm(settings, desc="settings"):
        empty, sizes, hits1, hits3, grown = [], [], [], [], []
        for job, causes, fallback in zip(jobs, singles, by_gradient, strict=True):
            graph = graph_order(job, **setting)
            empty.append(graph.n_isolated / max(graph.n_heads, 1))
            sizes.append(len(graph.by_radius[1]))
            if causes:
                hits1.append(bool(causes & graph.by_radius[1]))
                hits3.append(bool(causes & graph.by_radius[3]))
            rest = [u for u in fallback if u not in graph.order]
            grown.append(first_flip(job, [*graph.order, *rest]) or len(job.units))
        rows.append(
            {
                **setting,
                "empty_trees": float(np.mean(empty)),
                "nodes_radius_1": float(np.mean(sizes)),
                "cause_within_1": float(np.mean(hits1)),
                "cause_within_3": float(np.mean(hits3)),
                "grown_mean": float(np.mean(grown)),
                "grown_median": float(np.median(grown)),
                "targets": len(jobs),
                "with_single_cause": len(hits1),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows as Markdown, best mean size first."""
    lines = [
        "| source | layer | row | sink | tiers | threshold | empty trees | nodes, r=1 | cause in "
        "r=1 | cause in r<=3 | grown: mean | median |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in sorted(rows, key=lambda r: r["grown_mean"]):
        lines.append(
            f"| {r['source']} | {r.get('layer', 'all')} | {r['row']} | {r['sink']} | {r['tiers']} "
            f"| {r['threshold']} | {r['empty_trees']:.2f} | {r['nodes_radius_1']:.1f} "
            f"| {r['cause_within_1']:.2f} | {r['cause_within_3']:.2f} | {r['grown_mean']:.1f} "
            f"| {r['grown_median']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=Path("experiments/first_light/results"))
    parser.add_argument("--tiers", action="store_true", help="also compare the two kinds of tiers")
    given = parser.parse_args()
    model = load(given.model)
    drawn = draw_pairs(model, given.pairs, seed=given.seed, stream=DEVELOPMENT_STREAM)
    pairs = [p for p in tqdm(drawn, desc="pairs", total=given.pairs) if isinstance(p, Pair)]
    tiers = ("ordered", "image-block") if given.tiers else ("ordered",)
    settings = []
    for source in GRAPH_SOURCES.values():
        name = "effective" if source.get("layer") == "effective" else source["source"]
        # The relevancy matrix is of the predicting row: the target's own row is not on its path.
        rows_of = ("predictor",) if name == "relevancy" else ("predictor", "own")
        sinks = ("keep", "drop") if name in ("attention", "output") else ("keep",)
        settings += [
            {**source, "row": row, "sink": sink, "tiers": tier, "threshold": threshold}
            for row, sink, tier, threshold in product(rows_of, sinks, tiers, THRESHOLDS[name])
        ]
    rows = study(pairs, settings)
    text = table(rows)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(
        given.out / "calibration.json",
        {"kind": "calibration", "seed": given.seed, "model": model.model_id, "rows": rows,
         "versions": versions()},
    )  # fmt: skip
    (given.out / "calibration.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
