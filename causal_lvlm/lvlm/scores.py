"""What is differentiated: a target's score, from the logits of its predicting rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from causal_lvlm.errors import CaptureError, quoted

__all__ = ["SCORES", "check_finite", "check_score", "target_score"]

SCORES = ("logit", "log_prob", "prob", "margin")


def check_score(score: str) -> None:
    """Raise `ValueError` unless `score` is one of `SCORES`."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {quoted(score)}")


def target_score(
    logits: torch.Tensor, token_ids: Sequence[int], score: str, other: int | None
) -> torch.Tensor:
    """Return what is differentiated, from logits of the predicting rows.

    Parameters
    ----------
    logits : Tensor, shape (B, G, vocabulary)
    token_ids : sequence of int, length G
        The target's.
    score : {"logit", "log_prob", "prob", "margin"}
        Sum over the target's tokens of their logits or log-probabilities; the probability of the
        whole target, their product; or the sum of their logits' leads over the strongest rival of
        each row, which is the one of these very logits and held fixed.
    other : int, optional
        Token whose score at the first predicting row is subtracted.

    Returns
    -------
    Tensor, shape (B,)
    """
    scores = logits if score in ("logit", "margin") else logits.log_softmax(dim=-1)
    ids = torch.tensor(token_ids, device=logits.device)[None, :, None].expand(len(logits), -1, 1)
    total = scores.gather(2, ids)[..., 0].sum(dim=1)
    if score == "margin":
        strongest = logits.detach().scatter(2, ids, -torch.inf).argmax(dim=-1, keepdim=True)
        total = total - logits.gather(2, strongest)[..., 0].sum(dim=1)
    rival = None if other is None else scores[:, 0, other]
    if score == "prob":
        total = total.exp()
        rival = None if rival is None else rival.exp()
    return total if rival is None else total - rival


def check_finite(gradient: torch.Tensor, what: str) -> None:
    """Raise `CaptureError` unless a gradient is finite."""
    if not torch.isfinite(gradient).all():
        raise CaptureError(
            f"the gradient with respect to {what} is not finite; use a model in float32"
        )
