"""Localisation: members of verified image sets against the true objects of held-out scenes.

``python -m experiments.localisation.run --targets 300 --seed 0``
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from causal_lvlm.runner import run_items
from experiments.common.pairs import plan_items
from experiments.common.provenance import made_with
from experiments.common.streams import LOCALISATION
from experiments.localisation import measure
from experiments.localisation.page import render

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--restart", action="store_true", help="throw an unfinished run away")
    parser.add_argument("--render", action="store_true", help="summarise what is saved again")
    given = parser.parse_args()
    if not given.render:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # inherited by the workers; two busy threads slow small models
        run(given)
    render(given.out)


def run(given: argparse.Namespace) -> None:
    """Measure what is not measured yet."""
    model = measure.setup()
    plan, wrong = plan_items(
        model, given.targets, seed=given.seed, stream=LOCALISATION, per_scene=1
    )
    config = {
        "targets": given.targets, "seed": given.seed, "stream": LOCALISATION,
        "model": model.model_id, "wrong_answers": len(wrong), "max_runs": measure.MAX_RUNS,
        "maps": measure.MAPS, "versions": made_with(),
    }  # fmt: skip
    with tqdm(total=len(plan), unit="target") as bar:
        done = run_items(
            dict(enumerate(plan)), measure.work, given.out / "results.jsonl", config=config,
            jobs=given.jobs, setup=measure.setup, restart=given.restart, retry_errors=True,
            progress=lambda _, finished, total: bar.update(finished - bar.n),
        )  # fmt: skip
    if done.failed:
        raise SystemExit(f"{len(done.failed)} targets failed: see results.jsonl, start again")


if __name__ == "__main__":
    main()
