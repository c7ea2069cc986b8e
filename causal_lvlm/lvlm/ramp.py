"""Does the layout know where its image tokens come from? Asked of the image processor itself.

A coordinate ramp (red grows to the right, green downwards, blue is full) of each original's size
goes through the model's image processor, all of them together as the originals did. The mean colour
of what one token sees says where in the original it came from, and must agree with the rectangle in
the layout; less blue means padding.

What a token sees is read off the shape of the processor's output: one picture per tile, or, for
Qwen-VL, Gemma 4, LFM2-VL and Molmo 2, one row per patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.tokens import ImageGrid, TokenLayout

__all__ = [
    "Sighted",
    "cell_colours",
    "cell_errors",
    "geometry_error",
    "picture_tiles",
    "ramp_image",
]


class Sighted(Protocol):
    """What is asked of a model (`LVLM`) that looks at a ramp."""

    processor: Any
    placeholder: str

    def process(self, images: Sequence[Image.Image], text: str) -> Any:
        """Send images and a prompt's text through the processor."""


def ramp_image(image_size: tuple[int, int]) -> Image.Image:
    """Return the coordinate ramp of a size (width, height)."""
    width, height = image_size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.rint((np.arange(width) + 0.5) / width * 255).astype(np.uint8)[None]
    ramp[:, :, 1] = np.rint((np.arange(height) + 0.5) / height * 255).astype(np.uint8)[:, None]
    ramp[:, :, 2] = 255
    return Image.fromarray(ramp)


def geometry_error(
    lvlm: Sighted, layout: TokenLayout, image_sizes: Sequence[tuple[int, int]]
) -> float:
    """Return the largest distance between predicted and measured cell centres, in cells.

    Parameters
    ----------
    lvlm : Sighted
        An `LVLM`.
    layout : TokenLayout
    image_sizes : sequence of (width, height)
        Of every image, in the order of the prompt.

    Returns
    -------
    float
        0 where nothing can be compared: there is no grid, or what a token sees cannot be read off.
    """
    return max((error for error, _ in cell_errors(lvlm, layout, image_sizes)), default=0.0)


def cell_errors(
    lvlm: Sighted, layout: TokenLayout, image_sizes: Sequence[tuple[int, int]]
) -> list[tuple[float, ImageGrid]]:
    """Return the largest distance within each grid that can be compared; see `geometry_error`."""
    if not layout.grids:
        return []
    # Through the whole processor: it may give its image processor settings of its own.
    ramps = [ramp_image(size) for size in image_sizes]
    inputs = lvlm.process(ramps, lvlm.placeholder * len(ramps)).inputs
    errors = []
    for image, size in enumerate(image_sizes):
        grids = tuple(grid for grid in layout.grids if grid.image == image)
        for grid, cells in _seen(_share(inputs, image, layout.grids), grids, lvlm):
            inside = cells[2] > 0.99
            if inside.any():
                errors.append((_distance(grid.boxes[inside], cells[:, inside], size), grid))
    return errors


def _share(inputs: dict[str, Any], image: int, grids: Sequence[ImageGrid]) -> dict[str, Any]:
    """Return what the processor made of one of several images."""
    pixels, n_images = inputs["pixel_values"], 1 + max(grid.image for grid in grids)
    if n_images == 1:
        return inputs
    if "image_grid_thw" in inputs:  # rows are patches, one image after the other
        counts = inputs["image_grid_thw"].prod(dim=1).tolist()
        start = sum(counts[:image])
        return {**inputs, "pixel_values": pixels[start : start + counts[image]]}
    if "image_token_pooling" in inputs:  # a row of patches for each token, of all images
        start = sum(grid.rows * grid.cols for grid in grids if grid.image < image)
        count = sum(grid.rows * grid.cols for grid in grids if grid.image == image)
        pooling = inputs["image_token_pooling"][start : start + count]
        return {**inputs, "image_token_pooling": pooling}
    own = [number for number, grid in enumerate(grids) if grid.image == image]
    if "spatial_shapes" in inputs:  # a row for each tile
        shapes = inputs["spatial_shapes"]
        own = own if len(pixels) == len(grids) else []
        return {**inputs, "pixel_values": pixels[own], "spatial_shapes": shapes[own]}
    if len(pixels) == n_images:
        share = {**inputs, "pixel_values": pixels[image : image + 1]}
        if "image_position_ids" in inputs:
            share["image_position_ids"] = inputs["image_position_ids"][image : image + 1]
        sizes = inputs.get("image_sizes")
        if sizes is not None and tuple(sizes.amax(dim=0).tolist()) == tuple(pixels.shape[-2:]):
            tall, wide = sizes[image].tolist()  # smaller ones were padded to the largest
            share["pixel_values"] = share["pixel_values"][..., :tall, :wide]
        return share
    tiles = pixels.reshape(-1, *pixels.shape[-3:])
    if len(tiles) != len(grids):
        return {**inputs, "pixel_values": tiles[:0]}
    return {**inputs, "pixel_values": tiles[own]}


def _distance(boxes: FloatArray, cells: FloatArray, image_size: tuple[int, int]) -> float:
    """Return the largest distance of centres (n boxes) from colours (3, n), in cells."""
    width, height = image_size
    centres = np.stack([boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)])
    found = np.stack([cells[0] * width, cells[1] * height])
    sizes = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]])
    # Eight bits resolve a ramp no finer than one step of it, and enlarging holds it constant
    # within half a pixel of the border.
    blur = np.array([[width], [height]]) / 255.0 + 0.5
    distance = np.maximum(np.abs(centres - found) - blur, 0.0)
    return float((distance / np.maximum(sizes, 1e-9)).max())


def _seen(
    inputs: dict[str, Any], grids: tuple[ImageGrid, ...], lvlm: Sighted
) -> list[tuple[ImageGrid, FloatArray]]:
    """Return grids and the mean colour (3, rows * cols) each of their cells sees."""
    images = lvlm.processor.image_processor
    pixels = inputs["pixel_values"].float().cpu().numpy().astype(np.float64)
    if "image_grid_thw" in inputs:
        return _merged_patches(pixels, grids[0], images)
    if "image_position_ids" in inputs:
        places = inputs["image_position_ids"][0].cpu().numpy()
        return _pooled_patches(pixels[0], places, grids[0], images)
    if "image_token_pooling" in inputs:
        return _pooled_rows(pixels, inputs["image_token_pooling"].cpu().numpy(), grids, images)
    if "spatial_shapes" in inputs:
        return _rows_of_tiles(pixels, inputs["spatial_shapes"].tolist(), grids, images)
    tiles = picture_tiles(inputs, images)
    if len(tiles) != len(grids):  # LLaVA-NeXT joins its tiles to one map; the first is the whole
        n_whole = min(len(tiles), 1) if len(grids) <= 2 else 0
        tiles, grids = tiles[:n_whole], grids[:n_whole]
    found = []
    for tile, grid in zip(tiles, grids, strict=True):
        if tile.shape[1] >= grid.rows and tile.shape[2] >= grid.cols:
            found.append((grid, cell_colours(tile, grid.rows, grid.cols)))
    return found


def picture_tiles(inputs: Any, images: Any) -> FloatArray:
    """Return a processor's output as pictures (tiles, 3, H, W) in [0, 1]; none if it is not."""
    if "pixel_values" not in inputs:  # Video-LLaVA has names of its own
        return np.empty((0, 3, 0, 0))
    pixels = inputs["pixel_values"].float().cpu().numpy().astype(np.float64)
    if pixels.ndim < 4 or pixels.shape[-3] != 3 or not pixels.size:
        return np.empty((0, 3, 0, 0))
    tiles = [_plain(tile, images) for tile in pixels.reshape(-1, *pixels.shape[-3:])]
    return np.stack(tiles)


def cell_colours(tile: FloatArray, rows: int, cols: int) -> FloatArray:
    """Return the mean colour (3, rows * cols) of the cells of a picture (3, H, W)."""
    tall, wide = tile.shape[1] // rows, tile.shape[2] // cols
    cells = tile[:, : tall * rows, : wide * cols].reshape(3, rows, tall, cols, wide)
    return np.asarray(cells.mean(axis=(2, 4)).reshape(3, -1))


def _merged_patches(
    pixels: FloatArray, grid: ImageGrid, images: Any
) -> list[tuple[ImageGrid, FloatArray]]:
    """Qwen-VL: rows are patches, m x m of one token together; (colour, time, y, x) within."""
    patch = int(images.patch_size)
    n_cells = grid.rows * grid.cols
    colours = pixels.reshape(n_cells, -1, 3, int(images.temporal_patch_size) * patch * patch)
    return [(grid, _plain(colours.mean(axis=(1, 3)).T[:, :, None], images)[:, :, 0])]


def _pooled_patches(
    pixels: FloatArray, places: Any, grid: ImageGrid, images: Any
) -> list[tuple[ImageGrid, FloatArray]]:
    """Gemma 4: rows are patches with their column and row, k x k of them pooled to one token."""
    real = places[:, 0] >= 0
    colours = pixels[real].reshape(int(real.sum()), -1, 3).mean(axis=1)
    pool = int(images.pooling_kernel_size)
    cell = places[real, 1] // pool * grid.cols + places[real, 0] // pool
    cells = np.stack([np.bincount(cell, colour) for colour in colours.T]) / np.bincount(cell)
    return [(grid, _plain(cells[:, :, None], images)[:, :, 0])]


def _rows_of_tiles(
    pixels: FloatArray, shapes: list[list[int]], grids: tuple[ImageGrid, ...], images: Any
) -> list[tuple[ImageGrid, FloatArray]]:
    """LFM2-VL: patches (y, x, colour) of each tile, row by row, padded to the longest."""
    if len(pixels) != len(grids):
        return []
    found = []
    for patches, (tall, wide), grid in zip(pixels, shapes, grids, strict=True):
        colours = patches[: tall * wide].reshape(tall, wide, -1, 3).mean(axis=2)
        picture = _plain(colours.transpose(2, 0, 1), images)
        found.append((grid, cell_colours(picture, grid.rows, grid.cols)))
    return found


def _pooled_rows(
    pixels: FloatArray, pooling: IntArray, grids: tuple[ImageGrid, ...], images: Any
) -> list[tuple[ImageGrid, FloatArray]]:
    """Molmo 2: the patches (y, x, colour) pooled into each token, by number; -1 is padding."""
    colours = pixels.reshape(-1, pixels.shape[-1] // 3, 3).mean(axis=1)
    real = (pooling >= 0)[:, :, None]
    means = np.where(real, colours[pooling], 0.0).sum(axis=1) / real.sum(axis=1)
    cells = _plain(means.T[:, :, None], images)[:, :, 0]
    ends = np.cumsum([grid.rows * grid.cols for grid in grids])
    return list(zip(grids, np.split(cells, ends[:-1], axis=1), strict=True))


def _plain(pixels: FloatArray, images: Any) -> FloatArray:
    """Undo the processor's normalisation: values in [0, 1], colours along the first axis."""
    if getattr(images, "do_normalize", False):
        mean = np.asarray(images.image_mean, dtype=np.float64)[:, None, None]
        std = np.asarray(images.image_std, dtype=np.float64)[:, None, None]
        pixels = pixels * std + mean
    if not getattr(images, "do_rescale", True):
        pixels = pixels / 255.0
    return pixels
