"""PC, FCI and ICD on linear-Gaussian data beside the peers: time, ratio, and whether graphs agree.

    python -m experiments.benchmarks.gaussian_data --causality-lab DIR

A random DAG with the given expected degree, n_samples rows, the same alpha for all. Everybody
starts from the data matrix and uses one thread. Ours and the peers run without a limit on
conditioning sets, in their order-independent (stable) variants where they have one. causal-learn,
Tetrad and causality-lab use Fisher's z like ours, pybnesian Student's t (which differs in the
fourth digit of p at 1,000 samples). "F1" compares the skeleton with the DAG's and "arrows" the
arrowheads with those of its CPDAG (precision, recall); "F1 ours" and "marks" compare with our graph
(PC-stable has one right skeleton, so the same test must give 1.000; where samples contradict each
other, learners orient by different rules, and our PC leaves such an edge undirected).
Each peer runs in a process of its own and is ended at --time-limit. The first run is what a user
meets; the best of the repeated runs (Java has compiled its hot loops by then) makes the ratio.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import causal_kernels
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from causal_lvlm.structure import learn_structure
from experiments.benchmarks import peers
from experiments.benchmarks.common import (
    Results,
    arrowhead_scores,
    best_of,
    cpdag_of,
    equal_marks,
    gaussian_data,
    marks_of,
    skeleton_f1,
)

# (peer, its algorithm, our algorithms that it is a yardstick for, other settings)
COMPARED: tuple[tuple[str, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("pybnesian", "pc", ("pc",), {"use_sepsets": True}),
    ("pybnesian", "pc", ("pc",), {"use_sepsets": False}),
    ("tetrad", "pc", ("pc",), {}),
    ("causal-learn", "pc", ("pc",), {}),
    ("tetrad", "fci", ("fci", "icd"), {}),
    ("causal-learn", "fci", ("fci", "icd"), {}),
    ("causality-lab", "icd", ("icd",), {}),
)


def main() -> None:
    """Read the command line and measure each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 100, 200])
    parser.add_argument("--degree", type=float, default=4.0)
    parser.add_argument("--n-samples", type=int, default=1000)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds per peer run")
    parser.add_argument("--only", nargs="*", help="peers to run (default: all that are there)")
    parser.add_argument("--out", type=Path, help="results file (JSON lines)")
    peers.add_options(parser)
    options = parser.parse_args()
    with threadpool_limits(1):
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Time ours, then each peer, on one data set per size."""
    causal_kernels.warm_up()
    peer = peers.from_options(options)
    results = Results("gaussian_data", vars(options), options.out)
    print(
        f"{'p':>5}  {'learner':<26}{'first s':>9}{'best s':>9}{'F1':>7}{'arrows':>11}"
        f"{'F1 ours':>9}{'marks':>7}  ratio to ours"
    )
    for size in options.sizes:
        data, dag = gaussian_data(size, options.degree, options.n_samples, options.seed)
        truth = cpdag_of(dag)
        ours: dict[str, Any] = {}
        best: dict[str, float] = {}
        for algorithm in ("pc", "fci", "icd"):
            times, structure = best_of(
                partial(
                    learn_structure, data, input="data", algorithm=algorithm, alpha=options.alpha
                ),
                4 * options.repeat,
                10.0,
            )
            ours[algorithm], best[algorithm] = structure.pag.marks, min(times)
            f1 = skeleton_f1(structure.pag.marks, truth)
            arrows = arrowhead_scores(structure.pag.marks, truth)
            results.add(
                nodes=size,
                learner="causal-lvlm",
                algorithm=algorithm,
                seconds=times,
                best_seconds=min(times),
                edges=structure.pag.n_edges,
                tests_per_size=list(structure.tests_per_size),
                skeleton_f1=f1,
                arrowhead_precision=arrows[0],
                arrowhead_recall=arrows[1],
            )
            print(
                f"{size:>5}  {'ours ' + algorithm:<26}{times[0]:>9.4f}{min(times):>9.4f}{f1:>7.3f}"
                f"{arrows[0]:>6.2f}{arrows[1]:>5.2f}",
                flush=True,
            )
        for name, algorithm, yardstick, settings in COMPARED:
            if not peer.has(name) or (options.only is not None and name not in options.only):
                continue
            run = peer.run(
                name,
                algorithm,
                {"data": data},
                alpha=options.alpha,
                repeat=options.repeat,
                time_limit=options.time_limit,
                **settings,
            )
            label = f"{name} {algorithm}"
            if settings.get("use_sepsets") is False:
                label += " (majority)"
            record: dict[str, Any] = {
                "nodes": size,
                "learner": name,
                "algorithm": algorithm,
                "version": run.version,
                "status": run.status,
                "seconds": run.seconds,
            }
            if run.status != "ok":
                least = options.time_limit if run.status == "time-out" else None
                ratios = {key: least / best[key] for key in yardstick} if least else {}
                record |= {"ratio_at_least": ratios, "message": run.message}
                shown = "  ".join(f"{key} > {value:,.0f}" for key, value in ratios.items())
                print(f"{size:>5}  {label:<26}{run.status:>18}  {shown}{run.message}", flush=True)
                results.add(**record)
                continue
            record |= {"best_seconds": run.best}
            record["ratios"] = {key: run.best / best[key] for key in yardstick}
            line = f"{size:>5}  {label:<26}{run.seconds[0]:>9.3f}{run.best:>9.3f}"
            if run.edges is not None:
                marks = marks_of(run.edges, size)
                mine = ours[yardstick[0]]
                record["skeleton_f1"] = skeleton_f1(marks, truth)
                arrows = arrowhead_scores(marks, truth)
                record["arrowhead_precision"], record["arrowhead_recall"] = arrows
                record["skeleton_f1_with_ours"] = skeleton_f1(marks, mine)
                record["equal_marks_with_ours"] = equal_marks(mine, marks)
                line += (
                    f"{record['skeleton_f1']:>7.3f}{arrows[0]:>6.2f}{arrows[1]:>5.2f}"
                    f"{record['skeleton_f1_with_ours']:>9.3f}"
                    f"{record['equal_marks_with_ours']:>7.3f}"
                )
            shown = "  ".join(f"{key} {value:,.0f}" for key, value in record["ratios"].items())
            print(f"{line}  {shown}", flush=True)
            results.add(**record)


if __name__ == "__main__":
    main()
