"""Work on the edges of one conditioning size in chunks, so that a clock can be looked at.

1. The edges are cut into chunks of a fixed length; what a chunk finds depends on nothing but the
   graph as it was when the size began, so chunks may run in several threads (the kernels release
   the interpreter lock). They do so as soon as the last chunk let expect enough work.
2. Between kernel calls each worker looks at the clock, at the number of tests and at a flag that
   says "stop".
3. Chunks are counted in their order. Whether `max_tests` ends a size depends on the total alone, so
   no result depends on the number of threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from causal_lvlm.arrays import FloatArray, Int32Array, IntArray

__all__ = ["Found", "Interrupted", "Kernel", "Limits", "run_chunks"]

_CHUNK = 256  # edges per chunk
_CHUNK_ONE = 16384  # the same for conditioning size 1, where an edge costs less
_WORTH_THREADS = 0.02  # seconds of work left that pay for starting threads
_BUDGET = 10_000_000  # conditioning sets per kernel call: a second at most


@dataclass
class Found:
    """What a kernel writes for each of E edges; see `causal_kernels.order_one`."""

    best: FloatArray
    members: Int32Array
    tests: IntArray
    blind: Int32Array

    @classmethod
    def empty(cls, count: int, size: int) -> Found:
        """Return arrays for ``count`` edges and sets of ``size`` nodes: nothing tested yet."""
        return cls(
            best=np.full(count, np.inf),
            members=np.zeros((count, size), dtype=np.int32),
            tests=np.zeros(count, dtype=np.int64),
            blind=np.zeros(count, dtype=np.int32),
        )

    def part(self, part: slice) -> Found:
        """Return views of some of the edges."""
        return Found(self.best[part], self.members[part], self.tests[part], self.blind[part])


# (edges, where to write, budget of sets) -> (edges done, candidate sets met)
Kernel = Callable[[Int32Array, Found, int], tuple[int, int]]


class Interrupted(Exception):
    """Learning ends inside a size; carries the reason."""


@dataclass
class Limits:
    """When to stop: a point of ``time.monotonic()``, a number of CI tests, or being told to."""

    deadline: float | None = None
    max_tests: int | None = None
    cancel: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise `Interrupted` when the time is over or somebody said stop."""
        if self.cancel.is_set():
            raise Interrupted("interrupted")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Interrupted("time_limit")

    def check_tests(self, tests: int) -> None:
        """Raise `Interrupted` when more tests were done than are allowed."""
        if self.max_tests is not None and tests > self.max_tests:
            raise Interrupted("max_tests")


@dataclass
class _Chunks:
    """The work on chunks of ``step`` edges; `given_up` ends what runs in other threads."""

    kernel: Kernel
    edges: Int32Array
    found: Found
    limits: Limits
    tests_before: int
    step: int
    given_up: threading.Event = field(default_factory=threading.Event)

    def work(self, first: int) -> tuple[int, int, int]:
        """Work on the chunk from ``first`` on; return (candidate sets, tests, where it ends)."""
        most, limits = self.limits.max_tests, self.limits
        whole = _BUDGET if most is None else min(_BUDGET, most)
        stop = min(first + self.step, len(self.edges))
        candidates, tests, budget = 0, 0, whole
        while first < stop and not self.given_up.is_set():
            limits.check()
            part = slice(first, stop)
            done, met = self.kernel(self.edges[part], self.found.part(part), budget)
            if not done and most is not None and budget >= most:
                # one edge alone has more sets to look at than all edges may have tests
                raise Interrupted("max_tests")
            # an edge with more sets than the budget is begun again with a larger one
            budget = whole if done else 2 * budget
            tests += int(self.found.tests[first : first + done].sum())
            limits.check_tests(self.tests_before + tests)
            candidates += int(met)
            first += done
        return candidates, tests, stop


def run_chunks(
    kernel: Kernel,
    edges: Int32Array,
    found: Found,
    limits: Limits,
    tests_before: int,
    n_jobs: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Run a kernel over all edges; return how many candidate sets it met.

    Parameters
    ----------
    kernel : callable
    edges : ndarray of shape (E, 2)
    found : Found
        Written to.
    limits : Limits
    tests_before : int
        Tests of the sizes before.
    n_jobs : int
        Threads; a kernel that changes the graph needs 1.
    progress : callable, optional
        Called as ``progress(edges done, edges)``.

    Raises
    ------
    Interrupted
        If a limit was met; ``found`` then holds what was done.
    """
    count = len(edges)
    step = _CHUNK_ONE if found.members.shape[1] == 1 else _CHUNK
    chunks = _Chunks(kernel, edges, found, limits, tests_before, step)
    candidates, tests, done = 0, tests_before, 0
    while done < count:
        began = time.perf_counter()
        met, new, done = chunks.work(done)
        candidates, tests = candidates + met, tests + new
        limits.check_tests(tests)
        if progress is not None:
            progress(done, count)
        left = (time.perf_counter() - began) * (count - done) / step
        if n_jobs > 1 and left > _WORTH_THREADS:
            break
    starts = range(done, count, step)
    if not len(starts):
        return candidates
    workers = min(n_jobs, len(starts))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for met, new, done in pool.map(chunks.work, starts):
                candidates, tests = candidates + met, tests + new
                limits.check_tests(tests)
                if progress is not None:
                    progress(done, count)
        except BaseException:
            # Ctrl-C included: let the other threads end soon, the pool waits for them
            chunks.given_up.set()
            raise
    return candidates
