"""One self-contained HTML page: no network, no library; pictures, data and script inside.

1. The static part says everything that matters: per run images (if any), prompt and answer; per
   explanation the sentence, badges, a table of the sets with the numbers, the pictures; heat maps
   of the other methods; parameters and versions. It is what is printed, and what is seen where
   scripts are switched off.
2. The same results as data (`causal_lvlm.viz.payload`), from which the script of the page makes the
   interactive part: the graph on the image with the evidence of its edges, the candidates at every
   radius, methods at equal budget, answers under the masks that were tried.
3. A content security policy forbids every request.

Every text that comes from outside (prompt, tokens, model id, parameters) is escaped in the static
part, and written as text by the script.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from causal_lvlm.storage import to_utf8, versions, write_bytes
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.payload import case_payload, colour_tables, json_for_html
from causal_lvlm.viz.sections import case_html
from causal_lvlm.viz.view import view_of

__all__ = ["page_script", "report_cases"]

_LARGE = 6  # photographs of full size that a page may hold
SCRIPTS = (
    "base", "stage", "set_view", "graph_parts", "causal_view", "graph_view", "tree_view",
    "compare_view", "mask_view", "page",
)  # fmt: skip


def report_cases(
    cases: Sequence[Case], path: str | os.PathLike[str], *, title: str = "", note: str = ""
) -> Path:
    """Write one page about several runs.

    Parameters
    ----------
    cases : sequence of Case
    path : path_like
        The file to write.
    title, note : str
        Heading and first line of the page; by default the words that are explained, and nothing.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OutputError
        If the file cannot be written, or the summary of a run lacks a part.
    """
    title = title or _title(cases)
    scale, several = _scale(cases), len(cases) > 1
    bodies, runs, images = [], [], False
    for number, case in enumerate(cases, start=1):
        view, key = view_of(case.trace), f"case{number}"  # of a saved run: in memory only meanwhile
        bodies.append(case_html(case, view, key, heading=several, scale=scale))
        runs.append(
            case_payload(
                view, case.explanations, case.attributions, key=key, name=case.name,
                note=case.note, metrics=case.metrics, stability=case.stability, heads=case.heads,
                causal=case.causal_graphs(),
            )
        )  # fmt: skip
        images |= bool(view.images)
    used = ", ".join(f"{name} {value}" for name, value in versions().items())
    page = Template(_template("report.html")).substitute(
        title=escape(title),
        note=f"<p>{escape(note)}</p>" if note else "",
        nav=_links(cases) if several else "",
        **_reading(images),
        body="\n".join(bodies),
        footer=escape(f"Page written with {used}."),
        style=_template("report.css"),
        data=json_for_html({"runs": runs, "colours": colour_tables()}),
        script=page_script(),
    )
    return write_bytes(path, to_utf8(page))


def _template(name: str) -> str:
    return resources.files("causal_lvlm.viz").joinpath(f"templates/{name}").read_text("utf-8")


def page_script() -> str:
    """Return the script of the page: its parts in order, in a scope of their own."""
    parts = "\n".join(_template(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _title(cases: Sequence[Case]) -> str:
    targets = [e.target for case in cases for e in case.explanations]
    targets += [graph.target for case in cases for graph in case.graphs]
    words = list(dict.fromkeys(target.text for target in targets))
    if len(cases) == 1 and len(words) == 1:
        return f"Why did the model say “{words[0]}”?"
    if len(cases) == 1 and words:
        return "Why did the model say " + ", ".join(f"“{w}”" for w in words) + "?"
    return "Why did the model say this?"


def _links(cases: Sequence[Case]) -> str:
    names = [case.name or f"Run {number}" for number, case in enumerate(cases, start=1)]
    links = (f'<a href="#case{n}">{escape(name)}</a>' for n, name in enumerate(names, start=1))
    return f"<nav>{' '.join(links)}</nav>"


def _scale(cases: Sequence[Case]) -> float:
    """Return by how much the photographs of a page with many of them are made smaller.

    Their bytes grow with the area: as many small ones weigh what a dozen large ones do.
    """
    count = sum(len(case.attributions) + 2 * len(case.explanations) for case in cases)
    return float(min(1.0, max(0.4, math.sqrt(_LARGE / max(count, 1)))))


def _reading(images: bool) -> dict[str, str]:
    """Return what the page says about sets, which is less where no run has an image."""
    if not images:
        return {"members": "words", "scopes": ""}
    return {
        "members": "image patches and words",
        "scopes": "The set may hold words of the question as well as patches, so the smallest set "
        "within the image and\nthe smallest set within the text are given beside the overall one. ",
    }
