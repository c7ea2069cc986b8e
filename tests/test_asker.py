"""One model asked under masks: every question once, in order, within a budget, counted."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from causal_lvlm.asker import Asker
from causal_lvlm.budget import Budget, BudgetEnded
from causal_lvlm.edges import all_but, cut
from causal_lvlm.results import BackendCheck, Evaluation
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.explanation.fakes import OTHER, SAID, FakeTrace


class Recording(FakeTrace):
    """Keeps the masks of each call; the longer a row is masked, the smaller its numbers."""

    def evaluate(self, keep, target, **options):
        self.calls = [*getattr(self, "calls", ()), (np.array(keep), options)]
        hidden = (~keep).sum(axis=1)[:, None].astype(np.float64)
        return Evaluation(
            token_log_probs=-hidden, argmax=np.where(hidden > 2, OTHER, SAID), margin=3.0 - hidden,
            runner_up=np.full(hidden.shape, OTHER), top_log_prob=-hidden,
            against_log_prob=None if options["against"] is None else -hidden[:, 0] / 2,
            runs=len(keep), masking=options["masking"], backend="fake",
        )  # fmt: skip

    def embeddings(self):
        return np.ones((len(self.layout), 4), dtype=np.float32)

    def baseline_embeddings(self, kind="zero", *, frame=False):
        return np.zeros((len(self.layout), 4), dtype=np.float32)

    def evaluate_embeddings(self, rows, target, *, n_rows, against=None, batch_size=None):
        keep = np.array([rows(i)[:, 0] > 0 for i in range(n_rows)])
        return self.evaluate(keep, target, masking="embeddings", against=against)


def asker_of(trace=None, **options) -> Asker:
    trace = trace or Recording(lambda visible: True)
    target = resolve_target(trace.layout, 0)
    return Asker(trace, target, candidate_units(trace.layout, target), **options)


def test_sets_and_rows_ask_the_same_masks_in_order_and_each_of_them_once():
    masks = [{0, 3}, (), {5}, {3, 0}, {5, 1}]
    by_set, by_row = asker_of(), asker_of()
    visible = np.array([[u not in mask for u in range(6)] for mask in masks])
    one, two = by_set.sets(masks), by_row.rows(visible)
    expected = by_set.units.keep_without([{0, 3}, (), {5}, {5, 1}], 9)
    for asker in (by_set, by_row):
        ((keep, _),) = asker.trace.calls
        np.testing.assert_array_equal(keep, expected)
        assert (asker.runs, asker.asked) == (4, 5)
    for answers in (one, two):
        assert answers.log_prob.tolist() == [-2, 0, -1, -2, -2]
        assert answers.margin.tolist() == [1, 3, 2, 1, 1]
    by_row.rows(~visible[::-1])
    assert len(by_row.trace.calls[1][0]) == 4 and by_row.asked == 10
    assert by_set.sets([{5}]).margin.tolist() == [2] and len(by_set.trace.calls) == 1


def test_answers_say_what_changed_and_what_a_rival_got():
    answers = asker_of(against=3).sets([{0}, {0, 1, 2}])
    assert answers.changed.tolist() == [False, True] and len(answers) == 2
    assert answers.against_log_prob.tolist() == [-0.5, -1.5]
    np.testing.assert_allclose(answers.read("prob"), np.exp([-1, -3]))
    assert np.isnan(asker_of().sets([()]).against_log_prob).all()
    with pytest.raises(ValueError, match="score"):
        answers.read("mean")


def test_few_rows_at_once_as_far_as_the_budget_allows():
    asker = asker_of(at_once=2, budget=Budget(5))
    with pytest.raises(BudgetEnded, match="max_runs"):
        asker.sets([{u} for u in range(6)])
    assert [len(keep) for keep, _ in asker.trace.calls] == [2, 2, 1]
    assert list(asker.memory) == [frozenset({u}) for u in range(5)]
    assert len(asker.sets([{4}, {0}])) == 2  # from memory, although nothing is left


def test_parts_of_a_budget_are_nested_and_given_back():
    budget = Budget(10, used=2)
    with budget.at_most(5):
        assert budget.left == 5
        with budget.at_most(9):
            assert budget.left == budget.allowance() == 5
        budget.used += 5
        with pytest.raises(BudgetEnded):
            budget.allowance()
    assert budget.left == 3
    assert asker_of().budget.left > 10**9


def test_a_deadline_ends_before_runs_do_and_may_be_put_off():
    budget = Budget(10, deadline=time.monotonic() - 1)
    with pytest.raises(BudgetEnded, match="time_limit"):
        budget.allowance()
    budget.extend(60)
    assert budget.allowance() == 10


def test_another_masking_remembers_apart_and_counts_together():
    asker = asker_of(budget=Budget(9))
    other = asker.under("zero")
    assert asker.under("zero") is other and other.under("remove") is asker
    assert other.sets([{0}]).margin == asker.sets([{0}]).margin
    assert [options["masking"] for _, options in asker.trace.calls] == ["embeddings", "remove"]
    asker.count(3)
    assert asker.runs == other.runs == asker.budget.used == 5 and other.asked == 5
    with pytest.raises(ValueError, match="replace embeddings"):
        asker.embeddings()


def test_nothing_masked_is_plain_whatever_the_masking_and_answers_for_the_empty_set():
    asker = asker_of(masking="edges", against=3)
    full = asker.unmasked()
    ((keep, options),) = asker.trace.calls
    assert keep.all() and options["masking"] == "remove" and asker.runs == 1
    assert asker.sets([()]).margin == full.margin == 3 and len(asker.trace.calls) == 1
    assert asker.backends == set()


def test_how_it_was_computed_is_kept_and_so_is_what_a_spot_check_ruled_out():
    asker = asker_of()
    asker.sets([{0}])
    plain = asker.trace.evaluate
    check = BackendCheck("drop", "block", 2, 1.0, 1e-3, agrees=False)
    asker.trace.evaluate = lambda *a, **k: replace(plain(*a, **k), check=check)
    asker.sets([{1}])
    assert asker.backends == {"fake", "fake (drop differs)"}


def test_rows_that_are_missing_in_an_answer_are_noticed():
    asker = asker_of()
    plain = asker.trace.evaluate
    asker.trace.evaluate = lambda keep, *a, **k: plain(keep[:1], *a, **k)
    with pytest.raises(ValueError, match="2 rows were asked, 1 answered"):
        asker.sets([{0}, {1}])


def test_what_was_cut_before_costs_nothing_and_counts_with_the_rest(embedded_model):
    sample = sample_inputs()[0]
    trace = embedded_model.run(sample.image_path, sample.prompt)
    target = trace.target(0)
    units = candidate_units(trace.layout, target)
    plain = trace.evaluate(np.ones((1, len(trace.layout)), dtype=bool), target)
    rivals = tuple(int(r) for r in plain.runner_up[0])
    asker = Asker(trace, target, units, rivals=rivals, budget=Budget(6))
    asker.sets([(0,), (1,)])
    edges = asker.under("cut-mask")
    pairs = trace.edges(target).pairs
    cuts = [cut(pairs[:3]), all_but(pairs[-5:]), cut(pairs[:3])]
    answers = edges.cuts(cuts)
    expected = trace.evaluate_edges(cuts, target, rivals=rivals)
    np.testing.assert_allclose(answers.token_log_probs, expected.token_log_probs, atol=1e-5)
    np.testing.assert_allclose(answers.lead, expected.fixed_margin, atol=1e-5)
    assert (asker.runs, asker.asked, asker.budget.used) == (4, 5, 4)
    edges.cuts(cuts)
    assert asker.runs == 4
    with pytest.raises(ValueError, match="cut edges"):
        asker.cuts(cuts)
    with pytest.raises(BudgetEnded):
        edges.cuts([cut(pairs[k : k + 1]) for k in range(3)])
    assert asker.budget.used == 6
