"""What was to be reached and what was measured, as Markdown tables from the results files.

    python -m experiments.benchmarks.report

Reads ``results/*.jsonl``, writes ``results/table.md``. Every number is from those files; a ratio is
of two times of one run on one machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import RESULTS

Records = list[dict[str, Any]]


def load(name: str) -> tuple[dict[str, Any], Records]:
    """Return the machine and the records of a benchmark (empty if it was not run)."""
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        return {}, []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return lines[0]["machine"], lines[1:]


def pick(records: Records, **wanted: Any) -> Records:
    """Return the records with these values."""
    return [r for r in records if all(r.get(key) == value for key, value in wanted.items())]


def row(work: str, goal: str, measured: str, reached: bool) -> str:
    """Return one line of the table of goals."""
    return f"| {work} | {goal} | {measured} | {'yes' if reached else '**no**'} |"


def attention_goals(records: Records) -> list[str]:
    """Goals for one head."""
    lines = []
    for nodes, limit in ((200, 0.010), (700, 0.300)):
        heads = pick(records, nodes=nodes)
        if not heads:
            continue
        slowest = max(head["seconds"] for head in heads)
        over = max(head["over_bare_loop"] for head in heads)
        lines.append(
            row(
                f"ordered ICD, one attention head, n = {nodes}, slowest of {len(heads)}, evidence "
                "included",
                f"<= {limit * 1e3:.0f} ms",
                f"{slowest * 1e3:.1f} ms ({over:.1f} times the bare loop)",
                slowest <= limit,
            )
        )
        ratios = [head["ratio"] for head in heads if "ratio" in head]
        if nodes == 200 and ratios:
            lines.append(
                row(
                    "the same, against causality-lab beside it",
                    ">= 1,000 times, each head",
                    ", ".join(f"{ratio:,.0f}" for ratio in ratios),
                    min(ratios) >= 1000,
                )
            )
    return lines


def many_goals(records: Records) -> list[str]:
    """Goals for 32 heads."""
    lines = []
    for record in records:
        if record["n_jobs"] != 2:
            continue
        priced = "with" if record["evidence"] else "without"
        lines.append(
            row(
                f"32 heads x 700 tokens, two threads, {priced} per-pair evidence",
                "<= 6 s",
                f"{record['seconds']:.1f} s",
                record["seconds"] <= 6,
            )
        )
        peak, kept = record["peak_bytes_per_pair"], record["kept_bytes_per_pair"]
        lines.append(
            row(
                f"memory beyond the input, {priced} per-pair evidence",
                "(its price)" if record["evidence"] else "<= 20 bytes per pair and head",
                f"{kept:.1f} kept, {peak:.1f} at the peak of working",
                record["evidence"] or peak <= 20,
            )
        )
    return lines


def gaussian_goals(records: Records) -> list[str]:
    """Goals for p = 200 data."""
    goals = (
        ("pc", "pybnesian", "pc", 20),
        ("pc", "tetrad", "pc", 200),
        ("fci", "tetrad", "fci", 100),
        ("icd", "tetrad", "fci", 100),
    )
    lines = []
    for ours, peer, algorithm, goal in goals:
        runs = pick(records, nodes=200, learner=peer, algorithm=algorithm, status="ok")
        if not runs:
            continue
        ratio = min(run["ratios"][ours] for run in runs)
        mine = pick(records, nodes=200, learner="causal-lvlm", algorithm=ours)[0]["best_seconds"]
        theirs = min(run["best_seconds"] for run in runs)
        lines.append(
            row(
                f"linear-Gaussian p = 200, degree 4, n = 1,000: {ours.upper()} against {peer} "
                f"{algorithm.upper()}",
                f">= {goal} times",
                f"{ratio:,.0f} times ({mine * 1e3:.1f} ms; {theirs:.1f} s)",
                ratio >= goal,
            )
        )
    return lines


def scaling_goals(records: Records) -> list[str]:
    """Goals for large p."""
    lines = []
    for nodes, goal, limit in ((1000, "seconds", 60.0), (3000, "minutes", 600.0)):
        runs = pick(records, nodes=nodes, learner="causal-lvlm")
        if runs:
            shown = ", ".join(f"{r['algorithm'].upper()} {r['best_seconds']:.1f} s" for r in runs)
            reached = all(r["status"] == "ok" and r["best_seconds"] <= limit for r in runs)
            lines.append(row(f"p = {nodes:,}, degree 3", f"finishes in {goal}", shown, reached))
    return lines


def compile_goals(records: Records) -> list[str]:
    """First call, and whether the cache is safe."""
    lines = []
    for cache, words in (("empty", "compiling"), ("full", "compiled code on disk")):
        runs = pick(records, cache=cache)
        if runs:
            shown = ", ".join(f"{r['algorithm']} {r['seconds']['first_call']:.1f} s" for r in runs)
            lines.append(row(f"first call after install, {words}", "reported", shown, True))
    for record in records:
        if "check" in record:
            said = "noticed" if record["noticed"] else "stale"
            lines.append(row(f"cache: {record['check']}", "noticed", said, record["noticed"]))
    return lines


def gaussian_table(records: Records) -> list[str]:
    """Every learner at every size, with accuracy."""
    lines = [
        "| p | learner | first s | best s | skeleton F1 | arrowheads: precision, "
        "recall | skeleton F1 with ours | times ours |",
        "| ---: | --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for r in records:
        name = f"{r['learner']} {r['algorithm'].upper()}"
        if "majority" in r.get("version", ""):
            name += " (majority rule)"
        if "best_seconds" not in r:
            least = r.get("ratio_at_least", {})
            shown = ", ".join(f"{key.upper()} > {value:,.0f}" for key, value in least.items())
            lines.append(f"| {r['nodes']} | {name} | {r['status']} | | | | | {shown} |")
            continue
        ratios = r.get("ratios", {})
        shown = ", ".join(f"{key.upper()} {value:,.0f}" for key, value in ratios.items())
        agree = r.get("skeleton_f1_with_ours")
        arrows = ""
        if "arrowhead_precision" in r:
            arrows = f"{r['arrowhead_precision']:.2f}, {r['arrowhead_recall']:.2f}"
        lines.append(
            f"| {r['nodes']} | {name} | {r['seconds'][0]:.3g} | {r['best_seconds']:.3g} | "
            f"{r['skeleton_f1']:.3f} | {arrows} | {'' if agree is None else f'{agree:.3f}'} | "
            f"{shown} |"
        )
    return lines


def attention_table(records: Records) -> list[str]:
    """Every head."""
    lines = [
        "| head | nodes | edges | ms | without evidence | bare loop | causality-lab s | ratio | "
        "skeleton F1: sequential, stable |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for r in sorted(records, key=lambda r: (r["nodes"], r["head"])):
        peer = ratio = agree = ""
        if "ratio" in r:
            peer, ratio = f"{min(r['peer_seconds']):.2f}", f"{r['ratio']:,.0f}"
            agree = f"{r['sequential_f1_with_peer']:.3f}, {r['skeleton_f1_with_peer']:.3f}"
        lines.append(
            f"| {r['head'].split('_')[0]} | {r['nodes']} | {r['edges']} | "
            f"{r['seconds'] * 1e3:.2f} | {r['seconds_without_evidence'] * 1e3:.2f} | "
            f"{r['bare_loop_seconds'] * 1e3:.2f} | {peer} | {ratio} | {agree} |"
        )
    return lines


def main() -> None:
    """Write the tables."""
    names = ("attention_heads", "many_heads", "gaussian_data", "scaling", "compile_time")
    found = {name: load(name) for name in names}
    goals = {
        "attention_heads": attention_goals,
        "many_heads": many_goals,
        "gaussian_data": gaussian_goals,
        "scaling": scaling_goals,
        "compile_time": compile_goals,
    }
    lines = ["| work | to reach | measured | reached |", "| --- | --- | --- | --- |"]
    for name in names:
        lines += goals[name](found[name][1])
    machines = [(name, machine) for name, (machine, _) in found.items() if machine]
    lines.append("")
    for name, about in machines:
        versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
        lines.append(
            f"- `{name}`: {about['date']}, {about['processor']}, {about['cores']} cores, load when "
            f"it began {about['load_average']:.1f}, Python {about['python']}, {versions}"
        )
    data = found["gaussian_data"][1]
    peers = sorted({r["version"] for r in data if r.get("version")})
    lines += [f"- {version}" for version in peers]
    if found["attention_heads"][1]:
        lines += ["", "Attention heads:", "", *attention_table(found["attention_heads"][1])]
    if data:
        lines += ["", "Linear-Gaussian data, degree 4, 1,000 samples:", "", *gaussian_table(data)]
    text = "\n".join(lines) + "\n"
    Path(RESULTS / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
