"""Prompt and answer with the words of a set marked, as HTML and as a picture.

The run of image tokens is shown as one ``[image]``, numbered where there are several images. Words
the frame consists of (special and template tokens) are grey, the target is framed, and what was
generated after the target is faint: the model had not said it yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw

from causal_lvlm.tokens import Target, TokenLayout
from causal_lvlm.viz.style import CAUSE, FAINT, INK, MUTED, PAPER, TARGET, caption, font, text_size
from causal_lvlm.viz.view import TraceView

__all__ = ["Piece", "draw_prompt", "prompt_html", "prompt_pieces"]


@dataclass(frozen=True)
class Piece:
    """A run of text that is drawn in one way.

    Attributes
    ----------
    text : str
    kind : str
        ``"image"``, ``"frame"``, ``"word"``, ``"cause"``, ``"target"`` or ``"later"``.
    number : int or None
        Number of the unit in the set.
    space : bool
        Whether a space stands before it.
    position : int
        First sequence position.
    """

    text: str
    kind: str
    number: int | None
    space: bool
    position: int


def prompt_pieces(
    layout: TokenLayout, target: Target | None, numbers: Mapping[int, int]
) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of the prompt and those of the answer.

    Parameters
    ----------
    layout : TokenLayout
    target : Target or None
    numbers : mapping of int to int
        Number of the set's unit at each position that belongs to one.
    """
    spaced = not any(
        token != token.strip() and token.strip()
        for token, kind in zip(layout.tokens, layout.modality, strict=True)
        if kind in ("prompt", "generated")
    )
    prompt: list[Piece] = []
    answer: list[Piece] = []
    chosen = set(target.positions) if target is not None else set()
    several = len({grid.image for grid in layout.grids}) > 1
    shown = "[image]"
    for position, token in enumerate(layout.tokens):
        pieces = prompt if position < layout.n_prompt else answer
        number = numbers.get(position)
        modality = str(layout.modality[position])
        if modality == "image":
            cell = layout.patch_cell(position)
            if several and cell is not None:
                shown = f"[image{layout.grids[cell[0]].image}]"
            if not pieces or pieces[-1].kind != "image" or pieces[-1].text != shown:
                pieces.append(Piece(shown, "image", None, bool(pieces), position))
            continue
        if position in chosen:
            kind = "target"
        elif number is not None:
            kind = "cause"
        elif modality == "special":
            kind = "frame"
        elif target is not None and position > target.positions[-1]:
            kind = "later"
        else:
            kind = "word"
        text = token.replace("\n", "↵")
        space = bool(pieces) and (spaced or token[:1] in " \n" or pieces[-1].kind == "image")
        pieces.append(Piece(text.strip(" "), kind, number, space, position))
    return [p for p in prompt if p.text], [p for p in answer if p.text]


_TITLES = {
    "image": "the image tokens",
    "frame": "part of the frame (special or template token); never a candidate",
    "cause": "in the set",
    "target": "the token explained",
    "later": "generated after the target",
}


def prompt_html(view: TraceView, target: Target | None, numbers: Mapping[int, int]) -> str:
    """Return an HTML fragment: two paragraphs, prompt and answer, all text escaped."""
    rows = []
    names = ("Prompt", "Answer")
    for name, pieces in zip(names, prompt_pieces(view.layout, target, numbers), strict=True):
        cells = []
        for piece in pieces:
            text = escape(piece.text)
            if piece.number is not None and piece.kind == "cause":
                text += f"<sup>{piece.number}</sup>"
            tag = {"cause": "mark", "target": "strong"}.get(piece.kind, "span")
            title = f' title="{_TITLES[piece.kind]}"' if piece.kind in _TITLES else ""
            space = " " if piece.space else ""
            cells.append(f'{space}<{tag} class="t-{piece.kind}"{title}>{text}</{tag}>')
        rows.append(f'<p><span class="who">{name}</span> {"".join(cells)}</p>')
    return f'<div class="prompt">{"".join(rows)}</div>'


def draw_prompt(
    view: TraceView,
    target: Target | None,
    numbers: Mapping[int, int],
    *,
    title: str = "",
    width: int = 760,
) -> Image.Image:
    """Return a picture of the prompt and the answer with the set's words marked."""
    face, bold, small = font(20), font(20, bold=True), font(12, bold=True)
    line_height = text_size("x", face)[1] + 22
    rows = prompt_pieces(view.layout, target, numbers)
    left, space = 104, int(face.getlength(" ")) + 2
    placed: list[tuple[int, int, int, Piece]] = []
    heads: list[tuple[int, str]] = []
    y = 14
    for name, pieces in zip(("Prompt", "Answer"), rows, strict=True):
        heads.append((y, name))
        x = left
        for piece in pieces:
            boxed = piece.kind in ("cause", "target", "image")
            extent = int((bold if boxed else face).getlength(piece.text)) + (12 if boxed else 0)
            extent += 12 if piece.kind == "cause" and piece.number else 0
            gap = (space if piece.space else 1) + (3 if boxed else 0)
            if x > left and x + gap + extent > width - 12:
                x, y = left, y + line_height
            elif x > left:
                x += gap
            placed.append((x, y, extent, piece))
            x += extent
        y += line_height + 4
    page = Image.new("RGB", (width, y + 6), PAPER)
    draw = ImageDraw.Draw(page)
    for top, name in heads:
        draw.text((12, top + 8), name, font=font(15), fill=MUTED)
    for x, top, extent, piece in placed:
        box = (x, top, x + extent, top + line_height - 10)
        middle = (top + top + line_height - 10) / 2
        if piece.kind == "cause":
            draw.rounded_rectangle(box, 5, fill="#fbe3d2", outline=CAUSE, width=2)
        elif piece.kind == "target":
            draw.rounded_rectangle(box, 5, fill="#d7ebf7", outline=TARGET, width=3)
        elif piece.kind == "image":
            draw.rounded_rectangle(box, 5, outline=FAINT, width=2)
        boxed = piece.kind in ("cause", "target", "image")
        colour = MUTED if piece.kind in ("frame", "image") else INK
        colour = "#8d969f" if piece.kind == "later" else colour
        draw.text(
            (x + (6 if boxed else 0), middle),
            piece.text,
            font=bold if boxed else face,
            fill=colour,
            anchor="lm",
        )
        if piece.kind == "cause" and piece.number:
            spot = (x + extent - 4, top + 3)
            draw.text(spot, str(piece.number), font=small, fill=CAUSE, anchor="rt")
    if not title:
        return page
    head = caption(title, width)
    whole = Image.new("RGB", (width, head.height + page.height), PAPER)
    whole.paste(head, (0, 0))
    whole.paste(page, (0, head.height))
    return whole
