"""Whose turn it is to use the model: a fair lock, jobs that can be stopped, and their news.

1. Every piece of work is a `Job`. It runs in a thread of its own and tells its news (progress,
   stages, the end) through a list that the page reads.
2. A job needs the turn before it may use a model. Turns are given in the order in which they were
   asked for, so people are answered in order.
3. A long job asks at each step whether somebody waits; if so, and it has had the turn for a while,
   it goes to the end of the line. A short question is thus never stuck behind a long search.
4. While a job works without the model (it learns a graph) it gives its turn away, and stands in
   line again at its next step.
5. Stopping a job makes its next step raise `Stopped`, which is a `KeyboardInterrupt`: the search
   for explaining sets answers that with the best set found so far. Whoever listens hears of it at
   once; what a step in work still finds comes later.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from causal_lvlm.errors import CausalLVLMError

__all__ = ["BusyError", "Job", "News", "Stopped", "Turns"]

_SLICE = 0.4  # seconds of work after which a job lets others go first
_POLL = 0.05


class Stopped(KeyboardInterrupt):
    """The user stopped the work; handled like Ctrl-C."""


class BusyError(CausalLVLMError):
    """Too many people are waiting; try again later."""


@dataclass(frozen=True)
class News:
    """Something a job tells while it runs.

    Attributes
    ----------
    kind : {"progress", "stage", "stopping", "done", "stopped", "error"}
    value : object
        ``progress``: (what, done, total). ``stage``: (name, value). ``stopping``: None, a stop was
        asked for and a step is still in work. ``done``: what the work returned. ``stopped``: None.
        ``error``: the exception.
    """

    kind: str
    value: Any = None


class Turns:
    """A fair lock: the turn goes to whoever has waited longest.

    Parameters
    ----------
    most_waiting : int
        Jobs that may wait; further ones are refused with `BusyError`.
    """

    def __init__(self, most_waiting: int = 200) -> None:
        self.most_waiting = most_waiting
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Job, threading.Event]] = deque()
        self._holder: Job | None = None

    def enter(self, job: Job, *, again: bool = False) -> threading.Event:
        """Put a job in line; returns the event that is set when it has the turn.

        Raises
        ------
        BusyError
            If the line is full and the job was not in it before.
        """
        event = threading.Event()
        with self._lock:
            if self._holder is None and not self._waiting:
                self._take(job, event)
            elif len(self._waiting) >= self.most_waiting and not again:
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting already, which is as many as this "
                    "server takes; try again in a moment"
                )
            else:
                self._waiting.append((job, event))
        return event

    def _take(self, job: Job, event: threading.Event) -> None:
        self._holder = job
        job.since = time.monotonic()
        event.set()

    def wait(self, job: Job, event: threading.Event) -> None:
        """Wait for the turn; raises `Stopped` if the job is stopped meanwhile."""
        while not event.wait(_POLL):
            if job.stopping:
                with self._lock:
                    if not event.is_set():
                        self._waiting.remove((job, event))
                        raise Stopped
            job.waiting_behind = self.ahead(job)
        job.waiting_behind = 0

    def leave(self, job: Job) -> bool:
        """Give the turn to the next in line; returns False for a job that does not have it."""
        with self._lock:
            if self._holder is not job:
                return False
            self._holder = None
            if self._waiting:
                self._take(*self._waiting.popleft())
            return True

    def give_way(self, job: Job) -> None:
        """Let others go first if some wait and this job has had its share."""
        if self._holder is job and self._waiting and time.monotonic() - job.since > _SLICE:
            event = threading.Event()
            with self._lock:  # in one step, so that nobody overtakes those who wait
                self._waiting.append((job, event))
                self._take(*self._waiting.popleft())
            self.wait(job, event)

    def ahead(self, job: Job) -> int:
        """Return how many jobs will have the turn before this one."""
        with self._lock:
            for place, (other, _) in enumerate(self._waiting):
                if other is job:
                    return place + (self._holder is not None)
        return 0


class Job:
    """A piece of work that runs in a thread, tells its news and can be stopped.

    Parameters
    ----------
    name : str
    turns : Turns
    """

    def __init__(self, name: str, turns: Turns) -> None:
        self.name = name
        self.turns = turns
        self.since = 0.0
        self.waiting_behind = 0
        self.finished = threading.Event()
        self._stop = threading.Event()
        self._resting = False
        self._news: list[News] = []
        self._progress: News | None = None
        self._fresh = threading.Condition()

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for the end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask for the end; the work ends at its next step."""
        self._stop.set()
        with self._fresh:
            self._fresh.notify_all()

    # -- for the work ---------------------------------------------------------------------------

    def step(self) -> None:
        """Raise `Stopped` if asked to; let others go first if it is their turn."""
        if self.stopping:
            raise Stopped
        if self._resting:
            self._resting = False
            self.turns.wait(self, self.turns.enter(self, again=True))
        self.turns.give_way(self)

    def rest(self) -> None:
        """Give the turn away until the next step; the work must not use the model before it."""
        self._resting = self.turns.leave(self)

    def report(self, what: str, done: int, total: int) -> None:
        """Tell how far the work is, and no more: for work that must be stopped elsewhere."""
        with self._fresh:
            self._progress = News("progress", (str(what), int(done), int(total)))
            self._fresh.notify_all()

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell how far the work is, and make a step (callback of the library's functions)."""
        self.report(what, done, total)
        self.step()

    def stage(self, name: str, value: Any) -> None:
        """Tell a part of the result."""
        self._tell(News("stage", (name, value)))

    def _tell(self, news: News) -> None:
        with self._fresh:
            self._news.append(news)
            self._fresh.notify_all()

    def run(self, work: Callable[[Job], Any], *, turn: bool = True) -> Iterator[News]:
        """Run the work in a thread and yield its news; the last is done, stopped or error.

        The place in line is taken when the first news is asked for. Closing the iterator stops the
        work. Work that runs no model (it loads one) needs no `turn`.
        """
        try:
            event = self.turns.enter(self) if turn else None
        except BusyError as error:
            self.finished.set()
            yield News("error", error)
            return
        threading.Thread(
            target=self._work, args=(work, event), name=f"app-{self.name}", daemon=True
        ).start()
        try:
            yield from self._listen()
        finally:
            self.stop()  # nobody listens any more

    def _work(self, work: Callable[[Job], Any], event: threading.Event | None) -> None:
        last = News("stopped")
        try:
            if event is not None:
                self.turns.wait(self, event)
            with _released(self):
                last = News("done", work(self))
        except Stopped:
            last = News("stopped")
        except Exception as error:  # the page shows it; a thread has nobody else to tell
            last = News("error", error)
        finally:
            self._tell(last)
            self.finished.set()

    def _listen(self) -> Iterator[News]:
        told: News | None = None
        behind, stopping = 0, False
        while True:
            with self._fresh:
                quiet = not self._news and self._progress is told and stopping is self.stopping
                if quiet:
                    self._fresh.wait(0.2)
                news, self._news = self._news, []
                progress = self._progress
            yield from (n for n in news if n.kind == "stage")
            ended = next((n for n in news if n.kind != "stage"), None)
            if ended is not None:
                yield ended
                return
            if self.stopping:  # how far the step in work is, is of no interest any more
                told = progress
                if not stopping:
                    stopping = True
                    yield News("stopping")
            elif progress is not told and progress is not None:
                told = progress
                yield progress
            elif self.waiting_behind != behind:
                behind = self.waiting_behind
                if behind:
                    yield News("progress", (f"waiting, {behind} before you", 0, 0))


@contextmanager
def _released(job: Job) -> Iterator[None]:
    """Give the turn back whatever happens."""
    try:
        yield
    finally:
        job.turns.leave(job)
