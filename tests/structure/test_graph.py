"""PAG, PDS-tree, validity and export."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import StructureError
from causal_lvlm.structure import PAG, PDSTree, check_validity, named, pds_tree
from causal_lvlm.structure import pag as functions
from causal_lvlm.structure.marks import edge_symbol, edges
from tests.examples import examples

# 0 --> 1, 1 o-> 2, 3 <-> 2, 0 o-o 3
MARKS: Any = np.array([[0, 2, 0, 1], [3, 0, 2, 0], [0, 1, 0, 2], [1, 0, 2, 0]])


def pag_of(marks: Any) -> PAG:
    return PAG(marks)


def random_marks(seed, n, density=0.5):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(1, 4, size=(n, n)) * (rng.random((n, n)) < density), 1)
    return (upper + np.where(upper > 0, rng.integers(1, 4, size=(n, n)), 0).T).astype(np.uint8)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (np.zeros((2, 3)), "square"),
        (np.zeros(4), "square"),
        ([[0, 4], [1, 0]], "values"),
        ([[0, 1.5], [1, 0]], "values"),
        ([[0, -1], [1, 0]], "values"),
        ([[0, 1], [0, 0]], "one end"),
        ([[1, 1], [1, 0]], "itself"),
    ],
)
def test_bad_marks(marks, words):
    with pytest.raises(StructureError, match=words):
        PAG(marks)


def test_pag():
    pag = PAG(MARKS)
    assert (pag.n_nodes, pag.n_edges, repr(pag)) == (4, 4, "PAG(4 nodes, 4 edges)")
    assert pag == PAG(MARKS.astype(float)) and hash(pag) == hash(PAG(MARKS)) and pag != PAG(MARKS.T)
    assert edges(pag) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    symbols = [edge_symbol(pag, i, j) for i, j in edges(pag)]
    assert symbols == ["-->", "o-o", "o->", "<->"]
    assert edge_symbol(pag, 1, 0) == "<--" and edge_symbol(pag, 0, 2) == ""
    assert functions.parents(pag, 1) == [0] and functions.children(pag, 0) == [1]
    assert functions.spouses(pag, 3) == [2] and functions.adjacent_nodes(pag, 2) == [1, 3]
    assert functions.parents(pag, 2) == []
    chain = pag_of([[0, 2, 0], [3, 0, 2], [0, 3, 0]])
    assert functions.ancestors(chain, 2) == [0, 1] and functions.ancestors(chain, 0) == []
    with pytest.raises(ValueError, match="read-only"):
        pag.marks[0, 0] = 1


def test_tree_by_hand():
    """0 o-> 1 <-o 2 o-o 3: node 3 is not reached, since 2 is neither collider nor in a triangle."""
    pag = pag_of([[0, 2, 0, 0], [1, 0, 1, 0], [0, 2, 0, 1], [0, 0, 1, 0]])
    tree = pds_tree(pag, 0)
    assert tree.node.tolist() == [0, 1, 2] and tree.parent.tolist() == [-1, 0, 1]
    assert tree.depth.tolist() == [0, 1, 2] and tree.path(2) == [0, 1, 2]
    assert tree.root == 0 and tree.max_depth == 2 and len(tree) == 3
    assert tree.within(0) == [] and tree.within(1) == [1] and tree.within(9) == [1, 2]
    assert (tree.distance(0), tree.distance(2), tree.distance(3)) == (0, 2, None)
    assert pds_tree(pag, 0, 0).node.tolist() == [0]
    assert pds_tree(pag, 0, allowed=[1, 0, 1, 1]).node.tolist() == [0]
    assert PDSTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


def test_a_node_occurs_once_per_way():
    """In a complete graph each pair (previous, node) is an entry."""
    pag = pag_of(np.ones((4, 4)) - np.eye(4))
    tree = pds_tree(pag, 0)
    entries = {
        (int(tree.node[p]), int(v)) for p, v in zip(tree.parent[1:], tree.node[1:], strict=True)
    }
    assert len(entries) == len(tree) - 1 == 3 + 3 * 2
    assert tree.within(1) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"root": 4}, "root 4"),
        ({"root": -1}, "root -1"),
        ({"root": 0, "max_depth": -1}, "max_depth"),
        ({"root": 0, "allowed": [True]}, "allowed"),
    ],
)
def test_bad_tree_arguments(arguments, words):
    with pytest.raises(StructureError, match=words):
        pds_tree(PAG(MARKS), **arguments)


def test_tree_refuses_a_cpdag_and_bad_arrays():
    cpdag: Any = SimpleNamespace(kind="cpdag", pag=PAG(MARKS))
    with pytest.raises(StructureError, match="cpdag"):
        pds_tree(cpdag, 0)
    cases: list[Any] = [
        ([0, 1], [-1], [0, 1]),
        ([0], [0], [0]),
        ([0, 1], [-1, 1], [0, 1]),
        ([0, 1], [-1, 0], [0, 2]),
        ([], [], []),
    ]
    for node, parent, depth in cases:
        with pytest.raises(StructureError):
            PDSTree(node, parent, depth)


# --- validity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (MARKS, []),
        ([[0, 2, 3], [3, 0, 2], [2, 3, 0]], ["cycle: 0, 1, 2"]),
        # 0 -> 1 -> 2 and 0 <-> 2
        ([[0, 2, 2], [3, 0, 2], [2, 3, 0]], ["almost_cycle: 0, 2"]),
        # 0 <-> 1 <-> 2 <-> 3 with 1 -> 3 and 2 -> 0: the smallest graph that is not maximal
        (
            [[0, 2, 3, 0], [2, 0, 2, 2], [2, 2, 0, 2], [0, 3, 2, 0]],
            ["not_maximal: 0, 3"],
        ),
        # the same with circles instead of one tail accuses no one
        ([[0, 2, 1, 0], [2, 0, 2, 2], [2, 2, 0, 2], [0, 3, 2, 0]], []),
    ],
)
def test_violations(marks, expected):
    assert [str(violation) for violation in check_validity(PAG(marks))] == expected


@examples(150)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 6))
def test_maximality_by_paths(seed, n):
    """Against all simple paths of graphs with many arrowheads and tails."""
    rng = np.random.default_rng(seed)
    marks = random_marks(seed, n, 0.6)
    marks[(marks == 1) & (rng.random((n, n)) < 0.8)] = 2
    marks[(marks == 3) & (marks.T == 3)] = 2
    pag = PAG(marks)
    directed = nx.DiGraph([(i, j) for i in range(n) for j in functions.children(pag, i)])
    directed.add_nodes_from(range(n))
    above = {v: nx.ancestors(directed, v) for v in range(n)}
    skeleton = nx.Graph(edges(pag))
    skeleton.add_nodes_from(range(n))
    expected = []
    for i in range(n):
        for j in range(i + 1, n):
            if marks[i, j] == 0 and any(
                all(
                    marks[path[k - 1], path[k]] == marks[path[k + 1], path[k]] == 2
                    and path[k] in above[i] | above[j]
                    for k in range(1, len(path) - 1)
                )
                for path in nx.all_simple_paths(skeleton, i, j)
            ):
                expected.append((i, j))
    found = [v.nodes for v in check_validity(pag) if v.kind == "not_maximal"]
    assert found == expected
    cycles = {frozenset(c) for c in nx.strongly_connected_components(directed) if len(c) > 1}
    assert cycles == {frozenset(v.nodes) for v in check_validity(pag) if v.kind == "cycle"}


# --- export -------------------------------------------------------------------------------------


def test_networkx():
    graph = PAG(MARKS).to_networkx(labels=["a", "b", "c", "d"])
    assert graph.nodes[3]["label"] == "d"
    assert {(u, v): data["kind"] for u, v, data in graph.edges(data=True)} == {
        (0, 1): "-->",
        (1, 2): "o->",
        (2, 3): "<->",
        (0, 3): "o-o",
    }
    turned = PAG(MARKS[::-1, ::-1]).to_networkx()  # arcs still run into the arrowhead
    assert turned.edges[3, 2]["kind"] == "-->"
    assert turned.edges[2, 1] == {"mark_source": "circle", "mark_target": "arrow", "kind": "o->"}
    with pytest.raises(StructureError, match="2 labels"):
        PAG(MARKS).to_networkx(labels=["a", "b"])


def marks_of(graph, n):
    codes = {"circle": 1, "arrow": 2, "tail": 3}
    marks = np.zeros((n, n), dtype=np.uint8)
    for u, v, data in graph.edges(data=True):
        marks[int(u), int(v)] = codes[data["mark_target"]]
        marks[int(v), int(u)] = codes[data["mark_source"]]
    return marks


@examples(40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8))
def test_round_trips(seed, n):
    pag = PAG(random_marks(seed, n))
    np.testing.assert_array_equal(marks_of(pag.to_networkx(), n), pag.marks)
    graph = nx.read_graphml(io.BytesIO(str(pag.to_graphml()).encode()))
    np.testing.assert_array_equal(marks_of(graph, n), pag.marks)
    assert named.from_dict(json.loads(pag.to_json())) == pag


def test_labels_of_any_text(tmp_path):
    labels = ['say "x"', "a\\b", "new\nline", "\x00<&>"]
    dot = PAG(MARKS).to_dot(labels)
    assert '0 [label="say \\"x\\""];' in dot and '1 [label="a\\\\b"];' in dot
    assert "0 -> 1 [arrowtail=none, arrowhead=normal];" in dot
    assert "0 -> 3 [arrowtail=odot, arrowhead=odot];" in dot
    path = PAG(MARKS).to_graphml(tmp_path / "pag.graphml", labels)
    assert nx.read_graphml(path).nodes["0"]["label"] == 'say "x"'
    assert nx.read_graphml(path).nodes["3"]["label"] == "�<&>"
    with pytest.raises(StructureError, match="not a PAG"):
        named.from_dict({"nodes": []})


def test_dot_is_read_by_graphviz():
    pygraphviz = pytest.importorskip("pygraphviz")
    labels = ['say "x"', "a\\b", "new\nline", "ä<b>"]
    graph = pygraphviz.AGraph(string=PAG(MARKS).to_dot(labels))
    assert len(graph.edges()) == 4 and graph.get_edge("1", "2").attr["arrowtail"] == "odot"
