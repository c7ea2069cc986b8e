"""The images with the patches of a set outlined, and with a map of scores on top.

Cells are drawn by their rectangles in pixels of the original image, so a crop or a padding that
the processor made is shown as it was: what the model did not see stays without cells. Several
images stand side by side under their numbers; a patch is drawn on the image that holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from causal_lvlm.arrays import FloatArray, UInt8Array
from causal_lvlm.viz.sheet import Box, scaled_image, sheet_of
from causal_lvlm.viz.style import CAUSE, PAPER, badge, caption, figure_image, stack
from causal_lvlm.viz.view import TraceView
from causal_lvlm.viz.word_scores import draw_word_scores

__all__ = ["draw_heat", "draw_patches", "heat_canvas", "scaled_image"]

_CELL = 30  # pixels a cell needs for a number that can be read
_NUMBERED = 60  # members of a set that are numbered; more would hide the picture


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
        RGB. Of a run without an image: title and note alone.
    """
    if not view.images:
        texts = [title, note or "The prompt holds no image."]
        return stack([caption(t, 480, size=14, bold=t == title) for t in texts if t])
    sheet = sheet_of(view, _CELL)
    image = sheet.image
    if show_grid:
        lines = Image.new("RGBA", image.size, (0, 0, 0, 0))
        pen = ImageDraw.Draw(lines)
        for grid in view.layout.grids:
            for box in grid.boxes:
                pen.rectangle(sheet.place(grid.image, tuple(box)), outline=(255, 255, 255, 46))
        image = Image.alpha_composite(image.convert("RGBA"), lines).convert("RGB")
    draw = ImageDraw.Draw(image)
    patches = []
    for n, members in enumerate(units, start=1):
        region = view.region(members)
        if region is not None:
            patches.append((n, sheet.place(*region)))
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
    view: TraceView, scores: FloatArray, shape: tuple[int, int], factor: float, number: int = 0
) -> FloatArray:
    """Paint the score of every cell of one image into its rectangle.

    Parameters
    ----------
    view : TraceView
    scores : ndarray of float64, shape (T,)
        A score per position.
    shape : tuple of int
        Height and width of the canvas in pixels.
    factor : float
        Canvas pixels per pixel of the original image.
    number : int
        Which image.

    Returns
    -------
    ndarray of float64, shape `shape`
        NaN where there is no cell.
    """
    canvas = np.full(shape, np.nan)
    for grid in (grid for grid in view.layout.grids if grid.image == number):
        for position, box in zip(grid.positions, grid.boxes, strict=True):
            left, top, right, bottom = np.rint(box * factor).astype(int)
            canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = scores[position]
    return canvas


def draw_heat(
    view: TraceView, scores: Iterable[float], *, method: str, target: str, opacity: float = 0.7
) -> Image.Image:
    """Lay a method's scores over the (grey) images, with a colour bar; all share one scale.

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
        Where no patch can have a score (no image, or none in the sequence): words as bars.
    """
    values = np.asarray(list(scores), dtype=np.float64)
    title = f"{method} — “{target}”"
    if not view.has_patches:
        return draw_word_scores(view, values, title=title)
    sheet = sheet_of(view, change=_grey)
    canvas = np.full((sheet.image.height, sheet.image.width), np.nan)
    for number, ((x, y), (width, height)) in enumerate(
        zip(sheet.corners, sheet.sizes, strict=True)
    ):
        canvas[y : y + height, x : x + width] = heat_canvas(
            view, values, (height, width), sheet.factors[number], number
        )
    norm, name = _scale(canvas)
    colours = colormaps[name](norm(np.nan_to_num(canvas)))[..., :3] * 255.0
    base = np.asarray(sheet.image, dtype=np.float64)
    weight = np.where(np.isnan(canvas), 0.0, opacity)[..., None]
    blended = (1.0 - weight) * base + weight * colours
    shades = colormaps[name](np.linspace(0.0, 1.0, 256))[:, :3]
    # The bar shows the colours as they come out over the paled image.
    middle = float(base[weight[..., 0] > 0].mean()) / 255.0 if (weight > 0).any() else 1.0
    bar = ListedColormap((1.0 - opacity) * middle + opacity * shades)
    return _with_bar(blended.astype(np.uint8), norm, bar, title)


def _grey(image: Image.Image) -> Image.Image:
    """Leave little contrast: a dark object must not look like a low score."""
    return image.convert("L").point([round(110 + v * 0.4) for v in range(256)]).convert("RGB")


def _scale(canvas: FloatArray) -> tuple[Normalize, str]:
    seen = canvas[np.isfinite(canvas)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    if low < 0.0:
        limit = max(-low, high)
        return Normalize(-limit, limit), "PuOr"
    return Normalize(0.0, high if high > 0.0 else 1.0), "cividis"


def _with_bar(
    pixels: UInt8Array, norm: Normalize, colours: ListedColormap, title: str
) -> Image.Image:
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
