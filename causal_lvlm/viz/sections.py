"""The parts of the page that show one run, as HTML; all text is escaped.

1. The images, the model, prompt and answer, what a reader should know of how it was asked.
2. A card for every explanation (`causal_lvlm.viz.explanation_section`).
3. The heat maps of other methods, with what was measured about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.wording import amount, said
from causal_lvlm.metrics.result import MASKED_TOP, MetricTable
from causal_lvlm.viz import wording
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.explanation_section import explanation_html, figure_html, graph_html
from causal_lvlm.viz.payload_metrics import metrics_of
from causal_lvlm.viz.pictures import Picture
from causal_lvlm.viz.prompt import prompt_html
from causal_lvlm.viz.sheet import image_name
from causal_lvlm.viz.style import SMALL, image_uri
from causal_lvlm.viz.view import TraceView

__all__ = ["case_html", "heat_html", "masked_lines"]

_PHOTOGRAPH = 1024  # longest side of an image as given


def case_html(
    case: Case, view: TraceView, key: str, *, heading: bool = False, scale: float = 1.0
) -> str:
    """Return one run with what was found about it.

    Parameters
    ----------
    case : Case
    view : TraceView
        Of the case's trace.
    key : str
        Name of the run inside the page.
    heading : bool
        Whether it is one of several, so that it needs its name above it.
    scale : float
        By which photographs are made smaller.
    """
    drawn = [case.pictures(view, explanation) for explanation in case.explanations]
    heats = [(a, case.heat(view, a)) for a in case.attributions]
    head = f'<h2 id="{key}">{escape(case.name)}</h2>' if heading else ""
    if case.note:
        head += f"<p>{escape(case.note)}</p>"
    about = [
        f'<p><span class="who">Model</span> {escape(view.run.model_id or "unknown")} '
        f'<span class="muted">{escape(view.run.revision or "")}</span></p>',
        prompt_html(view, None, {}),
        _self_check(view),
        _remarks(view),
    ]
    intro = (
        f'<section class="card"><div class="pictures">{_photographs(view, key)}'
        f'<div class="about">{"".join(about)}</div></div></section>'
    )
    body = "".join(
        explanation_html(
            view,
            e,
            pictures,
            f"{key}-explanation{number}",
            causal=case.causal_graph(e),
            scale=scale,
        )
        for number, (e, pictures) in enumerate(zip(case.explanations, drawn, strict=True))
    )
    body += "".join(graph_html(view, graph, scale=scale) for graph in case.alone())
    return head + intro + body + heat_html(view, heats, case.metrics, scale=scale)


def _self_check(view: TraceView) -> str:
    """Return whether the analysed pass repeats the generation, as HTML; empty if not known."""
    check = view.run.self_check
    if check is None:
        return ""
    words = "reproduces" if check.passed else "does NOT reproduce"
    extra = check.max_log_prob_difference
    size = f" (log-probabilities differ by at most {wording.number(extra)})" if extra else ""
    return f'<p class="small muted">The pass that was analysed {words} the generation{size}.</p>'


def _remarks(view: TraceView) -> str:
    """Return what a reader should know about how it was asked, as HTML; empty without remarks."""
    return "".join(
        f'<p class="small muted">Note: {escape(remark)}.</p>' for remark in view.run.remarks
    )


def heat_html(
    view: TraceView,
    heats: Sequence[tuple[Attribution, Picture]],
    metrics: Sequence[MetricTable] = (),
    *,
    scale: float = 1.0,
) -> str:
    """Return the heat maps of other methods side by side, as HTML; empty if there are none."""
    if not heats:
        return ""
    figures = []
    tested = False
    for attribution, heat in heats:
        lines = [_word_scores(view, attribution)] if view.has_patches else []
        for name, value, better in metrics_of(metrics, attribution.method, attribution.target):
            lines.append(f"{name} {better} {value}")
        masked = masked_lines(metrics, attribution)
        tested |= bool(masked)
        lines += masked
        figures.append(figure_html(heat, lines, scale=scale))
    how = (
        "below each, what the model says about its first tokens"
        if tested
        else "scores, not tested by masking"
    )
    return (
        '<section class="card"><h3>Other methods, for comparison '
        f'<span class="muted small">({how})</span></h3>'
        f'<div class="pictures">{"".join(figures)}</div></section>'
    )


def masked_lines(metrics: Sequence[MetricTable], attribution: Attribution) -> list[str]:
    """Return what the model said with a method's highest tokens masked, empty if nobody asked.

    One line for every explanation of the word that was measured.
    """
    lines: list[str] = []
    for table in metrics:
        if tuple(table.target.positions) != tuple(attribution.target.positions):
            continue
        for value in table.values:
            if value.method != attribution.method or not value.metric.startswith(MASKED_TOP):
                continue
            size = value.detail["budget"]
            for row in value.detail["rows"]:
                if row["k"] == size:
                    tokens = amount(size, "token")
                    what = "masking its first" if value.detail["mode"] == "necessary" else "keeping"
                    words = said(tuple(row["first_choice"]))
                    p = wording.number(row["probability"])
                    lines.append(f"{what} {tokens}: p {p}, the model {words}")
                    break  # the scope that holds everything comes first
    return list(dict.fromkeys(lines))


def _word_scores(view: TraceView, attribution: Attribution, count: int = 5) -> str:
    """Return the text tokens with the highest scores, which the heat map cannot show."""
    words = [
        int(p)
        for p in view.layout.positions("prompt", "generated")
        if p < attribution.target.start and attribution.scores[p] != 0
    ]
    words.sort(key=lambda p: (-abs(attribution.scores[p]), p))
    if not words:
        return "No token of the text has a score."
    named = (f"{view.label((p,))} {attribution.scores[p]:.2g}" for p in words[:count])
    return "Of the text: " + ", ".join(named)


def _photographs(view: TraceView, key: str) -> str:
    """Return the images as given; the script draws on the same files, found by their ids."""
    parts = []
    for number, image in enumerate(view.images):
        cells = sum(len(g.positions) for g in view.layout.grids if g.image == number)
        several = len(view.images) > 1
        name = image_name(number) if several else "The image"
        small = ' class="pixels"' if max(image.size) < SMALL else ""
        parts.append(
            f'<figure class="small-pic"><img{small} id="{key}-photo{number}" '
            f'src="{image_uri(image, _PHOTOGRAPH)}" alt="{name} as given.">'
            f"<figcaption>{name}: {image.width} × {image.height} pixels, {cells} image tokens."
            "</figcaption></figure>"
        )
    return "".join(parts)
