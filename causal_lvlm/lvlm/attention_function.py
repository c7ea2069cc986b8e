"""One attention function for everything: plain runs, capture, gradients and masking.

A model of transformers looks its attention up by name, in two registries: one for the function,
one for the mask it receives. This module registers one name in both (without the second, masks are
silently ``None``), and `switched` points the language model's configuration at it for a while:

1. Every call computes its output with scaled-dot-product attention, exactly as before; models with
   soft-capped scores or attention sinks use their own eager function.
2. When the calling thread has a `Recorder`, the queries, keys, values, mask and output of each
   call are kept: O(T d) per layer instead of the O(H T^2) of the weights, which `attention_weights`
   rebuilds later, one layer at a time, in float32.
3. When the recorder carries `allowed`, keys are hidden from queries in every layer of the
   language model, which is how a token is removed without touching positions; `hiding` lays one
   more such mask over whatever the thread asked for.
4. When the recorder carries `outputs`, the outputs of single modules are replaced before anything
   else sees them, which is how heads are ablated and attention is scaled.

What is recorded belongs to the thread that asked (a context variable); the switch itself is shared
and reference-counted, so threads may enter and leave in any order.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from causal_lvlm.arrays import BoolArray, Float32Array

__all__ = [
    "NAME",
    "AttentionCall",
    "Recorder",
    "attention_weights",
    "fill_weights",
    "head_gradient",
    "hiding",
    "per_query_head",
    "recording",
    "switched",
    "visible_keys",
    "weight_blocks",
]

NAME = "causal_lvlm"
_BLOCK_BYTES = 4 << 20  # of weights rebuilt at a time


@dataclass
class AttentionCall:
    """Everything one attention module was given, and what it returned.

    Attributes
    ----------
    module : torch.nn.Module
    query : Tensor, shape (B, H, Tq, d)
    key, value : Tensor, shape (B, H_kv, Tk, d)
    mask : Tensor or None
        As received: boolean (True = may look), additive, or None (causal if the module is).
    options : dict
        Scaling and whatever else the module passed.
    output : Tensor, shape (B, Tq, H, d)
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    options: dict[str, Any]
    output: torch.Tensor


@dataclass
class Recorder:
    """What the attention function shall do for the thread that set it.

    Attributes
    ----------
    record : bool
        Whether to keep the calls.
    modules : frozenset of int or None
        ``id`` of the modules to record; None records all that call.
    allowed : Tensor or None
        Boolean (B, 1, Tq, Tk): which keys a query may see, on top of the model's own mask; applied
        to modules that are not in `unmasked`.
    unmasked : frozenset of int
        ``id`` of modules that `allowed` does not concern (the vision tower's).
    unread : Tensor or None
        Boolean (B, 1 or H, Tq, Tk): which keys a query sees without reading their values; of the
        modules that `allowed` would concern.
    outputs : dict of int to callable
        By ``id`` of a module, what is made of its output (B, Tq, H, d).
    calls : list of AttentionCall
        In the order of the calls.
    """

    record: bool = False
    modules: frozenset[int] | None = None
    allowed: torch.Tensor | None = None
    unmasked: frozenset[int] = frozenset()
    unread: torch.Tensor | None = None
    outputs: dict[int, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    calls: list[AttentionCall] = field(default_factory=list)
    _combined: dict[int, tuple[torch.Tensor | None, torch.Tensor]] = field(default_factory=dict)

    def mask_for(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        is_causal: bool | None,
    ) -> torch.Tensor | None:
        """Return the model's mask with `allowed` laid over it (additive, built once per mask)."""
        if self.allowed is None or id(module) in self.unmasked:
            return mask
        # Layers share one mask object, so the sum is built once; keeping the object alive keeps
        # its id from being used again.
        if id(mask) not in self._combined:
            base = _additive_mask(mask, module, query, key, is_causal)
            if base is None:
                base = torch.zeros((), dtype=query.dtype, device=query.device)
            lowest = torch.finfo(query.dtype).min
            blocked = torch.where(self.allowed.to(query.device), base, lowest)
            self._combined[id(mask)] = (mask, blocked)
        return self._combined[id(mask)][1]

    @contextmanager
    def hiding(self, allowed: torch.Tensor, unmasked: frozenset[int]) -> Iterator[None]:
        """Hide more keys until the block ends; see the function of this name."""
        before = self.allowed, self.unmasked
        both = allowed if before[0] is None else before[0].to(allowed.device) & allowed
        self.allowed, self.unmasked = both, before[1] | unmasked
        self._combined.clear()
        try:
            yield
        finally:
            self.allowed, self.unmasked = before
            self._combined.clear()


_recorder: ContextVar[Recorder | None] = ContextVar("causal_lvlm_recorder", default=None)


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Let the attention function serve `recorder` in this thread, until the block ends."""
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


@contextmanager
def hiding(allowed: torch.Tensor, unmasked: frozenset[int]) -> Iterator[None]:
    """Hide keys from queries in this thread, on top of what its recorder hides, until the end.

    Parameters
    ----------
    allowed : Tensor of bool, shape (1 or B, 1, Tq, Tk)
    unmasked : frozenset of int
        ``id`` of modules that this does not concern.
    """
    current = _recorder.get()
    if current is None:
        with recording(Recorder(allowed=allowed, unmasked=unmasked)):
            yield
        return
    with current.hiding(allowed, unmasked):
        yield


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for any model; parameter names are those the models pass by keyword."""
    recorder = _recorder.get()
    mask = attention_mask
    if recorder is not None:
        mask = recorder.mask_for(module, query, key, mask, options.get("is_causal"))
    if options.get("softcap") is not None or options.get("s_aux") is not None:
        output, _ = _eager(module, query, key, value, mask, options)
    else:
        output, _ = sdpa_attention_forward(module, query, key, value, mask, **options)
    if recorder is not None and recorder.unread is not None and id(module) not in recorder.unmasked:
        output = output - _read(module, query, key, value, mask, options, recorder.unread)
    if recorder is not None and id(module) in recorder.outputs:
        output = recorder.outputs[id(module)](output)
    if (
        recorder is not None
        and recorder.record
        and (recorder.modules is None or id(module) in recorder.modules)
    ):
        recorder.calls.append(AttentionCall(module, query, key, value, mask, options, output))
    return output, None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _additive_mask(
    mask: torch.Tensor | None,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    is_causal: bool | None,
) -> torch.Tensor | None:
    """Turn any mask into one that is added to scores; eager functions know no other kind."""
    lowest = torch.finfo(query.dtype).min
    if mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        n_query, n_key = query.shape[2], key.shape[2]
        if not causal or n_query == 1:
            return None
        upper = torch.ones(n_query, n_key, dtype=torch.bool, device=query.device)
        upper = upper.triu(1 + n_key - n_query)
        return torch.zeros_like(upper, dtype=query.dtype).masked_fill_(upper, lowest)[None, None]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, lowest)
    return mask.to(query.dtype)


def _eager(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the eager function of the module's own file: it knows its sinks, caps and groups."""
    options = {**options, "dropout": 0.0}
    if options.get("scaling") is None:
        options["scaling"] = query.shape[-1] ** -0.5
    additive = _additive_mask(mask, module, query, key, options.pop("is_causal", None))
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is not None:
        output, weights = own(module, query, key, value, additive, **options)
        return output, weights
    scores = query @ per_query_head(key, query.shape[1]).transpose(2, 3) * options["scaling"]
    if additive is not None:
        scores = scores + additive
    weights = scores.softmax(dim=-1)
    return (weights @ per_query_head(value, query.shape[1])).transpose(1, 2), weights


def _read(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
    where: torch.Tensor,
) -> torch.Tensor:
    """Return what each query read at some keys, (B, Tq, H, d): sum of A[j, i] v_i over them."""
    rows = where.any(dim=3).any(dim=1).any(dim=0).nonzero()[:, 0]  # only rows that lose something
    additive = _additive_mask(mask, module, query, key, options.get("is_causal"))
    if additive is not None and additive.shape[-2] > 1:
        additive = additive[..., rows, :]
    _, weights = _eager(module, query[:, :, rows], key, value, additive, options)
    lost = (weights * where[:, :, rows]) @ per_query_head(value, query.shape[1])
    found = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
    found[:, rows] = lost.transpose(1, 2).to(found.dtype)
    return found


def visible_keys(call: AttentionCall, length: int) -> BoolArray:
    """Return which keys the rows of a whole sequence may read in some head, bool (T, T)."""
    if call.mask is None:
        causal = call.options.get("is_causal")
        causal = getattr(call.module, "is_causal", True) if causal is None else causal
        return np.tri(length, dtype=np.bool_) if causal else np.ones((length, length), np.bool_)
    mask = call.mask[0].amax(dim=0)[-length:]
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    found: BoolArray = seen.cpu().numpy()
    return found


def per_query_head(tensor: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Repeat key or value heads so that there is one for each query head."""
    groups = n_heads // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


@torch.no_grad()
def attention_weights(call: AttentionCall) -> torch.Tensor:
    """Rebuild the attention weights of a recorded call in float32.

    Returns
    -------
    Tensor, float32, shape (B, H, Tq, Tk)
        Rows sum to 1, except in models with sinks, where the rest went to the sink.
    """
    query, key, value = (t.detach().float() for t in (call.query, call.key, call.value))
    _, weights = _eager(call.module, query, key, value, call.mask, call.options)
    return weights.detach().float()


def weight_blocks(
    call: AttentionCall, n_rows: int | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rebuild what `attention_weights` returns for one sequence, some rows at a time.

    Rows are independent of each other, so the scores, the masked scores and the weights of only a
    few of them exist at once; and where the model is plainly causal, keys behind them are left out.

    Parameters
    ----------
    call : AttentionCall
        Of a batch of one.
    n_rows : int, optional
        How many rows are wanted; by default all Tq.

    Yields
    ------
    rows : slice
    weights : Tensor, float32, shape (H, r, k)
        Weights on the first k keys; those on all other keys are zero.
    """
    with torch.no_grad():
        query, key = call.query.detach().float(), call.key.detach().float()
        value = call.value.detach()[
            ..., :1
        ].float()  # the eager function's own output is not needed
        n_heads, n_query, n_key = *query.shape[1:3], key.shape[2]
        causal = call.options.get("is_causal")
        causal = getattr(call.module, "is_causal", True) if causal is None else causal
    step = max(1, _BLOCK_BYTES // (4 * n_heads * n_key))
    for start in range(0, n_query if n_rows is None else n_rows, step):
        rows = slice(start, min(start + step, n_query))
        # Queries stand at the end of their keys: without a mask row i sees this far.
        seen = n_key - n_query + rows.stop if call.mask is None and causal else n_key
        mask = call.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., rows, :]
        with torch.no_grad():
            _, weights = _eager(
                call.module, query[:, :, rows], key[:, :, :seen], value[:, :, :seen], mask,
                call.options,
            )  # fmt: skip
        yield rows, weights[0].float()


def fill_weights(call: AttentionCall, out: Float32Array) -> None:
    """Write what `attention_weights` returns for one sequence into an array (H, Tq, Tk)."""
    for rows, weights in weight_blocks(call):
        out[:, rows, : weights.shape[-1]] = weights.cpu().numpy()
        out[:, rows, weights.shape[-1] :] = 0.0


@torch.no_grad()
def head_gradient(
    call: AttentionCall, output_gradient: torch.Tensor, n_keys: int | None = None
) -> torch.Tensor:
    """Return the gradient with respect to the attention weights.

    The output of a head is O = A V, hence dL/dA = (dL/dO) V^T: no all-layer attention is needed in
    the forward pass.

    Parameters
    ----------
    call : AttentionCall
    output_gradient : Tensor, shape (B, Tq, H, d)
        Of all rows, or of some of them.
    n_keys : int, optional
        How many keys are wanted, from the first on; by default all.

    Returns
    -------
    Tensor, float32, shape (B, H, Tq, n_keys)
    """
    gradient = output_gradient.detach().float().transpose(1, 2)
    value = per_query_head(call.value.detach()[:, :, :n_keys].float(), gradient.shape[1])
    return gradient @ value.transpose(2, 3)


@dataclass
class _Switched:
    config: Any
    original: Any
    users: int


_lock = threading.Lock()
_switched: dict[int, _Switched] = {}


@contextmanager
def switched(configs: Iterable[Any]) -> Iterator[None]:
    """Point configurations at our attention function; the last user restores the original.

    Parameters
    ----------
    configs : iterable of PretrainedConfig
        Those of the language model only (and of the vision tower where its gradients are asked
        for); other parts of the model keep their implementation.
    """
    entered: list[Any] = []
    try:
        for config in configs:
            with _lock:
                state = _switched.get(id(config))
                if state is None:
                    state = _Switched(config, config._attn_implementation, 0)
                    config._attn_implementation = NAME
                    _switched[id(config)] = state
                state.users += 1
                entered.append(config)
        yield
    finally:
        for config in reversed(entered):
            with _lock:
                state = _switched[id(config)]
                state.users -= 1
                if state.users == 0:
                    config._attn_implementation = state.original
                    del _switched[id(config)]
