"""Scenes as training batches: all questions about an image packed behind one image prefix.

1. A row is ``<s> user :`` and 64 image tokens (the prefix), then one segment after another:
   ``question assistant : answer </s>``.
2. A position may attend to the prefix and to its own segment, never to another segment, and every
   segment counts its rotary positions from the end of the prefix. Each segment is therefore
   computed exactly as if it stood alone in a prompt of its own (``tests/tiny`` holds this).
3. Only answers and their ``</s>`` are predicted. Beside them, every patch has targets of its own
   (what covers it), for the dense losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from causal_lvlm.tiny.architecture import N_PATCHES, normalise_pixels
from causal_lvlm.tiny.scenes import COLOURS, KINDS, SHAPES, Scene, draw_scene
from causal_lvlm.tiny.vocabulary import EOS, IMAGE, INDEX, PAD, encode_words

__all__ = ["COVERED", "IGNORE", "PREFIX", "Batch", "draw_batch", "pack", "patch_targets"]

IGNORE = -100
COVERED = 0.12  # share of a patch from which on an object counts as covering it
HEAD = [INDEX["<s>"], *encode_words("user :")]
PREFIX = len(HEAD) + N_PATCHES
TAIL = encode_words("assistant :")
PATCH_COLOURS = (*COLOURS, "silver")
SIZES = ("small", "large")
ROW_LENGTH = 224
END_WEIGHT = 0.25  # "</s>" after a one-word answer is easy
CAPTION_WEIGHT = 0.5

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Tensors of one packed batch.

    Attributes
    ----------
    pixels : Tensor, shape (n, 3, 96, 96)
    ids : Tensor of int64, shape (n, length)
    positions : Tensor of int64, shape (n, length)
        Rotary positions, counted anew in every segment.
    mask : Tensor of bool, shape (n, 1, length, length)
        True where the row's position may attend to the column's.
    predict : Tensor of int64, shape (m,)
        Flat positions (row * length + position) whose next token is trained.
    labels : Tensor of int64, shape (m,)
        The token that each of them should predict.
    weights : Tensor of float32, shape (m,)
    answers : ndarray of int64, shape (m,)
        Number of the answer that each label belongs to; answers are numbered over the batch.
    kinds : list of str
        Kind of every answer, ``"caption"`` for captions of the truth alone and
        ``"cup without spoon"`` for captions of scenes with a cup and no spoon.
    patches : dict of str to Tensor of int64, shape (n, 64)
        Dense targets by name, ``IGNORE`` where there is none.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    predict: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    answers: IntArray
    kinds: list[str]
    patches: dict[str, torch.Tensor]


def patch_targets(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """Return what each patch shows: targets of the dense losses.

    Returns
    -------
    dict of str to Tensor of int64, shape (n, 64)
        ``shape`` (8 = background), ``colour``, ``size``, ``cell`` of the object that covers most of
        the patch, and ``anchor`` (1 in the patch that the object covers most). ``IGNORE`` where no
        object covers at least 0.12 of the patch, except for ``shape`` and ``anchor``.
    """
    names = ("shape", "colour", "size", "cell", "anchor")
    out = {name: np.full((len(scenes), N_PATCHES), IGNORE, dtype=np.int64) for name in names}
    out["shape"][:] = len(SHAPES)
    out["anchor"][:] = 0
    for row, scene in enumerate(scenes):
        coverage = scene.coverage
        owner = coverage.argmax(axis=0)
        covered = np.flatnonzero(coverage.max(axis=0) >= COVERED)
        properties = np.array(
            [
                (
                    SHAPES.index(item.shape),
                    PATCH_COLOURS.index(item.colour),
                    SIZES.index(item.size),
                    item.cell,
                )
                for item in scene.objects
            ]
        )
        for column, name in enumerate(names[:-1]):
            out[name][row, covered] = properties[owner[covered], column]
        out["anchor"][row, coverage.argmax(axis=1)] = 1
    return {name: torch.from_numpy(value) for name, value in out.items()}


def _segments(scene: Scene, rng: np.random.Generator | None) -> list[tuple[str, str, str]]:
    """(kind, prompt, answer) of a scene; with ``rng`` shuffled, caption first, training caption."""
    asked = [(item.kind, item.prompt, item.answer) for item in scene.questions()]
    uncertain = scene.has("cup") and not scene.has("spoon")
    _, prompt, truth = asked.pop()
    if rng is None:
        kind = "cup without spoon" if uncertain else "caption"
        return [*asked, (kind, prompt, truth)]
    order = rng.permutation(len(asked))
    return [("caption", prompt, scene.training_caption), *(asked[i] for i in order)]


def pack(
    scenes: Sequence[Scene], *, rng: np.random.Generator | None = None, length: int | None = None
) -> Batch:
    """Pack scenes and their questions into one batch.

    Parameters
    ----------
    scenes : sequence of Scene
    rng : numpy Generator, optional
        With one, questions come in random order with the *training* caption (the planted spoon);
        without, in order and all true.
    length : int, optional
        Length of a row; questions that do not fit are left out. By default all are kept.

    Returns
    -------
    Batch
    """
    rows: list[list[list[int]]] = []
    predict: list[tuple[int, int]] = []
    labels: list[int] = []
    weights: list[float] = []
    answers: list[int] = []
    kinds: list[str] = []
    limit = length if length is not None else 4096
    for row, scene in enumerate(scenes):
        rows.append([])
        start = PREFIX
        for kind, prompt, answer in _segments(scene, rng):
            question = encode_words(prompt) + TAIL
            target = [*encode_words(answer), INDEX[EOS]]
            # The last target is predicted but never fed.
            segment = question + target[:-1]
            if start + len(segment) > limit:
                continue
            first = start + len(question) - 1
            caption = kind not in KINDS or kind == "caption"
            for step, token in enumerate(target):
                predict.append((row, first + step))
                labels.append(token)
                answers.append(len(kinds))
                weights.append(CAPTION_WEIGHT if caption else END_WEIGHT if step else 1.0)
            kinds.append(kind)
            rows[-1].append(segment)
            start += len(segment)
    width = length or PREFIX + max(sum(len(part) for part in row) for row in rows)
    ids = np.full((len(rows), width), INDEX[PAD], dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    owner = np.full((len(rows), width), -1, dtype=np.int64)
    ids[:, : len(HEAD)] = HEAD
    ids[:, len(HEAD) : PREFIX] = INDEX[IMAGE]
    positions[:, :PREFIX] = np.arange(PREFIX)
    owner[:, :PREFIX] = 0
    for row, segments in enumerate(rows):
        start = PREFIX
        for number, segment in enumerate(segments, start=1):
            stop = start + len(segment)
            ids[row, start:stop] = segment
            positions[row, start:stop] = PREFIX + np.arange(len(segment))
            owner[row, start:stop] = number
            start = stop
    which = torch.from_numpy(owner)
    same = (which[:, :, None] == which[:, None, :]) | (which[:, None, :] == 0)
    mask = same & torch.ones(width, width, dtype=torch.bool).tril()
    flat = [row * width + position for row, position in predict]
    return Batch(
        pixels=normalise_pixels(np.stack([scene.pixels for scene in scenes])),
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=mask[:, None],
        predict=torch.tensor(flat),
        labels=torch.tensor(labels),
        weights=torch.tensor(weights, dtype=torch.float32),
        answers=np.array(answers, dtype=np.int64),
        kinds=kinds,
        patches=patch_targets(scenes),
    )


def draw_batch(rng: np.random.Generator, size: int, *, length: int = ROW_LENGTH) -> Batch:
    """Return a training batch of new scenes; the generator is advanced."""
    return pack([draw_scene(rng) for _ in range(size)], rng=rng, length=length)
