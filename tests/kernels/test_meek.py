"""V-structures and Meek's rules by themselves, against a twin, and against all equivalent DAGs.

In the texts, "A o-o B" is an undirected edge while the rules run and "A --- B" one of the result.
"""

from __future__ import annotations

import itertools
import os

import networkx as nx
import numpy as np
import pytest
from causal_kernels import meek
from causal_kernels.graph import neighbour_lists
from causal_kernels.orientation import CONFLICT
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.naive_rules import Meek, maximally_directed, read_graph, separator_arrays, write_graph

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
EXAMPLES = 600 if JIT else 200
NOTHING_KNOWN = np.zeros((0, 0), dtype=np.uint8)


def lines(text):
    return write_graph(*read_graph(text))


def by_number(names, sepsets):
    return {
        tuple(sorted(map(names.index, pair))): [names.index(name) for name in members]
        for pair, members in (sepsets or {}).items()
    }


def apply(rule, text, sepsets=None, simultaneous=True, frozen=()):
    """Apply one rule once (0: the v-structures); ``frozen`` names undirected edges."""
    marks, names = read_graph(text)
    lists = neighbour_lists(marks)
    claims = np.zeros(marks.shape, dtype=np.uint8)
    for a, b in frozen:
        i, j = names.index(a), names.index(b)
        claims[i, j] = claims[j, i] = CONFLICT
    if rule == 0:
        sep = separator_arrays(len(names), by_number(names, sepsets))
        meek.v_structures(marks, claims, *lists, *sep, simultaneous)
    else:
        function = (meek.meek_1, meek.meek_2, meek.meek_3, meek.meek_4)[rule - 1]
        function(marks, claims, *lists, simultaneous)
    meek.settle_directions(marks, claims, *lists)
    return write_graph(marks, names), int((claims == CONFLICT).sum())


MATCHES = [
    (0, {"AC": ""}, "A o-o B,B o-o C", "A --> B,B <-- C"),
    (0, {"AC": "D", "AD": "B", "CD": "B"}, "A o-o B,B o-o C,B o-o D", "A --> B,B <-- C,B o-o D"),
    (0, {"AC": ""}, "A o-o B,B <-- C", "A --> B,B <-- C"),
    (1, None, "A --> B,B o-o C", "A --> B,B --> C"),
    (2, None, "A --> B,B --> C,A o-o C", "A --> B,B --> C,A --> C"),
    (3, None, "A o-o B,A o-o C,A o-o D,C --> B,D --> B", "A --> B,A o-o C,A o-o D,C --> B,D --> B"),
    (4, None, "A o-o B,A o-o C,A o-o D,D --> C,C --> B", "A --> B,A o-o C,A o-o D,D --> C,C --> B"),
]  # fmt: skip

MISSES = [
    (0, "B separates", {"AC": "B"}, "A o-o B,B o-o C"),
    (0, "A and C adjacent", None, "A o-o B,B o-o C,A o-o C"),
    (0, "A and C forbidden", {"AC": ""}, "A o-o B,B o-o C,A xxx C"),
    (0, "A-B forbidden", {"AC": "", "BC": ""}, "A xxx B,B o-o C"),
    (1, "A-B undirected", None, "A o-o B,B o-o C"),
    (1, "A-B the other way", None, "A <-- B,B o-o C"),
    (1, "A and C adjacent", None, "A --> B,B o-o C,A o-o C"),
    (1, "A and C forbidden", None, "A --> B,B o-o C,A xxx C"),
    (1, "B-C has a direction", None, "A --> B,B <-- C"),
    (2, "A-B undirected", None, "A o-o B,B --> C,A o-o C"),
    (2, "A-B the other way", None, "A <-- B,B --> C,A o-o C"),
    (2, "B-C undirected", None, "A --> B,B o-o C,A o-o C"),
    (2, "B-C the other way", None, "A --> B,B <-- C,A o-o C"),
    (2, "A-C has a direction", None, "A --> B,B --> C,A <-- C"),
    (2, "A-B forbidden", None, "A xxx B,B --> C,A o-o C"),
    (3, "A-B has a direction", None, "A <-- B,A o-o C,A o-o D,C --> B,D --> B"),
    (3, "A-C has a direction", None, "A o-o B,A <-- C,A o-o D,C --> B,D --> B"),
    (3, "A-D has a direction", None, "A o-o B,A o-o C,A <-- D,C --> B,D --> B"),
    (3, "A-C missing", None, "A o-o B,A o-o D,C --> B,D --> B"),
    (3, "C-B undirected", None, "A o-o B,A o-o C,A o-o D,C o-o B,D --> B"),
    (3, "D-B the other way", None, "A o-o B,A o-o C,A o-o D,C --> B,D <-- B"),
    (3, "C and D adjacent", None, "A o-o B,A o-o C,A o-o D,C --> B,D --> B,C o-o D"),
    (3, "C and D forbidden", None, "A o-o B,A o-o C,A o-o D,C --> B,D --> B,C xxx D"),
    (4, "A-B has a direction", None, "A <-- B,A o-o C,A o-o D,D --> C,C --> B"),
    (4, "A-C has a direction", None, "A o-o B,A <-- C,A o-o D,D --> C,C --> B"),
    (4, "A-C forbidden", None, "A o-o B,A xxx C,A o-o D,D --> C,C --> B"),
    (4, "A-D has a direction", None, "A o-o B,A o-o C,A <-- D,D --> C,C --> B"),
    (4, "A-D missing", None, "A o-o B,A o-o C,D --> C,C --> B"),
    (4, "D-C undirected", None, "A o-o B,A o-o C,A o-o D,D o-o C,C --> B"),
    (4, "C-B the other way", None, "A o-o B,A o-o C,A o-o D,D --> C,C <-- B"),
    (4, "B and D adjacent", None, "A o-o B,A o-o C,A o-o D,D --> C,C --> B,B o-o D"),
    (4, "B and D forbidden", None, "A o-o B,A o-o C,A o-o D,D --> C,C --> B,B xxx D"),
]


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
@pytest.mark.parametrize(("rule", "sepsets", "before", "after"), MATCHES)
def test_match(rule, sepsets, before, after, simultaneous):
    assert apply(rule, before, sepsets, simultaneous) == (lines(after), 0)


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
@pytest.mark.parametrize(
    ("rule", "premise", "sepsets", "graph"), MISSES, ids=[f"M{m[0]} {m[1]}" for m in MISSES]
)
def test_near_miss(rule, premise, sepsets, graph, simultaneous):
    assert apply(rule, graph, sepsets, simultaneous) == (lines(graph), 0)


def test_every_rule_has_both():
    assert {match[0] for match in MATCHES} == {miss[0] for miss in MISSES} == set(range(5))


@pytest.mark.parametrize(("rule", "sepsets", "before", "after"), MATCHES)
@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
def test_conflicting_edges_stay(rule, sepsets, before, after, simultaneous):
    """A match whose edge already has contradicting claims writes nothing to it."""
    written = sorted(lines(before) - lines(after))
    frozen = [line.split()[::2] for line in written]
    found, conflicts = apply(rule, before, sepsets, simultaneous, frozen)
    assert found == lines(before) and conflicts == 2 * len(frozen)


def orient(skeleton, sepsets, simultaneous, known=(), tiers=None):
    marks, names = read_graph(skeleton)
    n = len(names)
    array = np.zeros((n, n), dtype=np.uint8)
    for a, b in known:
        array[names.index(a), names.index(b)] = 2
    tiers = np.zeros(n, dtype=np.int64) if tiers is None else np.array(tiers, dtype=np.int64)
    sep = separator_arrays(n, by_number(names, sepsets))
    claims = meek.orient_cpdag(marks, tiers, array, *sep, simultaneous)
    return write_graph(marks, names), int((claims == CONFLICT).sum())


def test_contradicting_v_structures():
    """Two v-structures want B - C in both directions: A -> B <- C and B -> C <- D."""
    chain = "A o-o B,B o-o C,C o-o D"
    sepsets = {"AC": "", "BD": "", "AD": ""}
    assert orient(chain, sepsets, True) == (lines("A --> B,B --- C,C <-- D"), 2)
    assert orient(chain, sepsets, False) == (lines("A --> B,B <-- C,C <-- D"), 0)


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
def test_knowledge_stays(simultaneous):
    """Known arrowheads and tiers direct their edges, and no v-structure turns them round."""
    path = "A o-o B,B o-o C"
    assert orient(path, {"AC": ""}, simultaneous)[0] == lines("A --> B,B <-- C")
    assert orient(path, {"AC": ""}, simultaneous, ["BC"])[0] == lines("A --> B,B --> C")
    assert orient(path, {"AC": ""}, simultaneous, [], [0, 1, 2])[0] == lines("A --> B,B --> C")
    assert orient(path, {"AC": "B"}, simultaneous)[0] == lines("A --- B,B --- C")
    # one arrow is enough for rule 1
    assert orient(path, {"AC": "B"}, simultaneous, ["AB"])[0] == lines("A --> B,B --> C")
    # an edge that must not point either way
    both = orient(path, {"AC": "B"}, simultaneous, ["AB", "BA"])
    assert both == (lines("A --- B,B --- C"), 2)
    assert orient(path, {"AC": "B"}, simultaneous, ["BA"], [0, 1, 1])[1] == 2


@examples(EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9), simultaneous=st.booleans())
def test_twin(seed, n, simultaneous):
    """Random skeletons, separating sets, tiers, known marks and forbidden pairs."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < rng.choice([0.3, 0.5, 0.8]), 1)
    barred = np.triu(rng.random((n, n)) < rng.choice([0, 0.15]), 1) & ~upper
    marks = upper.astype(np.uint8) + 4 * barred.astype(np.uint8)
    marks += marks.T
    tiers = rng.integers(0, rng.choice([1, 2, 4]), size=n)
    share = rng.choice([0, 0.1, 0.3])
    known = rng.choice([0, 2, 3], p=[1 - share, share / 2, share / 2], size=(n, n)).astype(np.uint8)
    if rng.random() < 0.2:
        known = NOTHING_KNOWN
    into = np.greater.outer(tiers, tiers).T | (known == 2 if known.size else False)
    edges, arcs, frozen = set(), set(), set()
    for i, j in np.argwhere(upper).tolist():
        if into[i, j] and into[j, i]:
            frozen.add(frozenset((i, j)))
        if into[i, j] == into[j, i]:
            edges.add(frozenset((i, j)))
        else:
            arcs.add((i, j) if into[i, j] else (j, i))
    share = rng.choice([0.2, 0.5, 0.9])
    sepset = {
        (i, j): tuple(k for k in range(n) if k not in (i, j) and rng.random() < share)
        for i, j in itertools.combinations(range(n), 2)
    }
    forbidden = {frozenset(pair) for pair in np.argwhere(barred).tolist()}
    twin = Meek(edges, arcs, forbidden, n, sepset, simultaneous)
    twin.frozen |= frozen
    twin.orient()
    claims = meek.orient_cpdag(marks, tiers, known, *separator_arrays(n, sepset), simultaneous)
    np.testing.assert_array_equal(marks, twin.to_array())
    assert {frozenset(pair) for pair in np.argwhere(claims == CONFLICT).tolist()} == twin.frozen
    assert set(np.unique(claims)) <= {0, CONFLICT}


def random_dag(rng, n, degree):
    dag = nx.DiGraph()
    dag.add_nodes_from(range(n))
    number = rng.permutation(n)
    for a, b in itertools.combinations(range(n), 2):
        if rng.random() < degree / max(1, n - 1):
            dag.add_edge(int(number[a]), int(number[b]))
    return dag


@examples(EXAMPLES // 2)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 6))
def test_all_equivalent_dags(seed, n):
    """With true separating sets and true knowledge: what all DAGs of the class have in common."""
    rng = np.random.default_rng(seed)
    dag = random_dag(rng, n, rng.choice([2, 3, 4]))
    if dag.number_of_edges() > 11:
        dag.remove_edges_from(list(dag.edges)[11:])
    marks = np.zeros((n, n), dtype=np.uint8)
    for i, j in dag.edges:
        marks[i, j] = marks[j, i] = 1
    sepset = {}
    for i, j in itertools.combinations(range(n), 2):
        if not marks[i, j]:
            # parents of the one that is no ancestor separate
            late, early = (i, j) if nx.has_path(dag, j, i) else (j, i)
            sepset[i, j] = sorted(dag.predecessors(late))
            assert nx.is_d_separator(dag, {early}, {late}, set(sepset[i, j]))
    known = np.zeros((n, n), dtype=np.uint8)
    arcs = [arc for arc in dag.edges if rng.random() < rng.choice([0, 0.2, 0.5])]
    for i, j in arcs:
        known[i, j] = 2
    truth = maximally_directed(dag, arcs)
    for simultaneous in (True, False):
        found = marks.copy()
        tiers = np.zeros(n, dtype=np.int64)
        sep = separator_arrays(n, sepset)
        claims = meek.orient_cpdag(found, tiers, known, *sep, simultaneous)
        np.testing.assert_array_equal(found, truth)
        assert not claims.any()
    # every edge is known if every node has its own tier
    order = np.empty(n, dtype=np.int64)
    order[list(nx.topological_sort(dag))] = np.arange(n)
    found = marks.copy()
    meek.orient_cpdag(found, order, NOTHING_KNOWN, *separator_arrays(n, sepset), True)
    np.testing.assert_array_equal(found, maximally_directed(dag, dag.edges))
