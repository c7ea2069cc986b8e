"""What pictures say of a run and its positions, whether it is alive or was loaded from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image, ImageDraw

from causal_lvlm.explanation.names import TokenNames, visible
from causal_lvlm.protocols import Recorded
from causal_lvlm.record import TraceRecord
from causal_lvlm.tokens import TokenLayout

__all__ = ["TraceView", "member_numbers", "view_of"]


@dataclass(frozen=True)
class TraceView:
    """One run, as pictures speak of it.

    Attributes
    ----------
    run : Trace or TraceRecord
    """

    run: Recorded

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The upright originals, RGB, in the order of the prompt."""
        return self.run.images

    @property
    def layout(self) -> TokenLayout:
        """What stands at each position."""
        return self.run.layout

    @cached_property
    def names(self) -> TokenNames:
        """What tokens are called in sentences."""
        return TokenNames.of(self.layout)

    @property
    def has_patches(self) -> bool:
        """Whether there are images with cells: not with text alone, nor with cross-attention."""
        return bool(self.images and self.layout.grids)

    @property
    def image_words(self) -> str:
        """The image, or the images, as a sentence calls them."""
        return "the images" if len(self.images) > 1 else "the image"

    def image_number(self, members: Iterable[int]) -> int | None:
        """Return which image holds the patches of a unit, None if it holds no patch."""
        cells = (self.layout.patch_cell(p) for p in members)
        return next((self.layout.grids[c[0]].image for c in cells if c is not None), None)

    def box(self, members: Iterable[int]) -> tuple[float, float, float, float] | None:
        """Return the rectangle around the patches of a unit, None if it holds no patch.

        It is in pixels of the image that `image_number` names.
        """
        boxes = [b for b in (self.layout.patch_box(p) for p in members) if b is not None]
        if not boxes:
            return None
        left, top, right, bottom = zip(*boxes, strict=True)
        return min(left), min(top), max(right), max(bottom)

    def crop(self, members: Iterable[int], size: int) -> Image.Image | None:
        """Cut a unit's rectangle and some of its surroundings out of its image.

        The unit itself is outlined and shown as it is; the surroundings, three quarters of its
        size on each side, are paled. A single patch alone could rarely be recognised.

        Parameters
        ----------
        members : iterable of int
            Positions of the unit.
        size : int
            Side of the square returned, in pixels.

        Returns
        -------
        PIL.Image.Image or None
            None if the unit holds no patch.
        """
        members = tuple(members)
        box, number = self.box(members), self.image_number(members)
        if box is None or number is None:
            return None
        image = self.images[number]
        extent = max(box[2] - box[0], box[3] - box[1], 1e-9)
        scale = size / (extent * 2.5)
        corner = (
            (box[0] + box[2]) / 2 - extent * 1.25,
            (box[1] + box[3]) / 2 - extent * 1.25,
        )
        square = Image.new("RGB", (size, size), "#ffffff")
        seen = _inside(image, (*corner, corner[0] + extent * 2.5, corner[1] + extent * 2.5))
        place = _scaled(seen, corner, scale)
        shape = (max(1, place[2] - place[0]), max(1, place[3] - place[1]))
        piece = image.resize(shape, Image.Resampling.BICUBIC, box=seen)
        square.paste(piece, place[:2])
        inner = _scaled(box, corner, scale)
        core = square.crop(inner)
        square = Image.blend(square, Image.new("RGB", square.size, "#ffffff"), 0.5)
        square.paste(core, inner[:2])
        ImageDraw.Draw(square).rectangle(inner, outline="#1b1f24", width=max(1, size // 58))
        return square

    def label(self, members: Sequence[int]) -> str:
        """Return a short name of a unit: a word in quotes, or rows and columns of its patches.

        A word that stands in several places carries the number of its place: “a” #2.
        """
        cells = [c for c in (self.layout.patch_cell(p) for p in members) if c is not None]
        if not cells:
            places = self.names.places(members)
            number = f" #{places.index(members[0]) + 1}" if len(places) > 1 else ""
            return f"“{self.names.text(members)}”{number}"
        if len(self.images) > 1:
            tile = self.layout.label(next(p for p in members if self.layout.patch_cell(p)))
            tile = tile[: tile.index("[")]  # as in the labels: image1.2
        else:
            tile = f"tile {cells[0][0]} " if len(self.layout.grids) > 1 else ""
        rows = _span([c[1] for c in cells])
        return f"{tile}[{rows},{_span([c[2] for c in cells])}]"

    def word(self, position: int) -> str:
        """Return the text of a token, with what cannot be seen spelled out."""
        text = self.layout.tokens[position]
        return text if text.strip() else visible(text)


def _inside(
    image: Image.Image, box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Clip a rectangle to the image: cells of padded images may reach beyond it."""
    width, height = image.size
    left, top = min(max(box[0], 0.0), width - 1.0), min(max(box[1], 0.0), height - 1.0)
    return left, top, max(left + 1, min(box[2], width)), max(top + 1, min(box[3], height))


def _scaled(
    box: tuple[float, float, float, float], corner: tuple[float, float], scale: float
) -> tuple[int, int, int, int]:
    """Return a rectangle in pixels of a picture whose corner and scale are given."""
    left, top, right, bottom = box
    x, y = corner
    return (
        round((left - x) * scale),
        round((top - y) * scale),
        round((right - x) * scale),
        round((bottom - y) * scale),
    )


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def member_numbers(units: Iterable[Sequence[int]]) -> dict[int, int]:
    """Give the units of a set numbers from 1; every position of a unit has the unit's number."""
    return {p: number for number, members in enumerate(units, start=1) for p in members}


def view_of(trace: Recorded | TraceView | Mapping[str, Any]) -> TraceView:
    """Return a view of a trace, or of the summary that a saved explanation carries.

    Parameters
    ----------
    trace : Trace, TraceRecord, TraceView or mapping
        A mapping is what ``Trace.to_dict()`` gave.

    Raises
    ------
    OutputError
        If a mapping lacks a part that a report needs, or one is not what it must be.
    """
    if isinstance(trace, TraceView):
        return trace
    if isinstance(trace, Mapping):
        trace = TraceRecord.from_dict(trace, "trace")
    return TraceView(trace)
