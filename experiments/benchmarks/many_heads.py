"""32 heads of 700 tokens on two cores: time, and memory beyond the input.

    python -m experiments.benchmarks.many_heads [--heads FILE.npz] [--n-jobs 2]

Each measurement is a process of its own, which warms up, makes the input (the 700-token heads of
the file, in turn, each a copy of its own), and learns all heads with `learn_structures`. Memory is
measured twice, with the results of all heads still held, divided by heads x pairs, pairs = 700 x
699 / 2:

- ``kept``: what numpy and Python have allocated and not freed (tracemalloc, a run of its own since
  it slows Python down);
- ``peak``: the highest resident memory of the process while learning less that before, so it
  includes what threads need while they work. (On Linux; the high-water mark is reset before.)
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import causal_kernels
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from causal_lvlm.structure import learn_structures
from experiments.benchmarks.common import ONE_THREAD, Results, attention_heads


def resident(kind: str) -> int:
    """Return bytes of resident memory now (VmRSS) or at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {kind}")


def one(job: dict[str, Any]) -> dict[str, Any]:
    """Learn all heads once in this process."""
    heads = [
        matrix
        for _, matrix in attention_heads(Path(job["heads"]) if job["heads"] else None)
        if len(matrix) == job["nodes"]
    ]
    if not heads:
        raise SystemExit(f"no head of {job['nodes']} tokens in the file")
    stack = np.stack([heads[k % len(heads)] for k in range(job["count"])])
    settings = {"n_samples": job["n_samples"], "alpha": job["alpha"], "evidence": job["evidence"]}
    with threadpool_limits(1):
        causal_kernels.warm_up()
        learn_structures(stack[:1], n_jobs=1, **settings)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = resident("VmRSS")
        if job["trace"]:
            tracemalloc.start()
        began = time.perf_counter()
        structures = learn_structures(stack, n_jobs=job["n_jobs"], **settings)
        seconds = time.perf_counter() - began
        peak = resident("VmHWM") - before
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] if job["trace"] else None
    cells = job["count"] * job["nodes"] * (job["nodes"] - 1) / 2
    digest = hashlib.sha256(b"".join(s.pag.marks.tobytes() for s in structures)).hexdigest()
    return {
        "seconds": seconds,
        "peak_bytes_per_pair": peak / cells,
        "kept_bytes_per_pair": None if kept is None else kept / cells,
        "edges": int(sum(s.pag.n_edges for s in structures)),
        "tests": int(sum(s.n_tests for s in structures)),
        "heads_in_file": len(heads),
        "marks_sha256": digest[:16],
    }


def main() -> None:
    """Start one process per measurement and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heads", type=Path, help="npz file of correlation matrices")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--nodes", type=int, default=700)
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--n-samples", type=int, default=128)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="results file (JSON lines)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        print(json.dumps(one(json.loads(options.job))))
        return
    results = Results("many_heads", vars(options), options.out)
    names = ("heads", "count", "nodes", "alpha", "n_samples")
    base = {name: getattr(options, name) for name in names}
    base["heads"] = str(base["heads"]) if base["heads"] else None
    print(f"{'evidence':<10}{'jobs':>5}{'seconds':>9}{'peak B/pair':>13}{'kept B/pair':>13}  marks")
    for evidence in (False, True):
        for n_jobs in sorted({1, options.n_jobs}):
            runs = [
                child({**base, "evidence": evidence, "n_jobs": n_jobs, "trace": trace})
                for trace in [False] * options.repeat + [True]
            ]
            timed, traced = runs[:-1], runs[-1]
            record = {
                "evidence": evidence,
                "n_jobs": n_jobs,
                **timed[0],
                "seconds": min(run["seconds"] for run in timed),
                "all_seconds": [run["seconds"] for run in timed],
                "peak_bytes_per_pair": max(run["peak_bytes_per_pair"] for run in timed),
                "kept_bytes_per_pair": traced["kept_bytes_per_pair"],
            }
            results.add(**record)
            print(
                f"{evidence!s:<10}{n_jobs:>5}{record['seconds']:>9.2f}"
                f"{record['peak_bytes_per_pair']:>13.1f}{record['kept_bytes_per_pair']:>13.1f}"
                f"  {record['marks_sha256']}",
                flush=True,
            )


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a new process."""
    command = [sys.executable, "-m", "experiments.benchmarks.many_heads", "--job", json.dumps(job)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD}, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
