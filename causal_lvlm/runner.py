"""Long work over many items: resumable, parallel over processes, nothing finished is ever lost.

1. The results are one file of JSON lines with its configuration (`causal_lvlm.items_file`).
2. Items that the file already holds are skipped (failed ones too, unless `retry_errors`); one whose
   line was cut off is done again.
3. A killed run loses at most the items in work, one per process.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from causal_lvlm.checks import whole_number
from causal_lvlm.items_file import opened
from causal_lvlm.storage import to_jsonable
from causal_lvlm.workers import Key, Setup, Work, outcomes_of

__all__ = ["RunSummary", "run_items"]

Progress: TypeAlias = Callable[[str, int, int], None]


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
    with opened(Path(out_path), plain_config, restart) as file:
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
