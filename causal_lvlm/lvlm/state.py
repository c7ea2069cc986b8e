"""What some models remember between calls, put back as it was.

Models of the Qwen-VL kind work out positions in the first call of a generation and keep what calls
by hand need later (``rope_deltas``) on the model itself. A user who stands between two calls of a
generation of their own must not find ours there, and theirs, perhaps of a larger batch, must not
meet our calls. (Generations by ``generate`` carry their positions with them, and all other calls of
this package are given theirs, so that several may run at once.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

__all__ = ["Remembered", "remembered_by"]

_NAME = "rope_deltas"


class Remembered:
    """The positions that one model remembers; nothing happens for models that remember none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[tuple[dict[str, Any], Any]] = []

    @contextmanager
    def aside(self, modules: Iterable[torch.nn.Module]) -> Iterator[None]:
        """Set aside what the model's modules remember; the last block to end puts it back."""
        with self._lock:
            if not self._users:
                holders = [vars(module) for module in modules if _NAME in vars(module)]
                self._before = [(holder, holder[_NAME]) for holder in holders]
                for holder in holders:
                    holder[_NAME] = None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    for holder, value in self._before:
                        holder[_NAME] = value
                    self._before = []


_known: WeakKeyDictionary[torch.nn.Module, Remembered] = WeakKeyDictionary()
_lock = threading.Lock()


def remembered_by(model: torch.nn.Module) -> Remembered:
    """Return what is remembered by a model; the same object every time."""
    with _lock:
        return _known.setdefault(model, Remembered())
