"""``causal-lvlm report``: the interactive page from saved results, without a model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

from causal_lvlm.cli.overwriting import spare
from causal_lvlm.cli.support import Debug, clear_errors, one_thread, say
from causal_lvlm.errors import OutputError
from causal_lvlm.fields import many, reading, record, text
from causal_lvlm.rasters import check_pictures, picture_size
from causal_lvlm.storage import output_folder, read_object
from causal_lvlm.summary import check_run, pictures_of

if TYPE_CHECKING:
    from causal_lvlm.attribution.result import Attribution
    from causal_lvlm.explanation.head_graphs import HeadGraphs
    from causal_lvlm.explanation.result import Explanation
    from causal_lvlm.explanation.stability import TargetStability
    from causal_lvlm.metrics.result import MetricTable
    from causal_lvlm.tokens import Target
    from causal_lvlm.viz.case import Case

__all__ = ["read_results", "report"]

T = TypeVar("T")
Group: TypeAlias = tuple[Path, int] | None
Other: TypeAlias = "Attribution | MetricTable | TargetStability | HeadGraphs"
INDEX = "explanation.json"  # as `causal_lvlm.viz.bundle` calls it
MAX_FILES, MAX_BYTES = 5_000, 2_000_000_000  # of all files of a page
MAX_PIXELS = 1_000_000_000  # of all runs of a page
LISTS = ("explanations", "attributions", "metrics", "stability", "heads")
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
        output_folder(out.parent)
        if out.is_dir():
            raise OutputError(f"{str(out)!r} is a folder; give the name of the page")
        spare([out], _expanded(files))
        cases, remarks = read_results(files)
        for remark in remarks:
            say(f"causal-lvlm: {remark}")
        from causal_lvlm.explanation.wording import amount
        from causal_lvlm.viz.report import report_cases

        try:
            path = report_cases(cases, out, title=title)
        except OutputError:
            for explanation in (e for case in cases for e in case.explanations):
                typer.echo(explanation.sentence())  # what the page would have said first
            raise
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
    from causal_lvlm.explanation.stability import TargetStability
    from causal_lvlm.metrics.result import MetricTable
    from causal_lvlm.viz.case import Case

    kinds: dict[str, type[Other]] = {
        "attribution": Attribution, "metrics": MetricTable, "target-stability": TargetStability,
        "head-graphs": HeadGraphs,
    }  # fmt: skip
    explanations: list[tuple[Explanation, Group]] = []
    others: list[tuple[Other, Group]] = []
    for path, (named, group) in _expanded(files).items():
        kind = str(read_object(path).get("kind"))[:40]
        if kind == "explanation":
            explanation = Explanation.load(path)
            with reading(path, "explanation"):
                check_run(explanation.summary, "trace")
            explanations.append((explanation, group))
        elif kind in kinds:
            others.append((kinds[kind].load(path), group))
        elif named:
            known = ", ".join(["explanation", *kinds])
            raise OutputError(f"{str(path)!r} holds {kind!r}; a report is made of: {known}")
    if not explanations:
        raise OutputError(
            f"there is no saved explanation in {', '.join(str(f) for f in files)}; write some "
            "with explain --out FOLDER or Explanation.save: they carry image, tokens and answer"
        )
    runs: dict[tuple[Hashable, ...], list[tuple[Explanation, Group]]] = {}
    for explanation, group in explanations:
        runs.setdefault(_run_of(explanation), []).append((explanation, group))
    _check_pixels(members[0][0] for members in runs.values())
    cases = []
    used: set[int] = set()
    for members in runs.values():
        first, groups = members[0][0], {None, *(group for _, group in members)}
        fitting = [r for r, group in others if group in groups and _fits(r, first)]
        used.update(map(id, fitting))
        cases.append(
            Case(
                first.summary,
                [explanation for explanation, _ in members],
                _only(Attribution, fitting),
                name=_short(str(first.summary["answer"])) if len(runs) > 1 else "",
                metrics=_only(MetricTable, fitting),
                stability=_only(TargetStability, fitting),
                heads=_only(HeadGraphs, fitting),
            )
        )
    remarks = []
    for name, kind_of in kinds.items():
        lost = sum(id(result) not in used for result in _only(kind_of, [r for r, _ in others]))
        if lost:
            remarks.append(f"{lost} of the {name} files fit no run of an explanation: left out")
    return cases, remarks


def _only(kind: type[T], results: Iterable[object]) -> list[T]:
    return [result for result in results if isinstance(result, kind)]


_NAMED = record({"file": text})
_RUNS = record({"runs": many(record(dict.fromkeys(LISTS, many(_NAMED)), frozenset(LISTS)))})


def _check_totals(paths: Iterable[Path]) -> None:
    """Raise `OutputError` where the files are more than one page can be made of."""
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    if len(sizes) > MAX_FILES or sum(sizes) > MAX_BYTES:
        raise OutputError(
            f"{len(sizes)} files with {sum(sizes) / 1e6:.0f} MB are too much for one page; at most "
            f"{MAX_FILES} files and {MAX_BYTES / 1e6:.0f} MB are allowed: make several pages"
        )


def _check_pixels(explanations: Iterable[Explanation]) -> None:
    """Raise `OutputError` where all runs together have too many pixels, before any is drawn."""
    pixels = sum(
        width * height
        for explanation in explanations
        for data in check_pictures(pictures_of(explanation.summary))
        for width, height in (picture_size(data),)
    )
    if pixels > MAX_PIXELS:
        raise OutputError(
            f"the pictures of these runs have {pixels / 1e6:.0f} million pixels; one page may have "
            f"{MAX_PIXELS / 1e6:.0f} million: make several pages"
        )


def _expanded(files: Sequence[Path]) -> dict[Path, tuple[bool, Group]]:
    """Return all files, each once: whether it was named itself, and the run an index puts it in.

    An index names the files of its runs. A single explanation that ``explain --out`` wrote has no
    index: what the command wrote beside it belongs to it.
    """
    inside = {f: sorted(f.glob("*.json")) if f.is_dir() else [f] for f in files}
    _check_totals(dict.fromkeys(path for paths in inside.values() for path in paths))
    listed: dict[Path, tuple[bool, Group]] = {}
    for given, paths in inside.items():
        kinds = {}
        for path in (path for path in paths if path.name == INDEX or path == given):
            value = read_object(path)
            kinds[path] = value.get("kind")
            for file, number in _listed_in(path, value):
                listed.setdefault(file, (True, (path, number)))
        if given.name == INDEX and kinds.get(given) == "explanation":
            for file in (p for pattern in _BESIDE for p in sorted(given.parent.glob(pattern))):
                listed.setdefault(file, (False, None))
        for path in paths:
            if kinds.get(path) != "explanations":
                listed.setdefault(path, (path == given, None))
    _check_totals(listed)
    return listed


def _listed_in(path: Path, value: dict[str, Any]) -> list[tuple[Path, int]]:
    """Return the files that an index names, each with the number of its run; of others none."""
    if value.get("kind") != "explanations":
        return []
    with reading(path, "index of explanations"):
        return [
            (path.with_name(Path(entry["file"]).name), number)
            for number, run in enumerate(_RUNS(value, "")["runs"])
            for name in LISTS
            for entry in run.get(name, ())
        ]


def _run_of(explanation: Explanation) -> tuple[Hashable, ...]:
    summary, ids = explanation.summary, explanation.layout.token_ids
    said = (summary["prompt"], summary["answer"], tuple(ids.tolist()))
    return explanation.model_id, *said, *pictures_of(summary)


def _fits(result: Other, explanation: Explanation) -> bool:
    """Whether a result without a trace of its own can be of the same run."""
    ids, target = explanation.layout.token_ids, result.target
    if target is None:
        return False
    return (
        getattr(result, "model_id", None) in (None, explanation.model_id)
        and len(getattr(result, "scores", ids)) == len(ids)
        and _reach(result, target) < len(ids)
        and tuple(ids[list(target.positions)].tolist()) == target.token_ids
    )


def _reach(result: Other, target: Target) -> int:
    """Return the last position that a result names."""
    graphs = getattr(result, "graphs", None) or [result]
    members = [p for graph in graphs for unit in getattr(graph, "members", ()) for p in unit]
    rows = [
        p
        for value in getattr(result, "values", ())
        for row in value.detail.get("rows", ())
        for p in row.get("positions", ())
    ]
    last: int = max(target.positions[-1], *members, *rows, 0)
    return last


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
