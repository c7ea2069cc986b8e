"""A method's scores of words as bars: what a heat map is where there is no image."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from causal_lvlm.arrays import FloatArray
from causal_lvlm.viz.style import CAUSE, INK, PAPER, TARGET, figure_image
from causal_lvlm.viz.view import TraceView

__all__ = ["draw_word_scores"]

_SHOWN = 24  # more bars could not be read; the others have smaller scores


def draw_word_scores(view: TraceView, scores: FloatArray, *, title: str) -> Image.Image:
    """Draw the scores of words as bars, in the order in which the words stand.

    Parameters
    ----------
    view : TraceView
    scores : ndarray of float64, shape (T,)
        A score per position; words with a score of zero are left out.
    title : str

    Returns
    -------
    PIL.Image.Image
        RGB. Positive bars are blue, negative ones orange.
    """
    words = [int(p) for p in view.layout.positions("prompt", "generated") if scores[p] != 0]
    largest = sorted(words, key=lambda p: (-abs(scores[p]), p))[:_SHOWN]
    shown = sorted(largest)
    left_out = len(words) - len(shown)
    figure = Figure(figsize=(6.4, 1.3 + 0.24 * max(len(shown), 1)), dpi=100, facecolor=PAPER)
    axes = figure.add_subplot()
    values = np.array([scores[p] for p in shown], dtype=np.float64)
    # Words may hold what matplotlib would read as a formula.
    names = [view.label((p,)).replace("$", r"\$") for p in shown]
    places = np.arange(len(shown))
    axes.barh(places, values, color=[TARGET if v > 0 else CAUSE for v in values], height=0.7)
    axes.set_yticks(places, names, fontsize=11)
    axes.invert_yaxis()
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if not shown:
        axes.set_xticks([])
    note = "No token of the text has a score." if not shown else ""
    if left_out:
        note = f"The {len(shown)} words with the largest scores; {left_out} more have smaller ones."
    axes.set_xlabel(note, fontsize=10)
    axes.set_title(title.replace("$", r"\$"), fontsize=14, fontweight="bold", loc="left")
    figure.set_layout_engine("constrained")
    return figure_image(figure)
