"""What the relevancy methods need of a trace; `causal_lvlm.lvlm` provides it, tests may fake it.

Everything is numpy: this room never sees a tensor, so that it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from causal_lvlm.arrays import Float32Array, FloatArray, IntArray
from causal_lvlm.tokens import Target, TokenLayout

__all__ = [
    "BackwardLike",
    "EmbeddingTraceLike",
    "FeatureTraceLike",
    "LayerGradientLike",
    "LayerTensorsLike",
    "ScaledTraceLike",
    "TraceLike",
]


class LayerGradientLike(Protocol):
    """One layer's attention and the gradient of the target's score with respect to it."""

    @property
    def layer(self) -> int:
        """Number of the layer, counted from 0."""

    # A layer may also offer ``blocks(gradient=True)``, which yields (rows, attention, gradient) of
    # some rows at a time, (n_heads, r, k) over the first k positions: see
    # `causal_lvlm.lvlm.LayerGradient`. Where it does, `causal_lvlm.composition` reads that.

    @property
    def attention(self) -> Float32Array:
        """Attention weights (n_heads, N, N); rows are queries and sum to 1."""

    @property
    def gradient(self) -> Float32Array:
        """Gradient (n_heads, N, N) of the score with respect to `attention`."""


class LayerTensorsLike(Protocol):
    """What the heads of one layer were given and returned; all float32 (n_heads, N, d)."""

    @property
    def layer(self) -> int:
        """Number of the layer, counted from 0."""

    @property
    def query(self) -> Float32Array:
        """Queries as they meet the keys (rotated)."""

    @property
    def key(self) -> Float32Array:
        """Keys, repeated for every head that shares them."""

    @property
    def output(self) -> Float32Array:
        """A V of each head."""

    @property
    def output_gradient(self) -> Float32Array:
        """Gradient of the target's score with respect to `output`."""


class BackwardLike(Protocol):
    """One forward and one backward pass for the sum of the target tokens' scores."""

    @property
    def input_x_gradient(self) -> FloatArray:
        """Inner product of each merged embedding with its gradient, float64 (T,)."""

    def language(self) -> Iterator[LayerGradientLike]:
        """Yield the language model's layers, last layer first; N = T."""

    def tensors(self) -> Iterator[LayerTensorsLike]:
        """Yield queries, keys and outputs of the same layers in the same order as `language`."""

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


class EmbeddingTraceLike(TraceLike, Protocol):
    """A trace that takes other embeddings; used by the methods of `embeddings`."""

    def embeddings(self) -> Float32Array:
        """Return merged embeddings, float32 (T, D)."""

    def baseline_embeddings(self, kind: str = "zero", *, frame: bool = False) -> Float32Array:
        """Return what stands for nothing at each position, float32 (T, D)."""

    def embedding_gradient(
        self,
        rows: Callable[[int], Float32Array],
        target: Target,
        *,
        score: str = "logit",
        against: int | str | None = None,
        n_rows: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[FloatArray, Float32Array]:
        """Return scores (K,) and their gradients (K, T, D)."""

    def evaluate(self, keep: Any, target: Target) -> Any:
        """Evaluate the target under masks (K, T)."""

    def token_id(self, text: str) -> int:
        """Return the id of a word's first token."""


class FeatureTraceLike(TraceLike, Protocol):
    """A trace that differentiates what leaves a decoder layer; used by Grad-CAM."""

    @property
    def images(self) -> Sequence[Any]:
        """The original pictures."""

    @property
    def n_layers(self) -> int:
        """Number of layers of the language model."""

    def feature_gradient(
        self,
        target: Target,
        layer: int = -1,
        *,
        score: str = "logit",
        against: int | str | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> tuple[Float32Array, Float32Array]:
        """Return a layer's output and the gradient there, float32 (T, D) each."""


class ScaledTraceLike(TraceLike, Protocol):
    """A trace that differentiates scaled attention; used by AttAttr."""

    @property
    def n_layers(self) -> int:
        """Number of layers of the language model."""

    def scaled_attention_gradient(
        self,
        target: Target,
        layer: int,
        alphas: Sequence[float],
        *,
        score: str = "prob",
        against: int | str | None = None,
    ) -> Float32Array:
        """Return the mean over alphas of the gradient at alpha * A, float32 (H, T, T)."""

    def evaluate_heads(self, ablate: Any, target: Target, *, source: str = "zero") -> Any:
        """Evaluate the target with heads (K, L, H) silenced."""
