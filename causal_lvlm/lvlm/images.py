"""Open any image a person may hand in, and turn it upright RGB.

1. A path, bytes, a PIL image or an array is opened; what cannot be read raises `ImageError`.
2. The EXIF orientation is applied, so that pixels are where a viewer shows them.
3. Every mode becomes 8-bit RGB: transparent pixels on white, 16-bit and float greys scaled to the
   full range of their type, CMYK and palettes converted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from causal_lvlm.errors import ImageError

__all__ = ["ImageLike", "open_image", "open_images"]

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"


_VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}


def open_images(images: ImageLike | Sequence[ImageLike] | None) -> list[Image.Image]:
    """Return upright RGB copies of one image, of several, or of none.

    Raises
    ------
    ImageError
        As `open_image`; for a video, which is not supported.
    """
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [open_image(image) for image in images]
    return [open_image(images)]  # type: ignore[arg-type]


def open_image(image: ImageLike) -> Image.Image:
    """Return an upright 8-bit RGB copy of an image.

    Parameters
    ----------
    image : path, bytes, PIL image or ndarray
        Arrays are (height, width), (height, width, 1), (..., 3) or (..., 4): uint8, uint16, bool,
        or float in [0, 1].

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``.

    Raises
    ------
    ImageError
        If it cannot be read, has no pixels, or is no image.
    """
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, np.ndarray) and image.ndim == 4:
        raise ImageError(
            f"an array of shape {image.shape} is a video or a batch; videos are not supported, "
            "give a list of images"
        )
    elif isinstance(image, np.ndarray):
        opened = _from_array(image)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        opened = _read(io.BytesIO(image), f"{len(bytes(image))} bytes")
    elif isinstance(image, (str, os.PathLike)):
        path = Path(image)
        if path.suffix.lower() in _VIDEOS:
            raise ImageError(
                f"{str(path)!r} is a video; videos are not supported, give single frames as images"
            )
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ImageError(f"the image {str(path)!r} {what}; give the path of an image file")
        opened = _read(path, repr(str(path)))
    else:
        raise ImageError(
            f"an image must be a path, bytes, a PIL image or an array, got {type(image).__name__}"
        )
    if min(opened.size) < 1:
        raise ImageError(f"the image has no pixels: its size is {opened.size}")
    try:
        return _to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the image cannot be decoded ({error}); save it again as PNG") from error


def _read(source: io.BytesIO | Path, name: str) -> Image.Image:
    try:
        opened = Image.open(source)
        opened.load()
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise ImageError(
            f"{name} cannot be read as an image ({error}); give a PNG, JPEG or other image file"
        ) from error
    return opened


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"an image array must be (height, width) or (height, width, 3 or 4), got {array.shape}"
        )
    if array.size == 0:
        raise ImageError(f"the image has no pixels: its array has shape {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = np.rint(array / 257.0).astype(np.uint8)  # 65535 -> 255
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(
                "a float image array must be finite and within [0, 1]; for 0..255 use uint8"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise ImageError(f"an image array of {array.dtype} must be within 0..255")
        array = array.astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Scale deep grey levels to 8 bits; plain ``convert`` would clip them to white."""
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255):
        values = values / 257.0  # 65535 -> 255
    elif image.mode == "F" and values.size and np.isfinite(values).all() and values.max() <= 1.0:
        values = values * 255.0
    values = np.nan_to_num(values)
    grey = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
