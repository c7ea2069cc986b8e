"""Geometry of the families that do more than crop one square: one small function each.

Every function answers the same question, which rectangle of the original image each image token
comes from, by walking the processor's way backwards. The pieces:

``stretched``
    the whole image, or one tile of it, resized without keeping its aspect and cut evenly;
``anyres``
    resized to fit one of a list of resolutions, padded, cut into tiles that the tower sees one by
    one, and put together again without the padding (LLaVA-NeXT).
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from PIL import Image

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.geometry import Cells, Site, Tile, cell_boxes, clip_geometry, edge_boxes
from causal_lvlm.lvlm.ramp import cell_colours, picture_tiles, ramp_image

__all__ = [
    "anyres",
    "as_pair",
    "canvas",
    "cross_attended",
    "function_of",
    "gemma4_grid",
    "image_size_grid",
    "letterbox",
    "llama4_tiles",
    "no_grid",
    "ovis_tiles",
    "patch_grid",
    "ramp_cells",
    "row_column_tiles",
    "square",
    "stretched",
    "tile_grid",
    "whole_box",
]

Box = tuple[float, float, float, float]


def stretched(rows: int, cols: int, box: Box) -> FloatArray:
    """Return boxes (rows * cols, 4) of an even grid over a rectangle of the image."""
    left, top, right, bottom = box
    return edge_boxes(np.linspace(left, right, cols + 1), np.linspace(top, bottom, rows + 1))


def whole_box(site: Site) -> Box:
    """Return the rectangle of the whole image."""
    return 0.0, 0.0, float(site.image_size[0]), float(site.image_size[1])


def _tokens(site: Site) -> int:
    """Return the number of tokens of one image: counted, or asked of the processor if several."""
    if site.n_images == 1:
        return site.n_tokens
    return _alone(site, Image.new("RGB", site.image_size))[1]


def _alone(site: Site, picture: Image.Image) -> tuple[Any, int]:
    """Send a picture of the image's size through the processor: inputs, number of image tokens."""
    inputs = site.processor(images=[[picture]], text=[site.placeholder], return_tensors="pt")
    return inputs, int((inputs["input_ids"] == site.image_token_id).sum())


def _edge(tokens: int) -> int:
    edge = math.isqrt(tokens)
    if edge * edge != tokens or not tokens:
        raise UnsupportedModelError(
            f"{tokens} image tokens are no square grid; this processor is not supported"
        )
    return edge


def as_pair(size: Any) -> tuple[int, int]:
    """Return (width, height) of a processor's size of any form."""
    if isinstance(size, int):
        return size, size
    read = size.get if hasattr(size, "get") else lambda key: getattr(size, key, None)
    for names in (("width", "height"), ("shortest_edge",) * 2, ("longest_edge",) * 2):
        wide, tall = (read(name) for name in names)
        if wide is not None and tall is not None:
            return int(wide), int(tall)
    raise UnsupportedModelError(f"the image processor's size {size!r} is not understood")


def square(site: Site) -> Cells:
    """One square grid: resized, perhaps cropped, and pooled to g x g tokens."""
    tokens = _tokens(site)
    edge = _edge(tokens)
    processor = site.processor.image_processor
    if getattr(processor, "do_pan_and_scan", None):
        raise UnsupportedModelError("pan-and-scan crops are not supported; switch them off")
    cropped = getattr(processor, "do_center_crop", None)
    seen = as_pair(processor.crop_size if cropped else processor.size)[0]
    return Cells(tuple(clip_geometry(processor, site.image_size, seen // edge, tokens)), tokens)


def letterbox(site: Site) -> Cells:
    """DeepSeek-VL, Janus: the longer side to S with the aspect kept, padded evenly to a square."""
    tokens = site.n_tokens // site.n_images
    rows = _edge(tokens)
    processor = site.processor.image_processor
    edge = as_pair(processor.size)[0]
    width, height = site.image_size
    least = int(processor.min_size)
    new = [max(round(side * edge / max(width, height)), least) for side in (width, height)]
    scale = width / new[0], height / new[1]
    offset = -((edge - new[0]) // 2), -((edge - new[1]) // 2)
    boxes = cell_boxes(rows, rows, edge // rows, scale, offset, (0, 0), site.image_size)
    return Cells((Tile(rows, rows, boxes),), tokens)


def patch_grid(site: Site) -> Cells:
    """Qwen-VL: stretched to multiples of a patch, m x m patches merged into one token."""
    _, height, width = (int(v) for v in site.inputs["image_grid_thw"][site.index])
    merge = int(site.config.vision_config.spatial_merge_size)
    rows, cols = height // merge, width // merge
    return Cells((Tile(rows, cols, stretched(rows, cols, whole_box(site))),), rows * cols)


def image_size_grid(site: Site) -> Cells:
    """Pixtral, Mistral 3: stretched to multiples of a patch; line breaks have ids of their own."""
    height, width = (int(v) for v in site.inputs["image_sizes"][site.index])
    patch = int(site.config.vision_config.patch_size)
    patch *= int(getattr(site.config, "spatial_merge_size", 1))
    rows, cols = height // patch, width // patch
    return Cells((Tile(rows, cols, stretched(rows, cols, whole_box(site))),), rows * cols)


def gemma4_grid(site: Site) -> Cells:
    """Gemma 4: stretched to multiples of k patches, k x k pooled; -1 marks padding."""
    places = site.inputs["image_position_ids"][site.index]
    pool = int(site.config.vision_config.pooling_kernel_size)
    cols, rows = ((int(places[:, axis].max()) + 1) // pool for axis in (0, 1))
    return Cells((Tile(rows, cols, stretched(rows, cols, whole_box(site))),), rows * cols)


def tile_grid(site: Site, rows: int, cols: int, edge: int) -> list[Tile]:
    """Return rows x cols tiles of edge x edge tokens that cut the stretched image, row by row."""
    width, height = site.image_size
    return [
        Tile(
            edge,
            edge,
            stretched(
                edge,
                edge,
                (
                    width * col / cols,
                    height * row / rows,
                    width * (col + 1) / cols,
                    height * (row + 1) / rows,
                ),
            ),
        )
        for row in range(rows)
        for col in range(cols)
    ]


def _tiled(
    site: Site, rows: int, cols: int, tokens_per_tile: int, whole_first: bool = False
) -> Cells:
    """Tiles row by row and, last or first, the whole image; one tile is the whole image alone."""
    edge = _edge(tokens_per_tile)
    tiles = tile_grid(site, rows, cols, edge)
    if len(tiles) != 1:
        whole = Tile(edge, edge, stretched(edge, edge, whole_box(site)))
        tiles.insert(0 if whole_first else len(tiles), whole)
    return Cells(tuple(tiles), len(tiles) * tokens_per_tile)


def row_column_tiles(site: Site) -> Cells:
    """Idefics3, SmolVLM: tiles of a stretched image, the whole image last."""
    found = site.processor.image_processor(
        images=[[Image.new("RGB", site.image_size)]],
        return_row_col_info=True,
        return_tensors="pt",
    )
    rows, cols = int(np.asarray(found["rows"])[0][0]), int(np.asarray(found["cols"])[0][0])
    return _tiled(site, max(rows, 1), max(cols, 1), int(site.processor.image_seq_len))


def llama4_tiles(site: Site) -> Cells:
    """Llama 4: resized with the aspect kept, padded at the right and below, cut into tiles.

    The canvas is the processor's choice; an image is not enlarged beyond one tile's side. The
    whole image, stretched, comes last, unless there is one tile.
    """
    images = site.processor.image_processor
    found = images(images=[Image.new("RGB", site.image_size)], return_tensors="pt")
    rows, cols = (int(v) for v in np.asarray(found["aspect_ratios"]).reshape(-1, 2)[0])
    side = as_pair(images.size)[0]
    width, height = site.image_size
    target = cols * side, rows * side
    if not images.resize_to_max_canvas:
        target = min(max(width, side), target[0]), min(max(height, side), target[1])
    scale = min(target[0] / width, target[1] / height)
    new = max(int(width * scale), 1), max(int(height * scale), 1)
    per_tile = _tokens(site) // (rows * cols + (rows * cols > 1))
    edge = _edge(per_tile)
    step = np.arange(edge + 1) * side / edge
    tiles = [
        Tile(
            edge,
            edge,
            edge_boxes(
                np.clip((col * side + step) * width / new[0], 0, width),
                np.clip((row * side + step) * height / new[1], 0, height),
            ),
        )
        for row in range(rows)
        for col in range(cols)
    ]
    if len(tiles) > 1:
        tiles.append(Tile(edge, edge, stretched(edge, edge, whole_box(site))))
    return Cells(tuple(tiles), per_tile * len(tiles))


def ovis_tiles(site: Site) -> Cells:
    """Ovis2: the whole image, then the tiles it is cut into, if any."""
    found = site.processor.image_processor(
        images=[Image.new("RGB", site.image_size)], return_tensors="pt"
    )
    rows, cols = (int(v) for v in np.asarray(found["grids"])[0])
    return _tiled(site, rows, cols, int(site.processor.image_seq_length), whole_first=True)


def canvas(site: Site) -> Cells:
    """InternVL, Aya, Command A: the canvas of tiles nearest in aspect, a thumbnail last."""
    processor = site.processor
    per_tile = getattr(processor, "image_seq_length", None)
    if per_tile is None:  # Aya counts patches of pixels, Command A tokens along a side
        size = getattr(processor, "img_size", None)
        patch = int(processor.patch_size)
        per_tile = (patch if size is None else int(size) // patch) ** 2
    n_tiles = _tokens(site) // int(per_tile)
    if n_tiles == 1:
        return _tiled(site, 1, 1, int(per_tile))
    images = processor.image_processor
    optimal = sys.modules[type(images).__module__].get_optimal_tiled_canvas
    width, height = site.image_size
    seen = as_pair(images.size)
    cols, rows = optimal((height, width), seen[::-1], images.min_patches, images.max_patches)
    if rows * cols + 1 != n_tiles:
        raise UnsupportedModelError(
            f"the image became {n_tiles} tiles where {rows} x {cols} and one of the whole were "
            "expected; this processor is not supported"
        )
    return _tiled(site, int(rows), int(cols), int(per_tile))


def ramp_cells(site: Site) -> Cells:
    """Read off a coordinate ramp what every token sees: the way for an unknown family.

    1. The ramp goes through the processor; its output must be one picture per tile, and the image
       tokens of a tile must divide it into square patches. (Processors that return rows of patches
       with the size of their grid say themselves how it is divided.)
    2. In every tile the mean colour of a column (row) of cells must grow evenly: the line through
       them gives the tile's rectangle. Cells of padding have less blue and are left out of it.

    This is what the image processor does; whether the model keeps to it is for the caller to ask.

    Raises
    ------
    UnsupportedModelError
        If any of this does not hold.
    """
    vision = getattr(site.config, "vision_config", None)
    if "image_grid_thw" in site.inputs and hasattr(vision, "spatial_merge_size"):
        return patch_grid(site)
    width, height = site.image_size
    inputs, tokens = _alone(site, ramp_image(site.image_size))
    tokens = site.n_tokens if site.n_images == 1 else tokens
    tiles = picture_tiles(inputs, site.processor.image_processor)
    if not len(tiles) or not tokens or tokens % len(tiles):
        raise UnsupportedModelError(
            f"its {tokens} image tokens do not belong to {len(tiles)} pictures"
        )
    found = []
    for tile in tiles:
        rows, cols = _divided(tokens // len(tiles), *tile.shape[1:])
        cells = cell_colours(tile, rows, cols).reshape(3, rows, cols)
        x = _line(cells[0], cells[2], 1) * width
        y = _line(cells[1], cells[2], 0) * height
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        found.append(Tile(rows, cols, edge_boxes(x, y)))
    return Cells(tuple(found), tokens)


def _divided(tokens: int, tall: int, wide: int) -> tuple[int, int]:
    """Return (rows, columns) of square patches that a picture of some pixels is divided into."""
    rows = round(math.sqrt(tokens * tall / wide))
    cols = tokens // max(rows, 1)
    # What is left over at the end of a picture may be almost a patch.
    patch = min(tall // max(rows, 1), wide // max(cols, 1))
    if rows * cols != tokens or not patch or (tall // patch, wide // patch) != (rows, cols):
        raise UnsupportedModelError(
            f"its {tokens} image tokens do not divide a picture of {wide} x {tall} pixels into "
            "square patches"
        )
    return rows, cols


def _line(colour: FloatArray, blue: FloatArray, axis: int) -> FloatArray:
    """Return edges of columns (axis 1) or rows (0) from a line through their colour."""
    lit = blue > 0.99
    edge = lit.shape[axis]
    index = np.broadcast_to(np.arange(edge)[None] if axis else np.arange(edge)[:, None], lit.shape)
    if len(np.unique(index[lit])) < 2:
        raise UnsupportedModelError("too few of its image tokens see the image")
    slope, start = np.polyfit(index[lit], colour[lit], 1)
    away = np.abs(start + slope * index[lit] - colour[lit]).max()
    # Eight bits, and the border that enlarging holds constant, bend the line a little.
    if slope <= 0 or away > 0.3 * slope + 1 / 255:
        raise UnsupportedModelError("its pictures do not show the image row by row")
    return np.asarray(start + slope * (np.arange(edge + 1) - 0.5), dtype=np.float64)


def no_grid(site: Site) -> Cells:
    """Learned queries: tokens of the image that belong to no place in it."""
    share, rest = divmod(site.n_tokens, site.n_images)
    return Cells((), share + rest * (site.index == site.n_images - 1), has_grid=False)


def cross_attended(site: Site) -> Cells:
    """Mllama: one mark in the sequence; the image itself is looked at by cross-attention."""
    return Cells((), site.n_tokens // site.n_images)


def anyres(site: Site) -> Cells:
    """LLaVA-NeXT and LLaVA-OneVision: the whole image, then its tiles with line breaks.

    1. The resolution of a list that fits best is chosen; the image is resized into it with its
       aspect kept (rounded up) and padded evenly.
    2. Each tile of S x S pixels becomes g x g features; tiles are put together to one map.
    3. Rows and columns of pure padding are cut away from the map; OneVision shrinks a map that has
       too many features; a line break ends every row.
    """
    width, height = site.image_size
    images = site.processor.image_processor
    edge = as_pair(getattr(images, "crop_size", None) or images.size)[0]
    patch = int(site.config.vision_config.patch_size)
    grid = edge // patch
    if "batch_num_images" in site.inputs and int(site.inputs["batch_num_images"][0]) > 1:
        # OneVision shows several images by one tile each, padded to a square.
        longer = max(width, height)
        padding = (longer - width) // 2, (longer - height) // 2
        scale = longer / edge, longer / edge
        boxes = cell_boxes(grid, grid, patch, scale, (0, 0), padding, site.image_size)
        return Cells((Tile(grid, grid, boxes),), grid * grid + 1)
    base = Tile(grid, grid, _stretched_patches(grid, patch, edge, site.image_size))
    choose = function_of(images, "select_best_resolution")
    best_h, best_w = choose((height, width), images.image_grid_pinpoints)
    scale = min(best_w / width, best_h / height)
    if best_w / width < best_h / height:
        new_w, new_h = best_w, min(math.ceil(height * scale), best_h)
    else:
        new_w, new_h = min(math.ceil(width * scale), best_w), best_h
    rows, cols = grid * best_h // edge, grid * best_w // edge
    cut_y = cut_x = 0
    if width / height > cols / rows:
        cut_y = (rows - int(round(height * (cols / width), 7))) // 2
    else:
        cut_x = (cols - int(round(width * (rows / height), 7))) // 2
    x = _feature_edges(cols, grid, patch, edge) - (best_w - new_w) // 2
    y = _feature_edges(rows, grid, patch, edge) - (best_h - new_h) // 2
    x, y = x[cut_x : cols - cut_x + 1], y[cut_y : rows - cut_y + 1]
    rows, cols = rows - 2 * cut_y, cols - 2 * cut_x
    most = str(getattr(site.config, "vision_aspect_ratio", "anyres")).removeprefix("anyres_max_")
    ratio = math.sqrt(rows * cols / (int(most) * grid**2)) if most.isdigit() else 1.0
    if ratio > 1.1:
        fewer_rows, fewer_cols = int(rows // ratio), int(cols // ratio)
        x = np.interp(np.linspace(0, cols, fewer_cols + 1), np.arange(cols + 1), x)
        y = np.interp(np.linspace(0, rows, fewer_rows + 1), np.arange(rows + 1), y)
        rows, cols = fewer_rows, fewer_cols
    x = np.clip(x * width / new_w, 0, width)
    y = np.clip(y * height / new_h, 0, height)
    start = grid * grid
    offsets = start + np.arange(rows)[:, None] * (cols + 1) + np.arange(cols)[None]
    detail = Tile(rows, cols, edge_boxes(x, y), _flat(offsets))
    return Cells((base, detail), start + rows * (cols + 1))


def _flat(offsets: Any) -> IntArray:
    return np.asarray(offsets, dtype=np.int64).reshape(-1)


def _stretched_patches(grid: int, patch: int, edge: int, size: tuple[int, int]) -> FloatArray:
    """Return boxes of the patches of a stretched image; an edge of no patch's may be left over."""
    edges = np.arange(grid + 1) * patch / edge
    return edge_boxes(edges * size[0], edges * size[1])


def _feature_edges(count: int, grid: int, patch: int, edge: int) -> FloatArray:
    """Return where each of `count` features of consecutive tiles begins, and where the last ends.

    A tile of `edge` pixels holds `grid` patches; what is left over at its end belongs to none, and
    is given to the last.
    """
    index = np.arange(count + 1)
    return (index // grid * edge + index % grid * patch).astype(np.float64)


def function_of(owner: Any, name: str) -> Any:
    """Return a function of the module in which an object's class, or a base of it, is defined."""
    for kind in type(owner).__mro__:
        found = getattr(sys.modules.get(kind.__module__), name, None)
        if found is not None:
            return found
    raise UnsupportedModelError(
        f"{type(owner).__name__} does not say how it chooses a resolution; not supported"
    )
