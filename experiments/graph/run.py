"""The verified causal graph: faithfulness, contradictions, sizes of verified sets, estimates.

1. Find held-out questions that the model answers rightly, up to three a scene, on a stream of
   their own (choices are made on another one).
2. Measure each target (`item.py`); finished targets are kept, a killed run goes on, and a run with
   more targets goes on from one with fewer.
3. Summarise: tables and README (`page.py`).

``python -m experiments.graph.run --targets 300``
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from causal_lvlm.runner import run_items
from causal_lvlm.storage import write_json
from experiments.common.pairs import load, plan_items
from experiments.common.provenance import made_with
from experiments.common.streams import GRAPH_REPORT
from experiments.graph import item, settings
from experiments.graph.page import render

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stream", type=int, default=GRAPH_REPORT, help="for development only")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--restart", action="store_true", help="throw an unfinished run away")
    parser.add_argument("--render", action="store_true", help="summarise what is saved again")
    given = parser.parse_args()
    if not given.render:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # inherited by the workers; two busy threads slow small models
        measure(given)
    render(given.out, HERE / "README.md" if given.out.resolve() == HERE / "results" else None)


def planned(model: Any, targets: int, seed: int, stream: int) -> tuple[dict[int, Any], int]:
    """Return the items by number, and how many questions were answered wrongly on the way."""
    plan, wrong = plan_items(model, targets, seed=seed, stream=stream, per_scene=settings.PER_SCENE)
    most = settings.EXACT_EVERY * settings.EXACT_MOST
    items = {
        number: {**one, "exact": number % settings.EXACT_EVERY == 0 and number < most}
        for number, one in enumerate(plan)
    }
    return items, len(wrong)


def measure(given: argparse.Namespace) -> None:
    """Do all the work that is not done yet, and save it."""
    started = time.monotonic()
    model = load(None)
    items, wrong = planned(model, given.targets, given.seed, given.stream)
    # The number of targets is no part of it: the first ones are the same however many follow.
    config = {
        "seed": given.seed, "stream": given.stream, "model": model.model_id,
        "budget": settings.BUDGET, "n_random": settings.N_RANDOM, "shares": settings.SHARES,
        "random_draws": settings.RANDOM_DRAWS, "sources": settings.SOURCES,
        "per_scene": settings.PER_SCENE, "versions": made_with(),
    }  # fmt: skip
    with tqdm(total=len(items), unit="target") as bar:
        summary = run_items(
            items, item.work, given.out / "results.jsonl", config=config, jobs=given.jobs,
            setup=item.setup, restart=given.restart, retry_errors=True,
            progress=lambda _, done, total: bar.update(done - bar.n),
        )  # fmt: skip
    if summary.failed:
        raise SystemExit(f"{len(summary.failed)} targets failed: see results.jsonl, start again")
    if summary.done:
        write_json(given.out / "config.json", {
            "kind": "graph", **config, "targets": given.targets, "wrong_answers": wrong,
            "jobs": given.jobs, "seconds": round(time.monotonic() - started),
            "resumed": bool(summary.skipped),
        })  # fmt: skip


if __name__ == "__main__":
    main()
