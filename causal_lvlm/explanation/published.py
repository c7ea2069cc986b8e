"""The published search of one scope after the other: CLEANN's order, graphs first.

1. `merged_candidates`: single units of the trees, nearest first. If one passes, it is the set.
2. `_grow`: else the smallest radius at which the units of one head pass together. If none passes,
   all units one by one in the order of their gradient, and then prefixes of three orders (effect of
   masking alone, gradient, attention over all layers), twice as long each time.
3. `shrink` what passed until no member can be left out.
4. `_smaller_legal`, `_smaller_by_effect`: if more than two are left, legal sets of fewer units in
   CLEANN's order (small sets first, then sum of distances), and shorter prefixes of the order by
   effect.
5. `prove` minimality as far as the budget allows; `_prefer_graph`: of sets of that size, take one
   that a tree holds. Then ask about random control sets.
6. Scopes of which a smaller set was met since, or that lacked runs which others left, go again.
   Parts of scopes that change nothing as a whole come last (`_find_part`).

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. NeurIPS 2023, arXiv 2310.20307, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from causal_lvlm.asker import Subset
from causal_lvlm.budget import BudgetEnded
from causal_lvlm.explanation.candidates import distances, merged_candidates, within_radii
from causal_lvlm.explanation.parts import every_part_fails, part_of
from causal_lvlm.explanation.question import Question, prove, random_rate, unit_effects
from causal_lvlm.explanation.search import grow, ranked, shrink
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.state import Case, Search, SearchState, explaining_set

__all__ = ["published_search"]


def published_search(search: Search) -> dict[str, ExplainingSet]:
    """Return the explaining set of every scope; the steps are those of the module's text.

    Never raises for a budget or Ctrl-C.
    """
    cases, sets = search.cases, {}
    for case in cases:
        sets[case.name] = _search_scope(search, case, case.share)

    def again(case: Case, share: float, *, parts: bool) -> None:
        before = sets[case.name]
        found = _search_scope(search, case, share, parts=parts)
        grown = before.grown_size or found.grown_size
        sets[case.name] = replace(found, grown_size=grown)

    for case in cases:
        # A later scope may have met a smaller set, and may have left runs this one lacked.
        if _worth_another_look(search, case, sets[case.name]):
            again(case, 1.0, parts=False)
    # Scopes that change nothing as a whole come last: the others are not to pay for them.
    late = [case for case in cases if sets[case.name].outcome == "not_found"]
    for case in late:
        again(case, case.share, parts=True)
    for case in cases if late else ():
        if _worth_another_look(search, case, sets[case.name]):
            again(case, 1.0, parts=sets[case.name].outcome == "not_found")
    return sets


def _worth_another_look(search: Search, case: Case, found: ExplainingSet) -> bool:
    """Whether a smaller set of this scope is known now, or runs are left that it lacked."""
    if found.ended == "max_runs" and search.budget.used < search.budget.max_runs:
        return True
    bound = found.size if found.verified else len(case.question.scope)
    return any(len(subset) < bound for subset in case.question.met())


def _search_scope(
    search: Search, case: Case, share: float, *, parts: bool = False
) -> ExplainingSet:
    """Search one scope anew, with a share of the runs that are left, and return its set.

    Parameters
    ----------
    search : Search
    case : Case
    share : float
    parts : bool
        Whether parts are looked for where the scope changes nothing as a whole.
    """
    search.tell(f"explaining set: {case.name}")
    budget, question, state = search.budget, case.question, SearchState()
    used = budget.used
    runs = int((budget.max_runs - used) * share)
    # Random controls are set aside first: a set without them says less.
    reserve = min(search.n_random, runs // 4)
    case.state, case.idle, case.hopeless = state, False, False
    if not question.scope:
        return explaining_set(case, search.max_size)
    try:
        if search.interrupted:  # Ctrl-C meant all of it: only report what is known
            raise KeyboardInterrupt
        with budget.at_most(runs - reserve):
            case.idle = question.is_idle()
            if not case.idle:
                _find(search, case)
            elif parts and search.mode == "necessary":
                _find_part(search, case)
    except BudgetEnded as ended:
        state.ended = ended.reason
    except KeyboardInterrupt:
        state.ended = "interrupted"
    if state.ended is not None:
        state.recover(question.met(), question.known(()) is False)
    if state.ended != "interrupted":
        _control(search, case)
    search.interrupted = state.ended == "interrupted"
    case.spent += budget.used - used
    return explaining_set(case, search.max_size)


def _control(search: Search, case: Case) -> None:
    """Ask about random sets like the one that was found."""
    state = case.state
    try:
        if state.best is not None:
            with search.budget.at_most(search.n_random):
                state.random = random_rate(case.question, state.best, search.n_random, search.seed)
    except KeyboardInterrupt:
        state.ended = "interrupted"


def _find(search: Search, case: Case) -> None:
    """Take steps 1 to 5 in a scope that as a whole changes the prediction."""
    question, trees, state = case.question, case.trees, case.state
    # An earlier scope may have met one. The scope itself is known, and says nothing.
    known = [s for s in question.met() if len(s) < len(question.scope)]
    order: list[int] = []
    in_trees = True
    single = question.first(merged_candidates(trees, 1))
    if single is not None:
        state.offer(single, irreducible=True)
    elif known:
        state.offer(min(known, key=lambda s: (len(s), sorted(s))), irreducible=False)
        state.offer(*shrink(question, min(known, key=len), order))
    else:
        grown, order, in_trees = _grow(search, case)
        state.grown = len(grown)
        state.offer(*shrink(question, grown, order))
    if len(state.best or ()) > 2:
        _smaller_legal(search, case)
        if in_trees:  # else that order was followed already
            _smaller_by_effect(case)
    if state.best is not None:
        if not state.irreducible:
            state.offer(*shrink(question, state.best, order))
        state.best, state.minimality = prove(question, state.best, state.irreducible)
        _prefer_graph(search, case)


def _grow(search: Search, case: Case) -> tuple[Subset, list[int], bool]:
    """Return a set that passes, an order of its units, and whether trees held it together."""
    question = case.question
    grown = question.first(within_radii(case.trees, search.max_radius))
    if grown is not None:
        distance = distances(case.trees)
        return grown, sorted(grown, key=lambda u: (distance[u], u)), True
    by_gradient = ranked(question, np.abs(search.passed.orders.input_x_gradient))
    single = question.first((u,) for u in by_gradient)
    if single is not None:
        return single, by_gradient, False
    orders = (_by_effect(question), by_gradient, ranked(question, search.passed.orders.attended))
    size = 2
    # Some targets need dozens of tokens at once, and shrinking finds the few among them.
    while size < len(question.scope):
        grown = question.first(order[:size] for order in orders)
        if grown is not None:
            return grown, next(o for o in orders if frozenset(o[:size]) == grown), False
        size *= 2
    return frozenset(question.scope), orders[0], False  # the whole scope passed


def _smaller_legal(search: Search, case: Case) -> None:
    """Try legal sets smaller than the one found, in CLEANN's order, with part of the budget."""
    budget = search.budget
    try:
        for size in range(2, len(case.state.best or ())):
            part = budget.left // 3
            legal = merged_candidates(case.trees, size, limit=max(part, 1))
            with budget.at_most(part):
                smaller = case.question.first(legal)
            if smaller is not None:
                case.state.offer(smaller, irreducible=False)
                break
    except BudgetEnded as ended:
        if ended.reason != "max_runs":
            raise


def _smaller_by_effect(case: Case) -> None:
    """Try shorter prefixes of the order by single masking: few runs, often a smaller set."""
    order = _by_effect(case.question)
    grown = grow(case.question, order[: len(case.state.best or ()) - 1])
    if grown is not None:
        case.state.offer(*shrink(case.question, grown, order))


def _by_effect(question: Question) -> list[int]:
    effects = unit_effects(question)
    return [question.scope[i] for i in np.argsort(-effects, kind="stable")]


def _prefer_graph(search: Search, case: Case) -> None:
    """If no tree holds the set, look for one of the same size that a tree does hold."""
    question, state, trees = case.question, case.state, case.trees
    best, part = state.best, search.budget.left // 4
    if best is None or len(best) < 2 or any(t.radius_of(best) is not None for t in trees):
        return
    try:
        with search.budget.at_most(part):
            held = question.first(merged_candidates(trees, len(best), limit=max(part, 1)))
            if held is not None and (
                state.minimality == "minimum" or shrink(question, held, ()) == (held, True)
            ):
                state.best = held
    except BudgetEnded as ended:
        if ended.reason != "max_runs":
            raise


def _find_part(search: Search, case: Case) -> None:
    """Look for a part of a scope that as a whole changes nothing.

    In CLEANN's order first: single units of the trees, then the units of a radius together.
    """
    question, trees, state = case.question, case.trees, case.state
    by_gradient = ranked(question, np.abs(search.passed.orders.input_x_gradient))
    found = question.first(merged_candidates(trees, 1))
    found = found or question.first(within_radii(trees, search.max_radius))
    if found is not None:
        found, _ = shrink(question, found, by_gradient)
    else:
        orders: Sequence[list[int]] = (by_gradient, ranked(question, search.passed.orders.attended))
        found, state.grown = part_of(question, orders)
    if found is None:
        found, case.hopeless = every_part_fails(question)
    if found is not None:
        state.offer(*shrink(question, found, by_gradient))
        state.best, state.minimality = prove(question, state.best or found, state.irreducible)
        _prefer_graph(search, case)
