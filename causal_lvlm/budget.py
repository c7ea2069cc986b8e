"""Runs and seconds that somebody may still spend, and parts of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Budget", "BudgetEnded"]


class BudgetEnded(Exception):
    """Raised where runs or time are spent; whoever set the budget catches it.

    Attributes
    ----------
    reason : {"max_runs", "time_limit", "interrupted"}
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Budget:
    """Model runs and seconds that may still be spent.

    Attributes
    ----------
    max_runs : int
    deadline : float or None
        Value of ``time.monotonic()`` after which nothing is started.
    used : int
        Masked rows evaluated so far.
    """

    max_runs: int = sys.maxsize
    deadline: float | None = None
    used: int = 0

    def __post_init__(self) -> None:
        self._end = self.max_runs
        self._interrupted = False

    @property
    def left(self) -> int:
        """Runs that may still be spent here; below 1 where there are none."""
        return 0 if self._interrupted else self._end - self.used

    def interrupt(self) -> None:
        """Allow nothing from now on: somebody pressed Ctrl-C."""
        self._interrupted = True

    def check(self) -> None:
        """Raise `BudgetEnded` where time is up, or somebody pressed Ctrl-C."""
        if self._interrupted:
            raise BudgetEnded("interrupted")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise BudgetEnded("time_limit")

    def allowance(self) -> int:
        """Return how many runs may be started now; raise `BudgetEnded` when there is none."""
        self.check()
        if self.left <= 0:
            raise BudgetEnded("max_runs")
        return self.left

    @contextmanager
    def at_most(self, runs: int) -> Iterator[None]:
        """Allow no more than this many further runs within the block; blocks may be nested."""
        outer = self._end
        self._end = min(outer, self.used + runs)
        try:
            yield
        finally:
            self._end = outer

    def extend(self, seconds: float) -> None:
        """Put the deadline off, if there is one."""
        if self.deadline is not None:
            self.deadline += seconds
