"""Metrics of causal graphs, on the embedded model: beside cuts written out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.edges import all_but
from causal_lvlm.explanation.edge_results import Contradiction
from causal_lvlm.methods import evaluate
from causal_lvlm.metrics import Case
from causal_lvlm.metrics import graph as metrics
from causal_lvlm.tiny import sample_inputs

NAMES = ["graph_faithfulness", "graph_contradictions"]


@pytest.fixture(scope="module")
def traced(embedded_model):
    sample = next(s for s in sample_inputs() if s.kind == "colour")
    return embedded_model.run(sample.image_path, sample.prompt)


@pytest.fixture(scope="module")
def explained(traced):
    return cl.explain(traced, 0)


def test_faithfulness_is_that_of_the_learned_edges_cut_out_by_hand(traced, explained):
    graph = explained.graph
    edges = traced.edges(explained.target)
    items = edges.between_nodes(graph.nodes)
    own = items[graph.learned_pag.marks[items[:, 0], items[:, 1]] > 0]
    plain = traced.evaluate(np.ones((1, len(traced.layout)), dtype=bool), 0)
    cuts = [all_but([]), all_but(edges.pairs), all_but(edges.between(graph.nodes, own.tolist()))]
    by_hand = traced.evaluate_edges(cuts, 0, rivals=plain.runner_up[0].tolist(), backend="block")
    none, everything, kept = by_hand.fixed_margin
    case = Case(traced, 0)
    found = metrics.graph_faithfulness(case, explained, n_random=3)
    assert found.value == pytest.approx((kept - none) / (everything - none), abs=1e-3)
    assert found.detail["edges"] == len(own) > 0
    # The unmasked run, the two ends, the graph, |A dA| and three random graphs, each set once.
    runs = case.runs
    assert 5 < runs <= 8
    assert found.detail["random"] < found.value
    again = metrics.graph_faithfulness(case, explained, n_random=3)
    assert again.value == found.value and case.runs == runs


def test_both_are_asked_by_evaluate_of_explanations_and_undefined_for_maps(traced, explained):
    relevancy = cl.attribute(traced, 0, "relevancy")
    table = evaluate(traced, 0, [explained, relevancy], NAMES, n_random=1)
    assert table.metrics == tuple(NAMES)
    assert table.get("causal", "graph_faithfulness").value is not None
    assert table.get("relevancy", "graph_contradictions").value is None
    assert table.get("relevancy", "graph_faithfulness").detail == metrics.NO_GRAPH


def test_contradictions_are_counted_with_both_pieces_of_evidence(monkeypatch):
    denied = Contradiction(0, "arrowhead", "learned: cup <-> spoon", "masking cup: it says fork")
    graph = SimpleNamespace(
        learned_pag=object(), labels=("cup", "spoon"), contradictions=(denied,),
        causes=(SimpleNamespace(node=0), SimpleNamespace(node=1)),
    )  # fmt: skip
    monkeypatch.setattr(metrics, "_graph_of", lambda _: graph)
    found = metrics.graph_contradictions(None, None)  # type: ignore[arg-type]
    assert found.value == 1.0 and found.detail["causes"] == 2
    assert found.detail["denied"][0]["verified"] == "masking cup: it says fork"
    graph.contradictions, graph.causes = (), ()
    assert metrics.graph_contradictions(None, None).value is None  # type: ignore[arg-type]
