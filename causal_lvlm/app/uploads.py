"""What people hand in, checked before anything else looks at it.

1. Pictures: a whitelist of formats, a limit in bytes, and a limit in pixels that is read from the
   header before anything is decoded (a decompression bomb is small as a file).
2. Saved explanations: a limit in bytes, and the pictures inside it under the same limits, with
   limits of their number and of their pixels in all.
3. Strokes painted over a picture: numbers, within limits.
4. Names in a link: files inside the results folder, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.errors import ImageError, OutputError
from causal_lvlm.rasters import FORMATS, check_pictures, picture_size
from causal_lvlm.storage import read_json
from causal_lvlm.summary import pictures_of

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "checked_image",
    "checked_json",
    "inside_folder",
    "painted",
]

MAX_BYTES = 20_000_000
MAX_PIXELS = 25_000_000  # of one picture
MAX_TOTAL = 50_000_000  # of all pictures of one explanation
MAX_JSON_BYTES = 64_000_000
_MAX_POINTS = 20_000
_MAX_STROKES = 500


def checked_image(data: bytes | str | os.PathLike[str]) -> Image.Image:
    """Open a picture that somebody uploaded.

    Parameters
    ----------
    data : bytes or path

    Returns
    -------
    PIL.Image.Image
        Upright RGB (see `causal_lvlm.lvlm.images`).

    Raises
    ------
    ImageError
        If it is too large as a file or as a picture, of another type, or damaged.
    """
    if not isinstance(data, bytes):
        path = Path(data)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ImageError(_too_large(path.stat().st_size))
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"the upload cannot be read ({error.strerror}); try again") from error
    if len(data) > MAX_BYTES:
        raise ImageError(_too_large(len(data)))
    _check_header(data)
    from causal_lvlm.lvlm.images import open_image

    return open_image(data)


def _too_large(size: int) -> str:
    return (
        f"the file has {size / 1e6:.1f} MB; allowed are {MAX_BYTES / 1e6:.0f} MB. Save the picture "
        "smaller, or as JPEG"
    )


def _check_header(data: bytes) -> None:
    width, height = picture_size(data)
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the picture has {width} x {height} pixels; allowed are {MAX_PIXELS / 1e6:.0f} "
            "million. Make it smaller"
        )


def checked_json(path: str | os.PathLike[str]) -> Path:
    """Check a saved explanation before it is opened: size, and size of the pictures inside.

    Raises
    ------
    OutputError
        If it is too large, no JSON, or holds a picture that is too large, or too many.
    """
    file = Path(path)
    try:
        value = read_json(file, "explanation", most=MAX_JSON_BYTES)
        trace = value.get("trace")
        if not isinstance(trace, dict) or not isinstance(trace.get("more_images", []), list):
            raise OutputError("it holds no whole trace")
        check_pictures(pictures_of(trace), "a picture inside it", each=MAX_PIXELS, total=MAX_TOTAL)
    except OutputError as error:
        told = str(error).replace(repr(str(file)), repr(file.name))  # no path of the server
        raise OutputError(f"{file.name!r} is no explanation that can be opened: {told}") from error
    return file


def painted(
    image: Image.Image, strokes: Sequence[Mapping[str, Any]], *, colour: str = "#808080"
) -> Image.Image:
    """Return a copy of a picture with strokes painted over it.

    Parameters
    ----------
    image : PIL.Image.Image
    strokes : sequence of mapping
        ``points``: pairs of x, y in pixels of the picture; ``width`` in pixels; ``colour`` as
        ``#rrggbb`` (optional).
    colour : str
        Of strokes that do not say theirs.

    Raises
    ------
    ImageError
        If a stroke is not of that form, or there are too many.
    """
    result = image.copy()
    draw = ImageDraw.Draw(result)
    if not isinstance(strokes, (list, tuple)) or len(strokes) > _MAX_STROKES:
        raise ImageError(f"at most {_MAX_STROKES} strokes can be painted at once; apply some first")
    for stroke in strokes:
        try:
            points = np.asarray(stroke["points"], dtype=np.float64).reshape(-1, 2)
            width = float(stroke["width"])
            ink = str(stroke.get("colour") or colour)
            if not (
                np.isfinite(points).all() and len(points) <= _MAX_POINTS and 0 < width < 10_000
            ):
                raise ValueError("out of range")
            if not (len(ink) == 7 and ink[0] == "#"):
                raise ValueError("colour")
            int(ink[1:], 16)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ImageError(f"a stroke cannot be read ({error}); paint again") from error
        line = [(float(x), float(y)) for x, y in points.clip(-1e5, 1e5)]
        if len(line) > 1:
            draw.line(line, fill=ink, width=max(1, round(width)), joint="curve")
        for x, y in line:
            half = width / 2
            draw.ellipse((x - half, y - half, x + half, y + half), fill=ink)
    return result


def inside_folder(folder: Path | None, name: str) -> Path:
    """Return a file of the results folder that a link names.

    Raises
    ------
    OutputError
        If the app was started without such a folder, or the name is not of a JSON file inside it.
    """
    if folder is None:
        raise OutputError(
            "this app was started without --results, so links cannot open files; open the "
            "explanation.json by upload"
        )
    root = folder.resolve()
    try:
        wanted = (root / name).resolve()
        good = wanted.is_relative_to(root) and wanted.suffix == ".json" and wanted.is_file()
    except (OSError, ValueError):  # names that no file system takes
        good = False
    if not good:
        raise OutputError(f"there is no saved explanation {name!r} in the results folder")
    return wanted
