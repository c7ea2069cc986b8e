"""What differs between families of models: one table entry and a few small functions each.

A family says which model types it serves, how pixels become image features, where the image tokens
come from, and how its prompt is framed when there is no chat template. Everything else (capture,
masking, gradients) works on the decoder alone and is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import IntArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.geometry import Tile, clip_geometry

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One family of vision-language models.

    Attributes
    ----------
    name : str
    model_types : tuple of str
        ``config.model_type`` of the models served.
    plain_frame : str
        Frame with ``{placeholder}`` and ``{prompt}`` for processors without a chat template.
    features : callable
        (model, inputs of the image processor) -> Tensor (n_images, n_tokens, D): what takes the
        place of the image tokens' embeddings. Differentiable.
    geometry : callable
        (model, processor, image size, number of image tokens) -> list of Tile.
    tower : callable
        (model) -> the vision tower's module.
    tower_positions : callable
        (model, image positions) -> int64 (number of tower tokens,): the sequence position at which
        each tower token's feature ends, -1 for none.
    """

    name: str
    model_types: tuple[str, ...]
    plain_frame: str
    features: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]
    geometry: Callable[[Any, Any, tuple[int, int], int], list[Tile]]
    tower: Callable[[Any], torch.nn.Module]
    tower_positions: Callable[[Any, IntArray], IntArray]


def _llava_features(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    found = model.get_image_features(pixel_values=inputs["pixel_values"])
    # Newer versions of transformers wrap the features in an output object.
    features = getattr(found, "pooler_output", found)
    if isinstance(features, (list, tuple)):
        return torch.stack(list(features))
    return torch.as_tensor(features)


def _llava_geometry(
    model: Any, processor: Any, image_size: tuple[int, int], n_tokens: int
) -> list[Tile]:
    patch = int(model.config.vision_config.patch_size)
    return clip_geometry(processor.image_processor, image_size, patch, n_tokens)


def _llava_tower(model: Any) -> torch.nn.Module:
    tower: torch.nn.Module = model.get_encoder("image")
    return tower


def _llava_tower_positions(model: Any, image_positions: IntArray) -> IntArray:
    has_class_token = any(hasattr(m, "class_embedding") for m in _llava_tower(model).modules())
    # The class token stands first and is dropped; every patch keeps its place.
    return np.concatenate([[-1] * has_class_token, image_positions]).astype(np.int64)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="LLaVA-1.5",
        model_types=("llava",),
        plain_frame="USER: {placeholder}\n{prompt} ASSISTANT:",
        features=_llava_features,
        geometry=_llava_geometry,
        tower=_llava_tower,
        tower_positions=_llava_tower_positions,
    ),
)


def family_of(model_type: str | None) -> Family:
    """Return the family that serves a model type.

    Raises
    ------
    UnsupportedModelError
        If none does; the message lists those supported.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = ", ".join(f"{t} ({f.name})" for f in FAMILIES for t in f.model_types)
    raise UnsupportedModelError(
        f"models of type {model_type!r} are not supported; supported types: {supported}"
    )
