"""Work over items, in this process or in several: items go in, outcomes come out as they finish.

1. An item that raises becomes an outcome with its error.
2. Several processes are spawned; each calls `setup` once and is then given one item after another
   over a pipe. A process that dies takes only its item along: another one is started.
3. Signals to end belong to the parent, which stops the others: a signal to all of them (a closed
   terminal, Ctrl-C) must not look as if an item had killed its process.
4. A parent that is killed takes the others along, also in the middle of an item.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

from causal_lvlm.errors import CausalLVLMError, one_line
from causal_lvlm.storage import to_jsonable

__all__ = ["Key", "Setup", "Work", "end_with_parent", "outcomes_of"]

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

Key: TypeAlias = "str | int"
Work: TypeAlias = Callable[[Any, Any], Mapping[str, Any]]
Setup: TypeAlias = Callable[[], Any]
Outcomes: TypeAlias = Generator[tuple[Key, dict[str, Any]], None, None]


def outcomes_of(items: Mapping[Any, Any], work: Work, setup: Setup | None, jobs: int) -> Outcomes:
    """Yield (key, outcome) of every item as it finishes.

    Parameters
    ----------
    items : mapping of str or int to object
    work, setup : callable
        See `causal_lvlm.runner.run_items`.
    jobs : int
        Number of processes; with 1, or for one item, the work is done here.

    Yields
    ------
    key : str or int
    outcome : dict
        ``{"seconds", "result"}`` or ``{"seconds", "error": {"type", "message"}}``.

    Raises
    ------
    Exception
        Whatever `setup` raises.
    CausalLVLMError
        If processes die before they are given anything.
    KeyboardInterrupt
        On Ctrl-C, and where the caller makes other signals raise it, also where the work caught it.
    """
    jobs = min(jobs, len(items))
    return _serial(items, work, setup) if jobs < 2 else _parallel(items, work, setup, jobs)


def _attempt(item: Any, work: Work, state: Any) -> dict[str, Any]:
    """Return what a line says about an item besides its key."""
    started = time.perf_counter()
    try:
        result = to_jsonable(dict(work(item, state)))
        json.dumps(result, allow_nan=False)  # here, where the item can be blamed
        outcome = {"result": result}
    except Exception as error:  # an item may fail in any way; the others go on
        outcome = {"error": _error(error)}
    return {"seconds": round(time.perf_counter() - started, 3), **outcome}


def _error(error: BaseException) -> dict[str, str]:
    return {"type": type(error).__name__, "message": one_line(error)}


def _serial(items: Mapping[Any, Any], work: Work, setup: Setup | None) -> Outcomes:
    if not items:
        return
    state = None if setup is None else setup()
    with _noted_end() as ended:
        for key, item in items.items():
            outcome = _attempt(item, work, state)
            if ended.is_set():  # the work caught Ctrl-C: what it returned is not whole
                raise KeyboardInterrupt
            yield key, outcome


@contextlib.contextmanager
def _noted_end() -> Iterator[threading.Event]:
    """Note Ctrl-C, and what ends like it, besides raising what the work may catch."""
    noted = threading.Event()
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        noted.set()
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in _signals_to_end():
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals_to_end() -> list[int]:
    """Return the signals by which people and systems ask a process to end, as far as known here."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def end_with_parent() -> None:
    """End this process as soon as the one that started it ends, however that ends.

    For processes that were spawned. A thread watches the parent. Where the kernel can (Linux), it
    does so as well: then the process ends even while native code holds Python's lock. The kernel
    means the thread that started this process, so that one must not end before.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
    # A parent that ended before the call does not count for the kernel: the thread has seen it.
    if sys.platform == "linux" and os.getppid() == parent.pid:
        with contextlib.suppress(OSError, AttributeError):  # a libc without it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Worker:
    """A process that does one item after another; `current` is the key of the item in work."""

    def __init__(self, work: Work, setup: Setup | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(other, work, setup), daemon=True
        )
        self.process.start()
        other.close()  # or the end of the process would not close the pipe
        self.current: Key | None = None

    def give(self, key: Key, item: Any) -> None:
        self.current = key
        self.pipe.send((key, item))

    def stop(self) -> None:
        self.process.kill()  # all that it has is an answer that nobody wants any more
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Work, setup: Setup | None) -> None:
    """Run in a worker process: say ready, then answer each item, until the pipe ends."""
    end_with_parent()
    for number in _signals_to_end():
        signal.signal(number, signal.SIG_IGN)  # the parent's to handle
    try:
        state = None if setup is None else setup()
    except Exception as error:
        pipe.send(("setup", _portable(error)))
        return
    pipe.send(("ready", None))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            _key, item = pipe.recv()
            pipe.send(("outcome", _attempt(item, work, state)))


def _portable(error: Exception) -> Exception:
    """Return an error that another process can raise."""
    if isinstance(error, CausalLVLMError) and error.args == (str(error),):
        return error
    return CausalLVLMError(f"{type(error).__name__}: {error}")


def _parallel(items: Mapping[Any, Any], work: Work, setup: Setup | None, jobs: int) -> Outcomes:
    queue = deque(items.items())
    workers: list[_Worker] = []
    deaths_at_start = 0
    try:
        workers += [_Worker(work, setup) for _ in range(jobs)]
        while workers:
            ready = wait([w.pipe for w in workers])
            for worker in [w for w in workers if w.pipe in ready]:
                finished = worker.current
                try:
                    said, value = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    workers.remove(worker)
                    died = f"its process ended with code {worker.process.exitcode}"
                    if finished is None:
                        deaths_at_start += 1
                        if deaths_at_start > jobs:
                            raise CausalLVLMError(
                                f"a worker could not start: {died}; try jobs=1"
                            ) from None
                    else:
                        yield finished, {"error": {"type": "WorkerDied", "message": died}}
                    if queue or finished is None:
                        workers.append(_Worker(work, setup))
                    continue
                if said == "setup":
                    raise value
                if queue:
                    worker.give(*queue.popleft())
                else:
                    worker.stop()
                    workers.remove(worker)
                if said == "outcome" and finished is not None:
                    yield finished, value
    finally:
        for worker in workers:
            worker.stop()
