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
4. ``auto`` compares the number of token rows each backend would compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageStat

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import AttentionError
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.results import Evaluation
from causal_lvlm.tokens import Target

__all__ = ["BACKENDS", "MASKINGS", "evaluate", "mask_pixels"]

MASKINGS = ("remove", "edges", "neutral", "pixels-blur", "pixels-mean")
BACKENDS = ("auto", "drop", "block")

# A forward pass costs about as much as this many token rows besides the rows it computes: measured
# on the embedded model, and of little weight in larger ones.
_CALL_OVERHEAD = 80
_BLOCK_SURCHARGE = 1.15  # an explicit mask makes attention slower than the causal kernel


@dataclass(frozen=True)
class _Batch:
    """Rows computed in one call: the same prefix, and the same number of positions after it."""

    rows: IntArray
    prefix: int
    positions: IntArray  # (B, L) sequence positions computed
    blocked: bool


class _SizeRule:
    """How many rows go into one call: large batches leave the processor's cache and get slower."""

    def __init__(self, prepared: Prepared, fixed: int | None) -> None:
        lvlm = prepared.lvlm
        self._fixed = fixed
        self._width = int(lvlm.text_config.hidden_size)
        self._on_cpu = lvlm.device.type == "cpu"

    def __call__(self, length: int) -> int:
        """Return the number of rows for calls that compute `length` positions a row."""
        if self._fixed is not None:
            return self._fixed
        if not self._on_cpu:
            return int(np.clip(64e6 / (length * self._width), 1, 64))
        most = np.clip(2e6 / (length * self._width), 1, 64)
        return int(min(most, max(16, 1200 // length)))


@dataclass(frozen=True)
class _Plan:
    batches: list[_Batch]
    backend: str

    @property
    def cost(self) -> float:
        """Token rows computed, with overheads."""
        return sum(
            _CALL_OVERHEAD + b.positions.size * (_BLOCK_SURCHARGE if b.blocked else 1.0)
            for b in self.batches
        )


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
        If the model's logits are not finite.
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
    size = _SizeRule(prepared, batch_size)

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
    plan = _plan(prepared, removed, changed, target, masking, backend, size)
    embeds_of = _embeddings(prepared, kept, masking, is_image, stop)

    n_rows, n_target = len(keep), len(target.positions)
    token_log_probs = np.empty((n_rows, n_target))
    margin = np.empty((n_rows, n_target))
    top = np.empty((n_rows, n_target))
    argmax = np.empty((n_rows, n_target), dtype=np.int64)
    against_log_prob = None if other is None else np.empty(n_rows)
    ids = torch.tensor(target.token_ids, device=lvlm.device)
    with lvlm.session(), torch.no_grad():
        for batch in plan.batches:
            logits = _run_batch(prepared, batch, kept, embeds_of, target, masking).double()
            if not torch.isfinite(logits).all():
                raise AttentionError(
                    "the model's logits under masking are not finite; its weights or number "
                    f"format ({lvlm.dtype}) are not usable here"
                )
            columns = ids[None, :, None].expand(len(logits), -1, 1)
            log_probs = logits.log_softmax(dim=-1)
            own = logits.gather(2, columns)[..., 0]
            best, first = logits.max(dim=-1)
            token_log_probs[batch.rows] = log_probs.gather(2, columns)[..., 0].cpu().numpy()
            top[batch.rows] = log_probs.gather(2, first[..., None])[..., 0].cpu().numpy()
            argmax[batch.rows] = first.cpu().numpy()
            rest = logits.scatter(2, columns, -torch.inf).amax(dim=-1)
            margin[batch.rows] = (own - rest).cpu().numpy()
            if against_log_prob is not None:
                against_log_prob[batch.rows] = log_probs[:, 0, other].cpu().numpy()
    return Evaluation(
        token_log_probs=token_log_probs,
        argmax=argmax,
        margin=margin,
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


# -- planning -----------------------------------------------------------------------------------


def _plan(
    prepared: Prepared,
    removed: BoolArray,
    changed: BoolArray,
    target: Target,
    masking: str,
    backend: str,
    size: _SizeRule,
) -> _Plan:
    predictor, stop = target.predictor, target.positions[-1]
    first = np.where(changed.any(axis=1), changed.argmax(axis=1), predictor)
    first = np.minimum(first, predictor).astype(np.int64)
    reuse = prepared.can_reuse_prefix
    if masking == "edges":
        plain = _chunks(np.arange(len(first)), first, size, reuse, stop, blocked=True)
        return _Plan(plain, "block")
    if removed.all():
        plain = _chunks(np.arange(len(first)), first, size, reuse, stop, blocked=False)
        return _Plan(plain, "none")
    if backend == "drop":
        return _drop_plan(removed, first, size, reuse)
    everything = np.arange(len(first))
    block = _Plan(_chunks(everything, first, size, reuse, stop, blocked=True), "block")
    if backend == "block":
        return block
    drop = _drop_plan(removed, first, size, reuse)
    return drop if drop.cost <= block.cost else block


def _runs(
    rows: IntArray, first: IntArray, size: _SizeRule, length: Callable[[int], int]
) -> Iterator[IntArray]:
    """Sort rows by where they begin to differ, and cut them into runs of the right size."""
    ordered = rows[np.argsort(first[rows], kind="stable")]
    start = 0
    while start < len(ordered):
        count = size(length(int(first[ordered[start]])))
        yield ordered[start : start + count]
        start += count


def _chunks(
    rows: IntArray, first: IntArray, size: _SizeRule, reuse: bool, stop: int, *, blocked: bool
) -> list[_Batch]:
    """Batch rows that keep all their positions."""
    batches = []
    for chosen in _runs(rows, first, size, lambda begin: stop - begin * reuse):
        prefix = int(first[chosen[0]]) * reuse
        positions = np.broadcast_to(np.arange(prefix, stop), (len(chosen), stop - prefix))
        batches.append(_Batch(chosen, prefix, positions, blocked))
    return batches


def _drop_plan(removed: BoolArray, first: IntArray, size: _SizeRule, reuse: bool) -> _Plan:
    """Batch rows of equal length; positions that a row removed are left out of it."""
    lengths = removed.sum(axis=1)
    batches = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        for chosen in _runs(rows, first, size, lambda begin, n=length: int(n) - begin * reuse):
            prefix = int(first[chosen[0]]) * reuse
            positions = np.stack([np.flatnonzero(removed[row, prefix:]) for row in chosen])
            batches.append(_Batch(chosen, prefix, positions + prefix, False))
    return _Plan(batches, "drop")


# -- running ------------------------------------------------------------------------------------


def _run_batch(
    prepared: Prepared,
    batch: _Batch,
    kept: BoolArray,
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
        recorder.allowed = _allowed(batch, kept, n_target, masking).to(lvlm.device)
    with recording(recorder):
        return lvlm.logits(chosen, positions, n_target, cache)


def _allowed(batch: _Batch, kept: BoolArray, n_target: int, masking: str) -> torch.Tensor:
    """Return which keys each query may see, bool (B, 1, Tq, Tk), on top of causality.

    Under ``remove`` every query keeps seeing itself, so that no row of attention is empty; under
    ``edges`` only the predicting rows lose keys.
    """
    n_keys = kept.shape[1]
    keys = torch.tensor(kept[batch.rows])[:, None, None, :]
    queries = torch.arange(batch.prefix, n_keys)
    if masking == "edges":
        free = queries < n_keys - n_target
        return keys | free[None, None, :, None]
    diagonal = queries[:, None] == torch.arange(n_keys)[None, :]
    return keys | diagonal[None, None]


def _embeddings(
    prepared: Prepared, kept: BoolArray, masking: str, is_image: BoolArray, stop: int
) -> Callable[[IntArray], torch.Tensor]:
    """Return a function giving the merged embeddings (B or 1, stop, D) of some rows."""
    plain = prepared.embeds[:, :stop]
    lvlm = prepared.lvlm
    if masking == "neutral":
        # In float32: a mean over a large vocabulary loses digits in a half format.
        with torch.no_grad():
            table = lvlm.model.get_input_embeddings().weight
            text = table.float().mean(dim=0)
            image = prepared.features[0].float().mean(dim=0)
        where = torch.tensor(is_image, device=plain.device)[None, :, None]
        neutral = torch.where(where, image, text).to(plain.dtype)

        def neutralised(rows: IntArray) -> torch.Tensor:
            stays = torch.tensor(kept[rows], device=plain.device)[..., None]
            return torch.where(stays, plain, neutral)

        return neutralised
    if masking.startswith("pixels"):
        how = masking.removeprefix("pixels-")

        def repainted(rows: IntArray) -> torch.Tensor:
            # Rows that share a set of image tokens share its encoding.
            sets, inverse = np.unique(kept[rows] | ~is_image, axis=0, return_inverse=True)
            images = [mask_pixels(prepared, np.flatnonzero(~row), how) for row in sets]
            features = lvlm.family.features(lvlm.model, lvlm.pixels(images))
            merged = lvlm.merge(prepared.token_ids[:, :stop], features)
            return merged[torch.tensor(inverse.reshape(-1), device=merged.device)]

        return repainted
    return lambda rows: plain


def mask_pixels(prepared: Prepared, positions: IntArray, how: str) -> Image.Image:
    """Return the original image with the rectangles of some image tokens blurred or filled.

    Parameters
    ----------
    prepared : Prepared
    positions : ndarray of int
        Sequence positions; those without a rectangle are ignored.
    how : {"blur", "mean"}

    Returns
    -------
    PIL.Image.Image
        Same size as the original.
    """
    original = prepared.image
    boxes = [box for p in positions if (box := prepared.layout.patch_box(int(p))) is not None]
    if not boxes:
        return original
    if how == "mean":
        colour = tuple(round(v) for v in ImageStat.Stat(original).mean)
        source = Image.new("RGB", original.size, colour)
    else:
        # A radius of one cell takes out whatever is smaller than a cell.
        radius = max(max(b[2] - b[0], b[3] - b[1]) for b in boxes)
        source = original.filter(ImageFilter.GaussianBlur(radius))
    result = original.copy()
    for box in boxes:
        left, top, right, bottom = (round(v) for v in box)
        if right > left and bottom > top:
            result.paste(source.crop((left, top, right, bottom)), (left, top))
    return result
