"""How a trace and an explanation show themselves in a notebook: one small static card of HTML.

Needs neither the report nor a drawing library: a copy of the image with the patches of the set
outlined, the sentence, prompt and answer with the words of the set marked. No script, nothing is
loaded. All text is escaped. Colours are set together with their background, so that a card reads
the same in light and dark notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.rasters import decode_images, encode_image
from causal_lvlm.summary import pictures_of

__all__ = ["explanation_card", "trace_card"]

_SIDE = 260  # pixels of the longest side of an image
_TOKENS = 400  # more tokens of text than that are cut
_CAUSE, _TARGET = "#b34700", "#005a91"
_BOX = (
    "font-family:system-ui,sans-serif;color:#1b1f24;background:#fff;border:1px solid #d5dbe1;"
    "border-radius:8px;padding:12px 16px;max-width:900px;line-height:1.5"
)
_ROW = "display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start"
_BADGE = "display:inline-block;border:1px solid;border-radius:999px;padding:0 10px;margin-right:6px"


def explanation_card(explanation: Any) -> str:
    """Return an explanation as a fragment of HTML.

    Parameters
    ----------
    explanation : Explanation

    Returns
    -------
    str
    """
    summary, main = explanation.summary, explanation.main
    images = decode_images(pictures_of(summary), "image")
    numbers = {p: n for n, unit in enumerate(main.units, start=1) for p in unit}
    pictures = [
        _picture(
            image,
            _boxes(summary, numbers, which),
            _described(_boxes(summary, numbers, which), which, len(images)),
        )
        for which, image in enumerate(images)
    ]
    good = (
        "color:#00684a;background:#d8f0e6" if main.verified else "color:#7a4b00;background:#fdeecb"
    )
    verdict = "verified" if main.verified else "not verified"
    badges = f'<span style="{_BADGE};{good}">{verdict}</span>'
    if main.verified:
        size = "no claim of minimality" if main.minimality == "none" else main.claim
        if size:
            badges += f'<span style="{_BADGE};color:#55606b">{escape(size)}</span>'
    count = int(explanation.model_runs)
    runs = f"{count} model run{'' if count == 1 else 's'}"
    badges += f'<span style="{_BADGE};color:#55606b">{runs}</span>'
    words = _words(
        summary["tokens"],
        summary["modality"],
        set(explanation.target.positions),
        numbers,
        image_of=_image_of(_grids(summary)),
    )
    return (
        f'<div style="{_BOX}"><div style="{_ROW}">{"".join(pictures)}'
        f'<div style="flex:1 1 300px"><p style="margin:0 0 6px;font-size:1.05em">'
        f"{escape(explanation.sentence())}</p><p>{badges}</p><p>{words}</p></div></div></div>"
    )


def trace_card(trace: Any) -> str:
    """Return a trace as a fragment of HTML.

    Parameters
    ----------
    trace : Trace

    Returns
    -------
    str
    """
    layout = trace.layout
    pictures = [_picture(image, (), "the image as given") for image in getattr(trace, "images", ())]
    generated = set(range(layout.n_prompt, len(layout)))
    chances = np.exp(np.asarray(trace.log_probs, dtype=np.float64)).tolist()
    titles = {layout.n_prompt + k: f"probability {p:.2f}" for k, p in enumerate(chances)}
    image_of = _image_of([{"image": g.image, "positions": g.positions} for g in layout.grids])
    words = _words(layout.tokens, layout.modality, generated, {}, titles, image_of)
    cells = int(np.count_nonzero(np.asarray(layout.modality) == "image"))
    facts = f"{trace.model_id} · {len(layout)} positions, {cells} of them image tokens"
    facts = ". ".join([facts, *getattr(trace, "remarks", ())])
    return (
        f'<div style="{_BOX}"><div style="{_ROW}">{"".join(pictures)}'
        f'<div style="flex:1 1 300px"><p style="margin:0 0 6px;font-size:1.05em">Answer: '
        f"<b>{escape(str(trace.answer))}</b></p><p>{words}</p>"
        f'<p style="color:#55606b;font-size:.88em">{escape(facts)}</p></div></div></div>'
    )


def _described(boxes: Sequence[tuple[int, Any]], which: int, count: int) -> str:
    """Return what a picture shows: members that are words are not on it."""
    name = "the image" if count == 1 else f"image {which}"
    members = len({number for number, _ in boxes})
    if not members:
        return f"{name}; no member of the set is on it"
    return f"{name} with {members} member{'' if members == 1 else 's'} of the set outlined"


def _boxes(
    summary: Mapping[str, Any], numbers: Mapping[int, int], image: int
) -> list[tuple[int, Sequence[float]]]:
    """Return number and rectangle of every cell of the set on one image."""
    return [
        (numbers[p], box)
        for grid in _grids(summary)
        if int(grid.get("image", 0)) == image
        for p, box in zip(grid["positions"], np.reshape(grid["boxes"], (-1, 4)), strict=True)
        if p in numbers
    ]


def _grids(summary: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    source = summary["layout"] if isinstance(summary.get("layout"), Mapping) else summary
    grids: Sequence[Mapping[str, Any]] = source["grids"]
    return grids


def _image_of(grids: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return which image each position shows; empty of a single image, which needs no number."""
    found = {int(p): int(grid.get("image", 0)) for grid in grids for p in grid["positions"]}
    return found if len(set(found.values())) > 1 else {}


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
    tokens: Sequence[str],
    modality: Any,
    framed: set[int],
    numbers: Mapping[int, int],
    titles: Mapping[int, str] | None = None,
    image_of: Mapping[int, int] | None = None,
) -> str:
    """Return prompt and answer as text: image tokens as one, members and targets marked."""
    text = [t for t, kind in zip(tokens, modality, strict=True) if kind != "image"]
    spaced = any(t[:1].isspace() and t.strip() for t in text)  # else tokens carry no space
    parts: list[str] = []
    shown, before = 0, ""
    for p, token in enumerate(tokens):
        if modality[p] == "image":
            name = f"[image {image_of[p]}]" if image_of and p in image_of else before or "[image]"
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
        number = f"<sup>{numbers[p]}</sup>" if p in numbers else ""
        parts.append(f'{gap}<span style="{style}"{title}>{escape(token.strip())}{number}</span>')
    return "".join(parts)
