"""Tables, figure and README of the ablations, written from the saved JSON and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.storage import write_json
from experiments.ablations.settings import (
    BY_NAME,
    CROSSING,
    DEFAULT,
    EMPTY,
    GRAPH_FIRST,
    PUBLISHED_NAME,
)
from experiments.ablations.summary import TESTED, Results, choose, summarise, tuning_lines
from experiments.common.provenance import at_commit
from experiments.common.tables import fill, markdown

PAGE = Path(__file__).resolve().parent / "README.md"
LEVEL = 0.05
SPLITS = ("tuning", "reporting")
HEADS = {
    "size_joint": "joint set", "size_image": "image set", "size_text": "text set",
    "missed": "sets not found", "met": "runs until met", "runs": "runs",
    "on_object": "on object (chance)", "held_joint": "joint held", "held_image": "image held",
    "minimum_joint": "joint proven", "cause_1": "cause next to target", "nodes_1": "candidates",
    "empty": "empty trees", "prefix_joint": "prefix joint", "prefix_image": "prefix image",
}  # fmt: skip
SHORT = ("size_joint", "size_image", "met", "on_object", "held_joint", "held_image", "cause_1",
         "nodes_1", "prefix_joint", "prefix_image")  # fmt: skip
WORDS = {"size": "size of sets", "met": "runs until met", "on_object": "share on the object",
         "prefix": "the graph's own order"}  # fmt: skip


def render(out: Path) -> None:
    """Write summary.json, table.md, figure.png, and the README if these are its results."""
    configs = {name: read_config(out / f"{name}.jsonl") for name in SPLITS}
    lines = {"tuning": tuning_lines(out), "reporting": read_lines(out / "reporting.jsonl")}
    summary = {
        "kind": "ablations summary",
        "winners": choose(Results(lines["tuning"])),
        **{name: summarise(lines[name]) for name in SPLITS},
    }
    write_json(out / "summary.json", summary)
    (out / "table.md").write_text(full_table(summary) + "\n", encoding="utf-8")
    from experiments.ablations.figure import draw

    draw(summary, out / "figure.png")
    if out.resolve() == PAGE.parent / "results":
        fill(PAGE, texts(summary, configs))


def texts(summary: dict[str, Any], configs: dict[str, Any]) -> dict[str, str]:
    """Return the blocks of the README."""
    return {
        "claim": claim(summary), "setup": setup(summary, configs), "report": report(summary),
        "factors": factors(summary), "crossed": crossed(summary), "mattered": mattered(summary),
        "time": run_time(summary, configs),
    }  # fmt: skip


def claim(summary: dict[str, Any]) -> str:
    """Say what the winners and the default did on the reporting split."""
    split = summary["reporting"]
    lines = [
        f"- rule `{rule}` chose **{name}**" + (f" (`{options(name)}`)" if options(name) else "")
        for rule, name in summary["winners"].items()
    ]
    shown = {DEFAULT: "the default", EMPTY: "the same search without any graph",
             GRAPH_FIRST: "the default's graph asked first (`search=\"graph\"`)",
             PUBLISHED_NAME: "the published setting"}  # fmt: skip
    for name, words in shown.items():
        row = split["settings"][name]
        lines.append(
            f"- {words}: joint sets of {cell(row, 'size_joint')}, image sets of "
            f"{cell(row, 'size_image')} units, met after {cell(row, 'met')} model runs; "
            f"{cell(row, 'on_object')} of the image set's tokens on the object; a graph holds "
            f"{row['held_joint']:.0%} of the joint and {row.get('held_image', 0.0):.0%} of the "
            "image sets"
        )
    for name in dict.fromkeys(n for n in summary["winners"].values() if n not in shown):
        lines.append(f"- {name}, against the {BY_NAME[name].beside} one: {verdict(split, name)}")
    return "\n".join(lines)


def verdict(split: dict[str, Any], name: str) -> str:
    """Say how one setting differs from the one beside it, measure by measure."""
    parts = []
    for column in TESTED:
        test = split["tests"][column].get(name)
        if test is None:
            continue
        sure = test["p"] is not None and test["p"] < LEVEL
        mark = f"p = {test['p']:.2g}" if sure else "not told apart"
        low, high = (number(test[k], column, sign=True) for k in ("low", "high"))
        parts.append(
            f"{WORDS[column]} {number(test['difference'], column, sign=True)} "
            f"[{low}, {high}] ({mark})"
        )
    return "; ".join(parts)


def setup(summary: dict[str, Any], configs: dict[str, Any]) -> str:
    parts = []
    for name in SPLITS:
        split, config = summary[name], configs[name]
        most = split["maskable"]
        parts.append(
            f"{name.capitalize()} split: {split['targets']} targets, one a scene, "
            f"{config['wrong_answers']} wrong answers left out; the joint scope can change "
            f"{most['joint']}, the image {most['image']}, the text {most['text']}; "
            f"{split['with_objects']} rest on objects that are there; "
            f"{split['with_single_cause']} have a true cause (a patch or word whose masking alone "
            "changes the answer)."
        )
    return " ".join([*parts, f"Seed {configs['tuning']['seed']}."])


def run_time(summary: dict[str, Any], configs: dict[str, Any]) -> str:
    minutes = [summary[name]["seconds"] / 60 for name in SPLITS]
    made = at_commit(configs["tuning"])
    return f"{minutes[0]:.0f} + {minutes[1]:.0f} minutes of processes, shared machine{made}"


def report(summary: dict[str, Any]) -> str:
    split = summary["reporting"]
    columns = [c for c in HEADS if c != "empty"]
    rows = [
        [f"**{name}**" if name in summary["winners"].values() else name,
         *(cell(row, c, split, name) for c in columns)]
        for name, row in split["settings"].items()
    ]  # fmt: skip
    return markdown(["setting", *(HEADS[c] for c in columns)], rows)


def factors(summary: dict[str, Any]) -> str:
    split = summary["tuning"]
    rows = [
        [name, *(cell(row, c, split, name) for c in SHORT)]
        for name, row in split["settings"].items()
        if BY_NAME[name].factor != CROSSING
    ]
    return markdown(["setting", *(HEADS[c] for c in SHORT)], rows)


def crossed(summary: dict[str, Any]) -> str:
    split = summary["tuning"]
    rows = [
        [name, *(cell(row, c, split, name) for c in SHORT)]
        for name, row in split["settings"].items()
        if BY_NAME[name].factor == CROSSING
    ]
    return markdown(["source / row / threshold", *(HEADS[c] for c in SHORT)], rows)


def full_table(summary: dict[str, Any]) -> str:
    """Return every column of both splits."""
    parts = []
    for name in SPLITS:
        rows = [
            [setting, str(row["n"]), *(cell(row, c) for c in HEADS)]
            for setting, row in summary[name]["settings"].items()
        ]
        table = markdown(["setting", "targets", *HEADS.values()], rows)
        parts.append(f"## {name.capitalize()} split\n\n{table}")
    return "\n\n".join(parts)


def mattered(summary: dict[str, Any]) -> str:
    """Count, factor by factor, the levels that changed something, and the targets they changed."""
    tests = summary["tuning"]["tests"]
    names = [n for n in summary["tuning"]["settings"] if n != DEFAULT]
    rows = []
    for factor in dict.fromkeys(BY_NAME[n].factor for n in names):
        levels = [n for n in names if BY_NAME[n].factor == factor]
        row = [factor, str(len(levels))]
        for column in TESTED:
            known = [tests[column][n] for n in levels if n in tests[column]]
            differ = sum(t["p"] is not None and t["p"] < LEVEL for t in known)
            most = max((t["targets"] for t in known), default=0)
            row.append(f"{differ} (up to {most} targets)" if known else "–")
        rows.append(row)
    return markdown(["factor", "levels", *(WORDS[c] for c in TESTED)], rows)


def options(name: str) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in BY_NAME[name].options.items())


def cell(
    row: dict[str, Any], column: str, split: dict[str, Any] | None = None, name: str = ""
) -> str:
    """Return a mean, its interval if a split is given, and * where a test says that it differs."""
    if column not in row:
        return "–"
    text = number(row[column], column)
    if split is not None and column in TESTED:
        low, high = row[f"{column}_interval"]
        if low is not None:
            text += f" [{number(low, column)}, {number(high, column)}]"
        p = split["tests"][column].get(name, {"p": None})["p"]
        text += "*" if p is not None and p < LEVEL else ""
    if column == "on_object":
        text += f" ({number(row['chance'], column)})"
    return text


def number(value: float | None, column: str, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    many = column in ("met", "runs", "nodes_1", "nodes_3")
    digits = 0 if many and abs(value) >= 10 else 1 if many or column.startswith("prefix") else 2
    return f"{value:{'+' if sign else ''}.{digits}f}"
