"""One target with its edges: what the model says of any set of them, and graphs learned over them.

Edges are those between nodes, as in `causal_graph`: `Bench.items` names source and reader of each,
and sets of edges are sets of indices into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import BoolArray, FloatArray, IntArray
from causal_lvlm.asker import Asker
from causal_lvlm.attribution.edge_effects import edge_effects
from causal_lvlm.budget import Budget
from causal_lvlm.correlation import TokenCorrelation, attention_correlations
from causal_lvlm.edges import Edges, Nodes
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.edge_results import Cause
from causal_lvlm.explanation.edge_search import EdgeCase, edge_search
from causal_lvlm.explanation.graph_run import MAX_TESTS
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.reconcile import node_labels, node_places, on_nodes
from causal_lvlm.explanation.search import shrink
from causal_lvlm.explanation.testers import Tester, ask_unmasked
from causal_lvlm.structure import PAG
from causal_lvlm.tokens import Target, candidate_units, resolve_target
from experiments.graph import settings

MODES = ("sufficient", "necessary")


@dataclass(frozen=True)
class Learned:
    """A graph learned from one source, over the nodes of the target."""

    head: HeadGraph
    correlation: TokenCorrelation
    pag: PAG
    inside: BoolArray  # which of the edges it holds
    strength: FloatArray  # smallest |partial correlation| met; NaN where nothing was tested

    def order(self) -> list[int]:
        """Return the edges, those of the graph first, each group by strength."""
        strength = np.nan_to_num(self.strength, nan=-1.0)
        return [int(k) for k in np.lexsort((-strength, ~self.inside))]


@dataclass(frozen=True)
class Bench:
    """What is asked about one target."""

    trace: Any
    target: Target
    edges: Edges
    nodes: Nodes
    items: IntArray
    labels: tuple[str, ...]
    judge: Tester
    masks: Asker  # asks about masked tokens
    rivals: tuple[int, ...]

    @classmethod
    def of(cls, trace: Any, target: Any) -> Bench:
        """Run the model unmasked and list the edges."""
        chosen = resolve_target(trace.layout, target)
        edges, units = trace.edges(chosen), candidate_units(trace.layout, chosen)
        masks, judge = ask_unmasked(
            trace, chosen, units, Budget(), tester="flip", drop_ratio=0.5, against=None,
            masking="remove", backend="auto",
        )  # fmt: skip
        nodes = edges.nodes(units)
        rivals = tuple(int(r) for r in masks.answers.take([0]).runner_up[0])
        return cls(
            trace, chosen, edges, nodes, edges.between_nodes(nodes),
            node_labels(trace.layout, chosen, nodes), judge, masks, rivals,
        )  # fmt: skip

    def question(self, mode: str = "sufficient", runs: int | None = None) -> EdgeQuestion:
        """Return a question without memory; with a number of runs it is asked one row at a time."""
        budget, at_once = (Budget(), None) if runs is None else (Budget(runs), 1)
        asker = replace(
            self.masks, masking="cut-mask", rivals=self.rivals, budget=budget, at_once=at_once,
            siblings={},
        )  # fmt: skip
        return self._asked_of(asker, mode)

    def _asked_of(self, asker: Asker, mode: str) -> EdgeQuestion:
        return EdgeQuestion(
            asker, self.judge, tuple(range(len(self.items))), mode,
            edges=self.edges, nodes=self.nodes, items=self.items,
        )  # fmt: skip

    def keeps(self, answers: Answers) -> list[bool]:
        """Return whether the model still says the target, row by row."""
        return [not changed for changed in self.judge.changed(answers).tolist()]

    def scores(self, kind: str, max_runs: int | None = None) -> FloatArray:
        """Return the score of each edge, see `edge_effects`."""
        pairs, scores = edge_effects(
            self.trace, self.target, kind=kind, max_runs=max_runs
        ).between(self.nodes)  # fmt: skip
        if not np.array_equal(pairs, self.items):
            raise RuntimeError("edge effects are of other edges than those asked about")
        return scores

    def causes(self) -> tuple[Cause, ...]:
        """Return the units of which each alone, masked, changes the answer."""
        singles = [(unit,) for unit in range(len(self.masks.units))]
        changed = self.judge.changed(self.masks.sets(singles)).tolist()
        return tuple(
            Cause(unit, "mask", True, f"masking {self.labels[unit]} changes the answer")
            for (unit,), one in zip(singles, changed, strict=True)
            if one
        )

    def learned(self, **options: Any) -> Learned | None:
        """Learn a graph as `causal_graph` does: of several heads the first with neighbours."""
        found = attention_correlations(self.trace, self.target, **options)
        usable = [c for c in found if isinstance(c, TokenCorrelation)]
        if not usable:
            return None
        graphs = learn_graphs(
            usable, self.trace.layout, self.target.text, max_radius=3, alpha=None,
            algorithm="ordered_icd", variant="stable", max_conditioning_size=None,
            max_tests=MAX_TESTS, n_jobs=1,
        )  # fmt: skip
        pairs = list(zip(graphs, usable, strict=True))
        head, correlation = next((p for p in pairs if not p[0].isolated), pairs[0])
        places = node_places(head, self.nodes)
        pag = on_nodes(head.structure.pag, places, self.nodes)
        source, reader = self.items.T
        return Learned(
            head, correlation, pag, pag.marks[source, reader] > 0,
            self._strength(head, places)[source, reader],
        )  # fmt: skip

    def _strength(self, head: HeadGraph, places: Sequence[int]) -> FloatArray:
        """Return the smallest |partial correlation| of each pair of nodes; NaN without a test."""
        found = np.full((len(self.nodes), len(self.nodes)), np.nan)
        evidence = head.structure.evidence
        if evidence is not None:
            n = len(places)
            own = np.full((n, n), np.nan)
            own[np.triu_indices(n, 1)] = evidence.weakest  # condensed in this order
            own = np.where(np.isnan(own), own.T, own)
            inside = [k for k, node in enumerate(places) if node >= 0]
            chosen = [places[k] for k in inside]
            found[np.ix_(chosen, chosen)] = own[np.ix_(inside, inside)]
        return found

    def random_like(self, order: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Return a random order of which every prefix has the in-degrees of `order`'s prefix."""
        readers = self.items[:, 1]
        waiting = {
            reader: rng.permutation(np.flatnonzero(readers == reader)).tolist()
            for reader in np.unique(readers).tolist()
        }
        return [waiting[int(readers[item])].pop() for item in order]

    def searched(self, order: Sequence[int], seed: int) -> dict[str, Any]:
        """Look for both sets along one order alone, with the search of `causal_graph`."""
        first = self.question("sufficient", settings.BUDGET)
        cases = [EdgeCase(self._asked_of(first.asker, mode), [order]) for mode in MODES]
        edge_search(cases, first.asker.budget, settings.N_RANDOM, seed, lambda _: None)
        found: dict[str, Any] = {
            case.question.mode: {
                "size": None if case.state.best is None else len(case.state.best),
                "minimality": case.state.minimality,
                "runs": case.spent,
            }
            for case in cases
        }
        return {**found, "runs": first.asker.budget.used}

    def minimised(self) -> dict[str, Any]:
        """Leave edges out of the set of all (delta debugging alone), half the runs for each set."""
        found: dict[str, Any] = {}
        order = range(len(self.items))
        for mode in MODES:
            question = self.question(mode, settings.BUDGET // 2)
            best, irreducible = shrink(question, frozenset(order), order)
            found[mode] = {
                "size": len(question.pruned(best)),
                "minimality": "irreducible" if irreducible else "none",
                "runs": question.asker.budget.used,
            }
        return {**found, "runs": sum(one["runs"] for one in found.values())}


def faithful(worth: float, nothing: float) -> Callable[[float], float | None]:
    """Return what turns a margin into a faithfulness; None where the edges are worth too little."""
    small = abs(worth) < settings.LEAST_WORTH
    return lambda margin: None if small else (margin - nothing) / worth
