"""Layers of a language model: which they are, what they look at, and hooks on what leaves them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from causal_lvlm.errors import CaptureError, UnsupportedModelError, quoted
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.facts import Facts, size_of

__all__ = ["Layered", "decoder_layers", "layer_index", "on_layer_output"]


class Layered(Facts):
    """A model whose attention layers are known by number, and by what they look at."""

    @property
    def attention_modules(self) -> tuple[torch.nn.Module, ...]:
        """Attention modules of the language model, in the order they are called.

        Found by running two tokens: only modules that go through the attention interface count.
        """
        parts = self.current_parts()
        if parts.attention is None:
            letter = self.tokenizer.encode("a", add_special_tokens=False) or [0]
            known = len(self.model.get_input_embeddings().weight)
            ids = torch.full((1, 2), int(letter[0]) % known, device=self.device)
            recorder = Recorder(record=True)
            with self.session(), recording(recorder), torch.no_grad():
                parts.head(input_ids=ids, use_cache=False)
            if not recorder.calls:
                raise CaptureError(
                    f"the language model of {self.model_id!r} "
                    f"({type(parts.decoder).__name__}) does not use the attention interface of "
                    "transformers, so its attention cannot be captured"
                )
            parts.attention = tuple(call.module for call in recorder.calls)
        return parts.attention

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """What each attention layer looks at: ``full``, or ``window`` (sliding or in chunks)."""
        kinds = self.parts.layer_kinds
        found = []
        for number, module in enumerate(self.attention_modules):
            index = int(getattr(module, "layer_idx", number))
            kind = kinds[index] if index < len(kinds) else "DynamicLayer"
            found.append("window" if "Sliding" in kind or "Chunked" in kind else "full")
        return tuple(found)

    @property
    def only_drop(self) -> bool:
        """Whether some layers mix tokens without attention, so that blocking would not do."""
        looking = len(self.parts.attention or self.attention_modules) + len(self.cross_attention)
        return looking < int(self.text_config.num_hidden_layers)

    def layer_indices(self, layers: Any) -> list[int]:
        """Turn layer numbers, negative ones counted from the end, into indices.

        Layers without attention (linear, convolution) do not count. ``"global"`` is the last one
        that looks at the whole sequence, in a model where some look at a window only.

        Parameters
        ----------
        layers : sequence of int, or str

        Raises
        ------
        IndexError
            If there is no such layer.
        """
        n_layers = len(self.attention_modules)
        alone = isinstance(layers, (int, np.integer, str))
        chosen = [self._last_global() if k == "global" else k for k in ([layers] * alone or layers)]
        for layer in chosen:
            if not -n_layers <= layer < n_layers:
                raise IndexError(
                    f"layer {layer} is out of range: the language model has {n_layers} attention "
                    f"layers, allowed {-n_layers}..{n_layers - 1}"
                )
        return [int(layer) % n_layers for layer in chosen]

    def _last_global(self) -> int:
        kinds = self.attention_kinds
        if "full" not in kinds:
            raise IndexError(
                f"every attention layer of {self.model_id!r} looks at a window only; give a number"
            )
        return len(kinds) - 1 - kinds[::-1].index("full")

    def layer_remark(self, layer: int) -> str | None:
        """Say so if a layer looks at a window of the sequence only; None if it sees all of it.

        Parameters
        ----------
        layer : int or str
            As in `Trace.attention`.

        Raises
        ------
        IndexError
            If there is no such layer.
        """
        kinds, index = self.attention_kinds, self.layer_indices(layer)[0]
        if kinds[index] == "full":
            return None
        window = size_of(self.text_config, "sliding_window", "attention_chunk_size")
        size = "" if window is None else f" of {window} tokens"
        remark = (
            f"attention layer {index} of {self.model_id!r} looks at a window{size} only, so its "
            "attention says nothing about tokens further back"
        )
        if "full" not in kinds:
            return f"{remark}; so do all its layers"
        return f"{remark}; the last layer that sees them all is {self._last_global()}"


def decoder_layers(lvlm: Facts) -> list[torch.nn.Module]:
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


def layer_index(lvlm: Facts, layer: int) -> int:
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
