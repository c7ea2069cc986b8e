"""The first honest table: is a token explained, how small, at what cost, and did the graph know?

1. Draw held-out pairs (a stream of their own; defaults were chosen on another one).
2. `explain` each target with every covariance source, same budget; note which graphs held the set.
3. Orders: graphs, relevancy baselines, greedy search, one-by-one masking and random all rank the
   same units, and get the same budget and the same shrink step.

``python -m experiments.first_light.table --pairs 200 --jobs 2``
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.provenance import at_commit, made_with

EXPLAIN_RUNS = 300
ORDER_RUNS = 200
# What an order is told before anything is masked. Units that no graph holds come in the order of
# their gradient, hence the backward pass of every graph.
COSTS = {
    "graph: last-layer attention": "1 forward, 1 backward",
    "graph: last-layer head outputs": "1 forward, 1 backward",
    "graph: effective attention": "1 forward, 1 backward",
    "graph: relevancy matrix": "1 forward, 1 backward",
    "raw attention, last layer, own row": "1 forward",
    "raw attention, last layer, predicting row": "1 forward",
    "raw attention, all layers": "1 forward",
    "rollout": "1 forward",
    "relevancy": "1 forward, 1 backward",
    "gradient x attention": "1 forward, 1 backward",
}


def explained(pair: Any) -> dict[str, Any]:
    """Explain one pair with every source."""
    import causal_lvlm as cl
    from experiments.first_light.orders import GRAPH_SOURCES

    result = {}
    for name, options in GRAPH_SOURCES.items():
        found = cl.explain(
            pair.trace, pair.target, max_runs=EXPLAIN_RUNS, search="graph", **options
        )
        sets = {}
        for scope, one in found.sets.items():
            image = [p for p in one.positions if pair.trace.layout.modality[p] == "image"]
            on = sum(p in pair.object_positions for p in image)
            sets[scope] = {
                "outcome": one.outcome, "verified": one.verified, "size": one.size,
                "minimality": one.minimality, "found_by": one.found_by, "radius": one.radius,
                "random_flip_rate": one.random_flip_rate, "runs": one.model_runs,
                "on_object": on / len(image) if image and pair.chance else None,
                "positions": list(one.positions), "ended": one.ended,
            }  # fmt: skip
        result[name] = {
            "sets": sets, "runs": found.model_runs,
            # No seconds: the rows that an earlier source asked for come from memory.
            "empty_trees": float(np.mean([g.isolated for g in found.graphs])),
            "proposed": len(_proposed(found)),
        }  # fmt: skip
    return result


def _proposed(explanation: Any) -> set[int]:
    """Return the positions in the PDS-trees of all heads that a set may hold."""
    excluded = {p for p, _ in explanation.excluded}
    nodes = {
        p
        for g in explanation.graphs
        for node in g.tree.within(explanation.parameters["max_radius"])
        for p in g.members[node]
    }
    return nodes - excluded


def ordered(pair: Any, seed: int) -> dict[str, Any]:
    """Grow and shrink along every order, over all units and over image units alone."""
    from experiments.first_light import orders

    job = orders.Job.of(pair)
    methods: dict[str, Any] = {}
    inside: dict[str, frozenset[int]] = {}
    strength = np.abs(pair.trace.backward(job.target).input_x_gradient)
    weight = [float(strength[list(m)].sum()) for m in job.units.members]
    for name, options in orders.GRAPH_SOURCES.items():
        graph = orders.graph_order(job, **options)
        rest = [u for u in np.argsort([-w for w in weight], kind="stable") if u not in graph.order]
        full = [*graph.order, *(int(u) for u in rest)]
        inside[name] = frozenset(graph.order)
        methods[name] = lambda job, q, full=full: [u for u in full if u in set(q.scope)]
    methods |= {
        "raw attention, last layer, own row": orders.attribution_order("attention", row="own"),
        "raw attention, last layer, predicting row": orders.attribution_order("attention"),
        "raw attention, all layers": orders.attribution_order("attention", layer="mean"),
        "rollout": orders.attribution_order("rollout"),
        "relevancy": orders.attribution_order("relevancy"),
        "gradient x attention": orders.attribution_order("grad_attention"),
        "greedy search": orders.greedy,
        "one-by-one masking": orders.one_by_one,
        "random": orders.random_order(seed),
    }
    result: dict[str, Any] = {}
    for name, order in methods.items():
        for scope in ("joint", "image"):
            m = orders.measure(job, scope, order, ORDER_RUNS, seed)
            positions = job.units.positions(m.units)
            image = [p for p in positions if pair.trace.layout.modality[p] == "image"]
            on = sum(p in pair.object_positions for p in image)
            result.setdefault(name, {})[scope] = {
                "random": m.random_flip_rate,
                "maskable": m.maskable, "grown": m.grown, "shrunk": m.shrunk, "runs": m.runs,
                "on_object": on / len(image) if image and pair.chance else None,
                "held": None if name not in inside or m.grown is None
                else set(m.units) <= inside[name],
            }  # fmt: skip
    return result


def work(share: int, given: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Any], str]:
    """Measure every `given.jobs`-th pair in one process."""
    import torch

    from causal_lvlm.storage import to_jsonable
    from experiments.first_light.pairs import REPORT_STREAM, Pair, draw_pairs, load

    torch.set_num_threads(1)
    part = given.out / f"pairs-{share}.jsonl"
    part.unlink(missing_ok=True)
    model = load(given.model)
    rows, wrong = [], []
    for pair in draw_pairs(model, given.pairs, seed=given.seed, stream=REPORT_STREAM):
        if not isinstance(pair, Pair):
            wrong.append(pair)
            continue
        if pair.number % given.jobs != share:
            continue
        row = to_jsonable(
            {
                "pair": pair.number,
                "kind": pair.kind,
                "prompt": pair.trace.prompt,
                "answer": pair.trace.answer,
                "target": pair.target,
                "chance": pair.chance,
                "explain": explained(pair),
                "orders": ordered(pair, given.seed),
            }
        )
        rows.append(row)
        with part.open("a", encoding="utf-8") as stream:  # an interrupted run loses one pair
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"[{share}] pair {pair.number + 1} of {given.pairs}", flush=True)
    return rows, wrong, model.model_id


def _mean(values: list[Any], digits: int = 2) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.{digits}f}" if known else "–"


def explain_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row per covariance source, and one for what no graph held."""
    lines = [
        "| source of the graph | maskable | verified | minimum proven | size joint / image / text "
        "| model runs | joint set held by the graph | image set held | on object (chance) | random "
        "sets that flip | tokens in the trees | empty trees |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in rows[0]["explain"]:
        lines.append(_explain_row(name, [(r, r["explain"][name]) for r in rows]))
    published = next(iter(rows[0]["explain"]))
    outside = [
        (r, r["explain"][published])
        for r in rows
        if r["explain"][published]["sets"]["joint"]["found_by"] == "fallback"
    ]
    if outside:
        share = len(outside) / len(rows)
        name = f"the {share:.0%} of the first row whose joint set came from the fallback"
        lines.append(_explain_row(name, outside))
    return "\n".join(lines)


def _explain_row(name: str, found: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    joint = [e["sets"]["joint"] for _, e in found]
    maskable = [s for s in joint if s["outcome"] not in ("not_maskable", "not_found")]
    done = [s for s in maskable if s["verified"]]
    sizes = []
    for scope in ("joint", "image", "text"):
        sizes.append(_mean([e["sets"][scope]["size"] for _, e in found
                            if e["sets"][scope]["verified"]]))  # fmt: skip
    image = [(r, e["sets"]["image"]) for r, e in found if e["sets"]["image"]["verified"]]
    known = [(r, s) for r, s in image if s["on_object"] is not None]
    return (
        f"| {name} | {len(maskable)}/{len(joint)} | {len(done)}/{len(maskable)} "
        f"| {_mean([s['minimality'] == 'minimum' for s in done])} | {' / '.join(sizes)} "
        f"| {_mean([e['runs'] for _, e in found], 0)} "
        f"| {_mean([s['found_by'] == 'graph' for s in done])} "
        f"| {_mean([s['found_by'] == 'graph' for _, s in image])} "
        f"| {_mean([s['on_object'] for _, s in known])} ({_mean([r['chance'] for r, _ in known])}) "
        f"| {_mean([s['random_flip_rate'] for s in done])} "
        f"| {_mean([e['proposed'] for _, e in found], 0)} "
        f"| {_mean([e['empty_trees'] for _, e in found])} |"
    )


def order_table(rows: list[dict[str, Any]], scope: str) -> str:
    """Markdown: one row per order within one scope."""
    lines = [
        "| order | passes besides masked runs | flipped within budget | grown: mean / median "
        "| shrunk: mean | model runs | on object | random sets that flip | inside the graph |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    every = [r["orders"]["random"][scope]["maskable"] for r in rows]
    for name in rows[0]["orders"]:
        found = [r["orders"][name][scope] for r in rows]
        found = [f for f in found if f["maskable"]]
        done = [f for f in found if f["grown"] is not None]
        median = f"{np.median([f['grown'] for f in done]):.0f}" if done else "–"
        lines.append(
            f"| {name} | {COSTS.get(name, '–')} | {len(done)}/{len(found)} "
            f"| {_mean([f['grown'] for f in done], 1)} / {median} "
            f"| {_mean([f['shrunk'] for f in done])} "
            f"| {_mean([f['runs'] for f in found], 0)} | {_mean([f['on_object'] for f in done])} "
            f"| {_mean([f['random'] for f in done])} | {_mean([f['held'] for f in done])} |"
        )
    note = (
        f"{sum(every)} of {len(every)} targets are maskable here: the answer changes with "
        "everything masked. The others are left out."
    )
    return note + "\n\n" + "\n".join(lines)


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Size of the verified set against model runs, per order (all units)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for axis, scope in zip(axes, ("joint", "image"), strict=True):
        for number, name in enumerate(rows[0]["orders"]):
            found = [r["orders"][name][scope] for r in rows]
            found = [f for f in found if f["maskable"]]
            done = [f for f in found if f["grown"] is not None]
            if not done:
                continue
            axis.scatter(
                np.mean([f["runs"] for f in found]), np.mean([f["shrunk"] for f in done]),
                s=300 * len(done) / len(found), marker="o" if name.startswith("graph") else "s",
                color=plt.get_cmap("tab20")(number), label=name, alpha=0.85,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_xlabel("model runs (mean, all maskable targets)")
        axis.set_title("image and text together" if scope == "joint" else "image alone")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("verified set, units (mean after shrinking)")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=0.5)
    fig.suptitle("Smaller sets for fewer model runs are better; area = share of targets flipped")
    fig.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--model", default=None, help="folder; default: the embedded model")
    parser.add_argument("--out", type=Path, default=Path("experiments/first_light/results"))
    parser.add_argument("--render", action="store_true", help="draw again from pairs.jsonl")
    given = parser.parse_args()
    if given.render:
        lines = (given.out / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
        config = json.loads((given.out / "config.json").read_text(encoding="utf-8"))
        render([json.loads(line) for line in lines], config, given.out)
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # inherited by the workers; two busy threads slow small models
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if given.jobs == 1:
        parts = [work(0, given)]
    else:
        import multiprocessing

        from causal_lvlm.workers import end_with_parent

        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            given.jobs, mp_context=context, initializer=end_with_parent
        ) as pool:
            parts = list(pool.map(work, range(given.jobs), [given] * given.jobs))
    rows = sorted((r for part in parts for r in part[0]), key=lambda r: r["pair"])
    wrong, model_id = parts[0][1], parts[0][2]

    from causal_lvlm.source_options import DEFAULT_THRESHOLDS

    with (given.out / "pairs.jsonl").open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    for share in range(given.jobs):
        (given.out / f"pairs-{share}.jsonl").unlink()
    config = {
        "pairs": given.pairs, "seed": given.seed, "model": model_id, "wrong_answers": len(wrong),
        "explain_runs": EXPLAIN_RUNS, "order_runs": ORDER_RUNS, "thresholds": DEFAULT_THRESHOLDS,
        "seconds": round(time.monotonic() - started), "jobs": given.jobs, "versions": made_with(),
    }  # fmt: skip
    (given.out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    render(rows, config, given.out)


def render(rows: list[dict[str, Any]], config: dict[str, Any], out: Path) -> None:
    """Write and print the tables and the figure."""
    text = "\n\n".join(
        [
            f"{len(rows)} held-out pairs answered rightly ({config['wrong_answers']} wrong answers "
            f"left out), seed {config['seed']}{at_commit(config)}.",
            f"### `explain`, at most {EXPLAIN_RUNS} model runs a target\n\n" + explain_table(rows),
            f"### Orders over image and text, at most {ORDER_RUNS} model runs\n\n"
            + order_table(rows, "joint"),
            f"### Orders over the image alone, at most {ORDER_RUNS} model runs\n\n"
            + order_table(rows, "image"),
        ]
    )
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    figure(rows, out / "figure.png")
    print(text)


if __name__ == "__main__":
    main()
