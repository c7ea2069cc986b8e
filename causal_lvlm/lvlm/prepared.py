"""A sequence ready to run again: merged embeddings and the keys and values of its prefix.

Vision features are computed once per trace. Keys and values of the unmasked sequence are computed
once too: whatever stands before the first masked position is the same under every mask, so a masked
run needs to compute only what comes after it.
"""

from __future__ import annotations

import threading
from functools import cached_property

import torch
from PIL import Image
from transformers import DynamicCache

from causal_lvlm.lvlm.model import LVLM
from causal_lvlm.tokens import TokenLayout

__all__ = ["Prepared"]

_MAX_CACHE_BYTES = 1 << 30


class Prepared:
    """What a trace's verbs share.

    Parameters
    ----------
    lvlm : LVLM
    image : PIL.Image.Image
        Upright original.
    layout : TokenLayout

    Attributes
    ----------
    token_ids : Tensor of int64, shape (1, T)
    position_ids : Tensor of int64, shape (1, T)
    """

    def __init__(self, lvlm: LVLM, image: Image.Image, layout: TokenLayout) -> None:
        self.lvlm = lvlm
        self.image = image
        self.layout = layout
        self.token_ids = torch.tensor(layout.token_ids.copy(), device=lvlm.device)[None]
        self.position_ids = torch.arange(len(layout), device=lvlm.device)[None]
        self._lock = threading.RLock()

    @cached_property
    def pixels(self) -> dict[str, torch.Tensor]:
        """Inputs of the vision tower."""
        return self.lvlm.pixels([self.image])

    @cached_property
    def features(self) -> torch.Tensor:
        """Image features, (1, n_image_tokens, D)."""
        with self.lvlm.session(), torch.no_grad():
            return self.lvlm.family.features(self.lvlm.model, self.pixels)

    @cached_property
    def embeds(self) -> torch.Tensor:
        """Merged embeddings, (1, T, D)."""
        with self.lvlm.session(), torch.no_grad():
            return self.lvlm.merge(self.token_ids, self.features)

    @cached_property
    def _keys_and_values(self) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Keys and values (1, H_kv, T, d) of each layer; None where a prefix cannot be reused."""
        config = self.lvlm.text_config
        cache = DynamicCache(config=config)
        heads = int(getattr(config, "num_key_value_heads", config.num_attention_heads))
        head_dim = getattr(config, "head_dim", None)
        head_dim = int(head_dim or config.hidden_size // config.num_attention_heads)
        n_bytes = 2 * int(config.num_hidden_layers) * heads * head_dim * self.token_ids.shape[1]
        if not self.lvlm.drop_is_exact or n_bytes * self.embeds.element_size() > _MAX_CACHE_BYTES:
            return None
        with self.lvlm.session(), torch.no_grad():
            self.lvlm.logits(self.embeds, self.position_ids, 1, cache)
        return [(layer.keys, layer.values) for layer in cache.layers]

    @property
    def can_reuse_prefix(self) -> bool:
        """Whether a prefix can be taken from the unmasked run."""
        with self._lock:
            return self._keys_and_values is not None

    def prefix(self, length: int, batch: int) -> DynamicCache:
        """Return a cache holding the first `length` positions, for `batch` rows."""
        cache = DynamicCache(config=self.lvlm.text_config)
        with self._lock:
            stored = self._keys_and_values
        if stored is None:
            raise RuntimeError("this model's prefix cannot be reused")
        for layer, (keys, values) in enumerate(stored):
            cache.update(
                keys[:, :, :length].expand(batch, -1, -1, -1),
                values[:, :, :length].expand(batch, -1, -1, -1),
                layer,
            )
        return cache
