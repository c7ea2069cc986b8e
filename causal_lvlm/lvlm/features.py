"""Inside the layers: hidden states, what the head reads in them, and gradients there.

1. Hidden states leave through a hook on a layer. The lens puts a layer's output in place of the
   last layer's, so that the model's own norm and head read it.
2. The gradient at a layer's output is taken from a graph that begins there: nothing is kept of the
   layers below.
3. The gradient with respect to a layer's attention weights scaled by a factor needs one backward:
   a head's output is O = A V, so dL/dA = (dL/dO) V^T with O multiplied by the factor; several
   factors are the rows of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import Float32Array, FloatArray, IntArray, frozen
from causal_lvlm.errors import CaptureError, UnsupportedModelError, quoted
from causal_lvlm.lvlm.attention_function import Recorder, head_gradient, recording
from causal_lvlm.lvlm.batches import in_batches, most_rows
from causal_lvlm.lvlm.layers import decoder_layers, layer_index, on_layer_output
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.probes import GRADIENT_ROWS, as_array
from causal_lvlm.lvlm.scores import check_finite, check_score, target_score
from causal_lvlm.tokens import TargetLike

__all__ = ["Featured"]


class Featured(Live):
    """Hidden states of the language model, and gradients there."""

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
        prepared = self.prepared
        lvlm = prepared.lvlm
        module = decoder_layers(lvlm)[layer_index(lvlm, layer)]
        kept: list[torch.Tensor] = []
        with lvlm.session(), torch.no_grad(), on_layer_output(module, kept.append):
            prepared.logits(prepared.embeds, prepared.positions, 1)
        return as_array(_only(kept)[0])

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
        prepared = self.prepared
        lvlm = prepared.lvlm
        layers = decoder_layers(lvlm)
        index = layer_index(lvlm, layer)
        length = len(prepared.layout)
        where = np.asarray(positions, dtype=np.int64).reshape(-1)
        if len(where) and not (0 <= where.min() and where.max() < length):
            raise ValueError(f"positions must be within 0..{length - 1}, got {where.tolist()}")
        ids = [lvlm.token_id(int(i)) for i in np.asarray(token_ids, dtype=np.int64).reshape(-1)]
        kept: list[torch.Tensor] = []

        def instead(_: torch.Tensor) -> torch.Tensor:
            return _only(kept)

        rows = torch.tensor(where, device=lvlm.device)
        last = layers[-1] if index < len(layers) - 1 else None
        with lvlm.session(), torch.no_grad(), on_layer_output(layers[index], kept.append):
            if last is None:
                logits = prepared.logits(prepared.embeds, prepared.positions, rows)
            else:
                with on_layer_output(last, instead):
                    logits = prepared.logits(prepared.embeds, prepared.positions, rows)
        chosen = logits[0][:, torch.tensor(ids, dtype=torch.int64, device=logits.device)].double()
        if not torch.isfinite(chosen).all():
            raise CaptureError(f"the logits read after layer {index} are not finite")
        result: FloatArray = frozen(chosen.cpu().numpy(), np.float64)
        return result

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
        prepared, meant = self.prepared, self.target(target)
        check_score(score)
        if not noise >= 0:
            raise ValueError(
                f"noise must be 0 or more, as a share of the pixels' range, got {noise}"
            )
        lvlm = prepared.lvlm
        other = None if against is None else lvlm.token_id(against)
        module = decoder_layers(lvlm)[layer_index(lvlm, layer)]
        kept: list[torch.Tensor] = []

        def cut(output: torch.Tensor) -> torch.Tensor:
            kept.append(output.detach().requires_grad_(True))
            return kept[-1]

        embeds, context = prepared.embeds, prepared.context
        with lvlm.session():
            if noise:
                with torch.no_grad():
                    embeds, context = lvlm.embed(_noisy(prepared, noise, seed), prepared.token_ids)
            rows = torch.tensor([p - 1 for p in meant.positions], device=lvlm.device)
            with torch.enable_grad(), on_layer_output(module, cut):
                logits = prepared.logits(embeds, prepared.positions, rows, None, context)
                total = target_score(logits.float(), meant.token_ids, score, other).sum()
                features = _only(kept)
                (gradient,) = torch.autograd.grad(total, [features])
        check_finite(gradient, f"features of layer {layer}")
        return as_array(features[0]), as_array(gradient[0])

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
        prepared, meant = self.prepared, self.target(target)
        check_score(score)
        lvlm = prepared.lvlm
        factors = np.asarray(alphas, dtype=np.float64).reshape(-1)
        if not len(factors) or not np.isfinite(factors).all():
            raise ValueError(f"alphas must be one or more finite numbers, got {quoted(alphas)}")
        module = lvlm.attention_modules[lvlm.layer_indices(layer)[0]]
        other = None if against is None else lvlm.token_id(against)
        stop, n_target = meant.positions[-1], len(meant.positions)
        length = len(prepared.layout)
        total: Any = None

        def differentiate(chosen: IntArray) -> None:
            nonlocal total
            factor = torch.tensor(factors[chosen], device=lvlm.device)[:, None, None, None]
            recorder = Recorder(record=True, modules=frozenset([id(module)]))
            recorder.unmasked = lvlm.cross_attention
            # The graph begins here, as nothing below is asked about.
            recorder.outputs[id(module)] = lambda output: (
                (output * factor.to(output)).detach().requires_grad_(True)
            )
            embeds = prepared.embeds[:, :stop].expand(len(chosen), -1, -1)
            with recording(recorder):
                logits = prepared.logits(embeds, prepared.positions[:, :stop], n_target)
            if not recorder.calls:
                raise CaptureError(f"layer {layer} did not call the attention function")
            call = recorder.calls[0]
            scores = target_score(logits.float(), meant.token_ids, score, other)
            (gradient,) = torch.autograd.grad(scores.sum(), [call.output])
            check_finite(gradient, f"attention of layer {layer}")
            # Values do not depend on the factor, so gradients are added up before they meet them.
            call.value = call.value[:1].detach()
            found = head_gradient(call, gradient.float().sum(dim=0, keepdim=True))[0].double()
            total = found if total is None else total + found

        most = min(most_rows(prepared, None, stop, n_target), GRADIENT_ROWS)
        with lvlm.session(), torch.enable_grad():
            in_batches(len(factors), most, differentiate, prepared)
        mean = np.zeros((len(total), length, length), dtype=np.float32)
        mean[:, :stop, :stop] = (total / len(factors)).cpu().numpy()
        mean.setflags(write=False)
        return mean


def _noisy(prepared: Prepared, noise: float, seed: int) -> dict[str, torch.Tensor]:
    """Return the model's inputs with Gaussian noise on the pixels, relative to their range."""
    generator = torch.Generator().manual_seed(seed)
    inputs, found = dict(prepared.inputs), False
    for name, value in sorted(inputs.items()):
        if name.startswith("pixel_values") and value.is_floating_point():
            spread = noise * float(value.max() - value.min())
            drawn = torch.randn(value.shape, generator=generator) * spread
            inputs[name] = value + drawn.to(value)
            found = True
    if not found:
        raise UnsupportedModelError("there are no pixels to add noise to; use noise=0")
    return inputs


def _only(kept: Sequence[torch.Tensor]) -> torch.Tensor:
    if not kept:
        raise CaptureError("the layer asked for was never called")
    return kept[-1]
