"""The marks of a graph's edges, and the strip below a picture that explains them."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from causal_lvlm.viz.style import CAUSE, FAINT, INK, MUTED, PAPER, TARGET, font

__all__ = ["ARROW", "CIRCLE", "EDGE", "MARK_MEANING", "TAIL", "legend"]

CIRCLE, ARROW, TAIL = 1, 2, 3
EDGE = "#3d4650"
MARK_MEANING = (
    (CIRCLE, "circle: not determined, arrowhead or tail"),
    (ARROW, "arrowhead: this end is not a cause of the other end"),
    (TAIL, "tail: this end is a cause of the other end"),
)


def legend(width: int, patches: bool = True) -> Image.Image:
    """Return the strip that explains marks and frames."""
    face = font(13)
    items: list[tuple[str, Any, str]] = [("mark", mark, text) for mark, text in MARK_MEANING]
    items += [
        ("frame", TARGET, "target"),
        ("frame", CAUSE, "explaining set, numbered"),
        ("frame", FAINT, f"other node{'; [row,column] of the patch outlined' if patches else ''}"),
    ]
    rows: list[list[tuple[str, Any, str]]] = [[]]
    used = 10
    for item in items:
        extent = int(face.getlength(item[2])) + 66
        if rows[-1] and used + extent > width:
            rows.append([])
            used = 10
        rows[-1].append(item)
        used += extent
    page = Image.new("RGB", (width, 24 * len(rows) + 10), PAPER)
    draw = ImageDraw.Draw(page)
    draw.line((8, 2, width - 8, 2), fill=FAINT)
    for line, row in enumerate(rows):
        x, y = 10, 20 + 24 * line
        for kind, value, text in row:
            if kind == "mark":
                _draw_mark(draw, (x, y), (x + 34, y), value)
            else:
                draw.rectangle((x + 12, y - 8, x + 32, y + 8), outline=value, width=3)
            draw.text((x + 42, y), text, font=face, fill=INK if kind == "mark" else MUTED,
                      anchor="lm")  # fmt: skip
            x += int(face.getlength(text)) + 66
    return page


def _draw_mark(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], mark: int
) -> None:
    """Draw a level line with a mark at its right end."""
    (x0, y), x1 = start, end[0]
    stop = x1 - (9 if mark == CIRCLE else 10 if mark == ARROW else 0)
    draw.line((x0, y, stop, y), fill=EDGE, width=2)
    if mark == CIRCLE:
        draw.ellipse((x1 - 9, y - 4.5, x1, y + 4.5), outline=EDGE, width=2)
    elif mark == ARROW:
        draw.polygon(((x1, y), (x1 - 11, y - 5), (x1 - 11, y + 5)), fill=EDGE)
    else:
        draw.line((x1, y - 4, x1, y + 4), fill=FAINT, width=1)
