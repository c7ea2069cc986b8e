"""What ``causal-lvlm learn`` prints and writes about a learned graph."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causal_lvlm.errors import StructureError
from causal_lvlm.storage import to_jsonable, to_utf8, write_bytes, write_json

if TYPE_CHECKING:
    from causal_lvlm.arrays import FloatArray
    from causal_lvlm.cli.learn_trust import Trust
    from causal_lvlm.structure.compare import GraphComparison
    from causal_lvlm.structure.null_result import NullEdges
    from causal_lvlm.structure.pag import PAG
    from causal_lvlm.structure.result import LearnedStructure
    from causal_lvlm.structure.stability_result import EdgeStability

__all__ = [
    "as_json", "comparison_lines", "edge_rows", "read_truth", "summary_lines", "write_files",
]  # fmt: skip

SHOWN = 40


def edge_rows(
    structure: LearnedStructure, names: Sequence[str], confidence: FloatArray | None = None
) -> list[dict[str, Any]]:
    """Return one row per edge, the strongest first (largest of the weakest |partial| met)."""
    from causal_lvlm.structure.export import to_dict

    rows = to_dict(structure.pag, names, confidence=confidence, kind=structure.kind)["edges"]
    for row in rows:
        i, j = row["source"], row["target"]
        if row["kind"] in ("<--", "<-o", "--o"):
            row["text"] = f"{names[j]} {_turned(row['kind'])} {names[i]}"
        else:
            row["text"] = f"{names[i]} {row['kind']} {names[j]}"
        row["p_value"] = structure.p_value(i, j)
        row["weakest"] = structure.weakest(i, j)
        row["tests"] = structure.tests_of(i, j)
    return sorted(
        rows, key=lambda r: (-r["weakest"] if r["weakest"] == r["weakest"] else 0, r["source"])
    )


def _turned(symbol: str) -> str:
    return symbol[::-1].replace("<", ">")


def summary_lines(
    structure: LearnedStructure, names: Sequence[str], seconds: float, source: str, trust: Trust
) -> list[str]:
    """Return the lines that describe a result, the table of edges last."""
    from causal_lvlm.explanation.wording import amount

    rows = edge_rows(structure, names, trust.confidence)
    used = structure.parameters
    level = (
        f"threshold {used['threshold']:g}"
        if used["threshold"] is not None
        else f"{used['n_samples']} samples, alpha {used['alpha']:g}"
    )
    ended = "complete" if structure.complete else f"NOT complete: {structure.stopped}"
    if not structure.complete and structure.unfinished_size is not None:
        ended += (
            f" at conditioning sets of size {structure.unfinished_size}, "
            f"{amount(structure.edges_left, 'edge')} left"
        )
    undecided = amount(len(structure.undecided), "pair")
    if structure.undecided_edges:
        undecided += f", {structure.undecided_edges} of them edges of the graph"
    violations = [str(violation) for violation in structure.violations]
    shown = "; ".join(violations[:3]) + (f"; {len(violations) - 3} more" if violations[3:] else "")
    table = {
        "algorithm": f"{used['algorithm']}, {used['variant']} ({structure.kind.upper()})",
        "input": f"{source}, {level}",
        "tests by size": ", ".join(map(str, structure.tests_per_size)),
        "undecided": undecided,
        "conflicts": amount(structure.conflicts, "mark"),
        "violations": shown or "none",
    }
    lines = [
        f"{amount(len(names), 'node')}, {amount(len(rows), 'edge')}, "
        f"{amount(structure.n_tests, 'test')} of independence in {seconds:.2f} s, {ended}"
    ]
    if trust.stability is not None:
        table["stability"] = _stability(trust.stability)
    lines += [f"  {name:<14} {text}" for name, text in table.items()]
    if trust.null is not None:
        lines.append(_null(trust.null))
    if rows:
        width = max(len(row["text"]) for row in rows[:SHOWN])
        more = "" if trust.stability is None else "  in runs"
        lines += ["", f"{'edge':<{width}}  weakest  largest p  tests{more}"]
        for row in rows[:SHOWN]:
            lines.append(
                f"{row['text']:<{width}}  {row['weakest']:>7.4f}  {_probability(row['p_value']):>9}"
                f"  {row['tests']:>5}" + (f"  {row['confidence']:>7.2f}" if more else "")
            )
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more (--json or --out gives all)")
    if trust.stability is not None:
        lines += _listed("not in the graph, but in half of the runs or more",
                         _often(structure, names, trust.stability))  # fmt: skip
    return lines


_AGAIN = {
    "data": "rows drawn with replacement",
    "attention": "attention weights jittered by about {percent:g} %",
    "target": "attention weights jittered by about {percent:g} %",
    "correlation": "correlations that as many samples could have shown",
}


def _stability(found: EdgeStability) -> str:
    """Say what was resampled, and that frequencies are of edges, in one line."""
    from causal_lvlm.explanation.wording import amount

    how = _AGAIN[found.parameters["kind"]].format(
        percent=100 * (found.parameters.get("jitter") or 0.0)
    )
    text = f"{amount(found.n_runs, 'run')} with {how}, seed {found.parameters['seed']}"
    if found.incomplete_runs:
        text += f"; {found.incomplete_runs} of them ended by a budget"
    return text


def _null(found: NullEdges) -> str:
    """Return the line of ``--null``."""
    from causal_lvlm.explanation.wording import amount

    low, high = (found.quantiles[q] for q in (0.05, 0.95))
    line = (
        f"{amount(found.observed, 'edge')}; by chance at these settings {found.mean:.1f} "
        f"({low:g}-{high:g}), p = {found.p_value:.2g} "
        f"({amount(found.n_permutations, 'permutation')})"
    )
    if found.observed < found.mean:
        line += f"; for as few edges p = {found.p_value_fewer:.2g}"
    if found.incomplete:
        line += f"; {found.incomplete} permuted graphs ended by a budget"
    return line


def _often(structure: LearnedStructure, names: Sequence[str], found: EdgeStability) -> list[str]:
    """Return edges of at least half of the runs that the graph lacks, the most frequent first."""
    share = found.edge_frequency
    absent = [
        (float(share[i, j]), i, j)
        for i in range(len(share))
        for j in range(i + 1, len(share))
        if share[i, j] >= 0.5 and not structure.pag.marks[i, j]
    ]
    absent.sort(key=lambda item: (-item[0], item[1:]))
    return [f"{names[i]} - {names[j]} ({value:.2f})" for value, i, j in absent]


def _probability(p: float) -> str:
    if math.isnan(p):
        return "-"  # with a fixed threshold there is none
    return f"{p:.2g}" if p > 1e-300 else "< 1e-300"


def as_json(
    structure: LearnedStructure,
    names: Sequence[str],
    seconds: float,
    comparison: GraphComparison | None,
    trust: Trust,
) -> str:
    """Return the graph, what is known about its edges, the numbers and the comparison as JSON."""
    from causal_lvlm.structure.export import to_dict

    value = to_dict(structure.pag, names, kind=structure.kind)
    value["edges"] = edge_rows(structure, names, trust.confidence)
    value["summary"] = {**structure.summary(), "seconds": seconds}
    if comparison is not None:
        value["comparison"] = comparison.to_dict()
    if trust.stability is not None:
        value["stability"] = trust.stability.to_dict()
    if trust.null is not None:
        value["null"] = trust.null.to_dict()
    return json.dumps(to_jsonable(value), ensure_ascii=False)


def write_files(
    folder: Path,
    structure: LearnedStructure,
    names: Sequence[str],
    comparison: GraphComparison | None,
    trust: Trust,
) -> list[Path]:
    """Write the structure and the graph in every format; return the paths.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    from causal_lvlm.structure import export, texts

    pag, kind, sure = structure.pag, structure.kind, trust.confidence
    written = [structure.save(folder / "structure.json"), folder / "structure.npz"]
    for ending, text in {
        "json": export.to_json(pag, names, confidence=sure, kind=kind),
        "graphml": str(export.to_graphml(pag, None, names, confidence=sure, kind=kind)),
        "dot": export.to_dot(pag, names, confidence=sure, kind=kind),
        "pcalg.txt": texts.to_pcalg(pag, names, kind=kind),
        "tetrad.txt": texts.to_tetrad(pag, names, kind=kind),
    }.items():
        written.append(write_bytes(folder / f"{kind}.{ending}", to_utf8(text)))
    if comparison is not None:
        written.append(write_json(folder / "comparison.json", comparison.to_dict()))
    if trust.stability is not None:
        written += [trust.stability.save(folder / "stability.json"), folder / "stability.npz"]
    if trust.null is not None:
        written += [trust.null.save(folder / "null.json"), folder / "null.npz"]
    return written


def read_truth(path: Path, names: Sequence[str], algorithm: str | None) -> PAG:
    """Read the graph to compare with, before anything is learned.

    Nodes correspond by name; by number if one of the graphs has no names.

    Raises
    ------
    StructureError, OutputError
        If the file holds no graph over the same nodes, or a graph of another kind than the
        algorithm learns.
    """
    from causal_lvlm.structure.files import read_graph
    from causal_lvlm.structure.marks import check_kind

    learned = "cpdag" if algorithm == "pc" else "pag"
    truth = read_graph(path, learned)
    numbers = tuple(str(k) for k in range(len(names)))
    if numbers not in (truth.names, tuple(names)) or set(truth.names) == set(names):
        truth = truth.in_order_of(names)
    elif len(truth.names) != len(names):
        raise StructureError(f"{str(path)!r} has {len(truth.names)} nodes, not {len(names)}")
    if truth.kind not in (None, learned):
        raise StructureError(
            f"{str(path)!r} holds a {truth.kind.upper()}, but {algorithm or 'the default'} learns "
            f"a {learned.upper()}: their marks do not mean the same; choose another --algorithm "
            "(pc learns a CPDAG, the others a PAG) or another truth"
        )
    if truth.kind is None:
        try:
            check_kind(truth.pag, learned)
        except StructureError as error:
            raise StructureError(
                f"{str(path)!r} cannot be compared with what {algorithm} learns, a CPDAG: {error} "
                "Choose another --algorithm (pc learns a CPDAG, the others a PAG) or another truth"
            ) from error
    return truth.pag


def comparison_lines(found: GraphComparison, where: str, names: Sequence[str]) -> list[str]:
    """Return the lines that describe a comparison, first the numbers."""
    numbers = {
        "precision": found.precision, "recall": found.recall, "F1": found.f1,
        "mark accuracy": found.mark_accuracy,
    }  # fmt: skip
    shares = ", ".join(f"{name} {_share(value)}" for name, value in numbers.items())
    lines = ["", f"compared with {where}: skeleton {shares}, SHD {found.shd}"]
    for what, pairs in (("extra", found.extra), ("missing", found.missing)):
        lines += _listed(what, [f"{names[i]} - {names[j]}" for i, j in pairs])
    changed = zip(found.changed, found.changed_symbols, strict=True)
    return lines + _listed(
        "other marks",
        [f"{names[i]} {mine} {names[j]} (is {true})" for (i, j), (mine, true) in changed],
    )


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _listed(what: str, items: list[str], most: int = 10) -> list[str]:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return [f"  {what}: {', '.join(items[:most])}{rest}"] if items else []
