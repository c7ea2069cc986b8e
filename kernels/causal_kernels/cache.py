"""Where compiled kernels are kept on disk: a folder named by the hash of all kernel sources.

numba notices that a kernel's own file changed, but not that a function it calls did in another
file: after such an edit, or after installing another version over this one, it would go on running
the old machine code. So:

1. The sources of this package are hashed (a millisecond).
2. While its modules are imported, numba is told to cache below ``<user cache>/causal-kernels/``;
   the place is fixed when a function is decorated, so nothing else in the process is affected.
3. Folders of other sources are removed when they have not been used for a month.

Where ``NUMBA_CACHE_DIR`` is set, or the folder cannot be written to, numba decides as usual.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from numba.core import config

__all__ = ["cache_folder", "own_cache", "source_hash"]

_MONTH = 30 * 24 * 3600.0


def source_hash(root: Path | None = None) -> str:
    """Return the hash of all Python files of a folder, by default of this package."""
    folder = Path(__file__).parent if root is None else root
    digest = hashlib.sha256()
    for source in sorted(folder.rglob("*.py")):
        digest.update(str(source.relative_to(folder)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_folder() -> Path | None:
    """Return the folder for these sources, made if need be; None if numba is to decide."""
    if config.CACHE_DIR:
        return None
    try:
        folder = _user_cache() / "causal-kernels" / source_hash()
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # "used now"
        if not os.access(folder, os.W_OK):
            return None
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    return folder


def _remove_old(folder: Path) -> None:
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):
            if other != folder and time.time() - other.stat().st_mtime > _MONTH:
                shutil.rmtree(other, ignore_errors=True)


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Let numba cache the functions decorated inside in this package's folder."""
    folder = cache_folder()
    if folder is None:
        yield
        return
    _remove_old(folder)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before
