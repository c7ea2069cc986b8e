"""Masked or cut rows, computed the fast way and checked against the plain one.

1. The rows are divided into calls (`causal_lvlm.lvlm.plan`) and computed (`rows`).
2. The first time that a way is used on a trace, two rows are computed again the plain way (see
   `causal_lvlm.lvlm.spotcheck`); a third, if neither leaves positions out and other rows do.
3. Where they differ, all rows are: the plain way unless another was asked for by name, and without
   the stored prefix.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.lvlm.batches import SizeRule
from causal_lvlm.lvlm.plan import Plan
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.rows import Answers
from causal_lvlm.lvlm.spotcheck import chosen_rows, tolerance_for
from causal_lvlm.results import BackendCheck, Evaluation

__all__ = ["answered"]


class Question(Protocol):
    """Rows that can be planned and computed."""

    @property
    def prepared(self) -> Prepared:
        """The sequence."""

    @property
    def masking(self) -> str:
        """The intervention; ways are checked for each."""

    @property
    def safe_backend(self) -> str:
        """The backend that rests on fewest assumptions."""

    @property
    def against(self) -> int | None:
        """Token compared with."""

    @property
    def rivals(self) -> tuple[int, ...] | None:
        """One more token for each of the target's."""

    def plan(self, rows: IntArray, backend: str, size: SizeRule, *, prefix: bool = True) -> Plan:
        """Divide some of the rows into groups."""

    def answers(self, n_rows: int, plan: Plan) -> Answers:
        """Compute a plan batch by batch."""


def answered(question: Question, changed: BoolArray, backend: str, size: SizeRule) -> Evaluation:
    """Compute all rows of a question.

    Parameters
    ----------
    question : MaskedRows or CutRows
    changed : ndarray of bool, shape (K, L)
        What differs from the plain run, so that the rows that differ most can be checked.
    backend : {"auto", "drop", "block"}
    size : SizeRule
    """
    everything = np.arange(len(changed))
    plan = question.plan(everything, backend, size)
    answers = question.answers(len(changed), plan)
    check = _checked_way(question, plan, answers, changed)
    if check is not None and not check.agrees:
        # What somebody asked for by name is left to them; only the stored prefix is not.
        chosen = question.safe_backend if backend == "auto" else backend
        plan = question.plan(everything, chosen, size, prefix=False)
        answers = question.answers(len(changed), plan)
    return Evaluation(
        token_log_probs=answers.token_log_probs,
        argmax=answers.argmax,
        margin=answers.margin,
        runner_up=answers.runner_up,
        top_log_prob=answers.top,
        against_log_prob=None if question.against is None else answers.against,
        rival_log_probs=None if question.rivals is None else answers.rivals,
        runs=len(changed),
        masking=question.masking,
        backend=plan.backend,
        check=check,
        largest_batch=answers.largest_batch,
        halvings=answers.halvings,
    )


def _checked_way(
    question: Question, plan: Plan, found: Answers, masked: BoolArray
) -> BackendCheck | None:
    """Compare some answers with those of the safe way, the first time the plan's way is used."""
    prepared = question.prepared
    safe = question.safe_backend
    way = plan.backend + ("+prefix" if found.prefixed.any() else "")
    if way in (safe, "none"):
        return None
    ways = prepared.ways
    name = (question.masking, way)
    with ways.lock:
        known = ways.get(*name)
        if known is not None:
            return known
        rows = chosen_rows(masked, found.prefixed)
        dropped = [row for group in plan.groups if group.kept is not None for row in group.rows]
        if dropped and not np.isin(rows, dropped).any():
            rows = np.append(rows, dropped[0])
        if not len(rows):
            return None
        slow = question.plan(rows, safe, SizeRule(prepared, 1), prefix=False)
        expected = question.answers(len(masked), slow)
        gap = np.abs(found.token_log_probs[rows] - expected.token_log_probs[rows]).max()
        tolerance = tolerance_for(prepared.lvlm)
        check = BackendCheck(
            way=way,
            reference=slow.backend,
            rows=len(rows),
            max_difference=float(gap),
            tolerance=tolerance,
            agrees=bool(gap <= tolerance),
        )
        ways.checks[name] = check
    if not check.agrees:
        warnings.warn(
            f"{prepared.lvlm.model_id!r}: masking by {check.way!r} differs from {check.reference!r}"
            f" by {gap:.3g} in log-probability (allowed {tolerance:.3g}); it is not used on this "
            "trace unless asked for by name",
            stacklevel=4,
        )
    return check
