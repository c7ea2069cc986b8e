"""Long work over many items: resumable, parallel over processes, nothing finished is ever lost.

1. The results are one file of JSON lines. The first line holds the configuration; a file with
   another configuration is refused, so that results of different settings are never mixed.
2. Items that the file already holds are skipped (failed ones too, unless `retry_errors`). A last
   line without its end was being written when the process was killed: it is cut off, with a
   remark, and its item is done again.
3. Every finished item is one line, flushed and synced before the next one starts: a killed run
   loses at most the items in work, one per process.
4. With several jobs, processes are spawned and each calls `setup` once (to load a model); items
   are handed out one by one over a pipe. Lines then come in the order in which items finish.
5. An item that fails becomes a line with its error, and so does one whose process dies; the
   others go on.

The work of an item must depend on nothing but the item and what `setup` returned; then any number
of processes gives the same results.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

from causal_lvlm.checks import whole_number
from causal_lvlm.errors import OutputError
from causal_lvlm.fields import choice, maybe, number, record, settings, text, whole
from causal_lvlm.storage import parse_json, to_jsonable, to_utf8
from causal_lvlm.workers import Key, Setup, Work, outcomes_of

__all__ = ["RunSummary", "UnsavedError", "read_config", "read_lines", "run_items"]

KIND = "items"

Progress: TypeAlias = Callable[[str, int, int], None]


class UnsavedError(OutputError):
    """A finished item could not be written.

    Attributes
    ----------
    line : dict
        What its line would have held.
    """

    def __init__(self, message: str, line: dict[str, Any]) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class RunSummary:
    """What one call of `run_items` did.

    Attributes
    ----------
    done, failed : tuple of str or int
        Keys of the items worked on now, by outcome.
    skipped : tuple of str or int
        Keys of the items that the file held already.
    remarks : tuple of str
        What a reader should know: a line cut off, items that changed since.
    """

    done: tuple[Key, ...]
    failed: tuple[Key, ...]
    skipped: tuple[Key, ...]
    remarks: tuple[str, ...]


def run_items(
    items: Mapping[Any, Any],
    work: Work,
    out_path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    jobs: int = 1,
    setup: Setup | None = None,
    restart: bool = False,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> RunSummary:
    """Do the work of every item that the file does not hold yet, and append the results.

    Parameters
    ----------
    items : mapping of str or int to object
        What `work` gets, by key. If an item is plain data and differs from what its line was made
        of, it is done again.
    work : callable
        ``work(item, state)`` returns a mapping for JSON; `state` is what `setup` returned. With
        several jobs, both functions and the items must be picklable (functions of a module).
    out_path : path_like
        File of JSON lines, created with its folder.
    config : mapping, optional
        Settings that the results depend on: the first line of the file.
    jobs : int
        Number of processes; 1 works in this one.
    setup : callable, optional
        Called without arguments, once per process.
    restart : bool
        Throw existing results away; a file that is no result of this function is refused as ever.
    retry_errors : bool
        Do failed items again.
    progress : callable, optional
        ``progress(key, done, total)`` after each item; `total` counts the skipped ones too.

    Returns
    -------
    RunSummary

    Raises
    ------
    UnsavedError
        If an item cannot be written once it is done.
    OutputError
        If the file cannot be written, is no result of this function, was made with another
        configuration, or another process is writing it.
    ValueError
        If `jobs` is not positive.
    KeyboardInterrupt
        On Ctrl-C; everything finished is in the file.
    """
    whole_number("jobs", jobs, 1)
    plain_config = _plain(dict(config or {}))
    with _opened(Path(out_path), plain_config, restart) as file:
        skipped, remarks = [], list(file.remarks)
        digests = {key: _digest(item) for key, item in items.items()}
        for key in items:
            line = file.lines.get(key)
            if line is None or (retry_errors and "error" in line):
                continue
            if line.get("digest") != digests[key]:
                remarks.append(f"item {key!r} is not what its line was made of: done again")
                continue
            skipped.append(key)
        waiting = {key: items[key] for key in items if key not in set(skipped)}
        done: list[Key] = []
        failed: list[Key] = []
        if progress is not None and skipped:
            progress("already done", len(skipped), len(items))
        outcomes = outcomes_of(waiting, work, setup, jobs)
        with contextlib.closing(outcomes):
            for key, outcome in outcomes:
                (failed if "error" in outcome else done).append(key)
                file.append({"key": key, "digest": digests[key], **outcome})
                if progress is not None:
                    progress(str(key), len(skipped) + len(done) + len(failed), len(items))
    return RunSummary(tuple(done), tuple(failed), tuple(skipped), tuple(remarks))


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
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


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the configuration that a file of results was made with; raises `OutputError`."""
    config = _read(Path(path)).config
    if config is None:
        raise OutputError(f"{str(Path(path))!r} holds no results")
    return config


@dataclass
class _Content:
    """A file of results as read: `size` is the number of bytes up to the last whole line."""

    config: dict[str, Any] | None
    lines: dict[Key, dict[str, Any]]
    size: int
    remarks: list[str]


@dataclass
class _File:
    stream: FileIO
    lines: dict[Key, dict[str, Any]]
    remarks: list[str]

    def append(self, value: dict[str, Any]) -> None:
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
def _opened(path: Path, config: dict[str, Any], restart: bool) -> Iterator[_File]:
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
        file = _File(stream, content.lines, content.remarks)
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
    config: dict[str, Any] | None = None
    lines: dict[Key, dict[str, Any]] = {}
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


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    def shown(values: dict[str, Any], name: str) -> str:
        return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"

    names = [n for n in sorted({*old, *new}) if n not in old or n not in new or old[n] != new[n]]
    return ", ".join(f"{n} was {shown(old, n)}, now {shown(new, n)}" for n in names)


def _order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key


def _plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return json.loads(json.dumps(to_jsonable(value), allow_nan=False))


def _digest(item: Any) -> str | None:
    """Return a short name of what an item is, None where it is no plain data."""
    try:
        text = json.dumps(to_jsonable(item), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:12]
