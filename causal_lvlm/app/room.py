"""How much pages may hand in and keep on the disk; old files make room for new ones."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

from causal_lvlm.app.turns import BusyError
from causal_lvlm.errors import OutputError

__all__ = ["Room", "Taken", "own_folder"]

_FRESH = 60.0  # seconds for which a file is surely still wanted
_PREFIX = "causal-lvlm-app-"
_WITHIN = 600.0  # seconds within which what is handed in is counted


class Room:
    """A folder of bounded size, of which the oldest files are removed.

    Parameters
    ----------
    folder : pathlib.Path
        It need not be there yet. What is older than a minute may be removed.
    most : int
        Bytes.
    files : int
        Number of files.
    """

    def __init__(self, folder: Path, most: int, files: int = 2000) -> None:
        self.folder, self.most, self.files = folder, most, files
        self._lock = threading.Lock()

    def make(self, size: int = 0) -> None:
        """Remove the oldest files until so many bytes fit.

        Raises
        ------
        BusyError
            If they do not, and everything there is fresh.
        """
        with self._lock:
            there = deque(sorted(self._there()))
            used = sum(bytes_there for _, bytes_there, _ in there)

            def full() -> bool:
                return used + size > self.most or len(there) >= self.files

            while there and full() and time.time() - there[0][0] > _FRESH:
                _, bytes_there, path = there.popleft()
                path.unlink(missing_ok=True)
                used -= bytes_there
            if full():
                raise BusyError(
                    "the server has no room for more files just now; try again in a minute"
                )

    def _there(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.folder.rglob("*"):
            try:
                facts = path.lstat()
            except OSError:  # somebody else has removed it
                continue
            if path.is_symlink() or path.is_file():
                found.append((facts.st_mtime, facts.st_size, path))
        return found


def own_folder() -> tuple[Path, IO[str] | None]:
    """Return a new folder and its lock, and remove the folders of servers that were killed.

    Whoever is alive holds a lock on a file of its folder, where the system knows such locks; a
    folder without that file is left alone.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        import fcntl
    except ImportError:  # Windows
        return folder, None
    lock = (folder / "lock.new").open("w")  # locked as long as it is open
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "lock.new").rename(folder / "lock")
    for other in folder.parent.glob(_PREFIX + "*"):
        try:
            with (other / "lock").open("r+") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other, ignore_errors=True)
        except OSError:  # it is in use, somebody else's, or has none
            continue
    return folder, lock


class Taken:
    """Counts what one page hands in.

    Parameters
    ----------
    most, most_bytes : int
        Files within ten minutes, and their bytes.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._taken: deque[tuple[float, int]] = deque()  # when, and bytes

    def count(self, path: str | os.PathLike[str]) -> Path:
        """Count a file and return its path.

        Raises
        ------
        BusyError
            If it is too much.
        OutputError
            If it is not there any more.
        """
        now = time.monotonic()
        try:
            size = Path(path).stat().st_size
        except OSError as error:
            raise OutputError("the file that was handed in is gone; hand it in again") from error
        with self._lock:
            while self._taken and self._taken[0][0] < now - _WITHIN:
                self._taken.popleft()
            total = size + sum(bytes_taken for _, bytes_taken in self._taken)
            if len(self._taken) >= self.most or total > self.most_bytes:
                raise BusyError(
                    f"a page hands in at most {self.most} files, and "
                    f"{self.most_bytes / 1e6:.0f} MB, within ten minutes; try again later"
                )
            self._taken.append((now, size))
        return Path(path)
