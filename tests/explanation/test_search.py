"""The parts of the search: shrinking, candidate order, controls."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget
from causal_lvlm.explanation.candidates import merged_candidates, unit_tree
from causal_lvlm.explanation.question import Question
from causal_lvlm.explanation.search import grow, shrink
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.examples import examples
from tests.explanation.fakes import SAID, FakeTrace, layout


def question(keeps, shape, max_runs=10_000, mode="necessary") -> Question:
    trace = FakeTrace(keeps, layout=shape)
    target = resolve_target(shape, 0)
    units = candidate_units(shape, target)
    tester = Tester("flip", (SAID,), float(np.log(0.9)))
    asker = Asker(trace, target, units, at_once=16, budget=Budget(max_runs))
    return Question(asker, tester, tuple(range(len(units))), mode)


clause = st.frozensets(st.integers(0, 11), min_size=1, max_size=4)
monotone = st.lists(clause, min_size=1, max_size=5)


@examples(80)
@given(clauses=monotone, order=st.permutations(range(12)))
def test_shrinking_any_explaining_set_gives_an_irreducible_one(clauses, order):
    # The model stays with its answer while every clause has a visible member.
    shape = layout(3, 3, 3)
    asked = question(lambda v: all(any(u + 1 in v for u in c) for c in clauses), shape)
    best, irreducible = shrink(asked, frozenset(range(12)), order)
    flips = [any(c <= best - d for c in clauses) for d in [frozenset(), *({u} for u in best)]]
    assert irreducible and flips[0] and not any(flips[1:])


@examples(50)
@given(clauses=monotone, order=st.permutations(range(12)))
def test_grow_returns_the_first_prefix_that_passes(clauses, order):
    shape = layout(3, 3, 3)
    asked = question(lambda v: all(any(u + 1 in v for u in c) for c in clauses), shape)
    found = grow(asked, order)
    passing = [k for k in range(1, 13) if any(c <= set(order[:k]) for c in clauses)]
    assert found == frozenset(order[: passing[0]])


def test_shrinking_stops_at_the_budget_and_keeps_a_set_that_passes():
    shape = layout(3, 3, 3)
    asked = question(lambda v: 3 in v or 7 in v or 9 in v, shape, max_runs=5)
    best, irreducible = shrink(asked, frozenset(range(12)), list(range(12)))
    assert not irreducible and {2, 6, 8} <= best


@st.composite
def trees(draw):
    """Random trees over nodes 1..7 in breadth-first order; a node may occur several times."""
    node, parent, depth = [0], [-1], [0]
    for _ in range(draw(st.integers(0, 9))):
        above = draw(st.integers(0, len(node) - 1))
        node.append(draw(st.integers(1, 7)))
        parent.append(above)
        depth.append(depth[above] + 1)
    return SimpleNamespace(node=np.array(node), parent=np.array(parent), depth=np.array(depth))


@examples(150)
@given(tree=trees(), scope=st.frozensets(st.integers(1, 7)))
def test_legal_sets_are_those_whose_members_reach_the_target_within_the_set(tree, scope):
    units = unit_tree(0, tree, [None, *range(1, 8)], scope)

    def paths():
        for entry in range(1, len(tree.node)):
            chain, e = [], entry
            while e > 0:
                chain.append(int(tree.node[e]))
                e = int(tree.parent[e])
            yield chain[0], {n for n in chain if n in scope}

    reach = list(paths())
    for size in (1, 2, 3):
        legal = [
            frozenset(c)
            for c in combinations(sorted(scope), size)
            if all(any(end == u and through <= set(c) for end, through in reach) for u in c)
        ]
        assert set(units.legal_sets(size, 1000)) == set(legal)
        assert all(units.is_legal(c) for c in legal)


def test_candidates_of_several_heads_come_nearest_first_without_duplicates():
    near = SimpleNamespace(node=[0, 1, 2], parent=[-1, 0, 1], depth=[0, 1, 2])
    other = SimpleNamespace(node=[0, 3, 2], parent=[-1, 0, 0], depth=[0, 1, 1])
    both = [unit_tree(h, t, [None, 1, 2, 3], {1, 2, 3}) for h, t in enumerate((near, other))]
    assert [sorted(s) for s in merged_candidates(both, 1)] == [[1], [2], [3]]
    assert [sorted(s) for s in merged_candidates(both, 2)] == [[2, 3], [1, 2]]


def test_random_sets_match_the_composition_and_are_all_different():
    asked = question(lambda v: True, layout(3, 3, 3))
    subset = frozenset({0, 1, 9})  # two patches and a word
    sets = asked.like(subset, 30, seed=1)
    assert len(sets) == len(set(sets)) == 30 and subset not in sets
    assert all(sum(u < 9 for u in s) == 2 and len(s) == 3 for s in sets)
    assert sets == asked.like(subset, 30, seed=1)
    assert len(asked.like(frozenset({9}), 30, seed=1)) == 2
