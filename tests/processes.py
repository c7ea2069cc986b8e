"""Processes that tests start and send signals to, whatever pytest itself was started with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENDINGS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


def started(arguments, *, ignored=(), **options):
    """Start Python with the defaults of all signals that end processes, but for those `ignored`.

    A child inherits what its parent ignores: under ``nohup``, and in the background of a script,
    Ctrl-C would never reach it.
    """

    def own_signals():
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    environment = {**os.environ, **options.pop("env", {})}
    paths = [str(ROOT), str(ROOT / "kernels"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, preexec_fn=own_signals, **options
    )


@contextmanager
def ctrl_c_raises():
    """Let SIGINT raise KeyboardInterrupt in this process inside the block."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(condition, seconds=60.0):
    """Wait until something holds; the limit is for tests that fail, not for slow machines."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.01)


def alive(pid):
    """Whether a process runs; one that ended and that nobody asked about does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # no such folder on this system
        return not Path("/proc/self").exists()
