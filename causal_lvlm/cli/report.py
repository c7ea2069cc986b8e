"""``causal-lvlm report``: the interactive page from saved results, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causal_lvlm.cli.overwriting import spare
from causal_lvlm.cli.support import Debug, clear_errors, one_thread, say
from causal_lvlm.errors import OutputError

if TYPE_CHECKING:
    from causal_lvlm.viz.case import Case

__all__ = ["read_results", "report"]

Group = tuple[Path, int] | None
INDEX = "explanation.json"  # as `causal_lvlm.viz.bundle` calls it
_LISTS = ("explanations", "attributions", "metrics", "stability", "heads")
_BESIDE = ("heat-*.json", "metrics*.json", "stability*.json", "heads*.json")


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Saved explanations, attributions, tables of metrics, stability and graphs of "
            "heads (JSON), or folders that hold some, such as what explain --out wrote.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    debug: Debug = False,
) -> None:
    """Write one self-contained, interactive page about saved results.

    Needs no model and no network. Results about the same run share a part of the page.
    """
    one_thread()
    with clear_errors(debug):
        spare([out], _expanded(files))
        cases, remarks = read_results(files)
        for remark in remarks:
            say(f"causal-lvlm: {remark}")
        from causal_lvlm.explanation.wording import amount
        from causal_lvlm.viz.report import report_cases

        path = report_cases(cases, out, title=title)
        found = sum(len(case.explanations) for case in cases)
        heats = sum(len(case.attributions) for case in cases)
        typer.echo(
            f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB): {amount(found, 'explanation')}, "
            f"{amount(heats, 'attribution')}, {amount(len(cases), 'run')}."
        )


def read_results(files: Sequence[Path]) -> tuple[list[Case], list[str]]:
    """Read saved results and sort them into runs.

    Explanations with the same prompt, answer and images are of one run. Everything else carries no
    image: it goes to the run that an index puts it in, otherwise to every run whose tokens its
    target fits and whose model is the same.

    Parameters
    ----------
    files : sequence of pathlib.Path
        JSON files; of a folder, all of them.

    Returns
    -------
    list of Case
    list of str
        What was left out, and why.

    Raises
    ------
    OutputError
        If a file cannot be read, a file named is no result, or there is no explanation.
    """
    from causal_lvlm.attribution.result import Attribution
    from causal_lvlm.explanation.head_graphs import HeadGraphs
    from causal_lvlm.explanation.result import Explanation
    from causal_lvlm.explanation.trust import TargetStability
    from causal_lvlm.metrics.result import MetricTable
    from causal_lvlm.viz.case import Case

    readers: dict[str, Any] = {
        "explanation": Explanation.load,
        "attribution": Attribution.load,
        "metrics": MetricTable.load,
        "target-stability": TargetStability.load,
        "head-graphs": HeadGraphs.load,
    }
    found: dict[str, list[tuple[Any, Group]]] = {kind: [] for kind in readers}
    for path, (named, group) in _expanded(files).items():
        kind = str(_read(path).get("kind"))
        if kind in readers:
            found[kind].append((readers[kind](path), group))
        elif named:
            raise OutputError(
                f"{str(path)!r} holds {kind!r}; a report is made of: {', '.join(readers)}"
            )
    if not found["explanation"]:
        raise OutputError(
            f"there is no saved explanation in {', '.join(str(f) for f in files)}; write some "
            "with explain --out FOLDER or Explanation.save: they carry image, tokens and answer"
        )
    runs: dict[tuple[Any, ...], list[tuple[Any, Group]]] = {}
    for explanation, group in found["explanation"]:
        runs.setdefault(_run_of(explanation), []).append((explanation, group))
    cases = []
    remarks: list[str] = []
    used: set[int] = set()
    others = [kind for kind in readers if kind != "explanation"]
    for members in runs.values():
        first, groups = members[0][0], {group for _, group in members}
        fitting = {
            kind: [
                result
                for result, group in found[kind]
                if (group is None or group in groups) and _fits(result, first)
            ]
            for kind in others
        }
        used.update(id(r) for results in fitting.values() for r in results)
        cases.append(
            Case(
                first.summary,
                [explanation for explanation, _ in members],
                fitting["attribution"],
                name=_short(str(first.summary["answer"])) if len(runs) > 1 else "",
                metrics=fitting["metrics"],
                stability=fitting["target-stability"],
                heads=fitting["head-graphs"],
            )
        )
    for kind in others:
        lost = sum(id(r) not in used for r, _ in found[kind])
        if lost:
            remarks.append(f"{lost} of the {kind} files fit no run of an explanation: left out")
    return cases, remarks


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it holds no mapping."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OutputError(f"cannot read a saved result from {str(path)!r}: {error}") from error
    return value if isinstance(value, dict) else {}


def _expanded(files: Sequence[Path]) -> dict[Path, tuple[bool, Group]]:
    """Return all files, each once: whether it was named itself, and the run an index puts it in.

    An index names the files of its runs. A single explanation that ``explain --out`` wrote has no
    index: what the command wrote beside it belongs to it.
    """
    listed: dict[Path, tuple[bool, Group]] = {}
    for given in files:
        inside = sorted(given.glob("*.json")) if given.is_dir() else [given]
        values = {path: _read(path) for path in inside if path.name == INDEX or path == given}
        for path, value in values.items():
            for number, run in enumerate(value.get("runs", ())):
                entries = [e for name in _LISTS for e in run.get(name, ())]
                for entry in entries:
                    file = path.with_name(Path(entry["file"]).name)
                    listed.setdefault(file, (True, (path, number)))
            if given.name == INDEX and value.get("kind") == "explanation":
                beside = [p for pattern in _BESIDE for p in sorted(given.parent.glob(pattern))]
                for file in beside:
                    listed.setdefault(file, (False, None))
        for path in inside:
            if values.get(path, {}).get("kind") != "explanations":
                listed.setdefault(path, (path == given, None))
    return listed


def _run_of(explanation: Any) -> tuple[Any, ...]:
    summary = explanation.summary
    images = (summary.get("image"), *summary.get("more_images", ()))
    said = (summary["prompt"], summary["answer"], tuple(summary["token_ids"]))
    return explanation.model_id, *said, images


def _fits(result: Any, explanation: Any) -> bool:
    """Whether a result without a trace of its own can be of the same run."""
    ids = explanation.summary["token_ids"]
    if result.target is None:
        return False
    positions = result.target.positions
    return (
        getattr(result, "model_id", None) in (None, explanation.model_id)
        and len(getattr(result, "scores", ids)) == len(ids)
        and positions[-1] < len(ids)
        and tuple(ids[p] for p in positions) == tuple(result.target.token_ids)
    )


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
