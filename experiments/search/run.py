"""Size of verified sets against model runs: searches, orders, brute force, and the graphs.

1. Find held-out questions that the model answers rightly (a stream of their own; every choice was
   made on another one), one a scene.
2. Measure each target (`item.py`); finished targets are kept, a killed run goes on.
3. Summarise: tables, figure, README (`page.py`).

``python -m experiments.search.run --targets 200 --jobs 2 --seed 2``
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tqdm import tqdm

from causal_lvlm.runner import run_items
from causal_lvlm.source_options import DEFAULT_THRESHOLDS
from causal_lvlm.storage import write_json
from experiments.common.pairs import load, plan_items
from experiments.common.provenance import made_with
from experiments.common.streams import SEARCH_REPORT
from experiments.search import item, settings
from experiments.search.page import render

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--stream", type=int, default=SEARCH_REPORT, help="for development only")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--restart", action="store_true", help="throw an unfinished run away")
    parser.add_argument("--render", action="store_true", help="summarise what is saved again")
    given = parser.parse_args()
    if not given.render:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # inherited by the workers; two busy threads slow small models
        measure(given)
    render(given.out, HERE / "README.md" if given.out == HERE / "results" else None)


def measure(given: argparse.Namespace) -> None:
    """Do all the work that is not done yet, and save it."""
    started = time.monotonic()
    model = load(None)
    plan, wrong = plan_items(
        model, given.targets, seed=given.seed, stream=given.stream, per_scene=1
    )
    items = {
        number: {
            **one,
            "lima": number % settings.LIMA_EVERY == 0,
            "pairs": number % settings.PAIRS_EVERY == 0,
            "sufficient": number % settings.SUFFICIENT_EVERY == 0,
        }
        for number, one in enumerate(plan)
    }
    config = {
        "targets": given.targets, "seed": given.seed, "stream": given.stream,
        "model": model.model_id, "wrong_answers": len(wrong), "budget": settings.BUDGET,
        "explain": settings.EXPLAIN, "curves": settings.CURVES, "graphs": settings.GRAPHS,
        "thresholds": DEFAULT_THRESHOLDS, "versions": made_with(),
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
            "kind": "search", **config, "jobs": given.jobs,
            "seconds": round(time.monotonic() - started), "resumed": bool(summary.skipped),
        })  # fmt: skip


if __name__ == "__main__":
    main()
