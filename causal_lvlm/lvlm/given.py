"""Objects a user hands over in memory: taken out of their wrappers, and checked before any use."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from causal_lvlm.errors import UnsupportedModelError

__all__ = ["check_weights", "plain_model"]


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
