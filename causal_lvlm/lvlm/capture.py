"""Attention of the teacher-forced pass: one forward, one layer's weights in memory at a time.

1. One forward over prompt and answer keeps queries, keys and values of the layers asked for; for
   the last layer it is the self-check's, so that its attention costs no pass of its own.
2. Weights are rebuilt from them in float32, layer by layer, by the module's own eager function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from causal_lvlm.arrays import Float32Array
from causal_lvlm.errors import CaptureError
from causal_lvlm.lvlm.attention_function import (
    AttentionCall,
    Recorder,
    fill_weights,
    recording,
)
from causal_lvlm.lvlm.parts import Parts
from causal_lvlm.lvlm.prepared import Prepared

__all__ = [
    "capture_attention",
    "capture_head_outputs",
    "capture_head_values",
    "iter_attention",
    "keep_calls",
]

# Queries, keys, values and outputs (T, d) of the last layer, for as long as their trace lives.
_kept: WeakKeyDictionary[Prepared, tuple[Parts, dict[int, AttentionCall]]] = WeakKeyDictionary()


def keep_calls(prepared: Prepared, calls: Mapping[int, AttentionCall]) -> None:
    """Keep what the self-check's pass recorded, so that capture need not run the model again."""
    _kept[prepared] = prepared.lvlm.parts, dict(calls)


def record_calls(prepared: Prepared, layers: Sequence[int]) -> dict[int, AttentionCall]:
    """Return the attention calls of the layers asked for, from one run over the whole sequence."""
    lvlm = prepared.lvlm
    modules = lvlm.attention_modules
    parts, kept = _kept.get(prepared, (lvlm.parts, {}))
    if set(layers) <= set(kept) and parts is lvlm.parts:
        return {layer: kept[layer] for layer in layers}
    wanted = {id(modules[layer]): layer for layer in layers}
    recorder = Recorder(record=True, modules=frozenset(wanted))
    embeds = prepared.embeds
    with lvlm.session(), recording(recorder), torch.no_grad():
        prepared.logits(embeds, prepared.positions, 1)
    calls = {wanted[id(call.module)]: call for call in recorder.calls}
    missing = sorted(set(layers) - set(calls))
    if missing:
        raise CaptureError(f"layers {missing} did not call the attention function")
    return calls


def _to_numpy(weights: torch.Tensor) -> Float32Array:
    array: Float32Array = np.ascontiguousarray(weights[0].cpu().numpy(), dtype=np.float32)
    array.setflags(write=False)
    return array


def _rebuilt(
    prepared: Prepared, calls: Mapping[int, AttentionCall], layers: Sequence[int]
) -> Float32Array:
    """Return float32 (L, H, T, T) of recorded calls, read-only."""
    heads, length = calls[layers[0]].query.shape[1:3]
    weights = np.empty((len(layers), heads, length, length), dtype=np.float32)
    with prepared.lvlm.session():
        for number, index in enumerate(layers):
            fill_weights(calls[index], weights[number])
    weights.setflags(write=False)
    return weights


def capture_attention(prepared: Prepared, layers: Any = (-1,)) -> Float32Array:
    """Return float32 (L, H, T, T) for the layers asked for, in their order."""
    indices = prepared.lvlm.layer_indices(layers)
    return _rebuilt(prepared, record_calls(prepared, indices), indices)


def iter_attention(prepared: Prepared) -> Iterator[tuple[int, Float32Array]]:
    """Yield (layer, float32 (H, T, T)) for every layer, ascending."""
    n_layers = len(prepared.lvlm.attention_modules)
    calls = record_calls(prepared, range(n_layers))
    for layer in range(n_layers):
        weights = _rebuilt(prepared, calls, [layer])[0]
        del calls[layer]
        yield layer, weights


def capture_head_outputs(prepared: Prepared, layer: int = -1) -> Float32Array:
    """Return the output of each head before the output projection, float32 (H, T, d)."""
    index = prepared.lvlm.layer_indices(layer)[0]
    call = record_calls(prepared, [index])[index]
    return _to_numpy(call.output.float().transpose(1, 2))


def capture_head_values(prepared: Prepared, layer: int = -1) -> Float32Array:
    """Return the values of each head, float32 (H, T, d); shared ones are repeated per head."""
    index = prepared.lvlm.layer_indices(layer)[0]
    call = record_calls(prepared, [index])[index]
    repeats = call.query.shape[1] // call.value.shape[1]
    return _to_numpy(call.value.float().repeat_interleave(repeats, dim=1))
