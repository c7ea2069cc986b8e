"""A trace that is watched while a method works on it: steps, stops, and sets as they are verified.

Methods know nothing of jobs. They are given a `WatchedTrace`, which behaves like the trace it
holds, but asks its job at every use of the model whether to go on, and reads the answers that pass
by: a masked row in which the first choice is no longer the target is a verified set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.app.turns import Job
from causal_lvlm.tokens import Target, Units

__all__ = ["Verified", "WatchedTrace"]

# What a trace is asked without running its model. A search that was stopped still needs these to
# say what it had found.
_NO_RUN = frozenset(("to_dict", "save", "target", "token_id", "token_text"))


@dataclass(frozen=True)
class Verified:
    """A masked set under which the model no longer says the target.

    Attributes
    ----------
    scope : {"image", "text", "joint"}
    positions : tuple of int
    size : int
        Number of units masked.
    probability : float
        Of the target, with the set masked.
    says : tuple of str
        First choices at the target's rows.
    """

    scope: str
    positions: tuple[int, ...]
    size: int
    probability: float
    says: tuple[str, ...]


class WatchedTrace:
    """Stands in for a trace inside a job.

    Parameters
    ----------
    trace : Trace
    job : Job
    on_verified : callable, optional
        Called with each `Verified` that is smaller than all before it of the same scope. Sets that
        hold every candidate of their scope are left out: they only say that a search has a point.
    """

    def __init__(
        self,
        trace: Any,
        job: Job,
        on_verified: Callable[[Verified], None] | None = None,
        units: Units | None = None,
    ) -> None:
        self._trace, self._job, self._on_verified = trace, job, on_verified
        self._members = () if units is None else units.members
        self._kinds = () if units is None else units.modality
        self._best: dict[str, int] = {}
        if units is not None:
            image = sum(kind == "image" for kind in units.modality)
            self._best = {"image": image, "text": len(units) - image, "joint": len(units)}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._trace, name)
        if name.startswith("_") or not callable(value) or name in _NO_RUN:
            return value

        @functools.wraps(value)
        def stepped(*args: Any, **options: Any) -> Any:
            self._job.step()
            return value(*args, **options)

        return stepped

    def evaluate(self, keep: Any, target: Any, **options: Any) -> Any:
        """Ask the model under masks, as `Trace.evaluate`."""
        self._job.step()
        result = self._trace.evaluate(keep, target, **options)
        if self._on_verified is not None:
            self._look(np.asarray(keep), self._trace.target(target), result)
        return result

    def _look(self, keep: Any, target: Target, result: Any) -> None:
        changed = (np.asarray(result.argmax) != np.asarray(target.token_ids)).any(axis=1)
        for row in np.flatnonzero(changed):
            hidden = {int(p) for p in np.flatnonzero(~keep[row])}
            masked = [n for n, members in enumerate(self._members) if hidden.issuperset(members)]
            kinds = {self._kinds[n] == "image" for n in masked}
            if not masked:
                continue
            scope = "joint" if len(kinds) > 1 else ("image" if kinds == {True} else "text")
            if len(masked) < self._best[scope] and self._on_verified is not None:
                self._best[scope] = len(masked)
                found = Verified(
                    scope,
                    tuple(sorted(hidden)),
                    len(masked),
                    float(np.exp(result.log_prob[row])),
                    tuple(self._trace.token_text(int(i)) for i in result.argmax[row]),
                )
                self._on_verified(found)
