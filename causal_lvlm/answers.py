"""What a model says of one target in many runs, row by row, as `causal_lvlm.asker` remembers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, IntArray
from causal_lvlm.checks import check_choice

__all__ = ["Answers"]


@dataclass(frozen=True)
class Answers:
    """What the model says of the target in K runs.

    Attributes
    ----------
    token_ids : tuple of int, length G
        The target.
    token_log_probs : ndarray of float64, shape (K, G)
        Log-probability of each target token, teacher-forced.
    argmax : ndarray of int64, shape (K, G)
        First choice at each predicting row.
    runner_up : ndarray of int64, shape (K, G)
        Best token other than the target's.
    margin : ndarray of float64, shape (K,)
        Logit of a target token minus its strongest rival's; the smallest over the tokens.
    against_log_prob : ndarray of float64, shape (K,)
        Log-probability of the token compared with; NaN where there is none.
    lead : ndarray of float64, shape (K,)
        Sum over the target's tokens of the logit minus that of a rival that stays the same; NaN
        where none was given.
    """

    token_ids: tuple[int, ...]
    token_log_probs: FloatArray
    argmax: IntArray
    runner_up: IntArray
    margin: FloatArray
    against_log_prob: FloatArray
    lead: FloatArray

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.margin)

    @property
    def log_prob(self) -> FloatArray:
        """Log-probability of the whole target, the sum over its tokens; float64 (K,)."""
        return np.asarray(self.token_log_probs.sum(axis=1))

    @property
    def prob(self) -> FloatArray:
        """Probability of the whole target, float64 (K,)."""
        return np.asarray(np.exp(self.log_prob), dtype=np.float64)

    @property
    def changed(self) -> BoolArray:
        """Whether the first choice differs from the target at one of its tokens, bool (K,)."""
        return np.asarray((self.argmax != np.array(self.token_ids)).any(axis=1))

    def read(self, score: str) -> FloatArray:
        """Return ``prob``, ``log_prob`` or ``margin``."""
        check_choice("score", score, ("prob", "log_prob", "margin"))
        value: FloatArray = getattr(self, score)
        return value

    def take(self, rows: Sequence[int]) -> Answers:
        """Return the answers of some runs, in that order."""
        # A search takes one row at a time, and a slice copies nothing.
        single = len(rows) == 1
        index = slice(rows[0], rows[0] + 1) if single else np.array(rows, dtype=np.int64)
        return Answers(
            self.token_ids,
            self.token_log_probs[index],
            self.argmax[index],
            self.runner_up[index],
            self.margin[index],
            self.against_log_prob[index],
            self.lead[index],
        )

    def joined(self, more: Answers) -> Answers:
        """Return these answers and more."""
        return Answers(
            self.token_ids,
            np.concatenate([self.token_log_probs, more.token_log_probs]),
            np.concatenate([self.argmax, more.argmax]),
            np.concatenate([self.runner_up, more.runner_up]),
            np.concatenate([self.margin, more.margin]),
            np.concatenate([self.against_log_prob, more.against_log_prob]),
            np.concatenate([self.lead, more.lead]),
        )
