"""Where each image token comes from: rectangles in pixels of the original image.

Image processors resize, crop and pad; the model then sees a square cut into patches. One function
per family walks that way backwards. For the LLaVA-1.5 family:

1. optional padding of the original to a square (``do_pad``);
2. resize: the short edge to S, keeping the aspect (``shortest_edge``; the long edge is rounded
   down), or a plain stretch (``height``, ``width``);
3. optional centre crop, or zero padding where the crop is larger than the image;
4. the result, W' x H', is cut into patches of p x p pixels, row by row.

A cell's rectangle is carried back through 3, 2, 1 and clipped to the original. What the crop cuts
off belongs to no cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.errors import UnsupportedModelError

__all__ = [
    "Cells", "KnownSizes", "Placed", "Site", "Tile", "cell_boxes", "clip_geometry", "edge_boxes",
]  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """A row-major grid of image tokens.

    Attributes
    ----------
    rows, cols : int
    boxes : ndarray of float64, shape (rows * cols, 4)
        As in `causal_lvlm.tokens.ImageGrid`.
    offsets : ndarray of int64, shape (rows * cols,), optional
        Which of its image's tokens each cell is; left out, cells follow the tile before.
    """

    rows: int
    cols: int
    boxes: FloatArray
    offsets: IntArray | None = None


@dataclass(frozen=True)
class Cells:
    """All tokens of one image: its tiles, in the order of the sequence, and how many there are.

    Tokens that no tile claims (line breaks, learned queries) have no rectangle.
    """

    tiles: tuple[Tile, ...]
    n_tokens: int
    has_grid: bool = True

    def offsets(self) -> list[IntArray]:
        """Return which of the image's tokens the cells of each tile are."""
        found: list[IntArray] = []
        at = 0
        for tile in self.tiles:
            own = tile.offsets
            if own is None:
                own = np.arange(at, at + tile.rows * tile.cols, dtype=np.int64)
            at = int(own.max(initial=at - 1)) + 1
            found.append(own)
        return found


@dataclass(frozen=True)
class Placed:
    """Rectangles of a prompt's image tokens.

    Attributes
    ----------
    cells : tuple of Cells
        Of each image.
    source : str
        ``"family"`` (a tested entry of the table), ``"painted"`` (confirmed on this model by
        painting), ``"unconfirmed"`` (a family of the user's whose rectangles painting did not
        confirm), ``"absent"`` (image tokens without a place) or ``"none"`` (no image).
    remark : str, optional
        What has to be said wherever places in the image are shown.
    error : float
        Largest distance, in cells, between a painted cell and the token that changed most.
    """

    cells: tuple[Cells, ...]
    source: str
    remark: str | None = None
    error: float = 0.0


Sizes: TypeAlias = tuple[tuple[int, int], ...]  # (width, height) of all images of a prompt


@dataclass
class KnownSizes:
    """What was found out about images of some sizes: once for a model, as it costs runs.

    Attributes
    ----------
    places : dict of sizes to Placed
        Where their tokens are, in families that no test has painted; see `placing`.
    errors : dict of sizes to float
        How far a coordinate ramp was from there; see `ramp`.
    """

    places: dict[Sizes, Placed] = field(default_factory=dict)
    errors: dict[Sizes, float] = field(default_factory=dict)

    def copy(self) -> KnownSizes:
        """Return the same for a model that goes on by itself."""
        return KnownSizes(dict(self.places), dict(self.errors))


@dataclass(frozen=True)
class Site:
    """Everything a geometry function may look at, for one image of a prompt.

    Attributes
    ----------
    config : PretrainedConfig
        Of the whole model.
    processor : ProcessorMixin
    image_size : (int, int)
        Width and height of the original image.
    inputs : mapping of str to Tensor
        What the processor returned for the whole prompt.
    index : int
        Which image of the prompt.
    n_images : int
    n_tokens : int
        Number of image tokens of the whole prompt.
    placeholder : str
        What stands for an image in a prompt.
    image_token_id : int
        Id of the tokens that stand for its features.
    """

    config: Any
    processor: Any
    image_size: tuple[int, int]
    inputs: Mapping[str, Any]
    index: int = 0
    n_images: int = 1
    n_tokens: int = 0
    placeholder: str = "<image>"
    image_token_id: int = -1


def _entry(size: Any, key: str) -> int | None:
    """Read a key of a processor's size, which is a mapping or an object with attributes."""
    if size is None:
        return None
    value = size.get(key) if isinstance(size, Mapping) else getattr(size, key, None)
    return None if value is None else int(value)


def _resized(size: Any, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) after the processor's resize."""
    short_to, longest = _entry(size, "shortest_edge"), _entry(size, "longest_edge")
    if short_to is not None and longest is None:
        short, long = min(width, height), max(width, height)
        if short == short_to:
            return width, height
        stretched = int(short_to * long / short)
        return (short_to, stretched) if width <= height else (stretched, short_to)
    to_width, to_height = _entry(size, "width"), _entry(size, "height")
    if to_width is None or to_height is None:
        raise UnsupportedModelError(
            f"the image processor's size {size!r} is not understood; supported are "
            "'shortest_edge' and 'height' with 'width'"
        )
    return to_width, to_height


def edge_boxes(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return boxes (rows * cols, 4) from the edges of columns and rows."""
    rows, cols = len(y) - 1, len(x) - 1
    boxes = np.empty((rows, cols, 4))
    boxes[..., 0], boxes[..., 2] = x[None, :-1], x[None, 1:]
    boxes[..., 1], boxes[..., 3] = y[:-1, None], y[1:, None]
    return boxes.reshape(rows * cols, 4)


def cell_boxes(
    rows: int,
    cols: int,
    patch: int,
    scale: tuple[float, float],
    offset: tuple[float, float],
    padding: tuple[float, float],
    image_size: tuple[int, int],
) -> FloatArray:
    """Carry a grid of patches back to the original image.

    Parameters
    ----------
    rows, cols, patch : int
        Grid shape and patch edge in pixels of the model's input.
    scale : (float, float)
        Pixels of the (padded) original per pixel after the resize, in x and y.
    offset : (float, float)
        Where the model's input begins in the resized image (negative when it was padded).
    padding : (float, float)
        Where the original begins in the padded original.
    image_size : (int, int)
        Width and height of the original.

    Returns
    -------
    ndarray of float64, shape (rows * cols, 4)
        Left, top, right, bottom; clipped to the image, so that a cell of pure padding is empty.
    """
    edges_x = (np.arange(cols + 1) * patch + offset[0]) * scale[0] - padding[0]
    edges_y = (np.arange(rows + 1) * patch + offset[1]) * scale[1] - padding[1]
    edges_x = np.clip(edges_x, 0.0, image_size[0])
    edges_y = np.clip(edges_y, 0.0, image_size[1])
    return edge_boxes(edges_x, edges_y)


def clip_geometry(
    image_processor: Any, image_size: tuple[int, int], patch: int, n_tokens: int
) -> list[Tile]:
    """Return the tile of a LLaVA-1.5-type model (resize, centre crop, square patches).

    Parameters
    ----------
    image_processor : object
        A processor of transformers, read by its attributes.
    image_size : (int, int)
        Width and height of the original image.
    patch : int
        Patch edge of the vision tower.
    n_tokens : int
        Number of image tokens in the sequence, checked against the grid.

    Returns
    -------
    list of Tile

    Raises
    ------
    UnsupportedModelError
        If the processor does something this inverse does not know.
    """
    width, height = image_size
    pad_x = pad_y = 0
    if getattr(image_processor, "do_pad", None):
        edge = max(width, height)
        pad_x, pad_y = (edge - width) // 2, (edge - height) // 2
        width = height = edge
    new_width, new_height = width, height
    if getattr(image_processor, "do_resize", True):
        new_width, new_height = _resized(image_processor.size, width, height)
    scale = width / new_width, height / new_height
    left = top = 0
    seen_width, seen_height = new_width, new_height
    if getattr(image_processor, "do_center_crop", None):
        crop = image_processor.crop_size
        seen_width, seen_height = _entry(crop, "width") or 0, _entry(crop, "height") or 0
        # Floor division is right for padding too: the odd pixel of padding goes before the image.
        left = (new_width - seen_width) // 2
        top = (new_height - seen_height) // 2
    rows, cols = seen_height // patch, seen_width // patch
    if rows * cols != n_tokens:
        raise UnsupportedModelError(
            f"the image processor gives {rows} x {cols} patches but the prompt holds {n_tokens} "
            "image tokens; the processor and the model do not belong together"
        )
    boxes = cell_boxes(rows, cols, patch, scale, (left, top), (pad_x, pad_y), image_size)
    return [Tile(rows, cols, boxes)]
