"""How masked rows are divided into calls, and which backend computes them.

1. Rows are sorted by the first position at which they differ from the plain run; ``drop`` groups
   rows of equal length first.
2. A group is cut into batches as it is computed, so that the number of rows in a call can follow
   what was measured (see `pace`). Each batch starts at the first position of its rows, on the plain
   run's keys and values, where that saves enough.
3. ``auto`` takes the backend that computes fewer token rows, where both are the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.memory import row_bytes
from causal_lvlm.lvlm.pace import Pace
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.tokens import Target

__all__ = ["Batch", "Group", "Plan", "SizeRule", "make_plan"]

# A forward pass costs about as much as this many token rows besides the rows it computes: measured
# on the embedded model, and of little weight in larger ones.
_CALL_OVERHEAD = 80
_BLOCK_SURCHARGE = 1.15  # an explicit mask makes attention slower than the causal kernel
# A prefix makes that mask necessary where keys are not hidden anyway, so it has to save this share
# of the positions at least.
_LEAST_SAVING = 1 / 8


@dataclass(frozen=True)
class Batch:
    """Rows computed in one call: the same prefix, and the same number of positions after it."""

    rows: IntArray
    prefix: int
    positions: IntArray  # (B, L) sequence positions computed
    blocked: bool

    @property
    def length(self) -> int:
        """Return L, the number of positions computed for each row."""
        return int(self.positions.shape[1])


@dataclass(frozen=True)
class Group:
    """Rows with equally many positions, sorted by where they begin to differ.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
    first : ndarray of int64, shape (n,)
        Where each begins to differ; all before is in the stored prefix.
    length : int
        Positions of a row, its prefix included.
    kept : ndarray of bool, shape (n, L), or None
        Which positions a row has; None: the first `length`.
    reuse : bool
        Whether a stored prefix may be used.
    blocked : bool
        Whether keys are hidden.
    """

    rows: IntArray
    first: IntArray
    length: int
    kept: BoolArray | None
    reuse: bool
    blocked: bool

    def prefix(self, start: int) -> int:
        """Return the prefix of a batch that begins with row number `start`."""
        begin = int(self.first[start]) if self.reuse else 0
        return begin if self.blocked or begin >= _LEAST_SAVING * self.length else 0

    def after(self, start: int) -> int:
        """Return the positions computed for each row of a batch that begins with row `start`."""
        return self.length - self.prefix(start)

    def batch(self, start: int, count: int) -> Batch:
        """Return some rows as a batch, from number `start` on."""
        chosen, prefix = slice(start, start + count), self.prefix(start)
        rows = self.rows[chosen]
        if self.kept is None:
            positions = np.broadcast_to(
                np.arange(prefix, self.length), (len(rows), self.length - prefix)
            )
        else:
            after = [np.flatnonzero(kept[prefix:]) for kept in self.kept[chosen]]
            positions = np.stack(after) + prefix
        return Batch(rows, prefix, positions, self.blocked)


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
    masking : str
        The intervention; times are compared within one.
    """

    def __init__(
        self,
        prepared: Prepared,
        fixed: int | None = None,
        max_memory: int | None = None,
        *,
        total: int = 0,
        rows: int = 1,
        masking: str = "remove",
    ) -> None:
        lvlm = prepared.lvlm
        self._prepared = prepared
        self._fixed = fixed
        self._max_memory = max_memory
        self._total = total
        self._rows = rows
        self._masking = masking
        self._width = int(lvlm.text_config.hidden_size)
        self._layers = int(lvlm.text_config.num_hidden_layers)
        self._on_cpu = lvlm.device.type == "cpu"

    def __call__(self, length: int) -> int:
        """Return the number of rows for calls that compute `length` positions a row.

        Nothing is measured: the same every time.
        """
        return self._within_memory(self._fixed or self._prior(length), length)

    def chosen(self, group: Group, start: int, left: int) -> int:
        """Return the number of rows for the next call, by what calls of its kind took so far.

        Parameters
        ----------
        group : Group
        start : int
            Row that the call begins with.
        left : int
            Rows that are still to be computed.
        """
        length = group.after(start)
        prior, most = self(length), self._within_memory(left, length)
        if self._fixed is not None or not self._measures(length):
            return min(prior, most)
        return self._prepared.lvlm.pace.next(self._kind(group.batch(start, 1)), prior, most)

    def note(self, batch: Batch, seconds: float) -> None:
        """Remember what a call took."""
        if self._fixed is None and self._measures(batch.length):
            each = seconds / batch.positions.size
            self._prepared.lvlm.pace.note(self._kind(batch), len(batch.rows), each)

    def _kind(self, batch: Batch) -> tuple[str, int, int, bool, bool]:
        """Return what calls must have in common for their times to be compared."""
        sizes = batch.length.bit_length(), self._rows.bit_length()
        return self._masking, *sizes, batch.blocked, batch.prefix > 0

    def _measures(self, length: int) -> bool:
        return Pace.worthwhile(length * self._width * self._layers)

    def _within_memory(self, count: int, length: int) -> int:
        if self._max_memory is None:
            return count
        one = row_bytes(self._prepared, length, self._total, self._rows, blocked=True)
        return max(1, min(count, self._max_memory // one))

    def _prior(self, length: int) -> int:
        """Return what was fastest on the machine this was written on."""
        if not self._on_cpu:
            return int(min(max(64e6 / (length * self._width), 1), 64))
        most = min(max(6e5 / (length * self._width), 1), 64)
        return int(min(most, max(16, 1200 // length)))


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
    masking: str,
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
        False where the language model must not see a token (or, under ``edges``, all True).
    changed : ndarray of bool, shape (K, L)
        True where a masked run differs from the plain one.
    target : Target
    masking, backend : str
    size : SizeRule
    prefix : bool
        Whether batches may start from the plain run's keys and values.

    Raises
    ------
    UnsupportedModelError
        If tokens are to be hidden in place, and some layers mix them without attention.
    """
    blocks = masking == "edges" or (backend == "block" and not removed.all())
    if blocks and prepared.lvlm.only_drop:
        what = "masking='edges'" if masking == "edges" else "backend='block'"
        raise UnsupportedModelError(
            f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so {what} "
            "cannot hide them in place; use masking='remove' or 'neutral' with backend='auto'"
        )
    predictor, stop = target.predictor, target.positions[-1]
    first = np.where(changed.any(axis=1), changed.argmax(axis=1), predictor)
    first = prepared.first_changed(np.minimum(first, predictor).astype(np.int64))
    # The stored run is made when it is first asked for: only where it saves something.
    useful = bool((first >= _LEAST_SAVING * stop).any())
    reuse = prefix and useful and prepared.can_reuse_prefix
    if masking == "edges":
        return Plan(_whole(first, stop, reuse, blocked=True), "block", size)
    if removed.all():
        return Plan(_whole(first, stop, reuse, blocked=False), "none", size)
    if backend == "drop" or (backend == "auto" and prepared.lvlm.only_drop):
        return Plan(_dropped(removed, first, reuse), "drop", size)
    block = Plan(_whole(first, stop, reuse, blocked=True), "block", size)
    if backend == "block" or not prepared.drop_is_exact:
        return block
    drop = Plan(_dropped(removed, first, reuse), "drop", size)
    return drop if drop.cost <= block.cost else block


def _whole(first: IntArray, stop: int, reuse: bool, *, blocked: bool) -> list[Group]:
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
