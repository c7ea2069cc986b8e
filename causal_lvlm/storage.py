"""Writing results so that none is lost: atomic files, typed errors, versions of everything used.

Results are JSON; arrays that are too large for it go to a ``.npz`` beside it. No pickle anywhere.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from causal_lvlm.errors import OutputError

__all__ = [
    "decode_image",
    "encode_image",
    "output_folder",
    "read_json",
    "to_jsonable",
    "versions",
    "write_bytes",
    "write_json",
]


@lru_cache(maxsize=1)
def _installed_versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in ("causal-lvlm", "torch", "transformers", "numba", "numpy", "scipy", "networkx"):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of what its results depend on."""
    return dict(_installed_versions())


def to_jsonable(value: Any) -> Any:
    """Turn numpy scalars and arrays, tuples and sets into what JSON knows; NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_jsonable(value.tolist())
    if isinstance(value, (list, tuple, range)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [to_jsonable(item) for item in sorted(value)]
    if isinstance(value, np.generic):
        return to_jsonable(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder for results and prove that it can be written to.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {str(folder)!r} ({error.strerror or error}); "
            "choose another one or change its permissions"
        ) from error
    return folder


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file so that it is either whole or not there (temporary file, then rename).

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            # mkstemp makes private files; results follow the user's umask like any other file.
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"cannot write {str(target)!r} ({error.strerror or error}); "
            "choose another folder or change its permissions"
        ) from error
    return target


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `value` as JSON (see `to_jsonable`), one line per key; raises `OutputError`."""

    def dumps(item: Any) -> str:
        return json.dumps(item, ensure_ascii=False, allow_nan=False)

    plain = to_jsonable(value)
    if isinstance(plain, dict):
        # One line per key stays readable without giving every array element a line of its own.
        lines = [f" {dumps(key)}: {dumps(item)}" for key, item in plain.items()]
        text = "{\n" + ",\n".join(lines) + "\n}"
    else:
        text = dumps(plain)
    return write_bytes(path, (text + "\n").encode())


def read_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a result of a given kind.

    Parameters
    ----------
    path : path_like
    kind : str
        The value that the file's key ``"kind"`` must have.

    Raises
    ------
    OutputError
        If the file cannot be read, is not JSON, or holds another kind of result.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OutputError(f"cannot read a saved {kind} from {str(path)!r}: {error}") from error
    if not isinstance(value, dict) or value.get("kind") != kind:
        found = value.get("kind") if isinstance(value, dict) else type(value).__name__
        raise OutputError(f"{str(path)!r} holds {found!r}, not a saved {kind}")
    return value


def encode_image(image: Image.Image) -> str:
    """Return an image as base64 PNG text."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_image(text: str) -> Image.Image:
    """Invert `encode_image`."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return image.convert("RGB")
