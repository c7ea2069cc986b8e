"""Ordered ICD on real attention heads, one head on one thread, beside causality-lab's learner.

    python -m experiments.benchmarks.attention_heads --causality-lab DIR [--heads FILE.npz]

The heads in ``data/`` are correlations of attention of a language model with 135 million
parameters: three heads at 50, 100 and 200 tokens, the slowest of the three at 700 tokens.
``--heads`` reads another file. Both learners get the same matrix, alpha and number of samples, no
selection bias, row order as causal order. Ours is timed whole: from the matrix to the
LearnedStructure, checks and evidence included (``plain``: without evidence); ``bare`` is a compiled
loop that does nothing but the order-0 and order-1 tests (see bare_loop.py). "F1" and "marks"
compare our default, order-independent graph with causality-lab's, "F1 seq" our ``sequential`` one:
causality-lab deletes edges while it goes over sets, so its graph depends on how nodes are numbered,
and that is where the differences come from. ``ratio`` is the peer's best run over our default's
median: the peer runs less often, so a busy machine must not count for us.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import causal_kernels
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from causal_lvlm.structure import learn_structure
from experiments.benchmarks import bare_loop, peers
from experiments.benchmarks.common import (
    Results,
    attention_heads,
    best_of,
    equal_marks,
    marks_of,
    skeleton_f1,
)


def main() -> None:
    """Read the command line and print one line per head."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heads", type=Path, help="npz file of correlation matrices")
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--n-samples", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=20, help="the best of so many runs counts")
    parser.add_argument("--peer-sizes", type=int, nargs="*", default=[50, 100, 200])
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds per peer run")
    parser.add_argument("--out", type=Path, help="results file (JSON lines)")
    peers.add_options(parser)
    options = parser.parse_args()
    with threadpool_limits(1):
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Time each head: ours with and without evidence, the bare loop, the peer."""
    causal_kernels.warm_up()
    peer = peers.from_options(options)
    settings = {"n_samples": options.n_samples, "alpha": options.alpha}
    results = Results("attention_heads", vars(options), options.out)
    print(
        f"{'head':<12}{'edges':>6}{'ours ms':>9}{'median':>8}{'plain':>8}{'bare':>7}{'tests':>11}"
        f"{'peer s':>9}{'ratio':>9}{'F1 seq':>8}{'F1':>7}{'marks':>7}"
    )
    for name, correlation in attention_heads(options.heads):
        n = len(correlation)
        times, structure = best_of(
            partial(learn_structure, correlation, **settings), options.repeat, 30.0
        )
        plain, _ = best_of(
            partial(learn_structure, correlation, evidence=False, **settings),
            options.repeat,
            30.0,
        )
        bare, tests = bare_loop.measure(correlation, options.n_samples, options.alpha)
        record = {
            "head": name,
            "nodes": n,
            "edges": structure.pag.n_edges,
            "tests_per_size": list(structure.tests_per_size),
            "seconds": min(times),
            "median_seconds": float(np.median(times)),
            "runs": len(times),
            "seconds_without_evidence": min(plain),
            "bare_loop_seconds": bare,
            "bare_loop_tests": tests,
            "over_bare_loop": min(times) / bare,
        }
        line = (
            f"{name:<12}{structure.pag.n_edges:>6}{min(times) * 1e3:>9.2f}"
            f"{np.median(times) * 1e3:>8.2f}{min(plain) * 1e3:>8.2f}{bare * 1e3:>7.2f}"
            f"{structure.n_tests:>11}"
        )
        if n in options.peer_sizes and peer.has("causality-lab"):
            run = peer.run(
                "causality-lab",
                "ordered_icd",
                {"correlation": correlation.astype(np.float64)},
                alpha=options.alpha,
                n_samples=options.n_samples,
                repeat=3,
                repeat_seconds=2.0,
                time_limit=options.time_limit,
            )
            record |= {"peer": run.version, "peer_status": run.status, "peer_seconds": run.seconds}
            if run.edges is not None:
                marks = marks_of(run.edges, n)
                record["ratio"] = run.best / float(np.median(times))
                record["skeleton_f1_with_peer"] = skeleton_f1(structure.pag.marks, marks)
                record["equal_marks_with_peer"] = equal_marks(structure.pag.marks, marks)
                sequential = learn_structure(correlation, variant="sequential", **settings)
                record["sequential_f1_with_peer"] = skeleton_f1(sequential.pag.marks, marks)
                line += (
                    f"{run.best:>9.2f}{record['ratio']:>9.0f}"
                    f"{record['sequential_f1_with_peer']:>8.3f}"
                    f"{record['skeleton_f1_with_peer']:>7.3f}"
                    f"{record['equal_marks_with_peer']:>7.3f}"
                )
            else:
                line += f"  {run.status} {run.message}"
        results.add(**record)
        print(line, flush=True)


if __name__ == "__main__":
    main()
