"""Graphs of causal-learn and pywhy-graphs. Skipped where those packages are not installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest

from causal_lvlm.errors import StructureError
from causal_lvlm.structure import PAG
from causal_lvlm.structure.convert import (
    from_causal_learn,
    from_pywhy,
    to_causal_learn,
    to_pywhy,
)
from causal_lvlm.structure.marks import edge_symbol, edges
from causal_lvlm.structure.named import NamedGraph
from causal_lvlm.structure.texts import to_pcalg, to_tetrad
from tests.structure.test_export import CPDAG, MARKS, random_cpdag, random_marks


def cases(n=7):
    for seed in range(12):
        yield "pag", PAG(random_marks(seed, n)), tuple(f"v{k}" for k in range(n))
        yield "cpdag", PAG(random_cpdag(seed, n)), tuple(f"v{k}" for k in range(n))


# --- causal-learn -------------------------------------------------------------------------------


def test_causal_learn_round_trip():
    pytest.importorskip("causallearn")
    for kind, pag, names in cases():
        graph = to_causal_learn(pag, names, kind=kind)
        assert from_causal_learn(graph) == NamedGraph(pag, names, kind)
        assert graph.get_num_edges() == pag.n_edges and graph.get_node_names() == list(names)


def test_causal_learn_reads_the_edges_as_we_do():
    """Each edge as causal-learn prints it, and what it says about directed paths."""
    pytest.importorskip("causallearn")
    pag = PAG(MARKS)
    graph = to_causal_learn(pag, "abcd")
    said = {str(edge) for edge in graph.get_graph_edges()}
    flip = {"<": ">", ">": "<", "o": "o", "-": "-"}
    for i, j in edges(pag):
        symbol = edge_symbol(pag, i, j)
        back = flip[symbol[2]] + "-" + flip[symbol[0]]
        ours = {f"{'abcd'[i]} {symbol} {'abcd'[j]}", f"{'abcd'[j]} {back} {'abcd'[i]}"}
        assert said & ours, (said, ours)
    a, b, c, _ = graph.get_nodes()
    assert graph.is_parent_of(a, b) and not graph.is_parent_of(b, a)
    assert graph.is_ancestor_of(a, b) and not graph.is_ancestor_of(b, c)


def test_causal_learn_reads_our_tetrad_text(tmp_path):
    """Its reader of Tetrad files is independent of ours."""
    reader = pytest.importorskip("causallearn.utils.TXT2GeneralGraph")
    for _, pag, names in cases():
        path = tmp_path / "graph.txt"
        path.write_text(to_tetrad(pag, names))
        assert from_causal_learn(reader.txt2generalgraph(str(path))).pag == pag


def test_causal_learn_results():
    fci = pytest.importorskip("causallearn.search.ConstraintBased.FCI").fci
    pc = pytest.importorskip("causallearn.search.ConstraintBased.PC").pc
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000))
    c = a + b + 0.5 * rng.normal(size=2000)
    d = c + 0.5 * rng.normal(size=2000)
    data = np.column_stack([a, b, c, d])
    result = pc(data, alpha=0.001, show_progress=False)
    want: Any = np.zeros((4, 4), dtype=int)
    for start, end in ((0, 2), (1, 2), (2, 3)):
        want[start, end], want[end, start] = 2, 3
    assert from_causal_learn(result).pag == PAG(want)
    graph, _ = fci(data, alpha=0.001, show_progress=False)
    want[2, 0] = want[2, 1] = 1
    assert from_causal_learn(graph).pag == PAG(want)


def test_causal_learn_that_is_none():
    pytest.importorskip("causallearn")
    with pytest.raises(StructureError, match="GeneralGraph"):
        from_causal_learn(np.eye(3))
    graph = to_causal_learn(PAG(MARKS))
    graph.graph[0, 1] = graph.graph[1, 0] = 4  # TAIL_AND_ARROW
    with pytest.raises(StructureError, match="more than one edge"):
        from_causal_learn(graph)
    with pytest.raises(StructureError, match="named 'a'"):
        to_causal_learn(PAG(MARKS), ["a", "a", "b", "c"])


# --- pywhy-graphs -------------------------------------------------------------------------------


def test_pywhy_round_trip():
    pytest.importorskip("pywhy_graphs")
    for kind, pag, names in cases():
        graph = to_pywhy(pag, names, kind=kind)
        assert from_pywhy(graph) == NamedGraph(pag, names, kind)
        assert list(graph.nodes) == list(names)
    assert list(to_pywhy(PAG(MARKS)).nodes) == [0, 1, 2, 3]


def test_pywhy_agrees_about_every_edge():
    """Its own reader of pcalg arrays makes the same graph as we do, edge type by edge type."""
    pywhy = pytest.importorskip("pywhy_graphs")
    pcalg_to_graph = pytest.importorskip("pywhy_graphs.export").pcalg_to_graph
    for kind, pag, names in cases():
        if kind == "cpdag":
            # Its CPDAG coding is transposed against pcalg's manual, which it quotes: an array
            # with 1 at (a, b) and 0 at (b, a) becomes a --> b there.
            text = to_pcalg(pag, names, kind=kind)
            lines = [line.split()[1:] for line in text.splitlines()[3:]]
            array = np.array(lines, dtype=int).T
        else:
            array = pag.marks.astype(int)
        theirs = pcalg_to_graph(array, list(names), kind)
        ours = to_pywhy(pag, names, kind=kind)
        assert isinstance(ours, pywhy.PAG if kind == "pag" else pywhy.CPDAG)
        for part, graph in theirs.get_graphs().items():
            mine = ours.get_graphs(part)
            assert set(map(tuple, graph.edges)) == set(map(tuple, mine.edges)) or (
                not graph.is_directed()
                and {frozenset(e) for e in graph.edges} == {frozenset(e) for e in mine.edges}
            ), part
        assert from_pywhy(theirs).pag == pag


def test_pywhy_relations():
    pytest.importorskip("pywhy_graphs")
    graph = to_pywhy(PAG(CPDAG), "abcde", kind="cpdag")
    assert set(graph.predecessors("c")) == {"a", "b"}
    assert {frozenset(e) for e in graph.undirected_edges} == {frozenset("ae")}


def test_pywhy_that_is_none():
    pytest.importorskip("pywhy_graphs")
    with pytest.raises(StructureError, match="pywhy-graphs is needed"):
        from_pywhy(np.eye(3))
    graph = to_pywhy(PAG(MARKS), "abcd")
    graph.get_graphs("directed").add_edge("b", "a")
    with pytest.raises(StructureError, match="both ways"):
        from_pywhy(graph)
    lagged = SimpleNamespace(get_graphs=lambda: {"lagged": nx.DiGraph()}, nodes=[])
    with pytest.raises(StructureError, match="'lagged'"):
        from_pywhy(lagged)


# --- without the packages -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "convert", "package"),
    [
        ("causallearn", to_causal_learn, "causal-learn"),
        ("pywhy_graphs", to_pywhy, "pywhy-graphs"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, convert, package):
    for name in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StructureError, match=f"pip install {package}"):
        convert(PAG(MARKS))


def test_readers_need_no_package():
    """They read what has the right attributes, so they can be tried without the packages."""
    nodes = [SimpleNamespace(get_name=lambda name=name: name) for name in "ab"]
    graph = SimpleNamespace(graph=np.array([[0, 2], [1, 0]]), get_nodes=lambda: nodes)
    # The mark at a is a circle, the one at b an arrowhead: a o-> b.
    assert from_causal_learn(graph) == NamedGraph(PAG([[0, 2], [1, 0]]), ("a", "b"), None)  # type: ignore[arg-type, list-item]
