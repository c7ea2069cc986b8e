"""The guided search: growing, exchanging, and what it may claim and spend."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget
from causal_lvlm.explanation import PUBLISHED, exhaustive_explanation, explain
from causal_lvlm.explanation.question import Question, prove
from causal_lvlm.explanation.search import best_start, exchange, grow_fast, shrink
from causal_lvlm.explanation.testers import Tester
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import TokenLayout, candidate_units, resolve_target
from tests.examples import examples
from tests.explanation.fakes import SAID, FakeTrace, layout

N = 12


def question(keeps, max_runs=10_000, mode="necessary", shape=None) -> Question:
    shape = shape or layout(3, 3, 3)
    target = resolve_target(shape, 0)
    units = candidate_units(shape, target)
    tester = Tester("flip", (SAID,), float(np.log(0.9)))
    trace = FakeTrace(keeps, layout=shape)
    asker = Asker(trace, target, units, at_once=1, budget=Budget(max_runs))
    return Question(asker, tester, tuple(range(len(units))), mode)


def flips(clauses, masked) -> bool:
    return any(c <= masked for c in clauses)


def asking(clauses, **options) -> Question:
    """A model that changes its answer when all units of some clause are masked."""
    return question(lambda v: all(any(u + 1 in v for u in c) for c in clauses), **options)


clause = st.frozensets(st.integers(0, N - 1), min_size=1, max_size=4)
monotone = st.lists(clause, min_size=1, max_size=5)
table = st.lists(st.booleans(), min_size=256, max_size=256)


@examples(60)
@given(clauses=monotone, order=st.permutations(range(N)))
def test_growing_fast_ends_where_growing_one_by_one_would_on_monotone_models(clauses, order):
    asked = asking(clauses)
    found = grow_fast(asked, order)
    shortest = next(k for k in range(1, N + 1) if flips(clauses, set(order[:k])))
    assert found == frozenset(order[:shortest])
    assert asked.asker.budget.used <= 11  # lengths 1 to 8, 10, 12; then 9 or 11


@examples(60)
@given(answers=table, order=st.permutations(range(8)), longest=st.integers(1, 8))
def test_growing_fast_returns_a_passing_prefix_whose_shorter_neighbour_failed(
    answers, order, longest
):
    shape = layout(2, 3, 2)
    asked = question(
        lambda v: answers[sum(1 << u for u in range(8) if u + 1 not in v)], shape=shape
    )
    found = grow_fast(asked, order, longest)
    if found is None:
        return
    k = len(found)
    assert k <= longest and found == frozenset(order[:k]) and asked.known(found) is True
    assert k == 1 or asked.known(order[: k - 1]) is False


@examples(60)
@given(clauses=monotone, order=st.permutations(range(N)))
def test_exchanging_never_ends_larger_and_ends_irreducible(clauses, order):
    asked = asking(clauses)
    start, _ = shrink(asked, frozenset(range(N)), order)
    best, irreducible = exchange(asked, start, order)
    assert irreducible and len(best) <= len(start) and flips(clauses, best)
    assert not any(flips(clauses, best - {u}) for u in best)


def test_exchanging_leaves_a_set_that_shrinking_alone_cannot_leave():
    # {0, 1, 2} is irreducible; {0, 3} is smaller and shares one member with it.
    clauses = [frozenset({0, 1, 2}), frozenset({0, 3})]
    asked = asking(clauses)
    stuck, _ = shrink(asked, frozenset({0, 1, 2}), range(N))
    assert stuck == {0, 1, 2}
    assert exchange(asked, stuck, range(N))[0] == {0, 3}


def test_a_second_order_finds_what_the_first_leads_past():
    clauses = [frozenset({0, 1, 2, 3}), frozenset({10})]
    first, second = list(range(N)), list(range(N))[::-1]
    assert best_start(asking(clauses), [first])[0] == frozenset({0, 1, 2, 3})
    assert best_start(asking(clauses), [first, second])[0] == frozenset({10})


def test_a_known_set_bounds_how_far_an_order_is_followed():
    asked = asking([frozenset({11}), frozenset({4, 5})])
    best, grown = best_start(asked, [[0, 1, 2, 3, 6, 7, 8, 9, 11]], frozenset({4, 5}))
    assert best == frozenset({4, 5}) and grown is None
    assert all(len(m) <= 4 for m in asked.asker.memory)


def test_the_distance_of_a_set_falls_towards_an_explanation_in_both_modes():
    clauses = [frozenset({0, 1})]
    assert asking(clauses).distance({0, 1}) < asking(clauses).distance({0})
    sufficient = asking(clauses, mode="sufficient")
    assert sufficient.distance({0}) < sufficient.distance({5})


@pytest.mark.parametrize("always_singles", [True, False])
def test_a_proof_that_cannot_be_finished_is_not_begun(always_singles):
    asked = asking([frozenset({0, 1})], max_runs=N - 1)
    assert prove(asked, frozenset({0, 1}), True, always_singles=always_singles)[1] == "irreducible"
    assert (asked.asker.budget.used > 0) == always_singles


def test_what_was_asked_before_counts_towards_a_proof():
    asked = asking([frozenset({0, 1})], max_runs=N)
    asked.ask([{u} for u in range(N // 2)])
    assert prove(asked, frozenset({0, 1}), True, always_singles=False)[1] == "minimum"
    assert asked.asker.budget.used == N


@examples(30)
@given(clauses=monotone, budget=st.integers(8, 40))
def test_controls_never_cost_more_than_what_the_search_left(clauses, budget):
    trace = FakeTrace(
        lambda v: all(any(u + 1 in v for u in c) for c in clauses), layout=layout(3, 3, 3)
    )
    result = explain(trace, 0, max_runs=budget)
    assert trace.rows == result.model_runs <= budget
    assert sum(s.model_runs for s in result.sets.values()) + 1 == result.model_runs


def text_only(words: int) -> TokenLayout:
    whole = layout(1, 1, words)
    keep = [0, *range(2, len(whole))]  # without the image token
    return TokenLayout(
        tuple(whole.tokens[p] for p in keep), whole.token_ids[keep], whole.modality[keep], (),
        whole.words[keep], whole.n_prompt - 1,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, PUBLISHED])
def test_without_an_image_the_joint_set_is_the_text_set_and_costs_nothing(options):
    # Two minima of the same size: searched twice, the scopes might report different ones.
    either = lambda v: (1 in v or 2 in v) and (3 in v or 4 in v)  # noqa: E731
    result = explain(FakeTrace(either, layout=text_only(5)), 0, **options)
    joint, text = result.sets["joint"], result.sets["text"]
    assert joint.positions == text.positions and len(text.positions) == 2
    assert joint.verified and joint.model_runs == 0 and joint.scope == "joint"
    assert result.sets["image"].outcome == "no_candidates"
    assert text.model_runs + 1 == result.model_runs


def test_in_sufficient_mode_the_joint_set_is_made_of_the_sets_of_its_parts():
    # Enough: image position 5 and word 11 together; of the image alone 5, of the words 11.
    both = lambda v: 5 in v and 11 in v  # noqa: E731
    trace = FakeTrace(both, layout=layout(3, 3, 3))
    result = explain(trace, 0, mode="sufficient", n_random=0)
    assert {n: s.positions for n, s in result.sets.items()} == {
        "joint": (5, 11), "image": (5,), "text": (11,),
    }  # fmt: skip
    joint = result.sets["joint"]
    assert joint.verified and joint.minimality in ("irreducible", "minimum")


def test_in_sufficient_mode_single_units_are_asked_before_anything_is_grown():
    # The best units of an order keep the answer alone, but no longer prefix does.
    shape = layout(4, 4, 2)
    image = frozenset(range(1, 17))
    asked = []

    def keeps(visible):
        asked.append(visible & image)
        return len(visible & image) in (1, 16)

    result = explain(
        FakeTrace(keeps, layout=shape), 0, mode="sufficient", candidates="image", n_random=0
    )
    assert result.main.size == 1 and result.main.minimality == "minimum"
    assert [len(v) for v in asked] == [16, 0, 1]


@examples(30)
@given(clauses=monotone)
def test_sufficient_sets_are_irreducible_and_a_claimed_minimum_is_one(clauses):
    enough = lambda v: any(all(u + 1 in v for u in c) for c in clauses)  # noqa: E731
    result = explain(FakeTrace(enough, layout=layout(3, 3, 3)), 0, mode="sufficient", n_random=0)
    sets = result.sets
    for one in sets.values():
        if one.verified:
            left = frozenset(range(1, N + 1)) if one.scope == "joint" else scope_of(one.scope)
            hidden = left - set(one.positions)
            assert enough(frozenset(range(1, N + 1)) - hidden)
            assert not any(enough(frozenset(range(1, N + 1)) - hidden - {p}) for p in one.positions)
    smallest = min(len(c) for c in clauses)
    assert sets["joint"].size >= smallest
    assert sets["joint"].size == smallest or sets["joint"].minimality != "minimum"


def scope_of(name):
    return frozenset(range(1, 10)) if name == "image" else frozenset(range(10, 13))


@pytest.fixture(scope="module")
def model(embedded_model):
    return embedded_model


def test_on_the_embedded_model_100_runs_give_the_minimum_of_brute_force(model):
    sample = sample_inputs()[0]
    trace = model.run(sample.image_path, sample.prompt)
    found = explain(trace, 0, max_runs=100)
    assert found.model_runs <= 100 and found.verified
    assert found.parameters["source"] == "influence" and len(found.graphs) == 1
    truth = exhaustive_explanation(trace, 0, max_size=1)
    assert len(found.positions) == truth.size == 1 and found.positions in truth.sets
    text = exhaustive_explanation(trace, 0, max_size=2, candidates="text")
    assert found.sets["text"].size == text.size


def test_in_sufficient_mode_the_kept_set_keeps_the_answer_and_no_member_is_idle(model):
    sample = sample_inputs()[0]
    trace = model.run(sample.image_path, sample.prompt)
    found = explain(trace, 0, max_runs=120, mode="sufficient", candidates="image")
    image = [int(p) for p in trace.layout.positions("image")]
    one = found.main
    assert one.verified and one.minimality in ("irreducible", "minimum")
    for kept, same in [(set(one.positions), True)] + [
        (set(c), False) for c in combinations(one.positions, one.size - 1)
    ]:
        keep = np.ones((1, len(trace.layout)), dtype=bool)
        keep[0, [p for p in image if p not in kept]] = False
        said = trace.evaluate(keep, 0).argmax[0, 0]
        assert (said == trace.layout.token_ids[found.target.start]) == same


@pytest.mark.parametrize("source", ["attention", "relevancy", "influence"])
def test_orders_and_source_ask_for_one_pass_however_many_scopes_there_are(monkeypatch, source):
    passes = {"backward": 0, "iter_attention": 0}
    for name in passes:
        real = getattr(FakeTrace, name)

        def counted(self, *args, real=real, name=name, **options):
            passes[name] += 1
            return real(self, *args, **options)

        monkeypatch.setattr(FakeTrace, name, counted)
    trace = FakeTrace(lambda v: 2 in v or 5 in v, layout=layout(3, 3, 3))
    result = explain(trace, 0, source=source)
    assert set(result.sets) == {"joint", "image", "text"}
    assert passes == {"backward": 1, "iter_attention": 0}
