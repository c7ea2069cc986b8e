"""The published search of one scope (joint, image or text): graphs first, then everything else.

Steps 3 to 6 of `causal_lvlm.explanation.explain` with ``search="graph"``. Budgets and Ctrl-C never
lose what was found: the smallest set that any model run confirmed is the result, and says what
ended the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.explanation.candidates import UnitTree, merged_candidates, unit_tree
from causal_lvlm.explanation.controls import random_rate
from causal_lvlm.explanation.evaluator import (
    BudgetEnded,
    Question,
    Subset,
    SubsetEvaluator,
    unit_effects,
)
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.parts import every_part_fails, part_of
from causal_lvlm.explanation.result import ExplainingSet
from causal_lvlm.explanation.search import grow, prove, shrink
from causal_lvlm.explanation.state import SearchState, distances
from causal_lvlm.target_pass import TargetPass

__all__ = ["ScopeSearch"]


@dataclass
class ScopeSearch:
    """Searches one scope after the other with a shared evaluator.

    Attributes
    ----------
    evaluator : SubsetEvaluator
    passed : TargetPass
        What candidates are ordered by, from one pass for all scopes.
    graphs : tuple of HeadGraph
    node_units : sequence
        For each graph, the unit of each node, or None.
    mode : {"necessary", "sufficient"}
    max_radius : int
    max_size : int or None
    n_random : int
    seed : int
    interrupted : bool
        Whether Ctrl-C ended an earlier scope.
    """

    evaluator: SubsetEvaluator
    passed: TargetPass
    graphs: tuple[HeadGraph, ...]
    node_units: Sequence[tuple[int | None, ...]]
    mode: str
    max_radius: int
    max_size: int | None
    n_random: int
    seed: int
    interrupted: bool = False

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
        sets: dict[str, ExplainingSet] = {}
        for name, scope, share in scopes:
            tell(f"explaining set: {name}")
            sets[name] = self.scope(name, scope, share)

        def again(name: str, scope: tuple[int, ...], share: float, *, parts: bool = False) -> None:
            tell(f"explaining set: {name}")
            before, found = sets[name], self.scope(name, scope, share, parts=parts)
            sets[name] = replace(
                found,
                model_runs=before.model_runs + found.model_runs,
                grown_size=before.grown_size or found.grown_size,
            )

        for name, scope, _ in scopes:
            # A later scope may have met a smaller set, and may have left runs this one lacked.
            if self.worth_another_look(scope, sets[name]):
                again(name, scope, 1.0)
        # Scopes that change nothing as a whole come last: the others are not to pay for them.
        late = [s for s in scopes if sets[s[0]].outcome == "not_found"]
        for name, scope, share in late:
            again(name, scope, share, parts=True)
        for name, scope, _ in scopes if late else ():
            if self.worth_another_look(scope, sets[name]):
                again(name, scope, 1.0, parts=sets[name].outcome == "not_found")
        return sets

    def scope(
        self, name: str, scope: tuple[int, ...], share: float, *, parts: bool = False
    ) -> ExplainingSet:
        """Return the explaining set of one scope; never raises for a budget or Ctrl-C.

        Parameters
        ----------
        name : str
        scope : tuple of int
            Units that may be masked.
        share : float
            Part of the runs that are left which this scope may use.
        parts : bool
            Whether parts are looked for where the scope changes nothing as a whole.
        """
        if not scope:
            return ExplainingSet(scope=name, outcome="no_candidates")
        budget, question = self.evaluator.budget, Question(self.evaluator, scope, self.mode)
        used = budget.used
        runs = int((budget.max_runs - used) * share)
        # Random controls are set aside first: a set without them says less.
        reserve = min(self.n_random, runs // 4)
        trees = self._trees(scope)
        state = SearchState()
        trivial = hopeless = False
        try:
            budget.limit = used + runs - reserve
            if self.interrupted:  # Ctrl-C meant all of it: only report what is known
                raise KeyboardInterrupt
            trivial = self._trivial(question)
            if trivial and parts and self.mode == "necessary":
                hopeless = self._find_part(question, trees, state)
            elif not trivial:
                self._find(question, trees, state)
        except BudgetEnded as ended:
            state.ended = ended.reason
        except KeyboardInterrupt:
            state.ended = "interrupted"
        finally:
            budget.limit = None
        self._recover(question, state)
        try:
            if state.best is not None and state.ended != "interrupted":
                budget.limit = budget.used + self.n_random
                state.random = random_rate(question, state.best, self.n_random, self.seed)
        except KeyboardInterrupt:
            state.ended = "interrupted"
        finally:
            budget.limit = None
        self.interrupted = state.ended == "interrupted"
        outcome = None if state.best is not None else self._without_set(trivial, hopeless)
        return self._result(name, question, state, trees, budget.used - used, outcome)

    def _without_set(self, trivial: bool, hopeless: bool) -> str | None:
        """Return the outcome of a scope without a set, None where a budget says why.

        That nothing in it can change the prediction may be said where all of its subsets were
        asked, or, in sufficient mode, where none of it is needed.
        """
        if not trivial:
            return None
        return "not_maskable" if hopeless or self.mode == "sufficient" else "not_found"

    def worth_another_look(self, scope: tuple[int, ...], found: ExplainingSet) -> bool:
        """Whether a smaller set of this scope is known now, or runs are left that it lacked."""
        budget = self.evaluator.budget
        if found.ended == "max_runs" and budget.used < budget.max_runs:
            return True
        sizes = [len(s) for s in self._met(Question(self.evaluator, scope, self.mode))]
        return bool(sizes) and min(sizes) < (found.size if found.verified else len(scope))

    def _met(self, question: Question) -> list[Subset]:
        """Return the explaining sets met so far, without those that say nothing.

        The empty set is no set; in sufficient mode the whole scope passes by definition (nothing
        is masked), and was not tested.
        """
        whole = frozenset(question.scope)
        trivial = self.mode == "sufficient"
        return [s for s in question.found() if s and not (trivial and s == whole)]

    def _trivial(self, question: Question) -> bool:
        """Whether the scope as a whole has no say: nothing flips, or nothing is needed."""
        if self.mode == "sufficient":
            return question.ask([()])[0]
        # A part may flip where the whole does not: a set met before is an explanation all the same.
        return not question.ask([question.scope])[0] and not self._met(question)

    def _trees(self, scope: tuple[int, ...]) -> list[UnitTree]:
        return [
            unit_tree(graph.head, graph.tree, nodes, scope)
            for graph, nodes in zip(self.graphs, self.node_units, strict=True)
        ]

    def _find(self, question: Question, trees: list[UnitTree], state: SearchState) -> None:
        # An earlier scope may have met one. The scope itself is known, and says nothing.
        known = [s for s in self._met(question) if len(s) < len(question.scope)]
        effects: list[int] = []
        single = question.first(merged_candidates(trees, 1))
        order: list[int] = []
        if single is not None:
            state.offer(single, irreducible=True)
        elif known:
            state.offer(min(known, key=lambda s: (len(s), sorted(s))), irreducible=False)
            state.offer(*shrink(question, min(known, key=len), order))
        else:
            grown = question.first(self._radius_sets(trees))
            if grown is not None:
                distance = distances(trees)
                order = sorted(grown, key=lambda u: (distance[u], u))
            else:
                grown, order = self._fallback(question)
                effects = order
            state.grown = len(grown)
            state.offer(*shrink(question, grown, order))
        if len(state.best or ()) > 2:
            self._smaller_legal(question, trees, state)
            if not effects:
                self._smaller_by_effect(question, state)
        if state.best is not None:
            if not state.irreducible:
                state.offer(*shrink(question, state.best, order))
            state.best, state.minimality = prove(question, state.best, state.irreducible)
            self._prefer_graph(question, trees, state)

    def _find_part(self, question: Question, trees: list[UnitTree], state: SearchState) -> bool:
        """Look for a part of a scope that as a whole changes nothing; return whether none can be.

        In CLEANN's order first: single units of the trees, then the units of a radius together.
        """
        by_gradient = self._by_gradient(question)
        found = question.first(merged_candidates(trees, 1))
        found = found or question.first(self._radius_sets(trees))
        if found is not None:
            found, _ = shrink(question, found, by_gradient)
        else:
            orders = (by_gradient, self._by_attention(question))
            found, state.grown = part_of(question, orders)
        hopeless = False
        if found is None:
            found, hopeless = every_part_fails(question)
        if found is not None:
            state.offer(*shrink(question, found, by_gradient))
            state.best, state.minimality = prove(question, state.best or found, state.irreducible)
            self._prefer_graph(question, trees, state)
        return hopeless

    def _radius_sets(self, trees: list[UnitTree]) -> Iterator[frozenset[int]]:
        """Yield whole trees, smallest radius first, then all heads together."""
        seen: set[frozenset[int]] = set()
        for radius in range(1, self.max_radius + 1):
            sets = [t.within(radius) for t in trees]
            sets.append(frozenset().union(*sets))
            for units in sorted(sets, key=lambda s: (len(s), sorted(s))):
                if len(units) > 1 and units not in seen:
                    seen.add(units)
                    yield units

    def _smaller_legal(self, question: Question, trees: list[UnitTree], state: SearchState) -> None:
        """Try legal sets smaller than the one found, in CLEANN's order, with part of the budget."""
        budget = self.evaluator.budget
        whole = budget.limit
        try:
            for size in range(2, len(state.best or ())):
                left = (budget.max_runs if whole is None else whole) - budget.used
                budget.limit = budget.used + left // 3
                smaller = question.first(merged_candidates(trees, size, limit=max(left // 3, 1)))
                if smaller is not None:
                    state.offer(smaller, irreducible=False)
                    break
        except BudgetEnded as ended:
            if ended.reason != "max_runs":
                raise
        finally:
            budget.limit = whole

    def _prefer_graph(self, question: Question, trees: list[UnitTree], state: SearchState) -> None:
        """If no tree holds the set, look for one of the same size that a tree does hold."""
        best = state.best
        if best is None or len(best) < 2 or any(t.radius_of(best) is not None for t in trees):
            return
        budget = self.evaluator.budget
        whole = budget.limit
        left = (budget.max_runs if whole is None else whole) - budget.used
        try:
            budget.limit = budget.used + left // 4
            legal = merged_candidates(trees, len(best), limit=max(left // 4, 1))
            held = question.first(legal)
            if held is not None and (
                state.minimality == "minimum" or shrink(question, held, ()) == (held, True)
            ):
                state.best = held
        except BudgetEnded as ended:
            if ended.reason != "max_runs":
                raise
        finally:
            budget.limit = whole

    def _smaller_by_effect(self, question: Question, state: SearchState) -> None:
        """Try shorter prefixes of the order by single masking: few runs, often a smaller set."""
        order = self._by_effect(question)
        grown = grow(question, order[: len(state.best or ()) - 1])
        if grown is not None:
            state.offer(*shrink(question, grown, order))

    def _by_effect(self, question: Question) -> list[int]:
        effects = unit_effects(question)
        return [question.scope[i] for i in np.argsort(-effects, kind="stable")]

    def _fallback(self, question: Question) -> tuple[Subset, list[int]]:
        """Search outside the graphs: one by one in gradient order, then grow along three orders.

        Prefixes of the orders (effect of masking alone, gradient, attention over all layers) grow
        twofold: some targets need dozens of tokens at once, and shrinking finds the few among them.
        """
        by_gradient = self._by_gradient(question)
        single = question.first((u,) for u in by_gradient)
        if single is not None:
            return single, by_gradient
        orders = (self._by_effect(question), by_gradient, self._by_attention(question))
        size = 2
        while size < len(question.scope):
            grown = question.first(order[:size] for order in orders)
            if grown is not None:
                order = next(o for o in orders if frozenset(o[:size]) == grown)
                return grown, order
            size *= 2
        return frozenset(question.scope), orders[0]  # the whole scope passed

    def _by_gradient(self, question: Question) -> list[int]:
        return self._ranked(question, np.abs(self.passed.orders.input_x_gradient))

    def _by_attention(self, question: Question) -> list[int]:
        return self._ranked(question, self.passed.orders.attended)

    def _ranked(self, question: Question, value: FloatArray) -> list[int]:
        """Order the units of a scope by the sum of a value over their positions, largest first."""
        members = self.evaluator.units.members
        weight = {u: float(np.asarray(value)[list(members[u])].sum()) for u in question.scope}
        return sorted(question.scope, key=lambda u: (-weight[u], u))

    def _recover(self, question: Question, state: SearchState) -> None:
        """After a budget ended: the smallest set that any run confirmed is the result."""
        if state.ended is None:
            return
        found = self._met(question)
        if found:
            smallest = min(found, key=lambda s: (len(s), sorted(s)))
            if state.best is None or len(smallest) < len(state.best):
                # One member is a minimum if the empty set is known to fail.
                single = len(smallest) == 1 and question.known(()) is False
                state.best, state.irreducible = smallest, single
                state.minimality = "minimum" if single else "none"

    def _result(
        self, name: str, question: Question, state: SearchState, trees: list[UnitTree], spent: int,
        outcome: str | None = None,
    ) -> ExplainingSet:  # fmt: skip
        best = state.best
        full = self.evaluator.tester.full_log_prob
        before = float(np.exp(full))
        if outcome is None and best is not None and len(best) > (self.max_size or len(best)):
            outcome = "max_size"
        if best is None or outcome is not None:
            reason = outcome or state.ended or "max_runs"
            return ExplainingSet(
                scope=name, outcome=reason, model_runs=spent, ended=state.ended,
                probability_before=before, n_tried=question.n_asked(),
            )  # fmt: skip
        after = self.evaluator.masked[question.mask_of(best)]
        holders = [(t.radius_of(best), i) for i, t in enumerate(trees)]
        inside = [(radius, i) for radius, i in holders if radius is not None]
        radius, tree = min(inside) if inside else (None, None)
        units = self.evaluator.units
        same = [s for s in self._met(question) if len(s) == len(best) and s != best]
        baseline = self.evaluator.masked.get(frozenset())
        return ExplainingSet(
            scope=name,
            outcome="explained",
            positions=units.positions(best),
            units=tuple(units.members[u] for u in sorted(best)),
            verified=True,
            minimality=state.minimality,
            found_by="graph" if inside else "fallback",
            head=None if tree is None else trees[tree].head,
            radius=radius,
            probability_before=before,
            probability_after=float(np.exp(after.log_prob)),
            margin_before=None if baseline is None else baseline.margin,
            margin_after=after.margin,
            predicted_after=tuple(self.evaluator.trace.token_text(t) for t in after.argmax),
            random_flip_rate=state.random[0],
            n_random=state.random[1],
            alternatives=tuple(sorted(units.positions(s) for s in same)),
            model_runs=spent,
            grown_size=state.grown,
            ended=state.ended,
            n_tried=question.n_asked(),
        )
