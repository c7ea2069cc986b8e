"""Which rectangle of the image each image token comes from, and how that is known.

A family of the table brings its geometry; tests paint it. The geometry of any other type is a
guess, and the model itself is asked, before anything is said about a place in the image:

1. Each picture is replaced by one of coarse noise, of the same size.
2. A cell's rectangle is painted (dark becomes white, bright becomes black). The features that enter
   the language model must change most at that cell's own token: within its tile, and beyond it
   more than at any token whose rectangle does not meet the cell.
3. So for several cells of every tile, a cell that fails once more on other noise. As soon as one
   changes another token most, the tokens of that model have no known place, and nothing later draws
   them on the image.

What resamplers make of an image (Idefics2, Aria, Q-Formers) fails at once: every query looks at all
of it. So do tokens in another order, such as columns before rows, mirrored or window by window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from causal_lvlm.arrays import BoolArray, FloatArray, IntArray
from causal_lvlm.errors import ImageError, UnsupportedModelError
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.geometry import Cells, Placed, Site, Tile
from causal_lvlm.lvlm.tiles import no_grid

__all__ = ["painting_error", "place"]

_CELLS = 12  # painted in all; at least three of every tile
_GROUNDS = 3  # of noise; the second and third where the first does not show it
# A tile of so few cells could be confirmed by chance: each quarter of each is painted, on every
# ground. (Of whole cells, three of four were right in 3 of 24 random resamplers of two by two.)
_FEW = 8
_BLOCKS = 24  # of noise along the shorter side: coarse enough to survive being made smaller


def place(
    lvlm: Backbone, pictures: Sequence[Image.Image], text: str, inputs: Mapping[str, torch.Tensor]
) -> Placed:
    """Ask the family's geometry about each image, and the model where nobody has tested that.

    Parameters
    ----------
    lvlm : Backbone
    pictures : sequence of Image
    text : str
        The rendered prompt.
    inputs : mapping of str to Tensor
        What the processor made of them.

    Raises
    ------
    ImageError
        If the model of an unknown family takes no notice of one of several images.
    UnsupportedModelError
        If a known family's geometry does not fit this processor.
    """
    if not pictures:
        return Placed((), "none")
    sites = _sites(lvlm, pictures, inputs)
    if lvlm.family.tested:
        cells = tuple(lvlm.family.geometry(site) for site in sites)
        if any(one.tiles for one in cells):
            return Placed(cells, "family")
        why = f"{lvlm.family.name} has {lvlm.family.mapping.split(';')[0]}"
        return Placed(cells, "absent", f"nothing is placed in the image: {why}")
    sizes = tuple(picture.size for picture in pictures)
    if sizes not in lvlm.known_sizes.places:  # kept: it costs runs of the vision tower
        lvlm.known_sizes.places[sizes] = _confirmed(lvlm, pictures, text, sites)
    return lvlm.known_sizes.places[sizes]


def _confirmed(
    lvlm: Backbone, pictures: Sequence[Image.Image], text: str, sites: list[Site]
) -> Placed:
    """Place the tokens of a family that no test has painted."""
    family = lvlm.family
    who = f"type {lvlm.model.config.model_type!r} is in no table of families"
    try:
        cells = tuple(family.geometry(site) for site in sites)
        n_tokens = sum(one.n_tokens for one in cells)
        if n_tokens != sites[0].n_tokens:
            raise UnsupportedModelError(
                f"{n_tokens} tokens were expected and the prompt holds {sites[0].n_tokens}"
            )
    except UnsupportedModelError as refused:
        if not family.guessed:
            raise
        return _absent(lvlm, pictures, text, sites, f"{who}, and {refused}")
    if not any(one.tiles for one in cells):
        return _absent(lvlm, pictures, text, sites, f"the family {family.name!r} says so")
    right, error = painting_error(lvlm, pictures, text, cells)
    if not error:
        how = "is guessed" if family.guessed else f"is what the family {family.name!r} says"
        found = f"each of {right} rectangles painted changed its own token most"
        remark = f"where image tokens lie in the image {how}, and confirmed on the model: {found}"
        return Placed(cells, "painted", remark)
    found = f"painted rectangle number {right + 1} did not change its own token most"
    if family.guessed:
        return _absent(lvlm, pictures, text, sites, f"{who}, and a guessed grid is wrong: {found}")
    remark = f"where image tokens lie in the image is not as {family.name!r} says: {found}"
    return Placed(cells, "unconfirmed", remark, error)


def _sites(
    lvlm: Backbone, pictures: Sequence[Image.Image], inputs: Mapping[str, torch.Tensor]
) -> list[Site]:
    n_tokens = int((inputs["input_ids"] == lvlm.image_token_id).sum())
    first = Site(
        config=lvlm.model.config,
        processor=lvlm.processor,
        image_size=pictures[0].size,
        inputs=inputs,
        n_images=len(pictures),
        n_tokens=n_tokens,
        placeholder=lvlm.placeholder,
        image_token_id=lvlm.image_token_id,
    )
    return [replace(first, image_size=p.size, index=i) for i, p in enumerate(pictures)]


def _absent(
    lvlm: Backbone, pictures: Sequence[Image.Image], text: str, sites: list[Site], why: str
) -> Placed:
    """Say that there is no grid; of several images, each must at least reach the model."""
    noise = [_noise(picture.size, seed) for seed, picture in enumerate(pictures)]
    before = _whole(lvlm, noise, text) if len(noise) > 1 else []
    for number, picture in enumerate(noise if before else ()):
        other = list(noise)
        other[number] = _painted(picture, (0.0, 0.0, *picture.size))
        after = _whole(lvlm, other, text)
        if all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise ImageError(
                f"{lvlm.model_id!r} takes no notice of image {number}; ask about one image"
            )
    remark = f"the image tokens have no known place in the image: {why}"
    return Placed(tuple(no_grid(site) for site in sites), "absent", remark)


def _whole(lvlm: Backbone, pictures: Sequence[Image.Image], text: str) -> list[torch.Tensor]:
    """Return all that the language model is given."""
    inputs = lvlm.process(pictures, text).inputs
    with lvlm.session(), torch.no_grad():
        embeds, context = lvlm.embed(inputs, inputs["input_ids"])
    return [embeds, *context.cross.values()]


def painting_error(
    lvlm: Backbone, pictures: Sequence[Image.Image], text: str, cells: Sequence[Cells]
) -> tuple[int, float]:
    """Paint cells until one changes another token most.

    Parameters
    ----------
    lvlm : Backbone
    pictures : sequence of Image
        Only their sizes count.
    text : str
        The rendered prompt.
    cells : sequence of Cells
        Of each picture; their tokens follow each other in the prompt.

    Returns
    -------
    (int, float)
        Rectangles that changed their own token most, and the distance in cells (along rows or
        columns, whichever is longer) between the next one and the token that it changed most: 0
        where there is none.
    """
    grounds = [_Ground(lvlm, [p.size for p in pictures], text, seed) for seed in range(_GROUNDS)]
    right = -1
    for right, one in enumerate(_rectangles(cells)):
        change = np.zeros(one.n_tokens)
        for ground in grounds:
            change += ground.change(one.image, one.box)
            most = int(change[one.own].argmax())
            mine = change[one.own[one.cell]]
            found = most == one.cell and mine > change[one.apart].max(initial=0.0)
            if found and not one.everywhere:
                break
        if not found:
            (r0, c0), (r1, c1) = (divmod(i, one.tile.cols) for i in (one.cell, most))
            return right, float(max(1, abs(r0 - r1), abs(c0 - c1)))
    return right + 1, 0.0 if right >= 0 else 1.0  # nothing to paint confirms nothing


@dataclass(frozen=True)
class _Rectangle:
    """A rectangle to paint within a cell, and what may change with it."""

    image: int
    tile: Tile
    cell: int
    box: FloatArray
    own: IntArray  # which of the prompt's image tokens are the tile's
    apart: BoolArray  # those of no cell that meets the rectangle
    everywhere: bool  # on every ground

    @property
    def n_tokens(self) -> int:
        return len(self.apart)


def _rectangles(cells: Sequence[Cells]) -> Iterator[_Rectangle]:
    """Yield what to paint: a few cells of every tile, or all quarters of those of a small one."""
    n_tiles = sum(len(one.tiles) for one in cells)
    n_tokens = sum(one.n_tokens for one in cells)
    generator = np.random.default_rng(0)
    start = 0
    for number, one in enumerate(cells):
        owned = [start + offsets for offsets in one.offsets()]
        boxes = np.full((n_tokens, 4), np.nan)
        for tile, own in zip(one.tiles, owned, strict=True):
            boxes[own] = tile.boxes
        for tile, own in zip(one.tiles, owned, strict=True):
            few = len(own) <= _FEW
            area = np.prod(tile.boxes[:, 2:] - tile.boxes[:, :2], axis=1)
            whole = np.flatnonzero(area > 0.5 * area.max())  # the others are cut, or padding
            chosen = whole if few else generator.permutation(whole)[: max(3, _CELLS // n_tiles)]
            for cell in chosen.tolist():
                for box in _quarters(tile.boxes[cell]) if few else [tile.boxes[cell]]:
                    apart = ~_meets(boxes, box)
                    apart[own] = False
                    yield _Rectangle(number, tile, cell, box, own, apart, few)
        start += one.n_tokens


def _quarters(box: FloatArray) -> list[FloatArray]:
    """Return the four quarters of a rectangle."""
    left, top, right, bottom = (float(v) for v in box)
    x, y = (left, (left + right) / 2, right), (top, (top + bottom) / 2, bottom)
    return [np.array([x[i], y[j], x[i + 1], y[j + 1]]) for j in (0, 1) for i in (0, 1)]


class _Ground:
    """Pictures of noise to paint on, and what the image tokens are without paint."""

    def __init__(
        self, lvlm: Backbone, sizes: Sequence[tuple[int, int]], text: str, seed: int
    ) -> None:
        self._lvlm, self._text = lvlm, text
        self.pictures = [_noise(size, seed + 10 * n) for n, size in enumerate(sizes)]

    @cached_property
    def _before(self) -> FloatArray:
        return _features(self._lvlm, self.pictures, self._text)

    def change(self, number: int, box: Any) -> FloatArray:
        """Return how far a painted rectangle moves each token, float64 (N,); at most 1."""
        shown = list(self.pictures)
        shown[number] = _painted(shown[number], box)
        moved = np.linalg.norm(_features(self._lvlm, shown, self._text) - self._before, axis=1)
        found: FloatArray = moved / max(float(moved.max()), 1e-30)
        return found


def _features(lvlm: Backbone, pictures: Sequence[Image.Image], text: str) -> FloatArray:
    """Return what enters the language model at the image tokens, float64 (N, D + additions)."""
    inputs = lvlm.process(pictures, text).inputs
    with lvlm.session(), torch.no_grad():
        embeds = lvlm.embed(inputs, inputs["input_ids"])[0][0]
    chosen = embeds[(inputs["input_ids"][0] == lvlm.image_token_id).to(embeds.device)]
    found: FloatArray = chosen.double().cpu().numpy()
    return found


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    """Return coarse coloured noise of a size (width, height)."""
    block = max(1, min(size) // _BLOCKS)
    shape = (-(-size[1] // block), -(-size[0] // block), 3)
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    spread = values.repeat(block, axis=0).repeat(block, axis=1)[: size[1], : size[0]]
    return Image.fromarray(spread)


def _painted(image: Image.Image, box: Any) -> Image.Image:
    """Return the image with a rectangle made as different as it can be: at least one pixel."""
    array = np.asarray(image).copy()
    left, top = (min(round(v), n - 1) for v, n in zip(box[:2], image.size, strict=True))
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    part = array[top:bottom, left:right]
    array[top:bottom, left:right] = np.where(part < 128, 255, 0)
    return Image.fromarray(array)


def _meets(boxes: FloatArray, box: FloatArray) -> Any:
    """Whether rectangles, grown by half their size, meet another; never where there is none."""
    grow = (boxes[:, 2:] - boxes[:, :2]) / 2
    with np.errstate(invalid="ignore"):
        low, high = boxes[:, :2] - grow, boxes[:, 2:] + grow
        return ((low < box[2:]) & (high > box[:2])).all(axis=1)
