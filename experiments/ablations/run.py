"""Ablations: one factor at a time, and source x row x threshold; two splits.

1. Tuning split: every setting on the same targets; the crossed ones in a file of their own.
2. Winners by the rule of `summary.py`.
3. Reporting split, another stream: the winners beside the default, the published setting, the
   search that asks the graph first, and no graph at all.

``python -m experiments.ablations.run --tune 64 --report 150 --seed 0``
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from causal_lvlm.runner import run_items
from causal_lvlm.source_options import DEFAULT_ROWS, DEFAULT_THRESHOLDS
from experiments.ablations import measure
from experiments.ablations.page import render
from experiments.ablations.settings import ALWAYS, BASE, BY_NAME, CROSSING, SETTINGS
from experiments.ablations.summary import PARTS, Results, choose, tuning_lines
from experiments.common.pairs import plan_items
from experiments.common.provenance import made_with
from experiments.common.streams import ABLATIONS_REPORT, ABLATIONS_TUNE

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", type=int, default=64, help="targets of the tuning split")
    parser.add_argument("--report", type=int, default=150, help="targets of the reporting split")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--restart", action="store_true", help="throw an unfinished run away")
    parser.add_argument("--render", action="store_true", help="summarise what is saved again")
    given = parser.parse_args()
    if not given.render:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # inherited by the workers; two busy threads slow small models
        for part in PARTS:
            chosen = [s.name for s in SETTINGS if (s.factor == CROSSING) == (part == "crossed")]
            split(given, part, given.tune, ABLATIONS_TUNE, chosen)
        winners = choose(Results(tuning_lines(given.out)))
        names = list(dict.fromkeys([*ALWAYS, *winners.values()]))
        split(given, "reporting", given.report, ABLATIONS_REPORT, names)
    render(given.out)


def split(
    given: argparse.Namespace, name: str, targets: int, stream: int, settings: list[str]
) -> None:
    """Measure what is not measured yet of one split."""
    model = measure.setup()
    plan, wrong = plan_items(model, targets, seed=given.seed, stream=stream, per_scene=1)
    items: dict[Any, dict[str, Any]] = {
        number: {**item, "settings": [s for s in settings if number % BY_NAME[s].every == 0]}
        for number, item in enumerate(plan)
    }
    config = {
        "split": name, "targets": targets, "seed": given.seed, "stream": stream,
        "model": model.model_id, "wrong_answers": len(wrong), "base": BASE,
        "thresholds": DEFAULT_THRESHOLDS, "rows": DEFAULT_ROWS, "columns": measure.COLUMNS,
        "settings": {s: BY_NAME[s].options for s in settings}, "versions": made_with(),
    }  # fmt: skip
    with tqdm(total=len(items), unit="target", desc=name) as bar:
        done = run_items(
            items, measure.work, given.out / f"{name}.jsonl", config=config, jobs=given.jobs,
            setup=measure.setup, restart=given.restart, retry_errors=True,
            progress=lambda _, finished, total: bar.update(finished - bar.n),
        )  # fmt: skip
    if done.failed:
        raise SystemExit(f"{len(done.failed)} targets failed: see {name}.jsonl, start again")


if __name__ == "__main__":
    main()
