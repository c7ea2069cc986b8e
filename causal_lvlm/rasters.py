"""Pictures as text inside saved results, and the limits that hold before any of them is decoded.

A picture is small as a file and large in memory, so the number of pictures, the pixels of each and
the sum of their pixels are read from their headers first. Only formats that Pillow decodes by
itself are opened: others start programs (Ghostscript) or read further files.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

from PIL import Image

from causal_lvlm.errors import ImageError, OutputError

__all__ = [
    "DAMAGED", "FORMATS", "MAX_PICTURES", "MAX_TOTAL", "check_pictures", "decode_image",
    "decode_images", "encode_image", "picture_size",
]  # fmt: skip

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PICTURES = 64  # of one run of a model
MAX_TOTAL = 200_000_000  # their pixels in all; more than the largest picture that can be handed in
# What Pillow's decoders raise for damaged data (much of it Pillow catches itself while it
# identifies a file), and for files that were closed meanwhile.
DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError, OverflowError,
    AttributeError, AssertionError, MemoryError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def encode_image(image: Image.Image) -> str:
    """Return an image as base64 PNG text."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a single picture as its header says, without decoding it.

    Raises
    ------
    ImageError
        If it is of no format in `FORMATS`, damaged, an animation, or far too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # callers have limits
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                width, height = opened.size
                frames = getattr(opened, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"the picture has far more pixels than the {MAX_TOTAL / 1e6:.0f} million allowed. Make "
            "it smaller"
        ) from error
    except DAMAGED as error:
        raise ImageError(
            f"this is no picture that can be used; allowed are {', '.join(FORMATS)}"
        ) from error
    if frames > 1:
        raise ImageError(f"the file holds {frames} pictures (an animation?); give a single one")
    if min(width, height) < 1:
        raise ImageError("the picture has no pixels")
    return width, height


def check_pictures(
    encoded: Iterable[Any], where: str = "the pictures", *, each: int = MAX_TOTAL,
    total: int = MAX_TOTAL,
) -> list[bytes]:  # fmt: skip
    """Check pictures as text before any is decoded; return their bytes.

    Parameters
    ----------
    encoded : iterable of str
        As `encode_image` makes them.
    where : str
        What errors call them.
    each, total : int
        Pixels that one of them, and all together, may have.

    Raises
    ------
    OutputError
        If one is no picture, or there are too many of them, or too many pixels.
    """
    texts, found, pixels = list(encoded), [], 0
    if len(texts) > MAX_PICTURES:
        raise OutputError(f"{where}: {len(texts)} pictures; at most {MAX_PICTURES} are allowed")
    for number, item in enumerate(texts, start=1):
        place = where if len(texts) == 1 else f"{where}, picture {number}"
        try:
            if not isinstance(item, str):
                raise ImageError(f"text is needed, not {type(item).__name__}")
            data = base64.b64decode(item)
            width, height = picture_size(data)
        except binascii.Error as error:
            raise OutputError(f"{place}: this is no picture, its text is cut ({error})") from error
        except (ImageError, ValueError) as error:
            raise OutputError(f"{place}: {error}") from error
        pixels += width * height
        if width * height > each or pixels > total:
            allowed = each if width * height > each else total
            so_far = f"{width} x {height} pixels" if pixels == width * height else (
                f"{pixels / 1e6:.0f} million pixels with those before it"
            )  # fmt: skip
            raise OutputError(f"{place}: {so_far}; allowed are {allowed / 1e6:.0f} million")
        found.append(data)
    return found


def decode_images(encoded: Iterable[Any], where: str = "the pictures") -> tuple[Image.Image, ...]:
    """Invert `encode_image` for all pictures of a run.

    Raises
    ------
    OutputError
        As `check_pictures`, which comes first; if one cannot be decoded.
    """
    images = []
    for data in check_pictures(encoded, where):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    images.append(image.convert("RGB"))
        except DAMAGED as error:
            raise OutputError(f"{where}: one cannot be decoded ({error})") from error
    return tuple(images)


def decode_image(text: str) -> Image.Image:
    """Invert `encode_image`; raises `OutputError`."""
    return decode_images([text], "the picture")[0]
