"""What a language model is given beside embeddings: positions, masks and per-layer additions.

A vision-language model merges image features into the embeddings of its prompt, works out position
ids (rotary positions of Qwen-VL have three parts) and masks (PaliGemma and Gemma 3 let image tokens
look ahead), and only then calls its language model. This module takes all of that from the model
itself, for any family:

1. The model is called on the whole sequence; a hook on its language model keeps the arguments of
   that one call and ends it there.
2. Whatever belongs to single positions (embeddings; features added in deeper layers; inputs per
   layer) is laid side by side into one wide tensor, so that masking, averaging and dropping treat
   them alike.
3. To run part of the sequence later, `Context.arguments` cuts positions and masks accordingly, and
   `injected` puts them into the call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import IntArray
from causal_lvlm.errors import UnsupportedModelError

__all__ = ["Context", "decoder_arguments", "injected", "read_context"]

# Arguments that are not about the content of the sequence, or that are handled by name below.
_IGNORED = {
    "input_ids",
    "inputs_embeds",
    "position_ids",
    "attention_mask",
    "past_key_values",
    "cache_position",
    "visual_pos_masks",
    "deepstack_visual_embeds",
    "per_layer_inputs",
    "mm_token_type_ids",
    "token_type_ids",
    "logits_to_keep",
    "labels",
}
_CROSS = ("cross_attention_states", "cross_attention_mask", "full_text_row_masked_out_mask")

Mask = torch.Tensor | None


@dataclass(frozen=True)
class Context:
    """Arguments of the language model that hold for the whole sequence.

    Attributes
    ----------
    width : int
        Width D of the embeddings proper; what follows in the wide tensor are additions.
    position_ids : Tensor of int64, shape (1, T) or (parts, 1, T)
    masks : dict, Tensor or None
        Explicit masks (1, 1, T, T), boolean, True where a query may look; a None inside stands for
        plain causality. None altogether: the language model makes its own.
    n_deep : int
        Number of deeper layers that add features of their own to image positions.
    per_layer : tuple of int
        (layers, width) of inputs per layer; (0, 0) without.
    cross : dict
        States of the image for cross-attention, with their masks.
    """

    width: int
    position_ids: torch.Tensor
    masks: dict[str, Mask] | Mask = None
    n_deep: int = 0
    per_layer: tuple[int, int] = (0, 0)
    cross: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Return T, the number of positions."""
        return int(self.position_ids.shape[-1])

    @property
    def is_plain(self) -> bool:
        """Whether embeddings and position ids are all there is."""
        explicit = self.masks is not None or self.n_deep or self.per_layer[0] or self.cross
        return not explicit and self.position_ids.dim() == 2

    @cached_property
    def reach(self) -> IntArray | None:
        """The last position each position may look at, int64 (T,); None if itself."""
        masks = self.masks.values() if isinstance(self.masks, dict) else [self.masks]
        last = np.arange(self.length)
        for mask in masks:
            if mask is not None:
                visible = mask[0, 0].cpu().numpy()
                found = self.length - 1 - visible[:, ::-1].argmax(axis=1)
                last = np.maximum(last, np.where(visible.any(axis=1), found, 0))
        return None if (last == np.arange(self.length)).all() else last.astype(np.int64)

    def arguments(
        self, embeds: torch.Tensor, positions: torch.Tensor, past: int
    ) -> dict[str, torch.Tensor | Any]:
        """Return the language model's arguments for some positions of the sequence.

        Parameters
        ----------
        embeds : Tensor, shape (B, L, D + additions)
        positions : Tensor of int64, shape (B, L)
            Which position of the sequence each is; ascending.
        past : int
            Length of the prefix that a cache holds: positions 0 .. past - 1.
        """
        batch, length = embeds.shape[:2]
        positions = positions.expand(batch, -1)
        arguments: dict[str, Any] = {"inputs_embeds": embeds[..., : self.width]}
        if self.position_ids.dim() == 2:
            arguments["position_ids"] = self.position_ids[0, positions]
        else:
            arguments["position_ids"] = self.position_ids[:, 0][:, positions]
        if isinstance(self.masks, dict):
            arguments["attention_mask"] = {
                name: self._cut(mask, positions, past) for name, mask in self.masks.items()
            }
        elif self.masks is not None:
            arguments["attention_mask"] = self._cut(self.masks, positions, past)
        rest = embeds[..., self.width :]
        if self.n_deep:
            everywhere = torch.ones(batch, length, dtype=torch.bool, device=embeds.device)
            arguments["visual_pos_masks"] = everywhere
            deep = rest[..., : self.n_deep * self.width].reshape(-1, self.n_deep, self.width)
            arguments["deepstack_visual_embeds"] = list(deep.unbind(dim=1))
        if self.per_layer[0]:
            arguments["per_layer_inputs"] = rest.reshape(batch, length, *self.per_layer)
        for name, value in self.cross.items():
            if name == "cross_attention_states":
                # Tiles follow each other as one sequence of keys.
                arguments[name] = value.reshape(1, -1, value.shape[-1]).expand(batch, -1, -1)
            else:  # (1, 1, T, ...): one row per position
                arguments[name] = value[0][:, positions].transpose(0, 1)
        return arguments

    def _cut(self, mask: Mask, positions: torch.Tensor, past: int) -> torch.Tensor:
        """Return the rows of a mask for some queries, over the prefix and those queries."""
        prefix = torch.arange(past, device=positions.device).expand(len(positions), -1)
        keys = torch.cat([prefix, positions], dim=1)
        if mask is None:
            return (keys[:, None, :] <= positions[:, :, None])[:, None]
        whole = mask[0, 0].to(positions.device)
        return whole[positions[:, :, None], keys[:, None, :]][:, None]


def read_context(arguments: Mapping[str, Any]) -> tuple[torch.Tensor, Context]:
    """Return wide embeddings (1, T, D + additions) and the context from one call's arguments.

    Raises
    ------
    UnsupportedModelError
        If the language model was given something this package does not know how to cut.
    """
    embeds = arguments.get("inputs_embeds")
    if embeds is None:
        raise UnsupportedModelError(
            "the model gives its language model no embeddings, so that image features cannot be "
            "kept; this architecture is not supported"
        )
    length, width = embeds.shape[1:]
    unknown = sorted(
        name
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and name not in _IGNORED and name not in _CROSS
    )
    if unknown:
        raise UnsupportedModelError(
            f"the language model is given {', '.join(unknown)}, which this package does not know; "
            "this architecture is not supported"
        )
    position_ids = arguments.get("position_ids")
    if position_ids is None:
        position_ids = torch.arange(length, device=embeds.device)[None]
    parts = [embeds]
    deep = arguments.get("deepstack_visual_embeds")
    if deep is not None and len(deep):
        where = arguments["visual_pos_masks"][0].to(embeds.device)
        for features in deep:
            spread = torch.zeros_like(embeds[0])
            spread = spread.index_put((where.nonzero()[:, 0],), features.to(embeds))
            parts.append(spread[None])
    per_layer = arguments.get("per_layer_inputs")
    if per_layer is not None:
        parts.append(per_layer.flatten(2).to(embeds.dtype))
    cross = {
        name: arguments[name] for name in _CROSS if isinstance(arguments.get(name), torch.Tensor)
    }
    context = Context(
        width=width,
        position_ids=position_ids,
        masks=_explicit(arguments.get("attention_mask")),
        n_deep=len(deep) if deep is not None else 0,
        per_layer=(0, 0) if per_layer is None else tuple(per_layer.shape[2:]),
        cross=cross,
    )
    return torch.cat(parts, dim=-1), context


def _explicit(mask: Any) -> dict[str, Mask] | Mask:
    """Return masks the model made before its language model; None where there are none."""
    if isinstance(mask, Mapping):
        return {name: _boolean(value) for name, value in mask.items()}
    if isinstance(mask, torch.Tensor) and mask.dim() == 4:
        return _boolean(mask)
    return None


def _boolean(mask: Mask) -> Mask:
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask == 0 if mask.is_floating_point() else mask.bool()


class _ReachedError(Exception):
    """Ends a call once the arguments of the language model are known."""


@contextmanager
def injected(decoder: torch.nn.Module, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Replace arguments of the decoder's calls made by this thread, until the block ends."""
    here = threading.get_ident()

    def replace(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        if threading.get_ident() != here:
            return None
        return args, {**given, **arguments}

    handle = decoder.register_forward_pre_hook(replace, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def decoder_arguments(decoder: torch.nn.Module, call: Any) -> dict[str, Any]:
    """Return the keyword arguments `call()` gives to the decoder; the decoder is not run.

    Raises
    ------
    UnsupportedModelError
        If the decoder is never called.
    """
    here = threading.get_ident()
    found: dict[str, Any] = {}

    def keep(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        if threading.get_ident() != here:
            return
        found.update(given)
        if args and "input_ids" not in given:
            found["input_ids"] = args[0]
        raise _ReachedError

    handle = decoder.register_forward_pre_hook(keep, with_kwargs=True, prepend=True)
    try:
        call()
    except _ReachedError:
        return found
    finally:
        handle.remove()
    raise UnsupportedModelError(
        f"the model never called its language model ({type(decoder).__name__}); this architecture "
        "is not supported"
    )
