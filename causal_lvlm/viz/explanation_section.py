"""One explanation as a card of the page, as HTML; all text is escaped.

1. The sentence and badges: verified or not, what is claimed about the size, where it came from.
2. Prompt and answer with the set marked, and a table of the sets with their numbers.
3. The pictures, then everything needed to repeat the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.wording import amount, outcome, random_controls, said
from causal_lvlm.source_options import SPANNING
from causal_lvlm.storage import to_jsonable
from causal_lvlm.viz import wording
from causal_lvlm.viz.causal_words import graph_sentences, refuted, what_if
from causal_lvlm.viz.pictures import Picture, causal_picture, main_numbers
from causal_lvlm.viz.prompt import prompt_html
from causal_lvlm.viz.style import data_uri, image_uri
from causal_lvlm.viz.view import TraceView

__all__ = ["explanation_html", "figure_html", "graph_html"]


def explanation_html(
    view: TraceView,
    explanation: Explanation,
    pictures: Sequence[Picture],
    key: str = "",
    *,
    causal: CausalGraph | None = None,
    scale: float = 1.0,
) -> str:
    """Return one explanation as a card of the page.

    `key` is its name inside the page, `causal` the causal graph of its target; photographs are
    made smaller by `scale`.
    """
    target = explanation.target
    numbers = main_numbers(explanation)
    # The prompt is on the page as text, which is better read than a picture of it.
    figures = "".join(figure_html(p, scale=scale) for p in pictures if p.name != "prompt")
    parts = [
        f"<h2>“{escape(target.text)}”</h2>",
        f'<p class="sentence">{escape(explanation.sentence())}</p>',
        _badges(explanation),
        prompt_html(view, target, numbers),
        _sets_table(view, explanation),
        _settings(explanation),
        "" if causal is None else _causal(causal),
        f'<div class="pictures">{figures}</div>',
        _details(explanation),
    ]
    name = f' id="{escape(key, quote=True)}"' if key else ""
    return f'<section class="card"{name}>{"".join(parts)}</section>'


def graph_html(view: TraceView, graph: CausalGraph, *, scale: float = 1.0) -> str:
    """Return a causal graph of a target that no explanation is about, as a card of the page."""
    figure = figure_html(causal_picture(view, graph), scale=scale)
    return (
        f'<section class="card"><h2>“{escape(graph.target.text)}”</h2>{_causal(graph)}'
        f'<div class="pictures">{figure}</div></section>'
    )


def _causal(graph: CausalGraph) -> str:
    """Return what a causal graph says, and what happened when each of its edges was cut."""
    cuts = [what_if(graph, edge) for edge in graph.edges if edge.measured is not None]
    lines = "".join(f"<p>{escape(text)}</p>" for text in graph_sentences(graph))
    listed = "".join(f"<li>{escape(text)}</li>" for text in (*cuts, *refuted(graph)))
    return lines + (f'<ul class="small">{listed}</ul>' if listed else "")


def _badges(explanation: Explanation) -> str:
    badges = wording.badges_of(explanation.main, explanation.mode, explanation.tester)
    return "".join(f'<span class="badge {tone}">{escape(text)}</span>' for tone, text in badges)


_WIDEST, _NARROW = 760, 540  # pixels of pictures inside the page; the folder has them in full
_LISTED = 16  # members of a set that are named in the table
_COLUMNS = (
    ("set", ""),
    ("members", ""),
    ("verified", ""),
    ("size is", ""),
    ("p before", "n"),
    ("p after", "n"),
    ("then the model", ""),
    ("margin", "n"),
    ("random sets", ""),
    ("found by", ""),
    ("model runs", "n"),
)


def _sets_table(view: TraceView, explanation: Explanation) -> str:
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in _COLUMNS)
    rows = []
    for name, item in explanation.sets.items():
        if name == "image" and not view.images:
            continue
        members = " · ".join(
            f"{n}:\u00a0{view.label(u)}" for n, u in enumerate(item.units[:_LISTED], start=1)
        )
        if item.size > _LISTED:
            members += f" … and {item.size - _LISTED} more"
        cells = (
            wording.set_title(name, len(view.images)),
            members or outcome(item, explanation.mode, explanation.tester),
            "yes" if item.verified else "no",
            (item.claim or "–") if item.verified else "–",
            wording.number(item.probability_before),
            wording.number(item.probability_after),
            said(item.predicted_after) if item.predicted_after else "–",
            _change(item.margin_before, item.margin_after),
            _random(item, explanation),
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


def _random(item: ExplainingSet, explanation: Explanation) -> str:
    """Return the random controls without the words that the column's heading says."""
    text = random_controls(item, explanation.mode, explanation.tester)
    for said_above in (" random sets of that size", " random set of that size"):
        text = text.replace(said_above, "")
    return text or "–"


def _change(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return "–"
    return f"{wording.number(before, 2)} → {wording.number(after, 2)}"


def _settings(explanation: Explanation) -> str:
    given = explanation.parameters
    spans = given.get("source") in SPANNING  # all layers: then there is no layer to be named
    named = {
        "mode": explanation.mode,
        "tester": explanation.tester,
        "against": explanation.against,
        "masking": explanation.masking,
        "backend": explanation.backend,
        "source": given.get("source"),
        "layer": None if spans else given.get("layer"),
        "row": given.get("row"),
        "sink": given.get("sink"),
        "seed": explanation.seed,
    }
    parts = [f"{name} {value}" for name, value in named.items() if value is not None]
    parts.append(amount(len(explanation.graphs), "graph"))
    missing = wording.graph_outcome(explanation.graph_outcome)
    if missing:
        parts.append(missing)
    parts.append(f"{amount(explanation.model_runs, 'masked model run')} in all")
    parts.append(f"{explanation.seconds:.2f} s")
    return f'<p class="small muted settings">{escape(" · ".join(parts))}</p>'


def _details(explanation: Explanation) -> str:
    facts: dict[str, Any] = {
        "parameters": explanation.parameters,
        "versions": explanation.versions,
        "model": [explanation.model_id, explanation.revision],
    }
    graph = explanation.head_graph
    if explanation.dropped_heads:
        facts["heads without a graph"] = explanation.dropped_heads
    if graph is not None:
        facts["graph drawn"] = {
            "head": graph.head,
            "nodes": len(graph.positions),
            "CI tests": graph.structure.n_tests,
            "complete": graph.structure.complete,
            "sink mass": graph.sink_mass,
            "not in the graph": graph.dropped,
        }
    for name, item in explanation.sets.items():
        if item.alternatives:
            facts[f"other sets of the same size ({name})"] = item.alternatives
    text = json.dumps(to_jsonable(facts), indent=1, ensure_ascii=False, default=str)
    return f"<details><summary>Parameters and versions</summary><pre>{escape(text)}</pre></details>"


def figure_html(picture: Picture, lines: Sequence[str] = (), *, scale: float = 1.0) -> str:
    """Return a picture with its caption and more lines below it, the file inside the page."""
    more = "".join(f"<br>{escape(line)}" for line in lines)
    widest = round((_NARROW if picture.width == "third" else _WIDEST) * scale)
    address = data_uri(picture.png) if picture.drawing else image_uri(picture.image, widest)
    return (
        f'<figure class="{picture.width}"><img loading="lazy" src="{address}" '
        f'alt="{escape(picture.alt, quote=True)}">'
        f"<figcaption>{escape(picture.caption)}{more}</figcaption></figure>"
    )
