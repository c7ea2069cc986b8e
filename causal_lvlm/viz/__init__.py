"""Pictures and pages: what a person sees, made from results; no model is asked in here."""

from __future__ import annotations

from causal_lvlm.viz.bundle import write_bundle, write_cases
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.causal_picture import draw_causal_graph
from causal_lvlm.viz.difference import draw_difference
from causal_lvlm.viz.graph import draw_graph
from causal_lvlm.viz.overlay import draw_heat, draw_patches
from causal_lvlm.viz.paper import draw_explanation_figure
from causal_lvlm.viz.prompt import draw_prompt, prompt_html
from causal_lvlm.viz.report import report_cases
from causal_lvlm.viz.structure_graph import draw_structure
from causal_lvlm.viz.tree import draw_tree
from causal_lvlm.viz.view import TraceView, view_of

__all__ = [
    "Case",
    "TraceView",
    "draw_causal_graph",
    "draw_difference",
    "draw_explanation_figure",
    "draw_graph",
    "draw_heat",
    "draw_patches",
    "draw_prompt",
    "draw_structure",
    "draw_tree",
    "prompt_html",
    "report_cases",
    "view_of",
    "write_bundle",
    "write_cases",
]
