"""Being told to end: SIGTERM and SIGHUP end a command like Ctrl-C, and the exit code says which.

1. Everywhere in the package Ctrl-C is a `KeyboardInterrupt`, and whoever has results answers it by
   keeping them. A command that is told to end raises the same, so that it ends the same way.
2. A signal that this process was started with as ignored stays ignored: ``nohup`` is asked for by
   people who want to log out while the work goes on.
3. Whoever ends a session often sends two signals at once (SIGTERM and SIGHUP): they are one
   request. A later one is like a second Ctrl-C: it also ends the saving of what was found.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Ending", "told_to_end"]

_ONE_REQUEST = 1.0  # seconds within which signals are one request


class Ending:
    """Which signal asked for the end first, if any did.

    Attributes
    ----------
    number : int or None
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at = 0.0

    def note(self, number: int) -> bool:
        """Note a signal; return whether it is a request of its own."""
        now = time.monotonic()
        own = self.number is None or now - self._at > _ONE_REQUEST
        if self.number is None:
            self.number, self._at = number, now
        return own

    def code(self, code: Any) -> Any:
        """Return the exit code: 128 and the signal's number for a command that it ended."""
        return 128 + self.number if self.number is not None and code not in (0, None) else code


@contextmanager
def told_to_end() -> Iterator[Ending]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP as for Ctrl-C, inside the block."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():  # no handlers but there
        yield ending
        return

    def end(number: int, frame: Any) -> None:
        if ending.note(number):
            raise KeyboardInterrupt

    def interrupt(number: int, frame: Any) -> None:
        ending.note(number)
        raise KeyboardInterrupt

    before = {}
    for name, handler, default in (
        ("SIGINT", interrupt, signal.default_int_handler),
        ("SIGTERM", end, signal.SIG_DFL),
        ("SIGHUP", end, signal.SIG_DFL),
    ):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == default:
            before[number] = signal.signal(number, handler)
    try:
        yield ending
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
