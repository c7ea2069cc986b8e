"""Attention of the teacher-forced pass: one forward, one layer's weights in memory at a time.

1. One forward over prompt and answer keeps queries, keys and values of the layers asked for; for
   the last layer it is the self-check's, so that its attention costs no pass of its own.
2. Weights are rebuilt from them in float32, layer by layer, by the module's own eager function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["Attends"]


class Attends(Live):
    """Attention of the teacher-forced pass, and what each head read and put out."""

    @property
    def n_layers(self) -> int:
        """Number of self-attention layers of the language model."""
        return len(self.model.attention_modules)

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """What each attention layer looks at: ``full``, or ``window`` (sliding or in chunks)."""
        return self.model.attention_kinds

    @property
    def global_layer(self) -> int:
        """The last attention layer that looks at the whole sequence.

        Raises
        ------
        IndexError
            If there is none.
        """
        return self.model.layer_indices("global")[0]

    def layer_indices(self, layers: int | str | Sequence[int | str]) -> list[int]:
        """Turn layer numbers, negative ones counted from the end, into indices.

        Parameters
        ----------
        layers : int, "global", or sequence of them
            As in `attention`.

        Raises
        ------
        IndexError
            If there is no such layer.
        """
        return self.model.layer_indices(layers)

    def layer_remark(self, layer: int) -> str | None:
        """Say so if a layer looks at a window of the sequence only; None if it sees all of it.

        Parameters
        ----------
        layer : int or str
            As in `attention`.
        """
        return self.model.layer_remark(layer)

    def attention(self, layers: int | str | Sequence[int | str] = (-1,)) -> Float32Array:
        """Return attention weights of the teacher-forced pass.

        Parameters
        ----------
        layers : int, "global", or sequence of them
            Negative numbers count from the last attention layer; ``"global"`` is the last one that
            looks at the whole sequence (see `attention_kinds`).

        Returns
        -------
        ndarray of float32, shape (L, H, T, T)
            Rows are queries and sum to 1 (to less where the model has learned sinks, which take
            the rest); read-only.
        """
        prepared = self.prepared
        indices = prepared.lvlm.layer_indices(layers)
        return _rebuilt(prepared, record_calls(prepared, indices), indices)

    def iter_attention(self) -> Iterator[tuple[int, Float32Array]]:
        """Yield (layer, weights (H, T, T)) of all layers, ascending; one in memory at a time."""
        return _layer_by_layer(self.prepared)

    def head_outputs(self, layer: int = -1) -> Float32Array:
        """Return A V of each head before the output projection, float32 (H, T, d_head)."""
        prepared = self.prepared
        index = prepared.lvlm.layer_indices(layer)[0]
        call = record_calls(prepared, [index])[index]
        return _to_numpy(call.output.float().transpose(1, 2))

    def head_values(self, layer: int = -1) -> Float32Array:
        """Return V of each head, float32 (H, T, d_head): ``attention @ values`` is the output."""
        prepared = self.prepared
        index = prepared.lvlm.layer_indices(layer)[0]
        call = record_calls(prepared, [index])[index]
        repeats = call.query.shape[1] // call.value.shape[1]
        return _to_numpy(call.value.float().repeat_interleave(repeats, dim=1))


def record_calls(prepared: Prepared, layers: Sequence[int]) -> dict[int, AttentionCall]:
    """Return the attention calls of the layers asked for, from one run over the whole sequence."""
    lvlm = prepared.lvlm
    modules = lvlm.attention_modules
    kept = prepared.kept_calls
    if set(layers) <= set(kept):
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


def _layer_by_layer(prepared: Prepared) -> Iterator[tuple[int, Float32Array]]:
    n_layers = len(prepared.lvlm.attention_modules)
    calls = record_calls(prepared, range(n_layers))
    for layer in range(n_layers):
        weights = _rebuilt(prepared, calls, [layer])[0]
        del calls[layer]
        yield layer, weights
