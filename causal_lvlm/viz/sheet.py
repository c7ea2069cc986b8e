"""All images of a run on one sheet, at a size a person can look at, and where each of them lies.

1. One image fills the sheet: small ones are enlarged by a whole number, large ones reduced.
2. Several stand side by side, each under its number; numbers count from 0 as those of labels do.
3. `Sheet.place` takes a rectangle of one image to the sheet, so that a patch can only be drawn on
   the image that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from causal_lvlm.viz.style import PAPER, caption
from causal_lvlm.viz.view import TraceView

__all__ = ["Box", "Sheet", "image_name", "scaled_image", "sheet_of"]

Box: TypeAlias = "tuple[float, float, float, float]"

_SHORTEST, _LONGEST = 480, 1200
_BESIDE = 720  # longest side of an image that shares the sheet with others
_GAP = 14


@dataclass(frozen=True)
class Sheet:
    """The images of a run as they are drawn.

    Attributes
    ----------
    image : PIL.Image.Image
        RGB.
    corners : tuple of (int, int)
        Left and top of every image on the sheet.
    sizes : tuple of (int, int)
        Width and height of every image on the sheet.
    factors : tuple of float
        Pixels of the sheet per pixel of the original.
    """

    image: Image.Image
    corners: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    factors: tuple[float, ...]

    def place(self, number: int, box: Box) -> Box:
        """Return where a rectangle of an original, in its pixels, lies on the sheet."""
        (x, y), factor = self.corners[number], self.factors[number]
        left, top, right, bottom = (value * factor for value in box)
        return left + x, top + y, right + x, bottom + y


def image_name(number: int) -> str:
    """Return what an image among several is called, as in the labels of its patches."""
    return f"image{number}"


def scaled_image(view: TraceView, cell: float = 0.0, number: int = 0) -> tuple[Image.Image, float]:
    """Return an image at a size a person can look at, and the factor it was scaled by.

    Small images are enlarged by a whole number without smoothing: every pixel stays what it is.
    Others are reduced, or enlarged so that cells have at least `cell` pixels if there is room.
    """
    image = view.images[number].convert("RGB")
    width, height = image.size
    longest = _LONGEST if len(view.images) == 1 else _BESIDE
    factor = 1.0
    if max(width, height) < _SHORTEST:
        whole = math.ceil(_SHORTEST / max(width, height))
        shape = (width * whole, height * whole)
        return image.resize(shape, Image.Resampling.NEAREST), float(whole)
    if max(width, height) > longest:
        factor = longest / max(width, height)
    else:
        factor = min(max(1.0, cell / _smallest_cell(view, number)), longest / max(width, height))
    shape = (max(1, round(width * factor)), max(1, round(height * factor)))
    return image.resize(shape, Image.Resampling.LANCZOS), factor


def _smallest_cell(view: TraceView, number: int) -> float:
    """Return the shorter side of the smallest cell in pixels of the image; infinite without one."""
    sides = [
        np.min(grid.boxes[:, 2:] - grid.boxes[:, :2])
        for grid in view.layout.grids
        if grid.image == number
    ]
    return max(float(min(sides)), 1e-9) if sides else math.inf


def sheet_of(
    view: TraceView,
    cell: float = 0.0,
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> Sheet:
    """Lay out all images of a run.

    Parameters
    ----------
    view : TraceView
        With one image or more.
    cell : float
        See `scaled_image`.
    change : callable, optional
        Applied to every scaled image, which must keep its size.

    Returns
    -------
    Sheet
    """
    scaled = [scaled_image(view, cell, number) for number in range(len(view.images))]
    images = [image if change is None else change(image) for image, _ in scaled]
    factors, sizes = tuple(f for _, f in scaled), tuple(image.size for image in images)
    if len(images) == 1:
        return Sheet(images[0], ((0, 0),), sizes, factors)
    columns = 2 if len(images) <= 4 else 3
    corners: list[tuple[int, int]] = []
    heads = [caption(image_name(n), width, size=15) for n, (width, _) in enumerate(sizes)]
    top = widest = 0
    for start in range(0, len(images), columns):
        row = range(start, min(start + columns, len(images)))
        left, head = 0, max(heads[n].height for n in row)
        for n in row:
            corners.append((left, top + head))
            left += sizes[n][0] + _GAP
        widest = max(widest, left - _GAP)
        top += head + max(sizes[n][1] for n in row) + _GAP
    page = Image.new("RGB", (widest, top - _GAP), PAPER)
    for image, name, (x, y) in zip(images, heads, corners, strict=True):
        page.paste(name, (x, y - name.height))
        page.paste(image, (x, y))
    return Sheet(page, tuple(corners), sizes, factors)
