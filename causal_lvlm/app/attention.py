"""Attention of the answer's tokens, kept small enough for a server with many pages open.

Of the attention of every layer and head only the rows that predict answer tokens are kept: they
say where the model looked when it chose each token (answer to image), and read the other way round
which tokens of the answer looked at a patch (image to answer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import Float32Array, FloatArray
from causal_lvlm.tokens import TokenLayout

if TYPE_CHECKING:
    from causal_lvlm.lvlm import Trace

__all__ = ["AnswerAttention", "answer_attention"]

_MAX_BYTES = 200_000_000


@dataclass(frozen=True)
class AnswerAttention:
    """Attention rows that predict the tokens of an answer.

    Attributes
    ----------
    rows : ndarray of float16 or float32, shape (L, H, G, T)
        ``rows[l, h, g]`` is the row that predicts generated token g.
    layout : TokenLayout
    """

    rows: Any
    layout: TokenLayout

    @property
    def n_layers(self) -> int:
        """Number of attention layers."""
        return int(self.rows.shape[0])

    @property
    def n_heads(self) -> int:
        """Number of heads in each layer."""
        return int(self.rows.shape[1])

    def row(self, token: int, layer: int, head: int | None) -> FloatArray:
        """Return the row of one token, float64 (T,); the mean over heads if `head` is None."""
        rows = np.asarray(self.rows[layer, :, token], dtype=np.float64)
        found: FloatArray = rows.mean(axis=0) if head is None else rows[head]
        return found

    def grid(self, token: int) -> FloatArray:
        """Return how much of a token's attention lies on the image, float64 (L, H)."""
        image = self.layout.positions("image")
        rows = np.asarray(self.rows[:, :, token], dtype=np.float64)
        total: FloatArray = rows[:, :, image].sum(axis=2)
        return total

    def looked_at(self, positions: tuple[int, ...], layer: int, head: int | None) -> FloatArray:
        """Return how much each answer token looked at some positions, float64 (G,)."""
        rows = np.asarray(self.rows[layer][:, :, list(positions)], dtype=np.float64).sum(axis=2)
        found: FloatArray = rows.mean(axis=0) if head is None else rows[head]
        return found


def answer_attention(trace: Trace, step: Callable[[str, int, int], None]) -> AnswerAttention:
    """Capture the rows of every layer, one layer in memory at a time.

    Parameters
    ----------
    trace : Trace
    step : callable
        Called as ``step(what, done, total)`` before each layer.

    Raises
    ------
    ValueError
        If the rows of one token alone would take more memory than the server gives.
    """
    layout = trace.layout
    first, last = layout.n_prompt - 1, len(layout) - 1
    kept: list[Float32Array] = []
    n_layers = int(trace.n_layers)
    for layer, weights in trace.iter_attention():
        step("reading attention", layer, n_layers)
        rows = weights[:, first:last]
        if n_layers * rows.nbytes > 2 * _MAX_BYTES:
            raise ValueError(
                f"the attention of {rows.shape[1]} answer tokens in {n_layers} layers takes more "
                "memory than this server gives; ask for a shorter answer"
            )
        kept.append(rows.astype(np.float16 if n_layers * rows.nbytes > _MAX_BYTES else np.float32))
    return AnswerAttention(np.stack(kept), layout)
