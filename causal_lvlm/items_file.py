"""A file of results: JSON lines, of which none is ever half there.

1. The first line holds the configuration; a file with another one is refused, so that results of
   different settings are never mixed.
2. Every finished item is one line, flushed and synced before the next one starts.
3. A last line without its end was being written when the process was killed: it is cut off, with a
   remark. The last line of a key counts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

from causal_lvlm.errors import OutputError
from causal_lvlm.fields import choice, maybe, number, record, settings, text, whole
from causal_lvlm.storage import parse_json, to_jsonable, to_utf8
from causal_lvlm.workers import Key

__all__ = ["ItemsFile", "Line", "UnsavedError", "opened", "read_config", "read_lines"]

KIND = "items"

Line: TypeAlias = dict[str, Any]
"""A line as plain data: of an item its key, digest, seconds, and result or error."""


class UnsavedError(OutputError):
    """A finished item could not be written.

    Attributes
    ----------
    line : dict
        What its line would have held.
    """

    def __init__(self, message: str, line: Line) -> None:
        super().__init__(message)
        self.line = line


def read_lines(path: str | os.PathLike[str]) -> list[Line]:
    """Return one line per item, sorted by key; the last line of a key counts.

    A line is ``{"key", "digest", "seconds", "result"}``, or has ``"error"`` (``{"type",
    "message"}``) instead of the result. A truncated last line is left out.

    Raises
    ------
    OutputError
        If the file cannot be read or is no result of `run_items`.
    """
    lines = _read(Path(path)).lines
    return [lines[key] for key in sorted(lines, key=_order)]


def read_config(path: str | os.PathLike[str]) -> Line:
    """Return the configuration that a file of results was made with; raises `OutputError`."""
    config = _read(Path(path)).config
    if config is None:
        raise OutputError(f"{str(Path(path))!r} holds no results")
    return config


@dataclass
class _Content:
    """A file of results as read: `size` is the number of bytes up to the last whole line."""

    config: Line | None
    lines: dict[Key, Line]
    size: int
    remarks: list[str]


@dataclass
class ItemsFile:
    """An open file of results: what it holds, and what should be said about it."""

    stream: FileIO
    lines: dict[Key, Line]
    remarks: list[str]

    def append(self, value: Line) -> None:
        """Write a line to the disk: whole, or not at all."""
        data = to_utf8(json.dumps(to_jsonable(value), ensure_ascii=False, allow_nan=False) + "\n")
        before = self.stream.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):  # an unbuffered file may take a part
                written += self.stream.write(data[written:])
            os.fsync(self.stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self.stream.truncate(before)
            raise UnsavedError(
                f"cannot append to {self.stream.name!r} ({error.strerror or error}); make room and "
                "start again: what it holds is kept",
                value,
            ) from error


@contextlib.contextmanager
def opened(path: Path, config: Line, restart: bool) -> Iterator[ItemsFile]:
    """Open the file for appending behind its last whole line, with its configuration."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device has no end
            raise OutputError(f"{str(path)!r} is no file; choose another name")
        stream = path.open("ab", buffering=0)  # or closing would write, and fail, once more
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r} ({error.strerror or error}); choose another file"
        ) from error
    with stream:
        _lock(stream, path)
        content = _read(path, first_only=restart)
        if content.config is not None and content.config != config:
            raise OutputError(
                f"{str(path)!r} was made with other settings: {_difference(content.config, config)}"
                "; use the same ones, another file, or restart"
            )
        if stream.tell() != content.size:
            stream.truncate(content.size)
        file = ItemsFile(stream, content.lines, content.remarks)
        if content.config is None:
            file.append({"kind": KIND, "config": config})
        yield file


def _read(path: Path, *, first_only: bool = False) -> _Content:
    """Read a file of results; of one that is to be thrown away, the first line."""
    try:
        with path.open("rb") as stream:
            data = stream.readline() if first_only else stream.read()
    except OSError as error:
        raise OutputError(f"cannot read results from {str(path)!r}: {error}") from error
    size = data.rfind(b"\n") + 1
    if size == 0 and not _may_be_cut_off(data):
        raise OutputError(_FOREIGN.format(path=str(path)))
    remarks = []
    if size < len(data):
        remarks.append(
            f"the last line of {path.name} was cut off ({len(data) - size} bytes): left out"
        )
    config: Line | None = None
    lines: dict[Key, Line] = {}
    for place, raw in enumerate(data[:size].split(b"\n")[:-1], start=1):
        try:
            value = parse_json(raw)
            if place == 1:
                config = dict(_HEAD(value, "")["config"])
            else:
                lines[_key_of(value)] = value
        except (ValueError, OutputError) as error:
            if place == 1:
                raise OutputError(_FOREIGN.format(path=str(path))) from error
            raise OutputError(
                f"line {place} of {str(path)!r} is no line of results ({error}); choose "
                "another file, or restart to overwrite this one"
            ) from error
    if first_only:
        return _Content(None, {}, 0, [])
    return _Content(config, lines, size, remarks)


_FOREIGN = "the file {path!r} holds no results of this kind and is left as it is; choose another"


def _may_be_cut_off(data: bytes) -> bool:
    """Whether this is the beginning of what we write first: the process was killed meanwhile."""
    first = json.dumps({"kind": KIND, "config": 0}).partition("0")[0].encode()
    return data.startswith(first) or first.startswith(data)


def _key(value: Any, where: str) -> Key:
    return text(value, where) if isinstance(value, str) else whole(None, None)(value, where)


_HEAD = record({"kind": choice(KIND), "config": settings()})
_ERROR = record({"type": text, "message": text})
_LINE = {"key": _key, "digest": maybe(text), "seconds": number(0.0)}
_LINES = {
    "result": record({**_LINE, "result": settings()}, {"digest", "seconds"}),
    "error": record({**_LINE, "error": _ERROR}, {"digest", "seconds"}),
}


def _key_of(value: Any) -> Key:
    """Return the key of a line; everybody who reads lines relies on what is checked here."""
    kind = "error" if isinstance(value, dict) and "error" in value else "result"
    key: Key = _LINES[kind](value, "")["key"]
    return key


def _lock(stream: FileIO, path: Path) -> None:
    """Refuse a second writer, where the system knows such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"another process is writing {str(path)!r}; wait for it or choose another file"
        ) from None
    except OSError:  # a file system without locks
        return


def _difference(old: Line, new: Line) -> str:
    def shown(values: Line, name: str) -> str:
        return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"

    names = [n for n in sorted({*old, *new}) if n not in old or n not in new or old[n] != new[n]]
    return ", ".join(f"{n} was {shown(old, n)}, now {shown(new, n)}" for n in names)


def _order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key
