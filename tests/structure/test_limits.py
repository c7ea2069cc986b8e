"""Corners: dense graphs under a time limit, tiny alpha, nothing left to test, chains, kinds."""

from __future__ import annotations

import time

import numpy as np
import pytest

from causal_lvlm.structure import (
    PAG,
    BackgroundKnowledge,
    check_validity,
    learn_structure,
    learn_structures,
)
from causal_lvlm.structure.learner import Learner


def one_factor(n):
    """All nodes depend on one hidden node: nothing separates any pair."""
    return np.full((n, n), 0.5) + 0.5 * np.eye(n)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
def test_fci_looks_at_the_clock_in_its_second_stage(variant, monkeypatch):
    """The time is over right after the colliders: nothing of the stage counts, and it is said."""
    original = Learner.orient_colliders

    def then_time_is_over(learner):
        original(learner)
        learner.limits.deadline = 0.0

    rng = np.random.default_rng(3)
    weights = np.tril(rng.normal(size=(12, 12)) * (rng.random((12, 12)) < 0.3), -1)
    data = rng.normal(size=(200, 12)) @ np.linalg.inv(np.eye(12) - weights).T
    options = {"alpha": 0.01, "algorithm": "fci", "variant": variant}
    whole = learn_structure(data, **options)
    monkeypatch.setattr(Learner, "orient_colliders", then_time_is_over)
    cut = learn_structure(data, **options)
    assert whole.complete and not cut.complete
    assert (cut.stopped, cut.unfinished_size) == ("time_limit", 1)
    assert cut.edges_left == cut.pag.n_edges >= whole.pag.n_edges


def test_fci_on_a_dense_graph_does_not_make_useless_pools():
    """In a complete graph no node is beyond the neighbours: as fast as PC, not minutes."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(5000, 1)) + rng.normal(size=(5000, 90))
    options = {"alpha": 0.01, "max_conditioning_size": 1}
    learn_structure(data[:, :5], algorithm="fci", **options)  # compile
    began = time.monotonic()
    structure = learn_structure(data, algorithm="fci", **options)
    assert time.monotonic() - began < 3
    assert structure.pag.n_edges == 90 * 89 // 2


@pytest.mark.parametrize("algorithm", ["fci", "pc", "icd", "ordered_icd"])
def test_complete_if_there_is_no_set_of_the_next_size(algorithm):
    """One edge and a node apart: with sets of size 0 alone everything was tried."""
    r = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    options = {"n_samples": 50, "alpha": 0.01, "algorithm": algorithm}
    assert learn_structure(r, max_conditioning_size=0, **options).complete
    r[0, 2] = r[2, 0] = 0.9
    r[1, 2] = r[2, 1] = 0.81
    assert not learn_structure(r, max_conditioning_size=0, **options).complete


def test_perfect_correlation_is_dependence_at_any_level():
    structure = learn_structure([[1, 1], [1, 1]], n_samples=4, alpha=1e-80)
    assert structure.pag.n_edges == 1


def test_none_is_all_processors():
    r = one_factor(6)
    (structure,) = learn_structures([r], threshold=0.1, n_jobs=None)
    assert structure == learn_structure(r, threshold=0.1, n_jobs=None)


def test_a_chain_against_the_knowledge_is_named():
    """0 -> 1 -> 2 is learned by PC although 0 was said to be no cause of 2."""
    rng = np.random.default_rng(0)
    weights = np.zeros((4, 4))
    weights[1, 0] = weights[1, 3] = weights[2, 1] = 1.0  # 0 -> 1 <- 3, 1 -> 2
    data = rng.normal(size=(4000, 4)) @ np.linalg.inv(np.eye(4) - weights).T
    knowledge = BackgroundKnowledge(forbidden_orientations=[(0, 2)])
    structure = learn_structure(data, alpha=0.001, algorithm="pc", knowledge=knowledge)
    assert structure.pag.marks[0, 1] == structure.pag.marks[1, 2] == 2
    assert any("0 to 2" in note for note in structure.notes)
    other = BackgroundKnowledge(forbidden_orientations=[(2, 0)])
    assert not learn_structure(data, alpha=0.001, algorithm="pc", knowledge=other).notes


def test_arrowhead_at_an_undirected_edge_is_no_ancestral_graph():
    graph = PAG([[0, 2, 0], [3, 0, 3], [0, 3, 0]])  # 0 -> 1 - 2
    assert [str(v) for v in check_validity(graph)] == ["arrow_at_undirected: 1, 2"]
    assert check_validity(graph, "cpdag") == ()


def test_tiers_of_a_source_are_not_forgotten_for_data():
    from causal_lvlm.structure import CorrelationSource

    source = CorrelationSource(one_factor(3), 100, tiers=np.arange(3), kind="data")
    assert learn_structure(source).parameters["algorithm"] == "ordered_icd"
