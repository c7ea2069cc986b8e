"""dowhy #1343: tiers and forbidden directions were not kept by PC, without a word."""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.structure import BackgroundKnowledge, learn_structure

ALIKE = dict(zip("abc", np.full((3, 3), 0.5) + 0.5 * np.eye(3), strict=True))


def learned(algorithm, pairs, **options):
    knowledge = BackgroundKnowledge(forbidden_orientations=pairs)
    return learn_structure(
        ALIKE, threshold=0.1, algorithm=algorithm, knowledge=knowledge, **options
    )


def test_both_directions_excluded_is_named():
    found = learned("pc", [("a", "b"), ("b", "a")])
    (note,) = found.notes
    assert "both directions of a - b are excluded" in note and "fci" in note
    assert found.pag.marks[0, 1] == found.pag.marks[1, 0] == 3


def test_so_is_a_tier_that_leaves_no_direction():
    notes = learned("pc", [("a", "b")], tiers=[0, 1, 1]).notes
    assert any("both directions of a - b are excluded" in note for note in notes)


@pytest.mark.parametrize("algorithm", ["icd", "fci"])
def test_a_pag_has_an_edge_for_it(algorithm):
    found = learned(algorithm, [("a", "b"), ("b", "a")])
    assert not found.notes and found.pag.marks[0, 1] == found.pag.marks[1, 0] == 2


@pytest.mark.parametrize("algorithm", ["pc", "icd", "fci"])
def test_a_forbidden_edge_that_the_data_keep_is_named(algorithm):
    knowledge = BackgroundKnowledge(forbidden=[("c", "a")])
    found = learn_structure(ALIKE, threshold=0.1, algorithm=algorithm, knowledge=knowledge)
    assert not found.pag.marks[0, 2]
    assert "nothing separated a and c" in found.notes[0]


def test_tiers_are_always_kept():
    rng = np.random.default_rng(5)
    for _ in range(20):
        data = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
        tiers = rng.integers(0, 3, size=5)
        marks = learn_structure(data, alpha=0.2, algorithm="pc", tiers=tiers).pag.marks
        i, j = np.nonzero((tiers[:, None] < tiers[None, :]) & (marks > 0))
        assert (marks[i, j] == 2).all() and (marks[j, i] == 3).all()
