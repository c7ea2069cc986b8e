"""Random control sets: how often does masking something else of the same size do the same?

A flip alone is not specific. Beside every verified set stands the share of random sets with the
same number of units of each modality that pass the same test.
"""

from __future__ import annotations

from math import comb, prod

import numpy as np

from causal_lvlm.explanation.evaluator import BudgetEnded, Question, Subset

__all__ = ["random_rate", "random_sets"]


def random_sets(question: Question, subset: Subset, n_sets: int, seed: int) -> list[Subset]:
    """Draw different sets with the same composition by modality, without the set itself.

    Parameters
    ----------
    question : Question
    subset : frozenset of int
    n_sets : int
        Fewer are returned where fewer exist.
    seed : int

    Returns
    -------
    list of frozenset of int
    """
    rng = np.random.default_rng(seed)
    modality = question.evaluator.units.modality
    pools: dict[str, list[int]] = {}
    for unit in question.scope:
        pools.setdefault(modality[unit], []).append(unit)
    need = {m: sum(modality[u] == m for u in subset) for m in pools}
    available = prod(comb(len(pool), need[m]) for m, pool in pools.items()) - 1
    drawn: dict[Subset, None] = {}
    tries = 0
    while len(drawn) < min(n_sets, available) and tries < 200 * n_sets:
        tries += 1
        chosen = frozenset(
            int(u)
            for m, pool in pools.items()
            for u in rng.choice(pool, size=need[m], replace=False)
        )
        if chosen != subset:
            drawn[chosen] = None
    return list(drawn)


def random_rate(
    question: Question, subset: Subset, n_sets: int, seed: int
) -> tuple[float | None, int]:
    """Return the share of random sets that pass the same test, and how many were tried.

    The share is None where no other set of that composition exists or the budget allowed none.
    """
    sets = random_sets(question, subset, n_sets, seed)
    try:
        question.ask(sets)
    except BudgetEnded:
        pass  # what was evaluated before is in the cache and counts
    answers = [a for a in (question.known(s) for s in sets) if a is not None]
    return (sum(answers) / len(answers) if answers else None), len(answers)
