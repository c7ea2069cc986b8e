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
from causal_lvlm.lvlm.gradients import check_score, target_score
from causal_lvlm.lvlm.layers import decoder_layers, layer_index, on_layer_output
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.probes import GRADIENT_ROWS, as_array, check_finite, in_batches, most_rows
from causal_lvlm.tokens import Target

__all__ = ["feature_gradient", "hidden_states", "lens", "scaled_attention_gradient"]


def hidden_states(prepared: Prepared, layer: int = -1) -> Float32Array:
    """Return what leaves a decoder layer, float32 (T, D); see `Trace.hidden_states`."""
    lvlm = prepared.lvlm
    module = decoder_layers(lvlm)[layer_index(lvlm, layer)]
    kept: list[torch.Tensor] = []
    with lvlm.session(), torch.no_grad(), on_layer_output(module, kept.append):
        prepared.logits(prepared.embeds, prepared.positions, 1)
    return as_array(_only(kept)[0])


def lens(
    prepared: Prepared, positions: Sequence[int], token_ids: Sequence[int], layer: int = -1
) -> FloatArray:
    """Return logits the head reads at any position, float64 (n_pos, n_ids); see `Trace.lens`."""
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
    prepared: Prepared,
    target: Target,
    layer: int = -1,
    *,
    score: str = "logit",
    against: int | str | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[Float32Array, Float32Array]:
    """Return a layer's output and the gradient there; see `Trace.feature_gradient`."""
    check_score(score)
    if not noise >= 0:
        raise ValueError(f"noise must be 0 or more, as a share of the pixels' range, got {noise}")
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
        rows = torch.tensor([p - 1 for p in target.positions], device=lvlm.device)
        with torch.enable_grad(), on_layer_output(module, cut):
            logits = prepared.logits(embeds, prepared.positions, rows, None, context)
            total = target_score(logits.float(), target.token_ids, score, other).sum()
            features = _only(kept)
            (gradient,) = torch.autograd.grad(total, [features])
    check_finite(gradient, f"features of layer {layer}")
    return as_array(features[0]), as_array(gradient[0])


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


def scaled_attention_gradient(
    prepared: Prepared,
    target: Target,
    layer: int,
    alphas: Sequence[float],
    *,
    score: str = "prob",
    against: int | str | None = None,
) -> Float32Array:
    """Return a mean gradient of scaled attention; see `Trace.scaled_attention_gradient`."""
    check_score(score)
    lvlm = prepared.lvlm
    factors = np.asarray(alphas, dtype=np.float64).reshape(-1)
    if not len(factors) or not np.isfinite(factors).all():
        raise ValueError(f"alphas must be one or more finite numbers, got {quoted(alphas)}")
    module = lvlm.attention_modules[lvlm.layer_indices(layer)[0]]
    other = None if against is None else lvlm.token_id(against)
    stop, n_target = target.positions[-1], len(target.positions)
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
        scores = target_score(logits.float(), target.token_ids, score, other)
        (gradient,) = torch.autograd.grad(scores.sum(), [call.output])
        check_finite(gradient, f"attention of layer {layer}")
        # Values do not depend on the factor, so gradients may be added up before they meet them.
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


def _only(kept: Sequence[torch.Tensor]) -> torch.Tensor:
    if not kept:
        raise CaptureError("the layer asked for was never called")
    return kept[-1]
