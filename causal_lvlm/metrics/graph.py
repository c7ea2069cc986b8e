"""Metrics of the causal graph of an explanation: what its edges keep, and what its marks deny.

``graph_faithfulness``    how much of what all content edges are worth the learned edges alone keep
``graph_contradictions``  proven causes that the learned graph denies

1. Every content edge is cut but those of the learned graph (never of the reconciled one); m is the
   sum, over the target's tokens, of the logit minus that of the strongest rival of the uncut run,
   which stays fixed. The value is (m(graph) - m(nothing kept)) / (m(all kept) - m(nothing kept)).
2. Beside it the same is asked of as many edges chosen otherwise: random ones with as many into
   each reader, and those with the largest attention times its gradient. A value says little without
   them.

References
----------
Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025, arXiv:2504.13151
(faithfulness of circuits; here edges between tokens).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.attribution.edge_effects import edge_effects
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.checks import whole_number
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = ["METRICS", "graph_contradictions", "graph_faithfulness"]

LEAST_WORTH = 1.0  # logits between all edges and none, below which a share of them means nothing
NO_GRAPH = {"undefined": "the result has no learned graph"}


def graph_faithfulness(
    case: Case, result: Attribution | Explanation, *, n_random: int = 10, seed: int | None = None
) -> Measured:
    """Return the share of the worth of all edges that the learned graph's edges keep alone.

    Parameters
    ----------
    case : Case
        Units and masking do not matter here: the nodes are the graph's.
    result : Attribution or Explanation
        The explanation whose `Explanation.graph` is asked about.
    n_random : int
        Random graphs with as many edges into each reader.
    seed : int, optional
        Of these; the case's by default.

    Returns
    -------
    Measured
        Undefined where the result has no learned graph, and where all edges together are worth less
        than one logit. ``detail``: number of ``edges``, whether they keep the answer (``keeps``),
        ``margins`` (of all, none, graph), and ``random`` (mean) and ``attention_gradient``: the
        same of as many edges chosen otherwise.

    Raises
    ------
    UnsupportedModelError
        If some layers mix tokens without attention, so that edges cannot be cut.
    """
    whole_number("n_random", n_random, 0)
    seed = case.seed if seed is None else whole_number("seed", seed, 0)
    graph = _graph_of(result)
    if graph is None or graph.learned_pag is None:
        return Measured(None, dict(NO_GRAPH), 0)
    before = case.asked
    question = _question(case, graph)
    source, reader = question.items.T
    own = frozenset(np.flatnonzero(graph.learned_pag.marks[source, reader]).tolist())
    effects = edge_effects(case.trace, case.target, kind="attention_gradient")
    carried = np.argsort(-effects.between(graph.nodes)[1], kind="stable")[: len(own)].tolist()
    random = question.like(own, n_random, seed)
    answers = question.answers([(), question.scope, own, carried, *random])
    nothing, everything, kept, by_gradient, *others = answers.lead.tolist()
    detail: dict[str, Any] = {
        "edges": len(own),
        "keeps": not bool(answers.changed[2]),
        "margins": {"all": everything, "none": nothing, "graph": kept},
    }
    asked, worth = case.asked - before, everything - nothing
    if abs(worth) < LEAST_WORTH:
        detail["undefined"] = f"all content edges together are worth {worth:.2f} logits"
        return Measured(None, detail, asked)
    detail["attention_gradient"] = (by_gradient - nothing) / worth
    detail["random"] = (float(np.mean(others)) - nothing) / worth if others else None
    return Measured((kept - nothing) / worth, detail, asked)


def graph_contradictions(case: Case, result: Attribution | Explanation) -> Measured:
    """Return how many proven causes of the target the learned graph denies; no model runs.

    Parameters
    ----------
    case : Case
        Not used; every metric has one.
    result : Attribution or Explanation

    Returns
    -------
    Measured
        Undefined where the result has no learned graph, or nothing was proved. ``detail``: number
        of ``causes``, and both pieces of evidence for each contradiction (``denied``).
    """
    graph = _graph_of(result)
    if graph is None or graph.learned_pag is None:
        return Measured(None, dict(NO_GRAPH), 0)
    denied = [
        {"token": graph.labels[c.node], "kind": c.kind, "learned": c.learned,
         "verified": c.verified}
        for c in graph.contradictions
    ]  # fmt: skip
    # What the learned graph has no node for cannot be reconciled, but it is denied all the same.
    causes = {c.node for c in graph.causes} | {c.node for c in graph.contradictions}
    detail: dict[str, Any] = {"causes": len(causes), "denied": denied}
    if not causes:
        detail["undefined"] = "no intervention proved a cause"
        return Measured(None, detail, 0)
    return Measured(float(len(denied)), detail, 0)


def _graph_of(result: Attribution | Explanation) -> CausalGraph | None:
    return result.graph if isinstance(result, Explanation) else None


def _question(case: Case, graph: CausalGraph) -> EdgeQuestion:
    """Return what asks about sets of the graph's edges, and counts with the case."""
    masking = f"cut-{graph.kind}"
    asker = case.asker.siblings.get(masking)
    if asker is None:
        rivals = case.without([()]).runner_up[0]
        asker = replace(case.asker, masking=masking, rivals=tuple(int(r) for r in rivals))
    edges = case.trace.edges(case.target)
    items = edges.between_nodes(graph.nodes)
    judge = Tester("flip", case.target.token_ids, float(np.log(case.full)), 0.5, None)
    return EdgeQuestion(
        asker, judge, tuple(range(len(items))), "sufficient",
        edges=edges, nodes=graph.nodes, items=items,
    )  # fmt: skip


METRICS = (
    (
        graph_faithfulness,
        MetricInfo(
            "graph_faithfulness", "graph", "higher", "result",
            "share of what all edges are worth that the learned graph's edges keep alone",
            "after Mueller et al. 2025 (MIB), arXiv:2504.13151",
        ),
    ),
    (
        graph_contradictions,
        MetricInfo(
            "graph_contradictions", "graph", "lower", "result",
            "proven causes that the learned graph denies", "ours",
        ),
    ),
)  # fmt: skip
