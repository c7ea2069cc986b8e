"""Writing results so that none is lost: atomic files, typed errors, versions of everything used.

Results are JSON; arrays that are too large for it go to a ``.npz`` beside it. No pickle anywhere.

1. A file is whole or not there, and an old one stays until the new one is (`write_bytes`).
2. A file that is read is bounded in size, its JSON in depth, in the length of its numbers, and
   without NaN, names that come twice or text that is no Unicode (`parse_json`). What its fields
   must be is said by a schema (`causal_lvlm.fields`); arrays and pictures have readers of their own
   (`causal_lvlm.npz`, `causal_lvlm.rasters`).
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.errors import OutputError
from causal_lvlm.rasters import decode_image, encode_image

__all__ = [
    "decode_image",
    "encode_image",
    "output_folder",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_object",
    "to_jsonable",
    "to_utf8",
    "versions",
    "write_bytes",
    "write_json",
]


MAX_BYTES = 256_000_000  # of a file of JSON or text
_MAX_DIGITS = 300  # so that every whole number is also a float
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    if not target.name:
        raise OutputError(f"{os.fspath(path)!r} names no file to write; give one")
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
    return write_bytes(path, to_utf8(text + "\n"))


def to_utf8(text: str) -> bytes:
    """Encode text for a file; half of a surrogate pair, which is no character, becomes �."""
    return _SURROGATE.sub("\ufffd", text).encode("utf-8")


def read_bytes(path: str | os.PathLike[str], most: int = MAX_BYTES) -> bytes:
    """Read a file of at most `most` bytes.

    Raises
    ------
    OutputError
        If it cannot be read, or is larger (as a device without an end is).
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot read {str(path)!r}: {reason}") from error
    if len(data) > most:
        raise OutputError(
            f"{str(path)!r} has more than the {most / 1e6:.0f} MB that are read of such a file"
        )
    return data


def parse_json(data: bytes | str) -> Any:
    """Read JSON from outside, more strictly than `json.loads` does.

    Raises
    ------
    ValueError
        If it is no UTF-8 or no JSON; for NaN, infinities and numbers that are as good as infinite;
        for an object in which a name comes twice; for text with half a surrogate pair; for lists
        and objects that are nested too deeply.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_whole, parse_float=_float,
            parse_constant=_float,
        )  # fmt: skip
        if re.search(r"\\u[dD][89a-fA-F]", text) or _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("lists or objects in it are nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ValueError("its text holds half of a surrogate pair, which is no character") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"the name {twice[:40]!r} comes twice in one object")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {digits[:40]}, which is not finite")
    return value


def read_object(path: str | os.PathLike[str], most: int = MAX_BYTES) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    OutputError
        If it cannot be read, is too large, is no JSON (see `parse_json`), or no object.
    """
    data = read_bytes(path, most)
    try:
        value = parse_json(data)
    except ValueError as error:
        raise OutputError(f"cannot read a saved result from {str(path)!r}: {error}") from error
    if not isinstance(value, dict):
        raise OutputError(f"{str(path)!r} holds {type(value).__name__!r}, not a saved result")
    return value


def read_json(
    path: str | os.PathLike[str], kind: str, *, format: int | None = None, most: int = MAX_BYTES
) -> dict[str, Any]:
    """Read a result of a given kind.

    Parameters
    ----------
    path : path_like
    kind : str
        The value that the file's key ``"kind"`` must have.
    format : int, optional
        The latest format that can be read, where files of this kind say theirs.
    most : int
        Bytes that the file may have.

    Raises
    ------
    OutputError
        If the file cannot be read, is not JSON, or holds another kind of result, or one that a
        later version wrote.
    """
    value = read_object(path, most)
    found = value.get("kind")
    if found != kind:
        shown = repr(found[:40]) if isinstance(found, str) else type(found).__name__
        raise OutputError(f"{str(path)!r} holds {shown}, not a saved {kind}")
    known = value.get("format", format)
    if format is not None and (type(known) is not int or not 1 <= known <= format):
        raise OutputError(
            f"{str(path)!r} is of format {str(known)[:40]}, this version reads {format}; read it "
            "with the version that wrote it, or make it again"
        )
    return value
