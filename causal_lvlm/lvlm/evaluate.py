"""The inner loop: what does the model say when some of its tokens are masked?

Five interventions (`masking`), which answer different questions:

``remove``
    The token is not there for any later row, in any layer. Computed by dropping it from the
    sequence, positions of the rest unchanged (``drop``), or by hiding its keys from every query but
    itself in every layer (``block``); the two are the same function of the remaining tokens.
``edges``
    Only the rows that predict the target may not look at it; others still pass it on.
``neutral``
    It stays, with the mean embedding: of this image's features for an image token, of the
    vocabulary for a text token.
``pixels-blur``, ``pixels-mean``
    The rectangles of masked image tokens are blurred, or filled with the mean colour of the image,
    and the image is encoded again. Masked text tokens, which have no pixels, are removed.

Work that is not done twice:

1. vision features and merged embeddings are computed once per trace;
2. the sequence ends with the last row that predicts a target token, and only the predicting rows
   go through the head;
3. up to the first masked position a masked run equals the plain one, whose keys and values are
   kept: rows are sorted by that position and batched, and each batch starts there;
4. ``auto`` compares the number of token rows each backend would compute. Where they are not the
   same function it takes the right one: ``block`` for windowed attention, whose windows would reach
   further once tokens are dropped; ``drop`` where some layers have no attention to block.

How many rows go into a call is measured on the rows themselves (see `pace`), unless it is given.
The first use of a way on a trace is checked against the plain one (see `spotcheck`); batches that
do not fit into memory are halved (see `rows`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray
from causal_lvlm.errors import quoted
from causal_lvlm.lvlm.answered import answered
from causal_lvlm.lvlm.batches import SizeRule
from causal_lvlm.lvlm.cut_rows import CutRows, masked_edges
from causal_lvlm.lvlm.interventions import masked_embeddings
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.memory import parse_memory
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.rows import MaskedRows
from causal_lvlm.protocols import BACKENDS, MASKINGS
from causal_lvlm.results import BackendCheck, Evaluation
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["Masks", "masked_rows"]


class Masks(Live):
    """The target again, with tokens masked."""

    def evaluate(
        self,
        keep: BoolArray,
        target: TargetLike,
        *,
        masking: str = "remove",
        backend: str = "auto",
        against: int | str | None = None,
        batch_size: int | None = None,
        max_memory: int | str | None = None,
    ) -> Evaluation:
        """Evaluate the target, teacher-forced, under K masks.

        Parameters
        ----------
        keep : ndarray of bool, shape (K, T)
            False where a token is masked. True on special and template tokens, on the position that
            predicts the target and on everything after it.
        target : TargetLike
        masking : str
            One of `MASKINGS`.
        backend : {"auto", "drop", "block"}
            How removal is computed.
        against : int or str, optional
            Another token (id or text) whose log-probability is wanted at the first predicting row.
        batch_size : int, optional
            Rows in one call, always the same; by default what was measured to be fastest (see
            `pace`).
        max_memory : int or str, optional
            Bytes, or text such as ``"2GB"``, that one call may take besides the model. One row is
            always computed, whatever it takes.

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError
            If a mask has the wrong shape or covers a position that must stay, or a word is unknown.
        AttentionError
            If the model's logits are not a number.
        ModelMemoryError
            If memory runs out with a single row.
        """
        prepared, meant = self.prepared, self.target(target)
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {quoted(backend)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        lvlm = prepared.lvlm
        budget = parse_memory(lvlm.max_memory if max_memory is None else max_memory)
        with lvlm.session(), torch.no_grad():
            question = masked_rows(prepared, keep, meant, masking, against)
            keep = np.asarray(keep)
            stop = meant.positions[-1]  # rows up to the one that predicts the last target token
            n_target = len(meant.positions)
            size = SizeRule(
                prepared, batch_size, budget, total=stop, rows=n_target, masking=masking
            )
            return answered(question, ~keep[:, :stop], backend, size)

    @property
    def backend_checks(self) -> tuple[BackendCheck, ...]:
        """Run-time spot checks made so far: did fast ways of masking agree with the plain one?"""
        return tuple(self.prepared.ways.checks.values())


def masked_rows(
    prepared: Prepared,
    keep: BoolArray,
    target: Target,
    masking: str = "remove",
    against: int | str | None = None,
) -> MaskedRows | CutRows:
    """Say what an intervention does to each row of a mask; arguments as in `Masks.evaluate`."""
    if masking not in MASKINGS:
        raise ValueError(f"masking must be one of {', '.join(MASKINGS)}, got {quoted(masking)}")
    keep = _checked_keep(prepared, keep, target)
    rival = None if against is None else prepared.lvlm.token_id(against)
    if masking == "edges":
        return masked_edges(prepared, keep, target, rival)
    stop = target.positions[-1]
    kept = keep[:, :stop]
    is_image = prepared.layout.modality[:stop] == "image"
    removed = kept.copy()  # False where the language model must not see the token
    changed: BoolArray = ~kept  # where a masked run differs from the plain one
    if masking == "neutral":
        removed[:] = True
    elif masking.startswith("pixels"):
        removed[:, is_image] = True
        touched = (~kept & is_image).any(axis=1)
        changed = ~kept & ~is_image
        # The tower mixes: any change of pixels may change every image token.
        changed[np.ix_(touched, is_image)] = True
    return MaskedRows(
        prepared=prepared,
        removed=removed,
        changed=changed,
        embeds_of=masked_embeddings(prepared, kept, masking, is_image, stop),
        target=target,
        masking=masking,
        against=rival,
    )


def _checked_keep(prepared: Prepared, keep: Any, target: Target) -> BoolArray:
    layout = prepared.layout
    mask: BoolArray = np.asarray(keep)
    if mask.ndim != 2 or mask.shape[1] != len(layout) or mask.dtype != np.bool_:
        raise ValueError(
            f"keep must be a boolean array (K, {len(layout)}), got {mask.dtype} {mask.shape}"
        )
    frame = layout.modality == "special"
    frame[target.predictor :] = True
    wrong = np.flatnonzero((~mask).any(axis=0) & frame)
    if len(wrong):
        raise ValueError(
            f"positions {wrong.tolist()} cannot be masked for the target at {target.start}: "
            "special and template tokens, the predicting position "
            f"{target.predictor} and all after it must be kept"
        )
    return mask
