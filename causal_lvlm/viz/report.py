"""One self-contained HTML page: no script, no network, pictures inside.

1. Per run: images (if any), prompt and answer.
2. Per explanation: the sentence, badges, a table of the sets with the numbers, the pictures.
3. Heat maps of the other methods side by side, with the scores of words below each.
4. Parameters and versions.

Every text that comes from outside (prompt, tokens, model id, parameters) is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from causal_lvlm.storage import versions, write_bytes
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.pictures import Picture
from causal_lvlm.viz.prompt import prompt_html
from causal_lvlm.viz.sections import explanation_html, figure_html, heat_html, self_check_html
from causal_lvlm.viz.sheet import image_name, sheet_of
from causal_lvlm.viz.view import TraceView

__all__ = ["Case", "report", "report_cases"]


def report(
    trace_or_summary: Any,
    explanations: Iterable[Any],
    path: str | os.PathLike[str],
    *,
    attributions: Iterable[Any] = (),
) -> Path:
    """Write one self-contained HTML page about one run.

    Parameters
    ----------
    trace_or_summary : Trace or mapping
        A live or loaded trace, or ``explanation.summary``.
    explanations : iterable of Explanation
    path : path_like
        The file to write.
    attributions : iterable of Attribution

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OutputError
        If the file cannot be written, or the summary lacks a part.
    """
    return report_cases([Case(trace_or_summary, list(explanations), list(attributions))], path)


def report_cases(
    cases: Sequence[Case], path: str | os.PathLike[str], *, title: str = "", note: str = ""
) -> Path:
    """Write one page about several runs; see `report`."""
    title = title or _title(cases)
    entries = [
        (f"case{number}", _case_name(case, number), _case_html(case, f"case{number}", len(cases)))
        for number, case in enumerate(cases, start=1)
    ]
    lead = f"<p>{escape(note)}</p>" if note else ""
    if len(cases) > 1:
        links = " ".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in entries)
        lead += f"<nav>{links}</nav>"
    used = ", ".join(f"{name} {value}" for name, value in versions().items())
    page = Template(
        resources.files("causal_lvlm.viz").joinpath("templates/report.html").read_text("utf-8")
    ).substitute(
        title=escape(title),
        lead=lead,
        **_reading(any(case.view().images for case in cases)),
        body="\n".join(html for _, _, html in entries),
        footer=escape(f"Page written with {used}."),
    )
    return write_bytes(path, page.encode("utf-8"))


def _title(cases: Sequence[Case]) -> str:
    words = [e.target.text for case in cases for e in case.explanations]
    if len(cases) == 1 and len(words) == 1:
        return f"Why did the model say “{words[0]}”?"
    if len(cases) == 1 and words:
        return "Why did the model say " + ", ".join(f"“{w}”" for w in words) + "?"
    return "Why did the model say this?"


def _case_name(case: Case, number: int) -> str:
    return case.name or f"Run {number}"


def _case_html(case: Case, key: str, count: int) -> str:
    view = case.view()
    head = f'<h2 id="{key}">{escape(case.name)}</h2>' if count > 1 else ""
    if case.note:
        head += f"<p>{escape(case.note)}</p>"
    figure = ""
    if view.images:
        width = "small-pic" if len(view.images) == 1 else "half"
        alt = f"{view.image_words.capitalize()} as given."
        figure = figure_html(Picture("image", sheet_of(view).image, alt, _size(view), width))
    about = [
        f'<p><span class="who">Model</span> {escape(view.model_id or "unknown")} '
        f'<span class="muted">{escape(view.revision)}</span></p>',
        prompt_html(view, None, {}),
        self_check_html(view),
    ]
    intro = (
        f'<section class="card"><div class="pictures">{figure}'
        f'<div style="flex:1 1 320px">{"".join(about)}</div></div></section>'
    )
    body = "".join(explanation_html(view, e, case.pictures(e)) for e in case.explanations)
    heats = heat_html(view, [(a, case.heat(a)) for a in case.attributions])
    return head + intro + body + heats


def _size(view: TraceView) -> str:
    parts = []
    for number, image in enumerate(view.images):
        cells = sum(len(g.positions) for g in view.layout.grids if g.image == number)
        name = "The image" if len(view.images) == 1 else image_name(number)
        parts.append(f"{name}: {image.width} × {image.height} pixels, {cells} image tokens")
    return "; ".join(parts) + "."


def _reading(images: bool) -> dict[str, str]:
    """Return what the page says about sets, which is less where no run has an image."""
    if not images:
        return {"members": "words", "scopes": ""}
    return {
        "members": "image patches and words",
        "scopes": "The set may hold words of the question as well as patches, so the smallest set "
        "within the image and\nthe smallest set within the text are given beside the overall one. ",
    }
