"""How masked rows are divided into calls, and which backend computes them.

Rows are sorted by the first position at which they differ from the plain run and cut into batches;
each batch starts there, on the plain run's keys and values. ``drop`` batches rows of equal length.
``auto`` takes the backend that computes fewer token rows, where both are the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.lvlm.memory import row_bytes
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.tokens import Target

__all__ = ["Batch", "Plan", "SizeRule", "make_plan"]

# A forward pass costs about as much as this many token rows besides the rows it computes: measured
# on the embedded model, and of little weight in larger ones.
_CALL_OVERHEAD = 80
_BLOCK_SURCHARGE = 1.15  # an explicit mask makes attention slower than the causal kernel


@dataclass(frozen=True)
class Batch:
    """Rows computed in one call: the same prefix, and the same number of positions after it."""

    rows: IntArray
    prefix: int
    positions: IntArray  # (B, L) sequence positions computed
    blocked: bool

    def pieces(self, most: int) -> list[Batch]:
        """Cut the batch into smaller ones."""
        starts = range(0, len(self.rows), most)
        cuts = [slice(start, start + most) for start in starts]
        return [replace(self, rows=self.rows[c], positions=self.positions[c]) for c in cuts]


class SizeRule:
    """How many rows go into one call: large batches leave the processor's cache and get slower.

    Parameters
    ----------
    prepared : Prepared
    fixed : int, optional
        Take this many, whatever is fast.
    max_memory : int, optional
        Bytes that the rows of one call may take (one row is always computed).
    total, rows : int
        Length of the sequence, and predicting rows in it.
    """

    def __init__(
        self,
        prepared: Prepared,
        fixed: int | None = None,
        max_memory: int | None = None,
        *,
        total: int = 0,
        rows: int = 1,
    ) -> None:
        lvlm = prepared.lvlm
        self._prepared = prepared
        self._fixed = fixed
        self._max_memory = max_memory
        self._total = total
        self._rows = rows
        self._width = int(lvlm.text_config.hidden_size)
        self._on_cpu = lvlm.device.type == "cpu"

    def __call__(self, length: int) -> int:
        """Return the number of rows for calls that compute `length` positions a row."""
        count = self._measured(length) if self._fixed is None else self._fixed
        if self._max_memory is None:
            return count
        one = row_bytes(self._prepared, length, self._total, self._rows, blocked=True)
        return max(1, min(count, self._max_memory // one))

    def _measured(self, length: int) -> int:
        if not self._on_cpu:
            return int(np.clip(64e6 / (length * self._width), 1, 64))
        most = np.clip(2e6 / (length * self._width), 1, 64)
        return int(min(most, max(16, 1200 // length)))


@dataclass(frozen=True)
class Plan:
    batches: list[Batch]
    backend: str

    @property
    def way(self) -> str:
        """The backend, and whether any batch starts from a stored prefix."""
        return self.backend + ("+prefix" if any(b.prefix for b in self.batches) else "")

    @property
    def cost(self) -> float:
        """Token rows computed, with overheads."""
        return sum(
            _CALL_OVERHEAD + b.positions.size * (_BLOCK_SURCHARGE if b.blocked else 1.0)
            for b in self.batches
        )


def make_plan(
    prepared: Prepared,
    removed: BoolArray,
    changed: BoolArray,
    target: Target,
    masking: str,
    backend: str,
    size: SizeRule,
    *,
    prefix: bool = True,
) -> Plan:
    """Divide K masked rows into batches.

    Parameters
    ----------
    prepared : Prepared
    removed : ndarray of bool, shape (K, L)
        False where the language model must not see a token (or, under ``edges``, all True).
    changed : ndarray of bool, shape (K, L)
        True where a masked run differs from the plain one.
    target : Target
    masking, backend : str
    size : SizeRule
    prefix : bool
        Whether batches may start from the plain run's keys and values.
    """
    predictor, stop = target.predictor, target.positions[-1]
    first = np.where(changed.any(axis=1), changed.argmax(axis=1), predictor)
    first = prepared.first_changed(np.minimum(first, predictor).astype(np.int64))
    reuse = prefix and prepared.can_reuse_prefix
    if masking == "edges":
        plain = _chunks(np.arange(len(first)), first, size, reuse, stop, blocked=True)
        return Plan(plain, "block")
    if removed.all():
        plain = _chunks(np.arange(len(first)), first, size, reuse, stop, blocked=False)
        return Plan(plain, "none")
    if backend == "drop" or (backend == "auto" and prepared.lvlm.only_drop):
        return _drop_plan(removed, first, size, reuse)
    everything = np.arange(len(first))
    block = Plan(_chunks(everything, first, size, reuse, stop, blocked=True), "block")
    if backend == "block" or not prepared.drop_is_exact:
        return block
    drop = _drop_plan(removed, first, size, reuse)
    return drop if drop.cost <= block.cost else block


def _runs(
    rows: IntArray, first: IntArray, size: SizeRule, length: Callable[[int], int]
) -> Iterator[IntArray]:
    """Sort rows by where they begin to differ, and cut them into runs of the right size."""
    ordered = rows[np.argsort(first[rows], kind="stable")]
    start = 0
    while start < len(ordered):
        count = size(length(int(first[ordered[start]])))
        yield ordered[start : start + count]
        start += count


def _rest(length: int, reuse: bool, begin: int) -> int:
    """Return how many positions are computed after a prefix of `begin`."""
    return length - begin if reuse else length


def _chunks(
    rows: IntArray, first: IntArray, size: SizeRule, reuse: bool, stop: int, *, blocked: bool
) -> list[Batch]:
    """Batch rows that keep all their positions."""
    batches = []
    for chosen in _runs(rows, first, size, partial(_rest, stop, reuse)):
        prefix = int(first[chosen[0]]) * reuse
        positions = np.broadcast_to(np.arange(prefix, stop), (len(chosen), stop - prefix))
        batches.append(Batch(chosen, prefix, positions, blocked))
    return batches


def _drop_plan(removed: BoolArray, first: IntArray, size: SizeRule, reuse: bool) -> Plan:
    """Batch rows of equal length; positions that a row removed are left out of it."""
    lengths = removed.sum(axis=1)
    batches = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        count = int(length)
        for chosen in _runs(rows, first, size, partial(_rest, count, reuse)):
            prefix = int(first[chosen[0]]) * reuse
            positions = np.stack([np.flatnonzero(removed[row, prefix:]) for row in chosen])
            batches.append(Batch(chosen, prefix, positions + prefix, False))
    return Plan(batches, "drop")
