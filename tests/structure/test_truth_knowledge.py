"""Background knowledge that is true: the result is what all MAGs share that agree with it.

As in test_truth_order, for every model of four nodes, and some larger ones. Knowledge is read off
one MAG of the class: which nodes are ancestors of which and which are not, which edges there are
and which not.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from causal_lvlm.structure import BackgroundKnowledge, learn_structure
from causal_lvlm.structure.paths import possibly_directed
from tests import naive, truth

EXACT: dict[str, Any] = {"n_samples": 10**13, "alpha": 0.01}


def models(seed, *, dags=False, ordered=False):
    """Yield (case, a MAG of the class, the class, rng).

    With ``dags`` only members without i <-> j, with ``ordered`` only those that respect the order.
    """
    rng = np.random.default_rng(seed)
    for everyone in truth.all_mags(4, False).values():
        members = everyone
        if dags:
            members = [m for m in members if not ((m == 2) & (m.T == 2)).any()]
        if ordered:
            members = [m for m in members if truth.respects(m, range(4))]
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


def some_of(rng, pairs, least, most):
    return [pairs[k] for k in rng.permutation(len(pairs))[: rng.integers(least, most + 1)]]


def drawn(rng, mag):
    """True knowledge: causes and, in half of the cases, what is no cause of what; None without."""
    is_ancestor = truth.ancestors_in(mag).T & ~np.eye(len(mag), dtype=bool)
    pairs = list(itertools.permutations(range(len(mag)), 2))
    causes = some_of(rng, [pair for pair in pairs if is_ancestor[pair]], 1, 2)
    if not causes:
        return None
    required = [pair for pair in causes if mag[pair] and rng.random() < 0.5]
    return BackgroundKnowledge(
        required_causes=required,
        ancestors=[pair for pair in causes if pair not in required],
        forbidden_orientations=some_of(rng, [pair for pair in pairs if not is_ancestor[pair]], 0, 2)
        if rng.random() < 0.5
        else [],
    )


def agrees(mag, knowledge):
    up = truth.ancestors_in(mag).T
    causes = (*knowledge.required_causes, *knowledge.ancestors)
    return all(up[pair] for pair in causes) and not any(
        up[pair] for pair in knowledge.forbidden_orientations
    )


def judge(structure, members, knowledge):
    """Require soundness and what was asked for; return (marks of the truth, those found)."""
    expected, marks = truth.common_marks(members), structure.pag.marks
    open_in = (expected == 1) | (expected.T == 1)
    known, wanted = marks > 1, expected > 1
    if structure.kind == "cpdag":  # an undirected edge has a tail at both ends
        expected = np.where(open_in, 3, expected)
        known, wanted = (marks == 2) | (marks.T == 2), ~open_in & (expected > 0)
    np.testing.assert_array_equal(marks > 0, expected > 0)
    np.testing.assert_array_equal(marks[known], expected[known])
    assert not len(structure.restored) and not structure.violations and not structure.conflicts
    assert all("background knowledge" not in note for note in structure.notes)
    for i, j in (*knowledge.required_causes, *knowledge.ancestors):
        assert possibly_directed(marks, i, j)
        assert not marks[i, j] or (marks[j, i] == 3 and marks[i, j] == 2)
    for pair in knowledge.required_causes:
        assert marks[pair] == 2
    return np.array([np.count_nonzero(wanted), np.count_nonzero(known)])


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("algorithm", ["ordered_icd", "icd", "fci", "pc"])
def test_causes(algorithm, variant, record_property):
    """Sound in every model; with an order complete, else how many marks are found is counted."""
    total = np.zeros(2, dtype=int)
    added = 0
    arguments = {"algorithm": algorithm, "variant": variant, **EXACT}
    for case, chosen, members, rng in models(
        2, dags=algorithm == "pc", ordered=algorithm == "ordered_icd"
    ):
        knowledge = drawn(rng, chosen)
        if knowledge is None:
            continue
        plain = learn_structure(case.correlation, **arguments).pag.marks
        found = learn_structure(case.correlation, knowledge=knowledge, **arguments)
        total += judge(found, [m for m in members if agrees(m, knowledge)], knowledge)
        kept = (plain == 2) | (plain.T == 2) if algorithm == "pc" else plain > 1
        np.testing.assert_array_equal(found.pag.marks[kept], plain[kept])
        added += np.count_nonzero(found.pag.marks != plain)
    record_property("marks of the truth, found", total.tolist())
    assert total[1] >= (1.0 if algorithm == "ordered_icd" else 0.98) * total[0] > 300
    assert added > 50


@pytest.mark.parametrize("algorithm", ["ordered_icd", "icd", "fci"])
def test_causes_in_larger_models(algorithm, record_property):
    """Five and six nodes with latent ones, sparse enough to list the class."""
    rng = np.random.default_rng(3)
    total = np.zeros(2, dtype=int)
    done = 0
    while done < 20:
        n, latent = int(rng.integers(5, 7)), int(rng.integers(0, 4))
        case = truth.random_case(rng, n, latent, 0, rng.uniform(2.5, 4.0))
        mag = truth.mag_of(case.oracle)
        if not 5 <= np.count_nonzero(mag) // 2 <= 7 or not truth.is_faithful(case):
            continue
        knowledge = drawn(rng, mag)
        if knowledge is None:
            continue
        arguments: dict[str, Any] = {"algorithm": algorithm, **EXACT}
        members = truth.markov_class(mag, False)
        if algorithm == "ordered_icd":
            arguments["order"] = naive.order_of(case.weights, case.observed)
            tiers = np.argsort(arguments["order"])
            members = [m for m in members if truth.respects(m, tiers)]
        for variant in ("stable", "sequential"):
            found = learn_structure(
                case.correlation, knowledge=knowledge, variant=variant, **arguments
            )
            total += judge(found, [m for m in members if agrees(m, knowledge)], knowledge)
        done += 1
    record_property("marks of the truth, found", total.tolist())
    assert total[1] >= (1.0 if algorithm == "ordered_icd" else 0.95) * total[0] > 150


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("algorithm", ["icd", "fci"])
def test_causes_with_selection(algorithm, variant):
    """A cause has a tail; its effect may be one of the selection too. All marks are the truth's."""
    rng = np.random.default_rng(4)
    arguments: dict[str, Any] = {
        "algorithm": algorithm, "variant": variant, "selection_bias": True, **EXACT
    }  # fmt: skip
    done = added = undirected = 0
    while done < 60:
        n = int(rng.integers(4, 7))
        case = truth.random_case(rng, n, int(rng.integers(0, 2)), 1, rng.uniform(2.5, 4.0))
        if not truth.is_faithful(case):
            continue
        nodes = case.observed.tolist()
        weights = case.weights.copy()
        weights[:, case.selected] = 0  # what acts through the selection alone does not count
        up = naive.ancestry_of(weights)
        causes = [
            p
            for p in itertools.permutations(range(n), 2)
            if up.has_edge(*map(nodes.__getitem__, p))
        ]
        if not causes:
            continue
        said = some_of(rng, causes, 1, 3)
        mag = truth.mag_of(case.oracle)
        plain = learn_structure(case.correlation, **arguments).pag.marks
        found = learn_structure(
            case.correlation, knowledge=BackgroundKnowledge(ancestors=said), **arguments
        )
        marks = found.pag.marks
        np.testing.assert_array_equal(marks > 0, mag > 0)
        np.testing.assert_array_equal(marks[marks > 1], mag[marks > 1])
        np.testing.assert_array_equal(marks[plain > 1], plain[plain > 1])
        for i, j in said:
            assert possibly_directed(marks, i, j) and marks[j, i] in (0, 3)
            undirected += marks[i, j] == 3
        assert not len(found.restored)
        added += np.count_nonzero(marks != plain)
        done += 1
    assert added > 30 and undirected > 0
