"""Orders of units, and the same treatment for all: grow, shrink, within one budget.

Every order says which units to mask first. The smallest prefix that changes the answer is grown one
unit at a time and shrunk by delta debugging, within `settings.BUDGET` model runs; runs that an
order itself needs are counted. "Exchange" is the step of `causal_lvlm.explanation.search` on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget, BudgetEnded
from causal_lvlm.explanation.question import Question
from causal_lvlm.explanation.search import best_start, exchange, shrink
from experiments.first_light.orders import AHEAD, PLAIN, Job, greedy, one_by_one, random_order
from experiments.search import settings
from experiments.search.watch import Watched

Order = list[int]
NEAREST = "PDS-tree, influence; attention within a distance"
EXCHANGE = "guided, as in `explain`: PDS-tree with attention; gradient; rollout"
WITHOUT_GRAPH = "guided without a graph: attention; gradient; rollout"


@dataclass(frozen=True)
class Graph:
    """What one source's graphs say about one target."""

    order: Order  # distance, heads that agree, correlation; units outside come by gradient
    depth: dict[int, int]  # of the units that a PDS-tree holds


def by(job: Job, value: Any) -> Order:
    """Order all units by the sum of a value over their positions, largest first."""
    total = np.array([float(np.asarray(value)[list(m)].sum()) for m in job.units.members])
    return [int(u) for u in np.argsort(-total, kind="stable")]


def fixed_orders(job: Job, graphs: dict[str, Graph], seed: int) -> dict[str, Order]:
    """Return the orders that are known before anything is masked."""
    trace = job.trace.trace

    def method(name: str, **options: Any) -> Order:
        return by(job, cl.attribute(trace, job.target, name, **options).scores)

    attention = method("attention", layer="mean")
    far = 99
    depth = graphs[settings.INFLUENCE].depth
    orders = {f"PDS-tree, {name}": graphs[name].order for name in settings.ORDERED}
    orders[NEAREST] = sorted(attention, key=lambda u: depth.get(u, far))
    plain = {
        "attention, all layers": attention,
        "attention, last layer": method("attention"),
        "rollout": method("rollout"),
        "relevancy": method("relevancy"),
        "gradient norm": by(job, trace.backward(job.target).gradient_norm),
        "random": random_order(seed)(job, job.question(job.scope("joint"), 1)),
    }
    return orders | plain


def asking(job: Job, scope: tuple[int, ...], budget: int) -> tuple[Question, Watched]:
    """Return a question with a budget, and the trace that notes what it asks."""
    watched = Watched(job)
    asker = Asker(watched, job.target, job.units, at_once=1, budget=Budget(budget))
    return Question(asker, job.tester, scope, "necessary"), watched


def measure(
    job: Job, name: str, search: Callable[[Question], None], budget: int = settings.BUDGET
) -> dict[str, Any]:
    """Return what one search reached within one scope: curve, final set, runs."""
    scope = job.scope(name)
    question, watched = asking(job, scope, budget)
    try:
        search(question)
    except BudgetEnded:
        pass
    hits = [s for s in question.found() if s]
    best = min(hits, key=lambda s: (len(s), sorted(s)), default=None)
    return {
        "size": None if best is None else len(best),
        "units": [] if best is None else sorted(best),
        "runs": question.asker.runs,
        "curve": watched.curve(scope),
    }


def along(order: Sequence[int]) -> Callable[[Question], None]:
    """Grow and shrink along an order."""

    def search(question: Question) -> None:
        ranked = _within(question, order)
        for k in range(1, len(ranked) + 1):
            if k % AHEAD == 1:
                _look_ahead(question, ranked, k)
            if question.ask([ranked[:k]])[0]:
                shrink(question, frozenset(ranked[:k]), ranked)
                break

    return search


def asked_first(order: Callable[[Job, Question], Order], job: Job) -> Callable[[Question], None]:
    """Grow and shrink along an order that needs model runs itself."""

    def search(question: Question) -> None:
        question.asker.at_once = 64  # all of them are asked, whatever the answers are
        ranked = order(job, question)
        question.asker.at_once = 1
        along(ranked)(question)

    return search


def exchanged(*orders: Sequence[int]) -> Callable[[Question], None]:
    """Search along one or more orders, with exchange."""

    def search(question: Question) -> None:
        ranked = [_within(question, order) for order in orders]
        best, _ = best_start(question, ranked)
        if best is not None:
            exchange(question, best, ranked[0])

    return search


def paid_orders(job: Job) -> dict[str, Callable[[Question], None]]:
    """Return the searches whose order costs model runs."""
    return {
        "one-by-one masking": asked_first(one_by_one, job),
        "greedy search": asked_first(greedy, job),
    }


def lima(job: Job) -> tuple[Order, int]:
    """Return LiMA's order of all units, and the model runs it took."""
    made = cl.attribute(job.trace.trace, job.target, "lima", units=job.units)
    return by(job, made.scores), int(made.model_runs)


def _within(question: Question, order: Sequence[int]) -> Order:
    inside = set(question.scope)
    return [u for u in order if u in inside]


def _look_ahead(question: Question, ranked: Order, start: int) -> None:
    """Fill the memory with the next prefixes at once: the processor works in batches."""
    watched: Any = question.asker.trace
    masks = [ranked[:k] for k in range(start, min(start + AHEAD, len(ranked) + 1))]
    keep = watched.job.units.keep_without(masks, len(watched.layout))
    watched.job.trace.evaluate(keep, watched.job.target, **PLAIN)
