"""Background knowledge: what may be said, what contradicts itself, and what it does to a result.

That all marks are right where the knowledge is true is in test_truth_knowledge, for every model of
four nodes.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from causal_lvlm import structure
from causal_lvlm.errors import KnowledgeError, StructureError
from causal_lvlm.structure import LearnedStructure
from tests import naive

# What is given and asked for here is not always what the annotations promise.
learn_structure: Any = structure.learn_structure
BackgroundKnowledge: Any = structure.BackgroundKnowledge

SETTINGS: dict[str, dict[str, Any]] = {
    "ordered_icd": {"algorithm": "ordered_icd"},
    "icd": {"algorithm": "icd"},
    "icd-selection": {"algorithm": "icd", "selection_bias": True},
    "fci": {"algorithm": "fci"},
    "fci-selection": {"algorithm": "fci", "selection_bias": True},
    "fci-order": {"algorithm": "fci", "order": True},
    "pc": {"algorithm": "pc"},
    "pc-order": {"algorithm": "pc", "order": True},
}
EXACT: dict[str, Any] = {"n_samples": 10**13, "alpha": 0.01}


def chosen(setting, rng, n):
    """Arguments of a setting; an order is drawn at random, so that nodes are renumbered."""
    arguments = dict(SETTINGS[setting])
    if arguments.pop("order", setting == "ordered_icd"):
        arguments["order"] = rng.permutation(n)
        arguments["tiers"] = np.empty(n, dtype=int)
        arguments["tiers"][arguments["order"]] = np.arange(n) // 2
    return arguments


def sample(rng, n, degree=3.0):
    """A correlation estimated from few samples: faithful to nothing."""
    weights = naive.random_dag(rng, n + 2, degree)
    data = rng.normal(size=(80, n + 2)) @ np.linalg.inv(np.eye(n + 2) - weights).T
    return np.corrcoef(data[:, :n].T)


def pairs_of(rng, n, count):
    """Different pairs, either node first."""
    everything = list(itertools.permutations(range(n), 2))
    picked = [everything[k] for k in rng.permutation(len(everything))]
    return list({frozenset(pair): pair for pair in picked}.values())[:count]


# --- what may be said -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"required": 3}, "pairs"),
        ({"required": None}, "pairs"),
        ({"required": "ab"}, "pairs"),
        ({"required": ["ab"]}, "pairs"),
        ({"required": [3]}, "pairs"),
        ({"required": {"a": "b"}}, "pairs"),
        ({"forbidden": [(0, 1, 2)]}, "pairs"),
        ({"forbidden_orientations": [{0, 1}]}, "pairs"),  # a set has no first node
        ({"required": [(0, 0)]}, "two different"),
        ({"required": [("a", np.str_("a"))]}, "two different"),
        ({"required": [(0, 1.0)]}, "number or a name"),
        ({"required": [(True, 0)]}, "number or a name"),
        ({"required": [([0], 1)]}, "number or a name"),
        ({"forbidden": [(None, 1)]}, "number or a name"),
        ({"forbidden": [({}, 1)]}, "number or a name"),
        ({"forbidden": [(np.zeros(2), np.zeros(2))]}, "number or a name"),
        ({"required": [(0, 1)], "forbidden": [(1, 0)]}, "both required and forbidden"),
        ({"required": [("b", "a")], "forbidden": [("a", "b")]}, "both required and forbidden"),
    ],
)
def test_what_is_no_knowledge(arguments, words):
    with pytest.raises(KnowledgeError, match=words):
        BackgroundKnowledge(**arguments)


def test_plain_pairs_from_arrays_and_iterators():
    knowledge = BackgroundKnowledge(
        required=np.array([[0, 1]], dtype=np.int8), forbidden=iter([["a", "b"]])
    )
    assert knowledge.required == ((0, 1),) and knowledge.forbidden == (("a", "b"),)
    assert all(type(node) is int for node in knowledge.required[0])
    assert knowledge == BackgroundKnowledge([(0, 1)], [("a", "b")])
    assert knowledge and not BackgroundKnowledge()
    assert BackgroundKnowledge(**knowledge.to_dict()) == knowledge


@pytest.mark.parametrize(
    ("knowledge", "words"),
    [
        ({"required": [(0, 4)]}, r"node 4; nodes are 0\.\.3"),
        ({"required": [(-1, 0)]}, "node -1"),
        ({"forbidden": [("a", "z")]}, "'z'"),
        ({"forbidden": [("a", "twice")]}, "several"),
        ({"required": [("a", 0)]}, "one node twice"),
        ({"required": [("a", 1)], "forbidden": [(0, "b")]}, "required and forbidden"),
    ],
)
def test_names_and_numbers_that_do_not_fit(knowledge, words):
    source = SimpleNamespace(correlation=np.eye(4), names=("a", "b", "twice", "twice"))
    with pytest.raises(KnowledgeError, match=words):
        learn_structure(source, threshold=0.1, knowledge=BackgroundKnowledge(**knowledge))


@pytest.mark.parametrize("given", [{}, [(0, 1)], {"required": [(0, 1)]}, "ab"])
def test_other_types_are_refused(given):
    with pytest.raises(KnowledgeError, match="BackgroundKnowledge"):
        learn_structure(np.eye(3), threshold=0.1, knowledge=given)


def test_names_need_names():
    with pytest.raises(KnowledgeError, match="none: nodes are numbers"):
        learn_structure(
            np.eye(3), threshold=0.1, knowledge=BackgroundKnowledge(required=[("a", "b")])
        )


def test_names_and_numbers_say_the_same(tmp_path):
    correlation = sample(np.random.default_rng(0), 6)
    names = tuple("abcdef")
    said = {"required": [(0, 3)], "forbidden": [(1, 2)], "forbidden_orientations": [(4, 0)]}
    by_name = {k: [(names[i], names[j]) for i, j in v] for k, v in said.items()}
    source = SimpleNamespace(correlation=correlation, names=names)
    for algorithm in ("ordered_icd", "icd", "fci", "pc"):
        one, other, without = (
            learn_structure(source, threshold=0.1, algorithm=algorithm, knowledge=knowledge)
            for knowledge in (
                BackgroundKnowledge(**said),
                BackgroundKnowledge(**by_name),
                BackgroundKnowledge(),
            )
        )
        assert one == other != without
    loaded = LearnedStructure.load(one.save(tmp_path / "one.json"))
    assert loaded == one and loaded.names == names
    assert BackgroundKnowledge(**loaded.parameters["knowledge"]) == BackgroundKnowledge(**said)
    np.testing.assert_array_equal(loaded.unseparated, one.unseparated)


@pytest.mark.parametrize(
    ("knowledge", "tiers", "words"),
    [
        ({"required": [(0, 1)], "forbidden_orientations": [(0, 1), (1, 0)]}, None, "both"),
        ({"required": [(0, 1)], "forbidden_orientations": [(0, 1)]}, [0, 1, 1, 1], "both"),
        (
            {
                "required": [(0, 1), (1, 2), (2, 0)],
                "forbidden_orientations": [(1, 0), (2, 1), (0, 2)],
            },
            None,
            "cycle",
        ),
        (
            {
                "required": [(0, 1), (1, 2), (2, 3)],
                "forbidden_orientations": [(1, 0), (2, 1), (3, 2), (0, 3)],
            },
            None,
            "0 -> 1 -> 2 -> 3, but 0 is said to be no cause of 3",
        ),
        (
            {"required": [(0, 1), (1, 3)], "forbidden_orientations": [(0, 3)]},
            [0, 1, 2, 3],
            "0 -> 1 -> 3",
        ),
    ],
)
def test_contradictions_without_latent_variables(knowledge, tiers, words):
    """Refused for PC; with latent variables there are edges with two arrowheads."""
    known = BackgroundKnowledge(**knowledge)
    with pytest.raises(KnowledgeError, match=words):
        learn_structure(np.eye(4), threshold=0.1, algorithm="pc", tiers=tiers, knowledge=known)
    found = learn_structure(np.eye(4), threshold=0.1, algorithm="fci", tiers=tiers, knowledge=known)
    assert found.pag.n_edges == len(known.required)


def test_one_direction_left_is_no_contradiction():
    knowledge = BackgroundKnowledge(
        required=[(0, 1), (1, 2), (0, 2)], forbidden_orientations=[(1, 0), (2, 1)]
    )
    found = learn_structure(np.eye(3), threshold=0.1, algorithm="pc", knowledge=knowledge)
    assert found.pag.marks.tolist() == [[0, 2, 2], [3, 0, 2], [3, 3, 0]]


def test_contradictions_of_what_is_found_are_reported():
    """Three edges in the data whose only directions form a cycle: known, but not foreseeable."""
    alike = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    for said, kinds in (
        ([(1, 0), (2, 1), (0, 2)], ["cycle"]),
        ([(0, 1), (1, 0)], []),
    ):
        found = learn_structure(
            alike, threshold=0.1, algorithm="pc",
            knowledge=BackgroundKnowledge(forbidden_orientations=said),
        )  # fmt: skip
        assert [violation.kind for violation in found.violations] == kinds
        assert found.pag.n_edges == 3
        if not kinds:  # neither direction: undirected, and counted
            assert found.pag.marks[0, 1] == found.pag.marks[1, 0] == 3 and found.conflicts


def test_selection_and_forbidden_orientations():
    with pytest.raises(StructureError, match="selection"):
        learn_structure(
            np.eye(3), threshold=0.1, algorithm="icd", selection_bias=True,
            knowledge=BackgroundKnowledge(forbidden_orientations=[(0, 1)]),
        )  # fmt: skip


# --- what it does -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_any_knowledge_is_obeyed(setting, variant):
    """Also where it contradicts the data."""
    rng = np.random.default_rng(1)
    blocked_edges = forced = 0
    for _ in range(25):
        n = int(rng.integers(4, 9))
        pairs = pairs_of(rng, n, 6)
        orientations = [] if "selection" in setting else pairs_of(rng, n, 4)
        if setting.startswith("pc"):  # required edges must have a direction left
            knowledge = BackgroundKnowledge([], pairs[2:], orientations)
        else:
            knowledge = BackgroundKnowledge(pairs[:2], pairs[2:], orientations)
        correlation = sample(rng, n)
        arguments = {"variant": variant, "threshold": 0.12, **chosen(setting, rng, n)}
        found = learn_structure(correlation, knowledge=knowledge, **arguments)
        marks = found.pag.marks
        for i, j in knowledge.required:
            assert marks[i, j] and marks[j, i]
            assert found.tests_of(i, j) == 0 and np.isnan(found.weakest(i, j))
        for i, j in knowledge.forbidden:
            assert not marks[i, j] and not marks[j, i]
            assert found.tests_of(i, j) > 0
            low, high = min(i, j), max(i, j)
            by_force = [low, high] in found.unseparated.tolist()
            forced += by_force
            assert (found.sepset(i, j) is None) == by_force == (found.weakest(i, j) > 0.12)
        for i, j in knowledge.forbidden_orientations:
            if marks[i, j] and not (setting.startswith("pc") and found.conflicts):
                assert marks[j, i] == 2
                blocked_edges += 1
        if setting.startswith("pc"):
            assert not ((marks == 2) & (marks.T == 2)).any()
        if not setting.startswith("fci"):
            assert found.evidence.tests.sum() == found.n_tests
    assert forced > 3
    assert blocked_edges > 3 or "selection" in setting


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_required_edges_do_not_need_a_correlation(setting, variant):
    arguments = chosen(setting, np.random.default_rng(2), 4)
    found = learn_structure(
        np.eye(4), threshold=0.1, variant=variant,
        knowledge=BackgroundKnowledge(required=[(2, 1), (3, 2)]), **arguments,
    )  # fmt: skip
    assert {(i, j) for i, j in np.argwhere(found.pag.marks).tolist()} == {
        (1, 2), (2, 1), (2, 3), (3, 2)
    }  # fmt: skip
    assert found.sepset(1, 3) == ()
    if not setting.startswith("fci"):  # which also asks whether its colliders are safe
        assert found.n_tests == 4


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if "order" not in s])
def test_nothing_follows_from_a_forbidden_edge(setting, variant):
    """0 - 1 - 2 and 0 - 2, never separated: without the last edge, 1 is still no collider."""
    correlation = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    found = learn_structure(
        correlation, threshold=0.1, variant=variant,
        knowledge=BackgroundKnowledge(forbidden=[(2, 0)]), **SETTINGS[setting],
    )  # fmt: skip
    open_mark = 3 if setting == "pc" else 1
    expected = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) * open_mark
    np.testing.assert_array_equal(found.pag.marks, expected)
    assert found.unseparated.tolist() == [[0, 2]] and found.sepset(0, 2) is None
    assert found.summary()["forbidden_without_separation"] == 1


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if "order" not in s])
def test_a_forbidden_edge_adds_no_marks(setting, variant):
    """A true edge is forbidden, which is wrong: then less is known, but nothing else is wrong.

    Rules that may use neither the edge nor its absence say at most what they said with it.
    """
    rng = np.random.default_rng(3)
    compared = fewer = 0
    for _ in range(60):
        n = int(rng.integers(5, 9))
        weights = naive.random_dag(rng, n + (0 if setting == "pc" else 2), 2.5)
        correlation = naive.population_correlation(weights, range(n))
        arguments = {"variant": variant, **EXACT, **SETTINGS[setting]}
        plain = learn_structure(correlation, **arguments)
        edges = np.argwhere(np.triu(plain.pag.marks))
        if not len(edges):
            continue
        i, j = edges[rng.integers(len(edges))].tolist()
        found = learn_structure(
            correlation, knowledge=BackgroundKnowledge(forbidden=[(j, i)]), **arguments
        )
        assert found.unseparated.tolist() == [[i, j]]
        expected, marks = plain.pag.marks.copy(), found.pag.marks
        expected[i, j] = expected[j, i] = 0
        np.testing.assert_array_equal(marks > 0, expected > 0)
        # what PC leaves open has tails at both ends
        definite = (marks == 2) | (marks.T == 2) if setting == "pc" else marks > 1
        np.testing.assert_array_equal(marks[definite], expected[definite])
        compared += 1
        fewer += bool((marks != expected).any())
    assert compared > 20 and fewer > 3


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("algorithm", ["icd", "fci", "ordered_icd"])
def test_true_knowledge_gives_true_marks(algorithm, variant):
    """Random models with latent variables, by their population correlation and their ancestry."""
    rng = np.random.default_rng(4)
    without = informed = 0
    for _ in range(25):
        weights = naive.random_dag(rng, 10, 2.5)
        seen = np.sort(rng.permutation(10)[:8])
        correlation = naive.population_correlation(weights, seen)
        up = naive.ancestry_of(weights)
        is_cause = np.array([[up.has_edge(a, b) for b in seen] for a in seen])
        arguments: dict[str, Any] = {"algorithm": algorithm, "variant": variant, **EXACT}
        if algorithm == "ordered_icd":
            arguments["order"] = naive.order_of(weights, seen)
        plain = learn_structure(correlation, **arguments)
        edges = plain.pag.marks > 0
        no_cause = [pair for pair in pairs_of(rng, 8, 28) if not is_cause[pair]][:8]
        knowledge = BackgroundKnowledge(
            [pair for pair in pairs_of(rng, 8, 28) if edges[pair]][:3],
            [pair for pair in pairs_of(rng, 8, 28) if not edges[pair]][:8],
            no_cause,
        )
        found = learn_structure(correlation, knowledge=knowledge, **arguments)
        marks = found.pag.marks
        np.testing.assert_array_equal(marks > 0, edges)
        assert not len(found.unseparated) and not found.conflicts and not found.violations
        for i, j in np.argwhere(marks == 2):
            assert not is_cause[j, i]
        for i, j in np.argwhere(marks == 3):
            assert is_cause[j, i]
        kept = plain.pag.marks > 1
        np.testing.assert_array_equal(marks[kept], plain.pag.marks[kept])
        without += int((plain.pag.marks > 1).sum())
        informed += int((marks > 1).sum())
    assert informed > without or (algorithm == "ordered_icd" and informed == without)
