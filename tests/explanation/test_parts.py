"""Where masking a whole scope changes nothing: parts of it are tried, and no more is claimed."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_lvlm.budget import BudgetEnded
from causal_lvlm.explanation import (
    PUBLISHED,
    ExplainingSet,
    Explanation,
    exhaustive_explanation,
    explain,
    guided,
    published,
)
from causal_lvlm.explanation.parts import every_part_fails, part_of
from tests.explanation.fakes import FakeTrace, layout
from tests.explanation.test_guided import N, asking, question

SEARCHES = [{}, PUBLISHED]


def by_count(*changing: int):
    """Says something else where so many image tokens are masked, whichever they are."""
    return lambda visible: 16 - len(visible & frozenset(range(1, 17))) not in changing


@pytest.mark.parametrize("options", SEARCHES)
@pytest.mark.parametrize("changing", [(5,), (1,), (9, 10)])
def test_a_part_is_found_where_the_whole_changes_nothing(options, changing):
    trace = FakeTrace(by_count(*changing), layout=layout(4, 4, 2))
    result = explain(trace, 0, **options)
    assert trace.rows == result.model_runs <= 600
    for name in ("image", "joint"):
        one = result.sets[name]
        assert one.outcome == "explained" and one.verified and one.size == min(changing)
    # Four image tokens of five fail: nothing is missing in it; nobody tried every smaller one.
    assert result.image.minimality == ("minimum" if changing == (1,) else "irreducible")


@pytest.mark.parametrize("options", SEARCHES)
def test_units_that_only_change_together_are_found_by_what_each_does_alone(options):
    # As in the bundled hallucination: five patches, known by their margins, not by any order.
    wanted = frozenset({3, 8, 9, 14, 15})
    shape = layout(4, 4, 2)

    def keeps(visible):
        return frozenset(range(1, 17)) - visible != wanted

    class Graded(FakeTrace):
        def evaluate(self, keep, target, **rest):
            found = super().evaluate(keep, target, **rest)
            lead = [1 - 0.1 * len(wanted - set(np.flatnonzero(row))) for row in keep]
            margin = np.where(found.margin > 0, np.array(lead)[:, None], found.margin)
            return replace(found, margin=margin)

    result = explain(Graded(keeps, layout=shape), 0, **options)
    assert frozenset(result.image.positions) == wanted and result.image.verified


@pytest.mark.parametrize("options", SEARCHES)
def test_a_model_that_never_changes_is_said_so_only_where_all_was_tried(options):
    small = explain(FakeTrace(lambda visible: True), 0, **options)
    assert {s.outcome for s in small.sets.values()} == {"not_maskable"}
    assert {n: s.n_tried for n, s in small.sets.items()} == {"joint": 63, "image": 15, "text": 3}
    large = explain(FakeTrace(lambda visible: True, layout=layout(4, 4, 2)), 0, **options)
    assert large.image.outcome == large.joint.outcome == "not_found"
    assert large.text.outcome == "not_maskable"
    asked = FakeTrace(lambda visible: True, layout=layout(4, 4, 2))
    explain(asked, 0, **options)
    image = {m for m in asked.asked if m and m <= frozenset(range(1, 17))}
    assert large.image.n_tried == len(image)
    assert {frozenset({p}) for p in range(1, 17)} <= image  # every one alone was asked


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(st.booleans(), min_size=64, max_size=64),
    max_runs=st.integers(2, 90),
    options=st.sampled_from(SEARCHES),
)
def test_that_nothing_can_change_it_is_never_said_where_a_set_does(answers, max_runs, options):
    def keeps(visible):
        masked = sum(1 << (p - 1) for p in range(1, 7) if p not in visible)
        return masked in (0, 63) or answers[masked]  # the whole changes nothing

    result = explain(FakeTrace(keeps), 0, max_runs=max_runs, **options)
    for name, one in result.sets.items():
        truth = exhaustive_explanation(
            FakeTrace(keeps), 0, max_size=6, candidates="all" if name == "joint" else name
        )
        assert one.n_tried <= 63
        if one.outcome == "not_maskable":
            assert truth.size is None
        elif one.outcome == "not_found":
            assert truth.size is None or result.model_runs == max_runs
        if one.minimality == "minimum":
            assert one.size == truth.size


@pytest.mark.parametrize("options", SEARCHES)
def test_a_scope_that_changes_nothing_takes_no_run_from_one_that_does(options, monkeypatch):
    # Two words decide; the image never does. The words' set, proof and controls come first.
    def run():
        keeps = lambda visible: 19 in visible or 20 in visible  # noqa: E731
        return explain(FakeTrace(keeps, layout=layout(4, 4, 6)), 0, max_runs=60, **options)

    found = run()
    assert found.image.outcome == "not_found"

    def nothing(*_):
        raise BudgetEnded("max_runs")

    for module in (guided, published):
        monkeypatch.setattr(module, "part_of", nothing)
    without = run()
    assert without.text.positions == (19, 20)
    for name in ("text", "joint"):
        assert replace(found.sets[name], n_tried=0) == replace(without.sets[name], n_tried=0)


@pytest.mark.parametrize("options", SEARCHES)
def test_in_sufficient_mode_one_run_says_that_nothing_is_needed(options):
    trace = FakeTrace(lambda visible: True)
    result = explain(trace, 0, mode="sufficient", **options)
    assert {s.outcome for s in result.sets.values()} == {"not_maskable"}
    assert trace.rows == result.model_runs <= 4


def test_what_is_tried_in_order_and_when_all_of_it_was():
    three = question(lambda v: len(frozenset(range(1, N + 1)) - v) != 3)
    found, grown = part_of(three, [range(N)])
    assert found == frozenset({0, 1, 2}) and grown == 3
    asked = asking([], max_runs=2**N)
    assert every_part_fails(asked) == (None, True)
    assert asked.n_asked() == 2**N - 1 == asked.asker.budget.used
    short = asking([], max_runs=2**N - 2)
    assert every_part_fails(short) == (None, False) and short.asker.budget.used == 0
    hidden = question(lambda v: frozenset({1, 5, 7}) & v or len(v) < 11)
    met, complete = every_part_fails(hidden)
    assert met == frozenset({0, 4, 6}) and not complete
    smaller = [frozenset(c) for size in (1, 2) for c in combinations(range(N), size)]
    assert all(hidden.known(s) is False for s in smaller)


def test_an_older_file_says_what_was_tried_then(tmp_path):
    result = explain(FakeTrace(lambda visible: True), 0)
    value = result.to_dict()
    for one in value["sets"].values():
        del one["n_tried"]
    again = Explanation.from_dict(value)
    assert isinstance(again.image, ExplainingSet)
    assert again.image.outcome == "not_maskable" and again.image.n_tried == 0
