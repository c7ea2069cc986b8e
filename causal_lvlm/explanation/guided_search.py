"""Guided search of all scopes with one budget: sets first, then proofs and controls.

1. Every scope (text, image, joint): grow and shrink along a few orders; then, the joint scope
   first, exchange two members for one (`causal_lvlm.explanation.guided`). The orders: units by
   distance in the PDS-trees, those of one distance (and those outside) by attention over all
   layers; units by the norm of the gradient at their embedding; and, as long as nothing is found
   and where the set stays large, by attention composed over layers. The joint scope starts last
   and knows what the others found. In sufficient mode single units come first (below).
2. Scopes whose share of the runs ended, or of which a smaller set was met since, go again.
3. Proofs: every smaller subset, size by size, where the runs that are left can finish the size.
4. Random controls, for which runs were set aside; then what is left goes to 2 and 3 again.
5. With what is left then: parts of the scopes that change nothing as a whole
   (`causal_lvlm.explanation.parts`); the others are not to pay for them.

A scope that is asked again costs nothing for what is known: every outcome is in the cache.

Sufficient sets are mostly single units, near the head of an order but seldom its very first. Where
no short prefix is enough a long one is dear to shrink, and shrinking leads past the single ones. So
before anything is grown, the first few units of the two orders are asked one by one, and then the
joint scope asks whether the sets of its parts are enough together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from causal_lvlm.explanation.candidates import UnitTree
from causal_lvlm.explanation.controls import random_rate
from causal_lvlm.explanation.evaluator import BudgetEnded, Question, Subset
from causal_lvlm.explanation.guided import best_start, exchange
from causal_lvlm.explanation.parts import every_part_fails, part_of
from causal_lvlm.explanation.result import ExplainingSet
from causal_lvlm.explanation.scope_search import ScopeSearch
from causal_lvlm.explanation.search import prove, shrink
from causal_lvlm.explanation.state import SearchState, distances

__all__ = ["GuidedSearch"]

SINGLES = 5  # units at the head of each of two orders that are asked alone, in sufficient mode


@dataclass
class _Case:
    """One scope and what is known about it."""

    name: str
    question: Question
    share: float
    trees: list[UnitTree]
    state: SearchState = field(default_factory=SearchState)
    spent: int = 0
    trivial: bool = False  # the whole changes nothing (necessary), or nothing is needed
    hopeless: bool = False  # every subset was asked and failed
    orders: list[list[int]] = field(default_factory=list)
    sought: bool = False
    controls_of: Subset | None = None
    parts: list[_Case] = field(default_factory=list)  # of a joint scope: those inside it


class GuidedSearch(ScopeSearch):
    """Searches all scopes with a shared evaluator; see the module's text for the order."""

    _late = False  # whether parts of scopes that change nothing as a whole are looked for now

    def all_scopes(
        self,
        scopes: Sequence[tuple[str, tuple[int, ...], float]],
        tell: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, ExplainingSet]:
        """Return the explaining set of every scope; never raises for a budget or Ctrl-C.

        Parameters
        ----------
        scopes : sequence of (str, tuple of int, float)
            Name, units that may be masked, part of the runs that are left which it may use.
        tell : callable
            Called with a name of each stage that begins.

        Returns
        -------
        dict of str to ExplainingSet
        """
        cases = [
            _Case(name, Question(self.evaluator, scope, self.mode), share, self._trees(scope))
            for name, scope, share in scopes
            if scope
        ]
        for case in cases:
            inside = set(case.question.scope)
            case.parts = [c for c in cases if set(c.question.scope) < inside]
        budget = self.evaluator.budget
        reserve = min(self.n_random * len(cases), (budget.max_runs - budget.used) // 4)
        common = budget.max_runs - reserve
        for case in cases:
            self._announce(case, tell)
            limit = budget.used + int((common - budget.used) * case.share)
            self._stage(case, self._start, limit)
        for case in reversed(cases):
            if case.state.ended is None:
                self._stage(case, self._exchange, common)
        # With what was set aside for controls at first, then with all of it.
        for limit in (common, budget.max_runs):
            for case in cases:
                if self._unfinished(case):
                    self._announce(case, tell)
                    self._stage(case, self._seek, limit)
            for case in cases:
                self._stage(case, self._prove, limit)
            for case in cases:
                self._stage(case, self._control, budget.max_runs)
        if any(self._unfinished(case) for case in cases):  # a proof may have met a smaller set
            for case in cases:
                self._stage(case, self._seek, budget.max_runs)
                self._stage(case, self._control, budget.max_runs)
        self._parts(cases, tell)
        results = {
            name: ExplainingSet(scope=name, outcome="no_candidates") for name, _, _ in scopes
        }
        for case in cases:
            if case.controls_of != case.state.best:  # a smaller set came too late for controls
                case.state.random = (None, 0)
            found = case.state.best is not None
            outcome = None if found else self._without_set(case.trivial, case.hopeless)
            results[case.name] = self._result(
                case.name, case.question, case.state, case.trees, case.spent, outcome
            )
        return results

    def _parts(self, cases: Sequence[_Case], tell: Callable[[str], None]) -> None:
        """Look for parts of the scopes that change nothing as a whole, with the runs left over."""
        whole_fails = [c for c in cases if c.trivial and c.state.best is None]
        if self.mode == "sufficient" or not whole_fails:
            return
        budget, self._late = self.evaluator.budget, True
        for case in whole_fails:
            self._announce(case, tell)
            left = budget.max_runs - budget.used
            self._stage(case, self._seek, budget.used + int(left * case.share))
        for case in cases:  # with all of them; a part may be smaller than the set of a larger scope
            if self._unfinished(case):
                self._stage(case, self._seek, budget.max_runs)
        for case in whole_fails:
            self._stage(case, self._prove, budget.max_runs)
        for case in cases:
            self._stage(case, self._control, budget.max_runs)

    def _announce(self, case: _Case, tell: Callable[[str], None]) -> None:
        """Name the stage that begins; Ctrl-C at that moment loses nothing either."""
        if self.interrupted:
            return
        try:
            tell(f"explaining set: {case.name}")
        except KeyboardInterrupt:
            case.state.ended = "interrupted"
            self.interrupted = True

    def _stage(self, case: _Case, step: Callable[[_Case], None], limit: int) -> None:
        """Run one step of one scope within a limit of runs, and keep what it found."""
        if self.interrupted:  # Ctrl-C meant all of it: only report what is known
            if not case.sought:
                case.state.ended = "interrupted"
            self._recover(case.question, case.state)
            return
        budget = self.evaluator.budget
        used = budget.used
        try:
            budget.limit = limit
            step(case)
        except BudgetEnded as ended:
            if step != self._control:  # fewer controls are no shorter search
                case.state.ended = ended.reason
        except KeyboardInterrupt:
            case.state.ended = "interrupted"
            self.interrupted = True
        finally:
            budget.limit = None
            case.spent += budget.used - used
        self._recover(case.question, case.state)

    def _unfinished(self, case: _Case) -> bool:
        """Whether the search of a scope was cut, or a smaller set of it is known by now."""
        if case.state.ended is not None:
            return True
        best = case.state.best
        bound = len(case.question.scope) if best is None else len(best)
        return any(len(s) < bound for s in self._met(case.question))

    def _seek(self, case: _Case) -> None:
        self._start(case)
        self._exchange(case)

    def _start(self, case: _Case) -> None:
        question, state = case.question, case.state
        case.trivial = self._trivial(question)
        case.sought = self._late or not case.trivial or self.mode == "sufficient"
        if case.trivial:
            if self._late:
                self._start_part(case)
            state.ended = None
            return
        known = [s for s in self._met(question) if len(s) < len(question.scope)]
        best = min(known, key=lambda s: (len(s), sorted(s)), default=None)
        if best is None or len(best) > 1:
            case.orders = case.orders or self._orders(question, case.trees)
            if self.mode == "sufficient":
                likely = question.first(self._likely(case))
                if likely is not None and (best is None or len(likely) < len(best)):
                    best, _ = shrink(question, likely, case.orders[0])
            # Of two members only a single one could be better, and those were just asked.
            if self.mode == "necessary" or best is None or len(best) > 2:
                best, grown = best_start(question, case.orders, best)
                state.grown = grown if state.grown is None else state.grown
            if best is None:  # no prefix passes, only the scope as a whole
                best, _ = shrink(question, frozenset(question.scope), case.orders[0])
        self._settle(question, state, best)

    def _start_part(self, case: _Case) -> None:
        case.orders = case.orders or self._orders(case.question, case.trees)
        best, grown = part_of(case.question, case.orders)
        if best is None:
            best, case.hopeless = every_part_fails(case.question)
        if best is not None:
            case.state.grown = grown
            self._settle(case.question, case.state, best)

    def _likely(self, case: _Case) -> Iterator[Subset]:
        """Yield what is often enough by itself: single units, and the sets of the parts."""
        for pair in zip(*(order[:SINGLES] for order in case.orders[:2]), strict=True):
            yield from (frozenset((unit,)) for unit in dict.fromkeys(pair))
        sets = [frozenset() if part.trivial else part.state.best for part in case.parts]
        together: Subset = frozenset().union(*(s for s in sets if s is not None))
        if together and None not in sets:
            yield together

    def _exchange(self, case: _Case) -> None:
        best = case.state.best
        if best is None or not case.orders:
            return
        better, _ = exchange(case.question, best, case.orders[0])
        self._settle(case.question, case.state, better)

    def _settle(self, question: Question, state: SearchState, best: Subset) -> None:
        """Take over the result of a search that came to its end."""
        if len(best) > 1 and any(question.known(best - {u}) is not False for u in best):
            # Shrinking was cut by the budget, which then has a reason to give.
            self.evaluator.budget.allowance()
            best, irreducible = shrink(question, best, ())
            if not irreducible:
                raise BudgetEnded("max_runs")
        if state.best is None or len(best) < len(state.best) or not state.irreducible:
            state.best, state.irreducible, state.minimality = None, False, "none"
            state.offer(best, irreducible=True)
        state.ended = None

    def _prove(self, case: _Case) -> None:
        state = case.state
        if state.best is None or state.ended is not None or state.minimality == "minimum":
            return
        state.best, state.minimality = prove(
            case.question, state.best, state.irreducible, always_singles=False
        )

    def _control(self, case: _Case) -> None:
        state = case.state
        if state.best is None or (
            case.controls_of == state.best and state.random[1] >= self.n_random
        ):
            return
        case.controls_of = state.best
        state.random = random_rate(case.question, state.best, self.n_random, self.seed)

    def _orders(self, question: Question, trees: Sequence[UnitTree]) -> list[list[int]]:
        """Return the units of a scope in three orders, see the module's text."""
        depth, far = distances(trees), self.max_radius + 1
        attended = self._by_attention(question)
        by_graph = sorted(attended, key=lambda u: depth.get(u, far))  # stable within a distance
        others = (self.passed.orders.gradient_norm, self.passed.orders.composed)
        return [by_graph, *(self._ranked(question, value) for value in others)]
