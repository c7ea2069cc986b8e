"""Graphs of heads and stability beside an explanation, on the embedded model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.correlation import attention_correlation
from causal_lvlm.errors import StructureError
from causal_lvlm.explanation.explain import PUBLISHED
from causal_lvlm.explanation.head_graphs import HeadGraphs, head_graphs
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.explanation.trust import explanation_stability
from causal_lvlm.explanation.union import union_graph
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz.payload_graphs import extra_graphs


@pytest.fixture(scope="module")
def trace(embedded_model):
    sample = next(s for s in sample_inputs() if s.kind == "colour")
    return embedded_model.run(sample.image_path, sample.prompt)


@pytest.fixture(scope="module")
def found(trace):
    return cl.explain(trace, 0, max_runs=20, n_random=0)


@pytest.fixture(scope="module")
def heads(trace):
    return head_graphs(trace, 0, max_tests=2_000_000)


def test_head_graphs_are_those_of_the_published_setting(trace, heads, tmp_path):
    published = cl.explain(trace, 0, **PUBLISHED, max_runs=4, n_random=0)
    assert len(heads.graphs) == len(published.graphs) > 1
    for ours, theirs in zip(heads.graphs, published.graphs, strict=True):
        assert ours.head == theirs.head and ours.members == theirs.members
        np.testing.assert_array_equal(ours.structure.pag.marks, theirs.structure.pag.marks)
    again = HeadGraphs.load(heads.save(tmp_path / "heads.json"))
    assert again.to_dict() == heads.to_dict() and again.target == heads.target


def test_the_union_says_what_every_head_has_or_what_separates_the_pair(heads):
    union, *singles = extra_graphs(heads, {})
    assert union["names"] == [g["title"] for g in singles]
    assert all(g["extra"] for g in (union, *singles))
    assert len(union["edges"]) == len(union["perHead"]) > 0
    assert union_graph(heads.graphs).members[-1] == tuple(union["nodes"][union["target"]][0])
    absent = 0
    for (i, j, *_), voters, entries in zip(
        union["edges"], union["voters"], union["perHead"], strict=True
    ):
        ends = [tuple(union["nodes"][k][0]) for k in (i, j)]
        for at, (graph, entry) in enumerate(zip(heads.graphs, entries, strict=True)):
            a, b = (graph.members.index(end) for end in ends)
            structure = graph.structure
            assert entry[0] == pytest.approx(structure.weakest(a, b), rel=1e-3)
            assert (at in voters) == bool(structure.pag.marks[a, b])
            if at not in voters:
                absent += 1
                between = structure.sepset(a, b) or ()
                assert entry[1] == [graph.members[k][0] for k in between]
    assert absent > 0


def test_stability_uses_the_explanations_own_settings(trace, found, tmp_path):
    still = explanation_stability(trace, found, runs=2, jitter=0.0)
    marks = found.head_graph.structure.pag.marks
    nodes = [
        still.members.index(unit) for unit in found.head_graph.members if unit in still.members
    ]
    shares = still.edges.edge_frequency[np.ix_(nodes, nodes)]
    np.testing.assert_array_equal(shares > 0, marks > 0)
    moved = explanation_stability(trace, found, runs=12, jitter=1.5, seed=3)
    share = moved.edges.edge_frequency
    assert ((share > 0) & (share < 1)).any() and share.max() <= 1.0
    same = explanation_stability(trace, found, runs=12, jitter=1.5, seed=3)
    np.testing.assert_array_equal(share, same.edges.edge_frequency)
    again = TargetStability.load(moved.save(tmp_path / "s.json"))
    np.testing.assert_array_equal(again.edges.edge_frequency, share)
    np.testing.assert_allclose(again.edges.mark_frequency, moved.edges.mark_frequency)
    assert again.members == moved.members and again.target == found.target
    relevancy = SimpleNamespace(target=found.target, parameters={"source": "relevancy"})
    with pytest.raises(StructureError, match="clipped"):
        explanation_stability(trace, relevancy)


def test_weights_that_are_not_jittered_give_the_influence_of_the_run(trace):
    from causal_lvlm.explanation.changed import ChangedTrace, influence_products

    target = resolve_target(trace.layout, 0)
    changed = ChangedTrace(trace, lambda w: w, influence_products(trace, target))
    ours = attention_correlation(changed, target, source="influence")
    plain = attention_correlation(trace, target, source="influence")
    np.testing.assert_allclose(ours.correlation, plain.correlation, atol=1e-12)


def test_a_report_can_measure_and_learn_by_itself(trace, found, tmp_path):
    scores = [cl.attribute(trace, 0, "attention")]
    path = cl.report(
        trace, [found], tmp_path / "r.html", attributions=scores, metrics=True, heads=True
    )
    page = path.read_text(encoding="utf-8")
    assert "what the model says about its first tokens" in page and "All heads" in page
