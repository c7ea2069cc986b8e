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
from causal_lvlm.structure.paths import possibly_directed
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
        ({"required_causes": [(0, 1)], "forbidden": [(1, 0)]}, "both required and forbidden"),
        ({"required_causes": [(0, 0)]}, "two different"),
        ({"ancestors": [{0, 1}]}, "ancestors must hold pairs"),
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
    # files of results without causes stay as they were
    assert set(knowledge.to_dict()) == {"required", "forbidden", "forbidden_orientations"}
    causes = BackgroundKnowledge(required_causes=[(0, 1)], ancestors=iter([("a", "b")]))
    assert causes.to_dict()["required_causes"] == [[0, 1]]
    assert BackgroundKnowledge(**causes.to_dict()) == causes and causes


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
    said = {
        "required": [(0, 3)],
        "forbidden": [(1, 2)],
        "forbidden_orientations": [(4, 0)],
        "required_causes": [(1, 3)],
        "ancestors": [(2, 5), (1, 4)],
    }
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
    np.testing.assert_array_equal(loaded.restored, one.restored)


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


CONTRADICTIONS: list[tuple[dict[str, Any], list[int] | None, str]] = [
    ({"ancestors": [(0, 1), (1, 0)]}, None, "0 -> 1 -> 0"),
    ({"ancestors": [(0, 1), (2, 0)], "required_causes": [(1, 2)]}, None, "1 -> 2 -> 0 -> 1"),
    (
        {"ancestors": [(0, 1)], "forbidden_orientations": [(0, 1)]},
        None,
        "0 -> 1, but 0 is said to be no cause of 1",
    ),
    (
        {"ancestors": [(0, 1)], "required_causes": [(1, 2)], "forbidden_orientations": [(0, 2)]},
        None,
        "0 -> 1 -> 2, but 0 is said to be no cause of 2",
    ),
    ({"ancestors": [(2, 1)]}, [0, 1, 2, 3], "2 -> 1, but 2 comes after 1 in the order or tiers"),
    ({"required_causes": [(3, 0)]}, [0, 0, 0, 1], "3 -> 0, but 3 comes after 0"),
    # 0 -> 3 must go through 1 or 2
    ({"ancestors": [(0, 3)], "forbidden": [(0, 3), (0, 1), (2, 3), (2, 1)]}, None, "0 to 3 is"),
    (
        {
            "ancestors": [(0, 3)],
            "forbidden": [(0, 3), (0, 1), (1, 2)],
            "forbidden_orientations": [(2, 3)],
        },
        None,
        "0 is said to be a cause of 3, but every way",
    ),
    ({"ancestors": [(0, 3)], "forbidden": [(0, 3), (0, 1), (2, 1)]}, [0, 1, 3, 2], "every way"),
    # what 3 is a cause of does not lead to it
    ({"ancestors": [(0, 3), (3, 2)], "forbidden": [(0, 3), (0, 1)]}, None, "every way from 0 to 3"),
]


@pytest.mark.parametrize("algorithm", ["ordered_icd", "icd", "fci", "pc"])
@pytest.mark.parametrize(("knowledge", "tiers", "words"), CONTRADICTIONS)
def test_causes_that_contradict_other_knowledge(knowledge, tiers, words, algorithm):
    known = BackgroundKnowledge(**knowledge)
    if algorithm == "icd" and tiers is not None:
        pytest.skip("icd takes no tiers")
    given = {"ordered_icd": [0, 0, 0, 0]}.get(algorithm) if tiers is None else tiers
    with pytest.raises(KnowledgeError, match=words):
        learn_structure(np.eye(4), threshold=0.1, algorithm=algorithm, tiers=given, knowledge=known)


def test_causes_and_the_order_of_rows():
    """The default of ordered_icd; names are named."""
    source = SimpleNamespace(correlation=np.eye(3), names=("a", "b", "c"))
    with pytest.raises(KnowledgeError, match="'c' -> 'a', but 'c' comes after 'a'"):
        learn_structure(
            source, threshold=0.1, algorithm="ordered_icd",
            knowledge=BackgroundKnowledge(ancestors=[("c", "a")]),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("knowledge", "words"),
    [
        ({"required": [(0, 1)], "forbidden_orientations": [(1, 0)], "ancestors": [(1, 2)]}, None),
        (  # 0 -> 1, but no cause of 2 is an effect of 0
            {
                "required": [(0, 1)],
                "forbidden_orientations": [(1, 0), (0, 2)],
                "ancestors": [(1, 2)],
            },
            "0 - 1 is required, but .* or tiers, and known causes",
        ),
        (
            {
                "required": [(0, 1), (1, 3)],
                "forbidden_orientations": [(1, 0), (3, 1), (0, 2)],
                "ancestors": [(3, 2)],
            },
            "and known causes, make 0 -> 1 -> 3 -> 2, but 0 is said to be no cause of 2",
        ),
        (
            {
                "required": [(0, 1), (1, 2), (2, 3)],
                "forbidden_orientations": [(1, 0), (2, 1), (3, 2)],
                "ancestors": [(3, 0)],
            },
            "and known causes, form a cycle: 0 -> 1 -> 2 -> 3 -> 0",
        ),
    ],
)
def test_causes_and_directions_that_are_left_for_pc(knowledge, words):
    known = BackgroundKnowledge(**knowledge)
    options = {"threshold": 0.1, "knowledge": known}
    if words is None:
        learn_structure(np.eye(4), algorithm="pc", **options)
    else:
        with pytest.raises(KnowledgeError, match=words):
            learn_structure(np.eye(4), algorithm="pc", **options)
    learn_structure(np.eye(4), algorithm="fci", **options)


@pytest.mark.parametrize("algorithm", ["icd", "fci"])
def test_causes_and_selection(algorithm):
    """They go together, and still must not form a cycle."""
    options = {"threshold": 0.1, "algorithm": algorithm, "selection_bias": True}
    found = learn_structure(
        np.eye(3), knowledge=BackgroundKnowledge(required_causes=[(0, 1)]), **options
    )
    assert found.pag.marks[:2, :2].tolist() == [[0, 1], [3, 0]]
    with pytest.raises(KnowledgeError, match="cycle"):
        learn_structure(
            np.eye(3), knowledge=BackgroundKnowledge(ancestors=[(0, 1), (1, 0)]), **options
        )


def test_marks_follow_along_chains_of_causes():
    """0 is a cause of 1, and 2 none of 1: then 2 is none of 0, and 0 none of what 1 is none of."""
    known = BackgroundKnowledge(
        required_causes=[(0, 1)], ancestors=[(1, 3)],
        forbidden_orientations=[(2, 1), (0, 4)],
    ).masks(5)  # fmt: skip
    expected = np.zeros((5, 5), dtype=int)
    expected[[0, 0, 1], [1, 3, 3]] = 2
    expected[[1, 3, 3], [0, 0, 1]] = 3
    expected[[1, 0], [2, 2]] = 2  # 2 is no cause of 1, nor of its cause 0
    expected[4, [0, 1, 3]] = 2  # 0 is no cause of 4, nor are its effects 1 and 3
    np.testing.assert_array_equal(known.known, expected)
    assert known.required.sum() == 2 and known.causes.sum() == 3


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


def topological(rng, n, count):
    """Pairs that are no cycle, the first node a cause of the second."""
    number = rng.permutation(n)
    return [(i, j) if number[i] < number[j] else (j, i) for i, j in pairs_of(rng, n, count)]


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_any_causes_are_obeyed(setting, variant):
    """Also where they contradict the data: an edge comes back where no path was left."""
    rng = np.random.default_rng(5)
    back = tails = 0
    for _ in range(25):
        n = int(rng.integers(4, 9))
        correlation = sample(rng, n)
        arguments = {"variant": variant, "threshold": 0.12, **chosen(setting, rng, n)}
        causes = topological(rng, n, 4)
        if "tiers" in arguments:
            tiers = arguments["tiers"]
            causes = [(j, i) if tiers[i] > tiers[j] else (i, j) for i, j in causes]
        knowledge = BackgroundKnowledge(required_causes=causes[:1], ancestors=causes[1:])
        try:
            found = learn_structure(correlation, knowledge=knowledge, **arguments)
        except KnowledgeError as error:  # turned round by tiers they may form a cycle
            assert "cycle" in str(error) and "tiers" in arguments
            continue
        marks = found.pag.marks
        for i, j in causes:
            assert possibly_directed(marks, i, j)
            assert marks[j, i] in (0, 3)
            assert not marks[i, j] or marks[i, j] == 2 or "selection" in setting
            tails += marks[j, i] == 3
        assert all(marks[pair] for pair in knowledge.required_causes)
        above = knowledge.masks(n).causes
        for i, j in found.restored.tolist():
            assert above[i, j] and marks[j, i] == 3 and found.sepset(i, j) is None
            assert found.weakest(i, j) <= 0.12
        assert len(found.restored) == found.summary().get("restored_causes", 0)
        assert len(found.restored) == 0 or any("is known to be a cause" in n for n in found.notes)
        back += len(found.restored)
        # renumbered: the same graph
        new = rng.permutation(n)
        place = np.argsort(new)
        if "order" not in arguments and variant == "stable":
            other = learn_structure(
                correlation[np.ix_(new, new)],
                knowledge=BackgroundKnowledge(
                    **{
                        name: [(place[i], place[j]) for i, j in pairs]
                        for name, pairs in knowledge.to_dict().items()
                    }
                ),
                **arguments,
            )
            np.testing.assert_array_equal(other.pag.marks, marks[np.ix_(new, new)])
    assert back > 5 and tails > 20


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if "order" not in s])
def test_a_cause_that_the_data_deny(setting, variant, tmp_path):
    """Nothing depends on anything, but 0 is a cause of 1, and 1 of 2: two edges, and no third."""
    knowledge = BackgroundKnowledge(ancestors=[(0, 2), (1, 2), (0, 1)])
    arguments = {"threshold": 0.1, "variant": variant, **SETTINGS[setting]}
    found = learn_structure(np.eye(4), knowledge=knowledge, **arguments)
    assert found.restored.tolist() == [[0, 1], [1, 2]]
    assert {tuple(pair) for pair in np.argwhere(np.triu(found.pag.marks)).tolist()} == {
        (0, 1), (1, 2)
    }  # fmt: skip
    assert found.sepset(0, 1) is None and found.sepset(0, 2) == ()
    assert "0 -> 1, 1 -> 2 separated by the data" in "".join(found.notes)
    loaded = LearnedStructure.load(found.save(tmp_path / "one.json"))
    assert loaded == found and loaded.restored.tolist() == [[0, 1], [1, 2]]
    assert loaded.summary()["restored_causes"] == 2
    # as a required cause it is there from the start
    again = learn_structure(
        np.eye(4), knowledge=BackgroundKnowledge(required_causes=[(0, 1), (1, 2)]), **arguments
    )
    assert not len(again.restored) and again != found
    np.testing.assert_array_equal(again.pag.marks, found.pag.marks)


def test_a_cause_whose_edge_is_forbidden():
    """A way through others is allowed, but the data have none: it is said, and no edge invented."""
    knowledge = BackgroundKnowledge(ancestors=[(0, 2)], forbidden=[(0, 2)])
    found = learn_structure(np.eye(3), threshold=0.1, algorithm="icd", knowledge=knowledge)
    assert not found.pag.marks.any() and not len(found.restored)
    assert "no possibly directed path is left for 0 to 2" in "".join(found.notes)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
def test_chains_back_to_a_cause_are_named(variant):
    """The data make 2 -> 0 by way of 1 with what is known of 0 - 1 and 1 - 2; 0 is a cause of 2."""
    data = np.random.default_rng(0).normal(size=(500, 5))
    data[:, 1] += data[:, 2] + data[:, 3]
    data[:, 0] += data[:, 1] + data[:, 4]
    knowledge = BackgroundKnowledge(ancestors=[(0, 2)])
    found = learn_structure(data, alpha=0.001, algorithm="pc", variant=variant, knowledge=knowledge)
    assert found.pag.marks[2, 1] == 2 and found.pag.marks[1, 0] == 2
    assert "known causes are contradicted by a chain" in "".join(found.notes)
    assert "2 to 0" in "".join(found.notes)
