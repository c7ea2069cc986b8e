"""Tables, figure and README of the leaderboard, written from the saved JSON and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.storage import write_json
from experiments.common.provenance import at_commit
from experiments.common.tables import fill, markdown
from experiments.leaderboard.settings import (
    COSTLY,
    FLIP_SIZE,
    HEADLINE,
    METRICS,
    REFERENCE,
    SANITY,
    SANITY_RUNS,
    SETS,
)
from experiments.leaderboard.summary import LEVEL, better, summarise, verdicts

PAGE = Path(__file__).resolve().parent / "README.md"
ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
LABELS = {FLIP_SIZE: "units until the answer flips"}


def render(out: Path) -> None:
    """Write summary.json, table.md, figure.png, and the README if these are its results."""
    config = read_config(out / "results.jsonl")
    summary = summarise(read_lines(out / "results.jsonl"), config["columns"])
    write_json(out / "summary.json", summary)
    (out / "table.md").write_text(full_table(summary) + "\n", encoding="utf-8")
    from experiments.leaderboard.figure import draw

    draw(summary, out / "figure.png")
    if out.resolve() == PAGE.parent / "results":
        saved = json.loads((out / "config.json").read_text(encoding="utf-8"))
        fill(PAGE, texts(summary, saved))


def texts(summary: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Return the blocks of the README."""
    return {
        "claim": claim(summary), "setup": setup(summary, config), "table": main_table(summary),
        "causal": against_causal(summary), "sets": sets_table(summary),
        "sanity": sanity_table(summary), "time": run_time(config),
    }  # fmt: skip


def claim(summary: dict[str, Any]) -> str:
    """Say who is best at what."""
    lines = []
    for metric in HEADLINE:
        test = summary["tests"][metric]
        ties = [n for n, t in test["against_best"].items() if t["p"] is None or t["p"] >= LEVEL]
        best = cell(_method(summary, test["best"]), metric)
        beside = f"; not told apart from it: {_names(ties)}" if ties else ""
        lines.append(f"- {metric}{ARROWS[better(metric)]}: `{test['best']}`, {best}{beside}")
    return "\n".join(lines)


def setup(summary: dict[str, Any], config: dict[str, Any]) -> str:
    heads = ", ".join(
        f"{layer}.{head}" for layer, head in config["options"]["attn_attrib"]["heads"]
    )
    return (
        f"{summary['targets']} targets in {summary['scenes']} scenes, answered rightly "
        f"({config['wrong_answers']} wrong answers were left out); {summary['maskable']} change "
        f"when everything is masked, {summary['with_objects']} rest on objects that are there. "
        f"Units `{config['units']}`, masking `{config['masking']}`, seed {config['seed']}. "
        f"`causal` has {config['options']['causal']['max_runs']} masked rows a target at most; "
        f"`attn_attrib` reads heads {heads}, chosen once in {config['head_choice_runs']} model "
        "runs on questions of another stream."
    )


def run_time(config: dict[str, Any]) -> str:
    resumed = ", counted since it was last resumed" if config["resumed"] else ""
    minutes = f"{config['seconds'] / 60:.0f} minutes with {config['jobs']} processes"
    again = [f"`{name}` again, commit `{made}`" for name, made in config.get("again", {}).items()]
    return "; ".join([f"{minutes}{resumed}{at_commit(config)}", *again])


def main_table(summary: dict[str, Any]) -> str:
    heads = ["method", *(m + ARROWS[better(m)] for m in HEADLINE),
             "runs", "backward", "seconds", "peak MiB"]  # fmt: skip
    rows = []
    for row in summary["methods"]:
        cells = [_name(row["method"])]
        cells += [_marked(summary, row, metric) for metric in HEADLINE]
        rows.append([*cells, *_cost(row)])
    return markdown(heads, rows)


def full_table(summary: dict[str, Any]) -> str:
    """Return every column, costs apart."""
    columns = [*METRICS, FLIP_SIZE, "morf_lerf_gap", "soft_nc", "soft_ns", *SANITY]
    heads = ["method", "targets", "mean rank",
             *(LABELS.get(m, m) + ARROWS[better(m)] for m in columns)]  # fmt: skip
    rows = [
        [_name(row["method"]), str(row["n"]), f"{row['mean_rank']:.1f}",
         *(cell(row, metric) for metric in columns)]
        for row in summary["methods"]
    ]  # fmt: skip
    return markdown(heads, rows)


def against_causal(summary: dict[str, Any]) -> str:
    """Say, metric by metric, where the causal method wins and where it loses."""
    heads = ["metric", "better than", "worse than", "not told apart from"]
    rows = []
    for metric in HEADLINE:
        said = verdicts(summary, metric)
        rows.append([
            metric + ARROWS[better(metric)], f"{len(said['beats'])} methods",
            _names(said["loses"]), _names(said["open"]),
        ])  # fmt: skip
    return markdown(heads, rows)


def sets_table(summary: dict[str, Any]) -> str:
    heads = ["", *(m + ARROWS[better(m)] for m in SETS)]
    row = _method(summary, REFERENCE)
    own = markdown(heads, [[f"verified sets of `{REFERENCE}`", *(cell(row, m) for m in SETS)]])
    flips = [r for r in summary["methods"] if FLIP_SIZE in r["metrics"]]
    flips.sort(key=lambda r: r["metrics"][FLIP_SIZE]["mean"])
    heads = ["method", LABELS[FLIP_SIZE] + ARROWS["lower"]]
    rows = [[_name(r["method"]), cell(r, FLIP_SIZE)] for r in flips]
    return own + "\n\n" + markdown(heads, rows)


def sanity_table(summary: dict[str, Any]) -> str:
    heads = ["method", *(m + ARROWS[better(m)] for m in SANITY)]
    rows = [
        [_name(row["method"]), *(cell(row, m) for m in SANITY)]
        for row in summary["methods"]
        if any(m in row["metrics"] for m in SANITY)
    ]
    return f"Methods of at most {SANITY_RUNS} passes.\n\n" + markdown(heads, rows)


def cell(row: dict[str, Any], metric: str) -> str:
    """Return a mean with its interval; the number of targets where it is not the method's own."""
    value = row["metrics"].get(metric)
    if value is None:
        return "–"
    digits = 1 if abs(value["mean"]) >= 10 else 2 if abs(value["mean"]) >= 1 else 3
    parts = [f"{value[key]:.{digits}f}" if value[key] is not None else "–"
             for key in ("mean", "low", "high")]  # fmt: skip
    n = f" n={value['n']}" if value["n"] != row["n"] or row["method"] in COSTLY else ""
    return f"{parts[0]} [{parts[1]}, {parts[2]}]{n}"


def _marked(summary: dict[str, Any], row: dict[str, Any], metric: str) -> str:
    """Return a cell, bold for the best, with = where the best cannot be told apart from it."""
    text, test = cell(row, metric), summary["tests"][metric]
    if row["method"] == test["best"]:
        return f"**{text}**"
    p = test["against_best"].get(row["method"], {"p": 0.0})["p"]
    return f"{text} =" if p is None or p >= LEVEL else text


def _cost(row: dict[str, Any]) -> list[str]:
    memory = row["peak_memory"]
    return [
        f"{row['model_runs']:.0f}", f"{row['backward_passes']:.0f}", f"{row['seconds']:.3g}",
        "–" if memory is None else f"{memory / 2**20:.1f}",
    ]  # fmt: skip


def _method(summary: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(r for r in summary["methods"] if r["method"] == name)
    return found


def _name(name: str) -> str:
    return f"**{name}**" if name == REFERENCE else name


def _names(names: list[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) or "none"
