"""What the model said under the masks that the search tried: stored answers to "what if?"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.explanation.evaluator import SubsetEvaluator
from causal_lvlm.fields import Check, instance, many, number, whole
from causal_lvlm.summary import MAX_POSITIONS

__all__ = ["MAX_TRIED", "TriedSet", "tried_sets"]

MAX_TRIED = 400  # more would make the file larger than the image in it


@dataclass(frozen=True)
class TriedSet:
    """One masked run of the search.

    Attributes
    ----------
    units : tuple of tuple of int
        Positions that were masked, unit by unit (in sufficient mode too: what was masked, not the
        set that was kept).
    probability : float
        Of the target (product over its tokens).
    first_choice : tuple of str
        What the model says instead, token by token (teacher-forced).
    changed : bool
        Whether the tester counts it as a change.
    margin : float
        Smallest logit difference between a target token and its strongest rival.
    """

    units: tuple[tuple[int, ...], ...]
    probability: float
    first_choice: tuple[str, ...]
    changed: bool
    margin: float

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TriedSet:
        """Rebuild from JSON, where tuples have become lists; raises `OutputError`."""
        found: TriedSet = cls.check(MAX_POSITIONS)(value, "")
        return found

    @staticmethod
    def check(n_positions: int) -> Check:
        """Return the check of a saved one (see `causal_lvlm.fields`).

        Parameters
        ----------
        n_positions : int
            Of the run.
        """
        position = whole(0, n_positions - 1)
        return instance(
            TriedSet,
            units=many(many(position, least=1)),
            probability=number(0.0, 1.0 + 1e-6, nan=True),
        )


def tried_sets(
    evaluator: SubsetEvaluator,
    token_text: Callable[[int], str],
    verified: Iterable[tuple[tuple[int, ...], ...]] = (),
) -> tuple[TriedSet, ...]:
    """Return what the evaluator remembers, the smallest masks first, at most `MAX_TRIED`.

    Parameters
    ----------
    evaluator : SubsetEvaluator
    token_text : callable
        Text of a token id.
    verified : iterable
        Units of reported sets: their masks are kept whatever their size.
    """
    members = evaluator.units.members
    unit_of = {m: u for u, m in enumerate(members)}
    first = {frozenset(unit_of[m] for m in units if m in unit_of) for units in verified}
    masks = sorted(evaluator.masked, key=lambda s: (s not in first, len(s), sorted(s)))[:MAX_TRIED]
    found = []
    for mask in sorted(masks, key=lambda s: (len(s), sorted(s))):
        outcome = evaluator.masked[mask]
        found.append(
            TriedSet(
                units=tuple(members[u] for u in sorted(mask)),
                probability=float(np.exp(outcome.log_prob)),
                first_choice=tuple(token_text(t) for t in outcome.argmax),
                changed=outcome.changed,
                margin=float(outcome.margin),
            )
        )
    return tuple(found)
