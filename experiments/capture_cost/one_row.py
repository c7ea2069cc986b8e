"""Seconds for one masked row on the embedded model, beside an older commit, in one run.

``python -m experiments.capture_cost.one_row`` takes the package out of the commit (`git archive`)
into a temporary folder and starts two processes, one for each. They evaluate the same fifty masks,
one row a call, in turns: whatever else the machine does slows both down. Answers must agree.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.capture_cost.common import save

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "8d9911d"
ROUNDS = 40
# What both processes run: the public calls of either commit.
ASK = """
import json, sys, time
import numpy as np, torch
torch.set_num_threads(1)
import causal_lvlm as cl
from causal_lvlm.tiny.scenes import draw_scene
from causal_lvlm.tokens import candidate_units
model, jobs, rng = cl.load_model(), [], np.random.default_rng(0)
for seed in range(5):
    scene = draw_scene(seed)
    trace = model.run(scene.image, scene.questions()[0].prompt)
    target = trace.target(0)
    units = candidate_units(trace.layout, target).members
    for _ in range(10):
        keep = np.ones((1, len(trace.layout)), dtype=bool)
        for unit in rng.choice(len(units), rng.integers(1, 6), replace=False):
            keep[0, list(units[unit])] = False
        jobs.append((trace, keep, target))
answers = [float(t.evaluate(k, w).log_prob[0]) for t, k, w in jobs]
print(json.dumps(answers), flush=True)
for _ in sys.stdin:
    start = time.thread_time()
    for t, k, w in jobs:
        t.evaluate(k, w)
    print(1e3 * (time.thread_time() - start) / len(jobs), flush=True)
"""


class Asked:
    """A process that evaluates the masks whenever it is asked to."""

    def __init__(self, root: Path) -> None:
        path = os.pathsep.join((str(root), str(root / "kernels")))
        self._process = subprocess.Popen(
            [sys.executable, "-c", ASK], cwd=root, text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.answers: list[float] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def milliseconds(self) -> float:
        """Return the CPU milliseconds of one row, mean over the masks."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


def taken_out(commit: str, folder: Path) -> None:
    """Write the package of a commit to a folder."""
    command = ["git", "archive", commit, "causal_lvlm", "kernels"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")


def main() -> None:
    """Measure in turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="Commit to compare with.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        taken_out(given.before, Path(folder))
        both = {"before": Asked(Path(folder)), "now": Asked(ROOT)}
        times: dict[str, list[float]] = {name: [] for name in both}
        for turn in range(given.rounds):
            for name in sorted(both, reverse=turn % 2 == 1):
                times[name].append(both[name].milliseconds())
        for one in both.values():
            one.end()
    ratios = [b / n for b, n in zip(times["before"], times["now"], strict=True)]
    difference = np.abs(np.subtract(both["before"].answers, both["now"].answers)).max()
    line: dict[str, Any] = {
        "commit": given.before,
        "rounds": given.rounds,
        **{f"{name}_ms": round(min(values), 3) for name, values in times.items()},
        "ratio_of_best": round(min(times["before"]) / min(times["now"]), 3),
        "median_ratio": round(statistics.median(ratios), 3),
        "largest_difference": float(difference),
        "seconds": round(time.time() - started, 1),
    }
    print(json.dumps(line))
    save("one_row", [line])


if __name__ == "__main__":
    main()
