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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import AttentionError
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.interventions import masked_embeddings
from causal_lvlm.lvlm.plan import Batch, SizeRule, make_plan
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.results import Evaluation
from causal_lvlm.tokens import Target

__all__ = ["BACKENDS", "MASKINGS", "evaluate"]

MASKINGS = ("remove", "edges", "neutral", "pixels-blur", "pixels-mean")
BACKENDS = ("auto", "drop", "block")


def evaluate(
    prepared: Prepared,
    keep: BoolArray,
    target: Target,
    *,
    masking: str = "remove",
    backend: str = "auto",
    against: int | str | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate the target, teacher-forced, under K masks.

    Parameters
    ----------
    prepared : Prepared
    keep : ndarray of bool, shape (K, T)
        False where a token is masked. True on special and template tokens, on the position that
        predicts the target and on everything after it.
    target : Target
    masking : str
        One of `MASKINGS`.
    backend : {"auto", "drop", "block"}
        How removal is computed.
    against : int or str, optional
        Another token (id or text) whose log-probability is wanted at the first predicting row.
    batch_size : int, optional
        Most rows in one call.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If a mask has the wrong shape or covers a position that must stay, or a word is unknown.
    AttentionError
        If the model's logits are not a number.
    """
    if masking not in MASKINGS:
        raise ValueError(f"masking must be one of {', '.join(MASKINGS)}, got {masking!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    keep = _checked_keep(prepared, keep, target)
    lvlm = prepared.lvlm
    other = None if against is None else lvlm.token_id(against)
    stop = target.positions[-1]  # rows up to the one that predicts the last target token
    kept = keep[:, :stop]
    is_image = prepared.layout.modality[:stop] == "image"
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    size = SizeRule(prepared, batch_size)

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
    elif masking == "edges":
        changed = np.zeros_like(kept)  # nothing before the predicting row differs
    plan = make_plan(prepared, removed, changed, target, masking, backend, size)
    visible = kept if masking == "edges" else removed
    embeds_of = masked_embeddings(prepared, kept, masking, is_image, stop)

    n_rows, n_target = len(keep), len(target.positions)
    token_log_probs = np.empty((n_rows, n_target))
    margin = np.empty((n_rows, n_target))
    top = np.empty((n_rows, n_target))
    argmax = np.empty((n_rows, n_target), dtype=np.int64)
    runner_up = np.empty((n_rows, n_target), dtype=np.int64)
    against_log_prob = None if other is None else np.empty(n_rows)
    ids = torch.tensor(target.token_ids, device=lvlm.device)
    with lvlm.session(), torch.no_grad():
        for batch in plan.batches:
            logits = _run_batch(prepared, batch, visible, embeds_of, target, masking).double()
            if torch.isnan(logits).any():
                raise AttentionError(
                    "the model's logits under masking are not a number; its weights or number "
                    f"format ({lvlm.dtype}) are not usable here"
                )
            columns = ids[None, :, None].expand(len(logits), -1, 1)
            log_probs = logits.log_softmax(dim=-1)
            own = logits.gather(2, columns)[..., 0]
            first = logits.argmax(dim=-1)
            token_log_probs[batch.rows] = log_probs.gather(2, columns)[..., 0].cpu().numpy()
            top[batch.rows] = log_probs.gather(2, first[..., None])[..., 0].cpu().numpy()
            argmax[batch.rows] = first.cpu().numpy()
            rest, rival = logits.scatter(2, columns, -torch.inf).max(dim=-1)
            margin[batch.rows] = (own - rest).cpu().numpy()
            runner_up[batch.rows] = rival.cpu().numpy()
            if against_log_prob is not None:
                against_log_prob[batch.rows] = log_probs[:, 0, other].cpu().numpy()
    return Evaluation(
        token_log_probs=token_log_probs,
        argmax=argmax,
        margin=margin,
        runner_up=runner_up,
        top_log_prob=top,
        against_log_prob=against_log_prob,
        runs=n_rows,
        masking=masking,
        backend=plan.backend,
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


def _run_batch(
    prepared: Prepared,
    batch: Batch,
    visible: BoolArray,
    embeds_of: Callable[[IntArray], torch.Tensor],
    target: Target,
    masking: str,
) -> torch.Tensor:
    """Return logits of the predicting rows, (B, G, vocabulary)."""
    lvlm = prepared.lvlm
    n_target = len(target.positions)
    positions = torch.tensor(batch.positions, device=lvlm.device)
    embeds = embeds_of(batch.rows)
    if len(embeds) == 1:
        embeds = embeds.expand(len(batch.rows), -1, -1)
    index = positions[..., None].expand(-1, -1, embeds.shape[-1])
    chosen = embeds.gather(1, index)
    cache = prepared.prefix(batch.prefix, len(batch.rows)) if batch.prefix else None
    recorder = Recorder()
    if batch.blocked:
        recorder.allowed = _allowed(batch, visible, n_target, masking).to(lvlm.device)
    with recording(recorder):
        logits: torch.Tensor = lvlm.logits(chosen, positions, n_target, cache)
    return logits


def _allowed(batch: Batch, visible: BoolArray, n_target: int, masking: str) -> torch.Tensor:
    """Return which keys each query may see, bool (B, 1, Tq, Tk), on top of causality.

    Under ``remove`` every query keeps seeing itself, so that no row of attention is empty; under
    ``edges`` only the predicting rows lose keys.
    """
    n_keys = visible.shape[1]
    keys = torch.tensor(visible[batch.rows])[:, None, None, :]
    queries = torch.arange(batch.prefix, n_keys)
    if masking == "edges":
        free = queries < n_keys - n_target
        return torch.logical_or(keys, free[None, None, :, None])
    diagonal = queries[:, None] == torch.arange(n_keys)[None, :]
    return torch.logical_or(keys, diagonal[None, None])
