"""`union_graph`: nodes by position, weights by candidate mass, drawn like a head's graph."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.errors import StructureError
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.union import union_graph
from causal_lvlm.storage import to_jsonable
from causal_lvlm.structure.pds import pds_tree
from causal_lvlm.tokens import resolve_target
from tests.explanation.fakes import FakeTrace, layout
from tests.viz.fakes import fake_view, head_graph, random_graph


def learned(seed=0, **options):
    trace = FakeTrace(keeps=lambda visible: True, layout=layout(3, 3, 3), seed=seed)
    found = attention_correlations(trace, 0, threshold=0.3, **options)
    graphs = learn_graphs(
        found, trace.layout, "red", max_radius=3, alpha=None, algorithm="ordered_icd",
        variant="stable", max_conditioning_size=None, max_tests=None, n_jobs=1,
    )  # fmt: skip
    return trace, found, graphs


def test_candidate_mass_is_the_share_on_candidates():
    trace, found, graphs = learned()
    for correlation, graph in zip(found, graphs, strict=True):
        weights = trace.attention()[0][correlation.head].astype(float)
        row = weights[correlation.positions[-1]]
        inside = {p for m in correlation.members[:-1] for p in m} - set(correlation.sinks)
        assert 0 not in inside and correlation.positions[-1] not in inside
        assert correlation.candidate_mass == pytest.approx(sum(row[sorted(inside)]) / row.sum())
        assert 0.0 < correlation.candidate_mass < 1.0
        assert graph.candidate_mass == correlation.candidate_mass


def test_sinks_do_not_count_as_candidates():
    class WithSink(FakeTrace):
        def attention(self, layers=(-1,)):
            weights = super().attention(layers) * np.float32(0.5)
            weights[..., 0] += 0.5
            return weights

    trace = WithSink(keeps=lambda visible: True, layout=layout(3, 3, 3))
    for correlation in attention_correlations(trace, 0, special=True):
        assert isinstance(correlation, TokenCorrelation)
        assert correlation.sinks == (0,) and correlation.members[0] == (0,)
        row = trace.attention()[0][correlation.head][correlation.positions[-1]]
        inside = correlation.positions[1:-1]
        assert correlation.candidate_mass == pytest.approx(row[inside].sum())
        assert correlation.candidate_mass < 0.5


def test_candidate_mass_is_saved_and_may_be_missing():
    _, _, graphs = learned()
    value = json.loads(json.dumps(to_jsonable(graphs[0].to_dict())))
    assert HeadGraph.check(99)(value, "").candidate_mass == graphs[0].candidate_mass
    del value["candidate_mass"]
    assert math.isnan(HeadGraph.check(99)(value, "").candidate_mass)


def test_votes_and_weights_by_position():
    _, _, graphs = learned(seed=2)
    union = union_graph(graphs)
    total = sum(g.candidate_mass for g in graphs)
    expected: dict[tuple[int, int], tuple[int, float]] = {}
    for graph in graphs:
        for i, j in np.argwhere(graph.structure.pag.marks):
            pair = (int(graph.positions[i]), int(graph.positions[j]))
            votes, weight = expected.get(pair, (0, 0.0))
            expected[pair] = (votes + 1, weight + graph.candidate_mass / total)
    found = {
        (int(union.positions[i]), int(union.positions[j])): (
            int(union.union.votes[i, j]),
            float(union.confidence[i, j]),
        )
        for i, j in np.argwhere(union.pag.marks)
    }
    assert found.keys() == expected.keys()
    for pair, (votes, weight) in expected.items():
        assert found[pair][0] == votes and found[pair][1] == pytest.approx(weight)
    assert {v for v, _ in found.values()} == {1, 2}  # the two heads agree in part
    assert union.tree == pds_tree(union.pag, union.target_node, 5)
    assert union.labels[union.target_node] == "red" and not union.isolated
    assert list(union.positions) == sorted(union.positions)


def test_nodes_that_only_some_heads_have():
    view = fake_view()
    target = resolve_target(view.layout, "red")
    p = target.predictor
    marks = np.zeros((3, 3), dtype=np.uint8)
    marks[0, 2], marks[2, 0] = 2, 3
    one = head_graph(view.layout, target, marks, np.array([10, 20, p]), head=0)
    two = head_graph(view.layout, target, marks, np.array([5, 10, p]), head=1)
    union = union_graph([one, two], weights=[1, 3])
    assert union.positions.tolist() == [5, 10, 20, p] and union.target_node == 3
    assert union.union.votes[:, 3].tolist() == [1, 1, 0, 0]
    assert union.confidence[:, 3].tolist() == [0.75, 0.25, 0.0, 0.0]
    assert union.union.possible[0].tolist() == [1, 1, 0, 1]
    kept = union.stable(0.5)
    assert kept.pag.n_edges == 1 and kept.tree.within(3) == [0]
    assert kept.union is union.union and union_graph([one, two], weights=[1, 3], min_share=0.5
                                                     ).pag == kept.pag  # fmt: skip
    assert union.sink_mass == pytest.approx(0.25)


def test_explanation_is_read_and_result_is_plain_data():
    _, _, graphs = learned()
    union = union_graph(SimpleNamespace(graphs=graphs))
    value = json.loads(json.dumps(union.to_dict()))
    assert value["heads"] == [0, 1] and value["edges_kept"] == union.pag.n_edges
    assert len(value["edge_votes"]) == value["edges"]


def test_union_is_drawn_like_a_head():
    from causal_lvlm.viz import draw_graph
    from causal_lvlm.viz.tree import draw_tree

    view = fake_view()
    target = resolve_target(view.layout, "red")
    graphs = [random_graph(view.layout, target, seed=seed) for seed in range(3)]
    union = union_graph(graphs, weights=None)
    image = draw_graph(view, union, {}, engine="networkx", max_nodes=12)
    assert image.width >= 640 and draw_tree(view, union, {}).width > 0


def test_bad_input():
    view = fake_view(("red", "circle"))
    one = random_graph(view.layout, resolve_target(view.layout, "red"))
    two = random_graph(view.layout, resolve_target(view.layout, 1))
    with pytest.raises(StructureError, match="no graph"):
        union_graph([])
    with pytest.raises(StructureError, match="different targets"):
        union_graph([one, two])
    with pytest.raises(StructureError, match=r"heads \[1\] is unknown"):
        union_graph([one])
    with pytest.raises(StructureError, match="zero in every head"):
        union_graph([dataclasses.replace(one, candidate_mass=0.0)])
    with pytest.raises(StructureError, match="'votes'"):
        union_graph([one], weights="votes")
    with pytest.raises(StructureError, match="min_share"):
        union_graph([one], weights=None, min_share=2.0)
