"""Where compiled kernels are kept on disk: a folder named by the hash of all kernel sources.

numba looks for machine code by the path of a kernel's file, so that every place where the package
is installed compiles again; and it notices that this file changed, but not that a function it calls
did in another file: after such an edit, or after installing another version over this one, it would
go on running the old machine code. So:

1. The sources of this package are hashed (a millisecond), with the versions of numba and Python and
   the kind of processor. The path is not in it: installed twice, kernels are compiled once.
2. While its modules are imported, numba is told to cache in ``<user cache>/causal-kernels/HASH``,
   or below ``NUMBA_CACHE_DIR`` where that is set; the place is fixed when a function is decorated,
   so nothing else in the process is affected.
3. Folders of other sources are removed when they have not been used for a month.

Where the folder cannot be written to, numba decides as usual, and without a place keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, config
from numba.core.registry import cpu_target

__all__ = ["cache_folder", "cached_names", "own_cache", "source_hash"]

_MONTH = 30 * 24 * 3600.0


def source_hash(root: Path | None = None) -> str:
    """Return the hash of all Python files of a folder, by default of this package."""
    folder = Path(__file__).parent if root is None else root
    digest = hashlib.sha256()
    for source in sorted(folder.rglob("*.py")):
        digest.update(str(source.relative_to(folder)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _machine_hash() -> str:
    """Return a hash of what machine code depends on besides the sources."""
    processor = cpu_target.target_context.codegen().magic_tuple()
    parts = (numba.__version__, sys.version, platform.machine(), processor, config.OPT)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_folder() -> Path | None:
    """Return the folder for these sources, made if need be; None if it cannot be written to."""
    try:
        root = Path(config.CACHE_DIR) if config.CACHE_DIR else _user_cache()
        folder = root / "causal-kernels" / f"{source_hash()}-{_machine_hash()}"
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # "used now"
        if not os.access(folder, os.W_OK):
            return None
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    return folder


def cached_names() -> set[str]:
    """Return the kernels whose machine code is in the folder, as ``module.name``."""
    folder = cache_folder()
    if folder is None:
        return set()
    return {file.name.partition("-")[0] for file in folder.glob("*.nbi")}


def _remove_old(folder: Path) -> None:
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):
            if other != folder and time.time() - other.stat().st_mtime > _MONTH:
                shutil.rmtree(other, ignore_errors=True)


def _locator(folder: Path) -> Any:
    """Return a class that tells numba to keep a function in ``folder``, whatever its path."""

    class Locator(caching._CacheLocator):  # type: ignore[misc]
        def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
            self._py_file, self._lineno = py_file, py_func.__code__.co_firstlineno

        def get_cache_path(self) -> str:
            return str(folder)

        def get_source_stamp(self) -> str:
            return folder.name

        def get_disambiguator(self) -> str:
            return str(self._lineno)

        @classmethod
        def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
            return cls(py_func, py_file)

    return Locator


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Let numba cache the functions decorated inside in this package's folder."""
    folder = cache_folder()
    if folder is None:
        yield
        return
    _remove_old(folder)
    before = caching.CacheImpl._locator_classes
    caching.CacheImpl._locator_classes = [_locator(folder), *before]
    try:
        yield
    finally:
        caching.CacheImpl._locator_classes = before
