"""What the model said under the masks that the search tried, and what no mask could hold.

These are stored answers to "what if?".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from causal_lvlm.asker import Asker
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.fields import Check, instance, many, number, whole
from causal_lvlm.tokens import Target, TokenLayout, Units

__all__ = ["MAX_TRIED", "TriedSet", "excluded", "tried_sets"]

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
    asker: Asker, tester: Tester, verified: Iterable[tuple[tuple[int, ...], ...]] = ()
) -> tuple[TriedSet, ...]:
    """Return what the model was asked, the smallest masks first, at most `MAX_TRIED`.

    Parameters
    ----------
    asker : Asker
    tester : Tester
    verified : iterable
        Units of reported sets: their masks are kept whatever their size.
    """
    members, answers = asker.units.members, asker.answers
    changed, log_prob = tester.changed(answers), answers.log_prob
    unit_of = {m: u for u, m in enumerate(members)}
    first = {frozenset(unit_of[m] for m in units if m in unit_of) for units in verified}
    masks = sorted(asker.memory, key=lambda s: (s not in first, len(s), sorted(s)))[:MAX_TRIED]
    found = []
    for mask in sorted(masks, key=lambda s: (len(s), sorted(s))):
        row = asker.memory[mask]
        found.append(
            TriedSet(
                units=tuple(members[u] for u in sorted(mask)),
                probability=float(np.exp(log_prob[row])),
                first_choice=tuple(asker.trace.token_text(int(t)) for t in answers.argmax[row]),
                changed=bool(changed[row]),
                margin=float(answers.margin[row]),
            )
        )
    return tuple(found)


def excluded(layout: TokenLayout, target: Target, units: Units) -> tuple[tuple[int, str], ...]:
    """Return every position before the target that no set can hold, and why."""
    inside = units.unit_of()
    reasons = []
    for p in range(target.start):
        if p in inside:
            continue
        if layout.modality[p] == "special":
            reason = "special or template token"
        elif p == target.predictor:
            reason = "its row predicts the target, so it cannot be left out"
        else:
            reason = "not among the candidates"
        reasons.append((p, reason))
    return tuple(reasons)
