"""Maps of scores as HTML: methods side by side, heads side by side, two runs side by side.

A map is the picture, paled, under the colours of its patches' scores, and the words shaded on the
same scale: the word that decides may matter more than any patch. Every text from outside is escaped
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.app.records import Asked
from causal_lvlm.app.uris import picture_uri
from causal_lvlm.app.view import cells_of, shown, words_of
from causal_lvlm.arrays import FloatArray

if TYPE_CHECKING:
    from causal_lvlm.app.work import Scored
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.explanation import Explanation

__all__ = ["compare_html", "graphs_difference", "heads_html", "maps_html", "side_html"]

_LARGE, _SMALL = 420, 180  # longest side of a map in pixels
_WORDS = 40  # shown of long prompts: those with the largest scores


def maps_html(asked: Asked, results: Sequence[Scored]) -> str:
    """Return maps of several methods side by side; (name, message) stands for one that failed.

    Parameters
    ----------
    asked : Asked
        The run that was scored.
    results : sequence of Attribution or (str, str)
    """
    figures = []
    for result in results:
        if isinstance(result, tuple):
            name, message = result
            figures.append(
                f'<figure class="failed"><figcaption><b>{escape(name)}</b>'
                f"<br>{escape(message)}</figcaption></figure>"
            )
        else:
            figures.append(_method(asked, result))
    return f'<div class="maps">{"".join(figures)}</div>'


def _method(asked: Asked, result: Attribution) -> str:
    scores = np.asarray(result.scores, dtype=np.float64)
    words = words_of(asked)
    patches = [int(p) for p in asked.trace.layout.positions("image")]
    seen = np.abs(scores[[*words, *patches]])
    high, signed = float(seen.max(initial=0.0)), bool((scores[[*words, *patches]] < 0).any())
    pictures = "".join(
        f'<img src="{picture_uri(_overlay(asked, number, scores, high, signed))}" '
        f'alt="{escape(_alt(asked, number, result.method, scores))}">'
        for number in range(len(asked.trace.images))
    )
    cost = [_count(result.model_runs, "model run")]
    if result.backward_passes:
        cost.append(_count(result.backward_passes, "backward pass", "backward passes"))
    notes = "".join(f"<br>{escape(note)}" for note in result.notes)
    return (
        f"<figure><figcaption><b>{escape(result.method)}</b></figcaption>{pictures}"
        f"{_words(asked, words, scores, high, signed)}{_scale(high, signed)}"
        f"<figcaption>{', '.join(cost)}, {result.seconds:.2f} s{notes}</figcaption></figure>"
    )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _alt(asked: Asked, number: int, method: str, scores: FloatArray) -> str:
    cells, _ = cells_of(asked.trace.layout, number, scores)
    best = max(cells, key=lambda cell: cell[6], default=None)
    return f"{method}: scores over the picture" + (f", highest at {best[5]}" if best else "")


def _ink(score: float, high: float, signed: bool) -> tuple[int, int, int]:
    """Return the colour of a score: blue to yellow, or orange over white to purple."""
    from matplotlib import colormaps

    share = score / (high or 1.0)
    colour = colormaps["PuOr" if signed else "cividis"]((share + 1) / 2 if signed else share)
    red, green, blue = (round(255 * c) for c in colour[:3])
    return red, green, blue


def _words(
    asked: Asked, words: Sequence[int], scores: FloatArray, high: float, signed: bool
) -> str:
    kept = set(sorted(words, key=lambda p: -abs(scores[p]))[:_WORDS])
    spans = []
    for p in words:
        if p in kept:
            ink = _ink(float(scores[p]), high, signed)
            light = sum(part * share for part, share in zip(ink, (0.3, 0.59, 0.11), strict=True))
            text = "#1b1f24" if light > 120 else "#ffffff"
            spans.append(
                f'<span style="background:rgb{ink};color:{text}" title="{scores[p]:.3g}">'
                f"{escape(shown(asked.trace.layout.tokens[p]))}</span>"
            )
    more = len(words) - len(kept)
    rest = f"<span>… {more} more with smaller scores</span>" if more else ""
    return f'<p class="scored">{"".join(spans)}{rest}</p>'


def _scale(high: float, signed: bool) -> str:
    low = f"{-high:.2g}" if signed else "0"
    kind = "signed" if signed else "unsigned"
    return f'<p class="scale"><span>{low}</span><i class="{kind}"></i><span>{high:.2g}</span></p>'


def _overlay(
    asked: Asked, number: int, scores: FloatArray, high: float, signed: bool, size: int = _LARGE
) -> Image.Image:
    """Lay scores of cells over a small pale copy of one of the pictures."""
    image = asked.trace.images[number]
    factor = size / max(image.size)
    shape = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # Little contrast: a dark object must not look like a low score.
    base = image.convert("L").point([round(90 + v * 0.5) for v in range(256)]).convert("RGB")
    base = base.resize(shape)
    colours = base.copy()
    draw = ImageDraw.Draw(colours)
    for left, top, right, bottom, _, _, score in cells_of(asked.trace.layout, number, scores)[0]:
        box = [v * factor for v in (left, top, right, bottom)]
        draw.rectangle(box, fill=_ink(score, high, signed))
    return Image.blend(base, colours, 0.6)


def heads_html(asked: Asked, layer: int) -> str:
    """Return small pictures of every head of a layer, with its attention laid over them."""
    found = asked.attention
    if found is None or asked.target is None or not asked.trace.images:
        return ""
    layer = min(max(layer, 0), found.n_layers - 1)
    token = asked.target.start - asked.trace.layout.n_prompt
    patches = asked.trace.layout.positions("image")
    figures = []
    for head in range(found.n_heads):
        row = found.row(token, layer, head)
        high = float(row[patches].max(initial=0.0))
        pictures = "".join(
            f'<img src="{picture_uri(_overlay(asked, n, row, high, False, _SMALL))}" '
            f'alt="attention of head {head} over the picture">'
            for n in range(len(asked.trace.images))
        )
        figures.append(
            f"<figure>{pictures}<figcaption>head {head}: {row[patches].sum():.0%} on the image"
            "</figcaption></figure>"
        )
    return (
        f'<p class="legend">Every head of layer {layer}, each on a scale of its own:</p>'
        f'<div class="maps small">{"".join(figures)}</div>'
    )


# -- two runs ------------------------------------------------------------------------------------


def side_html(image: Image.Image | None) -> str:
    """Return the second picture, small."""
    if image is None:
        return ""
    return f'<img class="thumb" src="{picture_uri(image, 240)}" alt="the picture of side B">'


def compare_html(
    sides: Sequence[tuple[Asked, Explanation]],
    difference: Image.Image | None = None,
    text: str = "",
) -> str:
    """Return two runs side by side: answers, sentences, sets on the picture, graphs' difference."""
    from causal_lvlm.explanation.sentences import question, target_name
    from causal_lvlm.viz import draw_patches, view_of

    figures = []
    for name, (asked, found) in zip("AB", sides, strict=False):
        view = view_of(asked.trace)
        units = found.image.units if found.image is not None else found.main.units
        picture = draw_patches(view, units)
        holds = f"smallest verified set of patches; {question(found)}" if units else "no set"
        alt = f"{name}: {holds}"
        figures.append(
            f'<figure><img src="{picture_uri(picture)}" alt="{escape(alt)}">'
            f"<figcaption><b>{name}: {escape(asked.question)}</b>{_answer(asked)}"
            f"<p>{escape(found.sentence())}</p></figcaption></figure>"
        )
    html = f'<div class="maps pair">{"".join(figures)}</div>'
    if len(sides) == 2:
        words = [escape(target_name(found)) for _, found in sides]
        html = (
            f'<p class="compared">Compared: {words[0]} of answer A with {words[1]} of answer '
            f"B.</p>{html}"
        )
    if text:
        html += f'<p class="difference">{escape(text)}</p>'
    if difference is not None:
        uri = picture_uri(difference, 2400)
        html += f'<div class="wide"><img src="{uri}" alt="{escape(text)}"></div>'
    return html


def _answer(asked: Asked) -> str:
    """Return the answer with the word that is explained marked."""
    layout, target = asked.trace.layout, asked.target
    words = []
    for index, text in enumerate(layout.generated):
        position = layout.n_prompt + index
        if str(layout.modality[position]) != "generated":
            continue
        inside = target is not None and position in target.positions
        word = escape(shown(text))
        words.append(f"<mark>{word}</mark>" if inside else word)
    return f'<p class="answer">{" ".join(words)}</p>'


def graphs_difference(
    sides: Sequence[tuple[Asked, Explanation]],
) -> tuple[Image.Image | None, str]:
    """Return the picture of how two runs' graphs differ, and a sentence about it."""
    from causal_lvlm.explanation.compare import graph_difference
    from causal_lvlm.structure import PAG
    from causal_lvlm.viz import draw_difference

    (asked_a, found_a), (asked_b, found_b) = sides
    if found_a.head_graph is None or found_b.head_graph is None:
        return None, ""
    found, one, two, labels = graph_difference(
        found_a.head_graph, asked_a.trace.layout, found_b.head_graph, asked_b.trace.layout
    )
    linked = np.flatnonzero((one.marks + two.marks).any(axis=1))
    text = (
        f"The graphs: {_count(found.true_positives, 'edge')} in both, "
        f"{found.false_positives} only in A, {found.false_negatives} only in B; they differ in "
        f"{_count(found.shd, 'pair')} of nodes."
    )
    if not len(linked):
        return None, text
    keep = np.ix_(linked, linked)
    picture = draw_difference(
        PAG(one.marks[keep]), PAG(two.marks[keep]), names=[labels[n] for n in linked],
        learned_name="A", truth_name="B",
    )  # fmt: skip
    return picture, text
