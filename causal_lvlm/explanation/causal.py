"""`causal_graph`: learn a graph, put its edges and the missing ones to the model, and reconcile it.

1. The model is run unmasked; units, nodes and content edges are read (`causal_lvlm.edges`).
2. A graph is learned from the influence matrix (or another source), as `explain` learns it.
3. One backward pass estimates every edge; the model says how much it keeps with the learned graph
   alone, and with no content edge at all (`faithfulness`).
4. `edge_search`: the smallest set of edges that alone keeps the answer, and the smallest cut that
   ends it, each with random controls.
5. Every edge of a verified set is cut by itself, and the model goes on from the target with the
   necessary cut.
6. The learned graph is set against what was proved, and reconciled with it (`reconcile`).

Ctrl-C after step 2 ends the run, not the function: what was confirmed by then is returned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import FloatArray
from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget, BudgetEnded
from causal_lvlm.checks import shown
from causal_lvlm.composition import edge_estimates
from causal_lvlm.correlation import TokenCorrelation, attention_correlations
from causal_lvlm.edges import Cut, Edges, Nodes, cut, nodes_of
from causal_lvlm.errors import OptionTypeError
from causal_lvlm.explanation.causal_graph import (
    CausalGraph,
    Cause,
    CutResult,
    EdgeSet,
)
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.edge_search import EdgeCase, edge_search
from causal_lvlm.explanation.graph_options import GraphOptions
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.options import check_self_check
from causal_lvlm.explanation.reconcile import (
    LEARNING,
    Explained,
    causes_of_sets,
    contradictions,
    graph_edges,
    learner,
    node_labels,
    node_places,
    on_nodes,
    reconciled,
    spoken_of,
)
from causal_lvlm.explanation.testers import Tester, ask_unmasked
from causal_lvlm.protocols import TraceLike
from causal_lvlm.structure import PAG
from causal_lvlm.structure.compiling import compile_kernels
from causal_lvlm.summary import pictures_of
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import (
    Target,
    TargetLike,
    candidate_units,
    check_trace,
    resolve_target,
)

__all__ = ["causal_graph", "tested_graph", "verified_graph"]

MAX_TESTS = 2_000_000  # CI tests of one graph
LEAST_NEED = 1.0  # logits that the content edges must be worth, for faithfulness to mean anything
ONLY_TEXT = (
    "the image enters by cross-attention, where nothing is cut: all edges are between text tokens, "
    "and every row still reads the image"
)
NOT_LEARNED = "no graph was learned: the target's row has no correlation with others"
NOT_COMPLETE = "learning ended before every test was made: the learned graph may have more edges"


def causal_graph(
    trace: TraceLike,
    target: TargetLike,
    *,
    options: GraphOptions | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **changes: Any,
) -> CausalGraph:
    """Return a causal graph over tokens in which edges and missing edges were tested on the model.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        Which generated tokens; an integer counts generated tokens from 0.
    options : GraphOptions, optional
    force : bool
        Go on although the trace failed its self-check.
    progress : callable, optional
        Called with (stage, runs used, most runs) when a stage begins.
    **changes
        Single options by name, see `GraphOptions`.

    Returns
    -------
    CausalGraph

    Raises
    ------
    TargetError
        If the target is not in the answer, or not the model's choice.
    SelfCheckError
        If the teacher-forced pass does not reproduce the generation and `force` is not set.
    UnsupportedModelError
        If some layers mix tokens without attention, so that edges cannot be cut.
    OptionError, BudgetError
        If an option has a value that is not allowed.

    Examples
    --------
    >>> import causal_lvlm as cl
    >>> from causal_lvlm.tiny import sample_inputs
    >>> sample = sample_inputs()[0]
    >>> trace = cl.load_model().run(sample.image_path, sample.prompt)
    >>> graph = cl.causal_graph(trace, trace.answer)
    >>> graph.verified, graph.sufficient.size, graph.necessary.size
    (True, 1, 1)
    """
    chosen_options = _checked(options, changes, force, progress)
    check_trace(trace)
    check_self_check(trace.self_check, force)
    chosen = resolve_target(trace.layout, target)
    return verified_graph(trace, chosen, chosen_options, progress=progress)


def verified_graph(
    trace: TraceLike,
    target: Target,
    options: GraphOptions,
    *,
    learned: tuple[HeadGraph, TokenCorrelation] | None = None,
    causes: Sequence[Cause] = (),
    learning: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CausalGraph:
    """Test a graph on the model; see `causal_graph`, whose steps these are.

    Parameters
    ----------
    trace : Trace
    target : Target
    options : GraphOptions
    learned : (HeadGraph, TokenCorrelation), optional
        A graph and what it was learned from; learned here if left out.
    causes : sequence of Cause
        What was proved by masking before.
    learning : mapping, optional
        Options of `learn_structure` that the graph given was learned with.
    progress : callable, optional
    """
    started = time.monotonic()
    edges = trace.edges(target)
    units = candidate_units(trace.layout, target, pool=options.pool)
    limit = options.time_limit
    budget = Budget(options.max_runs, None if limit is None else started + limit)
    tell = progress or (lambda stage, used, total: None)
    asker, judge = ask_unmasked(
        trace, target, units, budget, tester=options.tester, drop_ratio=options.drop_ratio,
        against=options.against, masking="remove", backend="auto", at_once=1,
    )  # fmt: skip
    if learned is None:
        tell("learning the graph", budget.used, budget.max_runs)
        learned = _learned(trace, target, options, budget)
    run = _Run(trace, asker, judge, edges, edges.nodes(units), options)
    return run.graph(
        learned, causes, learning or {}, lambda stage: tell(stage, budget.used, budget.max_runs)
    )


def tested_graph(
    explanation: Explained,
    trace: TraceLike,
    correlations: Sequence[TokenCorrelation],
    graph: bool | GraphOptions,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> CausalGraph:
    """Test the graph of an explanation on the model, with what its sets proved.

    Parameters
    ----------
    explanation : Explanation
    trace : Trace
    correlations : sequence of TokenCorrelation
        Those that its graphs were learned from, in the same order.
    graph : True or GraphOptions
        With True the explanation's own tester and units.
    progress : callable, optional
    """
    given, head, target = explanation.parameters, explanation.head_graph, explanation.target
    own = {name: given[name] for name in ("tester", "against", "drop_ratio", "pool", "seed")}
    options = GraphOptions(**own) if isinstance(graph, bool) else graph
    learned = None
    if head is not None:
        number = next(k for k, one in enumerate(explanation.graphs) if one is head)
        learned = head, correlations[number]
    layout = trace.layout
    nodes = nodes_of(layout, target, candidate_units(layout, target, pool=options.pool))
    causes = causes_of_sets(
        explanation.sets.values(), nodes, layout, explanation.mode, explanation.masking
    )
    found = verified_graph(
        trace, target, options, learned=learned, causes=causes, progress=progress,
        learning={name: given[name] for name in LEARNING},
    )  # fmt: skip
    return replace(found, summary={})


def _checked(
    options: GraphOptions | None, changes: dict[str, Any], force: Any, progress: Any
) -> GraphOptions:
    """Refuse what no model could be asked."""
    if options is not None and not isinstance(options, GraphOptions):
        raise OptionTypeError(f"options must be GraphOptions, got {shown(options)}")
    if not isinstance(force, (bool, np.bool_)):
        raise OptionTypeError(f"force must be True or False, got {shown(force)}")
    if progress is not None and not callable(progress):
        raise OptionTypeError(
            f"progress must be callable as progress(stage, used, most), got {shown(progress)}"
        )
    return (options or GraphOptions()).changed(changes)


def _learned(
    trace: TraceLike, target: Target, options: GraphOptions, budget: Budget
) -> tuple[HeadGraph, TokenCorrelation] | None:
    """Learn the graph (of several heads: the first in which the target has neighbours)."""
    passed = TargetPass(trace, target, options.source)
    found = attention_correlations(
        trace, target, source=options.source, pool=options.pool, threshold=options.threshold,
        passed=passed,
    )  # fmt: skip
    usable = [c for c in found if isinstance(c, TokenCorrelation)]
    if not usable:
        return None
    budget.extend(compile_kernels("ordered_icd", "stable", tree=True))
    graphs = learn_graphs(
        usable, trace.layout, target.text, max_radius=3, alpha=None, algorithm="ordered_icd",
        variant="stable", max_conditioning_size=None, max_tests=MAX_TESTS,
        deadline=budget.deadline,
    )  # fmt: skip
    pairs = list(zip(graphs, usable, strict=True))
    return next((pair for pair in pairs if not pair[0].isolated), pairs[0])


class _Run:
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
        estimated = self._orders(drawn)
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

    def _orders(self, drawn: PAG | None) -> FloatArray:
        """Order the edges for both questions; return the estimated fall of the margin of each."""
        kinds = ("gradient", "attention_gradient")
        fall, carried = (
            self._on_items(m) for m in edge_estimates(self.trace, self.edges.target, kinds)
        )
        by_fall = np.argsort(-fall, kind="stable").tolist()
        by_carried = np.argsort(-carried, kind="stable").tolist()
        by_graph = by_carried
        if drawn is not None:
            inside = drawn.marks[self.items[:, 0], self.items[:, 1]] > 0
            by_graph = [k for k in by_carried if inside[k]] + [
                k for k in by_carried if not inside[k]
            ]
        self.cases[0].orders = [by_carried, by_graph, by_fall]
        self.cases[1].orders = [by_fall, by_carried]
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
