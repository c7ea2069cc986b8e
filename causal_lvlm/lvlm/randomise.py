"""A copy of a model whose upper layers are random: does an explanation notice?

Cascading model-parameter randomisation of Adebayo et al. (NeurIPS 2018, arXiv:1810.03292; checked
against the caption of its figure 2): layers are re-initialised from the output downwards, one more
each time.

1. The model is copied; nothing on the original changes.
2. The head and the norm before it, then the decoder layers from the last one down, get new
   parameters: matrices from a normal distribution with mean zero and the standard deviation they
   had; vectors (norms, biases) with the mean they had as well, since a norm that is centred on
   zero would switch its layer off.
3. Every layer draws from a generator of its own, seeded by the seed and its place counted from the
   top: a model with three random layers shares two of them with the one that has two.

A head that shares its matrix with the input embeddings gets one of its own; the embeddings stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from causal_lvlm.errors import UnsupportedModelError, quoted
from causal_lvlm.lvlm.facts import Facts
from causal_lvlm.lvlm.layers import decoder_layers

__all__ = ["check_redraw", "redraw"]

_HEAD = 0  # place of the head among the generators; the last layer's is 1


def check_redraw(lvlm: Facts, n_layers: int, seed: int) -> None:
    """Refuse what cannot be drawn anew; arguments and errors as in `LVLM.randomised`."""
    most = len(decoder_layers(lvlm))
    if isinstance(n_layers, bool) or not 0 <= n_layers <= most:
        raise ValueError(f"n_layers must be within 0..{most}, got {quoted(n_layers)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number, 0 or more, got {quoted(seed)}")
    for name, parameter in lvlm.model.named_parameters():
        if not parameter.is_floating_point() or parameter.device.type == "meta":
            raise UnsupportedModelError(
                f"parameter {name!r} of {lvlm.model_id!r} is {parameter.dtype} on "
                f"{parameter.device}, so it cannot be drawn anew; load the model unquantised and "
                "without offloading"
            )


def redraw(lvlm: Facts, n_layers: int, *, seed: int, head: bool) -> None:
    """Give a copy's upper layers other parameters; arguments as in `LVLM.randomised`."""
    layers = decoder_layers(lvlm)
    with torch.no_grad():
        if head:
            _redraw(_head_parameters(lvlm), _generator(seed, _HEAD))
        for place, layer in enumerate(reversed(layers[len(layers) - n_layers :])):
            _redraw(layer.parameters(), _generator(seed, 1 + place))


def _head_parameters(lvlm: Facts) -> list[torch.nn.Parameter]:
    """Return the parameters of the head and of the norm before it; a shared head gets its own."""
    head: Any = lvlm.head.get_output_embeddings()
    if head is None:
        raise UnsupportedModelError(
            f"the head of {lvlm.model_id!r} was not found; pass head=False to leave it as it is"
        )
    table = lvlm.model.get_input_embeddings().weight
    if head.weight is table:
        head.weight = torch.nn.Parameter(table.detach().clone(), table.requires_grad)
        for config in (lvlm.model.config, lvlm.text_config):
            config.tie_word_embeddings = False
    norms = [
        module
        for name, module in lvlm.decoder.named_children()
        if ("norm" in name or name == "ln_f") and not any(w in name for w in ("embed", "per_layer"))
    ]
    return [*head.parameters(), *(p for norm in norms for p in norm.parameters())]


def _generator(seed: int, place: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, place]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def _redraw(parameters: Iterable[torch.nn.Parameter], generator: torch.Generator) -> None:
    """Give parameters new values of the spread they had."""
    for parameter in parameters:
        values = parameter.detach().float()
        spread = float(values.std(correction=0))
        centre = float(values.mean()) if parameter.dim() < 2 else 0.0
        drawn = torch.randn(parameter.shape, generator=generator) * spread + centre
        parameter.copy_(drawn.to(parameter))
