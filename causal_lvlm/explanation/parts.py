"""What is left to try where masking everything of a scope changes nothing: parts of it may.

Effects of masking need not add up: a word may stay when the whole image is masked and change when
five of its patches are. So a scope is not given up with its whole:

1. `part_of`: prefixes of every order of its units, growing. Then single units, as many as two
   thirds of the runs that are left pay for, and prefixes of the order by what they did.
2. `every_part_fails`: every other subset, where the runs that are left are enough for all of them.

Only after 2 may anybody say that no set of the scope changes the prediction. In every other case
it is said how many were tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

from causal_lvlm.asker import Subset
from causal_lvlm.budget import BudgetEnded
from causal_lvlm.explanation.question import Question
from causal_lvlm.explanation.search import best_start

__all__ = ["every_part_fails", "part_of"]


def part_of(
    question: Question, orders: Sequence[Sequence[int]]
) -> tuple[Subset | None, int | None]:
    """Return a part of the scope that is an explanation, shrunk, and the size it was grown to.

    Parameters
    ----------
    question : Question
        Its whole scope is known to be no explanation.
    orders : sequence of sequences of int
        Units of the scope, best first.

    Returns
    -------
    subset : frozenset of int or None
        Irreducible; None if no prefix of any order passes.
    grown : int or None

    Raises
    ------
    BudgetEnded
        When the budget ends first; what was found is known to the question.
    """
    best, grown = best_start(question, orders)
    if best is not None:
        return best, grown
    count = question.asker.budget.allowance() * 2 // 3
    singles = list(orders[0])[:count]
    full = question.distance(())
    effect = {u: full - question.distance((u,)) for u in singles}
    by_effect = sorted(singles, key=lambda u: (-effect[u], u)) + list(orders[0])[count:]
    return best_start(question, [by_effect])


def every_part_fails(question: Question) -> tuple[Subset | None, bool]:
    """Ask about every subset of the scope, if the runs that are left are enough for all.

    Returns
    -------
    subset : frozenset of int or None
        A smallest explanation, if one was met.
    complete : bool
        Whether every subset was asked and failed.
    """
    units = question.scope
    if 2 ** len(units) - 1 - question.n_asked() > question.asker.budget.left:
        return None, False
    subsets = chain.from_iterable(combinations(units, size) for size in range(1, len(units) + 1))
    try:
        found = question.first(subsets)
    except BudgetEnded:
        return None, False
    return found, found is None
