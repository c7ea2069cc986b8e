"""A trace that is watched while a method works on it: steps, stops, and sets as they are verified.

Methods know nothing of jobs. They are given a `WatchedTrace`, which asks its job whether to go on
whenever the model is to be run, and reads the answers that pass by: a masked row in which the first
choice is no longer the target is a verified set.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.app.records import Verified
from causal_lvlm.app.turns import Job
from causal_lvlm.arrays import BoolArray
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.trace import Trace
from causal_lvlm.results import Evaluation
from causal_lvlm.tokens import Target, TargetLike, Units

__all__ = ["WatchedTrace"]


class WatchedTrace(Trace):
    """A trace inside a job.

    Parameters
    ----------
    trace : Trace
    job : Job
        Its stages ``verified`` tell of each `Verified` that is smaller than all before it of the
        same scope. Sets that hold every candidate of their scope are left out: they only say that a
        search has a point.
    units : Units, optional
        What may be masked; without them nobody is told of sets.
    """

    def __init__(self, trace: Trace, job: Job, units: Units | None = None) -> None:
        super().__init__(trace.record, trace.prepared)
        self._job, self._units = job, units
        self._best: dict[str, int] = {}
        if units is not None:
            image = sum(kind == "image" for kind in units.modality)
            self._best = {"image": image, "text": len(units) - image, "joint": len(units)}

    @property
    def prepared(self) -> Prepared:
        """The sequence, ready to run again: a step of the job."""
        self._job.step()
        return super().prepared

    @property
    def model(self) -> Backbone:
        """The model, to be asked what needs no run: a search that was stopped still reads words."""
        return super().prepared.lvlm

    def evaluate(self, keep: BoolArray, target: TargetLike, **options: Any) -> Evaluation:
        """Ask the model under masks; see `Trace.evaluate`."""
        result = super().evaluate(keep, target, **options)
        if self._units is not None:
            self._look(np.asarray(keep), self.target(target), result, self._units)
        return result

    def _look(self, keep: BoolArray, target: Target, result: Evaluation, units: Units) -> None:
        changed = (result.argmax != np.asarray(target.token_ids)).any(axis=1)
        for row in np.flatnonzero(changed):
            hidden = {int(p) for p in np.flatnonzero(~keep[row])}
            masked = [n for n, unit in enumerate(units.members) if hidden.issuperset(unit)]
            kinds = {units.modality[n] == "image" for n in masked}
            if not masked:
                continue
            scope = "joint" if len(kinds) > 1 else ("image" if kinds == {True} else "text")
            if len(masked) < self._best[scope]:
                self._best[scope] = len(masked)
                found = Verified(
                    scope,
                    tuple(sorted(hidden)),
                    len(masked),
                    float(np.exp(result.log_prob[row])),
                    tuple(self.token_text(int(i)) for i in result.argmax[row]),
                )
                self._job.stage("verified", found)
