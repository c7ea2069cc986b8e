"""`aggregate_graphs` against dictionaries of edges counted one by one."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import StructureError
from causal_lvlm.structure.aggregate import aggregate_graphs
from causal_lvlm.structure.pag import PAG
from tests.examples import examples


def random_pag(rng, n, density=0.5):
    marks = np.zeros((n, n), dtype=np.uint8)
    for i in range(n):
        for j in range(i + 1, n):
            if rng.random() < density:
                marks[i, j], marks[j, i] = rng.integers(1, 4, size=2)
    return PAG(marks)


def slow(graphs, ids, weights):
    """Return {(a, b): (votes, weight, mark at b)} for every ordered pair of ids with an edge."""
    found: dict[Any, list[Any]] = {}
    for graph, names, weight in zip(graphs, ids, weights, strict=True):
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if graph.marks[i, j]:
                    votes = found.setdefault((a, b), [0, 0.0, {1: 0.0, 2: 0.0, 3: 0.0}])
                    votes[0] += 1
                    votes[1] += weight
                    votes[2][int(graph.marks[i, j])] += weight
    total = sum(weights)
    return {
        pair: (
            count,
            weight / total,
            next((c for c in (2, 3) if marks[c] > weight / 2), 1),
        )
        for pair, (count, weight, marks) in found.items()
    }


@examples(40)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_against_counting(seed, count):
    rng = np.random.default_rng(seed)
    ids = [list(rng.permutation(7)[: rng.integers(1, 8)]) for _ in range(count)]
    graphs = [random_pag(rng, len(names)) for names in ids]
    # Whole numbers: sums are exact, so ties are ties in both ways of counting.
    weights = rng.integers(1, 4, size=count).astype(float).tolist()
    union = aggregate_graphs(graphs, nodes=ids, weights=weights)
    expected = slow(graphs, ids, weights)
    place = {name: k for k, name in enumerate(union.ids)}
    assert union.pag.n_edges * 2 == len(expected)
    for (a, b), (votes, weight, mark) in expected.items():
        i, j = place[a], place[b]
        assert union.votes[i, j] == votes
        assert union.weight[i, j] == pytest.approx(weight)
        assert union.pag.marks[i, j] == mark
    for i, a in enumerate(union.ids):
        for j, b in enumerate(union.ids):
            assert union.possible[i, j] == sum(a in names and b in names for names in ids)
    assert np.array_equal(union.mark_votes.sum(axis=2), union.possible)
    assert np.array_equal(union.votes, union.votes.T)
    for share in (0.0, 0.4, 1.0):
        kept = {pair for pair, (_, weight, _) in expected.items() if weight >= share - 1e-9}
        assert union.stable(share).n_edges * 2 == len(kept)


def test_one_graph_is_its_own_union():
    pag = random_pag(np.random.default_rng(0), 6)
    union = aggregate_graphs([pag])
    assert union.pag == pag == union.stable(1.0)
    assert union.weights == (1.0,) and union.ids == tuple(range(6))
    with pytest.raises(ValueError, match="read-only"):
        union.votes[0, 1] = 3


def test_order_of_graphs_and_of_nodes_does_not_matter():
    rng = np.random.default_rng(1)
    graphs = [random_pag(rng, 5) for _ in range(4)]
    ids = [list("abcde"), list("bcdef"), list("edcba"), list("fabcd")]
    order = list("abcdef")
    one = aggregate_graphs(graphs, nodes=ids, order=order)
    two = aggregate_graphs(graphs[::-1], nodes=ids[::-1], order=order)
    assert one.ids == tuple(order) and one.pag == two.pag
    assert np.array_equal(one.mark_votes, two.mark_votes)
    turn = [4, 2, 0, 1, 3]
    turned = PAG(graphs[0].marks[np.ix_(turn, turn)])
    three = aggregate_graphs(
        [turned, *graphs[1:]], nodes=[[ids[0][k] for k in turn], *ids[1:]], order=order
    )
    assert three.pag == one.pag


def test_weight_zero_has_votes_but_no_say():
    a = PAG(np.array([[0, 2, 0], [3, 0, 0], [0, 0, 0]]))
    b = PAG(np.array([[0, 3, 2], [2, 0, 0], [3, 0, 0]]))
    union = aggregate_graphs([a, b], weights=[1.0, 0.0])
    assert union.votes[0, 1] == 2 and union.weight[0, 1] == 1.0
    assert union.pag.marks[0, 1] == 2 and union.pag.marks[1, 0] == 3
    # Edge 0-2 is in a graph of weight zero only: it is in the union, and its marks are open.
    assert union.votes[0, 2] == 1 and union.weight[0, 2] == 0.0
    assert union.pag.marks[0, 2] == union.pag.marks[2, 0] == 1
    assert union.stable(0.5).n_edges == 1
    equal = aggregate_graphs([a, b])
    assert equal.pag.marks[0, 1] == equal.pag.marks[1, 0] == 1  # one vote each is no majority


def test_names_and_kinds():
    def wrap(marks, names, kind="cpdag"):
        return SimpleNamespace(pag=PAG(np.array(marks)), names=names, kind=kind)

    directed, undirected = [[0, 2], [3, 0]], [[0, 3], [3, 0]]
    both = [wrap(directed, ("x", "y")), wrap(undirected, ("y", "x"))]
    union = aggregate_graphs(both)
    assert union.ids == ("x", "y") and union.kind == "cpdag"
    assert union.pag.marks.tolist() == undirected  # half is no majority
    assert aggregate_graphs([*both, both[0]]).pag.marks.tolist() == directed
    with pytest.raises(StructureError, match="kinds"):
        aggregate_graphs([both[0], wrap(directed, ("x", "y"), "pag")])
    assert aggregate_graphs([both[0], PAG(np.array(undirected))]).kind == "cpdag"
    for bare in ([[0, 1], [1, 0]], [[0, 2], [1, 0]], [[0, 2], [2, 0]]):
        for graph in (PAG(np.array(bare)), wrap(bare, ("x", "y"), None)):
            with pytest.raises(StructureError, match="this graph has circles or <->"):
                aggregate_graphs([both[0], graph])
    value = json.loads(json.dumps(union.to_dict()))
    assert value["edges"] == 1 and value["edge_votes"][0]["votes"] == 2


@pytest.mark.parametrize(
    ("graphs", "options", "words"),
    [
        ([], {}, "no graph"),
        ([2, 3], {}, "pass nodes"),
        ([2], {"nodes": [["a"]]}, "graph 0 has 2 nodes"),
        ([2], {"nodes": [["a", "a"]]}, "graph 0"),
        ([2], {"nodes": [[0, 1], [0, 1]]}, "2 graphs"),
        ([2], {"weights": [1.0, 2.0]}, "weights"),
        ([2], {"weights": [-1.0]}, "not negative"),
        ([2], {"weights": [0.0]}, "not all zero"),
        ([2], {"weights": [float("nan")]}, "finite"),
        ([2], {"order": [0]}, "lacks \\[1\\]"),
    ],
)
def test_bad_input(graphs, options, words):
    with pytest.raises(StructureError, match=words):
        aggregate_graphs([PAG(np.zeros((n, n), dtype=np.uint8)) for n in graphs], **options)


def test_bad_share():
    union = aggregate_graphs([PAG(np.zeros((2, 2), dtype=np.uint8))])
    with pytest.raises(StructureError, match="min_share"):
        union.stable(1.5)
