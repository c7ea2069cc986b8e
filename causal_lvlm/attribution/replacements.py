"""Rows of embeddings in which units hold something plausible instead of their own.

A text token is replaced by the embedding of another token of the vocabulary, an image token by the
feature of another image token of the same image. Which one is decided by numbers in [0, 1) that the
caller draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import BoolArray, Float32Array, FloatArray, IntArray
from causal_lvlm.checks import whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.results import EmbeddingEvaluation
from causal_lvlm.tokens import Target, TokenLayout, Units

__all__ = ["Replacements"]


@dataclass
class Replacements:
    """Rows of embeddings in which some positions hold something else.

    Attributes
    ----------
    trace, target, units
    vocabulary : sequence of int, optional
        Tokens that may replace one of the text; by default all but special tokens.
    batch_size : int, optional
        Most rows in one call of the model.
    runs : int
        Rows that the model evaluated.
    n_drawn : int
        Positions that are in a unit: so many numbers choose what stands in a row.
    """

    trace: TraceLike
    target: Target
    units: Units
    vocabulary: Sequence[int] | None
    batch_size: int | None
    runs: int = 0

    def __post_init__(self) -> None:
        """Look up what may stand at each position of a unit."""
        layout = self.trace.layout
        self.n_positions = len(layout)
        self.own = np.asarray(self.trace.embeddings(), dtype=np.float32)
        self.drawn = np.array([p for m in self.units.members for p in m], dtype=np.int64)
        self.n_drawn = len(self.drawn)
        self.is_text = layout.modality[self.drawn] != "image"
        self.others = {int(p): _same_image(layout, int(p)) for p in self.drawn[~self.is_text]}
        needed = bool(self.is_text.any())
        if self.vocabulary is not None:
            self.pool = np.array([whole_number("vocabulary", i, 0) for i in self.vocabulary], int)
        else:
            self.pool = self.trace.model.ordinary_tokens() if needed else np.zeros(0, np.int64)
        if needed and not len(self.pool):
            raise ValueError("vocabulary is empty, so that no text token can be replaced")
        self._member = np.zeros((len(self.units), self.n_positions), dtype=np.bool_)
        for unit, members in enumerate(self.units.members):
            self._member[unit, list(members)] = True

    def positions_of(self, chosen: BoolArray) -> BoolArray:
        """Return the positions (K, T) of sets of units (K, U)."""
        return np.asarray(chosen.astype(np.float32) @ self._member.astype(np.float32) > 0)

    def probability(self, replaced: BoolArray, draws: FloatArray) -> FloatArray:
        """Return the probability of the whole target in each row, float64 (K,)."""
        found = self._evaluate(replaced, draws, False)
        return np.asarray(np.exp(np.asarray(found.token_log_probs, np.float64).sum(axis=1)))

    def among_first(self, replaced: BoolArray, draws: FloatArray, top_k: int) -> BoolArray:
        """Return whether each target token is among the first choices, bool (K,)."""
        found = self._evaluate(replaced, draws, top_k > 1)
        wanted = np.asarray(self.target.token_ids)
        if top_k == 1:
            return np.asarray((found.argmax == wanted).all(axis=1))
        chances = np.asarray(found.distributions)
        own = np.take_along_axis(
            chances, np.broadcast_to(wanted[None, :, None], (len(chances), len(wanted), 1)), axis=2
        )
        return np.asarray(((chances > own).sum(axis=2) < top_k).all(axis=1))

    def _evaluate(
        self, replaced: BoolArray, draws: FloatArray, distribution: bool
    ) -> EmbeddingEvaluation:
        """Evaluate rows; `draws` are numbers in [0, 1) that choose what stands in each position."""
        ids = np.zeros((len(replaced), self.n_drawn), dtype=np.int64)
        table = np.zeros((0, self.own.shape[1]), dtype=np.float32)
        here = replaced[:, self.drawn] & self.is_text
        if here.any():
            numbers = (draws[here] * len(self.pool)).astype(np.int64)
            used, ids[here] = np.unique(self.pool[numbers], return_inverse=True)
            table = np.asarray(self.trace.token_embeddings(used.tolist()), dtype=np.float32)

        def row(index: int) -> Float32Array:
            values = self.own.copy()
            for number in np.flatnonzero(replaced[index, self.drawn]):
                position = int(self.drawn[number])
                if self.is_text[number]:
                    values[position] = table[ids[index, number]]
                else:
                    others = self.others[position]
                    values[position] = self.own[others[int(draws[index, number] * len(others))]]
            return values

        self.runs += len(replaced)
        return self.trace.evaluate_embeddings(
            row,
            self.target,
            n_rows=len(replaced),
            distribution=distribution,
            batch_size=self.batch_size,
        )


def _same_image(layout: TokenLayout, position: int) -> IntArray:
    """Return the other image tokens of the same image (of all images, for one outside grids)."""
    cell = layout.patch_cell(position)
    if cell is None:
        found = layout.positions("image")
    else:
        image = layout.grids[cell[0]].image
        found = np.concatenate([g.positions for g in layout.grids if g.image == image])
    others: IntArray = found[found != position]
    return others if len(others) else np.array([position], dtype=np.int64)
