"""One thread for small models, for the length of a call.

On a busy machine a small model is many times faster on one thread than on several, which spin while
they wait for each other. The setting is put back when the call ends, so that nobody else's work in
the same process is slowed down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]

_lock = threading.Lock()
_users = 0
_original = 1
_depth = threading.local()


@contextmanager
def one_thread(active: bool = True) -> Iterator[None]:
    """Run torch on one thread inside the block; blocks may nest, also across Python threads.

    The number of threads is a setting of each Python thread with a process-wide default: every
    outermost block sets its own, and restores what the first of all blocks found.
    """
    global _users, _original
    depth = getattr(_depth, "value", 0)
    outermost = active and depth == 0
    _depth.value = depth + (1 if active else 0)
    if outermost:
        with _lock:
            # Asked even when not needed: a thread's first question resets its own setting.
            current = torch.get_num_threads()
            if _users == 0:
                _original = current
            _users += 1
            torch.set_num_threads(1)
    try:
        yield
    finally:
        _depth.value = depth
        if outermost:
            with _lock:
                _users -= 1
                torch.set_num_threads(_original)
