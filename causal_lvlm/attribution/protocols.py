"""What the relevancy methods need of a trace; `causal_lvlm.lvlm` provides it, tests may fake it.

Everything is numpy: this room never sees a tensor, so that it needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from causal_lvlm.arrays import Float32Array, IntArray
from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["BackwardLike", "LayerGradientLike", "TraceLike"]


class LayerGradientLike(Protocol):
    """One layer's attention and the gradient of the target's score with respect to it."""

    @property
    def layer(self) -> int:
        """Number of the layer, counted from 0."""

    @property
    def attention(self) -> Float32Array:
        """Attention weights (n_heads, N, N); rows are queries and sum to 1."""

    @property
    def gradient(self) -> Float32Array:
        """Gradient (n_heads, N, N) of the score with respect to `attention`."""


class BackwardLike(Protocol):
    """One forward and one backward pass for the sum of the target tokens' scores."""

    def language(self) -> Iterator[LayerGradientLike]:
        """Yield the language model's layers, last layer first; N = T."""

    def vision(self) -> Iterator[LayerGradientLike]:
        """Yield the vision tower's used layers, last layer first; N = Tv."""


class TraceLike(Protocol):
    """The part of a trace that relevancy methods use."""

    @property
    def layout(self) -> TokenLayout:
        """What stands at each of the T positions."""

    @property
    def vision_positions(self) -> IntArray:
        """For each of Tv vision-tower tokens the position its feature ends at; -1: nowhere."""

    @property
    def model_id(self) -> str:
        """Name or path of the model."""

    @property
    def revision(self) -> str | None:
        """Revision of the model, where it has one."""

    def attention(self, layers: tuple[int, ...] = (-1,)) -> Float32Array:
        """Return attention weights (n_layers, n_heads, T, T) of the chosen layers."""

    def iter_attention(self) -> Iterable[tuple[int, Float32Array]]:
        """Yield (layer, weights (n_heads, T, T)), first layer first, from one forward pass."""

    def backward(
        self, target: Target, *, score: Any = "logit", vision: bool = False, against: Any = None
    ) -> BackwardLike:
        """Run one teacher-forced forward pass and one backward pass."""
