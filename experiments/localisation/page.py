"""Tables, contact sheet and README of the localisation study, from the saved JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.storage import write_json
from experiments.common.provenance import at_commit
from experiments.common.tables import fill, markdown
from experiments.localisation.summary import summarise

PAGE = Path(__file__).resolve().parent / "README.md"


def render(out: Path) -> None:
    """Write summary.json, table.md, sheet.png, and the README if these are its results."""
    config, lines = read_config(out / "results.jsonl"), read_lines(out / "results.jsonl")
    summary = summarise(lines)
    write_json(out / "summary.json", summary)
    (out / "table.md").write_text(
        f"{kinds_table(summary)}\n\n{methods_table(summary)}\n", encoding="utf-8"
    )
    from experiments.localisation.sheet import draw

    draw(summary, {line["key"]: line["result"] for line in lines}, config, out / "sheet.png")
    if out.resolve() == PAGE.parent / "results":
        fill(PAGE, texts(summary, config))


def texts(summary: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Return the blocks of the README."""
    return {
        "claim": claim(summary), "setup": setup(summary, config), "kinds": kinds_table(summary),
        "methods": methods_table(summary),
        "time": f"{summary['seconds'] / 60:.0f} minutes of processes, shared machine"
                f"{at_commit(config)}",
    }  # fmt: skip


def claim(summary: dict[str, Any]) -> str:
    row, test = summary["all"], summary["against_chance"]
    low, high = row["on_object_interval"]
    lines = [
        f"- {row['on_object']:.0%} [{low:.0%}, {high:.0%}] of the members of a verified image set "
        f"lie on an object that the answer depends on; chance is {row['chance']:.0%} "
        f"(difference {test['difference']:.2f} [{test['low']:.2f}, {test['high']:.2f}], paired "
        f"sign-flip test p = {test['p']:.2g}). On it or touching it: {row['near']:.0%} (chance "
        f"{row['near_chance']:.0%}); on another object: {row['other']:.0%}.",
        f"- {row['any']:.0%} of the sets have a member on the object; a set has {row['size']:.1f} "
        f"cells on average.",
    ]
    for name, other in summary["methods"].items():
        if name == "causal":
            continue
        mean, low, high = other["set_minus_same_size"]
        lines.append(
            f"- As many highest cells of `{name}` as the set has: {other['same_size']:.0%} on the "
            f"object; the set {mean:+.2f} [{low:+.2f}, {high:+.2f}], p = {other['p']:.2g}."
        )
    return "\n".join(lines)


def setup(summary: dict[str, Any], config: dict[str, Any]) -> str:
    row = summary["all"]
    return (
        f"{summary['targets']} held-out targets, one a scene ({config['wrong_answers']} wrong "
        f"answers left out, seed {config['seed']}); {summary['with_objects']} rest on objects that "
        f"are there, of which {summary['placed']} have a verified image set; of the others "
        f"{row['not_maskable']} do not change when the whole image is masked, nor when a part that "
        f"was tried is. `explain` with its defaults and at "
        f"most {config['max_runs']} model runs for all scopes ({row['runs']:.0f} used on average)."
    )


def kinds_table(summary: dict[str, Any]) -> str:
    heads = ["question", "targets", "with objects", "image set verified",
             "object masked: changes", "size", "on object", "chance", "on or beside", "chance",
             "on another object", "any member", "IoU"]  # fmt: skip
    rows = []
    for name, row in (("all", summary["all"]), *summary["kinds"].items()):
        low, high = row["on_object_interval"]
        cells = [str(row[k]) for k in ("targets", "with_objects", "verified")]
        cells += [_number(row["object_flips"]), _number(row["size"], 1)]
        interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        cells.append(_number(row["on_object"]) + interval)
        cells += [_number(row[k]) for k in ("chance", "near", "near_chance", "other", "any", "iou")]
        rows.append([name, *cells])
    return markdown(heads, rows)


def methods_table(summary: dict[str, Any]) -> str:
    names = {
        "causal": "the verified set first, then the trees (`causal`)",
        "relevancy": "`relevancy`",
        "attention": "`attention`, mean of all layers",
    }
    heads = ["map over the image", "pointing game", "energy pointing game", "IoU",
             "on object, as many cells as the set"]  # fmt: skip
    rows = [
        [names[name], *(_number(row[k]) for k in ("pointing_game", "energy_pointing_game", "iou",
                                                   "same_size"))]
        for name, row in summary["methods"].items()
    ]  # fmt: skip
    chance = _number(summary["all"]["chance"])
    rows.append(["a constant map", chance, chance, "–", chance])
    return markdown(heads, rows)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
