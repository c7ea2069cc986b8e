"""Tables and README from the saved lines; `tests` check that the two agree.

``python -m experiments.search.run --render`` writes them again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from causal_lvlm.items_file import read_lines
from experiments.common.provenance import at_commit
from experiments.common.tables import fill, markdown
from experiments.search import settings, summary
from experiments.search.figure import draw
from experiments.search.orders import EXCHANGE, WITHOUT_GRAPH

PUBLISHED = f"PDS-tree, {settings.PUBLISHED}"


def render(out: Path, page: Path | None) -> None:
    """Write table.md and the figure, and the blocks of the README."""
    rows, config = load(out)
    texts = blocks(rows, config)
    table = "\n\n".join(texts.values()) + "\n"
    (out / "table.md").write_text(table, encoding="utf-8", newline="\n")
    draw(rows, out / "figure.png")
    if page is not None and page.exists():
        fill(page, texts)


def load(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the measured targets and the settings of a run."""
    rows = [line["result"] for line in read_lines(out / "results.jsonl") if "result" in line]
    return rows, json.loads((out / "config.json").read_text(encoding="utf-8"))


def blocks(rows: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, str]:
    """Return the texts of the README by the name of their block."""
    return {
        "claim": claim(rows, config),
        "explain": explain_table(rows),
        "joint": order_table(rows, "joint"),
        "image": order_table(rows, "image"),
        "graphs": graph_table(rows),
        "sufficient": sufficient_table(rows),
    }


def claim(rows: list[dict[str, Any]], config: dict[str, Any]) -> str:
    """Say in sentences how the targets of this experiment came out."""
    guided = summary.explain_numbers(rows, "guided")
    joint, image, text = guided["joint"], guided["image"], guided["text"]
    orders = summary.order_numbers(rows, "joint")
    best = best_baseline(orders)
    test = summary.difference(rows, "joint", EXCHANGE, best)
    same = summary.difference(rows, "joint", EXCHANGE, WITHOUT_GRAPH)
    graph = min((n for n in orders if n.startswith("PDS-tree")), key=lambda n: orders[n]["size"])
    pure = summary.difference(rows, "joint", graph, best)
    minutes = config["seconds"] / 60
    resumed = " (of the last part: the run was resumed)" if config["resumed"] else ""
    lines = [
        f"{len(rows)} held-out targets of as many scenes, seed {config['seed']}, stream "
        f"{config['stream']}; {config['wrong_answers']} wrong answers left out; "
        f"{minutes:.0f} minutes{resumed} with {config['jobs']} processes"
        f"{at_commit(config)}.",
        "",
        f"- **Verified:** {joint['verified']} of {joint['maskable']} maskable targets have a "
        f"verified joint set within 100 model runs, controls and the image and text sets included "
        f"(mean {guided['runs']:.0f} runs); image {image['verified']} of {image['maskable']}, text "
        f"{text['verified']} of {text['maskable']}.",
        f"- **Optimal:** of the joint sets whose minimum brute force could prove, "
        f"{_part(joint['optimal'], joint['provable'])} are of that size; image "
        f"{_part(image['optimal'], image['provable'])}, text "
        f"{_part(text['optimal'], text['provable'])}.",
        f"- **Against the best baseline** ({config['budget']} runs for the joint set alone, the "
        f"same growing and shrinking for every order): the guided search reaches "
        f"{orders[EXCHANGE]['size']:.2f} units, {best} {orders[best]['size']:.2f}; paired "
        f"difference {_interval(test)}. With the image and text sets and all controls paid from "
        f"the same {config['budget']} runs `explain` reaches {joint['size']:.2f}. Best known: "
        f"{joint['best_known']:.2f}.",
        f"- **What the graph adds to the guided search:** with attention instead of the PDS-tree "
        f"it reaches {orders[WITHOUT_GRAPH]['size']:.2f} units; paired difference "
        f"{_interval(same)}.",
        f"- **As orders**, grown and shrunk alone: {graph} {orders[graph]['size']:.2f} is the best "
        f"with a graph, {best} {orders[best]['size']:.2f} the best without; paired difference "
        f"{_interval(pure)}. The published graph: {orders[PUBLISHED]['size']:.2f}.",
    ]
    return "\n".join(lines)


def best_baseline(orders: dict[str, dict[str, Any]]) -> str:
    """Return the order without a graph, measured on every target, that ends smallest."""
    most = max(o["targets"] for o in orders.values())
    free = [
        n
        for n, o in orders.items()
        if not n.startswith(("PDS-tree", "guided")) and o["targets"] == most
    ]
    return min(free, key=lambda n: (orders[n]["size"], orders[n]["runs"]))


def explain_table(rows: list[dict[str, Any]]) -> str:
    """`explain` as a whole: all scopes, controls included."""
    heads = (
        "`explain`", "verified: joint / image / text", "units: joint / image / text",
        "optimal where provable: joint / image / text", "as small as any found: joint / image",
        "minimum proven: joint / image / text", "model runs: mean (most)",
        "held by the PDS-tree: joint / image", "random joint sets that flip",
    )  # fmt: skip
    lines = []
    for name in summary.NECESSARY:
        n = summary.explain_numbers(rows, name)
        three = [n[s] for s in ("joint", "image", "text") if n[s]["maskable"]]
        two = three[:2]
        lines.append([
            name,
            " / ".join(f"{s['verified']}/{s['maskable']}" for s in three),
            " / ".join(_number(s["size"]) for s in three),
            " / ".join(f"{s['optimal']}/{s['provable']}" for s in three),
            " / ".join(f"{s['as_small_as_known']}/{s['maskable']}" for s in two),
            " / ".join(_number(s["minimum"]) for s in three),
            f"{n['runs']:.0f} ({n['runs_max']})",
            " / ".join(_number(s["by_graph"]) for s in two),
            _number(n["joint"]["random"]),
        ])  # fmt: skip
    return markdown(heads, lines)


def order_table(rows: list[dict[str, Any]], scope: str) -> str:
    """Orders and searches within one scope alone, smallest sets first."""
    numbers = summary.order_numbers(rows, scope)
    heads = (
        "search", "found", "units (95 % interval)", "optimal where provable", "model runs",
    )  # fmt: skip
    lines = []
    for name, n in sorted(numbers.items(), key=lambda item: (item[1]["size"], item[1]["runs"])):
        lines.append([
            name,
            f"{n['found']}/{n['targets']}",
            f"{n['size']:.2f} ({n['low']:.2f} to {n['high']:.2f})",
            f"{n['optimal']}/{n['provable']}",
            f"{n['runs']:,.0f}",
        ])  # fmt: skip
    return markdown(heads, lines)


def graph_table(rows: list[dict[str, Any]]) -> str:
    """What the PDS-trees hold, for each source."""
    heads = (
        "source", "tokens within radius 1 / 3", "holds a true cause, 1 / 3",
        "holds a smallest joint set, 1 / 3", "holds a smallest image set, 1 / 3",
    )  # fmt: skip
    lines = []
    for name in rows[0]["graphs"]:
        n = summary.graph_numbers(rows, name)
        lines.append([
            name,
            f"{n['tokens_1']:.1f} / {n['tokens_3']:.1f}",
            *(f"{n[f'{k}_1']:.2f} / {n[f'{k}_3']:.2f}" for k in ("cause", "joint", "image")),
        ])  # fmt: skip
    return markdown(heads, lines)


def sufficient_table(rows: list[dict[str, Any]]) -> str:
    """Sets that are enough by themselves."""
    heads = (
        "`explain(mode=\"sufficient\")`", "verified: joint / image / text",
        "units: joint / image / text", "units where every row of this table has a verified set",
        "joint optimal where provable", "minimum proven: joint / image / text", "model runs",
    )  # fmt: skip
    lines = []
    for name in [n for n in rows[0]["explain"] if n.endswith("sufficient")]:
        n = summary.sufficient_numbers(rows, name)
        three = [n[s] for s in ("joint", "image", "text")]
        lines.append([
            name,
            " / ".join(f"{s['verified']}/{s['needing']}" for s in three),
            " / ".join(_number(s["size"]) for s in three),
            " / ".join(_number(s["size_common"]) for s in three),
            f"{n['joint']['optimal']}/{n['joint']['provable']}",
            " / ".join(_number(s["minimum"]) for s in three),
            f"{n['runs']:.0f}",
        ])  # fmt: skip
    return markdown(heads, lines)


def _part(hits: int, total: int) -> str:
    return f"{hits} of {total}" + (f" ({hits / total:.1%})" if total else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(test: Any) -> str:
    d = test.difference
    return f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f}), p = {test.p_value:.2g}"
