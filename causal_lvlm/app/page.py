"""The page: which handler each of its parts calls. What they do is in `handlers`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from causal_lvlm.app.bench import Workbench
from causal_lvlm.app.following import Following
from causal_lvlm.app.handlers import Handlers, told
from causal_lvlm.app.parts import Parts, static

__all__ = ["build_page", "style"]

TITLE = "causal-lvlm"
# The blue of the reports, from pale to dark.
_BLUES = (
    "#f0f7fc", "#d7ebf7", "#b5d8ee", "#85bfe2", "#4a9fd0", "#0072b2", "#0067a3", "#005a91",
    "#00456f", "#003352", "#00243b",
)  # fmt: skip


def style() -> str:
    """Return the style sheet of the page."""
    return static("app.css")


def theme() -> Any:
    """Return Gradio's theme with the fonts of the reader's own machine: none is fetched."""
    blue = gr.themes.Color(*_BLUES, name="report")
    return gr.themes.Default(
        primary_hue=blue,
        secondary_hue=blue,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build_page(bench: Workbench) -> gr.Blocks:
    """Return the page of the app.

    Parameters
    ----------
    bench : Workbench
        Models, limits and sessions.
    """
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as page:
        parts = Parts(bench)
        _wire(page, parts, Handlers(Following(bench, parts)))
    return page


def _wire(page: gr.Blocks, p: Parts, do: Handlers) -> None:
    """Connect parts and handlers; only two are part of the public interface."""
    all_results = do.outputs()
    attention, causal, tabs = do.attention, do.causal, do.tabs
    quiet: dict[str, Any] = {
        "show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None,
        "trigger_mode": "multiple",
    }  # fmt: skip
    asking = [p.question, p.chat, p.talk, p.auto, p.tokens_most]
    gr.on(
        [p.ask.click, p.question.submit], told(do.ask), asking, all_results,
        **{**quiet, "api_visibility": "public"}, api_name="ask",
    )  # fmt: skip
    page.load(told(do.opened), None, all_results, **quiet)
    page.unload(told(do.closed))
    p.stop.click(told(do.stop), None, p.status, **quiet, queue=False)
    p.upload.upload(told(do.upload), p.upload, [p.picture, p.status, p.sample], **quiet)
    p.sample.input(
        told(do.sample), p.sample, [p.picture, p.question, p.status],
        **{**quiet, "api_visibility": "public"}, api_name="example",
    )  # fmt: skip
    p.picture.input(told(do.paint), None, p.status, **quiet)
    p.load.click(told(do.load), p.model_name, [p.model_facts, p.status], **quiet)
    p.open.upload(told(do.open), p.open, all_results, **quiet)
    p.tokens.select(told(do.pick), p.auto, all_results, **quiet)
    p.mask.select(told(causal.mask), None, [p.readout, p.status], **quiet)
    search = [p.mode, p.masking, p.source, p.runs, p.edges]
    p.explain.click(told(causal.explain), search, all_results, **quiet)
    shown = [p.heat, p.matrix, p.layer, p.head, p.looked, p.strip, p.strip_button]
    p.layer.release(told(attention.head), [p.layer, p.head], shown, **quiet)
    p.layer.input(
        told(attention.head),
        [p.layer, p.head],
        shown,
        **{**quiet, "trigger_mode": "always_last"},
    )
    p.head.input(told(attention.head), [p.layer, p.head], shown, **quiet)
    p.matrix.select(told(attention.matrix), None, shown, **quiet)
    p.heat.select(told(attention.look), [p.layer, p.head], p.looked, **quiet)
    p.strip_button.click(told(attention.strip), p.layer, p.strip, **quiet)
    p.run_methods.click(told(tabs.methods), [p.note_read, *p.methods], [p.maps, p.status], **quiet)
    second = [p.second, p.second_shown, p.second_none, p.status]
    p.second.upload(told(tabs.second), p.second, second, **quiet)
    p.second_none.click(told(tabs.no_second), None, second, **quiet)
    sides = [p.question_a, p.word_a, p.question_b, p.word_b]
    p.run_compare.click(told(tabs.compare), sides, [p.compared, p.status], **quiet)
    for kind, button in (
        ("report", p.export_report), ("numbers", p.export_numbers), ("figures", p.export_figures)
    ):  # fmt: skip
        button.click(
            told(tabs.exporter(kind)),
            None,
            [p.files, p.status],
            **{**quiet, "trigger_mode": "once"},
        )
