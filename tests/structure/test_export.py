"""Graphs in other formats: confidence, CPDAGs, networkx, pcalg, Tetrad, files."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.structure import PAG, LearnedStructure, learn_structure
from causal_lvlm.structure.export import to_dict, to_dot, to_graphml, to_json, to_networkx
from causal_lvlm.structure.files import read_graph
from causal_lvlm.structure.named import NamedGraph, from_networkx, named_from_dict
from causal_lvlm.structure.texts import (
    from_pcalg,
    from_tetrad,
    tetrad_names,
    to_pcalg,
    to_tetrad,
)
from tests.examples import examples

# 0 --> 1, 1 o-> 2, 3 <-> 2, 0 o-o 3, 1 --- 3
MARKS: Any = np.array([[0, 2, 0, 1], [3, 0, 2, 3], [0, 1, 0, 2], [1, 3, 2, 0]])
# 0 --> 2 <-- 1, 2 --> 3, 0 --- 4
CPDAG: Any = np.array(
    [[0, 0, 2, 0, 3], [0, 0, 2, 0, 0], [3, 3, 0, 2, 0], [0, 0, 3, 0, 0], [3, 0, 0, 0, 0]]
)
ODD = ['say "x"', "a\\b", "new\nline", "tail\\", "#1 ", "", "a;b", "a b", "a_b", "ä\u2028\x85'"]


def random_marks(seed, n, density=0.5):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(1, 4, size=(n, n)) * (rng.random((n, n)) < density), 1)
    return (upper + np.where(upper > 0, rng.integers(1, 4, size=(n, n)), 0).T).astype(np.uint8)


def random_cpdag(seed, n):
    rng = np.random.default_rng(seed)
    kinds = np.triu(rng.integers(0, 4, size=(n, n)), 1)  # 0 none, 1 right, 2 left, 3 undirected
    at_j = np.array([0, 2, 3, 3])[kinds]
    at_i = np.array([0, 3, 2, 3])[kinds]
    return (at_j + at_i.T).astype(np.uint8)


# --- confidence and kind ------------------------------------------------------------------------


def confidence_of(marks, seed=0):
    values = np.random.default_rng(seed).random(np.shape(marks))
    values = (values + values.T) / 2
    values[0, 1] = values[1, 0] = np.nan
    return values


def test_confidence_everywhere():
    pag, values = PAG(MARKS), confidence_of(MARKS)
    graph = to_networkx(pag, confidence=values)
    assert "confidence" not in graph.edges[0, 1]
    assert graph.edges[1, 2]["confidence"] == values[1, 2] == graph.edges[1, 2]["confidence"]
    listed = to_dict(pag, confidence=values)["edges"]
    assert [e["confidence"] for e in listed if (e["source"], e["target"]) == (2, 3)] == [
        values[2, 3]
    ]
    assert listed[0]["confidence"] is None and "NaN" not in to_json(pag, confidence=values)
    read = nx.read_graphml(io.BytesIO(str(to_graphml(pag, confidence=values)).encode()))
    assert read.edges["0", "3"]["confidence"] == pytest.approx(values[0, 3], abs=1e-15)
    dot = to_dot(pag, confidence=values)
    share = values[1, 2]
    assert f'penwidth={0.5 + 2.5 * share:.2f}, label="{share:.2f}"' in dot
    assert dot.count("tooltip") == 4 and "0 -> 1 [arrowtail=none, arrowhead=normal];" in dot
    assert "confidence" not in str(to_dict(pag))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:3], r"shape \(3, 4\)"),
        (lambda c: np.where(c == c[2, 3], 1.5, c), "between 0 and 1"),
        (lambda c: np.triu(np.nan_to_num(c)), "symmetric"),
    ],
)
def test_wrong_confidence(change, words):
    with pytest.raises(StructureError, match=words):
        to_networkx(PAG(MARKS), confidence=change(confidence_of(MARKS)))


def test_kind():
    pag = PAG(CPDAG)
    assert to_networkx(pag, kind="cpdag").graph["kind"] == "cpdag"
    assert to_dict(pag, kind="cpdag")["kind"] == "cpdag"
    assert to_dot(pag, kind="cpdag").startswith("digraph cpdag {")
    text = str(to_graphml(pag, kind="cpdag"))
    assert from_networkx(nx.read_graphml(io.BytesIO(text.encode()))).kind == "cpdag"
    assert named_from_dict(to_dict(pag, "abcde", kind="cpdag")) == NamedGraph(
        pag, tuple("abcde"), "cpdag"
    )
    for write in (to_networkx, to_dot, to_graphml, to_dict, to_json, to_pcalg, to_tetrad):
        with pytest.raises(StructureError, match="only the edges --> and ---"):
            write(PAG(MARKS), kind="cpdag")
        with pytest.raises(StructureError, match="'dag'"):
            write(PAG(CPDAG), kind="dag")


# --- networkx -----------------------------------------------------------------------------------


@examples(40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8))
def test_networkx_round_trip(seed, n):
    pag = PAG(random_marks(seed, n))
    names = tuple(f"v{k}" for k in range(n))
    for graph in (
        to_networkx(pag, names),
        nx.read_graphml(io.BytesIO(str(to_graphml(pag, None, names)).encode())),
    ):
        assert from_networkx(graph) == NamedGraph(pag, names, "pag")


def test_plain_networkx_graphs():
    dag = nx.DiGraph([("rain", "wet"), ("sprinkler", "wet")])
    read = from_networkx(dag)
    assert read.names == ("rain", "wet", "sprinkler") and read.kind == "cpdag"
    np.testing.assert_array_equal(read.pag.marks, [[0, 2, 0], [3, 0, 3], [0, 2, 0]])
    dag.add_edge("wet", "rain")
    np.testing.assert_array_equal(from_networkx(dag).pag.marks[:2, :2], [[0, 3], [3, 0]])
    assert from_networkx(nx.path_graph(3)).pag.marks.tolist() == [[0, 3, 0], [3, 0, 3], [0, 3, 0]]


def test_networkx_that_is_no_graph_of_ours():
    with pytest.raises(StructureError, match="multigraph"):
        from_networkx(nx.MultiDiGraph([(0, 1), (0, 1)]))
    with pytest.raises(StructureError, match="itself"):
        from_networkx(nx.DiGraph([(0, 0)]))
    graph = to_networkx(PAG(MARKS))
    graph.edges[0, 1]["mark_target"] = "star"
    with pytest.raises(StructureError, match="'star'"):
        from_networkx(graph)
    graph = to_networkx(PAG(MARKS))
    graph.add_edge(1, 0, mark_source="circle", mark_target="circle")
    with pytest.raises(StructureError, match="different marks"):
        from_networkx(graph)


# --- pcalg --------------------------------------------------------------------------------------


def test_pcalg_pag_entry_by_entry():
    """The manual: amat[a,b] = 2 and amat[b,a] = 3 is a --> b, 2 and 2 is a <-> b, 1, 3 a --o b."""
    marks: Any = [[0, 2, 2, 1], [3, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0]]
    text = to_pcalg(PAG(marks), "abcd")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert rows[0] == ['"a"', '"b"', '"c"', '"d"']
    amat = {(r[0].strip('"'), c): int(v) for r in rows[1:] for c, v in zip("abcd", r[1:])}  # noqa: B905
    assert (amat["a", "b"], amat["b", "a"]) == (2, 3)  # a --> b
    assert (amat["a", "c"], amat["c", "a"]) == (2, 2)  # a <-> c
    assert (amat["a", "d"], amat["d", "a"]) == (1, 3)  # a --o d
    assert text.startswith("# pcalg amat.pag: ")


def test_pcalg_cpdag_entry_by_entry():
    """The manual: amat[a,b] = 0 and amat[b,a] = 1 is a --> b; both 1 is a --- b."""
    text = to_pcalg(PAG(CPDAG), "abcde", kind="cpdag")
    amat = np.loadtxt(io.StringIO(text), skiprows=3, usecols=range(1, 6))
    a, b, c, d, e = range(5)
    for start, end in ((a, c), (b, c), (c, d)):
        assert (amat[start, end], amat[end, start]) == (0, 1)
    assert (amat[a, e], amat[e, a]) == (1, 1) and amat.sum() == 5
    assert text.startswith("# pcalg amat.cpdag: ")


@examples(40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, len(ODD)))
def test_pcalg_round_trip(seed, n):
    names = tuple(ODD[:n])
    for kind, marks in (("pag", random_marks(seed, n)), ("cpdag", random_cpdag(seed, n))):
        graph = NamedGraph(PAG(marks), names, kind)
        text = to_pcalg(graph.pag, names, kind=kind)
        assert from_pcalg(text) == graph
        assert from_pcalg(text.replace("\n", "\r\n")) == graph


def test_pcalg_as_r_writes_it():
    """`write.table(amat)` has quoted names; with quote = FALSE it has plain ones; no comments."""
    text = '"X1" "X2"\n"X1" 0 2\n"X2" 1 0\n'
    for written in (text, text.replace('"', "")):
        read = from_pcalg(written, kind="pag")
        assert read.names == ("X1", "X2") and read.pag.marks.tolist() == [[0, 2], [1, 0]]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("a b\na 0 1\nb 1 0", None, "give kind='pag' or kind='cpdag'"),
        ("a b\na 0 1\nb 1 0", "mag", "'mag'"),
        ("", "pag", "N names"),
        ("a b\na 0 1", "pag", "N names"),
        ("a b\na 0 1\nb 1", "pag", "N names"),
        ("a b\nb 0 1\na 1 0", "pag", "same names"),
        ("a b\na 0 x\nb 1 0", "pag", "whole numbers"),
        ("a b\na 0 2\nb 1 0", "cpdag", "0 and 1 only"),
        ("a b\na 0 5\nb 1 0", "pag", "values"),
        ("a b\na 0 0\nb 1 0", "pag", "one end"),
        ("a a\na 0 1\na 1 0", "pag", "named 'a'"),
    ],
)
def test_pcalg_that_is_none(text, kind, words):
    with pytest.raises(StructureError, match=words):
        from_pcalg(text, kind)


# --- Tetrad -------------------------------------------------------------------------------------


def test_tetrad_every_edge():
    text = to_tetrad(PAG(MARKS), ["A", "B", "C", "D"])
    assert text == (
        "Graph Nodes:\nA;B;C;D\n\nGraph Edges:\n"
        "1. A --> B\n2. A o-o D\n3. B o-> C\n4. B --- D\n5. C <-> D\n"
    )
    assert from_tetrad(text) == NamedGraph(PAG(MARKS), tuple("ABCD"), None)


def test_tetrad_circle_and_tail():
    for marks in ([[0, 1], [3, 0]], [[0, 3], [1, 0]]):
        text = to_tetrad(PAG(np.array(marks)))  # type: ignore[arg-type]
        assert "--o" in text and from_tetrad(text).pag.marks.tolist() == marks


@examples(40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8))
def test_tetrad_round_trip(seed, n):
    pag = PAG(random_marks(seed, n))
    read = from_tetrad(to_tetrad(pag))
    assert read.pag == pag and read.names == tuple(str(k) for k in range(n))


def test_tetrad_written_by_others():
    """Older files separate names by commas; edges may carry properties and more sections follow."""
    text = """
Graph Nodes:
X1,X2,X3,L_4

Graph Edges:
1. X1 <-- X2
2. X2 --o X3 dd nl
3. X3 o-> L_4 [no edge]:0.1000;

Graph Attributes:
Score: -12.5

Graph Node Attributes:
Score: [X1: -3.0]
"""
    read = from_tetrad(text)
    assert read.names == ("X1", "X2", "X3", "L_4")
    want = np.zeros((4, 4), dtype=int)
    want[1, 0], want[0, 1] = 2, 3
    want[1, 2], want[2, 1] = 1, 3
    want[2, 3], want[3, 2] = 2, 1
    np.testing.assert_array_equal(read.pag.marks, want)


def test_names_for_tetrad():
    names = tetrad_names([*ODD, "a_b_2", "a_b"])
    assert len(set(names)) == len(names)
    assert not any(set(name) & set(" \n;,\u2028\x85") or not name for name in names)
    assert tetrad_names(["x", "y"]) == ["x", "y"]
    marks = random_marks(3, len(ODD))
    assert from_tetrad(to_tetrad(PAG(marks), ODD)).pag == PAG(marks)


@pytest.mark.parametrize("names", [["A", "B:"], ["USER:", "ASSISTANT:"], ["Graph Edges:", "1:"]])
def test_names_that_end_like_a_heading(names):
    graph = PAG(np.array([[0, 2], [1, 0]]))
    read = from_tetrad(to_tetrad(graph, names))
    assert read.pag == graph and list(read.names) == tetrad_names(names)


def test_sections_with_other_titles_end_the_edges():
    text = (
        "Graph Nodes:\nA;B:\n\nGraph Edges:\n1. A o-> B:\n\nAmbiguous triples (a list of):\nA B\n"
    )
    assert from_tetrad(text).names == ("A", "B:")


@pytest.mark.parametrize(
    "bad", ["\x00", "\x0b", "\x1f", "\r", "\ud800", "\udfff", "\ufffe", "\uffff"]
)
def test_graphml_is_xml_whatever_the_names(bad, tmp_path):
    graph, good = (
        PAG(np.array([[0, 2], [1, 0]])),
        "\t\n ~\x85\ud7ff\ue000\ufffd\U00010000\U0010ffff",
    )
    text = str(to_graphml(graph, None, [f"a{bad}b", good]))
    labels = [node.get("label") for _, node in nx.parse_graphml(text).nodes(data=True)]
    assert labels == ["a\ufffdb", good]
    path = to_graphml(graph, tmp_path / "g.graphml", [bad, "b"])
    assert len(nx.read_graphml(path)) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "Graph Nodes"),
        ("Graph Nodes:\na;b\nGraph Edges:\n1. a -> b", "not an edge"),
        ("Graph Nodes:\na;b\nGraph Edges:\n1. a --> c", "'c'"),
        ("Graph Nodes:\na;b\nGraph Edges:\n1. a --> b\n2. b --> a", "more than one edge"),
        ("Graph Nodes:\na;b\nGraph Edges:\n1. a --> a", "more than one edge"),
        ("Graph Nodes:\na;a", "named 'a'"),
    ],
)
def test_tetrad_that_is_none(text, words):
    with pytest.raises(StructureError, match=words):
        from_tetrad(text)


# --- files --------------------------------------------------------------------------------------


def test_every_file_reads_back(tmp_path):
    pag, names = PAG(MARKS), tuple("abcd")
    texts = {
        "g.json": to_json(pag, names),
        "g.graphml": str(to_graphml(pag, None, names)),
        "g.tetrad.txt": to_tetrad(pag, names),
        "g.pcalg.txt": to_pcalg(pag, names),
        "marks.json": json.dumps({"marks": MARKS.tolist(), "names": list(names), "kind": "pag"}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        read = read_graph(tmp_path / name)
        assert read.pag == pag and read.names == names, name
        assert read.kind == (None if "tetrad" in name else "pag")
    (tmp_path / "bare.json").write_text(json.dumps({"marks": MARKS.tolist()}))
    assert read_graph(tmp_path / "bare.json").names == tuple("0123")


def test_a_saved_structure_is_a_graph(tmp_path):
    learned = learn_structure(
        np.array([[1.0, 0, 0.6], [0, 1, 0.6], [0.6, 0.6, 1]]), n_samples=200, alpha=0.01
    )
    read = read_graph(learned.save(tmp_path / "structure.json"))
    assert isinstance(learned, LearnedStructure)
    assert read == NamedGraph(learned.pag, ("0", "1", "2"), "pag")


@pytest.mark.parametrize(
    ("name", "text", "error", "words"),
    [
        ("none.json", None, OutputError, "cannot read"),
        ("a.json", "{", StructureError, "no graph"),
        ("a.json", "[]", StructureError, "neither nodes"),
        ("a.json", '{"nodes": []}', StructureError, "no graph"),
        ("a.json", '{"marks": [[0, 1]]}', StructureError, "square"),
        ("a.json", '{"marks": [["x"]]}', StructureError, "no graph"),
        ("a.json", '{"kind": "learned_structure"}', OutputError, "saved structure"),
        ("a.graphml", "<a/>", StructureError, "no graph"),
        ("a.graphml", "no xml", StructureError, "no graph"),
        ("a.txt", "hello you", StructureError, "no graph"),
        ("a.txt", b"\xff\xfe\xff", OutputError, "cannot read"),
    ],
)
def test_files_that_hold_no_graph(tmp_path, name, text, error, words):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=words):
        read_graph(path)


def test_another_order_of_the_nodes():
    graph = NamedGraph(PAG(MARKS), tuple("abcd"))
    for order in itertools.permutations("abcd"):
        turned = graph.in_order_of(order)
        assert turned.names == order
        for i, j in itertools.permutations(range(4), 2):
            k, m = "abcd".index(order[i]), "abcd".index(order[j])
            assert turned.pag.marks[i, j] == MARKS[k, m]
    with pytest.raises(StructureError, match=r"lacks \['e'\]; \['d'\] are not asked for"):
        graph.in_order_of("abce")
