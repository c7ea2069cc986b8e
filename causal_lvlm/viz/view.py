"""What pictures say of a run and its positions, whether it is alive or was loaded from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from PIL import Image

from causal_lvlm.explanation.names import TokenNames
from causal_lvlm.protocols import Recorded
from causal_lvlm.record import TraceRecord
from causal_lvlm.tokens import TokenLayout

__all__ = ["Region", "TraceView", "member_numbers", "view_of"]


class Region(NamedTuple):
    """Where the patches of a unit lie: number of the image, and left, top, right, bottom in it."""

    image: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class TraceView:
    """One run, as pictures speak of it; `view_of` makes it.

    Attributes
    ----------
    run : Trace or TraceRecord
    layout : TokenLayout
        What stands at each position.
    images : tuple of PIL.Image.Image
        The upright originals, RGB, in the order of the prompt.
    """

    run: Recorded
    layout: TokenLayout
    images: tuple[Image.Image, ...]

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

    def region(self, members: Iterable[int]) -> Region | None:
        """Return the rectangle around the patches of a unit, None if it holds no patch."""
        members = tuple(members)
        cells = [c for c in map(self.layout.patch_cell, members) if c is not None]
        boxes = [b for b in map(self.layout.patch_box, members) if b is not None]
        if not cells:
            return None
        left, top, right, bottom = zip(*boxes, strict=True)
        box = (min(left), min(top), max(right), max(bottom))
        return Region(self.layout.grids[cells[0][0]].image, box)

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
    return TraceView(trace, trace.layout, trace.images)
