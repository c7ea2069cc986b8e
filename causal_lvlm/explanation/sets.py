"""One explaining set: which tokens, how they were verified, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from causal_lvlm.fields import Check, damaged, instance, many, maybe, number, whole

__all__ = ["ExplainingSet"]


@dataclass(frozen=True)
class ExplainingSet:
    """A set of tokens that explains the target within one scope, or why there is none.

    Attributes
    ----------
    scope : {"joint", "image", "text", "custom"}
        Which units could be masked; all others stayed visible.
    outcome : str
        ``explained``; ``not_found`` (masking the whole scope does not change the prediction, and
        neither does any of the `n_tried` sets that were masked; another may); ``not_maskable``
        (necessary mode: masking any set of the scope leaves the prediction, all of them were
        tried; sufficient mode: masking the whole scope keeps it, so nothing in it is needed);
        ``no_candidates``; ``max_size``; ``max_runs``, ``time_limit`` or ``interrupted`` (ended
        before a verified set was found). Older files say ``not_maskable`` where the whole scope
        was masked and nothing smaller was looked for: there `n_tried` is 0.
    positions : tuple of int
        Sequence positions of the set; empty unless explained.
    units : tuple of tuple of int
        The same, unit by unit.
    verified : bool
        The model was run with exactly this mask and the tester said yes.
    minimality : {"minimum", "irreducible", "none"}
        ``minimum``: every smaller subset of the scope was tried and failed. ``irreducible``: no
        single member can be left out.
    found_by : {"graph", "fallback"} or None
        ``graph`` if one head's PDS-tree held the whole set.
    head, radius : int or None
        The head whose PDS-tree held it at the smallest radius. The head is None where heads are
        combined.
    probability_before, probability_after : float or None
        Of the target (product over its tokens): with everything visible, and under the mask that
        verified the set.
    margin_before, margin_after : float or None
        Smallest logit difference between a target token and its strongest rival.
    predicted_after : tuple of str
        What the model says instead, token by token (teacher-forced).
    random_flip_rate : float or None
        Share of random sets of the same size and modality that pass the same test.
    n_random : int
    alternatives : tuple of tuple of int
        Positions of other verified sets of the same size that were met on the way.
    model_runs : int
        Masked rows evaluated for this scope; what an earlier scope had evaluated costs nothing.
    grown_size : int or None
        Units in the set before it was shrunk.
    ended : str or None
        Which budget ended the search (also of a verified set), if any.
    n_tried : int
        Different sets of this scope of which the model's answer is known; 0 in older files.
    """

    scope: str
    outcome: str
    positions: tuple[int, ...] = ()
    units: tuple[tuple[int, ...], ...] = ()
    verified: bool = False
    minimality: str = "none"
    found_by: str | None = None
    head: int | None = None
    radius: int | None = None
    probability_before: float | None = None
    probability_after: float | None = None
    margin_before: float | None = None
    margin_after: float | None = None
    predicted_after: tuple[str, ...] = ()
    random_flip_rate: float | None = None
    n_random: int = 0
    alternatives: tuple[tuple[int, ...], ...] = ()
    model_runs: int = 0
    grown_size: int | None = None
    ended: str | None = None
    n_tried: int = 0

    @property
    def size(self) -> int:
        """Number of units in the set."""
        return len(self.units)

    @property
    def claim(self) -> str:
        """What is proven about the size; empty where nothing is, or where it goes without saying.

        A set of one member is as small as a set can be.
        """
        return "" if self.size == 1 or self.minimality == "none" else self.minimality

    @staticmethod
    def check(n_positions: int) -> Check:
        """Return the check of a saved set (see `causal_lvlm.fields`).

        Parameters
        ----------
        n_positions : int
            Of the run.
        """
        position = whole(0, n_positions - 1)
        count, share = whole(0), maybe(number(0.0, 1.0 + 1e-6))
        read = instance(
            ExplainingSet,
            positions=many(position), units=many(many(position, least=1)),
            alternatives=many(many(position)), radius=maybe(count), head=maybe(count),
            probability_before=share, probability_after=share, random_flip_rate=share,
            n_random=count, model_runs=count, grown_size=maybe(count),
        )  # fmt: skip

        def check(value: Any, where: str) -> ExplainingSet:
            found: ExplainingSet = read(value, where)
            if sorted(found.positions) != sorted(p for unit in found.units for p in unit):
                raise damaged(where, "has other positions than its units")
            if found.verified and not found.units:
                raise damaged(where, "is verified, but has no members")
            return found

        return check
