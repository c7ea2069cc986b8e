"""The image with the patches of a set outlined, and with a map of scores on top.

Cells are drawn by their rectangles in pixels of the original image, so a crop or a padding that
the processor made is shown as it was: what the model did not see stays without cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from causal_lvlm.arrays import FloatArray
from causal_lvlm.viz.style import CAUSE, PAPER, badge, caption, figure_image, stack
from causal_lvlm.viz.view import TraceView

__all__ = ["draw_heat", "draw_patches", "heat_canvas", "scaled_image"]

_SHORTEST, _LONGEST = 480, 1200
_CELL = 30  # pixels a cell needs for a number that can be read
_NUMBERED = 60  # members of a set that are numbered; more would hide the picture


def scaled_image(view: TraceView, cell: float = 0.0) -> tuple[Image.Image, float]:
    """Return the image at a size a person can look at, and the factor it was scaled by.

    Small images are enlarged by a whole number without smoothing: every pixel stays what it is.
    Others are reduced, or enlarged so that cells have at least `cell` pixels if there is room.
    """
    width, height = view.image.size
    factor = 1.0
    if max(width, height) < _SHORTEST:
        whole = math.ceil(_SHORTEST / max(width, height))
        shape = (width * whole, height * whole)
        return view.image.convert("RGB").resize(shape, Image.Resampling.NEAREST), float(whole)
    if max(width, height) > _LONGEST:
        factor = _LONGEST / max(width, height)
    else:
        factor = min(max(1.0, cell / _smallest_cell(view)), _LONGEST / max(width, height))
    shape = (max(1, round(width * factor)), max(1, round(height * factor)))
    return view.image.convert("RGB").resize(shape, Image.Resampling.LANCZOS), factor


def _smallest_cell(view: TraceView) -> float:
    """Return the shorter side of the smallest cell in pixels of the image; infinite without one."""
    sides = [np.min(grid.boxes[:, 2:] - grid.boxes[:, :2]) for grid in view.layout.grids]
    return max(float(min(sides)), 1e-9) if sides else math.inf


def draw_patches(
    view: TraceView,
    units: Sequence[Sequence[int]],
    *,
    title: str = "",
    note: str = "",
    show_grid: bool = True,
) -> Image.Image:
    """Outline and number the patches of a set.

    A set of more than a few dozen patches is tinted instead of numbered, and the picture says so.

    Parameters
    ----------
    view : TraceView
    units : sequence of sequence of int
        The set; units that are words are counted but cannot be outlined.
    title, note : str
        Written above and below the picture.
    show_grid : bool
        Draw the borders of all cells faintly.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    image, factor = scaled_image(view, _CELL)
    if show_grid:
        lines = Image.new("RGBA", image.size, (0, 0, 0, 0))
        pen = ImageDraw.Draw(lines)
        for grid in view.layout.grids:
            for box in grid.boxes:
                pen.rectangle(tuple(box * factor), outline=(255, 255, 255, 46))
        image = Image.alpha_composite(image.convert("RGBA"), lines).convert("RGB")
    draw = ImageDraw.Draw(image)
    numbered = [(n, view.box(members)) for n, members in enumerate(units, start=1)]
    patches = [(n, tuple(v * factor for v in box)) for n, box in numbered if box is not None]
    if len(patches) > _NUMBERED:
        image = _tinted(image, [box for _, box in patches])
        note = f"{len(patches)} patches, too many to be numbered here. {note}".strip()
    else:
        _outline(draw, patches)
    parts = [image]
    if title:
        parts.insert(0, caption(title, image.width))
    if note:
        parts.append(caption(note, image.width, size=14, bold=False))
    return stack(parts)


Box: TypeAlias = "tuple[float, ...]"


def _outline(draw: ImageDraw.ImageDraw, patches: Sequence[tuple[int, Box]]) -> None:
    """Frame every patch and write its number on it; lines and numbers shrink with the cells."""
    for wide in (True, False):
        for _, (left, top, right, bottom) in patches:
            pen = 4 if min(right - left, bottom - top) > 44 else 2
            more = 1 if wide else 0
            box = (left - more, top - more, right + more, bottom + more)
            draw.rectangle(box, outline=PAPER if wide else CAUSE, width=pen + 2 * more)
    for number, (left, top, right, bottom) in patches:
        room = min(right - left, bottom - top)
        x, y = (left + 15, top + 15) if room > 44 else ((left + right) / 2, (top + bottom) / 2)
        badge(draw, (x, y), str(number), CAUSE, size=15 if room > 44 else 11)


def _tinted(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Tint many patches and draw the border of the region they cover."""
    mask = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(mask)
    for left, top, right, bottom in boxes:
        pen.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=255)
    colour = Image.new("RGB", image.size, CAUSE)
    tinted = Image.composite(Image.blend(image, colour, 0.3), image, mask)
    inner = mask.filter(ImageFilter.MinFilter(7))
    border = ImageChops.subtract(mask, inner)
    return Image.composite(colour, tinted, border)


def heat_canvas(
    view: TraceView, scores: FloatArray, shape: tuple[int, int], factor: float
) -> FloatArray:
    """Paint every cell's score into its rectangle.

    Parameters
    ----------
    view : TraceView
    scores : ndarray of float64, shape (T,)
        A score per position.
    shape : tuple of int
        Height and width of the canvas in pixels.
    factor : float
        Canvas pixels per pixel of the original image.

    Returns
    -------
    ndarray of float64, shape `shape`
        NaN where there is no cell.
    """
    canvas = np.full(shape, np.nan)
    for grid in view.layout.grids:
        for position, box in zip(grid.positions, grid.boxes, strict=True):
            left, top, right, bottom = np.rint(box * factor).astype(int)
            canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = scores[position]
    return canvas


def draw_heat(
    view: TraceView, scores: Iterable[float], *, method: str, target: str, opacity: float = 0.7
) -> Image.Image:
    """Lay a method's scores over the (grey) image, with a colour bar.

    Parameters
    ----------
    view : TraceView
    scores : iterable of float, length T
    method, target : str
        Named in the title.
    opacity : float
        Of the colours over the image.

    Returns
    -------
    PIL.Image.Image
        RGB. ``cividis`` from zero for scores without sign, ``PuOr`` around zero for signed ones.
    """
    values = np.asarray(list(scores), dtype=np.float64)
    image, factor = scaled_image(view)
    # Little contrast: a dark object must not look like a low score.
    grey = image.convert("L").point([round(110 + v * 0.4) for v in range(256)]).convert("RGB")
    canvas = heat_canvas(view, values, (image.height, image.width), factor)
    norm, name = _scale(canvas)
    colours = colormaps[name](norm(np.nan_to_num(canvas)))[..., :3] * 255.0
    base = np.asarray(grey, dtype=np.float64)
    weight = np.where(np.isnan(canvas), 0.0, opacity)[..., None]
    blended = (1.0 - weight) * base + weight * colours
    shades = colormaps[name](np.linspace(0.0, 1.0, 256))[:, :3]
    # The bar shows the colours as they come out over the paled image.
    middle = float(base[weight[..., 0] > 0].mean()) / 255.0 if (weight > 0).any() else 1.0
    bar = ListedColormap((1.0 - opacity) * middle + opacity * shades)
    return _with_bar(blended.astype(np.uint8), norm, bar, f"{method} — “{target}”")


def _scale(canvas: FloatArray) -> tuple[Normalize, str]:
    seen = canvas[np.isfinite(canvas)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    if low < 0.0:
        limit = max(-low, high)
        return Normalize(-limit, limit), "PuOr"
    return Normalize(0.0, high if high > 0.0 else 1.0), "cividis"


def _with_bar(pixels: Any, norm: Normalize, colours: ListedColormap, title: str) -> Image.Image:
    dpi = 100
    height, width = pixels.shape[:2]
    top, side, margin = 46, 104, 8
    total = (width + side + 2 * margin, height + top + margin)
    figure = Figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi, facecolor=PAPER)
    axes = figure.add_axes(
        (margin / total[0], margin / total[1], width / total[0], height / total[1])
    )
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()
    figure.text(margin / total[0], 1 - 30 / total[1], title, fontsize=14, fontweight="bold")
    bar = figure.add_axes(
        ((width + 2.5 * margin) / total[0], margin / total[1], 16 / total[0], height / total[1])
    )
    scale = figure.colorbar(ScalarMappable(norm=norm, cmap=colours), cax=bar)
    scale.ax.tick_params(labelsize=11)
    scale.formatter.set_powerlimits((-3, 4))  # type: ignore[attr-defined]
    return figure_image(figure)
