"""The leaderboard: every method on the same targets, units and masking, with what it costs.

1. Find held-out questions that the model answers rightly (a stream of their own), up to three a
   scene.
2. Explain and measure each target (`item.py`); finished targets are kept, a killed run goes on.
3. Summarise: means with bootstrap intervals by scene, paired tests, table, figure, README.

``python -m experiments.leaderboard.run --targets 300 --jobs 2 --seed 0``

With ``--again causal`` only the named methods are measured, on the targets that are saved, and take
the place of their saved rows: for a change that touches no other method.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import causal_lvlm as cl
from causal_lvlm.attribution.heads import HeadChoice, select_heads
from causal_lvlm.items_file import read_lines
from causal_lvlm.runner import run_items
from causal_lvlm.storage import write_bytes, write_json
from experiments.common.pairs import load, pair_of, plan_items
from experiments.common.provenance import made_with
from experiments.common.streams import LEADERBOARD, LEADERBOARD_MEDIATION
from experiments.leaderboard import item, settings
from experiments.leaderboard.page import render

HERE = Path(__file__).resolve().parent


def chosen_methods() -> list[str]:
    """Return all methods that are not optional, and do not explain another question."""
    return [i.name for i in cl.list_methods() if not i.optional and "against" not in i.needs]


def items_of(model: Any, targets: int, seed: int) -> tuple[dict[Any, dict[str, Any]], int]:
    """Return the items by number and how many questions were answered wrongly."""
    plan, wrong = plan_items(
        model, targets, seed=seed, stream=LEADERBOARD, per_scene=settings.PER_SCENE
    )
    place = np.argsort(np.random.default_rng([seed, LEADERBOARD, targets]).permutation(targets))
    least = {name: max(1, round(share * targets)) for name, share in settings.SHARES.items()}
    return {
        number: {**item, **{name: bool(place[number] < n) for name, n in least.items()}}
        for number, item in enumerate(plan)
    }, len(wrong)


def chosen_heads(model: Any, seed: int) -> HeadChoice:
    """Return the heads that `attn_attrib` reads: chosen once, on questions of another stream."""
    plan, _ = plan_items(model, settings.PROBES, seed=seed, stream=LEADERBOARD_MEDIATION)
    pairs = [pair_of(model, item) for item in plan]
    return select_heads([p.trace for p in pairs], [p.target for p in pairs], seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--restart", action="store_true", help="throw an unfinished run away")
    parser.add_argument("--again", nargs="+", metavar="METHOD", help="measure only these anew")
    parser.add_argument("--render", action="store_true", help="summarise what is saved again")
    given = parser.parse_args()
    if not given.render:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # inherited by the workers; two busy threads slow small models
        if given.again:
            measure_again(given)
        else:
            measure(given)
    render(given.out)


def measure(given: argparse.Namespace) -> None:
    """Do all the work that is not done yet, and save it."""
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    methods = chosen_methods()
    model = load(None)
    choice = chosen_heads(model, given.seed)
    heads = [list(head) for head in choice.heads]
    options = {**settings.OPTIONS, "attn_attrib": {"heads": heads}}
    items, wrong = items_of(model, given.targets, given.seed)
    config = {
        "targets": given.targets, "seed": given.seed, "model": model.model_id,
        "wrong_answers": wrong, "units": settings.UNITS, "masking": settings.MASKING,
        "methods": methods, "columns": settings.COLUMNS,
        "options": options, "head_choice_runs": choice.model_runs,
        "shares": settings.SHARES, "costly": settings.COSTLY,
        "versions": made_with(),
    }  # fmt: skip
    with tqdm(total=len(items), unit="target") as bar:
        summary = run_items(
            items, item.work, given.out / "results.jsonl", config=config, jobs=given.jobs,
            setup=partial(item.setup, methods, options), restart=given.restart, retry_errors=True,
            progress=lambda _, done, total: bar.update(done - bar.n),
        )  # fmt: skip
    if summary.failed:
        raise SystemExit(f"{len(summary.failed)} targets failed: see results.jsonl, start again")
    if summary.done:
        write_json(given.out / "config.json", {
            "kind": "leaderboard", **config, "jobs": given.jobs,
            "seconds": round(time.monotonic() - started), "resumed": bool(summary.skipped),
        })  # fmt: skip


def measure_again(given: argparse.Namespace) -> None:
    """Measure some methods on the saved targets, and put their rows in the place of the saved ones.

    A killed run goes on where it was: until all targets are done, the saved results stay.
    """
    saved, part = given.out / "results.jsonl", given.out / "again.jsonl"
    config = json.loads((given.out / "config.json").read_text(encoding="utf-8"))
    unknown = sorted(set(given.again) - set(config["methods"]))
    if unknown:
        raise SystemExit(f"--again {' '.join(unknown)}: the saved methods are {config['methods']}")
    items, _ = items_of(load(None), config["targets"], config["seed"])
    made = made_with()
    with tqdm(total=len(items), unit="target") as bar:
        done = run_items(
            items, item.work, part, config={"methods": given.again, "versions": made},
            jobs=given.jobs, setup=partial(item.setup, given.again, config["options"]),
            restart=given.restart, retry_errors=True,
            progress=lambda _, finished, total: bar.update(finished - bar.n),
        )  # fmt: skip
    if done.failed:
        raise SystemExit(f"{len(done.failed)} targets failed: see again.jsonl, start again")
    rows = {line["key"]: line["result"]["methods"] for line in read_lines(part)}
    header, *lines = map(json.loads, saved.read_text(encoding="utf-8").splitlines())
    for line in lines:
        line["result"]["methods"] |= rows[line["key"]]
    text = "".join(json.dumps(line) + "\n" for line in (header, *lines))
    write_bytes(saved, text.encode())
    again = {**config.get("again", {}), **dict.fromkeys(given.again, made["commit"])}
    write_json(given.out / "config.json", {**config, "again": again})
    part.unlink()


if __name__ == "__main__":
    main()
