"""What one forward and one backward pass say about the positions before a target.

All that a search wants to know before anything is masked is taken from one reading of the layers,
last layer first, block by block: the matrix a correlation is made from
(`causal_lvlm.composition`), and what candidates can be ordered by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from causal_lvlm.arrays import AnyArray, FloatArray
from causal_lvlm.composition import compose_layer, layer_blocks
from causal_lvlm.protocols import Differentiates, LayerGradientLike
from causal_lvlm.source_options import SPANNING
from causal_lvlm.tokens import Target

__all__ = ["Orders", "TargetPass"]


@dataclass(frozen=True)
class Orders:
    """What the positions before a target can be ordered by; each float64 (T,).

    Attributes
    ----------
    attended
        Attention of the predicting row, mean over heads, sum over layers.
    composed
        The predicting row of attention composed over layers (rollout): a row of
        `causal_lvlm.sources.effective_attention`, as vector times matrices.
    gradient_norm
        Norm of the target's gradient at each embedding.
    input_x_gradient
        Inner product of each embedding and that gradient.
    """

    attended: FloatArray
    composed: FloatArray
    gradient_norm: FloatArray
    input_x_gradient: FloatArray


@dataclass
class TargetPass:
    """One pass for a target, made when something is asked of it for the first time.

    Parameters
    ----------
    trace : Trace
    target : Target
    source : str
        ``"influence"`` or ``"relevancy"`` if that matrix is wanted too; anything else if not.

    Attributes
    ----------
    made : bool
        Whether the pass was made.
    """

    trace: Differentiates
    target: Target
    source: str = ""
    made: bool = field(default=False, init=False)
    _matrix: FloatArray | None = field(default=None, init=False, repr=False)

    def take_matrix(self) -> FloatArray:
        """Return the matrix asked for, float64 (T, T), and keep no copy: once only."""
        _ = self.orders
        matrix, self._matrix = self._matrix, None
        if matrix is None:
            raise RuntimeError("the matrix was not asked for, or was taken already")
        return matrix

    @cached_property
    def orders(self) -> Orders:
        """What the positions can be ordered by; the pass is made here."""
        backward = self.trace.backward(self.target)
        self.made = True
        length = len(self.trace.layout)
        rows = _Rows(length, self.target.predictor)
        matrix = np.eye(length) if self.source in SPANNING else None
        for layer in backward.language():
            n_heads = 0
            for part, attention in self._layer(layer, matrix):
                n_heads = len(attention)
                rows.see(part, attention)
            rows.end_layer(n_heads)
        self._matrix = matrix
        norm, product = backward.gradient_norm, backward.input_x_gradient
        return Orders(rows.attended, rows.composed, np.asarray(norm), np.asarray(product))

    def _layer(
        self, layer: LayerGradientLike, matrix: FloatArray | None
    ) -> Iterator[tuple[slice, AnyArray]]:
        """Yield a layer's attention block by block, composing the matrix on the way."""
        if matrix is not None:
            yield from compose_layer(matrix, layer, self.source, "language model")
            return
        for part, attention, _ in layer_blocks(layer, gradient=False):
            yield part, attention


class _Rows:
    """The predicting row of each layer's attention, and of their composition, block by block."""

    def __init__(self, length: int, row: int) -> None:
        self._row = row
        self.attended: FloatArray = np.zeros(length)
        self.composed: FloatArray = np.zeros(length)
        self.composed[row] = 1.0
        self._passed: FloatArray = np.zeros(length)

    def see(self, part: slice, attention: AnyArray) -> None:
        """Take in one block of the layer that is read."""
        if part.start <= self._row < part.stop:
            mean = attention[:, self._row - part.start].mean(axis=0, dtype=np.float64)
            self.attended[: len(mean)] += mean
        weight = self.composed[part]
        if weight.any():
            for one in attention:
                self._passed[: one.shape[1]] += weight @ np.asarray(one, dtype=np.float64)

    def end_layer(self, n_heads: int) -> None:
        """Mix what the layer passed on with the residual path, half and half."""
        self.composed = 0.5 * self.composed + 0.5 * self._passed / n_heads
        self._passed = np.zeros(len(self._passed))
