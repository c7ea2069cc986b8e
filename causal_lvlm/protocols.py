"""The one seam: what may be asked of a model about one question and its answer.

`causal_lvlm.lvlm.Trace` offers all of it, and nothing inside `causal_lvlm.structure`,
`causal_lvlm.attribution`, `causal_lvlm.explanation` or `causal_lvlm.metrics` knows more of a model
than stands here. All of it takes and returns numpy, so those rooms need no torch. `TraceLike` is
put together from small parts; what needs one part asks for that part, and a fake in a test has no
more than it.

=================  ===============================================================================
`Recorded`         what was asked and answered: tokens, pictures, the model's name
`Speaks`           tokens of the vocabulary as text and back
`Attends`          attention of the teacher-forced pass, and what each head read
`Masks`            the target again, with tokens masked
`Cuts`             the target again, with edges between tokens cut
`Differentiates`   attention and the gradient of the target's score with respect to it
`Regenerates`      the answer again, with tokens masked or edges cut
`Embeds`           the target again, given other embeddings; gradients there
`Featured`         hidden states, and gradients there
`Flows`            what each position adds to each other, layer by layer
`Headed`           the target again, with the outputs of some heads replaced
`Propagates`       relevance of the embeddings, by the rules of layer-wise propagation
=================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from PIL import Image

from causal_lvlm.arrays import AnyArray, BoolArray, Float32Array, FloatArray, IntArray
from causal_lvlm.edges import Cut, Edges
from causal_lvlm.results import (
    EmbeddingEvaluation,
    Evaluation,
    LayerTensors,
    Regenerated,
    Relevance,
    Rules,
    SelfCheck,
)
from causal_lvlm.tokens import TargetLike, TokenLayout

__all__ = [
    "BACKENDS",
    "MASKINGS",
    "Attends",
    "BackwardLike",
    "Cuts",
    "Differentiates",
    "Embeds",
    "Featured",
    "Flows",
    "HasLayout",
    "Headed",
    "LayerGradientLike",
    "LayersLike",
    "Masks",
    "ModelLike",
    "Propagates",
    "Recorded",
    "Regenerates",
    "Rows",
    "Speaks",
    "TraceLike",
]

MASKINGS = ("remove", "edges", "neutral", "pixels-blur", "pixels-mean")
"""Interventions of `Masks.evaluate`."""

BACKENDS = ("auto", "drop", "block")
"""How ``remove`` is computed."""

Rows: TypeAlias = "Float32Array | FloatArray | Callable[[int], Float32Array | FloatArray]"
"""Embeddings (K, T, D), or a function of the row's index that returns one (T, D)."""


class LayerGradientLike(Protocol):
    """One layer's attention and the gradient of the target's score with respect to it.

    A layer may also offer ``blocks(gradient=True)``, which yields (rows, attention, gradient) of
    some rows at a time, (H, r, k) over the first k positions: see `causal_lvlm.lvlm.LayerGradient`.
    Where it does, `causal_lvlm.composition` reads that.
    """

    @property
    def layer(self) -> int:
        """Number of the layer, counted from 0."""

    @property
    def attention(self) -> AnyArray:
        """Attention weights (H, N, N); rows are queries and sum to 1."""

    @property
    def gradient(self) -> AnyArray:
        """Gradient (H, N, N) of the score with respect to `attention`."""


class LayersLike(Protocol):
    """Layers of one backward pass; what is composed needs no more."""

    def language(self) -> Iterator[LayerGradientLike]:
        """Yield the language model's layers, last layer first; N = T."""


class BackwardLike(LayersLike, Protocol):
    """One forward and one backward pass for the sum of the target tokens' scores."""

    @property
    def input_x_gradient(self) -> FloatArray:
        """Inner product of each merged embedding with its gradient, float64 (T,)."""

    @property
    def gradient_norm(self) -> FloatArray:
        """Euclidean norm of each merged embedding's gradient, float64 (T,)."""

    def tensors(self) -> Iterator[LayerTensors]:
        """Yield queries, keys and outputs of the same layers in the same order as `language`."""

    def vision(self) -> Iterator[LayerGradientLike]:
        """Yield the vision tower's used layers, last layer first; N = Tv."""


class HasLayout(Protocol):
    """What stands in the sequence."""

    @property
    def layout(self) -> TokenLayout:
        """What stands at each of the T positions."""


class Recorded(HasLayout, Protocol):
    """What was asked, what was answered, and by which model; see `causal_lvlm.record`."""

    @property
    def prompt(self) -> str:
        """What the model saw, before image tokens were expanded."""

    @property
    def answer(self) -> str:
        """What it said."""

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The original pictures, upright, in the order of the prompt."""

    @property
    def log_probs(self) -> FloatArray:
        """Log-probability of each generated token when it was generated, float64 (G,)."""

    @property
    def self_check(self) -> SelfCheck | None:
        """Whether a teacher-forced pass says the same as the generation did; None: not known."""

    @property
    def model_id(self) -> str:
        """Name or path of the model."""

    @property
    def revision(self) -> str | None:
        """Revision of the model, where it has one."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Arguments of the run."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader should know about how it was asked, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Return all that is recorded as plain values."""


class Speaks(Protocol):
    """Tokens of the vocabulary as text and back."""

    def token_id(self, text: int | str, /) -> int:
        """Return the id of the first token of a word, as the model would generate it."""

    def token_text(self, token_id: int, /) -> str:
        """Return the text of any token of the vocabulary."""


class Attends(HasLayout, Protocol):
    """Attention of the teacher-forced pass; float32, or float64 where it was changed."""

    @property
    def n_layers(self) -> int:
        """Number of self-attention layers of the language model."""

    @property
    def global_layer(self) -> int:
        """The last attention layer that looks at the whole sequence; IndexError without one."""

    def layer_remark(self, layer: int, /) -> str | None:
        """Say so if a layer looks at a window of the sequence only; None if it sees all of it."""

    def attention(self, layers: int | str | Sequence[int | str] = (-1,)) -> AnyArray:
        """Return attention weights (L, H, T, T) of the chosen layers."""

    def iter_attention(self) -> Iterator[tuple[int, AnyArray]]:
        """Yield (layer, weights (H, T, T)), first layer first, from one forward pass."""

    def head_values(self, layer: int = -1) -> AnyArray:
        """Return V of each head (H, T, d): ``attention @ values`` is its output."""


class Masks(Protocol):
    """The target again, with tokens masked."""

    def evaluate(
        self,
        keep: BoolArray,
        target: TargetLike,
        *,
        masking: str = "remove",
        backend: str = "auto",
        against: int | str | None = None,
        batch_size: int | None = None,
        max_memory: int | str | None = None,
    ) -> Evaluation:
        """Evaluate the target under masks (K, T)."""


class Cuts(Protocol):
    """The target again, with edges cut."""

    def layer_indices(self, layers: int | str | Sequence[int | str], /) -> list[int]:
        """Turn layer numbers, negative ones counted from the end, into indices."""

    def edges(self, target: TargetLike) -> Edges:
        """Return the edges that may be cut for a target."""

    def evaluate_edges(
        self,
        cuts: Cut | Sequence[Cut],
        target: TargetLike,
        *,
        kind: str = "mask",
        layers: int | str | Sequence[int | str] | None = None,
        heads: Sequence[int] | None = None,
        against: int | str | None = None,
        rivals: Sequence[int] | None = None,
        backend: str = "auto",
        batch_size: int | None = None,
        max_memory: int | str | None = None,
    ) -> Evaluation:
        """Evaluate the target with edges cut, one row for each cut."""


class Differentiates(HasLayout, Protocol):
    """The target's score, differentiated with respect to attention."""

    @property
    def vision_positions(self) -> IntArray:
        """For each of Tv vision-tower tokens the position its feature ends at; -1: nowhere."""

    def backward(
        self,
        target: TargetLike,
        *,
        score: str = "logit",
        vision: bool = False,
        against: int | str | None = None,
    ) -> BackwardLike:
        """Run one teacher-forced forward pass and one backward pass."""


class Embeds(Protocol):
    """The target again, given other embeddings."""

    def embeddings(self) -> Float32Array:
        """Return merged embeddings, float32 (T, D)."""

    def token_embeddings(self, ids: Sequence[int]) -> Float32Array:
        """Return the embeddings of tokens of the vocabulary, float32 (n, D)."""

    def baseline_embeddings(self, kind: str = "zero", *, frame: bool = False) -> Float32Array:
        """Return what stands for nothing at each position, float32 (T, D)."""

    def evaluate_embeddings(
        self,
        rows: Rows,
        target: TargetLike,
        *,
        n_rows: int | None = None,
        against: int | str | None = None,
        distribution: bool = False,
        batch_size: int | None = None,
    ) -> EmbeddingEvaluation:
        """Evaluate the target given other embeddings, row by row."""

    def embedding_gradient(
        self,
        rows: Rows,
        target: TargetLike,
        *,
        score: str = "logit",
        against: int | str | None = None,
        n_rows: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[FloatArray, Float32Array]:
        """Return scores (K,) and their gradients (K, T, D)."""


class Featured(Protocol):
    """Hidden states of the language model, and gradients there."""

    def hidden_states(self, layer: int = -1) -> Float32Array:
        """Return what leaves a decoder layer, float32 (T, D)."""

    def lens(
        self, positions: Sequence[int], token_ids: Sequence[int], layer: int = -1
    ) -> FloatArray:
        """Return logits of some tokens, read at some positions after a layer, (n_pos, n_ids)."""

    def feature_gradient(
        self,
        target: TargetLike,
        layer: int = -1,
        *,
        score: str = "logit",
        against: int | str | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> tuple[Float32Array, Float32Array]:
        """Return a layer's output and the gradient there, float32 (T, D) each."""

    def scaled_attention_gradient(
        self,
        target: TargetLike,
        layer: int,
        alphas: Sequence[float],
        *,
        score: str = "prob",
        against: int | str | None = None,
    ) -> Float32Array:
        """Return the mean over alphas of the gradient at alpha * A, float32 (H, T, T)."""


class Flows(Protocol):
    """What each position adds to each other, layer by layer."""

    def iter_flow(self, target: TargetLike) -> Iterator[tuple[int, FloatArray, FloatArray]]:
        """Yield layer, importance of sources (stop, stop), of the stream (stop,); last first."""


class Headed(Protocol):
    """The target again, with the outputs of some heads replaced."""

    def evaluate_heads(
        self,
        ablate: BoolArray,
        target: TargetLike,
        *,
        source: str = "zero",
        keep: BoolArray | None = None,
        base: str = "clean",
        masking: str = "remove",
        against: int | str | None = None,
        batch_size: int | None = None,
    ) -> Evaluation:
        """Evaluate the target with heads (K, L, H) silenced."""


class Propagates(Embeds, Protocol):
    """Relevance of the embeddings, by the rules of layer-wise propagation."""

    def propagate(
        self,
        target: TargetLike,
        rules: Rules,
        *,
        against: int | str | None = None,
        baseline: Float32Array | None = None,
    ) -> Relevance:
        """Propagate the target's logits back to the merged embeddings."""


class Regenerates(Protocol):
    """The answer again, with tokens masked or edges cut."""

    def regenerate(
        self,
        target: TargetLike,
        *,
        mask: Iterable[int] | None = None,
        cuts: Cut | None = None,
        masking: str = "remove",
        start: int | None = None,
        max_new_tokens: int | None = None,
    ) -> Regenerated:
        """Say what the model would have said instead of the target, and after it."""


class TraceLike(
    Recorded,
    Speaks,
    Attends,
    Masks,
    Cuts,
    Differentiates,
    Featured,
    Flows,
    Headed,
    Propagates,
    Regenerates,
    Protocol,
):
    """All that may be asked; `causal_lvlm.lvlm.Trace` offers it."""

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """What each layer looks at: ``full`` for the whole sequence, ``window`` for a part."""

    @property
    def model(self) -> ModelLike:
        """The model that is asked."""

    def on(self, model: Any, check: bool = False) -> TraceLike:
        """Return a trace of the same sequence, asked of another model."""

    def blocked(self, positions: Iterable[int]) -> TraceLike:
        """Return a trace in which no other row sees these positions, in any layer."""


class ModelLike(Protocol):
    """What is asked of a model itself: another question, and a copy without what it learned."""

    @property
    def model_id(self) -> str:
        """Name or path of the model."""

    def run(
        self,
        image: Any,
        prompt: Any,
        *,
        max_new_tokens: int = 64,
        chat_template: bool | None = None,
    ) -> TraceLike:
        """Ask about images, or about text alone."""

    def fingerprint(self) -> str:
        """Return a hash of the weights."""

    def ordinary_tokens(self) -> IntArray:
        """Return the ids of all tokens but special ones and the image's."""

    def peak_memory(self) -> AbstractContextManager[Any]:
        """Return what measures, as ``bytes``, the most memory that a block takes."""

    def randomised(self, n_layers: int, *, seed: int, head: bool = True) -> ModelLike:
        """Return a copy whose upper decoder layers are re-initialised."""
