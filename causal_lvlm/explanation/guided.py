"""Guided search of all scopes with one budget: sets first, then proofs and controls.

1. `start`: for every scope (text, image, joint) grow and shrink along a few orders; then, the joint
   scope first, `replace_two`: exchange two members for one (`causal_lvlm.explanation.search`). The
   orders: units by distance in the PDS-trees, those of one distance (and those outside) by
   attention over all layers; units by the norm of the gradient at their embedding; and, as long as
   nothing is found and where the set stays large, by attention composed over layers. The joint
   scope starts last and knows what the others found. In sufficient mode single units come first
   (below).
2. `seek`: scopes whose share of the runs ended, or of which a smaller set was met since, go again.
3. `claim`: every smaller subset, size by size, where the runs that are left can finish the size.
4. `control`: random controls, for which runs were set aside; then what is left goes to 2 and 3
   again.
5. `seek_part`: with what is left then, parts of the scopes that change nothing as a whole
   (`causal_lvlm.explanation.parts`); the others are not to pay for them.

A scope that is asked again costs nothing for what is known: the asker remembers every answer.

Sufficient sets are mostly single units, near the head of an order but seldom its very first. Where
no short prefix is enough a long one is dear to shrink, and shrinking leads past the single ones. So
before anything is grown, the first few units of the two orders are asked one by one, and then the
joint scope asks whether the sets of its parts are enough together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from causal_lvlm.asker import Subset
from causal_lvlm.budget import BudgetEnded
from causal_lvlm.explanation.candidates import distances
from causal_lvlm.explanation.parts import every_part_fails, part_of
from causal_lvlm.explanation.question import prove, random_rate
from causal_lvlm.explanation.search import best_start, exchange, ranked, shrink
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.state import Case, Search, explaining_set

__all__ = ["guided_search"]

SINGLES = 5  # units at the head of each of two orders that are asked alone, in sufficient mode


def guided_search(search: Search) -> dict[str, ExplainingSet]:
    """Return the explaining set of every scope; the steps are those of the module's text.

    Never raises for a budget or Ctrl-C.
    """
    cases = [case for case in search.cases if case.question.scope]
    budget = search.budget
    everything = budget.max_runs
    common = everything - min(search.n_random * len(cases), (everything - budget.used) // 4)
    for case in cases:
        _announce(search, case)
        _stage(search, case, start, budget.used + int((common - budget.used) * case.share))
    for case in reversed(cases):
        if case.state.ended is None:
            _stage(search, case, replace_two, common)
    # With what was set aside for controls at first, then with all of it.
    for until in (common, everything):
        _finish(search, cases, until)
    if any(_unfinished(case) for case in cases):  # a proof may have met a smaller set
        for case in cases:
            _stage(search, case, seek, everything)
            _stage(search, case, control, everything)
    _search_parts(search, cases)
    for case in cases:
        if case.state.controls_of != case.state.best:  # a smaller set came too late for controls
            case.state.random = (None, 0)
    return {case.name: explaining_set(case, search.max_size) for case in search.cases}


def _finish(search: Search, cases: Sequence[Case], until: int) -> None:
    """Take steps 2 to 4 until so many runs are used."""
    for case in cases:
        if _unfinished(case):
            _announce(search, case)
            _stage(search, case, seek, until)
    for case in cases:
        _stage(search, case, claim, until)
    for case in cases:
        _stage(search, case, control, search.budget.max_runs)


def _search_parts(search: Search, cases: Sequence[Case]) -> None:
    """Look for parts of the scopes that change nothing as a whole, with the runs left over."""
    whole_fails = [c for c in cases if c.idle and c.state.best is None]
    if search.mode == "sufficient" or not whole_fails:
        return
    budget = search.budget
    for case in whole_fails:
        _announce(search, case)
        _stage(
            search, case, seek_part, budget.used + int((budget.max_runs - budget.used) * case.share)
        )
    for case in cases:  # with all of them; a part may be smaller than the set of a larger scope
        if _unfinished(case):
            _stage(search, case, seek_part, budget.max_runs)
    for case in whole_fails:
        _stage(search, case, claim, budget.max_runs)
    for case in cases:
        _stage(search, case, control, budget.max_runs)


def _announce(search: Search, case: Case) -> None:
    """Name the stage that begins; Ctrl-C at that moment loses nothing either."""
    if search.interrupted:
        return
    try:
        search.tell(f"explaining set: {case.name}")
    except KeyboardInterrupt:
        case.state.ended = "interrupted"
        search.interrupted = True


def _stage(search: Search, case: Case, step: Callable[[Search, Case], None], until: int) -> None:
    """Take one step in one scope until so many runs are used, and keep what it found."""
    budget, state = search.budget, case.state
    used = budget.used
    if search.interrupted:  # Ctrl-C meant all of it: only report what is known
        if not case.sought:
            state.ended = "interrupted"
    else:
        try:
            with budget.at_most(until - used):
                step(search, case)
        except BudgetEnded as ended:
            if step is not control:  # fewer controls are no shorter search
                state.ended = ended.reason
        except KeyboardInterrupt:
            state.ended = "interrupted"
            search.interrupted = True
    case.spent += budget.used - used
    if state.ended is not None:
        state.recover(case.question.met(), case.question.known(()) is False)


def _unfinished(case: Case) -> bool:
    """Whether the search of a scope was cut, or a smaller set of it is known by now."""
    best = case.state.best
    bound = len(case.question.scope) if best is None else len(best)
    return case.state.ended is not None or any(len(s) < bound for s in case.question.met())


def start(search: Search, case: Case) -> None:
    """Grow and shrink along the orders of a scope, from the smallest set that is known."""
    question, state = case.question, case.state
    case.idle = question.is_idle()
    case.sought = not case.idle or search.mode == "sufficient"
    if case.idle:
        state.ended = None
        return
    known = [s for s in question.met() if len(s) < len(question.scope)]
    best = min(known, key=lambda s: (len(s), sorted(s)), default=None)
    if best is None or len(best) > 1:
        _set_orders(search, case)
        if search.mode == "sufficient":
            likely = question.first(_likely(search, case))
            if likely is not None and (best is None or len(likely) < len(best)):
                best, _ = shrink(question, likely, case.orders[0])
        # Of two members only a single one could be better, and those were just asked.
        if search.mode == "necessary" or best is None or len(best) > 2:
            best, grown = best_start(question, case.orders, best)
            state.grown = grown if state.grown is None else state.grown
        if best is None:  # no prefix passes, only the scope as a whole
            best, _ = shrink(question, frozenset(question.scope), case.orders[0])
    _settle(search, case, best)


def replace_two(search: Search, case: Case) -> None:
    """Exchange two members for one, as long as that gives an explanation."""
    if case.state.best is not None and case.orders:
        better, _ = exchange(case.question, case.state.best, case.orders[0])
        _settle(search, case, better)


def seek(search: Search, case: Case) -> None:
    """Start and exchange: what is known already costs nothing."""
    start(search, case)
    replace_two(search, case)


def claim(search: Search, case: Case) -> None:
    """Try every smaller subset, size by size."""
    state = case.state
    if state.best is not None and state.ended is None and state.minimality != "minimum":
        state.best, state.minimality = prove(
            case.question, state.best, state.irreducible, always_singles=False
        )


def control(search: Search, case: Case) -> None:
    """Ask about random sets like the one that was found."""
    state = case.state
    enough = state.controls_of == state.best and state.random[1] >= search.n_random
    if state.best is not None and not enough:
        state.controls_of = state.best
        state.random = random_rate(case.question, state.best, search.n_random, search.seed)


def seek_part(search: Search, case: Case) -> None:
    """Seek in a scope; look for a part of it where the whole changes nothing."""
    start(search, case)
    case.sought = True
    if case.idle:
        _set_orders(search, case)
        best, grown = part_of(case.question, case.orders)
        if best is None:
            best, case.hopeless = every_part_fails(case.question)
        if best is not None:
            case.state.grown = grown
            _settle(search, case, best)
    replace_two(search, case)


def _likely(search: Search, case: Case) -> Iterator[Subset]:
    """Yield what is often enough by itself: single units, and the sets of the parts."""
    for pair in zip(*(order[:SINGLES] for order in case.orders[:2]), strict=True):
        yield from (frozenset((unit,)) for unit in dict.fromkeys(pair))
    inside = set(case.question.scope)
    parts = [c for c in search.cases if c.question.scope and set(c.question.scope) < inside]
    sets = [frozenset() if part.idle else part.state.best for part in parts]
    together: Subset = frozenset().union(*(s for s in sets if s is not None))
    if together and None not in sets:
        yield together


def _settle(search: Search, case: Case, best: Subset) -> None:
    """Take over the result of a search that came to its end."""
    question, state = case.question, case.state
    if len(best) > 1 and any(question.known(best - {u}) is not False for u in best):
        # Shrinking was cut by the budget, which then has a reason to give.
        search.budget.allowance()
        best, irreducible = shrink(question, best, ())
        if not irreducible:
            raise BudgetEnded("max_runs")
    if state.best is None or len(best) < len(state.best) or not state.irreducible:
        state.best, state.irreducible, state.minimality = None, False, "none"
        state.offer(best, irreducible=True)
    state.ended = None


def _set_orders(search: Search, case: Case) -> None:
    """Order the units of a scope in three ways, see the module's text; once only."""
    if case.orders:
        return
    by, question = search.passed.orders, case.question
    depth, far = distances(case.trees), search.max_radius + 1
    by_attention = ranked(question, by.attended)
    by_graph = sorted(by_attention, key=lambda u: depth.get(u, far))  # stable within a distance
    case.orders = [by_graph, ranked(question, by.gradient_norm), ranked(question, by.composed)]
