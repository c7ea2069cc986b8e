"""What the model is asked about sets of one scope, and what may be claimed of a set that passes.

1. `Question` asks whether sets of units are explanations: in necessary mode whether masking the set
   changes the prediction, in sufficient mode whether masking everything else of the scope keeps it.
   What was asked before is known and costs nothing (`causal_lvlm.asker`).
2. `prove`: try every smaller subset of the scope, size by size, as far as the budget reaches. If
   all fail the set is a minimum; if one is an explanation, it is smaller and takes over.
3. `random_rate`: how often does masking something else of the same size do the same? A flip alone
   is not specific; beside every verified set stands the share of random sets with the same number
   of units of each modality that pass the same test.

Explanations need not be monotone (a superset of an explaining set may fail), so nothing is ever
inferred: every statement rests on a model run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import FloatArray
from causal_lvlm.asker import Asker, Subset
from causal_lvlm.budget import BudgetEnded
from causal_lvlm.explanation.testers import Tester

__all__ = ["Question", "draw", "prove", "random_rate", "unit_effects"]


@dataclass
class Question:
    """Whether a subset of a scope is an explanation, in one of the two modes.

    Attributes
    ----------
    asker : Asker
        Subsets are sets of indices into its units.
    tester : Tester
    scope : tuple of int
        Units that may be masked; all others stay visible.
    mode : {"necessary", "sufficient"}
    """

    asker: Asker
    tester: Tester
    scope: tuple[int, ...]
    mode: str

    def mask_of(self, subset: Iterable[int]) -> Subset:
        """Return the units to mask in order to ask about a subset."""
        chosen = frozenset(subset)
        return chosen if self.mode == "necessary" else frozenset(self.scope) - chosen

    def ask(self, subsets: Sequence[Iterable[int]]) -> list[bool]:
        """Return for each subset whether the model said that it is an explanation.

        Raises
        ------
        BudgetEnded
            When the budget ends; what was answered before is known from then on.
        """
        changed = self.tester.changed(self.answers(subsets))
        return [bool(c) == (self.mode == "necessary") for c in changed]

    def answers(self, subsets: Sequence[Iterable[int]]) -> Answers:
        """Return what the model said when it was asked about each subset."""
        return self.asker.sets([self.mask_of(s) for s in subsets])

    def key_of(self, subset: Iterable[int]) -> Hashable:
        """Return what the asker remembers the answer under."""
        return self.mask_of(subset)

    def known(self, subset: Iterable[int]) -> bool | None:
        """Return the answer if it was asked before, else None; costs nothing."""
        row = self.asker.memory.get(self.key_of(subset))
        if row is None:
            return None
        changed = self.tester.changed(self.asker.answers.take([row]))[0]
        return bool(changed) == (self.mode == "necessary")

    def distance(self, subset: Iterable[int]) -> float:
        """Return how far a subset is from being an explanation: smaller is nearer.

        The margin over the strongest rival where the subset is masked, or its opposite where only
        the subset is kept; for the tester ``drop``, the log-probability.
        """
        answer = self.answers([subset])
        value = float((answer.log_prob if self.tester.kind == "drop" else answer.margin)[0])
        return value if self.mode == "necessary" else -value

    def first(self, subsets: Iterable[Iterable[int]]) -> Subset | None:
        """Return the first subset in order that is an explanation, evaluating in batches."""
        batch: list[Subset] = []
        for subset in subsets:
            batch.append(frozenset(subset))
            if len(batch) == self.asker.at_once:
                found = self._first_of(batch)
                if found is not None:
                    return found
                batch = []
        return self._first_of(batch)

    def _first_of(self, batch: list[Subset]) -> Subset | None:
        try:
            self.ask(batch)
        except BudgetEnded:
            # Part of the batch may have been evaluated before the budget ended.
            if not any(self.known(subset) for subset in batch):
                raise
        return next((subset for subset in batch if self.known(subset)), None)

    def found(self) -> list[Subset]:
        """Return every subset of the scope that is known to be an explanation."""
        inside, necessary = frozenset(self.scope), self.mode == "necessary"
        changed = self.tester.changed(self.asker.answers).tolist()
        return [
            mask if necessary else inside - mask
            for mask, row in self.asker.memory.items()
            if changed[row] == necessary and mask <= inside
        ]

    def met(self) -> list[Subset]:
        """Return the explaining sets known so far, without those that say nothing.

        The empty set is no set; in sufficient mode the whole scope passes by definition (nothing
        is masked), and was not tested.
        """
        nothing: set[Subset] = {frozenset()}
        if self.mode == "sufficient":
            nothing.add(frozenset(self.scope))
        return [subset for subset in self.found() if subset not in nothing]

    def is_idle(self) -> bool:
        """Whether the scope as a whole has no say: nothing changes, or nothing is needed."""
        if self.mode == "sufficient":
            return self.first([()]) is not None
        # A part may change it where the whole does not: a set met before counts all the same.
        met = self.met()
        return self.first([self.scope]) is None and not met

    def n_asked(self) -> int:
        """Return how many sets of this scope the model was asked about.

        The empty set is no set, and keeping the whole scope masks nothing.
        """
        inside = frozenset(self.scope)
        trivial: set[Subset] = {frozenset()}
        if self.mode == "sufficient":
            trivial.add(inside)
        return sum(mask <= inside and mask not in trivial for mask in self.asker.memory)

    def n_unknown(self, size: int) -> int:
        """Return how many subsets of one size were not asked yet."""
        inside = frozenset(self.scope)
        asked: int = sum(
            mask <= inside and len(self.mask_of(mask)) == size for mask in self.asker.memory
        )
        return comb(len(self.scope), size) - asked

    def like(self, subset: Subset, n_sets: int, seed: int) -> list[Subset]:
        """Draw different sets with the same composition by modality, without the set itself.

        Fewer than `n_sets` are returned where fewer exist.
        """
        rng = np.random.default_rng(seed)
        modality = self.asker.units.modality
        pools: dict[str, list[int]] = {}
        for unit in self.scope:
            pools.setdefault(modality[unit], []).append(unit)
        need = {m: sum(modality[u] == m for u in subset) for m in pools}
        return draw([(pool, need[m]) for m, pool in pools.items()], subset, n_sets, rng)


def draw(
    groups: Sequence[tuple[Sequence[int], int]], but: Subset, n_sets: int, rng: np.random.Generator
) -> list[Subset]:
    """Draw different sets with so many members from each of some pools, without one of them.

    Parameters
    ----------
    groups : sequence of (sequence of int, int)
        Pools, and how many members of each.
    but : frozenset of int
        The set that is left out.
    n_sets : int
        Fewer are returned where fewer exist.
    rng : Generator
    """
    available = prod(comb(len(pool), n) for pool, n in groups) - 1
    drawn: dict[Subset, None] = {}
    tries = 0
    while len(drawn) < min(n_sets, available) and tries < 200 * n_sets:
        tries += 1
        chosen = frozenset(
            int(u) for pool, n in groups for u in rng.choice(pool, size=n, replace=False)
        )
        if chosen != but:
            drawn[chosen] = None
    return list(drawn)


def unit_effects(question: Question) -> FloatArray:
    """Return how much masking each unit of the scope alone lowers the margin; shape (scope,)."""
    full = question.asker.sets([()]).margin
    return np.asarray(full - question.asker.sets([(u,) for u in question.scope]).margin)


def prove(
    question: Question, subset: Subset, irreducible: bool, *, always_singles: bool = True
) -> tuple[Subset, str]:
    """Try every smaller subset of the scope, as far as the budget allows.

    Parameters
    ----------
    question : Question
    subset : frozenset of int
        An explaining set.
    irreducible : bool
        What `shrink` said of it.
    always_singles : bool
        Whether single units are tried even if the budget cannot finish them all.

    Returns
    -------
    subset : frozenset of int
        The set given, or a smaller explaining one.
    minimality : {"minimum", "irreducible", "none"}
    """
    status = "irreducible" if irreducible else "none"
    for size in range(1, len(subset)):
        # A size that cannot be finished proves nothing: keep its runs for something else.
        skippable = size > 1 or not always_singles
        if skippable and question.n_unknown(size) > question.asker.budget.left:
            return subset, status
        try:
            smaller = question.first(combinations(question.scope, size))
        except BudgetEnded:
            return subset, status
        if smaller is not None:
            # All sizes below this one were tried and failed.
            return smaller, "minimum"
    return subset, "minimum"


def random_rate(
    question: Question, subset: Subset, n_sets: int, seed: int
) -> tuple[float | None, int]:
    """Return the share of random sets that pass the same test, and how many were tried.

    The share is None where no other set of that composition exists or the budget allowed none.
    """
    sets = question.like(subset, n_sets, seed)
    try:
        question.ask(sets)
    except BudgetEnded:
        pass  # what was evaluated before is known and counts
    answers = [a for a in (question.known(s) for s in sets) if a is not None]
    return (sum(answers) / len(answers) if answers else None), len(answers)
