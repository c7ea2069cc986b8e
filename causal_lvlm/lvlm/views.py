"""Geometry of families that show an image twice: the whole of it, and its parts.

Each function answers the question of `causal_lvlm.lvlm.tiles`: which rectangle of the original
image each image token comes from, in the order of the sequence.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.geometry import Cells, Site, Tile, edge_boxes
from causal_lvlm.lvlm.tiles import as_pair, stretched, tile_grid, whole_box

__all__ = ["lfm2_tiles", "molmo_views", "perception_tiles"]


def _counted(tiles: list[Tile]) -> Cells:
    return Cells(tuple(tiles), sum(tile.rows * tile.cols for tile in tiles))


def lfm2_tiles(site: Site) -> Cells:
    """LFM2-VL: tiles of a stretched image, then the whole, as many tokens as pixels ask for."""
    images = site.processor.image_processor
    found = images(
        images=[[Image.new("RGB", site.image_size)]], return_row_col_info=True, return_tensors="pt"
    )
    names = ("image_rows", "image_cols", "image_sizes")
    rows, cols, sizes = (np.asarray(found[name]).reshape(-1).tolist() for name in names)
    cell = int(images.encoder_patch_size) * int(images.downsample_factor)
    height, width = sizes[0] // cell, sizes[1] // cell
    tiles = [Tile(height, width, stretched(height, width, whole_box(site)))]
    if rows[0] * cols[0] > 1:
        whole = tiles if images.use_thumbnail else []
        tiles = tile_grid(site, rows[0], cols[0], int(images.tile_size) // cell) + whole
    return _counted(tiles)


def molmo_views(site: Site) -> Cells:
    """Molmo 2: the whole image, then a finer canvas of it; patches pooled p x q into a token.

    Where p does not divide the patches of a side, they are padded on both, so that the cells at
    the border are smaller. Overlapping crops of the canvas are what the tower sees; of each patch
    one of them is kept, so the canvas is one grid.
    """
    images = site.processor.image_processor
    cells = [int(n) for n in np.asarray(site.inputs["image_grids"])[site.index]]
    side = as_pair(images.size)[0] // int(images.patch_size)
    margins = sum(int(n) for n in images.overlap_margins)
    tiles = []
    for whole, (rows, cols) in ((True, cells[:2]), (False, cells[2:])):
        edges = []
        for n, pool, length in zip(
            (rows, cols), images.pooling_size, site.image_size[::-1], strict=True
        ):
            patches = side if whole else _patches(n, int(pool), side - margins, margins)
            edges.append(_pooled_edges(n, int(pool), patches) * length / patches)
        tiles.append(Tile(rows, cols, edge_boxes(edges[1], edges[0])))
    return _counted(tiles)


def _patches(cells: int, pool: int, step: int, margins: int) -> int:
    """Return the patches along a side of the canvas, which is cut into crops `step` apart."""
    for crops in range(1, cells * pool + 1):
        if -(-(crops * step + margins) // pool) == cells:
            return crops * step + margins
    raise UnsupportedModelError(
        f"a side of {cells} image tokens is no canvas of crops {step} patches apart; this "
        "processor is not supported"
    )


def _pooled_edges(cells: int, pool: int, patches: int) -> FloatArray:
    """Return the edges of cells, in patches; the padding before is the smaller half."""
    before = (cells * pool - patches) // 2
    return np.clip(np.arange(cells + 1) * float(pool) - before, 0, patches)


def perception_tiles(site: Site) -> Cells:
    """PerceptionLM: the whole image, stretched, then the tiles it is cut into, if any."""
    images = site.processor.image_processor
    edge = int(images.tile_size) // int(site.processor.patch_size)
    edge //= int(site.processor.pooling_ratio)
    tiles = tile_grid(site, 1, 1, edge)
    if images.vision_input_type == "thumb+tile":
        width, height = site.image_size
        side = int(images.tile_size)
        cols, rows = 1, 1
        if int(images.max_num_tiles) > 1:
            fitting = images._fit_image_to_canvas(width, height, side)
            cols, rows = fitting or images._find_closest_aspect_ratio(width, height, side)
        tiles += tile_grid(site, int(rows), int(cols), edge)
    return _counted(tiles)
