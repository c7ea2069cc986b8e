"""Embeddings in, answers and gradients out.

1. What enters the language model at each position (image features in place, additions of deeper
   layers laid behind it) is handed out, and any other may be put in its place.
2. Rows of embeddings are evaluated in batches like masked rows: the sequence ends with the last
   predicting row, only predicting rows go through the head, and a batch that does not fit into
   memory is halved.
3. Gradients with respect to those embeddings are taken in batches as well: rows do not mix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import ImageFilter

from causal_lvlm.arrays import Float32Array, FloatArray, IntArray, frozen
from causal_lvlm.errors import UnsupportedModelError, quoted
from causal_lvlm.lvlm.batches import in_batches, most_rows
from causal_lvlm.lvlm.interventions import mean_embeddings
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.rows import Answers
from causal_lvlm.lvlm.scores import check_finite, check_score, target_score
from causal_lvlm.protocols import Rows
from causal_lvlm.results import EmbeddingEvaluation
from causal_lvlm.tokens import TargetLike

__all__ = ["BASELINES", "GRADIENT_ROWS", "Embeds", "as_array"]

BASELINES = ("zero", "mean", "pad", "blur")
GRADIENT_ROWS = 8  # of one backward pass: activations of all of them are kept


class Embeds(Live):
    """The target again, given other embeddings; gradients there."""

    def embeddings(self) -> Float32Array:
        """Return what enters the language model, float32 (T, D): image features are in place.

        D includes what some families add in deeper layers, behind the embedding proper.
        """
        return as_array(self.prepared.embeds[0])

    def token_embeddings(self, ids: Sequence[int]) -> Float32Array:
        """Return the embeddings the model would give these tokens here, float32 (n, D).

        What a family adds in deeper layers is zero.

        Raises
        ------
        ValueError
            If an id is outside the vocabulary.
        """
        prepared = self.prepared
        lvlm = prepared.lvlm
        chosen = [lvlm.token_id(int(i)) for i in np.asarray(ids, dtype=np.int64).reshape(-1)]
        with lvlm.session(), torch.no_grad():
            table = lvlm.model.get_input_embeddings()
            found = table(torch.tensor(chosen, dtype=torch.int64, device=lvlm.device))
        additions = prepared.embeds.shape[-1] - found.shape[-1]
        return as_array(torch.nn.functional.pad(found, (0, additions)))

    def baseline_embeddings(self, kind: str = "zero", *, frame: bool = False) -> Float32Array:
        """Return embeddings that stand for "nothing", float32 (T, D).

        Parameters
        ----------
        kind : {"zero", "mean", "pad", "blur"}
            ``zero``: all zeros. ``mean``: the mean image feature of this sequence for image tokens,
            the mean embedding of the vocabulary for text. ``pad``: text is the padding token (the
            end token where there is none), image tokens as in ``mean``. ``blur``: image tokens
            are those of the blurred image, as ``pixels-blur`` blurs it; text as in ``mean``.
        frame : bool
            Whether special and template tokens are replaced too; they keep their own otherwise.

        Raises
        ------
        ValueError
            If `kind` is unknown.
        UnsupportedModelError
            If there is no padding or end token; for ``blur``, if the image does not enter through
            embeddings.
        """
        prepared = self.prepared
        if kind not in BASELINES:
            raise ValueError(f"kind must be one of {', '.join(BASELINES)}, got {quoted(kind)}")
        lvlm, layout = prepared.lvlm, prepared.layout
        is_image = layout.modality == "image"
        if kind == "blur" and prepared.context.cross:
            raise UnsupportedModelError(
                f"{lvlm.family.name} looks at its image through cross-attention, not through "
                "embeddings; use another baseline"
            )
        found = np.zeros(prepared.embeds.shape[1:], dtype=np.float32)
        if kind != "zero":
            text, image = mean_embeddings(prepared, is_image)
            found[:], found[is_image] = as_array(text), as_array(image)
        if kind == "pad":
            pad = lvlm.tokenizer.pad_token_id
            pad = lvlm.tokenizer.eos_token_id if pad is None else pad
            if pad is None:
                raise UnsupportedModelError(
                    f"the tokenizer of {lvlm.model_id!r} has neither a padding nor an end token; "
                    f"use another baseline: {', '.join(k for k in BASELINES if k != 'pad')}"
                )
            found[~is_image] = self.token_embeddings([pad])[0]
        if kind == "blur" and is_image.any():
            found[is_image] = _blurred(prepared)[is_image]
        if not frame:
            special = layout.modality == "special"
            found[special] = self.embeddings()[special]
        found.setflags(write=False)
        return found

    def evaluate_embeddings(
        self,
        rows: Rows,
        target: TargetLike,
        *,
        n_rows: int | None = None,
        against: int | str | None = None,
        distribution: bool = False,
        batch_size: int | None = None,
    ) -> EmbeddingEvaluation:
        """Ask the model for the target again, given other embeddings.

        Parameters
        ----------
        rows : ndarray (K, T, D), or callable
            As `embeddings` returns them. A function of the row's index returns one (T, D), so that
            not all need to exist at once; it may be asked for a row again.
        target : TargetLike
        n_rows : int, optional
            K, needed with a function.
        against : int or str, optional
            Another token whose log-probability is wanted at the first predicting row.
        distribution : bool
            Whether to return probabilities of the whole vocabulary.
        batch_size : int, optional
            Most rows in one call.

        Raises
        ------
        ValueError
            If a row has another shape.
        AttentionError
            If the model's logits are not a number.
        ModelMemoryError
            If memory runs out with a single row.
        """
        prepared, meant = self.prepared, self.target(target)
        lvlm = prepared.lvlm
        count = _n_rows(rows, n_rows)
        stop, n_target = meant.positions[-1], len(meant.positions)
        other = None if against is None else lvlm.token_id(against)
        found = Answers.empty(count, n_target)
        distributions: list[Float32Array | None] = [None] * count

        def answer(chosen: IntArray) -> None:
            embeds = _batch(prepared, rows, chosen, stop)
            logits = prepared.logits(embeds, prepared.positions[:, :stop], n_target)
            log_probs = found.read(chosen, logits, meant.token_ids, other)
            if distribution:
                probabilities = log_probs.exp().float().cpu().numpy()
                for number, row in zip(chosen, probabilities, strict=True):
                    distributions[int(number)] = row

        most = most_rows(prepared, batch_size, stop, n_target)
        with lvlm.session(), torch.no_grad():
            largest, halvings = in_batches(count, most, answer, prepared)
        whole = None
        if distribution:
            whole = np.zeros((0, n_target, int(lvlm.text_config.vocab_size)), dtype=np.float32)
            whole = np.stack([d for d in distributions if d is not None]) if count else whole
        return EmbeddingEvaluation(
            token_log_probs=found.token_log_probs,
            argmax=found.argmax,
            margin=found.margin,
            runner_up=found.runner_up,
            top_log_prob=found.top,
            against_log_prob=None if other is None else found.against,
            distributions=whole,
            runs=count,
            largest_batch=largest,
            halvings=halvings,
        )

    def embedding_gradient(
        self,
        rows: Rows,
        target: TargetLike,
        *,
        score: str = "logit",
        against: int | str | None = None,
        n_rows: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[FloatArray, Float32Array]:
        """Differentiate the target's score with respect to embeddings, row by row.

        Parameters
        ----------
        rows, n_rows, batch_size
            As in `evaluate_embeddings`.
        target : TargetLike
        score : {"logit", "log_prob", "prob"}
            Sum over the target's tokens; ``prob`` is the probability of the whole target.
        against : int or str, optional
            Another token, whose score at the first predicting row is subtracted.

        Returns
        -------
        (ndarray of float64, shape (K,); ndarray of float32, shape (K, T, D))
            Scores and gradients; the latter are zero after the last predicting row.

        Raises
        ------
        CaptureError
            If a gradient is not finite.
        """
        prepared, meant = self.prepared, self.target(target)
        check_score(score)
        lvlm = prepared.lvlm
        count = _n_rows(rows, n_rows)
        stop, n_target = meant.positions[-1], len(meant.positions)
        other = None if against is None else lvlm.token_id(against)
        values = np.zeros(count)
        gradients = np.zeros((count, *prepared.embeds.shape[1:]), dtype=np.float32)

        def differentiate(chosen: IntArray) -> None:
            embeds = _batch(prepared, rows, chosen, stop).requires_grad_(True)
            logits = prepared.logits(embeds, prepared.positions[:, :stop], n_target)
            scores = target_score(logits.float(), meant.token_ids, score, other)
            (gradient,) = torch.autograd.grad(scores.sum(), [embeds])
            check_finite(gradient, "embeddings")
            values[chosen] = scores.detach().double().cpu().numpy()
            gradients[chosen, :stop] = gradient.float().cpu().numpy()

        most = min(most_rows(prepared, batch_size, stop, n_target), GRADIENT_ROWS)
        with lvlm.session(), torch.enable_grad():
            in_batches(count, most, differentiate, prepared)
        values.setflags(write=False)
        gradients.setflags(write=False)
        return values, gradients


def _blurred(prepared: Prepared) -> Float32Array:
    """Return embeddings (T, D) of the images blurred by one cell, as ``pixels-blur`` blurs them."""
    pictures = []
    for number, image in enumerate(prepared.images):
        boxes = [grid.boxes for grid in prepared.layout.grids if grid.image == number]
        if boxes:
            radius = float(max((b[:, 2:] - b[:, :2]).max() for b in boxes))
        else:  # queries without a place in the image
            radius = min(image.size) / 8
        pictures.append(image.filter(ImageFilter.GaussianBlur(radius)))
    with prepared.lvlm.session(), torch.no_grad():
        return as_array(prepared.embeds_of(pictures)[0])


def _n_rows(rows: Rows, n_rows: int | None) -> int:
    if callable(rows):
        if n_rows is None or n_rows < 0:
            raise ValueError(
                f"rows is a function, so n_rows must say how many, got {quoted(n_rows)}"
            )
        return int(n_rows)
    count = len(rows)
    if n_rows is not None and n_rows != count:
        raise ValueError(f"n_rows is {n_rows}, but {count} rows were given; leave it out")
    return count


def _batch(prepared: Prepared, rows: Rows, chosen: IntArray, stop: int) -> torch.Tensor:
    """Return the embeddings (B, stop, D) of some rows."""
    shape = tuple(prepared.embeds.shape[1:])
    found = []
    for number in chosen:
        row = np.asarray(rows(int(number)) if callable(rows) else rows[int(number)])
        if row.shape != shape or not np.issubdtype(row.dtype, np.floating):
            raise ValueError(
                f"a row of embeddings must be a float array {shape} as trace.embeddings() "
                f"returns it, got {row.dtype} {row.shape}"
            )
        found.append(row[:stop].astype(np.float32))
    device, dtype = prepared.embeds.device, prepared.embeds.dtype
    return torch.tensor(np.stack(found), device=device).to(dtype)


def as_array(tensor: torch.Tensor) -> Float32Array:
    """Return a tensor as a read-only array of float32."""
    array: Float32Array = frozen(tensor.detach().float().cpu().numpy(), np.float32)
    return array
