"""A case asks each question once, masks what it says, and orders scores without favour."""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.errors import TargetError
from causal_lvlm.metrics import Case
from tests.metrics.fakes import FunctionTrace, additive, case_of, layout

WEIGHTS = [0.05, 0.1, 0.15, 0.2, 0.1, 0.05]  # four patches, two words


def test_keep_and_without_are_complements_with_known_probabilities():
    case = case_of(additive(0.2, WEIGHTS))
    assert case.n_units == 6
    np.testing.assert_allclose(case.keep([[0, 3], []]).prob, [0.2 + 0.05 + 0.2, 0.2])
    np.testing.assert_allclose(case.without([[0, 3]]).prob, [0.2 + 0.1 + 0.15 + 0.1 + 0.05])
    np.testing.assert_allclose([case.full, case.empty], [0.85, 0.2])
    chosen = np.array([[True, False, False, True, False, False]])
    np.testing.assert_allclose(case.keep(chosen).prob, case.keep([[0, 3]]).prob)


def test_changed_and_margin_follow_the_first_choice():
    case = case_of(additive(0.2, WEIGHTS))
    answers = case.keep([[0, 1, 2, 3, 4, 5], []])
    assert answers.changed.tolist() == [False, True]
    np.testing.assert_allclose(answers.margin, np.log([0.85 / 0.15, 0.2 / 0.8]))
    np.testing.assert_allclose(answers.read("log_prob"), np.log([0.85, 0.2]))


def test_repeated_questions_cost_no_run_within_and_between_calls():
    trace = additive(0.2, WEIGHTS)
    case = case_of(trace)
    case.keep([[0], [0], [1]])
    case.without([[1, 2, 3, 4, 5]])  # the same as keeping unit 0
    assert (case.runs, case.asked, trace.rows) == (2, 4, 2)


def test_another_masking_has_its_own_memory_and_counts_here():
    trace = additive(0.2, WEIGHTS)
    case = case_of(trace)
    other = case.under("zero")
    assert other.asker is case.under("zero").asker
    assert case.under("remove").asker is other.under("remove").asker is case.asker
    np.testing.assert_allclose(other.keep([[0]]).prob, case.keep([[0]]).prob, rtol=1e-6)
    assert trace.calls == ["embeddings", "remove"] and case.runs == other.runs == 2


def test_a_word_of_several_tokens_is_one_unit():
    # A trace whose two prompt tokens are one word.
    plain = layout()
    words = plain.words.copy()
    words[6] = words[5]
    merged = type(plain)(
        plain.tokens, plain.token_ids, plain.modality, plain.grids, words, plain.n_prompt
    )
    case = Case(additive(0.2, WEIGHTS, layout=merged), 0)
    assert case.units.members[-1] == (5, 6) and case.units_name == "patch+word"
    np.testing.assert_allclose(case.without([[4]]).prob, [0.85 - 0.15])


def test_ties_are_broken_by_seed_or_by_index_and_never_between_different_scores():
    trace = additive(0.2, WEIGHTS)
    scores = [0.0, 2.0, 0.0, 0.0, 1.0, 0.0]
    orders = {case_of(trace, seed=seed).order(scores) for seed in range(20)}
    assert len(orders) > 5 and all(order[:2] == (1, 4) for order in orders)
    assert case_of(trace, seed=3).order(scores) == case_of(trace, seed=3).order(scores)
    assert case_of(trace, ties="index").order(scores) == (1, 4, 0, 2, 3, 5)


@pytest.mark.parametrize("bad", [[1.0, 2.0], [np.nan] * 6, np.zeros((6, 1))])
def test_scores_that_are_not_one_finite_number_per_unit_are_refused(bad):
    with pytest.raises(ValueError, match="scores"):
        case_of(additive(0.2, WEIGHTS)).order(bad)


def test_bad_arguments_are_refused_with_what_is_allowed():
    trace = additive(0.2, WEIGHTS)
    with pytest.raises(ValueError, match="masking must be one of"):
        case_of(trace, masking="grey")
    with pytest.raises(ValueError, match="do not exist"):
        case_of(trace).keep([[7]])
    with pytest.raises(ValueError, match="shape"):
        case_of(trace).keep(np.ones((1, 5), dtype=bool))
    with pytest.raises(TargetError):
        Case(trace, "purple")


def test_nothing_to_mask_is_a_typed_error():
    plain = layout()
    frame = np.where(np.isin(plain.modality, ("image", "prompt")), "special", plain.modality)
    bare = type(plain)(
        plain.tokens, plain.token_ids, frame, (), np.full(len(plain), -1), plain.n_prompt
    )
    with pytest.raises(TargetError, match="nothing before the target"):
        case_of(FunctionTrace(lambda v: 0.5, layout=bare))


def test_masks_are_those_that_units_make():
    trace = additive(0.2, WEIGHTS)
    seen = []
    evaluate = trace.evaluate
    trace.evaluate = lambda keep, *a, **k: seen.append(keep) or evaluate(keep, *a, **k)
    case = case_of(trace, units="block:2+token")
    subsets = [(), (0,), (1, 2), (0, 1, 2)]
    case.without(subsets)
    expected = case.units.keep_without(subsets, len(trace.layout))
    np.testing.assert_array_equal(np.concatenate(seen), expected)
