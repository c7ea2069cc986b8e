"""Testers: what it means that masking a set of tokens changed the prediction.

``flip``
    the arg-max of at least one target token is another token (CLEANN's own criterion);
``drop``
    the probability of the target falls below `drop_ratio` times the unmasked one;
``contrast``
    another given token becomes more likely than the first target token.

For a target of several tokens the model is teacher-forced: the first changed token decides, and
the probability is the product over the tokens.

What is to change must be there: `ask_unmasked` runs the model with nothing masked and makes the
tester that compares with it.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. NeurIPS 2023, arXiv 2310.20307, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import BoolArray
from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget
from causal_lvlm.errors import TargetError
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["TESTERS", "Tester", "ask_unmasked"]

TESTERS = ("flip", "drop", "contrast")


@dataclass(frozen=True)
class Tester:
    """Decides from what the model answered whether the prediction changed.

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

    def changed(self, answers: Answers) -> BoolArray:
        """Return, for each of the K runs, whether the prediction changed; shape (K,)."""
        result: BoolArray
        if self.kind == "flip":
            result = np.any(answers.argmax != np.asarray(self.token_ids), axis=1)
        elif self.kind == "drop":
            limit = self.full_log_prob + float(np.log(self.drop_ratio))
            result = np.asarray(answers.log_prob < limit)
        else:
            result = np.asarray(answers.against_log_prob > answers.token_log_probs[:, 0])
        return result


def ask_unmasked(
    trace: TraceLike,
    target: Target,
    units: Units,
    budget: Budget,
    *,
    tester: str,
    drop_ratio: float,
    against: str | int | None,
    masking: str,
    backend: str,
    at_once: int | None = None,
) -> tuple[Asker, Tester]:
    """Run the model with nothing masked; return what asks it from then on, and the tester.

    One run, or two where the rival has to be found first.

    Raises
    ------
    TargetError
        If the rival is unknown or the target itself, or if the target is not the model's choice.
    """
    rival: int | None = None
    if tester == "contrast" and against is None:
        plain = Asker(trace, target, units, backend=backend, budget=budget)
        rival = int(plain.unmasked().runner_up[0, 0])
    elif against is not None:
        try:
            rival = int(trace.token_id(against))
        except (KeyError, ValueError) as error:
            raise TargetError(f"against={against!r} is no token of this model: {error}") from error
        if rival == target.token_ids[0]:
            raise TargetError(f"against={against!r} is the target itself; name another token")
    asker = Asker(trace, target, units, masking, backend, rival, at_once=at_once, budget=budget)
    full = asker.unmasked()
    judge = Tester(tester, target.token_ids, float(full.log_prob[0]), drop_ratio, rival)
    if bool(judge.changed(full)[0]):
        raise TargetError(
            f"with nothing masked the model's choice is not {target.text!r} (tester {tester!r}): "
            "the token was sampled or the rival is stronger already, so nothing can be explained; "
            "generate greedily, or name another rival"
        )
    return asker, judge
