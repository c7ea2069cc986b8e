"""What each source adds to the residual stream of each row, layer by layer.

In a layer, attention leaves at row j the sum y_j of what the stream held, x_j, and of what each
head h brought from each source i, A[h, j, i] W_O^h v_i^h (and a bias, which is nobody's). How much
of y a part z makes up is its proximity (Ferrando & Voita, EMNLP 2024, arXiv:2403.00824):

    prox(z, y) = max(|y|_1 - |y - z|_1, 0),     importance(z) = prox(z, y) / sum of all parts' prox

1. One forward pass keeps x, and queries, keys and values of each layer. Hooks see whether the layer
   does what is written above: the output projection reads the heads' outputs as they are, and
   something in the layer reads exactly x plus its result. Where a norm, a factor or a gate stands
   between, or the MLP runs beside attention, the parts do not sum to y, and that is refused.
2. The last layer first, weights are rebuilt some rows at a time, and importance is summed over
   heads: (T, T) numbers and one layer's values through its projection, (H, T, D), in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.attention_function import (
    AttentionCall,
    Recorder,
    per_query_head,
    recording,
    weight_blocks,
)
from causal_lvlm.lvlm.layers import decoder_layers
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.tokens import TargetLike

__all__ = ["Flows"]

_CHUNK = 4 << 20  # numbers of one difference y - z at a time


class Flows(Live):
    """What each position adds to each other, layer by layer."""

    def iter_flow(self, target: TargetLike) -> Iterator[tuple[int, FloatArray, FloatArray]]:
        """Yield what each row up to the target is made of in each layer, last layer first.

        Parameters
        ----------
        target : TargetLike

        Yields
        ------
        layer : int
        sources : ndarray of float64, shape (stop, stop)
            Importance of what row j read from column i, summed over heads; rows up to the last one
            that predicts the target.
        kept : ndarray of float64, shape (stop,)
            Importance of what the residual stream held before; with `sources` it sums to 1.

        Raises
        ------
        UnsupportedModelError
            If some layers mix tokens without attention, or do not add attention's output to the
            residual stream as it is.
        """
        prepared, stop = self.prepared, self.target(target).positions[-1]
        lvlm = prepared.lvlm
        if lvlm.only_drop:
            raise UnsupportedModelError(
                f"some layers of {lvlm.model_id!r} mix tokens without attention, so what flows "
                "through attention is not all that flows"
            )
        parts = _recorded(prepared, stop)
        while parts:
            part = parts.pop()
            with lvlm.session(), torch.no_grad():
                sources, kept = _importance(part)
            yield part.number, sources, kept


@dataclass
class _Layer:
    """One layer's parts, as they are found while the model runs.

    Attributes
    ----------
    number : int
        Of the attention layer.
    stream : Tensor, shape (1, T, D), optional
        What entered the layer.
    call : AttentionCall, optional
    projection : Linear, optional
        What reads the heads' outputs.
    added : Tensor, shape (1, T, D), optional
        What it made of them.
    holds : bool
        Whether something in the layer read the sum of `stream` and `added`.
    """

    number: int
    stream: torch.Tensor | None = None
    call: AttentionCall | None = None
    projection: torch.nn.Linear | None = None
    added: torch.Tensor | None = None
    holds: bool = False


def _recorded(prepared: Prepared, stop: int) -> list[_Layer]:
    """Run the model once and return the parts of its layers, the first one first."""
    lvlm, here = prepared.lvlm, threading.get_ident()
    recorder = Recorder(record=True, modules=frozenset(id(m) for m in lvlm.attention_modules))
    layers = decoder_layers(lvlm)
    found = []
    with ExitStack() as stack:
        for number, attention in enumerate(lvlm.attention_modules):
            part = _Layer(number)
            found.append(part)
            owner = next((one for one in layers if attention in one.modules()), None)
            if owner is None:
                continue  # refused below
            entered = partial(_entered, part, here)
            stack.enter_context(_hooked(owner.register_forward_pre_hook(entered, with_kwargs=True)))
            for child in owner.children():
                read = partial(_read_by, part, here)
                stack.enter_context(
                    _hooked(child.register_forward_pre_hook(read, with_kwargs=True))
                )
            for child in attention.modules():
                if isinstance(child, torch.nn.Linear):
                    put = partial(_projected, part, here, recorder, attention)
                    stack.enter_context(_hooked(child.register_forward_hook(put)))
        with lvlm.session(), recording(recorder), torch.no_grad():
            prepared.logits(prepared.embeds[:, :stop], prepared.positions[:, :stop], 1)
    for part in found:
        if not part.holds:
            raise UnsupportedModelError(
                f"attention layer {part.number} of {lvlm.model_id!r} does not add its output to "
                "the residual stream as it is (a norm, a factor or a gate stands between, or the "
                "MLP runs beside it), or its weights are not at hand as numbers, so what each "
                "source adds cannot be told; use another kind, such as 'attention_gradient'"
            )
    return found


@contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _given(args: Any, kwargs: Any) -> torch.Tensor | None:
    first = args[0] if args else kwargs.get("hidden_states")
    return first if isinstance(first, torch.Tensor) else None


def _entered(part: _Layer, here: int, _: Any, args: Any, kwargs: Any) -> None:
    """Keep what enters the layer."""
    if threading.get_ident() == here:
        part.stream = _given(args, kwargs)


def _projected(
    part: _Layer, here: int, recorder: Recorder, owner: Any, module: Any, args: Any, output: Any
) -> None:
    """Keep the projection, if this module is the one that reads the heads' outputs."""
    if threading.get_ident() != here or not recorder.calls:
        return
    call, given = recorder.calls[-1], args[0]
    if call.module is not owner or given.numel() != call.output.numel():
        return
    # Weights on disk are nowhere after the call; packed ones are no numbers.
    if module.weight.is_meta or not module.weight.is_floating_point():
        return
    if torch.equal(given, call.output.reshape(given.shape)):
        part.call, part.projection, part.added = call, module, output


def _read_by(part: _Layer, here: int, _: Any, args: Any, kwargs: Any) -> None:
    """Note whether a part of the layer reads the sum of the stream and what attention added."""
    given = _given(args, kwargs)
    if threading.get_ident() != here or given is None:
        return
    if part.stream is None or part.added is None or given.numel() != part.stream.numel():
        return
    part.holds |= torch.equal(given.reshape(part.stream.shape), part.stream + part.added)


def _importance(part: _Layer) -> tuple[FloatArray, FloatArray]:
    """Return importance of sources (T, T) and of the residual stream (T,)."""
    assert part.call is not None and part.projection is not None  # checked before
    assert part.stream is not None and part.added is not None
    before = part.stream[0].float()
    after = before + part.added[0].float()
    n_heads = part.call.query.shape[1]
    values = per_query_head(part.call.value, n_heads)[0].float()
    heads = part.projection.weight.float().reshape(len(part.projection.weight), n_heads, -1)
    brought = torch.einsum("htd,ohd->hto", values, heads)
    norm = after.abs().sum(dim=1)
    near = torch.zeros(len(after), len(after), dtype=torch.float64)
    for rows, weights in weight_blocks(part.call):
        seen = weights.shape[2]
        step = max(1, _CHUNK // (seen * after.shape[1]))
        for start in range(rows.start, rows.stop, step):
            some = slice(start, min(start + step, rows.stop))
            inside = slice(some.start - rows.start, some.stop - rows.start)
            for weight, values_of in zip(weights[:, inside], brought[:, :seen], strict=True):
                rest = after[some, None] - weight[..., None] * values_of[None]
                closeness = norm[some, None] - rest.abs().sum(dim=2)
                near[some, :seen] += closeness.clamp(min=0).double().cpu()
    kept = (norm - (after - before).abs().sum(dim=1)).clamp(min=0).double().cpu()
    total = near.sum(dim=1) + kept
    kept[total == 0] = 1.0  # parts that cancel each other: what was there stays
    total[total == 0] = 1.0
    return (near / total[:, None]).numpy(), (kept / total).numpy()
