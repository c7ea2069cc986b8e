"""How masked rows are divided into calls, and which backend computes them.

1. Rows are sorted by the first position at which they differ from the plain run; ``drop`` groups
   rows of equal length first.
2. A group is cut into batches as it is computed (see `batches`).
3. ``auto`` takes the backend that computes fewer token rows, where both are the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.batches import LEAST_SAVING, Group, SizeRule
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.tokens import Target

__all__ = ["Plan", "make_plan", "starts", "whole"]

# A forward pass costs about as much as this many token rows besides the rows it computes: measured
# on the embedded model, and of little weight in larger ones.
_CALL_OVERHEAD = 80
_BLOCK_SURCHARGE = 1.15  # an explicit mask makes attention slower than the causal kernel


@dataclass(frozen=True)
class Plan:
    """Groups of rows, how they are computed, and how they are cut into batches."""

    groups: list[Group]
    backend: str
    size: SizeRule

    @property
    def cost(self) -> float:
        """Token rows computed, with overheads, in batches as the size rule makes them."""
        total = 0.0
        for group in self.groups:
            start = 0
            while start < len(group.rows):
                each = group.after(start) * (_BLOCK_SURCHARGE if group.blocked else 1.0)
                count = min(self.size(group.after(start)), len(group.rows) - start)
                total += _CALL_OVERHEAD + count * each
                start += count
        return total

    def numbered(self, rows: IntArray) -> Plan:
        """Return the plan with other numbers for its rows."""
        return replace(self, groups=[replace(g, rows=rows[g.rows]) for g in self.groups])


def make_plan(
    prepared: Prepared,
    removed: BoolArray,
    changed: BoolArray,
    target: Target,
    backend: str,
    size: SizeRule,
    *,
    prefix: bool = True,
) -> Plan:
    """Divide K masked rows into groups.

    Parameters
    ----------
    prepared : Prepared
    removed : ndarray of bool, shape (K, L)
        False where the language model must not see a token.
    changed : ndarray of bool, shape (K, L)
        True where a masked run differs from the plain one.
    target : Target
    backend : str
    size : SizeRule
    prefix : bool
        Whether batches may start from the plain run's keys and values.

    Raises
    ------
    UnsupportedModelError
        If tokens are to be hidden in place, and some layers mix them without attention.
    """
    if backend == "block" and not removed.all() and prepared.lvlm.only_drop:
        raise UnsupportedModelError(
            f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so "
            "backend='block' cannot hide them in place; use masking='remove' or 'neutral' with "
            "backend='auto'"
        )
    stop = target.positions[-1]
    first, reuse = starts(prepared, changed, target, prefix=prefix)
    if removed.all():
        return Plan(whole(first, stop, reuse, blocked=False), "none", size)
    if backend == "drop" or (backend == "auto" and prepared.lvlm.only_drop):
        return Plan(_dropped(removed, first, reuse), "drop", size)
    block = Plan(whole(first, stop, reuse, blocked=True), "block", size)
    if backend == "block" or not prepared.drop_is_exact:
        return block
    drop = Plan(_dropped(removed, first, reuse), "drop", size)
    return drop if drop.cost <= block.cost else block


def starts(
    prepared: Prepared, changed: BoolArray, target: Target, *, prefix: bool = True
) -> tuple[IntArray, bool]:
    """Return where each row begins to differ from the plain run, and whether that run is reused.

    Parameters
    ----------
    prepared : Prepared
    changed : ndarray of bool, shape (K, L)
    target : Target
    prefix : bool
        Whether it may be.
    """
    predictor = target.predictor
    first = np.where(changed.any(axis=1), changed.argmax(axis=1), predictor)
    first = prepared.first_changed(np.minimum(first, predictor).astype(np.int64))
    # The stored run is made when it is first asked for: only where it saves something.
    useful = bool((first >= LEAST_SAVING * target.positions[-1]).any())
    return first, prefix and useful and prepared.can_reuse_prefix


def whole(first: IntArray, stop: int, reuse: bool, *, blocked: bool) -> list[Group]:
    """Group rows that keep all their positions."""
    order = np.argsort(first, kind="stable")
    return [Group(order, first[order], stop, None, reuse, blocked)] if len(first) else []


def _dropped(removed: BoolArray, first: IntArray, reuse: bool) -> list[Group]:
    """Group rows of equal length; positions that a row removed are left out of it."""
    lengths = removed.sum(axis=1)
    groups = []
    for length in sorted(set(lengths.tolist())):
        rows = np.flatnonzero(lengths == length)
        rows = rows[np.argsort(first[rows], kind="stable")]
        groups.append(Group(rows, first[rows], length, removed[rows], reuse, False))
    return groups
