"""Masked rows of one trace, computed batch by batch.

1. Embeddings of the positions to be computed are gathered; a stored prefix stands before them.
2. The language model runs on them, with keys hidden where the batch asks for it.
3. Log-probabilities, margins and rivals are read from the predicting rows.
4. A batch that does not fit into memory is halved, and later ones are made no larger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, FloatArray, IntArray
from causal_lvlm.errors import AttentionError, ModelMemoryError
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.batches import Batch, SizeRule, row_bytes
from causal_lvlm.lvlm.memory import gigabytes, is_out_of_memory, release
from causal_lvlm.lvlm.pace import clock_of
from causal_lvlm.lvlm.plan import Plan, make_plan
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.tokens import Target

__all__ = ["Answers", "MaskedRows", "compute"]

logger = logging.getLogger(__name__)


@dataclass
class Answers:
    """What was read from the logits of all rows so far."""

    token_log_probs: FloatArray
    margin: FloatArray
    top: FloatArray
    argmax: IntArray
    runner_up: IntArray
    against: FloatArray
    rivals: FloatArray
    prefixed: BoolArray  # rows that were computed from a stored prefix
    largest_batch: int = 0
    halvings: int = 0

    @classmethod
    def empty(cls, rows: int, n_target: int) -> Answers:
        """Return room for so many rows."""
        shape = (rows, n_target)
        return cls(
            token_log_probs=np.empty(shape),
            margin=np.empty(shape),
            top=np.empty(shape),
            argmax=np.empty(shape, dtype=np.int64),
            runner_up=np.empty(shape, dtype=np.int64),
            against=np.empty(rows),
            rivals=np.empty(shape),
            prefixed=np.zeros(rows, dtype=bool),
        )

    def read(
        self,
        rows: IntArray,
        logits: torch.Tensor,
        token_ids: Sequence[int],
        against: int | None,
        rivals: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Fill some rows from logits (B, G, vocabulary); returns log-probabilities, float64.

        Raises
        ------
        AttentionError
            If a logit is not a number.
        """
        given, logits = logits.dtype, logits.double()
        ids = torch.tensor(token_ids, device=logits.device)
        columns = ids.view(1, -1, 1).expand(len(logits), -1, 1)
        log_probs = logits.log_softmax(dim=-1)
        own = logits.gather(2, columns).squeeze(2)
        found = log_probs.gather(2, columns).squeeze(2).cpu().numpy()
        if np.isnan(found).any():  # one logit that is no number, or infinite, makes all so
            raise AttentionError(
                "the model's logits under masking are not a number; its weights or number "
                f"format ({given}) are not usable here"
            )
        self.token_log_probs[rows] = found
        self.top[rows] = log_probs.amax(dim=-1).cpu().numpy()
        self.argmax[rows] = logits.argmax(dim=-1).cpu().numpy()
        rest, rival = logits.scatter(2, columns, -torch.inf).max(dim=-1)
        self.margin[rows] = (own - rest).cpu().numpy()
        self.runner_up[rows] = rival.cpu().numpy()
        if against is not None:
            self.against[rows] = log_probs[:, 0, against].cpu().numpy()
        if rivals is not None:
            other = torch.tensor(rivals, device=logits.device).view(1, -1, 1)
            other = other.expand(len(logits), -1, 1)
            self.rivals[rows] = log_probs.gather(2, other).squeeze(2).cpu().numpy()
        return log_probs


@dataclass(frozen=True)
class MaskedRows:
    """Masked rows of one trace, and what is asked about them."""

    prepared: Prepared
    removed: BoolArray
    changed: BoolArray
    embeds_of: Callable[[IntArray], torch.Tensor]
    target: Target
    masking: str
    against: int | None
    rivals: tuple[int, ...] | None = None

    @property
    def safe_backend(self) -> str:
        """The backend that rests on fewest assumptions."""
        return "drop" if self.prepared.lvlm.only_drop else "block"

    def plan(self, rows: IntArray, backend: str, size: SizeRule, *, prefix: bool = True) -> Plan:
        """Divide some of the rows into groups."""
        made = make_plan(
            self.prepared,
            self.removed[rows],
            self.changed[rows],
            self.target,
            backend,
            size,
            prefix=prefix,
        )
        return made.numbered(rows)

    def answers(self, n_rows: int, plan: Plan) -> Answers:
        """Compute a plan batch by batch."""
        return compute(self.prepared, self.target, self.against, plan, n_rows, self._run)

    def allowed_keys(self, rows: IntArray, prefix: int = 0) -> torch.Tensor:
        """Return which keys each query may see, bool (B, 1, Tq, Tk), on top of causality.

        Every query keeps seeing itself, so that no row of attention is empty.
        """
        n_keys = self.removed.shape[1]
        keys = torch.tensor(self.removed[rows])[:, None, None, :]
        diagonal = torch.arange(prefix, n_keys)[:, None] == torch.arange(n_keys)[None, :]
        return torch.logical_or(keys, diagonal[None, None])

    def _run(self, batch: Batch) -> torch.Tensor:
        """Return logits of the predicting rows, (B, G, vocabulary)."""
        prepared, n_target = self.prepared, len(self.target.positions)
        embeds = self.embeds_of(batch.rows)
        positions = torch.tensor(batch.positions, device=embeds.device)
        # All rows are cut from one sequence, or each from its own.
        own = 0 if len(embeds) == 1 else torch.arange(len(embeds), device=embeds.device)[:, None]
        chosen = embeds[own, positions]
        cache = prepared.prefix(batch.prefix, len(batch.rows)) if batch.prefix else None
        recorder = Recorder(unmasked=prepared.lvlm.cross_attention)
        if batch.blocked:
            recorder.allowed = self.allowed_keys(batch.rows, batch.prefix).to(embeds.device)
        with recording(recorder):
            return prepared.logits(chosen, positions, n_target, cache)


def compute(
    prepared: Prepared,
    target: Target,
    against: int | None,
    plan: Plan,
    n_rows: int,
    run: Callable[[Batch], torch.Tensor],
    rivals: Sequence[int] | None = None,
) -> Answers:
    """Compute a plan batch by batch, in smaller ones where memory runs out.

    Parameters
    ----------
    prepared : Prepared
    target : Target
    against : int, optional
        Token compared with.
    plan : Plan
    n_rows : int
        Rows that there are, in the plan or not.
    run : callable
        Returns the logits of a batch's predicting rows, (B, G, vocabulary).
    rivals : sequence of int, optional
        One more token to read at each predicting row.

    Raises
    ------
    ModelMemoryError
        If memory runs out with a single row.
    """
    found = Answers.empty(n_rows, len(target.positions))
    clock = clock_of(prepared.lvlm.device)
    most = n_rows
    for group in plan.groups:
        start = 0
        while start < len(group.rows):
            left = min(most, len(group.rows) - start)
            batch = group.batch(start, plan.size.chosen(group, start, left))
            begun = clock()
            try:
                found.read(batch.rows, run(batch), target.token_ids, against, rivals)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch.rows) == 1:
                    raise _too_large(prepared, target, batch) from error
            else:
                plan.size.note(batch, clock() - begun)
                found.prefixed[batch.rows] = batch.prefix > 0
                found.largest_batch = max(found.largest_batch, len(batch.rows))
                start += len(batch.rows)
                continue
            # Only here is everything free that the exception's traceback held on to.
            release(prepared.lvlm.device)
            most = len(batch.rows) // 2
            found.halvings += 1
            logger.warning(
                "memory ran out with %d rows in a call; %d from now on", len(batch.rows), most
            )
    return found


def _too_large(prepared: Prepared, target: Target, batch: Batch) -> ModelMemoryError:
    length, total = batch.length, batch.prefix + batch.length
    least = row_bytes(prepared, length, total, len(target.positions), blocked=batch.blocked)
    return ModelMemoryError(
        f"memory ran out on {prepared.lvlm.device} while evaluating a single masked row of {total} "
        f"tokens (about {gigabytes(least)} beside the model); free memory there, load the model in "
        "a smaller number format or on another device, or use a smaller image"
    )
