"""Numpy's files: nothing is allocated, decompressed or evaluated before it was checked.

`numpy.load` trusts a file: it evaluates the header as Python, allocates what the header claims, and
lets the errors of zip, zlib and tokenizer through. Here

1. the header is matched against the few forms that numpy writes; pickled objects are refused;
2. what it claims must be what the file, or the member of the archive, holds, byte for byte;
3. an archive may hold plain or deflated members with plain names, no more bytes in all than its
   reader allows, and no member more than deflate can have come from.
"""

from __future__ import annotations

import ast
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from causal_lvlm.errors import OutputError
from causal_lvlm.storage import write_bytes, write_json

__all__ = ["MAX_BYTES", "read_array", "read_arrays", "read_beside", "write_beside"]

MAX_BYTES = 2 * 2**30  # of all arrays of a result together
MAX_MEMBERS = 10_000
_MAX_HEADER = 64_000
_EXPANSION = 1032  # deflate makes at most 258 bytes of 2 bits
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
_CODE = r"[<>|=]?[a-zA-Z?]\d{0,9}(?:\[\w{1,8}\])?"
_STRING = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
_HEADER = re.compile(rf"(?:[\s{{}}()\[\],:]|{_STRING}|\d{{1,19}}L?|True|False)+")


def read_array(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read a ``.npy`` file.

    Raises
    ------
    OutputError
        If it cannot be read, holds objects, or is not what its header says.
    """
    try:
        with Path(path).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            dtype, shape, order = _header(stream)
            _check_size(dtype, shape, size - stream.tell())
            found = np.fromfile(stream, dtype, math.prod(shape))
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:  # its own messages, and those of `_header`
        raise OutputError(f"{str(path)!r} holds no array: {error}") from error
    return found.reshape(shape, order=order)


def read_arrays(
    path: str | os.PathLike[str], most: int | None = MAX_BYTES
) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a ``.npz`` file, by name.

    Parameters
    ----------
    path : path_like
    most : int or None
        Bytes that the arrays may take in all.

    Raises
    ------
    OutputError
        If it cannot be read, an array holds objects, or they are not what the archive says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, most)
            return {
                info.filename.removesuffix(".npy"): _member(archive, info)
                for info in members
                if info.filename.endswith(".npy")
            }
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    # What zipfile raises for archives that are damaged, cut, encrypted or of another kind.
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
        ValueError, OverflowError,
    ) as error:  # fmt: skip
        raise OutputError(f"{str(path)!r} holds no arrays: {error or 'it is cut off'}") from error


def read_beside(path: str | os.PathLike[str], value: Mapping[str, Any]) -> dict[str, Any]:
    """Read the arrays of a saved result, which lie in a file beside it that it names.

    Raises
    ------
    OutputError
        If it names no file of its own folder, or as `read_arrays`.
    """
    name = value.get("arrays")
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise OutputError("arrays must be the name of a file beside this one")
    return read_arrays(Path(path).with_name(name))


def write_beside(
    path: str | os.PathLike[str],
    kind: str,
    value: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> Path:
    """Write a result as JSON and its arrays beside it (same name, ``.npz``); return the path.

    Raises
    ------
    OutputError
        If a file cannot be written, or the path is that of the arrays.
    """
    target = Path(path)
    if target.suffix == ".npz":
        raise OutputError(f"{str(target)!r} is where the arrays go; give a name in .json")
    beside = target.with_suffix(".npz")
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    write_bytes(beside, stream.getvalue())
    return write_json(target, {"kind": kind, "arrays": beside.name, **value})


def _check_members(members: list[zipfile.ZipInfo], most: int | None) -> None:
    total = sum(info.file_size for info in members)
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members, more than {MAX_MEMBERS}")
    if most is not None and total > most:
        raise ValueError(f"its arrays take {total / 2**30:.1f} GiB, more than {most / 2**30:.1f}")
    names = [info.filename for info in members]
    if len(set(names)) < len(names):
        raise ValueError("two of its members have the same name")
    for info in members:
        if info.flag_bits & 0x1:
            raise ValueError(f"its member {info.filename[:60]!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its member {info.filename[:60]!r} is compressed in an unknown way")
        if ".." in info.filename or info.filename.startswith(("/", "\\")):
            raise ValueError(f"its member {info.filename[:60]!r} has the name of another folder")
        if info.file_size > _EXPANSION * info.compress_size + 64:
            raise ValueError(f"its member {info.filename[:60]!r} claims more than it can hold")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(info) as stream:
        dtype, shape, order = _header(stream)
        _check_size(dtype, shape, info.file_size - stream.tell())
        data = stream.read()  # its checksum is compared at the end
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)


def _header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
    """Return type, shape and order that the header of an array claims; `ValueError` otherwise."""
    start = stream.read(8)
    form = _LENGTHS.get(start[6:8])
    if start[:6] != b"\x93NUMPY" or form is None:
        raise ValueError("it does not begin like an array of numpy")
    length = stream.read(struct.calcsize(form))
    size = struct.unpack(form, length)[0] if len(length) == struct.calcsize(form) else -1
    header = stream.read(size) if 0 <= size <= _MAX_HEADER else b""
    if len(header) != size:
        raise ValueError("its header is cut off or too long")
    value = _evaluated(header.decode("utf-8" if start[6:8] == b"\x03\x00" else "latin1"))
    shape = value.get("shape")
    if (
        value.keys() != {"descr", "fortran_order", "shape"}
        or not isinstance(shape, tuple)
        or not all(type(n) is int and n >= 0 for n in shape)
        or len(shape) > 32
        or type(value["fortran_order"]) is not bool
    ):
        raise ValueError("its header is not that of an array")
    return _dtype(value["descr"]), shape, "F" if value["fortran_order"] else "C"


def _evaluated(header: str) -> dict[Any, Any]:
    """Evaluate a header that holds nothing but brackets, short numbers and strings."""
    depth = np.cumsum([(c in "([{") - (c in ")]}") for c in re.sub(_STRING, "", header)])
    if not _HEADER.fullmatch(header) or depth.max(initial=0) > 6:
        raise ValueError("its header is not that of an array")
    try:
        value = ast.literal_eval(re.sub(r"(?<=\d)L", "", header).strip())
    except (SyntaxError, TypeError) as error:  # unbalanced, or a list as a key
        raise ValueError("its header is not that of an array") from error
    if not isinstance(value, dict):
        raise ValueError("its header is not that of an array")
    return value


def _dtype(code: Any) -> np.dtype[Any]:
    """Return the type that a header names: one of numpy's, or columns of them with names."""
    if isinstance(code, list) and code:
        fields = [f for f in code if isinstance(f, tuple) and len(f) == 2]
        if len(fields) == len(code) and all(isinstance(n, str) and n for n, _ in fields):
            return np.dtype([(name, _dtype(inner)) for name, inner in fields])
    if not isinstance(code, str) or not re.fullmatch(_CODE, code):
        raise ValueError("its header names a type that is none of numbers")
    try:
        dtype = np.dtype(code)
    except TypeError as error:
        raise ValueError(f"its header names the unknown type {code!r}") from error
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    return dtype


def _check_size(dtype: np.dtype[Any], shape: tuple[int, ...], there: int) -> None:
    count: int = math.prod(shape, start=1)
    claimed = count * int(dtype.itemsize)
    if claimed != there or (dtype.itemsize == 0 and count):
        raise ValueError(
            f"its header claims shape {shape} of {dtype}, {claimed} bytes, but {there} are there"
        )
