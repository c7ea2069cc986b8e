"""What the page's parts are given: plain values and escaped HTML, made of results.

`board`, `answer_tokens` and `head_matrix` make the values that the scripts in ``static`` draw; the
rest is HTML. Every text that comes from outside is escaped here, or set as text there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from causal_lvlm.app.attention import AnswerAttention
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.records import Asked, Masked, Verified
from causal_lvlm.app.turns import News
from causal_lvlm.app.uris import picture_uri
from causal_lvlm.arrays import FloatArray
from causal_lvlm.tokens import TokenLayout, Units

if TYPE_CHECKING:
    from causal_lvlm.explanation import Explanation

__all__ = [
    "NOTHING",
    "answer_tokens",
    "attention_board",
    "cells_of",
    "frame_html",
    "head_matrix",
    "mask_board",
    "paint_board",
    "readout_html",
    "sentence_html",
    "shown",
    "stages_html",
    "status_html",
    "words_of",
]

# An empty value of a part that a script draws. Such values are JSON as text: where a handler sends
# several, Gradio sends how they differ, and inside objects its page does not notice.
NOTHING = "{}"


def _board(mode: str, pictures: Sequence[dict[str, Any]], alt: str, **more: Any) -> str:
    value = {
        "mode": mode,
        "pictures": pictures,
        "alt": alt,
        "words": [],
        "members": [],
        "offer": None,
        "key": None,
        "highest": None,
        **more,
    }
    return json.dumps(value)


def _picture(
    image: Image.Image, alt: str, cells: Sequence[Any] = (), cols: int = 1
) -> dict[str, Any]:
    width, height = image.size
    return {
        "image": picture_uri(image), "width": width, "height": height, "alt": alt,
        "cells": list(cells), "cols": cols,
    }  # fmt: skip


def paint_board(image: Image.Image | None) -> str:
    """Return the picture to be painted over, or a place for one."""
    if image is None:
        return _board("paint", [], "Upload a picture, or choose one of the examples.")
    alt = "Picture; paint over a region with the pointer."
    return _board("paint", [_picture(image, alt)], alt)


def cells_of(
    layout: TokenLayout, number: int, scores: FloatArray | None = None
) -> tuple[list[list[Any]], int]:
    """Return the cells of one image with their scores, and the columns of its first grid.

    A cell is left, top, right, bottom, position, label, score or None.
    """
    cells: list[list[Any]] = []
    grids = [grid for grid in layout.grids if grid.image == number]
    for grid in grids:
        for position, box in zip(grid.positions, grid.boxes, strict=True):
            at = int(position)
            score = None if scores is None else float(scores[at])
            cells.append([*(round(float(v), 3) for v in box), at, layout.label(at), score])
    return cells, grids[0].cols if grids else 1


def words_of(asked: Asked) -> list[int]:
    """Return the positions of the words before the chosen token, without the template's frame."""
    layout = asked.trace.layout
    end = len(layout) if asked.target is None else asked.target.start
    return [int(p) for p in layout.positions("prompt", "generated") if p < end]


def _name(number: int, images: Sequence[Image.Image]) -> str:
    return f"Picture {number + 1}" if len(images) > 1 else "Picture"


def mask_board(asked: Asked, units: Units) -> str:
    """Return pictures and words, each of which can be masked; the frame is shown as it is.

    The members of the explaining set, if there is one, are numbered as the report numbers them.
    """
    layout, images = asked.trace.layout, asked.trace.images
    free = set(units.unit_of())
    pictures = []
    for number, image in enumerate(images):
        cells, cols = cells_of(layout, number)
        cells = [cell for cell in cells if cell[4] in free]
        alt = f"{_name(number, images)}: choose patches to hide them from the model."
        pictures.append(_picture(image, alt, cells, cols))
    words = [[p, shown(layout.tokens[p]), p in free] for p in words_of(asked)]
    found = asked.explanation()
    members: list[list[int]] = []
    offer: dict[str, Any] | None = None
    if found is not None and found.main.verified:
        members = [[int(p) for p in unit] for unit in found.main.units]
        inside = [p for unit in members for p in unit]
        offer = {"text": "Hide the set", "positions": inside}
        if found.mode == "sufficient":
            outside = sorted(free.difference(inside))
            offer = {"text": "Hide all but the set", "positions": outside}
    start = -1 if asked.target is None else asked.target.start
    return _board(
        "mask", pictures, "No picture.", words=words, members=members, offer=offer,
        key=f"{id(asked)} {start}",
    )  # fmt: skip


def shown(token: str) -> str:
    """Return a token as it is shown: without the space it carries, and never as nothing."""
    return token.strip() or repr(token)


def attention_board(
    asked: Asked, found: AnswerAttention, token: int, layer: int, head: int | None
) -> str:
    """Return the pictures and words under the attention that one token paid to them."""
    scores, layout, images = found.row(token, layer, head), asked.trace.layout, asked.trace.images
    who = "mean of the heads" if head is None else f"head {head}"
    word = shown(layout.generated[token])
    pictures, highest = [], 0.0
    for number, image in enumerate(images):
        cells, cols = cells_of(layout, number, scores)
        highest = max(highest, *(cell[6] for cell in cells)) if cells else highest
        what = f"picture {number + 1}" if len(images) > 1 else "the picture"
        alt = f"Attention of “{word}” to {what}, layer {layer}, {who}."
        pictures.append(_picture(image, alt, cells, cols))
    words = [[p, shown(layout.tokens[p]), False, float(scores[p])] for p in words_of(asked)]
    highest = max([highest, *(float(scores[p]) for p in words_of(asked))])
    return _board("heat", pictures, "No picture.", words=words, highest=highest or None)


def answer_tokens(asked: Asked | None, weights: FloatArray | None = None, label: str = "") -> str:
    """Return the answer as tokens that can be chosen; weighed by numbers from 0 on if given."""
    if asked is None:
        return NOTHING
    layout = asked.trace.layout
    high = 0.0 if weights is None else float(np.max(weights, initial=0.0))
    tokens = []
    for index, text in enumerate(layout.generated):
        weight = None if weights is None else float(weights[index]) / (high or 1.0)
        free = str(layout.modality[layout.n_prompt + index]) == "generated" and not label
        tokens.append([shown(text), free, weight])
    chosen = -1 if asked.target is None else asked.target.start - layout.n_prompt
    value = {"tokens": tokens, "chosen": chosen, "label": label or "token to explain"}
    return json.dumps(value)


def head_matrix(found: AnswerAttention, token: int, layer: int, head: int | None) -> str:
    """Return the share of attention on the image for each layer and head."""
    values = [[round(float(v), 4) for v in row] for row in found.grid(token)]
    value = {
        "values": values,
        "layer": layer,
        "head": -1 if head is None else head,
        "label": "share of each head's attention that lies on the image, in percent",
    }
    return json.dumps(value)


# -- HTML --------------------------------------------------------------------------------


def status_html(news: News | str | None = None, *, bad: bool = False) -> str:
    """Return the line that says what is going on."""
    if news is None:
        return '<div class="status" role="status"></div>'
    if isinstance(news, str):
        kind = ' bad" role="alert' if bad else '" role="status'
        return f'<div class="status{kind}">{escape(news)}</div>'
    if news.kind == "error":
        return status_html(error_text(news.value), bad=True)
    if news.kind in ("stopped", "stopping"):
        return status_html("Stopped.")
    if news.kind == "progress":
        what, done, total = news.value
        bar = f'<progress max="{int(total)}" value="{int(done)}"></progress>' if total else ""
        count = f" {int(done)} of {int(total)}" if total else " …"
        return f'<div class="status busy" role="status">{bar}{escape(str(what))}{count}</div>'
    return status_html()


def stages_html(asked: Asked, stages: Sequence[Verified]) -> str:
    """Return the sets as they are verified, the newest of each scope."""
    newest = {found.scope: found for found in stages}
    if not newest:
        return ""
    rows = "".join(
        f"<tr><td>{name}</td><td>{_members(asked, newest[name])}</td>"
        f"<td>says {escape(' '.join(s.strip() for s in newest[name].says))!s}, "
        f"p {newest[name].probability:.2f}</td></tr>"
        for name in ("image", "text", "joint")
        if name in newest
    )
    return (
        '<table class="stages"><caption>Verified so far; smaller ones are still looked for.'
        "</caption><thead><tr><th>within</th><th>masked</th><th>model</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _members(asked: Asked, found: Verified) -> str:
    from causal_lvlm.explanation.names import TokenNames

    layout, names = asked.trace.layout, TokenNames.of(asked.trace.layout)
    image = set(layout.positions("image").tolist())
    words = [names.quoted((p,)) for p in found.positions if p not in image]
    patches = sum(p in image for p in found.positions)
    parts = [f"{patches} patch{'es' * (patches != 1)}"] if patches else []
    parts += [escape(word) for word in words[:12]]
    return ", ".join(parts) + (" …" if len(words) > 12 else "")


def sentence_html(explanation: Explanation) -> str:
    """Return an explanation as a sentence."""
    return f'<p class="sentence">{escape(explanation.sentence())}</p>'


def readout_html(asked: Asked, found: Masked | None) -> str:
    """Return the probability of the target before and after masking."""
    if asked.target is None:
        return "<p>Choose a token of the answer.</p>"
    word = escape(asked.target.text)
    if not asked.attached:
        return (
            "<p>This run was opened from a file and its model is not loaded, so nothing can be "
            "asked again.</p>"
        )
    if found is None or not found.positions:
        return f"<p>Click patches or words to hide them; “{word}” is asked again at once.</p>"
    verb = "says" if found.changed else "still says"
    return (
        '<div class="readout" role="status">'
        + _bar("nothing masked", found.before, "")
        + _bar(f"{len(found.positions)} masked", found.probability, "masked")
        + f"<p>p(“{word}”); the model {verb} <b>{escape(found.says)}</b>.</p></div>"
    )


def _bar(name: str, value: float, kind: str) -> str:
    return (
        f'<span>{escape(name)}</span><span class="bar {kind}"><i style="width:{value:.1%}"></i>'
        f"</span><span>{value:.3f}</span>"
    )


def frame_html(page: str, title: str) -> str:
    """Return a page in a frame that may run its own scripts and reach nothing else."""
    return (
        f'<iframe class="report" sandbox="allow-scripts" title="{escape(title)}" '
        f'srcdoc="{escape(page)}"></iframe>'
    )
