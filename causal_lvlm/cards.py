"""How a trace shows itself in a notebook, and what an explanation needs to: a small card of HTML.

Needs neither the report nor a drawing library: a copy of the image with the patches of the set
outlined, the sentence, prompt and answer with the words of the set marked. No script, nothing is
loaded. All text is escaped. Colours are set together with their background, so that a card reads
the same in light and dark notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.protocols import Recorded
from causal_lvlm.rasters import encode_image
from causal_lvlm.tokens import TokenLayout

__all__ = ["badge", "card", "marked", "trace_card"]

_SIDE = 260  # pixels of the longest side of an image
_TOKENS = 400  # more tokens of text than that are cut
_CAUSE, _TARGET = "#b34700", "#005a91"
_BOX = (
    "font-family:system-ui,sans-serif;color:#1b1f24;background:#fff;border:1px solid #d5dbe1;"
    "border-radius:8px;padding:12px 16px;max-width:900px;line-height:1.5"
)
_ROW = "display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start"
_BADGE = "display:inline-block;border:1px solid;border-radius:999px;padding:0 10px;margin-right:6px"


def trace_card(trace: Recorded) -> str:
    """Return a trace as a fragment of HTML.

    Parameters
    ----------
    trace : Trace or TraceRecord

    Returns
    -------
    str
    """
    layout = trace.layout
    generated = set(range(layout.n_prompt, len(layout)))
    chances = np.exp(np.asarray(trace.log_probs, dtype=np.float64)).tolist()
    titles = {layout.n_prompt + k: f"probability {p:.2f}" for k, p in enumerate(chances)}
    cells = int(np.count_nonzero(layout.modality == "image"))
    facts = f"{trace.model_id} · {len(layout)} positions, {cells} of them image tokens"
    facts = ". ".join([facts, *trace.remarks])
    return card(
        [_picture(image, (), "the image as given") for image in trace.images],
        f"Answer: <b>{escape(trace.answer)}</b>",
        f"<p>{_words(layout, generated, {}, titles)}</p>"
        f'<p style="color:#55606b;font-size:.88em">{escape(facts)}</p>',
    )


def marked(trace: Recorded, numbers: Mapping[int, int], framed: set[int]) -> tuple[list[str], str]:
    """Return the pictures of a run, and its prompt and answer, with the members of a set marked.

    Parameters
    ----------
    trace : Trace or TraceRecord
    numbers : mapping of int to int
        Position -> number of its member.
    framed : set of int
        Positions of the target.

    Returns
    -------
    list of str
        HTML of each picture.
    str
        HTML of the text.
    """
    layout, images = trace.layout, trace.images
    pictures = []
    for which, image in enumerate(images):
        boxes = [
            (numbers[p], box)
            for grid in layout.grids
            if grid.image == which
            for p, box in zip(grid.positions.tolist(), grid.boxes.tolist(), strict=True)
            if p in numbers
        ]
        pictures.append(_picture(image, boxes, _described(boxes, which, len(images))))
    return pictures, _words(layout, framed, numbers)


def badge(text: str, style: str = "color:#55606b") -> str:
    """Return a short remark in a frame, as HTML."""
    return f'<span style="{_BADGE};{style}">{escape(text)}</span>'


def card(pictures: Iterable[str], heading: str, rest: str) -> str:
    """Return a card: pictures, and beside them a heading and more; all three are HTML."""
    return (
        f'<div style="{_BOX}"><div style="{_ROW}">{"".join(pictures)}'
        f'<div style="flex:1 1 300px"><p style="margin:0 0 6px;font-size:1.05em">{heading}</p>'
        f"{rest}</div></div></div>"
    )


def _described(boxes: Sequence[tuple[int, Sequence[float]]], which: int, count: int) -> str:
    """Return what a picture shows: members that are words are not on it."""
    name = "the image" if count == 1 else f"image {which}"
    members = len({number for number, _ in boxes})
    if not members:
        return f"{name}; no member of the set is on it"
    return f"{name} with {members} member{'' if members == 1 else 's'} of the set outlined"


def _picture(image: Image.Image, boxes: Iterable[tuple[int, Sequence[float]]], alt: str) -> str:
    """Return a small copy of an image with numbered rectangles on it."""
    factor = _SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    smooth = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    copy = image.convert("RGB").resize(size, smooth)
    draw = ImageDraw.Draw(copy)
    for number, box in boxes:
        left, top, right, bottom = (float(v) * factor for v in box)
        for more, colour in ((1, "#ffffff"), (0, _CAUSE)):
            outer = (left - more, top - more, right + more, bottom + more)
            draw.rectangle(outer, outline=colour, width=2 + 2 * more)
        draw.text(((left + right) / 2, (top + bottom) / 2), str(number), fill="#ffffff",
                  stroke_width=2, stroke_fill=_CAUSE, anchor="mm")  # fmt: skip
    return (
        f'<img alt="{escape(alt, quote=True)}" style="max-width:100%" '
        f'src="data:image/png;base64,{encode_image(copy)}">'
    )


def _words(
    layout: TokenLayout,
    framed: set[int],
    numbers: Mapping[int, int],
    titles: Mapping[int, str] | None = None,
) -> str:
    """Return prompt and answer as text: image tokens as one, members and targets marked."""
    tokens, modality = layout.tokens, layout.modality
    several = len({grid.image for grid in layout.grids}) > 1  # a single one needs no number
    text = [t for t, kind in zip(tokens, modality, strict=True) if kind != "image"]
    spaced = any(t[:1].isspace() and t.strip() for t in text)  # else tokens carry no space
    parts: list[str] = []
    shown, before = 0, ""
    for p, token in enumerate(tokens):
        if modality[p] == "image":
            cell = layout.patch_cell(p) if several else None
            number = None if cell is None else layout.grids[cell[0]].image
            name = before or "[image]" if number is None else f"[image {number}]"
            if name != before:  # images may follow each other without a word between them
                parts.append(f' <span style="color:#55606b">{name}</span> ')
            before = name
            continue
        before = ""
        shown += 1
        if shown > _TOKENS:
            parts.append(" …")
            break
        style = "color:#55606b" if modality[p] == "special" else ""
        if p in numbers:
            style = f"border:2px solid {_CAUSE};border-radius:4px;padding:0 4px;background:#fbe3d2"
        elif p in framed:
            style = f"border:2px solid {_TARGET};border-radius:4px;padding:0 4px;background:#d7ebf7"
        gap = " " if not spaced or token[:1].isspace() else ""
        title = f' title="{escape(titles[p], quote=True)}"' if titles and p in titles else ""
        raised = f"<sup>{numbers[p]}</sup>" if p in numbers else ""
        parts.append(f'{gap}<span style="{style}"{title}>{escape(token.strip())}{raised}</span>')
    return "".join(parts)
