"""Units by name: what is scored and masked as one, for methods, metrics and searches alike.

A name is an image part, a text part, or both joined by ``+``; a modality without a part has no
units.

=================  ===============================================================================
``patch``          every image token alone
``block:K``        image tokens pooled in blocks of K x K cells of their grid
``superpixel:N``   image tokens by the segment that covers most of their cell; about N segments an
                   image (default 32), by SLICO on the original picture; cells of overlapping tiles
                   that show the same segment belong together
``token``          every text token alone
``word``           the tokens of one word (`TokenLayout.words`)
``sentence``       text up to ``.``, ``!``, ``?``, ``…`` or a line break, cut where the frame, an
                   image, or the other speaker comes in between
=================  ===============================================================================

What may be in a unit at all is decided by `causal_lvlm.tokens.candidate_units`: everything before
the target but the frame and the predicting row. A word or a sentence that reaches beyond that is
cut off there. Units given as an object are held to the same rule.

SLICO is the variant of SLIC that adapts the balance of colour against distance to each segment; it
has no number to be tuned, and region search methods (SMDL, LiMA) use it. Plain SLIC with its usual
balance falls apart on a noisy picture, and its fragments are then merged into a handful of
segments, however many are asked for.

Whole sentences as units are how the attention to a sentence is suppressed ("Thought Anchors"): in a
reasoning answer, mask one earlier sentence at a time and see what becomes of the target, by
``attribute(trace, target, "leave_one_out", units="sentence")``. ``masking="remove"`` hides the
sentence from every later row in all layers, which is that suppression; ``masking="edges"`` hides it
from the rows that predict the target alone. The paper compares distributions (KL divergence) of
all later sentences, here the target alone is asked for (known from accounts of the paper).

References
----------
R. Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", IEEE TPAMI
34(11), 2012; computed by scikit-image (optional extra ``superpixels``).
P. C. Bogdan et al., "Thought Anchors: Which LLM Reasoning Steps Matter?", 2025, arXiv:2506.19143.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.checks import nearest, shown, whole_number
from causal_lvlm.errors import (
    ImageError,
    OptionError,
    OptionTypeError,
    TargetError,
    UnsupportedModelError,
)
from causal_lvlm.protocols import HasLayout
from causal_lvlm.tokens import Target, TokenLayout, Units, candidate_units

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_PARTS", "TEXT_PARTS", "UnitsLike", "make_units", "units_name"]

IMAGE_PARTS = ("patch", "block:K", "superpixel:N")
TEXT_PARTS = ("token", "word", "sentence")
DEFAULT_SUPERPIXELS = 32
_ENDS = (".", "!", "?", "…", "。", "！", "？")
_CLOSING = "\"'”’»)]}"

UnitsLike: TypeAlias = "str | Units"


def units_name(units: UnitsLike) -> str:
    """Return the name of some units in its one spelling; ``custom`` for a `Units` object.

    Raises
    ------
    ValueError
        If the text names no units.
    """
    if isinstance(units, Units):
        return "custom"
    image, text = _parse(units)
    return "+".join(part for part in (image, text) if part)


def make_units(
    layout_or_trace: TokenLayout | HasLayout,
    target: Target,
    units: UnitsLike = "patch+token",
    *,
    image: Image.Image | Sequence[Image.Image] | None = None,
) -> Units:
    """Return the units that a name stands for.

    Parameters
    ----------
    layout_or_trace : TokenLayout or Trace
    target : Target
        Only what stands before it, and is neither frame nor predicting row, may be in a unit.
    units : str or Units
        A name, see the module's text; a `Units` object is checked and returned as it is.
        ``"patch+token"`` is `candidate_units` itself.
    image : PIL.Image.Image or sequence of them, optional
        The original pictures for ``superpixel``, where no trace is given that knows them.

    Returns
    -------
    Units
        Disjoint, sorted by first position; image and text never share a unit.

    Raises
    ------
    ValueError
        If the text names no units, or units share a position.
    TargetError
        If a given unit is empty, or holds a position that cannot be masked: outside the sequence,
        of the frame, the predicting row, or at or after the target.
    ImageError
        If superpixels are wanted and there are fewer pictures than grids of image tokens refer to.
    UnsupportedModelError
        If superpixels are wanted and scikit-image is not installed.
    """
    layout = layout_or_trace if isinstance(layout_or_trace, TokenLayout) else layout_or_trace.layout
    if isinstance(units, Units):
        _check(layout, target, units)
        return units
    image_part, text_part = _parse(units)
    groups: list[tuple[int, ...]] = []
    if image_part:
        kind, _, number = image_part.partition(":")
        pool = int(number) if kind == "block" else 1
        found = candidate_units(layout, target, candidates="image", pool=pool).members
        if kind == "superpixel":
            pictures = _pictures(layout_or_trace, image)
            found = _by_segment(layout, found, pictures, int(number))
        groups += found
    if text_part:
        singles = candidate_units(layout, target, candidates="text").members
        positions = [p for (p,) in singles]
        if text_part == "word":
            groups += _by_word(layout, positions)
        elif text_part == "sentence":
            groups += _by_sentence(layout, positions)
        else:
            groups += singles
    members = sorted(groups)
    return Units(tuple(members), tuple(str(layout.modality[m[0]]) for m in members))


def _check(layout: TokenLayout, target: Target, units: Units) -> None:
    """Raise unless given units are disjoint and hold what may be masked, nothing else."""
    positions = [p for members in units.members for p in members]
    refused = sorted(
        p for p in positions if not 0 <= p < target.predictor or layout.modality[p] == "special"
    )
    if refused or any(not members for members in units.members):
        what = f"hold positions {refused}" if refused else "have members without a position"
        raise TargetError(
            f"the units {what}, which cannot be masked for the target {target.text!r} at "
            f"{target.start}: allowed are positions 0..{target.predictor - 1} that are no special "
            "or template token; make units with make_units or candidate_units for this target"
        )
    if len(set(positions)) < len(positions):
        twice = sorted({p for p in positions if positions.count(p) > 1})
        raise OptionError(f"the units share the positions {twice}; each may be in one unit only")


def _parse(name: str) -> tuple[str, str]:
    """Return (image part, text part), each in its full spelling or empty."""
    allowed = f"image: {', '.join(IMAGE_PARTS)}; text: {', '.join(TEXT_PARTS)}; both joined by '+'"
    if not isinstance(name, str):
        raise OptionTypeError(f"units must be a name or Units, got {shown(name)}; {allowed}")
    image = text = ""
    for part in name.lower().replace(" ", "").split("+"):
        kind, colon, number = part.partition(":")
        if kind in TEXT_PARTS and not colon and not text:
            text = part
        elif kind == "patch" and not colon and not image:
            image = part
        elif kind in ("block", "superpixel") and not image and (colon or kind == "superpixel"):
            size = _number(kind, number if colon else str(DEFAULT_SUPERPIXELS))
            image = f"{kind}:{size}"
        else:
            hint = nearest(kind, ("patch", "block", "superpixel", *TEXT_PARTS))
            raise OptionError(
                f"units {shown(name)} cannot be read at {shown(part)}{hint}; allowed are {allowed}"
            )
    return image, text


def _number(kind: str, text: str) -> int:
    try:
        return whole_number(f"the number after '{kind}:'", int(text), 1)
    except ValueError:
        raise OptionError(
            f"'{kind}:' must be followed by a whole number of at least 1, got {shown(text)}"
        ) from None


def _by_word(layout: TokenLayout, positions: Iterable[int]) -> list[tuple[int, ...]]:
    """Group positions by word number; a token without one stays alone."""
    words: dict[tuple[bool, int], list[int]] = {}
    for p in positions:
        number = int(layout.words[p])
        words.setdefault((number >= 0, number if number >= 0 else p), []).append(p)
    return [tuple(word) for word in words.values()]


def _by_sentence(layout: TokenLayout, positions: Iterable[int]) -> list[tuple[int, ...]]:
    """Cut the text at ends of sentences and wherever neighbours are not neighbours in it."""
    spaced = any(layout.tokens[p][:1] == " " for p in layout.positions("prompt", "generated"))
    sentences: list[list[int]] = []
    ended = True
    for p in positions:
        text = layout.tokens[p]
        # "3.5" in pieces: what follows a mark without a space goes on with the same sentence.
        glued = spaced and not text[:1].isspace()
        closing = bool(text.strip()) and not text.strip().strip(_CLOSING)
        apart = bool(sentences) and (
            p != sentences[-1][-1] + 1 or layout.modality[p] != layout.modality[p - 1]
        )
        if apart or not sentences or (ended and not glued and not closing):
            sentences.append([])
        sentences[-1].append(p)
        if text.rstrip(_CLOSING + " \t").endswith(_ENDS) or "\n" in text:
            ended = True
        elif not closing:
            ended = False
    return [tuple(sentence) for sentence in sentences]


def _pictures(
    source: TokenLayout | HasLayout, image: Image.Image | Sequence[Image.Image] | None
) -> tuple[Image.Image, ...]:
    if image is not None:
        return tuple(image) if isinstance(image, Sequence) else (image,)
    return tuple(getattr(source, "images", ()))


def _by_segment(
    layout: TokenLayout,
    singles: Iterable[tuple[int, ...]],
    pictures: Sequence[Image.Image],
    n_segments: int,
) -> tuple[tuple[int, ...], ...]:
    """Group image tokens by the superpixel that covers most of their cell; no cell: alone."""
    positions = [p for (p,) in singles]
    needed = max((grid.image + 1 for grid in layout.grids), default=0)
    if positions and len(pictures) < needed:
        raise ImageError(
            f"superpixels need the {needed} original pictures, got {len(pictures)}; give a trace, "
            "or image=..."
        )
    segments: dict[int, IntArray] = {}
    groups: dict[tuple[int, int], list[int]] = {}
    for p in positions:
        cell, box = layout.patch_cell(p), layout.patch_box(p)
        if cell is None or box is None:
            groups[-1, p] = [p]
            continue
        number = layout.grids[cell[0]].image
        if number not in segments:
            segments[number] = _slic(pictures[number], n_segments)
        groups.setdefault((number, _covering(segments[number], box)), []).append(p)
    return tuple(tuple(sorted(group)) for group in groups.values())


def _slic(picture: Image.Image, n_segments: int) -> IntArray:
    """Return the segment of each pixel, shape (height, width)."""
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise UnsupportedModelError(
            "superpixels need scikit-image: pip install 'causal-lvlm[superpixels]', or choose "
            "units 'patch' or 'block:K'"
        ) from None
    pixels = np.asarray(picture.convert("RGB"))
    found = slic(pixels, n_segments=n_segments, slic_zero=True, start_label=0)
    return np.asarray(found, dtype=np.int64)


def _covering(segments: IntArray, box: tuple[float, float, float, float]) -> int:
    """Return the segment with the largest area in a rectangle; ties: the smaller number."""
    height, width = segments.shape
    left, top, right, bottom = box
    # Share of each pixel row and column inside the rectangle; cells may cut pixels.
    columns = _overlap(left, right, width)
    rows = _overlap(top, bottom, height)
    area = np.outer(rows, columns)
    return int(np.bincount(segments.ravel(), weights=area.ravel()).argmax())


def _overlap(low: float, high: float, size: int) -> FloatArray:
    edges = np.arange(size + 1, dtype=np.float64)
    inside: FloatArray = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.maximum(inside, 0.0)
