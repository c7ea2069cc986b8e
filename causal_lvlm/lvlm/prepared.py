"""A sequence ready to run again: merged embeddings and the keys and values of its prefix.

Vision features are computed once per trace. Keys and values of the unmasked sequence are computed
once too: whatever stands before the first masked position is the same under every mask, so a masked
run needs to compute only what comes after it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache

from causal_lvlm.arrays import BoolArray, IntArray, frozen
from causal_lvlm.edges import Edges
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.attention_function import (
    AttentionCall,
    Recorder,
    hiding,
    recording,
    visible_keys,
)
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.context import Context
from causal_lvlm.lvlm.parts import Parts
from causal_lvlm.lvlm.spotcheck import CheckedWays
from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["Prepared"]

_MAX_CACHE_BYTES = 1 << 30


@dataclass
class _Computed:
    """What was computed of a sequence, for as long as the model's modules are these.

    Attributes
    ----------
    parts : Parts
    embedded : (Tensor, Context), optional
    layers : list, optional
        Of a cache, keys and values (1, H_kv, T, d); empty where they cannot be reused.
    calls : dict of int to AttentionCall
        By layer: what was recorded on the way.
    readable : ndarray of bool, shape (T, T), optional
        What the model's own masks allow.
    edges : Edges, optional
        Those of the target asked for last.
    """

    parts: Parts
    embedded: tuple[torch.Tensor, Context] | None = None
    layers: list[Any] | None = None
    calls: Mapping[int, AttentionCall] = field(default_factory=dict)
    readable: BoolArray | None = None
    edges: Edges | None = None


class Prepared:
    """What a trace's verbs share.

    Parameters
    ----------
    lvlm : Backbone
    images : sequence of PIL.Image.Image
        Upright originals, in the order of the prompt; empty for text alone.
    layout : TokenLayout
    prompt : str
        The rendered prompt, before image tokens were expanded.
    inputs : dict of str to Tensor, optional
        What the processor made of both; computed if left out.
    hidden : ndarray of bool, shape (T,), optional
        Positions that no other row may look at, in any layer of any run.
    embedded : (Tensor, Context), optional
        Embeddings and context of the same sequence; computed if left out.

    Attributes
    ----------
    ways : CheckedWays
        Which fast ways of masking were checked on it.
    token_ids : Tensor of int64, shape (1, T)
    positions : Tensor of int64, shape (1, T)
        0 .. T-1; position ids proper are the context's.

    Raises
    ------
    UnsupportedModelError
        If the processor does not turn the prompt into the layout's tokens.
    """

    def __init__(
        self,
        lvlm: Backbone,
        images: Sequence[Image.Image],
        layout: TokenLayout,
        prompt: str,
        inputs: dict[str, torch.Tensor] | None = None,
        hidden: BoolArray | None = None,
        embedded: tuple[torch.Tensor, Context] | None = None,
    ) -> None:
        self.lvlm = lvlm
        self.images = tuple(images)
        self.layout = layout
        self.prompt = prompt
        self.token_ids = torch.tensor(layout.token_ids.copy(), device=lvlm.device)[None]
        self.positions = torch.arange(len(layout), device=lvlm.device)[None]
        self.inputs = self._process(self.images) if inputs is None else inputs
        self.hidden = hidden
        self._hidden = None if hidden is None else torch.tensor(hidden, device=lvlm.device)
        self._lock = threading.RLock()
        self._computed = _Computed(lvlm.parts, embedded)
        self.ways = CheckedWays()

    def _process(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        for rendered in (False, True):  # the tokens recorded tell which it was
            inputs = self.lvlm.process(images, self.prompt, rendered=rendered).inputs
            if torch.equal(inputs["input_ids"], self.token_ids[:, : self.layout.n_prompt]):
                return inputs
        raise UnsupportedModelError(
            f"the processor of {self.lvlm.model_id!r} turns the prompt into other tokens than "
            "those recorded"
        )

    def _current(self) -> _Computed:
        """Return what is computed: nothing if the model got other modules since (an adapter)."""
        if self._computed.parts is not self.lvlm.parts:
            self._computed = _Computed(self.lvlm.parts)
        return self._computed

    def _embedded(self) -> tuple[torch.Tensor, Context]:
        with self._lock:
            computed = self._current()
            if computed.embedded is None:
                with self.lvlm.session(), torch.no_grad():
                    computed.embedded = self.lvlm.embed(self.inputs, self.token_ids)
            return computed.embedded

    def with_hidden(self, hidden: BoolArray) -> Prepared:
        """Return the same sequence with positions hidden; embeddings are shared, caches are not."""
        return Prepared(
            self.lvlm, self.images, self.layout, self.prompt, self.inputs, hidden, self._embedded()
        )

    @property
    def embeds(self) -> torch.Tensor:
        """What enters the language model at each position, (1, T, D + additions)."""
        return self._embedded()[0]

    @property
    def context(self) -> Context:
        """What the language model is given beside embeddings."""
        return self._embedded()[1]

    def keep_calls(self, calls: Mapping[int, AttentionCall]) -> None:
        """Keep attention calls of some layers, so that capture need not run the model again."""
        with self._lock:
            self._current().calls = calls

    @property
    def kept_calls(self) -> Mapping[int, AttentionCall]:
        """Attention calls that were kept, by layer."""
        with self._lock:
            return self._current().calls

    def embeds_of(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return the embeddings with other images of the same sizes in place of the originals."""
        return self.lvlm.embed(self._process(images), self.token_ids)[0]

    def logits(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        rows: int | torch.Tensor,
        cache: DynamicCache | None = None,
        context: Context | None = None,
    ) -> torch.Tensor:
        """Run the language model on some positions of this sequence; see `LVLM.logits`.

        Every run of a trace's verbs comes through here, so what is hidden is hidden from all.
        """
        context = self.context if context is None else context
        if self._hidden is None:
            return self.lvlm.logits(embeds, positions, rows, cache, context)
        past = cache.get_seq_length() if cache is not None else 0
        prefix = torch.arange(past, device=positions.device).expand(len(positions), -1)
        keys = torch.cat([prefix, positions], dim=1)
        allowed = ~self._hidden[keys][:, None] | (keys[:, None] == positions[:, :, None])
        with hiding(allowed[:, None], self.lvlm.cross_attention):
            return self.lvlm.logits(embeds, positions, rows, cache, context)

    def readable(self) -> BoolArray:
        """Return which column each row may read in some layer, bool (T, T), by the model's masks.

        Read from a plain run: every layer's mask, windows and blocks that look ahead included.
        """
        with self._lock:
            computed = self._current()
            if computed.readable is None:
                recorder = Recorder(record=True)
                with self.lvlm.session(), torch.no_grad(), recording(recorder):
                    self.logits(self.embeds, self.positions, 1)
                calls = {
                    id(call.mask): call  # layers share theirs
                    for call in recorder.calls
                    if id(call.module) not in self.lvlm.cross_attention
                }
                found = [visible_keys(call, len(self.layout)) for call in calls.values()]
                computed.readable = frozen(np.logical_or.reduce(found), np.bool_)
            return computed.readable

    def edges(self, target: Target) -> Edges:
        """Return the edges that may be cut for a target; the same object for one asked again."""
        with self._lock:
            computed = self._current()
            if computed.edges is None or computed.edges.target != target:
                computed.edges = Edges(self.layout, target, self.readable())
            return computed.edges

    def first_changed(self, first: IntArray) -> IntArray:
        """Return where rows really begin to differ, given their first masked positions.

        The same in a causal model; where image or prompt tokens look ahead, whatever can see a
        masked position changes too.
        """
        reach = self.context.reach
        if reach is None:
            return first
        positions = np.arange(len(reach))
        furthest = np.maximum.accumulate(reach)
        earliest = np.minimum(np.searchsorted(furthest, positions), positions)
        while (earliest[first] != first).any():
            first = earliest[first]
        return first

    def _layers(self) -> list[Any]:
        """Return layers of a cache, keys and values (1, H_kv, T, d); none that can be reused."""
        with self._lock:
            computed = self._current()
            if computed.layers is None:
                computed.layers = self._run_plainly()
            return computed.layers

    def _run_plainly(self) -> list[Any]:
        config = self.lvlm.text_config
        cache = DynamicCache(config=config)
        heads = int(getattr(config, "num_key_value_heads", config.num_attention_heads))
        head_dim = getattr(config, "head_dim", None)
        head_dim = int(head_dim or config.hidden_size // config.num_attention_heads)
        n_bytes = 2 * int(config.num_hidden_layers) * heads * head_dim * self.token_ids.shape[1]
        if not self.lvlm.drop_is_exact or self.context.cross:
            return []
        if n_bytes * self.embeds.element_size() > _MAX_CACHE_BYTES:
            return []
        with self.lvlm.session(), torch.no_grad():
            self.logits(self.embeds, self.positions, 1, cache)
        return list(cache.layers)

    @property
    def drop_is_exact(self) -> bool:
        """Whether leaving tokens out equals hiding them, for this sequence.

        Also where windows are explicit masks, which are cut by position.
        """
        return self.lvlm.drop_is_exact or isinstance(self.context.masks, dict)

    @property
    def can_reuse_prefix(self) -> bool:
        """Whether a prefix can be taken from the unmasked run."""
        return bool(self._layers())

    def prefix(self, length: int, batch: int) -> DynamicCache:
        """Return a cache holding the first `length` positions, for `batch` rows."""
        cache = DynamicCache()  # every layer is a plain one, or nothing is stored
        stored = self._layers()
        if not stored:
            raise RuntimeError("this model's prefix cannot be reused")
        for whole in stored:
            layer = copy.copy(whole)  # of views: what follows is joined to them, never written
            layer.keys = whole.keys[:, :, :length].expand(batch, -1, -1, -1)
            layer.values = whole.values[:, :, :length].expand(batch, -1, -1, -1)
            cache.layers.append(layer)
        return cache
