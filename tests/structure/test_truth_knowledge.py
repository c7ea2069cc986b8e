"""Background knowledge that is true: the result is what all MAGs share that agree with it.

As in test_truth_order, for every model of four nodes. Knowledge is read off one MAG of the class:
which nodes are no ancestors of which, which edges there are and which not.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from causal_lvlm.structure import BackgroundKnowledge, learn_structure
from tests import truth

EXACT: dict[str, Any] = {"n_samples": 10**13, "alpha": 0.01}


def models(seed, *, dags=False):
    """Yield (case, a MAG of the class, the class); with ``dags`` only members without i <-> j."""
    rng = np.random.default_rng(seed)
    for everyone in truth.all_mags(4, False).values():
        members = everyone
        if dags:
            members = [m for m in everyone if not ((m == 2) & (m.T == 2)).any()]
        if not members:
            continue
        while True:
            chosen = members[rng.integers(len(members))]
            case = truth.canonical_case(rng, chosen)
            if truth.is_faithful(case):
                break
        yield case, chosen, members, rng


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("algorithm", ["icd", "fci", "pc"])
def test_forbidden_orientations(algorithm, variant, adjacent, record_property):
    """Sound; how many of the marks that follow are found is counted.

    About ``adjacent`` nodes PC finds all (Meek's rules are complete for known orientations). For
    PAGs no complete set of rules is used here, and what is said of two nodes without an edge
    between them acts only where an edge is.
    """
    pc = algorithm == "pc"
    total = np.zeros(2, dtype=int)
    for case, chosen, members, rng in models(0, dags=pc):
        is_ancestor = truth.ancestors_in(chosen).T  # [i, j]: i is an ancestor of j
        free = [(int(i), int(j)) for i, j in np.argwhere(~is_ancestor)]
        if adjacent:
            free = [pair for pair in free if chosen[pair]]
        if not free:
            continue
        said = [free[k] for k in rng.permutation(len(free))[: rng.integers(1, 4)]]
        agreeing = [m for m in members if not any(truth.ancestors_in(m)[j, i] for i, j in said)]
        expected = truth.common_marks(agreeing)
        if pc:  # an undirected edge has a tail at both ends
            expected = np.where((expected == 1) | (expected.T == 1), 3, expected)
        structure = learn_structure(
            case.correlation, algorithm=algorithm, variant=variant,
            knowledge=BackgroundKnowledge(forbidden_orientations=said), **EXACT,
        )  # fmt: skip
        marks = structure.pag.marks
        np.testing.assert_array_equal(marks > 0, expected > 0)
        known = (marks == 2) | (marks.T == 2) if pc else marks > 1
        np.testing.assert_array_equal(marks[known], expected[known])
        for i, j in said:
            assert not marks[i, j] or marks[j, i] == 2
        wanted = (expected == 2) | (expected.T == 2) if pc else expected > 1
        total += [np.count_nonzero(wanted), np.count_nonzero(known)]
    record_property("marks of the truth, found", total.tolist())
    least = 1.0 if pc and adjacent else 0.93
    assert total[1] >= least * total[0] > 300


@pytest.mark.parametrize("algorithm", ["ordered_icd", "icd", "fci", "pc"])
def test_true_edges_change_nothing(algorithm):
    """Required edges that are there, forbidden ones that are not: the same marks as without."""
    for case, chosen, _, rng in models(1, dags=algorithm == "pc"):
        if algorithm == "ordered_icd" and not truth.respects(chosen, range(4)):
            continue
        pairs = list(itertools.combinations(range(4), 2))
        there = [p for p in pairs if chosen[p] and rng.random() < 0.7]
        absent = [p for p in pairs if not chosen[p] and rng.random() < 0.7]
        plain = learn_structure(case.correlation, algorithm=algorithm, **EXACT)
        informed = learn_structure(
            case.correlation, algorithm=algorithm,
            knowledge=BackgroundKnowledge(required=there, forbidden=absent), **EXACT,
        )  # fmt: skip
        np.testing.assert_array_equal(informed.pag.marks, plain.pag.marks)
        assert informed.conflicts == 0
