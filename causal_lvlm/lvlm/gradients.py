"""Gradient of a target's score with respect to every attention weight, without keeping them.

1. One teacher-forced forward with scaled-dot-product attention; each layer's queries, keys, values
   and head outputs O are kept.
2. One backward from the sum of the target tokens' scores at their predicting rows to all the O and
   to the merged embeddings.
3. Per layer, when asked for: A is rebuilt from queries and keys, and since O = A V per head,
   dL/dA = (dL/dO) V^T.

That is O(T d) memory per layer and one layer of (H, T, T) at a time; keeping every layer's
attention for ``retain_grad`` takes several times more. Used by the relevancy of Chefer, Gur and
Wolf (ICCV 2021, arXiv:2103.15679, eq. 5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from causal_lvlm.arrays import Float32Array, FloatArray, IntArray, frozen
from causal_lvlm.errors import CaptureError, UnsupportedModelError
from causal_lvlm.lvlm.attention_function import (
    AttentionCall,
    Recorder,
    fill_weights,
    head_gradient,
    per_query_head,
    recording,
    weight_blocks,
)
from causal_lvlm.lvlm.facts import Facts
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.scores import check_score, target_score
from causal_lvlm.results import LayerTensors
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["BackwardPass", "Differentiates", "LayerGradient"]


class LayerGradient:
    """Attention of one layer and the gradient of the target's score with respect to it.

    Both are rebuilt when they are asked for, as a whole or some rows at a time.

    Parameters
    ----------
    layer : int
    call : AttentionCall
    output_gradient : Tensor, shape (1, T, H, d)
    n_rows : int
        Rows that the score can depend on; the gradient of all others is zero.
    lvlm : Facts

    Attributes
    ----------
    layer : int
        Number of the layer.
    """

    def __init__(
        self,
        layer: int,
        call: AttentionCall,
        output_gradient: torch.Tensor,
        n_rows: int,
        lvlm: Facts,
    ) -> None:
        self.layer = layer
        self._call = call
        self._output_gradient = output_gradient
        used = output_gradient[0].flatten(1).any(dim=1).nonzero()
        self._n_rows = max(n_rows, int(used[-1]) + 1 if len(used) else 0)
        self._lvlm = lvlm

    @cached_property
    def attention(self) -> Float32Array:
        """Attention weights, float32 (H, T, T)."""
        _, length, n_heads = self._output_gradient.shape[:3]
        weights = np.empty((n_heads, length, self._call.key.shape[2]), dtype=np.float32)
        with self._lvlm.session():
            fill_weights(self._call, weights)
        weights.setflags(write=False)
        return weights

    @cached_property
    def gradient(self) -> Float32Array:
        """Gradient with respect to each of them, float32 (H, T, T)."""
        with self._lvlm.session():
            found = head_gradient(self._call, self._output_gradient)[0]
        return frozen(found.cpu().numpy(), np.float32)

    def blocks(
        self, *, gradient: bool = True
    ) -> Iterator[tuple[slice, Float32Array, Float32Array | None]]:
        """Yield (rows, attention (H, r, k), its gradient), for rows that the score depends on.

        What lies behind the first k positions is zero. Without `gradient` None stands for it.
        """
        blocks = weight_blocks(self._call, self._n_rows)
        while True:
            with self._lvlm.session():  # ended before anything is handed over
                found = next(blocks, None)
                if found is None:
                    return
                rows, weights = found
                part = None
                if gradient:
                    part = head_gradient(
                        self._call, self._output_gradient[:, rows], weights.shape[-1]
                    )[0]
            yield rows, weights.cpu().numpy(), None if part is None else part.cpu().numpy()

    def tensors(self) -> LayerTensors:
        """Return what the heads were given and returned; nothing of size (T, T) is made."""
        call, n_heads = self._call, self._call.query.shape[1]
        parts = (
            call.query,
            per_query_head(call.key, n_heads),
            per_query_head(call.value, n_heads),
            call.output.transpose(1, 2),
            self._output_gradient.transpose(1, 2),
        )
        arrays = (frozen(part[0].float().cpu().numpy(), np.float32) for part in parts)
        return LayerTensors(self.layer, *arrays)


class BackwardPass:
    """One forward and one backward for a target.

    Parameters
    ----------
    prepared : Prepared
    target : Target
    score : {"logit", "log_prob", "prob", "margin"}
        What is differentiated; see `target_score`.
    vision : bool
        Whether to go on into the vision tower.
    against : int or str, optional
        Another token, whose score at the first predicting row is subtracted.

    Attributes
    ----------
    score : float
        Value that was differentiated.
    input_x_gradient : ndarray of float64, shape (T,)
        Inner product of each merged embedding with its gradient.
    gradient_norm : ndarray of float64, shape (T,)
        Euclidean norm of each merged embedding's gradient.

    Raises
    ------
    ValueError
        If `score` is unknown.
    CaptureError
        If a layer of the language model did not call the attention function, or a gradient is not
        finite.
    """

    def __init__(
        self,
        prepared: Prepared,
        target: Target,
        *,
        score: str = "logit",
        vision: bool = False,
        against: int | str | None = None,
    ) -> None:
        check_score(score)
        lvlm = prepared.lvlm
        self._lvlm = lvlm
        self._has_vision = vision
        other = None if against is None else lvlm.token_id(against)
        modules = {id(m): i for i, m in enumerate(lvlm.attention_modules)}
        recorder = Recorder(record=True)
        with lvlm.session(tower=vision), recording(recorder), torch.enable_grad():
            embeds = self._embeds(prepared, vision)
            n_vision = len(recorder.calls)
            rows = torch.tensor([p - 1 for p in target.positions], device=lvlm.device)
            first = int(rows[0])
            logits = prepared.logits(embeds, prepared.positions, len(prepared.layout) - first)
            logits = logits[:, rows - first].float()
            total = target_score(logits, target.token_ids, score, other)[0]
            outputs = [call.output for call in recorder.calls]
            gradients = torch.autograd.grad(total, [embeds, *outputs], allow_unused=True)
        self.score = float(total.detach())
        embeds_gradient = gradients[0].detach().double()
        if not torch.isfinite(embeds_gradient).all():
            raise CaptureError("the gradient of the target's score is not finite")
        product = (embeds_gradient * embeds.detach().double()).sum(dim=-1)[0]
        self.input_x_gradient: FloatArray = frozen(product.cpu().numpy(), np.float64)
        norm = embeds_gradient.norm(dim=-1)[0]
        self.gradient_norm: FloatArray = frozen(norm.cpu().numpy(), np.float64)
        self._language: list[LayerGradient] = []
        self._vision: list[LayerGradient] = []
        for number, (call, gradient) in enumerate(zip(recorder.calls, gradients[1:], strict=True)):
            if gradient is None:  # a layer whose output nothing uses
                continue
            bare, found = _detached(call), gradient.detach()
            if number < n_vision:
                n_rows = found.shape[1]
                self._vision.append(LayerGradient(number, bare, found, n_rows, lvlm))
            elif id(call.module) in modules:  # not one that looks at the image (Mllama)
                index, n_rows = modules[id(call.module)], target.positions[-1]
                self._language.append(LayerGradient(index, bare, found, n_rows, lvlm))
        if not self._language:
            raise CaptureError(
                f"no gradient came back through the language model of {lvlm.model_id!r}; some "
                "quantised weights have none on some devices (4 bits on a CPU, for one): use a "
                "method without gradients, or load the model unquantised"
            )

    @staticmethod
    def _embeds(prepared: Prepared, vision: bool) -> torch.Tensor:
        """Return merged embeddings that gradients reach, from the pixels on if asked for."""
        if not vision:
            return prepared.embeds.detach().clone().requires_grad_(True)
        lvlm = prepared.lvlm
        inputs = {
            name: value.detach().clone().requires_grad_(value.is_floating_point())
            for name, value in prepared.inputs.items()
        }
        return lvlm.embed(inputs, prepared.token_ids)[0]

    def language(self) -> Iterator[LayerGradient]:
        """Yield attention and gradient of the language model's layers, the last layer first."""
        for layer in reversed(self._language):
            yield copy(layer)  # what it keeps is freed with it

    def tensors(self) -> Iterator[LayerTensors]:
        """Yield what each layer's heads were given and returned, the last layer first.

        Keys and values that several heads share are repeated, so that all have H heads. Nothing of
        size (T, T) is made.
        """
        for layer in reversed(self._language):
            yield layer.tensors()

    def vision(self) -> Iterator[LayerGradient]:
        """Yield the same for the vision tower, (H, Tv, Tv) with the class token, last used first.

        Raises
        ------
        ValueError
            If the pass was made with ``vision=False``.
        """
        if not self._has_vision:
            raise ValueError("this pass did not reach the tower; ask for backward(vision=True)")
        for layer in reversed(self._vision):
            yield copy(layer)  # what it keeps is freed with it


def _detached(call: AttentionCall) -> AttentionCall:
    """Return the call without its graph, so that the forward's memory is freed."""
    names = ("query", "key", "value", "output")
    return replace(call, **{name: getattr(call, name).detach() for name in names})


class Differentiates(Live):
    """The target's score, differentiated with respect to attention."""

    def backward(
        self,
        target: TargetLike,
        *,
        score: str = "logit",
        vision: bool = False,
        against: int | str | None = None,
    ) -> BackwardPass:
        """Differentiate the target's score with respect to every attention weight.

        See `BackwardPass`.
        """
        return BackwardPass(
            self.prepared, self.target(target), score=score, vision=vision, against=against
        )

    @property
    def vision_positions(self) -> IntArray:
        """Sequence position of each vision-tower token's feature, int64 (Tv,); -1 for none.

        Raises
        ------
        UnsupportedModelError
            If the family's tower tokens are not mapped one by one.
        """
        lvlm = self.model
        if lvlm.family.tower_positions is None:
            raise UnsupportedModelError(
                f"tokens of the vision tower of {lvlm.family.name} are not mapped to image "
                "tokens; use a method that stays in the language model"
            )
        return lvlm.family.tower_positions(lvlm.model, self.layout.positions("image"))
