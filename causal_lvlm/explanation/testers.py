"""Testers: what it means that masking a set of tokens changed the prediction.

``flip``
    the arg-max of at least one target token is another token (CLEANN's own criterion);
``drop``
    the probability of the target falls below `drop_ratio` times the unmasked one;
``contrast``
    another given token becomes more likely than the first target token.

For a target of several tokens the model is teacher-forced: the first changed token decides, and
the probability is the product over the tokens.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. NeurIPS 2023, arXiv 2310.20307, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray

__all__ = ["TESTERS", "Tester"]

TESTERS = ("flip", "drop", "contrast")


@dataclass(frozen=True)
class Tester:
    """Decides from an `Evaluation` whether the prediction changed.

    Attributes
    ----------
    kind : {"flip", "drop", "contrast"}
    token_ids : tuple of int
        The target.
    full_log_prob : float
        Log-probability of the target with nothing masked.
    drop_ratio : float
        For ``drop``.
    against : int or None
        Token id for ``contrast``.
    """

    __test__ = False  # the name makes pytest think otherwise

    kind: str
    token_ids: tuple[int, ...]
    full_log_prob: float
    drop_ratio: float = 0.5
    against: int | None = None

    def changed(self, evaluation: Any) -> BoolArray:
        """Return, for each of the K masked rows, whether the prediction changed; shape (K,)."""
        result: BoolArray
        if self.kind == "flip":
            result = np.any(evaluation.argmax != np.asarray(self.token_ids), axis=1)
        elif self.kind == "drop":
            limit = self.full_log_prob + float(np.log(self.drop_ratio))
            result = np.asarray(evaluation.log_prob < limit)
        else:
            result = np.asarray(evaluation.against_log_prob > evaluation.token_log_probs[:, 0])
        return result
