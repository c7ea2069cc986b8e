"""Open any image a person may hand in, and turn it upright RGB.

1. A path, bytes, an open file, a PIL image, an array or a tensor is opened, of the formats that
   the app takes; what cannot be read raises `ImageError`. Nothing is fetched from a network.
2. The EXIF orientation is applied, so that pixels are where a viewer shows them.
3. Every mode becomes 8-bit RGB: transparent pixels on white, 16-bit and float greys scaled to the
   full range of their type, CMYK and palettes converted.
"""

from __future__ import annotations

import io
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from causal_lvlm.arrays import plain_array
from causal_lvlm.errors import ImageError, quoted
from causal_lvlm.rasters import DAMAGED, FORMATS

if TYPE_CHECKING:
    import torch

__all__ = ["ImageLike", "frames_remark", "image_path", "open_image", "open_images"]

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[Any] | torch.Tensor"
)
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
    image : path, bytes, binary file, PIL image, ndarray or torch.Tensor
        A path may be written as ``file://`` URL. Arrays and tensors are (height, width), or that
        with 1, 3 or 4 channels as last or first axis, perhaps in a batch of one: uint8, uint16,
        bool, or float in [0, 1]. Where both axes could be channels, a tensor has them first, an
        array last.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``; the first frame of several, whose number is in ``info["frames"]``. Photographs
        with another one beside them (MPO, as phones make them) count as one.

    Raises
    ------
    ImageError
        If it cannot be read, has no pixels, or is no image.
    """
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, (bytes, bytearray, memoryview)):
        opened = _read(io.BytesIO(image), f"{len(bytes(image))} bytes")
    elif isinstance(image, (str, os.PathLike)):
        path = image_path(image)
        opened = _read(path, repr(str(path)))
    elif callable(getattr(image, "read", None)):
        opened = _read(io.BytesIO(_content(image)), f"the open file {getattr(image, 'name', '')!r}")
    elif hasattr(image, "__array__") and not hasattr(image, "columns"):
        opened = _from_array(image)
    else:
        raise ImageError(
            "an image must be a path, bytes, an open file, a PIL image, an array or a tensor, got "
            f"{type(image).__name__}"
        )
    if min(opened.size) < 1:
        raise ImageError(f"the image has no pixels: its size is {opened.size}")
    try:
        known = opened.info.get("frames")  # what was opened here before has its first frame alone
        known = known if isinstance(known, int) else 1
        frames = 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", known))
        upright = _to_rgb(ImageOps.exif_transpose(opened))
    except DAMAGED as error:
        raise ImageError(f"the image cannot be decoded ({error}); save it again as PNG") from error
    upright.info = {"frames": frames}
    return upright


def frames_remark(image: Image.Image) -> str | None:
    """Return a sentence about frames that `open_image` left out; None without any."""
    frames = image.info.get("frames", 1)
    if frames < 2:
        return None
    return f"only the first of the picture's {frames} frames (or pages) was used"


def image_path(given: str | os.PathLike[str]) -> Path:
    """Return the path of an image file that exists, also from a ``file://`` URL.

    Raises
    ------
    ImageError
        If there is none; with what to do for addresses, which are not fetched, and for videos.
    """
    text = os.fspath(given)
    shown = quoted(text)
    address = re.match(r"([a-z][a-z0-9+.-]+):/|data:", text, flags=re.IGNORECASE)
    if address and (address.group(1) or "data").lower() != "file":
        if not address.group(1):
            how = "decode it and give bytes: base64.b64decode(text.split(',', 1)[1])"
        else:
            how = "download it and give the path of the file, or its bytes"
        raise ImageError(f"{shown} is an address; pictures are not fetched from addresses: {how}")
    if address:
        parts = urllib.parse.urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ImageError(f"{shown} is on another machine; give the path of a file on this one")
        text = urllib.request.url2pathname(parts.path)
    path = Path(text)
    if path.suffix.lower() in _VIDEOS:
        raise ImageError(
            f"{shown} is a video; videos are not supported, give single frames as images"
        )
    try:
        there, folder = path.is_file(), path.is_dir()
    except OSError:  # longer than a name may be
        there = folder = False
    if not text.strip() or not there:
        what = "is a folder" if folder else "does not exist"
        what = what if text.strip() else "is empty"
        raise ImageError(f"the image {shown} {what}; give the path of an image file")
    return path


def _content(file: Any) -> bytes:
    """Return all bytes of an open file, wherever its position is, and leave that as it was."""
    try:
        back = file.tell() if getattr(file, "seekable", lambda: False)() else None
        if back is not None:
            file.seek(0)
        content = file.read()
        if back is not None:
            file.seek(back)
    except (OSError, ValueError) as error:  # closed, or open for writing
        raise ImageError(f"the open file cannot be read: {error}") from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ImageError(
            f"the open file gives {type(content).__name__}, not bytes; open it with mode 'rb'"
        )
    return bytes(content)


def _read(source: io.BytesIO | Path, name: str) -> Image.Image:
    try:
        opened = Image.open(source, formats=FORMATS)
        opened.load()
    except DAMAGED as error:
        raise ImageError(
            f"{name} cannot be read as an image ({error}); give a picture of one of the formats "
            f"{', '.join(FORMATS)}"
        ) from error
    return opened


def _from_array(given: Any) -> Image.Image:
    try:
        array = np.asarray(plain_array(given))
    except (ValueError, TypeError) as error:
        raise ImageError(f"a {type(given).__name__} cannot be read as an image: {error}") from error
    if array.dtype.kind not in "buif":
        raise ImageError(f"an image array must hold numbers, not {array.dtype}")
    # as torch has channels, and whatever may be either
    array = _channels_last(array, callable(getattr(given, "detach", None)))
    if array.size == 0:
        raise ImageError(f"the image has no pixels: its array has shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array)))


def _channels_last(array: npt.NDArray[Any], prefer_first: bool) -> npt.NDArray[Any]:
    """Return an array of shape (height, width) or (height, width, 3 or 4)."""
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 4:
        raise ImageError(
            f"an array of shape {array.shape} is a video or a batch; videos are not supported, "
            "give a list of images"
        )
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
        few = array.shape[0] <= min(array.shape[1:])
        if first and (prefer_first or (few and not last)):
            array = np.moveaxis(array, 0, 2)
        if array.shape[2] == 1:
            array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            "an image array must be (height, width), (height, width, 3 or 4) or (3 or 4, height, "
            f"width), got {array.shape}"
        )
    return array


def _eight_bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype == np.bool_:
        array = array.astype(np.int64) * 255
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = np.rint(array / 257.0).astype(np.int64)  # 65535 -> 255
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(
                "a float image array must be finite and within [0, 1]; for 0..255 use uint8"
            )
        array = np.rint(array * 255).astype(np.int64)
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise ImageError(f"an image array of {array.dtype} must be within 0..255")
    return array.astype(np.uint8)


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
