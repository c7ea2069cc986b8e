"""Decoder layers of a language model: which they are, and hooks on what leaves them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from causal_lvlm.errors import UnsupportedModelError, quoted

if TYPE_CHECKING:
    from causal_lvlm.lvlm.model import LVLM

__all__ = ["decoder_layers", "layer_index", "on_layer_output"]


def decoder_layers(lvlm: LVLM) -> list[torch.nn.Module]:
    """Return the layers of the language model, with or without attention, the first one first.

    Raises
    ------
    UnsupportedModelError
        If they do not stand in one list.
    """
    expected = int(lvlm.text_config.num_hidden_layers)
    for module in lvlm.decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == expected:
            return list(module)
    raise UnsupportedModelError(
        f"the language model of {lvlm.model_id!r} ({type(lvlm.decoder).__name__}) does not keep "
        f"its {expected} layers in one list; use a verb that needs attention or embeddings only"
    )


def layer_index(lvlm: LVLM, layer: int) -> int:
    """Turn the number of a decoder layer, negative ones counted from the end, into an index.

    Raises
    ------
    IndexError
        If there is no such layer.
    """
    n_layers = len(decoder_layers(lvlm))
    if not isinstance(layer, (int, np.integer)) or not -n_layers <= layer < n_layers:
        raise IndexError(
            f"layer {quoted(layer)} is out of range: the language model has {n_layers} layers, "
            f"allowed {-n_layers}..{n_layers - 1}"
        )
    return int(layer) % n_layers


@contextmanager
def on_layer_output(
    module: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Hand a layer's hidden states (B, T, D) to a function in this thread, until the block ends.

    What the function returns, if anything, takes their place.

    Raises
    ------
    UnsupportedModelError
        By the run itself, if the layer keeps several versions of the hidden states (Gemma 3n).
    """
    here = threading.get_ident()

    def hook(_: Any, args: Any, output: Any) -> Any:
        if threading.get_ident() != here:
            return None
        bare = isinstance(output, torch.Tensor)
        states = output if bare else output[0]
        if states.dim() != 3:
            raise UnsupportedModelError(
                f"{type(module).__name__} keeps {len(states)} versions of its hidden states, of "
                "which none is the layer's output; use a verb or method that reads attention"
            )
        found = function(states)
        if found is None:
            return None
        return found if bare else (found, *output[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
