"""Pictures that the package does not draw by itself: maps beside each other, pictures in a row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from causal_lvlm.viz.style import CAUSE, FAINT, INK, TARGET, figure_image
from causal_lvlm.viz.view import view_of

SIDE = 3.0  # inches of one panel
DPI = 100


def beside(*images: Image.Image, gap: int = 24) -> Image.Image:
    """Put pictures in a row, their tops on one line."""
    width = sum(i.width for i in images) + gap * (len(images) - 1)
    page = Image.new("RGB", (width, max(i.height for i in images)), "white")
    left = 0
    for image in images:
        page.paste(image, (left, 0))
        left += image.width + gap
    return page


def stacked(*images: Image.Image, gap: int = 16) -> Image.Image:
    """Put pictures below each other, their left sides on one line."""
    height = sum(i.height for i in images) + gap * (len(images) - 1)
    page = Image.new("RGB", (max(i.width for i in images), height), "white")
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height + gap
    return page


def maps(
    trace: Any,
    scored: Sequence[Any],
    rows: Sequence[dict[str, Any]],
    units: Sequence[tuple[int, ...]],
    before: float,
    *,
    columns: int,
    first: bool = False,
    curves: Sequence[Sequence[float]] = (),
) -> Image.Image:
    """Draw the maps of several methods over the image, each on its own scale from its least score.

    Parameters
    ----------
    trace : Trace
    scored : sequence of Attribution
    rows : sequence of dict
        What the model says with each method's best units masked.
    units : sequence of tuple of int
        Their positions; those with a cell are outlined.
    before : float
        The target's probability with everything visible.
    columns : int
    first : bool
        Begin with the picture alone.
    curves : sequence of sequence of float
        The target's probability along each method's deletion; drawn in a panel of its own.
    """
    view = view_of(trace)
    count = len(scored) + first + bool(curves)
    lines = -(-count // columns)
    figure = Figure(figsize=(SIDE * columns, (SIDE + 0.95) * lines), dpi=DPI, layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in panels[count:]:
        axis.set_axis_off()
    if first:
        _picture(panels.pop(0), view, "the picture")
    for found, row, positions in zip(scored, rows, units, strict=True):
        axis = panels.pop(0)
        _picture(axis, view, row["method"])
        _heat(axis, view, found.scores)
        _outline(axis, view, positions)
        _below(axis, _said(row, before, words=row["on_image"] < 1.0))
    if curves:
        _curves(panels.pop(0), rows, curves)
    return figure_image(figure)


def _picture(axis: Any, view: Any, title: str) -> None:
    image = view.images[0].convert("RGB")
    axis.imshow(np.asarray(image), extent=(0, image.width, image.height, 0),
                interpolation="nearest")  # fmt: skip
    axis.set_title(title, fontsize=12, fontweight="bold", color=INK, pad=16)
    grid = view.layout.grids[0]
    middle = (grid.boxes[:, :2] + grid.boxes[:, 2:]) / 2
    axis.set_xticks(middle[: grid.cols, 0], range(grid.cols))
    axis.set_yticks(middle[:: grid.cols, 1], range(grid.rows))
    axis.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False, pad=2)
    for side in axis.spines.values():
        side.set_visible(False)


def _heat(axis: Any, view: Any, scores: Any) -> None:
    """Pale the picture, and cover it with the map: the brighter a cell, the higher its score."""
    grid, image = view.layout.grids[0], view.images[0]
    values = np.asarray(scores, dtype=np.float64)[grid.positions].reshape(grid.rows, grid.cols)
    left, top = grid.boxes[0][:2]
    right, bottom = grid.boxes[-1][2:]
    # Little contrast, few shades: the texture would hide the map, and fill the file.
    grey = np.asarray(image.convert("L"), dtype=float) // 42 * 42 * 0.4 + 110
    axis.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, image.width, image.height, 0),
                interpolation="nearest")  # fmt: skip
    axis.imshow(values, cmap="cividis", alpha=0.7, extent=(left, right, bottom, top),
                interpolation="nearest")  # fmt: skip


def _outline(axis: Any, view: Any, positions: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    for number, position in enumerate(positions, start=1):
        box = view.layout.patch_box(position)
        if box is None:
            continue
        left, top, right, bottom = box
        for colour, pen in (("white", 4.5), (CAUSE, 2.4)):
            axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False,
                                     edgecolor=colour, linewidth=pen))  # fmt: skip
        axis.text((left + right) / 2, (top + bottom) / 2, str(number), color="white", fontsize=10,
                  fontweight="bold", ha="center", va="center",
                  bbox={"boxstyle": "circle,pad=0.15", "fc": CAUSE, "ec": "none"})  # fmt: skip


def _said(row: dict[str, Any], before: float, words: bool) -> str:
    what = ", ".join(row["top"])
    verdict = "now says" if row["changed"] else "still says"
    said = f"{what} masked:\n{verdict} “{row['says']}”, p {before:.2f} → {row['p']:.2f}"
    return said + f"\n(patches hold {row['on_image']:.0%} of the score)" * words


def _below(axis: Any, text: str) -> None:
    lines = [piece for line in text.split("\n") for piece in textwrap.wrap(line, 36)]
    axis.text(0.5, -0.03, "\n".join(lines), transform=axis.transAxes, fontsize=9.5, ha="center",
              va="top", color=INK, parse_math=False)  # fmt: skip


def _curves(axis: Any, rows: Sequence[dict[str, Any]], curves: Sequence[Sequence[float]]) -> None:
    styles = ((CAUSE, "-"), (TARGET, "--"))
    for (colour, line), row, values in zip(styles, rows, curves, strict=True):
        axis.plot(range(len(values)), values, color=colour, ls=line, lw=2, label=row["method"])
    axis.set_xlabel("units masked, best first", fontsize=10)
    axis.set_ylabel("probability of the target", fontsize=10)
    axis.set_title("deletion", fontsize=12, fontweight="bold", color=INK)
    axis.set_ylim(-0.03, 1.03)
    axis.grid(color=FAINT, lw=0.5)
    axis.legend(fontsize=9)
    axis.set_box_aspect(1)
