"""How many rows go into one call, and what to do where they do not fit.

1. A group of rows is cut into batches as it is computed, so that the number of rows in a call can
   follow what was measured (see `pace`). Each batch starts at the first position of its rows, on
   the plain run's keys and values, where that saves enough.
2. What a row takes is estimated, and a limit on memory keeps batches small enough.
3. A batch that does not fit into memory is halved, and later ones are made no larger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import ModelMemoryError
from causal_lvlm.lvlm.memory import is_out_of_memory, parse_memory, release
from causal_lvlm.lvlm.pace import Pace
from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["Batch", "Group", "SizeRule", "in_batches", "most_rows", "row_bytes"]

# A prefix makes a mask necessary where keys are not hidden anyway, so it has to save this share of
# the positions at least.
LEAST_SAVING = 1 / 8


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
        return begin if self.blocked or begin >= LEAST_SAVING * self.length else 0

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


def most_rows(prepared: Prepared, batch_size: int | None, stop: int, n_target: int) -> int:
    """Return how many rows of the whole sequence go into one call."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    budget = parse_memory(prepared.lvlm.max_memory)
    size = SizeRule(prepared, batch_size, budget, total=stop, rows=n_target)
    return size(stop)


def in_batches(
    n_rows: int, most: int, compute: Callable[[IntArray], None], prepared: Prepared
) -> tuple[int, int]:
    """Compute rows in batches, in smaller ones where memory runs out.

    Returns
    -------
    (int, int)
        Largest batch, and how often a batch was halved.

    Raises
    ------
    ModelMemoryError
        If memory runs out with a single row.
    """
    queue = deque(np.array_split(np.arange(n_rows), max(1, -(-n_rows // most))))
    largest = halvings = 0
    while queue:
        chosen = queue.popleft()
        if not len(chosen):
            continue
        if len(chosen) > most:
            queue.extendleft(reversed(np.array_split(chosen, -(-len(chosen) // most))))
            continue
        try:
            compute(chosen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise ModelMemoryError(
                    f"memory ran out on {prepared.lvlm.device} with a single row of "
                    f"{len(prepared.layout)} tokens; free memory there, load the model in a "
                    "smaller number format or on another device, or use a smaller image"
                ) from error
        else:
            largest = max(largest, len(chosen))
            continue
        # Only here is everything free that the exception's traceback held on to.
        release(prepared.lvlm.device)
        most = len(chosen) // 2
        halvings += 1
        queue.appendleft(chosen)
    return largest, halvings


def row_bytes(prepared: Prepared, length: int, total: int, rows: int, *, blocked: bool) -> int:
    """Estimate what one masked row takes while it is evaluated.

    Parameters
    ----------
    prepared : Prepared
    length : int
        Positions computed.
    total : int
        Positions that are looked at: `length` and the prefix.
    rows : int
        Predicting rows that go through the head.
    blocked : bool
        Whether each row has a mask of its own.
    """
    text: Any = prepared.lvlm.text_config
    size = prepared.embeds.element_size()
    heads = _number(text, "num_attention_heads", 1)
    hidden = _number(text, "hidden_size", prepared.embeds.shape[-1])
    head_dim = _number(text, "head_dim", hidden // heads)
    inner = _number(text, "intermediate_size", 4 * hidden)
    cached = 2 * _number(text, "num_hidden_layers", 1) * head_dim * total
    cached *= _number(text, "num_key_value_heads", heads) * (total > length)
    # Residual, normed copy, queries, keys, values, output; gate, up and their product.
    active = length * (8 * hidden + 3 * inner + 4 * heads * head_dim)
    mask = length * total * (1 + size) if blocked else 0
    # These compute scores explicitly: see `attention_function`.
    if getattr(text, "attn_logit_softcapping", None) or "gpt_oss" in str(text.model_type):
        mask += 3 * heads * length * total * size
    head = rows * _number(text, "vocab_size", 1) * (size + 4 * 8)  # float64, four copies
    return int(size * (cached + active) + mask + head)


def _number(config: Any, name: str, default: int) -> int:
    found = getattr(config, name, None)
    return int(found) if isinstance(found, (int, float)) and found else int(default)
