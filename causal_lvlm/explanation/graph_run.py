"""One verified causal graph in the making: what is asked, and what the answers are put together to.

Steps 3 to 6 of `causal_lvlm.explanation.causal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import FloatArray
from causal_lvlm.asker import Asker
from causal_lvlm.budget import BudgetEnded
from causal_lvlm.composition import edge_estimates
from causal_lvlm.correlation import TokenCorrelation
from causal_lvlm.edges import Cut, Edges, Nodes, cut
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.edge_results import Cause, CutResult, EdgeSet
from causal_lvlm.explanation.edge_search import EdgeCase, edge_search
from causal_lvlm.explanation.graph_options import GraphOptions
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.reconcile import (
    contradictions,
    graph_edges,
    learner,
    node_labels,
    node_places,
    on_nodes,
    reconciled,
    spoken_of,
)
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.protocols import TraceLike
from causal_lvlm.structure import PAG
from causal_lvlm.summary import pictures_of

__all__ = ["MAX_TESTS", "GraphRun"]

MAX_TESTS = 2_000_000  # CI tests of one graph
LEAST_NEED = 1.0  # logits that the content edges must be worth, for faithfulness to mean anything
ONLY_TEXT = (
    "the image enters by cross-attention, where nothing is cut: all edges are between text tokens, "
    "and every row still reads the image"
)
NOT_LEARNED = "no graph was learned: the target's row has no correlation with others"
NOT_COMPLETE = "learning ended before every test was made: the learned graph may have more edges"


class GraphRun:
    """One graph in the making: what is asked, and what the answers are put together to."""

    def __init__(
        self,
        trace: TraceLike,
        asker: Asker,
        judge: Tester,
        edges: Edges,
        nodes: Nodes,
        options: GraphOptions,
    ) -> None:
        self.trace, self.judge, self.edges, self.nodes = trace, judge, edges, nodes
        self.options, self.budget, self.summary = options, asker.budget, trace.to_dict()
        plain = asker.answers.take([0])
        rivals = tuple(int(r) for r in plain.runner_up[0])
        self.asker = replace(
            asker, masking=f"cut-{options.kind}", rivals=rivals, siblings=asker.siblings
        )
        self.items = edges.between_nodes(nodes)
        self.labels = node_labels(trace.layout, edges.target, nodes)
        self.cases = [self._case(mode) for mode in ("sufficient", "necessary")]

    def _case(self, mode: str) -> EdgeCase:
        question = EdgeQuestion(
            self.asker, self.judge, tuple(range(len(self.items))), mode,
            edges=self.edges, nodes=self.nodes, items=self.items,
        )  # fmt: skip
        return EdgeCase(question, ())

    def graph(
        self,
        learned: tuple[HeadGraph, TokenCorrelation] | None,
        known: Sequence[Cause],
        learning: Mapping[str, Any],
        tell: Callable[[str], None],
    ) -> CausalGraph:
        """Search, measure and reconcile; never raises for a budget or Ctrl-C."""
        target, nodes, options = self.edges.target, self.nodes, self.options
        drawn: PAG | None = None
        if learned is not None:
            drawn = on_nodes(learned[0].structure.pag, node_places(learned[0], nodes), nodes)
        estimated = self._orders()
        faithfulness = self._faithfulness(drawn)
        edge_search(self.cases, self.budget, options.n_random, options.seed, tell)
        sufficient, necessary = (self._edge_set(case) for case in self.cases)
        measured = self._measured([*sufficient.node_edges, *necessary.node_edges])
        necessary = replace(necessary, instead=self._instead(necessary))
        causes = tuple({c.node: c for c in (*self._causes(necessary), *known)}.values())
        pag: PAG | None = None
        if learned is not None:
            causes = spoken_of(learned[0], causes, nodes)
            learn = learner(learned[1], MAX_TESTS, deadline=self.budget.deadline, **learning)
            with self._until_interrupted():
                pag = reconciled(learned[0], causes, nodes, learn)
        return CausalGraph(
            target=target, nodes=nodes, labels=self.labels, frame=tuple(self.edges.frame.tolist()),
            kind=options.kind, sufficient=sufficient, necessary=necessary,
            edges=graph_edges(
                nodes, drawn, pag, sufficient, necessary, self._by_pair(estimated), measured
            ),
            learned_pag=drawn, pag=pag, causes=causes,
            contradictions=contradictions(drawn, causes, nodes, self.labels),
            faithfulness=faithfulness, model_runs=self.budget.used,
            parameters=options.to_dict(), summary=self.summary, remarks=self._remarks(learned),
        )  # fmt: skip

    @contextmanager
    def _until_interrupted(self) -> Iterator[None]:
        """Leave the block where runs or time are spent, or somebody pressed Ctrl-C."""
        try:
            yield
        except BudgetEnded:
            pass
        except KeyboardInterrupt:
            self.budget.interrupt()

    def _orders(self) -> FloatArray:
        """Order the edges for both questions; return the estimated fall of the margin of each."""
        kinds = ("gradient", "attention_gradient")
        fall, carried = (
            self._on_items(m) for m in edge_estimates(self.trace, self.edges.target, kinds)
        )
        by_fall = np.argsort(-fall, kind="stable").tolist()
        by_carried = np.argsort(-carried, kind="stable").tolist()
        for case in self.cases:
            case.orders = [by_carried, by_fall]
        return fall

    def _by_pair(self, values: FloatArray) -> dict[tuple[int, int], float]:
        """Return values of the edges by their nodes."""
        pairs = zip(self.items.tolist(), values.tolist(), strict=True)
        return {(source, reader): value for (source, reader), value in pairs}

    def _on_items(self, matrix: FloatArray) -> FloatArray:
        """Return the sum of a matrix (readers, sources) over the pairs of each edge of nodes."""
        pairs, starts = self.cases[0].question.grouped
        if not len(pairs):
            return np.zeros(0)
        total: FloatArray = np.add.reduceat(matrix[pairs[:, 1], pairs[:, 0]], starts[:-1])
        return total

    def _faithfulness(self, drawn: PAG | None) -> float | None:
        """Return what the learned graph keeps of what all content edges are worth."""
        if drawn is None:
            return None
        question = self.cases[0].question
        inside = drawn.marks[self.items[:, 0], self.items[:, 1]] > 0
        with self._until_interrupted():
            everything = float(self.asker.cuts([cut([])]).lead[0])
            nothing, kept = question.answers([(), np.flatnonzero(inside).tolist()]).lead
            worth = everything - float(nothing)
            return None if abs(worth) < LEAST_NEED else (float(kept) - float(nothing)) / worth
        return None

    def _edge_set(self, case: EdgeCase) -> EdgeSet:
        """Return what was found for one question."""
        question, state = case.question, case.state
        outcome = "prior" if case.prior else state.ended or "max_runs"
        none = EdgeSet(
            outcome, model_runs=case.spent, n_tried=question.n_asked(), ended=state.ended
        )
        if state.best is None:
            return none
        answer = question.answers([state.best])
        chosen = self.items[sorted(state.best)]
        pairs = self.edges.between(self.nodes, chosen.tolist())
        return replace(
            none,
            outcome="verified",
            edges=tuple((int(s), int(r)) for s, r in pairs),
            node_edges=tuple((int(s), int(r)) for s, r in chosen),
            verified=True,
            minimality=state.minimality,
            probability=float(answer.prob[0]),
            margin=float(answer.margin[0]),
            says=self._says(answer),
            random_rate=state.random[0],
            n_random=state.random[1],
        )

    def _measured(self, node_edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], CutResult]:
        """Return what happens when each of some edges is cut by itself."""
        found: dict[tuple[int, int], CutResult] = {}
        with self._until_interrupted():  # what was measured before counts
            full = float(self.asker.cuts([cut([])]).lead[0])
            for pair in dict.fromkeys(node_edges):
                one = Cut(self.edges.between(self.nodes, [pair]))
                answer = self.asker.cuts([one])
                left = float(answer.lead[0])
                found[pair] = CutResult(full - left, left, self._says(answer))
        return found

    def _says(self, answer: Answers) -> tuple[str, ...]:
        """Return the first choices of the first answer."""
        return tuple(self.trace.token_text(int(t)) for t in answer.argmax[0])

    def _instead(self, necessary: EdgeSet) -> str | None:
        """Return how the model goes on with the necessary cut, if it was asked and time is left."""
        if not (self.options.instead and necessary.verified and self.options.kind == "mask"):
            return None
        with self._until_interrupted():
            self.budget.check()
            cuts = cut(np.array(necessary.edges))
            return str(self.trace.regenerate(self.edges.target, cuts=cuts).text)
        return None

    def _remarks(self, learned: tuple[HeadGraph, TokenCorrelation] | None) -> tuple[str, ...]:
        """Return what must be known to read the graph."""
        found = []
        if pictures_of(self.summary) and "image" not in self.nodes.kinds:
            found.append(ONLY_TEXT)
        if learned is None:
            found.append(NOT_LEARNED)
        elif not learned[0].structure.complete:
            found.append(NOT_COMPLETE)
        return tuple(found)

    def _causes(self, necessary: EdgeSet) -> tuple[Cause, ...]:
        """Return the causes that the necessary cut proves: sources of an irreducible set."""
        if not necessary.verified or necessary.minimality == "none":
            return ()
        names = ", ".join(f"{self.labels[s]} → {self.labels[r]}" for s, r in necessary.node_edges)
        rest = "" if necessary.size == 1 else " (none of which can be left out)"
        said = " ".join(necessary.says).strip()
        text = f"cutting {names}{rest}: the model says {said!r}"
        sources = dict.fromkeys(s for s, _ in necessary.node_edges)
        return tuple(Cause(s, "cut", necessary.size == 1, text) for s in sources)
