"""`explain` against a model whose causes are known, and against trying every subset."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import BudgetError, OutputError, SelfCheckError, TargetError
from causal_lvlm.explanation import PUBLISHED, Explanation, exhaustive_explanation, explain
from causal_lvlm.explanation.candidates import unit_tree
from causal_lvlm.source_options import DEFAULT_ROWS, DEFAULT_THRESHOLDS
from tests.examples import examples
from tests.explanation.fakes import FakeTrace, layout

N_UNITS = 6  # positions 1..6: four image tokens and two words
UNITS = frozenset(range(1, 1 + N_UNITS))


def table_model(answers: list[bool]):
    """A model given by a truth table over the visible units; nothing masked says SAID."""

    def keeps(visible: frozenset[int]) -> bool:
        index = sum(1 << (p - 1) for p in UNITS - visible)
        return True if index == 0 else answers[index]

    return keeps


tables = st.lists(st.booleans(), min_size=2**N_UNITS, max_size=2**N_UNITS)
modes = st.sampled_from(["necessary", "sufficient"])
searches = st.sampled_from(["guided", "graph"])


@examples(60)
@given(answers=tables, seed=st.integers(0, 5), mode=modes, search=searches)
def test_a_minimum_is_as_small_as_the_smallest_set_found_by_trying_every_subset(
    answers, seed, mode, search
):
    trace = FakeTrace(table_model(answers), seed=seed)
    result = explain(trace, 0, mode=mode, max_runs=1000, search=search)
    name: Any
    for name, one in result.sets.items():
        truth = exhaustive_explanation(
            FakeTrace(table_model(answers), seed=seed), 0, mode=mode, max_size=N_UNITS,
            candidates="all" if name == "joint" else name,
        )  # fmt: skip
        if one.outcome == "not_maskable":  # every subset was asked, or none is needed
            assert truth.size is None or mode == "sufficient"
            scope = {"joint": range(1, 7), "image": range(1, 5), "text": range(5, 7)}[name]
            everything = frozenset(range(len(trace.layout)))
            assert table_model(answers)(everything - frozenset(scope))
        else:
            assert one.outcome == "explained" and one.verified
            assert one.minimality == "minimum"
            assert one.size == truth.size
            assert one.positions in truth.sets


@examples(60)
@given(answers=tables, max_runs=st.integers(2, 60), mode=modes, search=searches)
def test_no_budget_is_exceeded_every_run_is_counted_and_every_claim_was_run(
    answers, max_runs, mode, search
):
    trace = FakeTrace(table_model(answers))
    result = explain(trace, 0, mode=mode, max_runs=max_runs, search=search)
    assert trace.rows == result.model_runs <= max_runs
    for name, one in result.sets.items():
        if not one.verified:
            assert one.positions == ()
            continue
        scope = {"joint": UNITS, "image": frozenset(range(1, 5)), "text": frozenset({5, 6})}[name]
        members = frozenset(one.positions)
        masked = members if mode == "necessary" else scope - members
        assert masked in trace.asked  # verified: exactly this mask was run
        assert table_model(answers)(frozenset(range(9)) - masked) == (mode == "sufficient")
        if one.minimality in ("irreducible", "minimum"):
            for member in members:
                smaller = members - {member}
                mask = smaller if mode == "necessary" else scope - smaller
                assert table_model(answers)(frozenset(range(9)) - mask) == (mode == "necessary")


def needs(*positions: int):
    """Says SAID only while one of each of the given positions is visible."""
    return lambda visible: all(p in visible for p in positions)


def test_a_single_cause_is_found_and_called_a_minimum():
    result = explain(FakeTrace(needs(3)), "red")
    assert result.positions == (3,) and result.minimality == "minimum" and result.verified
    assert result.sets["image"].positions == (3,)
    assert result.sets["text"].outcome == "not_maskable" and not result.sets["text"].verified


def test_a_redundant_pair_needs_both_members():
    either = lambda visible: 2 in visible or 5 in visible  # noqa: E731
    result = explain(FakeTrace(either), "red")
    assert result.positions == (2, 5) and result.minimality == "minimum"
    assert (
        result.sets["image"].outcome == "not_maskable"
        and result.sets["text"].outcome == "not_maskable"
    )


def test_the_sufficient_set_of_a_redundant_pair_is_one_of_them():
    either = lambda visible: 2 in visible or 5 in visible  # noqa: E731
    result = explain(FakeTrace(either), "red", mode="sufficient")
    assert len(result.positions) == 1 and result.positions[0] in (2, 5)
    assert result.minimality == "minimum"


def test_a_cause_that_no_graph_holds_is_reported_as_fallback():
    trace = FakeTrace(needs(3))
    isolated = explain(trace, "red", threshold=0.999999)
    assert isolated.graph_outcome == "isolated"
    assert isolated.positions == (3,) and isolated.found_by == "fallback"
    assert isolated.main.head is None and isolated.main.radius is None


def test_found_by_graph_means_that_the_pds_tree_of_that_head_holds_the_set():
    result = explain(FakeTrace(needs(3)), "red", threshold=0.05)
    assert result.found_by == "graph"
    graph = result.head_graph
    assert graph is not None and result.main.radius is not None
    inside = {p for n in graph.tree.within(result.main.radius) for p in graph.members[n]}
    assert set(result.positions) <= inside


def test_alternatives_are_other_sets_of_the_same_size_that_were_run():
    result = explain(FakeTrace(needs(2, 3)), "red", max_runs=200, threshold=0.999999)
    met = {result.positions, *result.sets["joint"].alternatives}
    assert all(len(a) == 1 for a in met)
    assert result.positions in {(2,), (3,)}


def test_random_controls_have_the_same_composition_and_their_rate_is_right():
    result = explain(FakeTrace(needs(2, 3), layout=layout(4, 4, 3)), "red", n_random=15)
    image = result.sets["image"]
    # 15 other single patches, of which exactly one (the other cause) flips.
    assert image.n_random == 15 and image.random_flip_rate == pytest.approx(1 / 15)


@examples(40)
@given(answers=tables)
def test_fallback_means_that_no_tree_holds_a_passing_legal_set_of_that_size(answers):
    trace = FakeTrace(table_model(answers))
    result = explain(trace, 0, threshold=0.3, max_runs=2000, **PUBLISHED)
    everything = frozenset(range(9))
    for one in result.sets.values():
        if one.found_by != "fallback":
            continue
        scope = {"joint": UNITS, "image": frozenset(range(1, 5)), "text": frozenset({5, 6})}
        for graph in result.graphs:
            nodes = [m[0] if m[0] in scope[one.scope] else None for m in graph.members]
            tree = unit_tree(graph.head, graph.tree, nodes, scope[one.scope])
            for legal in tree.legal_sets(one.size, 1000):
                assert table_model(answers)(everything - legal)


@examples(40)
@given(answers=tables, max_runs=st.integers(2, 80), mode=modes, search=searches)
def test_a_scope_says_that_runs_ended_only_if_all_were_spent(answers, max_runs, mode, search):
    trace = FakeTrace(table_model(answers))
    result = explain(trace, 0, mode=mode, max_runs=max_runs, search=search)
    for one in result.sets.values():
        assert one.ended != "max_runs" or result.model_runs == max_runs
        if mode == "sufficient" and one.verified:
            whole = {"joint": 6, "image": 4, "text": 2}[one.scope]
            assert one.size < whole or one.minimality != "none"


def test_what_cannot_be_masked_is_listed_with_its_reason():
    result = explain(FakeTrace(needs(3)), "red", candidates=[1, 3])
    reasons = dict(result.excluded)
    assert set(reasons) == set(range(8)) - {1, 3}
    assert "special" in reasons[0] and "candidates" in reasons[2]


def test_defaults_are_recorded_with_the_values_they_stood_for():
    for options, kind in (
        ({}, "influence"), (PUBLISHED, "attention"), ({"heads": [1]}, "attention"),
        ({"layer": "mean"}, "mean"), ({"source": "relevancy"}, "relevancy"),
    ):  # fmt: skip
        parameters = explain(FakeTrace(needs(3)), "red", **options).parameters
        assert parameters["threshold"] == DEFAULT_THRESHOLDS[kind]
        assert parameters["row"] == DEFAULT_ROWS[kind]
        assert parameters["source"] == ("attention" if kind == "mean" else kind)


def test_two_runs_with_one_seed_are_equal():
    def run() -> dict:
        value = explain(FakeTrace(needs(2, 5)), "red", seed=3).to_dict()
        value.pop("seconds")
        return value

    assert run() == run()


def test_pooled_units_mask_whole_blocks():
    trace = FakeTrace(needs(1), layout=layout(4, 4, 1))
    result = explain(trace, "red", pool=2, candidates="image")
    assert result.main.units == ((1, 2, 5, 6),)


def test_candidates_restrict_the_scope():
    either = lambda visible: 2 in visible or 5 in visible  # noqa: E731
    only = explain(FakeTrace(either), "red", candidates=[2, 5])
    assert list(only.sets) == ["custom"] and only.positions == (2, 5)


@pytest.mark.parametrize("tester", ["flip", "drop", "contrast"])
def test_every_tester_finds_the_same_cause_where_they_agree(tester):
    assert explain(FakeTrace(needs(4)), "red", tester=tester).positions == (4,)


def test_an_interrupted_search_returns_what_was_found():
    either = lambda visible: 2 in visible or 5 in visible  # noqa: E731
    trace = FakeTrace(either, layout=layout(4, 4, 3), interrupt_at=30)
    result = explain(trace, "red", threshold=0.999999)
    assert result.sets["joint"].ended == "interrupted" and result.sets["joint"].verified
    assert {2, 5} <= set(result.positions)
    assert result.sets["text"].ended == "interrupted" == result.sets["image"].ended
    # All words together were masked, nothing less: no more is said.
    assert result.sets["text"].outcome == "not_found" and result.sets["text"].n_tried == 1
    assert trace.rows == 30

    at_once = explain(FakeTrace(either, interrupt_at=2), "red")
    assert {s.outcome for s in at_once.sets.values()} == {"interrupted"}


def test_ctrl_c_while_a_stage_is_announced_keeps_what_was_found():
    announced = []

    def progress(stage, used, most):
        announced.append(stage)
        if stage == "explaining set: image":
            raise KeyboardInterrupt

    result = explain(FakeTrace(needs(4)), "red", progress=progress)
    # The text scope comes first; 4 is a patch, and nobody has asked about patches yet.
    assert announced[-1] == "explaining set: image"
    assert {result.sets[s].ended for s in ("image", "joint")} == {"interrupted"}
    assert result.sets["text"].outcome in ("not_found", "explained")


def test_compiling_kernels_is_named_and_no_part_of_the_time(monkeypatch):
    """Here compiling takes an hour, of which neither the limit nor the result knows."""
    module = sys.modules["causal_lvlm.explanation.explain"]

    def compile_kernels(algorithm, variant, *, tree, progress):
        assert (algorithm, variant, tree) == ("ordered_icd", "stable", True)
        progress(0, 40)
        progress(40, 40)
        return 3600.0

    monkeypatch.setattr(module, "compile_kernels", compile_kernels)
    told = []
    result = explain(
        FakeTrace(needs(2)), "red", time_limit=30, progress=lambda *news: told.append(news)
    )
    stages = [stage for stage, _, _ in told]
    at = stages.index("compiling kernels (once)")
    assert told[at : at + 2] == [("compiling kernels (once)", done, 40) for done in (0, 40)]
    assert stages[at + 2] == "learning graphs"
    assert result.seconds < 0  # nothing but the hour, which did not happen, is left out


def test_a_time_limit_ends_the_search_and_says_so():
    result = explain(FakeTrace(needs(2)), "red", time_limit=1e-9)
    assert result.sets["joint"].outcome == "time_limit" and not result.verified


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_runs": 1}, BudgetError),
        ({"time_limit": 0}, BudgetError),
        ({"mode": "maybe"}, ValueError),
        ({"tester": "maybe"}, ValueError),
        ({"masking": "maybe"}, ValueError),
        ({"source": "maybe"}, ValueError),
        ({"drop_ratio": 1.5}, ValueError),
        ({"candidates": [0]}, TargetError),
        ({"candidates": "words"}, ValueError),
        ({"tester": "contrast", "against": "red"}, TargetError),
        ({"against": "blue"}, ValueError),
        ({"layer": 5}, ValueError),
        ({"heads": [9]}, ValueError),
        ({"heads": []}, ValueError),
        ({"heads": [0, 0]}, ValueError),
        ({"heads": "foo"}, ValueError),
        ({"heads": [True]}, ValueError),
        ({"heads": [0], "source": "relevancy"}, ValueError),
        ({"alpha": 0.01}, ValueError),
        ({"n_samples": 32, "threshold": 0.2}, ValueError),
        ({"max_size": 0}, ValueError),
        ({"n_random": -1}, ValueError),
        ({"pool": 1.5}, ValueError),
        ({"seed": None}, ValueError),
        ({"max_runs": 2.5}, BudgetError),
        ({"time_limit": float("nan")}, BudgetError),
        ({"tester": "contrast", "against": "purple"}, TargetError),
        ({"masking": "pixels-blur", "candidates": "text"}, ValueError),
        ({"masking": "pixels-blur", "candidates": [1, 5]}, ValueError),
    ],
)
def test_bad_options_give_a_typed_error(options, error):
    with pytest.raises(error):
        explain(FakeTrace(needs(2)), "red", **options)


def test_a_word_that_is_not_in_the_answer_is_refused_with_what_is():
    with pytest.raises(TargetError, match="red"):
        explain(FakeTrace(needs(2)), "green")


def test_a_token_that_is_not_the_models_choice_is_refused():
    with pytest.raises(TargetError, match="nothing masked"):
        explain(FakeTrace(lambda visible: False), "red")


def test_a_failed_self_check_refuses_unless_forced(monkeypatch):
    trace = FakeTrace(needs(2))
    failed = type("Check", (), {"passed": False})()
    monkeypatch.setattr(FakeTrace, "self_check", property(lambda self: failed))
    with pytest.raises(SelfCheckError):
        explain(trace, "red")
    assert explain(trace, "red", force=True).positions == (2,)


@pytest.mark.parametrize("limit", [50_000, 0])
def test_an_explanation_survives_saving_and_loading(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("causal_lvlm.explanation.result.MAX_PAIRS_IN_JSON", limit)
    result = explain(FakeTrace(needs(2, 5)), "red", heads=range(2), candidates=range(1, 7))
    loaded = Explanation.load(result.save(tmp_path / "red.json"))
    assert loaded.sets == result.sets and loaded.target == result.target
    assert loaded.sentence() == result.sentence()
    assert loaded.model_runs == result.model_runs
    for a, b in itertools.zip_longest(loaded.graphs, result.graphs):
        assert np.array_equal(a.structure.pag.marks, b.structure.pag.marks)
        assert np.array_equal(a.tree.node, b.tree.node) and a.labels == b.labels
        assert a.structure == b.structure
    if not limit:
        (tmp_path / "red.npz").unlink()
        with pytest.raises(OutputError, match="complete"):
            Explanation.load(tmp_path / "red.json")


def test_a_damaged_explanation_is_refused(tmp_path):
    path = explain(FakeTrace(needs(2)), "red").save(tmp_path / "red.json")
    value = json.loads(path.read_text())
    del value["mode"]
    path.write_text(json.dumps(value))
    with pytest.raises(OutputError, match="damaged"):
        Explanation.load(path)


def test_the_sentence_blames_the_prior_only_where_everything_was_masked():
    always = lambda visible: True  # noqa: E731
    assert "prior" in explain(FakeTrace(always), "red").sentence()
    assert "prior" not in explain(FakeTrace(always), "red", candidates="image").sentence()
    small = explain(FakeTrace(lambda v: 2 in v or 5 in v), "red", max_size=1)
    assert small.outcome == "max_size" and "max_size" in small.sentence()


def test_the_sentence_names_the_words_and_the_rival():
    text = explain(FakeTrace(needs(5)), "red", candidates="text").sentence()
    assert "“w0”" in text and "“blue”" in text and "0.90 → 0.10" in text
    assert "because of the word “w0”. With it masked, the model says “blue” (p of “red”" in text
    assert "removed from the input" in text
