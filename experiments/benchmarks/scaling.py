"""Time of PC and ICD against the number of variables, beside the peers that finish, with a plot.

    python -m experiments.benchmarks.scaling [--sizes 100 200 500 1000 2000 3000]

Linear-Gaussian data of expected degree 3, as in gaussian_data.py; one thread, from data matrix to
graph. A peer that did not finish a size within --time-limit is not asked for larger ones. The plot
is drawn from the results file; ``--plot-only`` draws it again.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import causal_kernels
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from causal_lvlm.structure import learn_structure
from experiments.benchmarks import peers
from experiments.benchmarks.common import (
    RESULTS,
    Results,
    best_of,
    gaussian_data,
    marks_of,
    skeleton_f1,
)

OURS = "causal-lvlm"
PEERS = (("pybnesian", "pc"), ("tetrad", "pc"), ("causal-learn", "pc"), ("causality-lab", "icd"))
COLOURS = {
    OURS: "#1a5fb4",
    "pybnesian": "#c64600",
    "tetrad": "#26794a",
    "causal-learn": "#813d9c",
    "causality-lab": "#5e5c64",
}


def main() -> None:
    """Read the command line, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 200, 500, 1000, 2000, 3000])
    parser.add_argument("--degree", type=float, default=3.0)
    parser.add_argument("--n-samples", type=int, default=1000)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--time-limit", type=float, default=180.0, help="seconds per peer run")
    parser.add_argument("--out", type=Path, help="results file (JSON lines)")
    parser.add_argument("--picture", type=Path, default=RESULTS / "scaling.png")
    parser.add_argument("--plot-only", action="store_true")
    peers.add_options(parser)
    options = parser.parse_args()
    if not options.plot_only:
        with threadpool_limits(1):
            measure(options)
    source = options.out or RESULTS / "scaling.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()
    head, *records = [json.loads(line) for line in lines]
    draw(records, head["settings"], options.picture)


def measure(options: argparse.Namespace) -> None:
    """Time ours at every size, and each peer as long as it finishes."""
    causal_kernels.warm_up()
    peer = peers.from_options(options)
    results = Results("scaling", vars(options), options.out)
    print(f"{'p':>5}  {'learner':<22}{'seconds':>10}{'edges':>7}{'F1':>7}")
    given_up: set[tuple[str, str]] = set()
    for size in options.sizes:
        data, truth = gaussian_data(size, options.degree, options.n_samples, options.seed)
        for algorithm in ("pc", "icd"):
            times, structure = best_of(
                partial(
                    learn_structure, data, input="data", algorithm=algorithm, alpha=options.alpha
                ),
                options.repeat,
                20.0,
            )
            record = {
                "nodes": size,
                "learner": OURS,
                "algorithm": algorithm,
                "status": "ok" if structure.complete else structure.stopped,
                "best_seconds": min(times),
                "seconds": times,
                "edges": structure.pag.n_edges,
                "tests_per_size": list(structure.tests_per_size),
                "skeleton_f1": skeleton_f1(structure.pag.marks, truth),
            }
            show(results, record)
        for name, algorithm in PEERS:
            if not peer.has(name) or (name, algorithm) in given_up:
                continue
            run = peer.run(
                name,
                algorithm,
                {"data": data},
                alpha=options.alpha,
                repeat=options.repeat,
                time_limit=options.time_limit,
            )
            record = {
                "nodes": size,
                "learner": name,
                "algorithm": algorithm,
                "version": run.version,
                "status": run.status,
                "seconds": run.seconds,
            }
            if run.status == "ok":
                record["best_seconds"] = run.best
                if run.edges is not None:
                    record["edges"] = len(run.edges)
                    record["skeleton_f1"] = skeleton_f1(marks_of(run.edges, size), truth)
            else:
                given_up.add((name, algorithm))
                record["message"] = run.message
            show(results, record)


def show(results: Results, record: dict[str, Any]) -> None:
    """Store and print one measurement."""
    results.add(**record)
    label = f"{record['learner']} {record['algorithm']}"
    line = f"{record['nodes']:>5}  {label:<22}"
    if "best_seconds" in record:
        line += f"{record['best_seconds']:>10.3f}"
    else:
        line += f"{record['status']:>10}"
    if "edges" in record:
        line += f"{record['edges']:>7}{record['skeleton_f1']:>7.3f}"
    print(line, flush=True)


def draw(records: list[dict[str, Any]], settings: dict[str, Any], path: Path) -> None:
    """Draw time against p, both logarithmic; each line is named at its end, no legend needed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    ended: list[tuple[str, str]] = []
    for record in records:
        key = (record["learner"], record["algorithm"])
        if "best_seconds" in record:
            series.setdefault(key, []).append((record["nodes"], record["best_seconds"]))
        else:
            ended.append(key)
    figure, axes = pyplot.subplots(figsize=(7.5, 4.8), dpi=150)
    ends = []
    for (learner, algorithm), points in series.items():
        points = sorted(points)
        axes.plot(
            [p for p, _ in points],
            [seconds for _, seconds in points],
            color=COLOURS[learner],
            linestyle="-" if algorithm == "pc" else "--",
            marker="o" if algorithm == "pc" else "s",
            markersize=4,
            linewidth=2.2 if learner == OURS else 1.4,
        )
        name = f"{learner} {algorithm.upper()}"
        if (learner, algorithm) in ended:
            name += f" (larger: > {settings['time_limit']:g} s)"
        ends.append((*points[-1], name, COLOURS[learner]))
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({record["nodes"] for record in records})
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.set_xlim(sizes[0] * 0.9, sizes[-1] * 4.5)
    # labels of lines that end close to each other are moved apart
    lowest = -10.0
    for p, seconds, name, colour in sorted(ends, key=lambda end: end[1]):
        offset = 0.0
        at = axes.transData.transform((p, seconds))[1] * 72 / figure.dpi
        if at - lowest < 10:
            offset = 10 - (at - lowest)
        lowest = at + offset
        axes.annotate(
            name, (p, seconds), xytext=(7, offset), textcoords="offset points",
            va="center", fontsize=8.5, color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
        )  # fmt: skip
    never = sorted({f"{a} {b.upper()}" for a, b in ended if (a, b) not in series})
    if never:
        text = f"not one size within {settings['time_limit']:g} s: {', '.join(never)}"
        axes.text(0.99, 0.02, text, transform=axes.transAxes, ha="right", fontsize=8.5)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel(
        f"variables p (linear-Gaussian, expected degree {settings['degree']:g}, "
        f"{settings['n_samples']:,} samples, alpha {settings['alpha']:g})"
    )
    axes.set_ylabel("time from data matrix to graph, one thread")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
