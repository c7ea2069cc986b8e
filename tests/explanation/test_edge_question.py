"""Questions about sets of edges: brute force over all of them, on a model of few tokens."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.edge_search import EdgeCase, edge_search
from causal_lvlm.explanation.question import prove
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.examples import examples
from tests.explanation.edge_fakes import (
    EdgeTrace,
    by_size,
    inside_pairs,
    layout,
    node_edges,
    pairs_between,
    passes,
    smallest,
)
from tests.explanation.fakes import SAID

MODES = ("sufficient", "necessary")


def asked_of(seed, mode, *, pool=1, sep=True, rows=1, masking="cut-mask", runs=10**6):
    trace = EdgeTrace(seed=seed, layout=layout(rows=rows, sep=sep))
    target = resolve_target(trace.layout, 0)
    edges, units = trace.edges(target), candidate_units(trace.layout, target, pool=pool)
    nodes = edges.nodes(units)
    asker = Asker(trace, target, units, masking, rivals=(8,), at_once=1, budget=Budget(runs))
    items = edges.between_nodes(nodes)
    question = EdgeQuestion(
        asker, Tester("flip", (SAID,), 0.0), tuple(range(len(items))), mode,
        edges=edges, nodes=nodes, items=items,
    )  # fmt: skip
    return trace, nodes, question


def ends(question, subset):
    return [tuple(question.items[k].tolist()) for k in subset]


@pytest.mark.parametrize(("pool", "rows"), [(1, 1), (2, 2)])
def test_the_edges_are_all_between_different_nodes_and_all_pairs_of_their_positions(pool, rows):
    trace, nodes, question = asked_of(0, "necessary", pool=pool, rows=rows)
    assert sorted(map(tuple, question.items.tolist())) == sorted(node_edges(trace, nodes))
    for k, (source, reader) in enumerate(question.items.tolist()):
        found = sorted(map(tuple, question.cut_of([k]).pairs.tolist()))
        assert found == sorted(pairs_between(trace, nodes, source, reader))
    if pool == 2:
        assert len(nodes.members[0]) == 4 and len(inside_pairs(trace, nodes)) == 6


@pytest.mark.parametrize("masking", ["cut-mask", "cut-value"])
def test_edges_within_a_node_stay_whatever_is_kept(masking):
    trace, nodes, question = asked_of(1, "sufficient", pool=2, rows=2, masking=masking)
    everything = range(len(question.items))
    for subset in ([], [0], everything):
        one = question.cut_of(subset)
        kept = set(map(tuple, one.pairs.tolist()))
        assert one.rest and set(inside_pairs(trace, nodes)) <= kept
    assert not question.edges.n_cut([question.cut_of(everything)]).any()


@examples(25)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_edges_that_lead_nowhere_do_not_matter(seed, data):
    trace, nodes, question = asked_of(seed, "sufficient")
    subset = data.draw(st.sets(st.sampled_from(range(len(question.items)))))
    pruned = question.pruned(subset)
    assert pruned <= subset and question.pruned(pruned) == pruned
    whole, part = (passes(trace, nodes, "sufficient", ends(question, s)) for s in (subset, pruned))
    assert whole == part == question.ask([subset])[0]
    assert question.key_of(subset) == question.key_of(pruned)
    leads = {nodes.target, *(n for n, k in enumerate(nodes.kinds) if k == "special")}
    while more := {int(question.items[k][0]) for k in subset
                   if int(question.items[k][1]) in leads} - leads:  # fmt: skip
        leads |= more
    assert pruned == {k for k in subset if int(question.items[k][1]) in leads}


def test_where_values_are_cut_nothing_is_left_out():
    _, _, question = asked_of(0, "sufficient", masking="cut-value")
    subset = frozenset(range(0, len(question.items), 2))
    assert question.pruned(subset) == subset


@pytest.mark.parametrize("mode", MODES)
@examples(10)
@given(seed=st.integers(0, 10**6))
def test_every_set_is_answered_as_the_model_answers_from_scratch(mode, seed):
    trace, nodes, question = asked_of(seed, mode, sep=False)
    subsets = [frozenset(s) for s in by_size(range(len(question.items)))]
    expected = [passes(trace, nodes, mode, ends(question, s)) for s in subsets]
    assert question.ask(subsets) == expected
    assert [question.known(s) for s in subsets] == expected
    explaining = {s for s, said in zip(subsets, expected, strict=True) if said}
    assert set(question.found()) == {question.pruned(s) for s in explaining}
    nothing = (frozenset(), frozenset(question.scope))
    assert set(question.met()) == {question.pruned(s) for s in explaining} - set(nothing)
    assert question.n_asked() == len({question.key_of(s) for s in subsets})


@pytest.mark.parametrize("mode", MODES)
@examples(12)
@given(seed=st.integers(0, 10**6))
def test_minimum_is_said_where_brute_force_says_so(mode, seed):
    trace, nodes, question = asked_of(seed, mode, sep=False)
    if not passes(trace, nodes, "necessary", []) and trace.lead(trace.closed(question.cut_of(
        [] if mode == "necessary" else question.scope))) <= 0:  # fmt: skip
        return  # the uncut model says something else
    best = smallest(trace, nodes, mode)
    if not best:
        return
    whole = frozenset(question.scope)
    if not passes(trace, nodes, mode, ends(question, whole)):
        return
    found, said = prove(question, whole, False, always_singles=False)
    assert said == "minimum" and len(found) == best


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runs", [1, 2, 4, 8, 16, 32, 64, 128, 4000])
def test_searches_of_any_length_say_no_more_than_brute_force(mode, runs):
    verified = minimum = priors = 0
    for seed in range(40):
        trace, nodes, question = asked_of(seed, mode, sep=False, runs=runs)
        if passes(trace, nodes, "necessary", []):
            continue
        order = np.random.default_rng(seed).permutation(len(question.items)).tolist()
        case = EdgeCase(question, [order, order[::-1]])
        edge_search([case], question.asker.budget, 3, seed, lambda stage: None)
        assert len(trace.cuts_asked) == question.asker.budget.used <= runs
        state, best = case.state, smallest(trace, nodes, mode)
        whole = list(map(tuple, question.items.tolist()))
        if passes(trace, nodes, mode, [] if mode == "sufficient" else whole) == (
            mode == "sufficient"
        ):
            assert case.prior and state.best is None
            priors += 1
            continue
        assert not case.prior
        if state.best is None:
            assert state.ended is not None and runs < 4000
            continue
        verified += 1
        chosen = ends(question, state.best)
        assert chosen and passes(trace, nodes, mode, chosen)
        assert question.pruned(state.best) == state.best
        if state.minimality != "none":
            assert not any(passes(trace, nodes, mode, set(chosen) - {e}) for e in chosen)
        if state.minimality == "minimum":
            minimum += 1
            assert len(chosen) == best
        like = question.like(state.best, 3, seed)
        answers = [question.known(s) for s in like]
        known = [a for a in answers if a is not None]
        assert state.random == (sum(known) / len(known) if known else None, len(known))
        if runs == 4000:
            assert state.minimality == "minimum" and state.ended is None
    assert priors and (runs < 16 or verified) and (runs < 64 or minimum)


def test_controls_have_as_many_edges_into_each_reader():
    _, _, question = asked_of(3, "necessary", pool=2, rows=2)
    rng = np.random.default_rng(0)
    for size in range(1, 6):
        subset = frozenset(rng.choice(len(question.items), size, replace=False).tolist())
        into = sorted(question.items[sorted(subset), 1].tolist())
        drawn = question.like(subset, 20, 7)
        assert drawn == question.like(subset, 20, 7)
        assert len(set(drawn)) == len(drawn) and subset not in drawn
        assert all(sorted(question.items[sorted(d), 1].tolist()) == into for d in drawn)
        others = sum(
            sorted(question.items[list(d), 1].tolist()) == into
            for d in combinations(range(len(question.items)), size)
        )
        assert len(drawn) == min(20, others - 1)
