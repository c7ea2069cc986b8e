"""The modules of a model: walked once, and again as soon as any of them is another one.

`torch.nn.Module.modules` goes through a tree by nested generators. In a small model that takes as
long as a layer, and every call of this package needs several such walks. So what follows from the
modules alone is kept, and `Parts.current` asks before each use whether every module still has the
children it had: a module that was replaced, added or taken away (an adapter, another head, another
language model) is noticed wherever it stands. Whatever may change without that (configurations,
compiled calls, hooks, flags, weights, places) is read from the modules every time.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers import DynamicCache

from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.family import Family

__all__ = ["Parts", "check_weights", "plain_model"]

_OURS = "_attn_implementation_internal"  # set for the length of a session


class Parts:
    """Where the parts of a model are, for as long as its modules are these.

    Parameters
    ----------
    model : PreTrainedModel
    family : Family

    Attributes
    ----------
    modules : tuple of Module
        All of them, as ``model.modules()`` yields them.
    decoder, head, tower : Module
        Language model; what is called for logits; vision tower (None in a text model).
    attention : tuple of Module or None
        Attention modules of the language model, once somebody has found them.
    """

    def __init__(self, model: Any, family: Family) -> None:
        self.modules: tuple[torch.nn.Module, ...] = tuple(model.modules())
        self._children = [list(module._modules.values()) for module in self.modules]
        self.decoder: Any = model.get_decoder()
        self.head: Any = family.head(model)
        self.attention: tuple[torch.nn.Module, ...] | None = None
        self._model, self._family = model, family
        self._kinds: tuple[dict[str, Any], tuple[str, ...]] | None = None

    @property
    def current(self) -> bool:
        """Whether these are the model's modules still."""
        return [list(module._modules.values()) for module in self.modules] == self._children

    @cached_property
    def tower(self) -> Any:
        """The vision tower's module; None in a text model."""
        return None if self._family.text_only else self._model.get_encoder("image")

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        return self.decoder.config

    @cached_property
    def cross_attention(self) -> frozenset[int]:
        """``id`` of the decoder's modules that look at the image rather than at the sequence."""
        modules = self._of_decoder
        return frozenset(id(m) for m in modules if "CrossAttention" in type(m).__name__)

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """What the cache of each decoder layer is called: says whether it sees all or a window."""
        settings = {k: v for k, v in vars(self.text_config).items() if k != _OURS}
        if self._kinds is None or self._kinds[0] != settings:
            layers = DynamicCache(config=self.text_config).layers
            self._kinds = copy.deepcopy(settings), tuple(type(layer).__name__ for layer in layers)
        return self._kinds[1]

    @cached_property
    def _of_decoder(self) -> tuple[torch.nn.Module, ...]:
        return tuple(self.decoder.modules())

    @cached_property
    def _of_tower(self) -> tuple[torch.nn.Module, ...]:
        return () if self.tower is None else tuple(self.tower.modules())

    def configs(self, *, tower: bool = False) -> list[Any]:
        """Return the different configurations that the decoder (and the tower) reads now."""
        modules = (*self._of_decoder, *self._of_tower) if tower else self._of_decoder
        found = [vars(module)["config"] for module in modules if "config" in vars(module)]
        # Some models keep a copy, and make masks from the one of the whole model.
        whole = self._model.config
        text = whole.get_text_config()
        if text is not whole or self._family.text_only:
            found.append(text)
        return list({id(config): config for config in found}.values())


def plain_model(model: Any) -> Any:
    """Return the model inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel``.

    Raises
    ------
    UnsupportedModelError
        If it is no model of transformers.
    """
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod
        else:
            break
    if not isinstance(model, torch.nn.Module) or getattr(model, "config", None) is None:
        raise UnsupportedModelError(
            f"a model of transformers is needed, got {type(model).__name__}; load one with its "
            "Auto class"
        )
    return model


def check_weights(model: Any) -> None:
    """Refuse a model without a head that writes, or without weights where they can be reached.

    Raises
    ------
    UnsupportedModelError
    """
    kind = type(model).__name__
    if kind.startswith("FullyShardedDataParallel"):
        raise UnsupportedModelError(
            "the model's weights are spread by FullyShardedDataParallel; load it whole, or spread "
            "over devices with device_map"
        )
    if not callable(getattr(model, "generate", None)):
        raise UnsupportedModelError(
            f"{kind} has no head that writes text and cannot generate; load the checkpoint with "
            "AutoModelForImageTextToText or AutoModelForCausalLM"
        )
    # With accelerate's hooks, weights on disk are nowhere until their layer is called.
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    nowhere = [name for name, weight in model.named_parameters() if weight.is_meta]
    if nowhere and not hooked:
        raise UnsupportedModelError(
            f"{len(nowhere)} weights of the model are on the meta device, which holds no numbers "
            f"({nowhere[0]}, ...); load them with from_pretrained"
        )
