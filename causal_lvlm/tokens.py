"""What every position of the sequence is: image cell, prompt word, generated token or frame.

Three words are kept apart throughout the package:

``position``
    index in the token sequence the language model saw (0 .. T-1);
``node``
    index in a learned graph;
``patch``
    one cell of an image grid, with a rectangle in pixels of the *original* image.

`TokenLayout` describes the sequence, `Target` the generated tokens to be explained, and `Units`
the smallest things that can be masked: single tokens, or k x k blocks of image tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, IntArray, frozen
from causal_lvlm.checks import check_choice, shown, whole_number
from causal_lvlm.errors import OptionTypeError, TargetError

__all__ = [
    "MODALITIES",
    "ImageGrid",
    "Target",
    "TargetLike",
    "TokenLayout",
    "Units",
    "candidate_units",
    "check_trace",
    "resolve_target",
]

MODALITIES = ("image", "prompt", "generated", "special")

TargetLike: TypeAlias = "str | int | slice | Target | Callable[[TokenLayout], int | slice]"


@dataclass(frozen=True)
class ImageGrid:
    """One tile of an image: a row-major grid of image tokens.

    Attributes
    ----------
    image, tile : int
        Which image of the prompt, and which tile of it.
    rows, cols : int
        Shape of the grid.
    positions : ndarray of int64, shape (rows * cols,)
        Sequence position of each cell, row by row.
    boxes : ndarray of float64, shape (rows * cols, 4)
        Left, top, right, bottom of each cell in pixels of the original image.
    image_size : tuple of int
        Width and height of the original image in pixels.
    """

    image: int
    tile: int
    rows: int
    cols: int
    positions: IntArray
    boxes: FloatArray
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        """Freeze the arrays and check that their shapes agree with the grid."""
        object.__setattr__(self, "positions", frozen(self.positions, np.int64))
        object.__setattr__(self, "boxes", frozen(self.boxes, np.float64))
        n_cells = self.rows * self.cols
        if self.positions.shape != (n_cells,) or self.boxes.shape != (n_cells, 4):
            raise ValueError(
                f"a grid of {self.rows} x {self.cols} needs positions ({n_cells},) and boxes "
                f"({n_cells}, 4), got {self.positions.shape} and {self.boxes.shape}"
            )


@dataclass(frozen=True)
class TokenLayout:
    """What the model saw and said, position by position.

    Attributes
    ----------
    tokens : tuple of str, length T
        Text of each token as a person would read it; image tokens read ``<image>``.
    token_ids : ndarray of int64, shape (T,)
    modality : ndarray of str, shape (T,)
        One of `MODALITIES`. ``special`` is the frame: special tokens and chat-template tokens.
    grids : tuple of ImageGrid
    words : ndarray of int64, shape (T,)
        Number of the word a text token belongs to (sub-word tokens share one), -1 elsewhere.
    n_prompt : int
        Length of the prompt: the first generated token stands at this position.
    """

    tokens: tuple[str, ...]
    token_ids: IntArray
    modality: Any  # ndarray of str; numpy has no useful static type for it
    grids: tuple[ImageGrid, ...]
    words: IntArray
    n_prompt: int
    _cells: dict[int, tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the arrays, check shapes, and index the image cells by position."""
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "token_ids", frozen(self.token_ids, np.int64))
        object.__setattr__(self, "modality", frozen(self.modality, np.str_))
        object.__setattr__(self, "words", frozen(self.words, np.int64))
        length = len(self.tokens)
        for name in ("token_ids", "modality", "words"):
            shape = getattr(self, name).shape
            if shape != (length,):
                raise ValueError(f"{name} has shape {shape}, but there are {length} tokens")
        unknown = set(self.modality.tolist()) - set(MODALITIES)
        if unknown:
            raise ValueError(f"unknown modality {sorted(unknown)}, allowed: {MODALITIES}")
        cells = {
            int(position): (number, cell)
            for number, grid in enumerate(self.grids)
            for cell, position in enumerate(grid.positions)
        }
        object.__setattr__(self, "_cells", cells)

    def __len__(self) -> int:
        """Return T, the number of positions."""
        return len(self.tokens)

    def positions(self, *modalities: str) -> IntArray:
        """Return the positions whose modality is one of those given, ascending, int64.

        Parameters
        ----------
        *modalities : {"image", "prompt", "generated", "special"}
        """
        return np.flatnonzero(np.isin(self.modality, modalities)).astype(np.int64)

    def patch_box(self, position: int) -> tuple[float, float, float, float] | None:
        """Return (left, top, right, bottom) in original pixels, or None where there is no cell.

        Parameters
        ----------
        position : int
            Index in the sequence.
        """
        if position not in self._cells:
            return None
        number, cell = self._cells[position]
        left, top, right, bottom = (float(v) for v in self.grids[number].boxes[cell])
        return left, top, right, bottom

    def patch_cell(self, position: int) -> tuple[int, int, int] | None:
        """Return (grid, row, column) of an image token, or None where there is no cell.

        Parameters
        ----------
        position : int
            Index in the sequence.
        """
        if position not in self._cells:
            return None
        number, cell = self._cells[position]
        return (number, *divmod(cell, self.grids[number].cols))

    def label(self, position: int) -> str:
        """Return a short name for a position: the word, or ``image[row,column]``.

        With several images, or tiles of one, ``image1.2[row,column]`` names both, from 0.

        Parameters
        ----------
        position : int
            Index in the sequence.
        """
        cell = self.patch_cell(position)
        if cell is None:
            return self.tokens[position].strip() or repr(self.tokens[position])
        grid = self.grids[cell[0]]
        image = str(grid.image) if any(g.image != grid.image for g in self.grids) else ""
        tiles = sum(g.image == grid.image for g in self.grids)
        tile = f".{grid.tile}" if tiles > 1 else ""
        return f"image{image}{tile}[{cell[1]},{cell[2]}]"

    @property
    def generated(self) -> tuple[str, ...]:
        """Text of each generated token, in order."""
        return self.tokens[self.n_prompt :]


@dataclass(frozen=True)
class Target:
    """Generated tokens to be explained: one token, a word or a phrase.

    Attributes
    ----------
    positions : tuple of int
        Consecutive sequence positions.
    token_ids : tuple of int
    text : str
    occurrence : tuple of int
        (k, n): this is the k-th of n places where the text asked for occurs, counted from 1.
    """

    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    occurrence: tuple[int, int] = (1, 1)

    @property
    def start(self) -> int:
        """Position of the first target token; everything before it may be a cause."""
        return self.positions[0]

    @property
    def predictor(self) -> int:
        """Position whose output predicts the first target token."""
        return self.positions[0] - 1


def check_trace(trace: object) -> None:
    """Raise OptionTypeError unless this is what `LVLM.run` returns, or has a layout like it."""
    if not isinstance(getattr(trace, "layout", None), TokenLayout):
        raise OptionTypeError(
            f"trace must be what model.run(image, prompt) returns, got {shown(trace)}"
        )


def resolve_target(layout: TokenLayout, target: TargetLike) -> Target:
    """Find the generated tokens meant by `target`.

    Parameters
    ----------
    layout : TokenLayout
    target : str, int, slice, Target or callable
        A word or phrase of the answer (first occurrence); the index of a generated token, counted
        from 0 (negative from the end); a slice of generated tokens; or a function of the layout
        that returns one of these indices.

    Returns
    -------
    Target

    Raises
    ------
    TargetError
        If the answer holds no such token; the message lists the tokens it does hold.
    """
    if isinstance(target, Target):
        steps = [b - a for a, b in itertools.pairwise(target.positions)]
        if not target.positions or any(step != 1 for step in steps):
            raise TargetError(f"a target's positions must be consecutive, got {target.positions}")
        if not layout.n_prompt <= target.start <= target.positions[-1] < len(layout):
            raise TargetError(
                f"positions {target.positions} are not generated tokens; those stand at "
                f"{layout.n_prompt}..{len(layout) - 1}"
            )
        ids = tuple(int(i) for i in layout.token_ids[list(target.positions)])
        if ids != tuple(target.token_ids):
            raise TargetError(
                f"this target is of another trace: its token ids are {target.token_ids}, but the "
                f"tokens at {target.positions} are {ids}"
            )
        return target
    chosen = target(layout) if callable(target) else target
    n_generated = len(layout) - layout.n_prompt
    shown = ", ".join(f"{i}:{text.strip()!r}" for i, text in enumerate(layout.generated))
    if isinstance(chosen, bool) or not isinstance(chosen, (str, int, slice, np.integer)):
        raise TargetError(
            f"target must be a word, a token index, a slice or a function, got "
            f"{type(chosen).__name__}; generated tokens: {shown}"
        )
    if isinstance(chosen, str):
        return _find_text(layout, chosen, shown)
    if isinstance(chosen, slice):
        start, stop, step = chosen.indices(n_generated)
        if step != 1 or stop <= start:
            raise TargetError(f"{chosen} selects no run of generated tokens; there are: {shown}")
        indices = range(start, stop)
    else:
        index = int(chosen)
        if not -n_generated <= index < n_generated:
            raise TargetError(
                f"target index {index} is out of range: the answer has {n_generated} tokens, "
                f"allowed -{n_generated}..{n_generated - 1}: {shown}"
            )
        indices = range(index % n_generated, index % n_generated + 1)
    return _make_target(layout, indices)


def _make_target(
    layout: TokenLayout, indices: Iterable[int], occurrence: tuple[int, int] = (1, 1)
) -> Target:
    positions = tuple(layout.n_prompt + i for i in indices)
    text = "".join(
        token if i == 0 or not _joins_with_space(layout) else " " + token
        for i, token in enumerate(layout.tokens[p] for p in positions)
    ).strip()
    ids = tuple(int(layout.token_ids[p]) for p in positions)
    return Target(positions=positions, token_ids=ids, text=text, occurrence=occurrence)


def _joins_with_space(layout: TokenLayout) -> bool:
    """Return whether the tokenizer is word-level: its tokens carry no space of their own."""
    generated = layout.tokens[layout.n_prompt :]
    return len(generated) > 1 and not any(t[:1].isspace() or t[-1:].isspace() for t in generated)


def _find_text(layout: TokenLayout, text: str, shown: str) -> Target:
    """Match a word or phrase against runs of generated tokens, ignoring case and spaces."""
    wanted = _split(text)
    pieces = [token.casefold().strip() for token in layout.generated]
    numbers = layout.words[layout.n_prompt :]
    found: list[range] = []
    for start in range(len(pieces)):
        if not pieces[start] or _inside_word(numbers, start):
            continue  # a match begins at the beginning of a word ...
        for stop in range(start + 1, len(pieces) + 1):
            if stop < len(pieces) and _inside_word(numbers, stop):
                continue  # ... and ends at the end of one
            said: list[str] = []
            for k in range(start, stop):
                if _inside_word(numbers, k) and said:
                    said[-1] += pieces[k]
                else:
                    said.append(pieces[k])
            if _split(" ".join(said)) == wanted:
                found.append(range(start, stop))
                break
            if sum(map(len, said)) > sum(map(len, wanted)):
                break
    if not wanted or not found:
        raise TargetError(f"{text!r} is not in the answer; its tokens are: {shown}")
    return _make_target(layout, found[0], (1, len(found)))


def _split(text: str) -> list[str]:
    """Return words and punctuation marks, without case: "a cup." and "a cup ." are the same."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def _inside_word(numbers: IntArray, index: int) -> bool:
    """Whether a generated token continues the word of the one before it."""
    return index > 0 and bool(numbers[index] >= 0 and numbers[index] == numbers[index - 1])


@dataclass(frozen=True)
class Units:
    """The smallest things that can be masked: each is a set of positions of one modality.

    Attributes
    ----------
    members : tuple of tuple of int
        Positions of each unit, ascending; units are disjoint and sorted by first position.
    modality : tuple of str
        Modality of each unit.
    """

    members: tuple[tuple[int, ...], ...]
    modality: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.members)

    def keep_without(self, subsets: Sequence[Iterable[int]], n_positions: int) -> BoolArray:
        """Return masks (len(subsets), n_positions): True but for the members of each subset."""
        keep = np.ones((len(subsets), n_positions), dtype=np.bool_)
        for row, subset in enumerate(subsets):
            for unit in subset:
                keep[row, list(self.members[unit])] = False
        return keep

    def unit_of(self) -> dict[int, int]:
        """Return the unit of each position that belongs to one."""
        return {p: unit for unit, members in enumerate(self.members) for p in members}

    def of_nodes(self, nodes: Iterable[tuple[int, ...]]) -> tuple[int | None, ...]:
        """Return for each node, given by its positions, the unit it stands for; None: no unit."""
        unit_of = self.unit_of()
        return tuple(next((unit_of[p] for p in node if p in unit_of), None) for node in nodes)

    def positions(self, subset: Iterable[int]) -> tuple[int, ...]:
        """Return all positions of a subset of units, ascending."""
        return tuple(sorted(p for unit in subset for p in self.members[unit]))


def candidate_units(
    layout: TokenLayout,
    target: Target,
    *,
    candidates: str | Sequence[int] = "all",
    pool: int = 1,
) -> Units:
    """Return the units that may explain a target: everything before it but the frame.

    The frame is never a candidate: special and template tokens, and the position that predicts
    the target, which cannot be left out of the sequence.

    Parameters
    ----------
    layout : TokenLayout
    target : Target
    candidates : {"all", "image", "text"} or sequence of int
        Which positions may be masked.
    pool : int
        Image tokens are masked in blocks of pool x pool cells.

    Returns
    -------
    Units

    Raises
    ------
    TargetError
        If a listed position is no candidate (part of the frame, the predicting row, or at or
        after the target).
    ValueError
        If `candidates` is an unknown word or `pool` is not positive.
    """
    whole_number("pool", pool, 1)
    allowed = [
        p for p in range(target.start) if layout.modality[p] != "special" and p != target.predictor
    ]
    if isinstance(candidates, str):
        check_choice("candidates (unless positions)", candidates, ("all", "image", "text"))
        chosen = [
            p
            for p in allowed
            if candidates == "all" or (layout.modality[p] == "image") == (candidates == "image")
        ]
    else:
        chosen = sorted({int(p) for p in candidates})
        refused = [p for p in chosen if p not in set(allowed)]
        if refused:
            raise TargetError(
                f"positions {refused} cannot be masked for the target {target.text!r} at "
                f"{target.start}: a candidate stands before it, is no special or template token "
                f"and is not the predicting position {target.predictor}"
            )
    blocks: dict[tuple[int, ...], list[int]] = {}
    for p in chosen:
        cell = layout.patch_cell(p) if pool > 1 else None
        key = (1, p) if cell is None else (0, cell[0], cell[1] // pool, cell[2] // pool)
        blocks.setdefault(key, []).append(p)
    members = sorted(tuple(sorted(block)) for block in blocks.values())
    return Units(
        members=tuple(members), modality=tuple(str(layout.modality[m[0]]) for m in members)
    )
