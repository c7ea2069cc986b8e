"""Verbs of a trace that put embeddings in or look inside; see `probes`, `features`, `heads`.

They stand beside `Trace`, which inherits them, only because there are many. All take and return
numpy, leave nothing on the model, and may be called from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from causal_lvlm.arrays import BoolArray, Float32Array, FloatArray
from causal_lvlm.results import EmbeddingEvaluation, Evaluation
from causal_lvlm.tokens import Target, TargetLike

if TYPE_CHECKING:
    from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["ProbeVerbs"]

Rows: TypeAlias = "Float32Array | FloatArray | Callable[[int], Float32Array | FloatArray]"


class ProbeVerbs:
    """What `Trace` can do beside attention, gradients of it, and masking."""

    @property
    def prepared(self) -> Prepared:
        """The sequence ready to run again."""
        raise NotImplementedError

    def target(self, target: TargetLike) -> Target:
        """Find the generated tokens meant."""
        raise NotImplementedError

    # -- embeddings ---------------------------------------------------------------------------

    def embeddings(self) -> Float32Array:
        """Return what enters the language model, float32 (T, D): image features are in place.

        D includes what some families add in deeper layers, behind the embedding proper.
        """
        from causal_lvlm.lvlm.probes import embeddings

        return embeddings(self.prepared)

    def token_embeddings(self, ids: Sequence[int]) -> Float32Array:
        """Return the embeddings the model would give these tokens here, float32 (n, D).

        What a family adds in deeper layers is zero.

        Raises
        ------
        ValueError
            If an id is outside the vocabulary.
        """
        from causal_lvlm.lvlm.probes import token_embeddings

        return token_embeddings(self.prepared, ids)

    def baseline_embeddings(self, kind: str = "zero", *, frame: bool = False) -> Float32Array:
        """Return embeddings that stand for "nothing", float32 (T, D).

        Parameters
        ----------
        kind : {"zero", "mean", "pad", "blur"}
            ``zero``: all zeros. ``mean``: the mean image feature of this sequence for image tokens,
            the mean embedding of the vocabulary for text. ``pad``: text is the padding token (the
            end token where there is none), image tokens as in ``mean``. ``blur``: image tokens
            are those of the blurred image, as ``pixels-blur`` blurs it; text as in ``mean``.
        frame : bool
            Whether special and template tokens are replaced too; they keep their own otherwise.

        Raises
        ------
        ValueError
            If `kind` is unknown.
        UnsupportedModelError
            If there is no padding or end token; for ``blur``, if the image does not enter through
            embeddings.
        """
        from causal_lvlm.lvlm.probes import baseline_embeddings

        return baseline_embeddings(self.prepared, kind, frame=frame)

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
        """Ask the model for the target again, given other embeddings.

        Parameters
        ----------
        rows : ndarray (K, T, D), or callable
            As `embeddings` returns them. A function of the row's index returns one (T, D), so that
            not all need to exist at once; it may be asked for a row again.
        target : TargetLike
        n_rows : int, optional
            K, needed with a function.
        against : int or str, optional
            Another token whose log-probability is wanted at the first predicting row.
        distribution : bool
            Whether to return probabilities of the whole vocabulary.
        batch_size : int, optional
            Most rows in one call.

        Raises
        ------
        ValueError
            If a row has another shape.
        AttentionError
            If the model's logits are not a number.
        ModelMemoryError
            If memory runs out with a single row.
        """
        from causal_lvlm.lvlm.probes import evaluate_embeddings

        return evaluate_embeddings(
            self.prepared,
            rows,
            self.target(target),
            n_rows=n_rows,
            against=against,
            distribution=distribution,
            batch_size=batch_size,
        )

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
        """Differentiate the target's score with respect to embeddings, row by row.

        Parameters
        ----------
        rows, n_rows, batch_size
            As in `evaluate_embeddings`.
        target : TargetLike
        score : {"logit", "log_prob", "prob"}
            Sum over the target's tokens; ``prob`` is the probability of the whole target.
        against : int or str, optional
            Another token, whose score at the first predicting row is subtracted.

        Returns
        -------
        (ndarray of float64, shape (K,); ndarray of float32, shape (K, T, D))
            Scores and gradients; the latter are zero after the last predicting row.

        Raises
        ------
        CaptureError
            If a gradient is not finite.
        """
        from causal_lvlm.lvlm.probes import embedding_gradient

        return embedding_gradient(
            self.prepared,
            rows,
            self.target(target),
            score=score,
            against=against,
            n_rows=n_rows,
            batch_size=batch_size,
        )

    # -- hidden states ------------------------------------------------------------------------

    def hidden_states(self, layer: int = -1) -> Float32Array:
        """Return what leaves a decoder layer, float32 (T, D); -1: the last, before the final norm.

        Layers are all those of the language model, with self-attention or without; what a family
        adds to image tokens after a layer is not in it yet.

        Raises
        ------
        IndexError
            If there is no such layer.
        UnsupportedModelError
            If the layers do not stand in one list.
        """
        from causal_lvlm.lvlm.features import hidden_states

        return hidden_states(self.prepared, layer)

    def lens(
        self, positions: Sequence[int], token_ids: Sequence[int], layer: int = -1
    ) -> FloatArray:
        """Return the logits of some tokens, read at some positions after a layer.

        The model's own norm and head read what the layer put out (the "logit lens"; for image
        positions after the last layer, the activation maps of arXiv:2506.23270).

        Parameters
        ----------
        positions, token_ids : sequence of int
        layer : int
            As in `hidden_states`.

        Returns
        -------
        ndarray of float64, shape (n_pos, n_ids)
        """
        from causal_lvlm.lvlm.features import lens

        return lens(self.prepared, positions, token_ids, layer)

    # -- gradients ----------------------------------------------------------------------------

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
        """Return a decoder layer's output and the score's gradient there, float32 (T, D) each.

        Parameters
        ----------
        target : TargetLike
        layer : int
            As in `hidden_states`.
        score, against
            As in `embedding_gradient`.
        noise : float
            Standard deviation of Gaussian noise on the pixels the vision tower gets, as a share of
            their range (largest minus smallest).
        seed : int
            Of the noise.

        Raises
        ------
        UnsupportedModelError
            If noise is asked for and there are no pixels.
        CaptureError
            If a gradient is not finite.
        """
        from causal_lvlm.lvlm.features import feature_gradient

        return feature_gradient(
            self.prepared,
            self.target(target),
            layer,
            score=score,
            against=against,
            noise=noise,
            seed=seed,
        )

    def scaled_attention_gradient(
        self,
        target: TargetLike,
        layer: int,
        alphas: Sequence[float],
        *,
        score: str = "prob",
        against: int | str | None = None,
    ) -> Float32Array:
        """Return the mean over alphas of the gradient at scaled attention, float32 (H, T, T).

        All heads of one layer are scaled together: each head puts out alpha A V, and the gradient
        is with respect to alpha A, as attribution by attention asks for (Hao et al., AAAI 2021,
        arXiv:2004.11207, method section). Rows and columns after the last predicting row are zero.

        Parameters
        ----------
        target : TargetLike
        layer : int
            Number of an attention layer, as in `Trace.attention`.
        alphas : sequence of float
        score, against
            As in `embedding_gradient`.
        """
        from causal_lvlm.lvlm.features import scaled_attention_gradient

        return scaled_attention_gradient(
            self.prepared, self.target(target), layer, alphas, score=score, against=against
        )

    # -- heads --------------------------------------------------------------------------------

    def head_outputs(self, layer: int = -1) -> Float32Array:
        """Return A V of each head before the output projection, float32 (H, T, d_head)."""
        from causal_lvlm.lvlm.capture import capture_head_outputs

        return capture_head_outputs(self.prepared, layer)

    def head_values(self, layer: int = -1) -> Float32Array:
        """Return V of each head, float32 (H, T, d_head): ``attention @ values`` is the output."""
        from causal_lvlm.lvlm.capture import capture_head_values

        return capture_head_values(self.prepared, layer)

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
        """Ask for the target again with the outputs of some heads replaced, at all positions.

        See `causal_lvlm.lvlm.heads.evaluate_heads`.
        """
        from causal_lvlm.lvlm.heads import evaluate_heads

        return evaluate_heads(
            self.prepared,
            np.asarray(ablate),
            self.target(target),
            source=source,
            keep=keep,
            base=base,
            masking=masking,
            against=against,
            batch_size=batch_size,
        )
