"""Orders of units: every method says which units to mask first; all get the same treatment.

`measure` grows the smallest prefix of an order that changes the answer, then shrinks it with the
same delta-debugging step, within the same budget of model runs. Runs that an order itself needs
(one-by-one masking, greedy search) are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm import attribute
from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget, BudgetEnded
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.explanation.candidates import unit_tree
from causal_lvlm.explanation.explain import MAX_TESTS, N_RANDOM
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.question import Question, random_rate, unit_effects
from causal_lvlm.explanation.search import shrink
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.tokens import Target, Units, candidate_units, resolve_target

# The options that `explain` passes by default: what is remembered of runs is found again.
PLAIN: dict[str, Any] = {"masking": "remove", "backend": "auto", "against": None}
AHEAD = 12  # prefixes evaluated at once

GRAPH_SOURCES: dict[str, dict[str, Any]] = {
    "graph: last-layer attention": {"source": "attention", "layer": -1},
    "graph: last-layer head outputs": {"source": "output", "layer": -1},
    "graph: effective attention": {"source": "attention", "layer": "effective"},
    "graph: relevancy matrix": {"source": "relevancy"},
}


@dataclass
class Job:
    """One target with its units and what the model says unmasked."""

    trace: Any
    target: Target
    units: Units
    tester: Tester

    @classmethod
    def of(cls, pair: Any) -> Job:
        target = resolve_target(pair.trace.layout, pair.target)
        units = candidate_units(pair.trace.layout, target)
        full = pair.trace.evaluate(
            np.ones((1, len(pair.trace.layout)), dtype=bool), target, **PLAIN
        )
        tester = Tester("flip", target.token_ids, float(full.log_prob[0]))
        return cls(pair.trace, target, units, tester)

    def question(self, scope: tuple[int, ...], max_runs: int, at_once: int = 16) -> Question:
        asker = Asker(self.trace, self.target, self.units, at_once=at_once, budget=Budget(max_runs))
        return Question(asker, self.tester, scope, "necessary")

    def scope(self, name: str) -> tuple[int, ...]:
        return tuple(
            u
            for u in range(len(self.units))
            if name == "joint" or (self.units.modality[u] == "image") == (name == "image")
        )


@dataclass(frozen=True)
class GraphOrder:
    """The units of all heads' PDS-trees, nearest first."""

    order: tuple[int, ...]
    by_radius: dict[int, frozenset[int]]
    n_heads: int
    n_isolated: int
    mean_edges: float
    correlations: tuple[TokenCorrelation, ...]
    graphs: tuple[HeadGraph, ...]


def graph_order(
    job: Job, *, max_radius: int = 3, variant: str = "stable", **options: Any
) -> GraphOrder:
    """Learn the graphs and rank units: distance, heads that agree, correlation with the target."""
    found = attention_correlations(job.trace, job.target, **options)
    usable = tuple(c for c in found if isinstance(c, TokenCorrelation))
    graphs = learn_graphs(
        usable, job.trace.layout, job.target.text, max_radius=max_radius, alpha=None,
        algorithm="ordered_icd", variant=variant, max_conditioning_size=None,
        max_tests=MAX_TESTS, n_jobs=1,
    )  # fmt: skip
    depth: dict[int, list[int]] = {}
    strength: dict[int, float] = {}
    for correlation, graph in zip(usable, graphs, strict=True):
        nodes = job.units.of_nodes(correlation.members)
        tree = unit_tree(graph.head, graph.tree, nodes, range(len(job.units)))
        for node, unit in enumerate(nodes):
            if unit is not None and unit in tree.depth:
                depth.setdefault(unit, []).append(tree.depth[unit])
                value = abs(float(correlation.correlation[node, correlation.target_node]))
                strength[unit] = max(strength.get(unit, 0.0), value)
    order = sorted(
        depth, key=lambda u: (min(depth[u]), -depth[u].count(min(depth[u])), -strength[u], u)
    )
    return GraphOrder(
        order=tuple(order),
        by_radius={
            r: frozenset(u for u in depth if min(depth[u]) <= r) for r in range(1, max_radius + 1)
        },
        n_heads=len(graphs),
        n_isolated=sum(g.isolated for g in graphs) + len(found) - len(usable),
        mean_edges=float(np.mean([g.structure.pag.n_edges for g in graphs])) if graphs else 0.0,
        correlations=usable,
        graphs=graphs,
    )


def attribution_order(method: str, **options: Any) -> Callable[[Job, Question], list[int]]:
    """Return the order of a relevancy baseline."""

    def order(job: Job, question: Question) -> list[int]:
        scores = attribute(job.trace.trace, target=job.target, method=method, **options).scores
        value = [float(scores[list(job.units.members[u])].sum()) for u in question.scope]
        return [question.scope[i] for i in np.argsort(-np.array(value), kind="stable")]

    return order


def one_by_one(job: Job, question: Question) -> list[int]:
    """Mask every unit alone; the largest fall of the margin first."""
    effects = unit_effects(question)
    return [question.scope[i] for i in np.argsort(-effects, kind="stable")]


def greedy(job: Job, question: Question) -> list[int]:
    """Add, again and again, the unit whose masking lowers the margin most."""
    chosen: list[int] = []
    while len(chosen) < len(question.scope):
        rest = [u for u in question.scope if u not in chosen]
        answers = question.asker.sets([[*chosen, u] for u in rest])
        best = min(range(len(rest)), key=lambda i: (answers.margin[i], rest[i]))
        chosen.append(rest[best])
        if question.tester.changed(answers)[best]:
            break
    return chosen + [u for u in question.scope if u not in chosen]


def random_order(seed: int) -> Callable[[Job, Question], list[int]]:
    """Return a seeded shuffle."""

    def order(job: Job, question: Question) -> list[int]:
        rng = np.random.default_rng([seed, *job.target.positions, len(question.scope)])
        return [question.scope[i] for i in rng.permutation(len(question.scope))]

    return order


@dataclass(frozen=True)
class Measured:
    """What one order reached on one target within one scope."""

    maskable: bool
    grown: int | None
    shrunk: int | None
    units: tuple[int, ...]
    runs: int
    random_flip_rate: float | None = None


def measure(
    job: Job, scope: str, order: Callable[[Job, Question], list[int]], max_runs: int, seed: int = 0
) -> Measured:
    """Grow and shrink along an order, within a budget of model runs.

    Random control sets of the same size and modality are measured for every order alike, and not
    charged.
    """
    # Whether anything can flip at all is asked once for every order and not charged.
    whole = job.question(job.scope(scope), 1)
    if not whole.scope or not whole.ask([whole.scope])[0]:
        return Measured(False, None, None, (), 0)
    question = job.question(whole.scope, max_runs)
    grown: frozenset[int] | None = None
    try:
        ranked = order(job, question)
        for k in range(1, len(ranked) + 1):
            if k % AHEAD == 1:
                # The processor works in batches; only the prefixes asked below are charged.
                masks = [ranked[:j] for j in range(k, min(k + AHEAD, len(ranked) + 1))]
                keep = job.units.keep_without(masks, len(job.trace.layout))
                job.trace.evaluate(keep, job.target, **PLAIN)
            if question.ask([ranked[:k]])[0]:
                grown = frozenset(ranked[:k])
                break
    except BudgetEnded:
        pass
    if grown is None:
        return Measured(True, None, None, (), question.asker.runs)
    question.asker.at_once = 1
    best, _ = shrink(question, grown, ranked)
    rate, _ = random_rate(job.question(job.scope(scope), 1000), best, N_RANDOM, seed)
    return Measured(True, len(grown), len(best), tuple(sorted(best)), question.asker.runs, rate)
