"""The folder of results that `causal-lvlm demo` and `causal-lvlm explain --out` leave behind.

1. ``explanation.json``: every explanation and attribution, written first, so that nothing that
   was found can be lost by a picture that fails.
2. The pictures of every explanation and the heat map of every attribution.
3. The PAG as DOT, GraphML and JSON.
4. ``report.html``, which holds all of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from causal_lvlm.storage import output_folder, write_bytes, write_json
from causal_lvlm.viz.pictures import shown_graph
from causal_lvlm.viz.report import Case, report_cases

__all__ = ["file_stem", "write_bundle", "write_cases"]


def file_stem(text: str) -> str:
    """Return a text as part of a file name: letters, digits and hyphens, at most 40 of them."""
    kept = re.sub(r"[^\w]+", "-", text.casefold(), flags=re.UNICODE).strip("-_")
    return kept[:40] or "token"


def write_bundle(
    trace: Any,
    explanations: Iterable[Any],
    attributions: Iterable[Any],
    folder: str | os.PathLike[str],
    *,
    interrupted: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write everything found about one run.

    Parameters
    ----------
    trace : Trace or mapping
    explanations : iterable of Explanation
    attributions : iterable of Attribution
    folder : path_like
        Made if it does not exist.
    interrupted : bool
        Recorded in ``explanation.json`` and said in the report.
    progress : callable, optional
        Called with a few words before each explanation is drawn.

    Returns
    -------
    list of pathlib.Path
        The files written; ``report.html`` is the last.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    case = Case(trace, list(explanations), list(attributions))
    return write_cases([case], folder, interrupted=interrupted, progress=progress)


def write_cases(
    cases: Sequence[Case],
    folder: str | os.PathLike[str],
    *,
    title: str = "",
    note: str = "",
    interrupted: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write several runs into one folder; their files carry the number of the run in front.

    `progress` is called with a few words before each explanation is drawn.
    """
    place = output_folder(folder)
    written = [write_json(place / "explanation.json", _content(cases, interrupted))]
    taken: set[str] = set()
    for number, case in enumerate(cases, start=1):
        for explanation in case.explanations:
            if progress is not None:
                progress(f"drawing “{explanation.target.text}”")
            several = len(cases) > 1 or len(case.explanations) > 1
            stem = _unique(_prefix(number, len(cases)), explanation.target.text, several, taken)
            for picture in case.pictures(explanation):
                path = place / f"{stem}{picture.name}.png"
                written.append(write_bytes(path, picture.png))
            written += _write_graph(explanation, place, stem)
        for attribution in case.attributions:
            words = {a.target.positions for a in case.attributions}
            text = attribution.target.text if len(words) > 1 or len(cases) > 1 else ""
            stem = _prefix(number, len(cases)) + (f"{file_stem(text)}-" if text else "")
            path = place / f"{stem}heat-{file_stem(attribution.method)}.png"
            written.append(write_bytes(path, case.heat(attribution).png))
    if interrupted:
        note = (note + " The run was interrupted; this is what had been found.").strip()
    written.append(report_cases(cases, place / "report.html", title=title, note=note))
    return written


def _prefix(number: int, count: int) -> str:
    return f"{number}-" if count > 1 else ""


def _unique(prefix: str, text: str, several: bool, taken: set[str]) -> str:
    """Return a prefix of file names that no other explanation has (words may occur twice)."""
    stem = prefix + (f"{file_stem(text)}-" if several else "")
    number = 2
    unique = stem
    while unique in taken:
        unique = f"{stem}{number}-"
        number += 1
    taken.add(unique)
    return unique


def _content(cases: Sequence[Case], interrupted: bool) -> dict[str, Any]:
    return {
        "kind": "explanations",
        "interrupted": interrupted,
        "runs": [
            {
                "name": case.name,
                "note": case.note,
                "explanations": [e.to_dict() for e in case.explanations],
                "attributions": [a.to_dict() for a in case.attributions],
            }
            for case in cases
        ],
    }


def _write_graph(explanation: Any, place: Path, stem: str) -> list[Path]:
    """Export the PAG that is drawn, for other programs."""
    graph = shown_graph(explanation)
    if graph is None:
        return []
    pag, labels = graph.structure.pag, list(graph.labels)
    path = place / f"{stem}pag.graphml"
    pag.to_graphml(path, labels)
    return [
        write_bytes(place / f"{stem}pag.dot", pag.to_dot(labels).encode()),
        write_bytes(place / f"{stem}pag.json", pag.to_json(labels).encode()),
        path,
    ]
