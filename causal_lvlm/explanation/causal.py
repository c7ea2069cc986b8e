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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.budget import Budget
from causal_lvlm.checks import shown
from causal_lvlm.correlation import TokenCorrelation, attention_correlations
from causal_lvlm.edges import nodes_of
from causal_lvlm.errors import OptionTypeError
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import Cause
from causal_lvlm.explanation.graph_options import GraphOptions
from causal_lvlm.explanation.graph_run import MAX_TESTS, GraphRun
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.options import check_self_check
from causal_lvlm.explanation.reconcile import (
    LEARNING,
    Explained,
    causes_of_sets,
    drawn_graph,
)
from causal_lvlm.explanation.testers import ask_unmasked
from causal_lvlm.protocols import TraceLike
from causal_lvlm.structure.compiling import compile_kernels
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import (
    Target,
    TargetLike,
    candidate_units,
    check_trace,
    resolve_target,
)

__all__ = ["causal_graph", "tested_graph", "verified_graph"]


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
    run = GraphRun(trace, asker, judge, edges, edges.nodes(units), options)
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
    given, target = explanation.parameters, explanation.target
    own = {name: given[name] for name in ("tester", "against", "drop_ratio", "pool", "seed")}
    options = GraphOptions(**own) if isinstance(graph, bool) else graph
    layout = trace.layout
    nodes = nodes_of(layout, target, candidate_units(layout, target, pool=options.pool))
    causes = causes_of_sets(
        explanation.sets.values(), nodes, layout, explanation.mode, explanation.masking
    )
    found = verified_graph(
        trace, target, options, learned=drawn_graph(explanation, correlations), causes=causes,
        progress=progress, learning={name: given[name] for name in LEARNING},
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
