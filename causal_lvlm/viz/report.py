"""One self-contained HTML page: no script, no network, pictures inside.

1. Per run: image, prompt and answer.
2. Per explanation: the sentence, badges, a table of the sets with the numbers, the pictures.
3. Heat maps of the other methods side by side, with the scores of words below each.
4. Parameters and versions.

Every text that comes from outside (prompt, tokens, model id, parameters) is escaped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from causal_lvlm.storage import to_jsonable, versions, write_bytes
from causal_lvlm.viz import wording
from causal_lvlm.viz.overlay import scaled_image
from causal_lvlm.viz.pictures import (
    Picture,
    attribution_picture,
    main_numbers,
    main_set,
    pictures_of,
    shown_graph,
)
from causal_lvlm.viz.prompt import prompt_html
from causal_lvlm.viz.style import data_uri
from causal_lvlm.viz.view import TraceView, view_of

__all__ = ["Case", "report", "report_cases"]


@dataclass(frozen=True)
class Case:
    """One run of the model with what was found about it.

    Attributes
    ----------
    trace : Trace or mapping
        A trace, or the summary of one.
    explanations, attributions : sequence
    name, note : str
        Heading and remark, where several cases share a page.
    """

    trace: Any
    explanations: Sequence[Any]
    attributions: Sequence[Any] = ()
    name: str = ""
    note: str = ""
    drawn: dict[int, list[Picture]] = field(default_factory=dict, compare=False, repr=False)

    def view(self) -> TraceView:
        """Return the trace as pictures need it."""
        return view_of(self.trace)

    def pictures(self, explanation: Any) -> list[Picture]:
        """Return an explanation's pictures; they are drawn once, for page and folder alike."""
        if id(explanation) not in self.drawn:
            self.drawn[id(explanation)] = pictures_of(self.view(), explanation)
        return self.drawn[id(explanation)]

    def heat(self, attribution: Any) -> Picture:
        """Return an attribution's picture; drawn once."""
        if id(attribution) not in self.drawn:
            self.drawn[id(attribution)] = [attribution_picture(self.view(), attribution)]
        return self.drawn[id(attribution)][0]


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
        A live or loaded trace, or ``explanation.trace_summary``.
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
    picture = Picture(
        "image", scaled_image(view)[0], "The image as given.", f"{_size(view)}", "small-pic"
    )
    about = [
        f'<p><span class="who">Model</span> {escape(view.model_id or "unknown")} '
        f'<span class="muted">{escape(view.revision)}</span></p>',
        prompt_html(view, None, {}),
        _self_check(view),
    ]
    intro = (
        f'<section class="card"><div class="pictures">{_figure(picture)}'
        f'<div style="flex:1 1 320px">{"".join(about)}</div></div></section>'
    )
    body = "".join(_explanation_html(case, view, e) for e in case.explanations)
    return head + intro + body + _heat_html(case, view)


def _size(view: TraceView) -> str:
    width, height = view.image.size
    cells = sum(len(grid.positions) for grid in view.layout.grids)
    return f"The image: {width} × {height} pixels, {cells} image tokens."


def _self_check(view: TraceView) -> str:
    check = view.details.get("self_check")
    if not isinstance(check, Mapping) or "passed" not in check:
        return ""
    words = "reproduces" if check["passed"] else "does NOT reproduce"
    extra = check.get("max_log_prob_difference")
    size = f" (log-probabilities differ by at most {wording.number(extra)})" if extra else ""
    return f'<p class="small muted">The pass that was analysed {words} the generation{size}.</p>'


def _explanation_html(case: Case, view: TraceView, explanation: Any) -> str:
    target = explanation.target
    pictures = case.pictures(explanation)
    chosen = main_set(explanation)
    numbers = main_numbers(explanation)
    # The prompt is on the page as text, which is better read than a picture of it.
    figures = "".join(_figure(p) for p in pictures if p.name != "prompt")
    parts = [
        f"<h2 style='margin-top:0'>“{escape(target.text)}”</h2>",
        f'<p class="sentence">{escape(explanation.sentence())}</p>',
        _badges(chosen[1]) if chosen else "",
        prompt_html(view, target, numbers),
        _sets_table(view, explanation),
        _settings(explanation),
        f'<div class="pictures">{figures}</div>',
        _details(explanation),
    ]
    return f'<section class="card">{"".join(parts)}</section>'


def _badges(item: Any) -> str:
    tone = "good" if item.verified else "warn"
    badges = [(tone, wording.verdict(item.verified))]
    if item.verified:
        badges.append(("plain", wording.minimality(item.minimality)))
    elif item.outcome != "explained":
        badges.append(("plain", wording.outcome(item.outcome)))
    if item.found_by is not None:
        badges.append(("plain", f"found by: {wording.found_by(item)}"))
    if getattr(item, "ended", None):
        badges.append(("warn", wording.ended(item.ended)))
    return "".join(f'<span class="badge {tone}">{escape(text)}</span>' for tone, text in badges)


_LISTED = 16  # members of a set that are named in the table
_COLUMNS = (
    ("set", ""),
    ("members", ""),
    ("verified", ""),
    ("size is", ""),
    ("p before", "n"),
    ("p after", "n"),
    ("prediction", ""),
    ("margin", "n"),
    ("random", "n"),
    ("found by", ""),
    ("model runs", "n"),
)


def _sets_table(view: TraceView, explanation: Any) -> str:
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in _COLUMNS)
    rows = []
    for name, item in explanation.sets.items():
        if item is None:
            continue
        members = " · ".join(
            f"{n}: {view.label(u)}" for n, u in enumerate(item.units[:_LISTED], start=1)
        )
        if item.size > _LISTED:
            members += f" … and {item.size - _LISTED} more"
        random = "–"
        if item.random_flip_rate is not None:
            random = f"{item.random_flip_rate:.0%} of {item.n_random}"
        after = " ".join(token.strip() for token in item.predicted_after)
        changed = f"{explanation.target.text} → {after}" if after else "–"
        cells = (
            wording.set_title(name),
            members or wording.outcome(item.outcome),
            "yes" if item.verified else "no",
            item.minimality if item.verified else "–",
            wording.number(item.probability_before),
            wording.number(item.probability_after),
            changed,
            _change(item.margin_before, item.margin_after),
            random,
            wording.found_by(item),
            str(item.model_runs),
        )
        rows.append(
            "<tr>"
            + "".join(
                f'<td class="{kind}">{escape(cell)}</td>'
                for (_, kind), cell in zip(_COLUMNS, cells, strict=True)
            )
            + "</tr>"
        )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _change(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return "–"
    return f"{wording.number(before, 2)} → {wording.number(after, 2)}"


def _settings(explanation: Any) -> str:
    names = ("mode", "tester", "masking", "backend", "source", "layer", "row", "sink", "seed")
    parameters = getattr(explanation, "parameters", {})
    parts = []
    for name in names:
        value = getattr(explanation, name, parameters.get(name))
        if value is not None:
            parts.append(f"{name} {value}")
    count = len(explanation.graphs)
    parts.append(f"{count} graph{'' if count == 1 else 's'}")
    missing = wording.graph_outcome(getattr(explanation, "graph_outcome", None))
    if missing:
        parts.append(missing)
    if getattr(explanation, "model_runs", None) is not None:
        parts.append(f"{explanation.model_runs} masked model runs in all")
    if getattr(explanation, "seconds", None) is not None:
        parts.append(f"{explanation.seconds:.2f} s")
    return f'<p class="small muted">{escape(" · ".join(parts))}</p>'


def _details(explanation: Any) -> str:
    facts: dict[str, Any] = {
        "parameters": getattr(explanation, "parameters", {}),
        "versions": getattr(explanation, "versions", {}),
        "model": [getattr(explanation, "model_id", ""), getattr(explanation, "revision", "")],
    }
    graph = shown_graph(explanation)
    if getattr(explanation, "dropped_heads", ()):
        facts["heads without a graph"] = explanation.dropped_heads
    if graph is not None:
        facts["graph drawn"] = {
            "head": graph.head,
            "nodes": len(graph.positions),
            "CI tests": getattr(graph.structure, "n_tests", None),
            "complete": getattr(graph.structure, "complete", None),
            "sink mass": getattr(graph, "sink_mass", None),
            "not in the graph": getattr(graph, "dropped", ()),
        }
    for name, item in explanation.sets.items():
        if item is not None and item.alternatives:
            facts[f"other sets of the same size ({name})"] = item.alternatives
    text = json.dumps(to_jsonable(facts), indent=1, ensure_ascii=False, default=str)
    return f"<details><summary>Parameters and versions</summary><pre>{escape(text)}</pre></details>"


def _heat_html(case: Case, view: TraceView) -> str:
    if not case.attributions:
        return ""
    figures = []
    for attribution in case.attributions:
        picture = case.heat(attribution)
        words = _word_scores(view, attribution)
        figures.append(_figure(picture, words))
    return (
        '<section class="card"><h3 style="margin-top:0">Other methods, for comparison '
        '<span class="muted small">(scores, not tested by masking)</span></h3>'
        f'<div class="pictures">{"".join(figures)}</div></section>'
    )


def _word_scores(view: TraceView, attribution: Any, count: int = 5) -> str:
    """Return the words with the highest scores, which the heat map cannot show."""
    words = [
        int(p)
        for p in view.layout.positions("prompt", "generated")
        if p < attribution.target.start and attribution.scores[p] != 0
    ]
    words.sort(key=lambda p: (-abs(attribution.scores[p]), p))
    if not words:
        return "No word has a score."
    named = (f"{view.word(p).strip()} {attribution.scores[p]:.2g}" for p in words[:count])
    return "Words: " + ", ".join(named)


def _figure(picture: Picture, extra: str = "") -> str:
    more = f"<br>{escape(extra)}" if extra else ""
    return (
        f'<figure class="{picture.width}"><img src="{data_uri(picture.png)}" '
        f'alt="{escape(picture.alt, quote=True)}">'
        f"<figcaption>{escape(picture.caption)}{more}</figcaption></figure>"
    )
