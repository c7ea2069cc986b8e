"""The parts of the page, by name."""

from __future__ import annotations

from importlib import resources

import gradio as gr

from causal_lvlm.app.choices import MASKINGS, MODES, PATENTED, SOURCES, method_groups
from causal_lvlm.app.models import EMBEDDED
from causal_lvlm.app.shared import Shared
from causal_lvlm.app.uploads import FORMATS
from causal_lvlm.app.view import NOTHING, paint_board
from causal_lvlm.attribution.lrp import PATENT_NOTE
from causal_lvlm.tiny import sample_inputs

__all__ = ["Parts", "static"]

_PICTURES = [f".{name.lower()}" for name in (*FORMATS, "jpg", "tif")]


def static(name: str) -> str:
    """Return a script or a style sheet of the page."""
    return resources.files("causal_lvlm.app").joinpath(f"static/{name}").read_text("utf-8")


def _drawn(script: str, value: str, label: str) -> gr.HTML:
    """Return a part that one of our scripts draws."""
    return gr.HTML(
        value, html_template="<div></div>", js_on_load=static(script), elem_id=label,
        apply_default_css=False,
    )  # fmt: skip


class Parts:
    """The parts of the page, by name; made inside a `gradio.Blocks`."""

    def __init__(self, bench: Shared) -> None:
        gr.HTML(
            "<div><h1>Why did the model say that word?</h1><p>Ask about a picture, choose a word "
            "of the answer, and see the smallest set of patches and words it depends on.</p></div>",
            elem_id="title",
        )
        with gr.Row(elem_id="halves"):
            with gr.Column(scale=4, min_width=320, elem_id="asking"):
                self._ask_parts(bench)
            with gr.Column(scale=7, min_width=320, elem_id="results"):
                self._result_parts()

    def _ask_parts(self, bench: Shared) -> None:
        self.picture = _drawn("board.js", paint_board(None), "picture")
        with gr.Row():
            self.upload = gr.UploadButton(
                "Upload a picture", file_types=_PICTURES, type="filepath", size="sm",
                elem_id="upload",
            )  # fmt: skip
            self.sample = gr.Dropdown(
                [s.name for s in sample_inputs()], label="or an example", value=None,
                elem_id="sample",
            )  # fmt: skip
        self.question = gr.Textbox(
            label="Question", placeholder="what color is the circle?", lines=1, max_lines=4,
            elem_id="question",
        )  # fmt: skip
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary", elem_id="ask")
            self.stop = gr.Button("Stop", elem_id="stop")
        self.status = gr.HTML('<div class="status"></div>', elem_id="status")
        gr.HTML("<b>Answer</b>: choose the token to explain", elem_id="choose")
        self.tokens = _drawn("tokens.js", NOTHING, "tokens")
        self.chat = gr.Chatbot(
            label="Conversation", height=240, render_markdown=False, elem_id="chat", buttons=[],
        )  # fmt: skip
        with gr.Accordion("Options of the question", open=False, elem_id="options-box"):
            self.talk = gr.Checkbox(
                False, label="Go on with the conversation", elem_id="talk",
                info=f"Sends up to {bench.limits.turns} earlier questions along; needs a model "
                "with a chat template.",
            )  # fmt: skip
            self.auto = gr.Checkbox(True, label="Search explaining sets at once", elem_id="auto")
            self.tokens_most = gr.Slider(
                1, bench.limits.new_tokens, 64, step=1, label="Longest answer in tokens"
            )
        with gr.Accordion("Model", open=False, elem_id="model-box"):
            self.model_name = gr.Textbox(
                EMBEDDED, label="embedded, a hub id, or a folder", elem_id="model-name",
            )  # fmt: skip
            self.load = gr.Button("Load", size="sm", elem_id="load")
            self.model_facts = gr.HTML("", elem_id="model-facts")
        with gr.Accordion("Open a saved explanation", open=False, elem_id="open-box"):
            self.open = gr.UploadButton(
                "Open an explanation.json", file_types=[".json"], type="filepath", size="sm",
                elem_id="open",
            )  # fmt: skip

    def _result_parts(self) -> None:
        self.sentence = gr.HTML("", elem_id="sentence")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Causal", id="causal", render_children=True):
                self._causal_parts()
            with gr.Tab("Attention", id="attention", render_children=True):
                self._attention_parts()
            with gr.Tab("Relevancy", id="relevancy", render_children=True):
                self._relevancy_parts()
            with gr.Tab("Compare", id="compare", render_children=True):
                self._compare_parts()
            with gr.Tab("Export", id="export", render_children=True):
                self._export_parts()

    def _causal_parts(self) -> None:
        self.stages = gr.HTML("", elem_id="stages")
        with gr.Tabs(elem_id="causal-tabs"):
            with gr.Tab("Set and graph", id="sets", render_children=True):
                self.report = gr.HTML("", elem_id="report", js_on_load=static("frame.js"))
            with (
                gr.Tab("What if? (live)", id="what-if", render_children=True),
                gr.Row(),
            ):
                with gr.Column(min_width=280):
                    self.mask = _drawn("board.js", NOTHING, "mask")
                with gr.Column(min_width=220):
                    self.readout = gr.HTML("", elem_id="readout")
        with gr.Accordion("Search again with other settings", open=False):
            with gr.Row():
                self.mode = gr.Dropdown(list(MODES), value=MODES[0], label="Sets that are")
                self.masking = gr.Dropdown(
                    list(MASKINGS), value=MASKINGS[0], label="How tokens are masked"
                )
                self.source = gr.Dropdown(
                    list(SOURCES), value=next(iter(SOURCES)), label="Graphs learned from"
                )
                self.runs = gr.Slider(50, 2000, 600, step=50, label="Most model runs")
            self.edges = gr.Checkbox(
                False, label="Cut the graph's edges, too: a verified graph (more model runs)",
                elem_id="edges",
            )  # fmt: skip
            self.explain = gr.Button("Search", elem_id="explain")

    def _attention_parts(self) -> None:
        with gr.Row():
            with gr.Column(min_width=280):
                gr.HTML(
                    "<b>Answer → picture</b>: what the model looked at when it chose the word",
                    elem_classes="legend",
                )
                self.heat = _drawn("board.js", NOTHING, "heat")
            with gr.Column(min_width=280):
                self.layer = gr.Slider(0, 1, 0, step=1, label="Layer", elem_id="layer")
                self.head = gr.Dropdown(
                    ["mean of the heads"], value="mean of the heads", label="Head", elem_id="head"
                )
                gr.HTML(
                    "Share of each head's attention on the image, in percent; choose one:",
                    elem_classes="legend",
                )
                self.matrix = _drawn("matrix.js", NOTHING, "matrix")
                gr.HTML(
                    "<b>Picture → answer</b>: click a patch to see which words of the answer "
                    "looked at it", elem_classes="legend",
                )  # fmt: skip
                self.looked = _drawn("tokens.js", NOTHING, "looked")
        self.strip_button = gr.Button(
            "Show every head of this layer", size="sm", elem_id="heads", visible=False
        )
        self.strip = gr.HTML("", elem_id="strip")

    def _relevancy_parts(self) -> None:
        ticked = ("attention", "rollout", "relevancy", "causal")
        self.methods: list[gr.CheckboxGroup] = []
        groups = method_groups()
        patented = groups.pop(PATENTED, [])
        with gr.Group(elem_id="methods"):
            for name, choices in groups.items():
                values = [value for _, value in choices if value in ticked]
                self.methods.append(gr.CheckboxGroup(choices, value=values, label=name))
        with gr.Accordion(PATENTED, open=False, elem_id="patented"):
            self.methods.append(gr.CheckboxGroup(patented, show_label=False))
            self.note_read = gr.Checkbox(
                False, label="I have read the note on patents and may use these methods",
                info=PATENT_NOTE,
            )  # fmt: skip
        self.run_methods = gr.Button("Run", variant="primary", elem_id="run-methods")
        self.maps = gr.HTML("", elem_id="maps")

    def _compare_parts(self) -> None:
        gr.HTML(
            "Two questions about the picture, or one question about two pictures. Both answers are "
            "explained and their graphs compared. A question left empty is the other side's.",
            elem_classes="legend",
        )
        with gr.Row():
            with gr.Column(min_width=280):
                self.question_a = gr.Textbox(label="Question A", elem_id="question-a")
                self.word_a = gr.Textbox(label="Word of answer A (default: the last)")
            with gr.Column(min_width=280):
                self.question_b = gr.Textbox(label="Question B", elem_id="question-b")
                self.word_b = gr.Textbox(label="Word of answer B (default: the last)")
                self.second = gr.UploadButton(
                    "Another picture for B (default: the same)", file_types=_PICTURES,
                    type="filepath", size="sm", elem_id="second",
                )  # fmt: skip
                self.second_shown = gr.HTML("", elem_id="second-shown")
                self.second_none = gr.Button(
                    "The same picture again", size="sm", visible=False, elem_id="second-none"
                )
        self.run_compare = gr.Button("Compare", variant="primary", elem_id="run-compare")
        self.compared = gr.HTML("", elem_id="compared")

    def _export_parts(self) -> None:
        with gr.Row():
            self.export_report = gr.Button("Report (HTML)", elem_id="export-report")
            self.export_numbers = gr.Button("Numbers (JSON)", elem_id="export-numbers")
            self.export_figures = gr.Button("Figures (ZIP)", elem_id="export-figures")
        self.files = gr.File(label="Files", file_count="multiple", elem_id="files")
