"""Image processors of transformers that work on torchvision, where it does not import.

The classes are transformers' own, with all they do about tiles and canvases; what they take from
torchvision (resizing, normalising) is done here with torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from transformers import image_processing_backends as backends

_MODULES = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
_MODES = SimpleNamespace(BILINEAR="bilinear", BICUBIC="bicubic", LANCZOS="lanczos")


def _resize(
    image: torch.Tensor, size: Any, interpolation: str, antialias: bool = True
) -> torch.Tensor:
    found = torch.nn.functional.interpolate(
        image.float(), tuple(size), mode=interpolation, antialias=antialias
    )
    return found if image.is_floating_point() else found.round().clamp(0, 255).to(image.dtype)


def _normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    mean, std = (torch.as_tensor(value)[:, None, None] for value in (mean, std))
    return (image - mean) / std


def _pil_to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _pad(image: torch.Tensor, padding: list[int], fill: Any = 0) -> torch.Tensor:
    left, top, right, bottom = padding
    (value,) = {fill} if isinstance(fill, (int, float)) else set(fill)  # a shade of grey
    return torch.nn.functional.pad(image, (left, right, top, bottom), value=float(value))


_FUNCTIONAL = SimpleNamespace(
    resize=_resize,
    normalize=_normalize,
    pad=_pad,
    pil_to_tensor=_pil_to_tensor,
    InterpolationMode=_MODES,
)


@contextmanager
def _imports() -> Iterator[None]:
    """Let modules import torchvision's functions, which they name in annotations alone."""
    for name in _MODULES:
        sys.modules[name] = ModuleType(name)
    sys.modules[_MODULES[-1]].functional = _FUNCTIONAL  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in _MODULES:
            del sys.modules[name]


def torch_image_processor(name: str, family: str, **options: Any) -> Any:
    """Return an image processor of a family that has none for PIL."""
    module = f"transformers.models.{family}.image_processing_{family}"
    if getattr(backends, "tvF", _FUNCTIONAL) is not _FUNCTIONAL:
        return getattr(importlib.import_module(module), name)(**options)
    backends.tvF = _FUNCTIONAL
    backends.pil_torch_interpolation_mapping = {
        Resampling.BILINEAR: _MODES.BILINEAR,
        Resampling.BICUBIC: _MODES.BICUBIC,
    }
    with _imports():
        return getattr(importlib.import_module(module), name)(**options)
