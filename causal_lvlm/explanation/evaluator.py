"""The only place where the explanation search runs the model, and where runs are counted.

`SubsetEvaluator.test` answers, for a list of subsets of units, "is this one an explanation?":
in necessary mode that masking the subset changes the prediction, in sufficient mode that masking
everything else within the scope keeps it. Every subset is evaluated once; repeated questions come
from the cache and cost nothing. When a budget ends, `BudgetEnded` is raised and everything that
was found so far is still there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.tokens import Target, Units

__all__ = ["Budget", "BudgetEnded", "Outcome", "SubsetEvaluator"]

Subset = frozenset[int]


class BudgetEnded(Exception):
    """Raised inside the search when runs or time are spent; never leaves the package."""

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

    max_runs: int
    deadline: float | None = None
    used: int = 0
    limit: int | None = None  # a part of max_runs, while one scope is searched

    def allowance(self) -> int:
        """Return how many runs may be started now; raise `BudgetEnded` when there is none."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise BudgetEnded("time_limit")
        left = (self.max_runs if self.limit is None else min(self.limit, self.max_runs)) - self.used
        if left <= 0:
            raise BudgetEnded("max_runs")
        return left


@dataclass(frozen=True)
class Outcome:
    """What the model did under one mask."""

    changed: bool
    log_prob: float
    margin: float
    argmax: tuple[int, ...]


@dataclass
class SubsetEvaluator:
    """Evaluates subsets of units in batches, with cache and budget.

    Attributes
    ----------
    trace : Trace
        Asked for one thing only: ``evaluate(keep, target, ...)``.
    target : Target
    units : Units
        All units of the joint scope; subsets are sets of indices into it.
    tester : Tester
    budget : Budget
    masking, backend : str
    batch_size : int
        Rows per call: a batch that holds a flip is finished, so larger ones waste runs.
    """

    trace: Any
    target: Target
    units: Units
    tester: Tester
    budget: Budget
    masking: str = "remove"
    backend: str = "auto"
    batch_size: int = 16
    masked: dict[Subset, Outcome] = field(default_factory=dict)
    backends_used: set[str] = field(default_factory=set)

    def outcomes(self, masks: Sequence[Iterable[int]]) -> list[Outcome]:
        """Return the outcome of masking each subset.

        Raises
        ------
        BudgetEnded
            When the budget ends; outcomes reached before are kept in the cache.
        """
        wanted = [frozenset(mask) for mask in masks]
        missing = [mask for mask in dict.fromkeys(wanted) if mask not in self.masked]
        while missing:
            size = min(self.batch_size, self.budget.allowance(), len(missing))
            batch, missing = missing[:size], missing[size:]
            keep = self.units.keep_without([sorted(m) for m in batch], len(self.trace.layout))
            result = self.trace.evaluate(
                keep,
                self.target,
                masking=self.masking,
                backend=self.backend,
                against=self.tester.against,
            )
            self.budget.used += size
            self.backends_used.add(_backend_of(result))
            self.remember(batch, result)
        return [self.masked[mask] for mask in wanted]

    def remember(self, masks: Sequence[Subset], result: Any) -> None:
        """Put the rows of an `Evaluation` into the cache."""
        changed = self.tester.changed(result)
        log_prob = np.asarray(result.log_prob)
        for i, mask in enumerate(masks):
            self.masked[mask] = Outcome(
                changed=bool(changed[i]),
                log_prob=float(log_prob[i]),
                margin=float(np.min(result.margin[i])),
                argmax=tuple(int(t) for t in result.argmax[i]),
            )


@dataclass
class Question:
    """Whether a subset of a scope is an explanation, in one of the two modes.

    Attributes
    ----------
    evaluator : SubsetEvaluator
    scope : tuple of int
        Units that may be masked; all others stay visible.
    mode : {"necessary", "sufficient"}
    """

    evaluator: SubsetEvaluator
    scope: tuple[int, ...]
    mode: str

    def mask_of(self, subset: Iterable[int]) -> Subset:
        """Return the units to mask in order to ask about a subset."""
        chosen = frozenset(subset)
        return chosen if self.mode == "necessary" else frozenset(self.scope) - chosen

    def ask(self, subsets: Sequence[Iterable[int]]) -> list[bool]:
        """Return for each subset whether the model said that it is an explanation."""
        outcomes = self.evaluator.outcomes([self.mask_of(s) for s in subsets])
        return [o.changed == (self.mode == "necessary") for o in outcomes]

    def outcome(self, subset: Iterable[int]) -> Outcome:
        """Return the outcome behind one answer (from the cache where it was asked before)."""
        return self.evaluator.outcomes([self.mask_of(subset)])[0]

    def known(self, subset: Iterable[int]) -> bool | None:
        """Return the answer if it was asked before, else None; costs nothing."""
        outcome = self.evaluator.masked.get(self.mask_of(subset))
        return None if outcome is None else outcome.changed == (self.mode == "necessary")

    def distance(self, subset: Iterable[int]) -> float:
        """Return how far a subset is from being an explanation: smaller is nearer.

        The margin over the strongest rival where the subset is masked, or its opposite where only
        the subset is kept; for the tester ``drop``, the log-probability.
        """
        outcome = self.outcome(subset)
        drop = self.evaluator.tester.kind == "drop"
        value = outcome.log_prob if drop else outcome.margin
        return value if self.mode == "necessary" else -value

    def first(self, subsets: Iterable[Iterable[int]]) -> Subset | None:
        """Return the first subset in order that is an explanation, evaluating in batches."""
        batch: list[Subset] = []
        for subset in subsets:
            batch.append(frozenset(subset))
            if len(batch) == self.evaluator.batch_size:
                found = self._first_of(batch)
                if found is not None:
                    return found
                batch = []
        return self._first_of(batch)

    def _first_of(self, batch: list[Subset]) -> Subset | None:
        try:
            answers = self.ask(batch)
        except BudgetEnded:
            # Part of the batch may have been evaluated before the budget ended.
            for subset in batch:
                if self.known(subset):
                    return subset
            raise
        return next((s for s, yes in zip(batch, answers, strict=True) if yes), None)

    def found(self) -> list[Subset]:
        """Return every subset of the scope that is known to be an explanation."""
        inside = frozenset(self.scope)
        hits = []
        for mask, outcome in self.evaluator.masked.items():
            if mask <= inside and outcome.changed == (self.mode == "necessary"):
                hits.append(mask if self.mode == "necessary" else inside - mask)
        return hits

    def n_asked(self) -> int:
        """Return how many sets of this scope the model was asked about.

        The empty set is no set, and keeping the whole scope masks nothing.
        """
        inside = frozenset(self.scope)
        trivial: set[Subset] = {frozenset()}
        if self.mode == "sufficient":
            trivial.add(inside)
        return sum(mask <= inside and mask not in trivial for mask in self.evaluator.masked)


def _backend_of(result: Any) -> str:
    """Return the backend of an `Evaluation`, and which way its spot check ruled out."""
    check = getattr(result, "check", None)
    if check is None or check.agrees:
        return str(result.backend)
    return f"{result.backend} ({check.way} differs)"


def unit_effects(question: Question) -> FloatArray:
    """Return how much masking each unit of the scope alone lowers the margin; shape (scope,)."""
    full = question.evaluator.outcomes([()])[0].margin
    singles = question.evaluator.outcomes([(u,) for u in question.scope])
    return np.array([full - o.margin for o in singles], dtype=np.float64)
