"""Small graphs that keep the answer, and small cuts that end it: grow, shrink, exchange, prove.

For each of the two questions (`causal_lvlm.explanation.edge_question`), with one budget:

1. Is there anything to find? With every content edge cut the answer must change; where it does not,
   it came from the prior.
2. `best_start`: grow along the orders and shrink: edges by the size of attention times its
   gradient, then by the estimate of each cut.
3. `exchange` two edges for one, once both questions have a set.
4. Random controls with as many edges into each reader, for which runs were set aside (at most half
   of them).
5. `prove`: every smaller set, where the runs that are left can finish the size.

Nothing is lost when a budget ends or somebody presses Ctrl-C, and nothing is asked from then on:
the smallest set that any run confirmed is the result, and says what ended the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from causal_lvlm.budget import Budget, BudgetEnded
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.question import prove, random_rate
from causal_lvlm.explanation.search import best_start, exchange, shrink
from causal_lvlm.explanation.state import SearchState

__all__ = ["EdgeCase", "edge_search"]

STEP = 1  # there are many edges: a longer prefix has twice as many
SHARE = 0.6  # of the runs that are left, which the first of two questions may use


@dataclass
class EdgeCase:
    """One of the two questions, and what is known about it.

    Attributes
    ----------
    question : EdgeQuestion
    orders : sequence of sequences of int
        Edges worth trying, best first.
    state : SearchState
    prior : bool
        Whether the answer stays with every content edge cut.
    spent : int
        Runs so far.
    """

    question: EdgeQuestion
    orders: Sequence[Sequence[int]]
    state: SearchState = field(default_factory=SearchState)
    prior: bool = False
    spent: int = 0


def edge_search(
    cases: Sequence[EdgeCase], budget: Budget, n_random: int, seed: int, tell: Callable[[str], None]
) -> None:
    """Search all cases in turn, and leave in them what was found; steps as in the module's text.

    Never raises for a budget or Ctrl-C.

    Parameters
    ----------
    cases : sequence of EdgeCase
    budget : Budget
    n_random : int
        Random controls for each set.
    seed : int
    tell : callable
        Called with the name of each stage that begins.
    """
    reserve = min(n_random * len(cases), budget.left // 2)
    for number, case in enumerate(cases):
        share = 1.0 if number == len(cases) - 1 else SHARE
        runs = int((budget.left - reserve) * share)
        _stage(case, budget, runs, partial(tell, f"{case.question.mode} edges"))
        _stage(case, budget, runs, partial(_seek, case))
    for case in cases:  # with what the others left; what is known costs nothing
        if case.state.ended == "max_runs":
            _stage(case, budget, budget.left - reserve, partial(_seek, case))
    for case in cases:  # once both have a set: of two that are large neither waits for the other
        _stage(case, budget, budget.left - reserve, partial(_improve, case))
    for step in (_control, _claim):
        for case in cases:
            _stage(case, budget, budget.left, partial(step, case, n_random, seed))
    for case in cases:  # a smaller set may have come up since: only what is known of it counts
        if case.state.best is not None:
            with budget.at_most(0):
                _control(case, n_random, seed)


def _stage(case: EdgeCase, budget: Budget, runs: int, step: Callable[[], None]) -> None:
    """Take one step with at most so many runs, and keep what it found."""
    used, state = budget.used, case.state
    ended: str | None = None
    try:
        with budget.at_most(runs):
            step()
    except BudgetEnded as error:
        ended = error.reason
    except KeyboardInterrupt:
        budget.interrupt()
        ended = "interrupted"
    case.spent += budget.used - used
    if ended is not None:
        state.ended = ended
        # That nothing is cut changes nothing is known: a necessary cut needs an edge.
        empty_fails = case.question.mode == "necessary" or case.question.known(()) is False
        state.recover(case.question.met(), empty_fails)


def _seek(case: EdgeCase) -> None:
    question, state = case.question, case.state
    whole = question.scope if question.mode == "necessary" else ()
    case.prior = question.ask([whole])[0] == (question.mode == "sufficient")
    if case.prior:
        state.ended = None
        return
    best, state.grown = best_start(question, case.orders, step=STEP)
    if best is None:  # no prefix passes, only all edges together
        best, _ = shrink(question, frozenset(question.scope), case.orders[0])
    best = question.pruned(best)
    irreducible = all(question.known(best - {item}) is False for item in best)
    state.offer(best, irreducible)
    if not irreducible:
        question.asker.budget.allowance()  # says what ended the shrinking
    state.ended = None


def _improve(case: EdgeCase) -> None:
    """Exchange two edges for one."""
    state = case.state
    if state.best is None or not state.irreducible or state.ended is not None:
        return
    better, irreducible = exchange(case.question, state.best, case.orders[0])
    state.offer(case.question.pruned(better), irreducible)


def _control(case: EdgeCase, n_random: int, seed: int) -> None:
    """Ask about random sets like the one that was found."""
    if case.state.best is not None:
        case.state.random = random_rate(case.question, case.state.best, n_random, seed)


def _claim(case: EdgeCase, n_random: int, seed: int) -> None:
    """Try every smaller set of edges; a smaller one that passes gets controls of its own."""
    state = case.state
    if state.best is None or state.ended is not None or state.minimality == "minimum":
        return
    state.best, state.minimality = prove(
        case.question, state.best, state.irreducible, always_singles=False
    )
    _control(case, n_random, seed)
