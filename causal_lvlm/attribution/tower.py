"""Which vision-tower token ends at which position of the sequence."""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.protocols import TraceLike

__all__ = ["TowerMap"]


class TowerMap:
    """Carries relevancy between the image positions of the sequence and the tokens of the tower.

    Where several tower tokens are merged into one image token, what reaches that token is split
    equally among them (a modelling choice), and what they receive is summed.

    Parameters
    ----------
    trace : Trace
        With exactly one picture: a tower encodes several as a batch, each alone.

    Attributes
    ----------
    image : ndarray of int64
        Positions at which some tower token ends, ascending.

    Raises
    ------
    UnsupportedModelError
        If there is no picture or several, or the family's tower is not mapped to positions.
    """

    def __init__(self, trace: TraceLike) -> None:
        pictures = {grid.image for grid in trace.layout.grids}
        if len(pictures) != 1:
            raise UnsupportedModelError(
                f"relevancy through the vision tower is computed for one picture, and this trace "
                f"has {len(pictures)} in its layout; use 'relevancy', which stays in the language "
                "model"
            )
        self._length = len(trace.layout)
        self._positions = np.asarray(trace.vision_positions, dtype=np.int64)
        self._used = np.flatnonzero(self._positions >= 0)
        self._model_id = trace.model_id
        self.image, counts = np.unique(self._positions[self._used], return_counts=True)
        self._share = np.zeros(self._length)
        self._share[self.image] = 1.0 / counts

    @property
    def class_token(self) -> int:
        """Index of the tower's class token: the one token that ends at no position."""
        unused = np.flatnonzero(self._positions < 0)
        if len(unused) != 1:
            raise UnsupportedModelError(
                f"the vision tower of {self._model_id} has {len(unused)} tokens outside the image, "
                "but one class token is needed; use 'relevancy-chain' or 'relevancy' instead"
            )
        return int(unused[0])

    def class_row(self, method: str) -> FloatArray:
        """Return e_cls, shape (1, Tv).

        Raises
        ------
        UnsupportedModelError
            If the tower has no class token, or several; `method` is named in the message.
        """
        try:
            index = self.class_token
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{method} cannot be computed: {error}") from None
        row = np.zeros((1, len(self._positions)))
        row[0, index] = 1.0
        return row

    def from_positions(self, rows: FloatArray) -> FloatArray:
        """Turn rows over positions (n, T) into rows over tower tokens (n, Tv)."""
        result = np.zeros((len(rows), len(self._positions)))
        ends = self._positions[self._used]
        result[:, self._used] = rows[:, ends] * self._share[ends]
        return result

    def to_positions(self, rows: FloatArray) -> FloatArray:
        """Turn rows over tower tokens (n, Tv) into rows over positions (n, T)."""
        result = np.zeros((len(rows), self._length))
        np.add.at(result.T, self._positions[self._used], rows[:, self._used].T)
        return result
