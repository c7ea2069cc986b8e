"""Colours, fonts and encodings shared by every picture.

The colours are those of Okabe and Ito (2008), which stay apart for people with colour-vision
deficiencies; no picture says anything by colour alone (members of a set also carry a number).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor, ImageDraw, ImageFont, features

__all__ = [
    "CAUSE",
    "FAINT",
    "INK",
    "MUTED",
    "PAPER",
    "SMALL",
    "TARGET",
    "badge",
    "data_uri",
    "figure_image",
    "font",
    "image_uri",
    "png_bytes",
    "text_size",
    "wrap_text",
]

INK = "#1b1f24"
MUTED = "#5b6570"
FAINT = "#c3cad1"
PAPER = "#ffffff"
TARGET = "#0072B2"
CAUSE = "#D55E00"
_KEPT = (INK, PAPER, TARGET, CAUSE)  # exactly, in a picture with few colours
SMALL = 200  # images with no longer side are enlarged without smoothing
_LARGE = 400_000  # pixels
_LIGHT = 24_000  # bytes that are not worth a loss


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib carries with it, at a size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def text_size(text: str, face: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return width and line height of one line of text in pixels."""
    ascent, descent = face.getmetrics()
    return int(face.getlength(text) + 0.999), ascent + descent


def wrap_text(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines no wider than `width` pixels (single long words are kept whole)."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and face.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


def badge(
    draw: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    text: str,
    colour: str,
    *,
    size: int = 15,
) -> None:
    """Draw a round label with a white rim, as used for the members of a set."""
    face = font(size, bold=True)
    x, y = centre
    half = size * 11 / 15
    radius = max(half, face.getlength(text) / 2 + size / 3)
    box = (x - radius, y - half, x + radius, y + half)
    draw.rounded_rectangle(
        box, radius=half, fill=colour, outline=PAPER, width=2 if size > 12 else 1
    )
    draw.text((x, y), text, font=face, fill=PAPER, anchor="mm")


def png_bytes(image: Image.Image, *, palette: bool = False) -> bytes:
    """Return an image as a PNG file, as small as PNG can make it.

    Parameters
    ----------
    image : PIL.Image.Image
    palette : bool
        Reduce to 256 colours, those of sets and targets among them. Right for drawings, which
        are a third in size; not for photographs or for maps whose colours are values.
    """
    if palette:
        image = _few_colours(image.convert("RGB"))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _few_colours(image: Image.Image) -> Image.Image:
    # Median cut, Pillow's default, loses colours of small areas, such as the frame of a set.
    # `kmeans` would come nearer on average, but takes many seconds where photographs are shown.
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    reduced = image.quantize(256 - len(_KEPT), method=method, dither=dither)
    pixels, indices = np.asarray(image), np.array(reduced)
    colours = list(reduced.getpalette() or ())
    for kept in _KEPT:
        colour = ImageColor.getrgb(kept)
        there = (pixels == colour).all(axis=2)
        if there.any():
            indices[there] = len(colours) // 3
            colours += colour
    found = Image.fromarray(indices)
    found.putpalette(colours)
    return found


def data_uri(png: bytes) -> str:
    """Return a PNG file as a ``data:`` address that an HTML page can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def image_uri(image: Image.Image, longest: int) -> str:
    """Return a picture as a ``data:`` address, as small as it can be without looking different.

    Lossless (WebP where Pillow has it, else PNG), unless a JPEG, reduced until no side is longer
    than `longest` pixels, is smaller: photographs would make the page several times larger. Large
    pictures are not even tried without loss, which takes long.
    """
    image = image.convert("RGB")
    kind, file = "", b""
    if image.width * image.height <= _LARGE:
        if features.check("webp"):
            kind, file = "webp", _encoded(image, "WEBP", lossless=True, quality=60, method=3)
        else:
            kind, file = "png", png_bytes(image)
    if max(image.size) > SMALL and not 0 < len(file) < _LIGHT:
        if max(image.size) > longest:
            shape = [max(1, round(side * longest / max(image.size))) for side in image.size]
            image = image.resize((shape[0], shape[1]), Image.Resampling.LANCZOS)
        reduced = _encoded(image, "JPEG", quality=86, optimize=True)
        if not file or len(reduced) < len(file):
            kind, file = "jpeg", reduced
    return f"data:image/{kind};base64," + base64.b64encode(file).decode("ascii")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def figure_image(figure: Figure) -> Image.Image:
    """Rasterise a matplotlib figure without pyplot, so that threads do not share state."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    buffer.seek(0)
    with Image.open(buffer) as image:
        return image.convert("RGB")


def stack(images: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Put images below one another on white, left-aligned."""
    width = max(image.width for image in images)
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    page = Image.new("RGB", (width, height), PAPER)
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height + gap
    return page


def caption(text: str, width: int, *, size: int = 17, bold: bool = True) -> Image.Image:
    """Return a strip of wrapped text, to be put above or below a picture."""
    face = font(size, bold)
    lines = wrap_text(text, face, width - 16)
    line_height = text_size("x", face)[1] + 2
    strip = Image.new("RGB", (width, line_height * len(lines) + 12), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((8, 6 + number * line_height), line, font=face, fill=INK if bold else MUTED)
    return strip
