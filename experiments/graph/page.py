"""Tables and README from the saved lines; tests check that the two agree.

``python -m experiments.graph.run --render`` writes them again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from causal_lvlm.items_file import read_lines
from causal_lvlm.metrics.statistics import Interval, PairedTest
from experiments.common.provenance import at_commit
from experiments.common.tables import fill, markdown
from experiments.graph import settings, summary
from experiments.graph.summary import Row

TOOL = "`causal_graph`"


def render(out: Path, page: Path | None) -> None:
    """Write table.md and the blocks of the README."""
    rows, config = load(out)
    texts = blocks(rows, config)
    table = "\n\n".join(texts.values()) + "\n"
    (out / "table.md").write_text(table, encoding="utf-8", newline="\n")
    if page is not None and page.exists():
        fill(page, texts)


def load(out: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return the measured targets and the settings of a run."""
    rows = [line["result"] for line in read_lines(out / "results.jsonl") if "result" in line]
    return rows, json.loads((out / "config.json").read_text(encoding="utf-8"))


def blocks(rows: Sequence[Row], config: dict[str, Any]) -> dict[str, str]:
    """Return the texts of the README by the name of their block."""
    return {
        "claim": claim(rows, config),
        "setup": setup(rows, config),
        "goals": goals(rows),
        "graph": graph_table(rows),
        "orders": order_table(rows),
        "size": size_table(rows),
        "searches": search_table(rows),
        "sources": source_table(rows),
        "thresholds": threshold_table(rows),
        "estimates": estimate_table(rows),
    }


def claim(rows: Sequence[Row], config: dict[str, Any]) -> str:
    """Say in three lines what a graph is worth; the project's README shows them, too."""
    some = summary.maskable(rows)
    found, orders = summary.graph_numbers(some), summary.order_numbers(rows)
    edges = summary.mean([r["edges"] for r in some], some)
    size = summary.mean([r["size"] for r in some], some)
    keeps = {name: f"{n['keeps'].mean:.0%}" for name, n in orders.items()}
    sources = {name: summary.source_numbers(some, name) for name in settings.SOURCES}
    denied = {n: (s["arrowhead"] + s["no_path"]) / s["causes"] for n, s in sources.items()}
    others = "; ".join(f"{n}: {keeps[n]}" for n in (*settings.BASELINES, settings.RANDOM))
    after = sum(s["after"] for s in sources.values())
    return "\n".join([
        f"- **Verified:** for {_part(found['done'], found['targets'])} of the held-out targets "
        f"(stream {config['stream']}) the model confirmed a sufficient graph, a necessary cut and "
        f"their random controls within {settings.BUDGET} runs: "
        f"{found['sufficient']['size'].mean:.1f} of {edges.mean:,.0f} edges alone keep the answer "
        f"({found['sufficient']['random']:.0%} of random graphs like them do).",
        f"- **What the learned graph is worth**, with every content edge cut but its own "
        f"{size.mean:.0f}: it keeps {keeps[settings.LEARNED]} of the answers (with as many edges "
        f"{others}).",
        f"- **What its marks deny:** {denied['influence']:.0%} of the causes that masks and cuts "
        f"proved ("
        + "; ".join(f"{n}: {d:.0%}" for n, d in denied.items() if n != "influence")
        + f"); after reconciling {after}.",
    ])  # fmt: skip


def setup(rows: Sequence[Row], config: dict[str, Any]) -> str:
    """Say what was measured."""
    some = summary.maskable(rows)
    left = len(some) - len(summary.defined(rows))
    resumed = " (of the last part: the run was resumed)" if config["resumed"] else ""
    return (
        f"{len(rows)} held-out targets in {len({r['scene'] for r in rows})} scenes, seed "
        f"{config['seed']}, stream {config['stream']}; {config['wrong_answers']} wrong answers "
        f"left out; {config['seconds'] / 60:.0f} minutes{resumed} with {config['jobs']} "
        f"process{'es' if config['jobs'] > 1 else ''}{at_commit(config)}. For "
        f"{len(rows) - len(some)} of them the answer stays with every content edge cut (prior); "
        f"the tables are of the other {len(some)}. For {left} of these all content edges together "
        f"are worth less than {settings.LEAST_WORTH:g} logit, so that faithfulness is undefined."
    )


def goals(rows: Sequence[Row]) -> str:
    """Say which goals were met, and which not."""
    some = summary.maskable(rows)
    found = summary.graph_numbers(some)
    size = found["sufficient"]["size"]
    orders, carried = summary.order_numbers(rows), "|A·dA|"
    keeps, edges = orders[settings.LEARNED]["keeps"], summary.mean([r["size"] for r in some], some)
    tests = summary.order_tests(rows, carried)
    better = _better(tests["keeps"]) or _better(tests["f"])
    denied, image = summary.contradiction_numbers(some), summary.image_numbers(some)
    lines = [
        f"- {_met(found['done'] >= 0.99 * found['targets'])} **Verified:** sufficient graph and "
        f"necessary cut, all random controls included, within {settings.BUDGET} runs in "
        f"{_part(found['done'], found['targets'])} of the targets; goal 99 %.",
        f"- {_met(size.mean <= 2.5)} **Size:** the sufficient graph has {_interval(size)} edges; "
        "goal at most 2.5.",
        f"- {_met(keeps.mean >= 0.97 and edges.mean <= 14)} **The learned graph alone** keeps the "
        f"answer of {keeps.mean:.1%} of the targets ({keeps.low:.1%} to {keeps.high:.1%}) with "
        f"{_interval(edges, 1)} edges; goal 97 % with at most 14.",
        f"- {_met(better)} **Beside |A·dA| with as many edges:** it keeps "
        f"{orders[carried]['keeps'].mean:.1%}; paired difference {_test(tests['keeps'])}; of "
        f"faithfulness {_test(tests['f'])}. Goal: better.",
        f"- {_met(denied['after'] == 0)} **Contradictions shown:** the learned graph denies "
        f"{denied['denied']} of {denied['causes']} causes that cuts proved, in {denied['graphs']} "
        f"graphs; the reconciled one {denied['after']}. Goal 0.",
        f"- **On the objects:** where the answer rests on objects and the sufficient graph has "
        f"image sources ({image['targets']} of {image['with_object']} targets), "
        f"{image['on'].mean:.0%} of these sources lie on the objects ({image['on'].low:.0%} to "
        f"{image['on'].high:.0%}; chance {image['chance'].mean:.0%}); all of them do in "
        f"{_part(image['all_on'], image['targets'])}.",
    ]
    return "\n".join(lines)


def graph_table(rows: Sequence[Row]) -> str:
    """`causal_graph` by kind of question."""
    heads = (
        "question", "targets", "prior", "both verified, controls included",
        "edges: sufficient / necessary", "largest", "minimum proven", "irreducible",
        "random sets that pass", "runs: mean (most)", "seconds, median",
    )  # fmt: skip
    lines = []
    for kind in [*dict.fromkeys(r["kind"] for r in rows), None]:
        of_kind = [r for r in rows if kind in (None, r["kind"])]
        some = summary.maskable(of_kind)
        prior = len(of_kind) - len(some)
        if not some:
            lines.append([str(kind), str(len(of_kind)), str(prior), *["–"] * (len(heads) - 3)])
            continue
        n = summary.graph_numbers(some)
        two = [n["sufficient"], n["necessary"]]
        lines.append([
            kind or "**all**", str(len(of_kind)), str(prior), f"{n['done']}/{n['targets']}",
            " / ".join(f"{s['size'].mean:.2f}" for s in two),
            " / ".join(str(s["largest"]) for s in two),
            " / ".join(f"{s['minimum']:.2f}" for s in two),
            " / ".join(f"{s['irreducible']:.2f}" for s in two),
            " / ".join(f"{s['random']:.2f}" for s in two),
            f"{n['runs'].mean:.0f} ({n['runs_most']})", f"{n['seconds']:.1f}",
        ])  # fmt: skip
    return markdown(heads, lines)


def order_table(rows: Sequence[Row]) -> str:
    """Faithfulness of every order at each share of the edges."""
    heads = ("order", *(f"{share * 100:g} %" for share in settings.SHARES), "CPR ↑", "CMD ↓")
    lines = [
        [_cell(name), *(f"{f:.2f}" for f in n["curve"]), _interval(n["cpr"]), _interval(n["cmd"])]
        for name, n in summary.order_numbers(rows).items()
    ]
    return markdown(heads, lines)


def size_table(rows: Sequence[Row]) -> str:
    """Every order with as many edges as the learned graph has."""
    heads = ("order", "keeps the answer", "faithfulness", "learned graph − this: keeps",
             "learned graph − this: CPR")  # fmt: skip
    lines = []
    for name, n in summary.order_numbers(rows).items():
        tests = None if name == settings.LEARNED else summary.order_tests(rows, name)
        beside = ["", ""] if tests is None else [_test(tests["keeps"]), _test(tests["cpr"])]
        lines.append([_cell(name), _interval(n["keeps"]), _interval(n["f"]), *beside])
    return markdown(heads, lines)


def search_table(rows: Sequence[Row]) -> str:
    """The same growing and shrinking along one order alone, beside `causal_graph`."""
    heads = (
        "edges in the order of", "found: sufficient / necessary",
        "edges: sufficient", "edges: necessary (median)", "irreducible",
        f"{TOOL} − this: sufficient", f"{TOOL} − this: necessary", "runs",
    )  # fmt: skip
    some = summary.maskable(rows)
    own = summary.graph_numbers(some)
    two = [own["sufficient"], own["necessary"]]
    lines = [[
        TOOL, " / ".join(str(s["verified"]) for s in two), _interval(two[0]["size"]),
        _interval(two[1]["size"]), " / ".join(f"{s['irreducible']:.2f}" for s in two), "", "",
        f"{own['runs'].mean:.0f}",
    ]]  # fmt: skip
    for name in (*settings.ORDERS, settings.DDMIN):
        n = summary.search_numbers(some, name)
        two = [n["sufficient"], n["necessary"]]
        lines.append([
            _cell(name), " / ".join(str(s["found"]) for s in two), _interval(two[0]["size"]),
            f"{_interval(two[1]['size'])}, {two[1]['median']:g}",
            " / ".join(f"{s['irreducible']:.2f}" for s in two),
            *(_test(s["difference"]) for s in two), f"{n['runs'].mean:.0f}",
        ])  # fmt: skip
    return markdown(heads, lines)


def source_table(rows: Sequence[Row]) -> str:
    """What the graphs of each source keep and deny."""
    heads = (
        "learned from", "edges (leading to the target)", "keeps the answer",
        _cell("|A·dA|, as many edges"), "proven causes", "denied: arrowhead / no path", "no node",
        "denied after reconciling",
    )  # fmt: skip
    lines = []
    some = summary.maskable(rows)
    for name in settings.SOURCES:
        n = summary.source_numbers(some, name)
        denied = n["arrowhead"] + n["no_path"]
        lines.append([
            name, f"{n['edges'].mean:,.1f} ({n['leading'].mean:,.1f})", _interval(n["keeps"]),
            _interval(n["keeps_carried"]), str(n["causes"]),
            f"{n['arrowhead']} / {n['no_path']} ({denied / max(n['causes'], 1):.0%})",
            str(n["not_a_node"]), str(n["after"]),
        ])  # fmt: skip
    return markdown(heads, lines)


def threshold_table(rows: Sequence[Row]) -> str:
    """Graphs of the influence matrix from sparse to dense."""
    heads = ("threshold", "edges", "learned graph keeps", _cell("|A·dA|, edges"),
             _cell("|A·dA| keeps"))  # fmt: skip
    names = [*(f"{t:g}" for t in settings.THRESHOLDS), "sparsest that keeps the answer"]
    lines = [
        [
            name, _interval(n["edges"], 1), _interval(n["keeps"]),
            _interval(n["edges_carried"], 1), _interval(n["keeps_carried"]),
        ]
        for name, n in zip(
            names, summary.threshold_numbers(summary.maskable(rows)), strict=True
        )
    ]  # fmt: skip
    return markdown(heads, lines)


def estimate_table(rows: Sequence[Row]) -> str:
    """Rank correlation of the scores with cuts made one by one."""
    n = summary.estimate_numbers(rows)
    heads = (f"score ({n['targets']} targets, {n['edges']:,} cuts)", "median ρ", "least ρ")
    lines = [[_cell(k), f"{v['median']:.2f}", f"{v['least']:.2f}"] for k, v in n["rho"].items()]
    return markdown(heads, lines)


def _cell(name: str) -> str:
    return name.replace("|", r"\|")


def _met(is_met: bool) -> str:
    return "✓" if is_met else "✗ not met:"


def _better(test: PairedTest) -> bool:
    return test.difference.mean > 0 and test.p_value < 0.05


def _part(hits: int, total: int) -> str:
    return f"{hits} of {total}" + (f" ({hits / total:.1%})" if total else "")


def _interval(found: Interval, digits: int = 2) -> str:
    return f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _test(test: PairedTest) -> str:
    d = test.difference
    return f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f}), p = {test.p_value:.2g}"
