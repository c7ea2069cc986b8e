"""Every orientation rule of PAGs by itself: where it acts, and near misses where it must not.

A rule is applied once to the marks as they stand. Each near miss differs from a match in one
premise only.
"""

from __future__ import annotations

import numpy as np
import pytest
from causal_kernels import cycles, orientation, selection, tails
from causal_kernels.graph import FORBIDDEN, NONE, neighbour_lists

from tests.naive_rules import (
    Orientation,
    from_array,
    read_graph,
    separator_arrays,
    to_array,
    write_graph,
)


def apply(rule, text, sepsets=None, simultaneous=True, frozen=()):
    """Apply one rule; ``sepsets`` maps "AC" to "B..." and ``frozen`` names marks, "AB" = at B."""
    marks, names = read_graph(text)
    n = len(names)
    lists = neighbour_lists(marks)
    claims = np.zeros((n, n), dtype=np.uint8)
    for a, b in frozen:
        claims[names.index(a), names.index(b)] = orientation.CONFLICT
    index = {
        tuple(sorted(map(names.index, pair))): [names.index(name) for name in members]
        for pair, members in (sepsets or {}).items()
    }
    sep = separator_arrays(n, index)
    if rule == 0:
        orientation.rule_0(marks, claims, *lists, *sep, simultaneous)
    elif rule in (1, 2, 3):
        function = (orientation.rule_1, orientation.rule_2, orientation.rule_3)[rule - 1]
        function(marks, claims, *lists, simultaneous)
    elif rule == 4:
        work = (np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64))
        orientation.rule_4(marks, claims, *lists, *sep, simultaneous, *work)
    elif rule == 5:
        found, source, target, given_up = cycles.rule_5(marks, *lists, 1000)
        assert given_up == 0
        marks[source[found == 1], target[found == 1]] = 3
    elif rule in (6, 7):
        (selection.rule_6 if rule == 6 else selection.rule_7)(marks, claims, *lists)
    elif rule == 8:
        tails.rule_8(marks, claims, *lists)
    else:
        seen = np.full(len(lists[1]), -1, dtype=np.int64)
        queue = np.empty((len(lists[1]) + 1, 2), dtype=np.int64)
        met = np.empty(n, dtype=np.int64)
        stamp = 0
        for a in range(n):
            reach = np.zeros((n, n), dtype=np.uint8)
            stamp = tails.uncovered_reach(marks, *lists, a, reach, seen, stamp, queue)
            if rule == 9:
                tails.rule_9(marks, claims, *lists, a, reach)
            else:
                tails.rule_10(marks, claims, *lists, a, reach, met)
    orientation._settle(marks, claims, *lists)
    return write_graph(marks, names), int((claims == orientation.CONFLICT).sum())


def lines(text):
    return write_graph(*read_graph(text))


# rule, separating sets, match, what becomes of it
MATCHES = [
    (0, {"AC": ""}, "A o-o B,B o-o C", "A o-> B,B <-o C"),
    (0, {"AC": "D", "AD": "B", "CD": "B"}, "A <-o B,B o-> C,B o-o D", "A <-> B,B <-> C,B o-o D"),
    (1, None, "A o-> B,B o-o C", "A o-> B,B --> C"),
    (1, None, "A <-> B,B o-> C", "A <-> B,B --> C"),
    (1, None, "A --> B,B o-> C", "A --> B,B --> C"),
    (2, None, "A --> B,B o-> C,A o-o C", "A --> B,B o-> C,A o-> C"),
    (2, None, "A o-> B,B --> C,A o-o C", "A o-> B,B --> C,A o-> C"),
    (2, None, "A --> B,B <-> C,A --o C", "A --> B,B <-> C,A --> C"),
    (3, None, "A o-> B,C o-> B,A o-o D,C o-o D,D o-o B", "A o-> B,C o-> B,A o-o D,C o-o D,D o-> B"),
    (3, None, "A <-> B,C --> B,A --o D,C <-o D,D <-o B", "A <-> B,C --> B,A --o D,C <-o D,D <-> B"),
    (4, {"CD": "AB"}, "D o-> A,A <-> B,A --> C,B o-> C", "D o-> A,A <-> B,A --> C,B --> C"),
    (4, {"CD": "A"}, "D o-> A,A <-> B,A --> C,B o-> C", "D o-> A,A <-> B,A --> C,B <-> C"),
    (4, {"CD": "A"}, "D o-> A,A <-o B,A --> C,B o-o C", "D o-> A,A <-> B,A --> C,B <-> C"),
    (
        4, {"CD": "ABE"},
        "D o-> E,E <-> A,A <-> B,A --> C,E --> C,B o-> C",
        "D o-> E,E <-> A,A <-> B,A --> C,E --> C,B --> C",
    ),
    (5, None, "A o-o B,B o-o C,C o-o D,D o-o A", "A --- B,B --- C,C --- D,D --- A"),
    (
        5, None,  # the chord A o-o C cuts off a triangle and is on the cycle that is left
        "A o-o B,B o-o C,C o-o D,D o-o E,E o-o A,A o-o C",
        "A o-o B,B o-o C,C --- D,D --- E,E --- A,A --- C",
    ),
    (
        5, None,  # two cycles through one node, and an edge between two cycles
        "A o-o B,B o-o C,C o-o D,D o-o A,A o-o E,E o-o F,F o-o G,G o-o H,H o-o E",
        "A --- B,B --- C,C --- D,D --- A,A o-o E,E --- F,F --- G,G --- H,H --- E",
    ),
    (
        5, None,  # the shorter cycle is shielded by an edge that is not o-o, the longer is not
        "A o-o B,B o-o C,C o-o D,D o-o E,E o-o A,C o-> E,B o-o F,F o-o G,G o-o H,H o-o I,I o-o A",
        "A --- B,B o-o C,C o-o D,D o-o E,E o-o A,C o-> E,B --- F,F --- G,G --- H,H --- I,I --- A",
    ),
    (6, None, "A --- B,B o-o C", "A --- B,B --o C"),
    (6, None, "A --- B,B o-- C", "A --- B,B --- C"),
    (6, None, "A --- B,B o-> C", "A --- B,B --> C"),
    (7, None, "A --o B,B o-o C", "A --o B,B --o C"),
    (7, None, "A --o B,B o-> C", "A --o B,B --> C"),
    (7, None, "A --o B,B o-- C", "A --o B,B --- C"),  # R6 does the rest
    (8, None, "A --> B,B --> C,A o-> C", "A --> B,B --> C,A --> C"),
    (8, None, "A --o B,B --> C,A o-> C", "A --o B,B --> C,A --> C"),
    (9, None, "A o-> C,A o-o B,B o-> D,D --> C", "A --> C,A o-o B,B o-> D,D --> C"),
    (9, None, "A o-> C,A o-o B,B o-o D,D o-o C", "A --> C,A o-o B,B o-o D,D o-o C"),
    (9, None, "A o-> C,A --o B,B --o D,D --> C", "A --> C,A --o B,B --o D,D --> C"),
    (
        10, None,
        "A o-> C,B --> C,D --> C,A o-> B,A o-> D",
        "A --> C,B --> C,D --> C,A o-> B,A o-> D",
    ),
    (
        10, None,
        "A o-> C,B --> C,D --> C,A --o B,A o-o D",
        "A --> C,B --> C,D --> C,A --o B,A o-o D",
    ),
    (
        10, None,  # longer ways
        "A o-> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,E o-o C,F o-o C",
        "A --> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,E o-o C,F o-o C",
    ),
    (
        10, None,  # two ways of which one can end at B and at D, the other at B only
        "A o-> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,F o-> B,E o-o C,F o-o C,B o-o D",
        "A --> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,F o-> B,E o-o C,F o-o C,B o-o D",
    ),
]  # fmt: skip

# rule, the premise that fails, separating sets, near miss
MISSES = [
    (0, "B separates", {"AC": "B"}, "A o-o B,B o-o C"),
    (0, "A and C adjacent", None, "A o-o B,B o-o C,A o-o C"),
    (0, "A and C forbidden", {"AC": ""}, "A o-o B,B o-o C,A xxx C"),
    (0, "A-B forbidden", {"AC": "", "BC": ""}, "A xxx B,B o-o C"),
    (1, "no arrowhead at B", None, "A o-o B,B o-o C"),
    (1, "tail at B from A", None, "A o-- B,B o-o C"),
    (1, "no circle at B", None, "A o-> B,B <-o C"),
    (1, "A and C adjacent", None, "A o-> B,B o-o C,A o-o C"),
    (1, "A and C forbidden", None, "A o-> B,B o-o C,A xxx C"),
    (2, "neither edge directed", None, "A o-> B,B o-> C,A o-o C"),
    (2, "both bidirected", None, "A <-> B,B <-> C,A o-o C"),
    (2, "no arrowhead at C", None, "A --> B,B o-o C,A o-o C"),
    (2, "no arrowhead at B", None, "A o-o B,B --> C,A o-o C"),
    (2, "no circle at C", None, "A --> B,B o-> C,A o-- C"),
    (2, "A and C not adjacent", None, "A --> B,B o-> C"),
    (2, "A-B forbidden", None, "A xxx B,B --> C,A o-o C"),
    (3, "no arrowhead A to B", None, "A o-o B,C o-> B,A o-o D,C o-o D,D o-o B"),
    (3, "no arrowhead C to B", None, "A o-> B,C o-o B,A o-o D,C o-o D,D o-o B"),
    (3, "no circle at D from A", None, "A o-> B,C o-> B,A o-> D,C o-o D,D o-o B"),
    (3, "no circle at D from C", None, "A o-> B,C o-> B,A o-o D,C o-- D,D o-o B"),
    (3, "no circle at B", None, "A o-> B,C o-> B,A o-o D,C o-o D,D o-- B"),
    (3, "A and C adjacent", None, "A o-> B,C o-> B,A o-o D,C o-o D,D o-o B,A o-o C"),
    (3, "A and C forbidden", None, "A o-> B,C o-> B,A o-o D,C o-o D,D o-o B,A xxx C"),
    (4, "D and C adjacent", None, "D o-> A,A <-> B,A --> C,B o-> C,C o-o D"),
    (4, "D and C forbidden", {"CD": "AB"}, "D o-> A,A <-> B,A --> C,B o-> C,C xxx D"),
    (4, "A no parent of C", {"CD": "AB"}, "D o-> A,A <-> B,A o-> C,B o-> C"),
    (4, "A no collider: B", {"CD": "AB"}, "D o-> A,A o-> B,A --> C,B o-> C"),
    (4, "A no collider: D", {"CD": "AB"}, "D o-o A,A <-> B,A --> C,B o-> C"),
    (4, "no circle at B", {"CD": "AB"}, "D o-> A,A <-> B,A --> C,B <-> C"),
    (4, "A-C forbidden", {"CD": "AB"}, "D o-> A,A <-> B,A xxx C,B o-> C"),
    (4, "inner node no parent", {"CD": "ABE"}, "D o-> E,E <-> A,A <-> B,A --> C,E o-> C,B o-> C"),
    (4, "inner node no collider", {"CD": "ABE"}, "D o-> E,E --> A,A <-> B,A --> C,E --> C,B o-> C"),
    (5, "a shielded triple", None, "A o-o B,B o-o C,C o-o D,D o-o A,A o-o C"),
    (5, "shielded by an arrow", None, "A o-o B,B o-o C,C o-o D,D o-o A,A o-> C"),
    (5, "a forbidden pair", None, "A o-o B,B o-o C,C o-o D,D o-o A,A xxx C"),
    (5, "one edge not o-o", None, "A o-o B,B o-o C,C o-o D,D o-> A"),
    (5, "one edge with a tail", None, "A o-o B,B o-o C,C o-o D,D --o A"),
    (5, "no cycle", None, "A o-o B,B o-o C,C o-o D"),
    (5, "a triangle", None, "A o-o B,B o-o C,C o-o A"),
    (5, "wheel: every triple of the rim ends at the hub", None,
     "A o-o B,B o-o C,C o-o D,D o-o A,A o-o E,B o-o E,C o-o E,D o-o E,A o-o C"),
    (6, "A-B not undirected: B", None, "A --o B,B o-o C,A o-o C"),
    (6, "A-B not undirected: A", None, "A o-- B,B o-o C"),
    (6, "no circle at B", None, "A --- B,B <-o C"),
    (7, "no tail at A", None, "A o-o B,B o-o C"),
    (7, "arrowhead at A", None, "A <-o B,B o-o C"),
    (7, "arrowhead at B from A", None, "A --> B,B o-o C"),
    (7, "no circle at B", None, "A --o B,B <-o C"),
    (7, "A and C adjacent", None, "A --o B,B o-o C,A o-o C"),
    (7, "A and C forbidden", None, "A --o B,B o-o C,A xxx C"),
    (8, "no tail at A", None, "A o-> B,B --> C,A o-> C"),
    (8, "undirected A - B", None, "A --- B,B --> C,A o-> C"),
    (8, "no tail at B", None, "A --> B,B o-> C,A o-> C"),
    (8, "no arrowhead at C from B", None, "A --> B,B --o C,A o-> C"),
    (8, "no arrowhead at C from A", None, "A --> B,B --> C,A o-o C"),
    (8, "no circle at A", None, "A --> B,B --> C,A <-> C"),
    (8, "B-C forbidden", None, "A --> B,B xxx C,A o-> C"),
    (9, "arrowhead towards A on the path", None, "A o-> C,A o-o B,B <-o D,D --> C"),
    (9, "tail at a later end", None, "A o-> C,A o-o B,B o-- D,D --> C"),
    (9, "undirected edge on the path", None, "A o-> C,A --- B,B --o D,D --> C"),
    (9, "path covered at B", None, "A o-> C,A o-o B,B o-> D,D --> C,A o-o D"),
    (9, "path covered at D", None, "A o-> C,A o-o B,B o-> D,D --> C,B --o C"),
    (9, "covered by a forbidden pair", None, "A o-> C,A o-o B,B o-> D,D --> C,A xxx D"),
    (9, "B and C forbidden", None, "A o-> C,A o-o B,B o-> D,D o-o E,E o-> C,B xxx C"),
    (9, "B and C adjacent", None, "A o-> C,A o-o B,B o-> D,D o-> E,E o-> C,B o-o C"),
    (9, "no arrowhead at C", None, "A o-o C,A o-o B,B o-> D,D --> C"),
    (9, "no circle at A", None, "A <-> C,A o-o B,B o-> D,D --> C"),
    (10, "adjacent first nodes", None, "A o-> C,B --> C,D --> C,A o-> B,A o-> D,B o-o D"),
    (10, "forbidden first nodes", None, "A o-> C,B --> C,D --> C,A o-> B,A o-> D,B xxx D"),
    (10, "B no parent", None, "A o-> C,B o-> C,D --> C,A o-> B,A o-> D"),
    (10, "D no parent", None, "A o-> C,B --> C,D --o C,A o-> B,A o-> D"),
    (10, "no way to B", None, "A o-> C,B --> C,D --> C,A <-o B,A o-> D"),
    (10, "no way to D", None, "A o-> C,B --> C,D --> C,A o-> B,A o-- D"),
    (10, "no circle at A", None, "A <-> C,B --> C,D --> C,A o-> B,A o-> D"),
    (10, "no arrowhead at C", None, "A o-o C,B --> C,D --> C,A o-> B,A o-> D"),
    (10, "both ways end at the same parent", None,
     "A o-> C,B --> C,A o-o E,E o-> B,A o-o F,F o-> B,E o-o C,F o-o C"),
    (10, "one way begins with C", None,
     "A o-> C,C o-o E,E o-o F,F o-> D,D --> C,A o-> G,G o-> B,B --> C"),
    (10, "the other way begins with C", None,
     "A o-> Z,Z o-o E,E o-o F,F o-> D,D --> Z,A o-> G,G o-> B,B --> Z"),
    (10, "a way is covered", None,
     "A o-> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,E o-o C,F o-o C,A <-o B"),
]  # fmt: skip


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
@pytest.mark.parametrize(("rule", "sepsets", "before", "after"), MATCHES)
def test_match(rule, sepsets, before, after, simultaneous):
    assert apply(rule, before, sepsets, simultaneous) == (lines(after), 0)


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
@pytest.mark.parametrize(
    ("rule", "premise", "sepsets", "graph"), MISSES, ids=[f"R{m[0]} {m[1]}" for m in MISSES]
)
def test_near_miss(rule, premise, sepsets, graph, simultaneous):
    assert apply(rule, graph, sepsets, simultaneous) == (lines(graph), 0)


def test_every_rule_has_both():
    assert {match[0] for match in MATCHES} == {miss[0] for miss in MISSES} == set(range(11))


@pytest.mark.parametrize(
    ("rule", "frozen", "before"),
    [
        (6, ["CB"], "A --- B,B o-o C"),
        (7, ["CB"], "A --o B,B o-o C"),
        (8, ["CA"], "A --> B,B --> C,A o-> C"),
        (9, ["CA"], "A o-> C,A o-o B,B o-> D,D --> C"),
        (10, ["CA"], "A o-> C,B --> C,D --> C,A o-> B,A o-> D"),
    ],
)
def test_conflicting_circles_stay(rule, frozen, before):
    assert apply(rule, before)[0] != lines(before)
    assert apply(rule, before, frozen=frozen) == (lines(before), 1)


def test_contradicting_claims_leave_a_circle():
    """R1 from both sides of B o-o C claims B -> C and C -> B at once."""
    graph = "A o-> B,B o-o C,C <-o D"
    assert apply(1, graph) == (lines(graph), 2)
    # one after the other the first one wins
    assert apply(1, graph, simultaneous=False) == (lines("A o-> B,B --> C,C <-o D"), 0)


def test_selection_rules_follow_each_other():
    """A cycle, then R6 at its node A, R7 along the tail of the graph, which ends at a triangle."""
    marks, names = read_graph(
        "A o-o B,B o-o C,C o-o D,D o-o A,A o-o E,E o-o F,F o-> G,F o-o H,H o-o I,F o-o I"
    )
    claims = np.zeros(marks.shape, dtype=np.uint8)
    assert selection.complete_selection(marks, claims, True) == 0
    assert write_graph(marks, names) == lines(
        "A --- B,B --- C,C --- D,D --- A,A --o E,E --o F,F --> G,F --o H,H o-o I,F --o I"
    )


def test_rule_5_freezes_marks_one_by_one():
    """On the cycle A B C D the circle at B on A-B is one of contradicting claims."""
    marks, names = read_graph("A o-o B,B o-o C,C o-o D,D o-o A")
    claims = np.zeros(marks.shape, dtype=np.uint8)
    claims[0, 1] = orientation.CONFLICT
    selection.complete_selection(marks, claims, True)
    assert write_graph(marks, names) == lines("A --o B,B --- C,C --- D,D --- A")


# the shortest uncovered walk from some edges back to themselves meets a node twice
HARD = (
    "A o-o C,A o-o D,A o-o E,A o-o H,A o-o I,B o-o F,B o-o I,C o-o E,C o-o G,C o-o I,D o-o E,"
    "D o-o F,D o-o H,D o-o I,E o-o H,G o-o H,G o-o I"
)


def test_rule_5_gives_up():
    """An edge whose search costs too much keeps its circles, and is counted."""
    marks, names = read_graph(HARD)
    lists = neighbour_lists(marks)
    whole, source, target, given_up = cycles.rule_5(marks, *lists, 10_000)
    assert given_up == 0
    twin = Orientation(from_array(marks), len(names), {}, True)
    twin.rule_5()
    undirected = to_array(twin.mark, len(names))[source, target] == 3
    np.testing.assert_array_equal(whole == 1, undirected)
    found, _, _, given_up = cycles.rule_5(marks, *lists, 0)
    assert given_up > 0 and (found <= whole).all()
    # the edges A-D and A-E have such a walk, but no cycle
    kept = write_graph(marks, names) & write_graph(to_array(twin.mark, len(names)), names)
    assert kept == {"A o-o D", "A o-o E"}


def test_rule_5_extends_paths():
    """The edge A-B is on one cycle only, and looking for it leads astray.

    The shortest path from B to A (C D H) has a shielded triple C D H; the shortest walk goes round
    E F G between D and D; the cycle I J K F L M N O shares the node F with that.
    """
    marks, names = read_graph(
        "A o-o B,B o-o C,C o-o D,D o-o E,E o-o F,F o-o G,D o-o G,D o-o H,A o-o H,C o-> H,"
        "B o-o I,I o-o J,J o-o K,F o-o K,F o-o L,L o-o M,M o-o N,N o-o O,A o-o O,"
        "E o-> K,G o-> K,E o-> L,G o-> L"
    )
    n = len(names)
    first, source, target, reverse = cycles._circle_lists(marks, *neighbour_lists(marks))
    component = cycles._components(marks, first, source, target)
    count = len(source)
    assert (source[0], target[0]) == (0, 1)
    work = [np.empty(size, dtype=np.int64) for size in (count, count, n)]
    for array in work:
        array[:] = -1
    around = cycles._around(marks, first, source, target, 0, *work, 0)
    assert around == -1
    found = np.zeros(count, dtype=np.uint8)
    seen = np.full(count, -1, dtype=np.int64)
    on_path = np.zeros(n, dtype=np.uint8)
    walk = (marks, first, source, target, component, 0, 0)
    last, simple, _ = cycles._walk_back(*walk, on_path, seen, 1, *work)
    assert last >= 0 and simple == 0
    search = [np.empty(n + 1, dtype=np.int64) for _ in range(2)]
    status, _ = cycles._extend_paths(
        marks, first, source, target, reverse, component, 0, 10_000, found, seen, 2, *work,
        on_path, *search,
    )  # fmt: skip
    assert status == 1 and not on_path.any()
    edges = {
        names[i] + names[j] for i, j in zip(source[found == 1], target[found == 1], strict=True)
    }
    cycle = "ABIJKFLMNO"
    assert edges == {a + b for a, b in zip(cycle, cycle[1:] + "A", strict=True)} | {
        b + a for a, b in zip(cycle, cycle[1:] + "A", strict=True)
    }
    # and the whole rule says what all simple cycles say
    whole, *_, given_up = cycles.rule_5(marks, *neighbour_lists(marks), 10_000)
    twin = Orientation(from_array(marks), n, {}, True)
    twin.rule_5()
    np.testing.assert_array_equal(whole == 1, to_array(twin.mark, n)[source, target] == 3)
    assert given_up == 0


def test_forbidden_pairs_are_neither_neighbours_nor_apart():
    marks, _ = read_graph("A o-o B,B xxx C,C o-> A")
    start, neighbour = neighbour_lists(marks)
    assert [neighbour[start[k] : start[k + 1]].tolist() for k in range(3)] == [[1, 2], [0], [0]]
    orientation.initial_marks(marks, np.array([0, 1, 2]), np.zeros((0, 0), dtype=np.uint8))
    assert marks[1, 2] == marks[2, 1] == FORBIDDEN != NONE
    assert marks[0, 1] == marks[0, 2] == 2 and marks[1, 0] == marks[2, 0] == 1


def orient(skeleton, sepsets, arrows, simultaneous, tiers=None, tails=()):
    marks, names = read_graph(skeleton)
    n = len(names)
    known = np.zeros((n, n), dtype=np.uint8)
    for pairs, mark in ((arrows, 2), (tails, 3)):
        for a, b in pairs:
            known[names.index(a), names.index(b)] = mark
    index = {
        tuple(sorted(map(names.index, pair))): [names.index(name) for name in members]
        for pair, members in sepsets.items()
    }
    tiers = np.zeros(n, dtype=np.int64) if tiers is None else np.array(tiers, dtype=np.int64)
    claims = orientation.orient(marks, tiers, known, *separator_arrays(n, index), simultaneous)
    return write_graph(marks, names), int((claims == orientation.CONFLICT).sum()), claims


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
def test_known_arrowheads_stay(simultaneous):
    """R1 wants B -> C; an arrowhead known at B on B-C is one before and after."""
    sepsets = {"AC": ""}
    free, conflicts, _ = orient("A o-o B,B o-o C,C o-o D", {"AC": "", "AD": "", "BD": "C"}, [],
                                simultaneous)  # fmt: skip
    assert (free, conflicts) == (lines("A o-> B,B <-o C,C o-o D"), 0)
    # A o-> B o-o C with B in sepset(A, C): R1 makes it B --> C
    sepsets = {"AC": "B"}
    r1, _, _ = orient("A o-o B,B o-o C", sepsets, ["AB"], simultaneous)
    assert r1 == lines("A o-> B,B --> C")
    kept, conflicts, claims = orient("A o-o B,B o-o C", sepsets, ["AB", "CB"], simultaneous)
    assert (kept, conflicts) == (lines("A o-> B,B <-o C"), 0)
    assert set(np.unique(claims)) <= {0, orientation.CONFLICT}


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
def test_known_arrowhead_against_rule_1(simultaneous):
    """R1 from A wants a tail at B on B-C; where an arrowhead is known, it stays."""
    skeleton = "A o-o B,B o-o C,C o-o D"
    sepsets = {"AC": "B", "AD": "", "BD": ""}
    free = orient(skeleton, sepsets, ["AB"], simultaneous)[0]
    assert free == lines("A o-> B,B --> C,C <-o D")
    kept = orient(skeleton, sepsets, ["AB", "CB"], simultaneous)[0]
    assert kept == lines("A o-> B,B <-> C,C <-o D")


@pytest.mark.parametrize("simultaneous", [True, False], ids=["stable", "sequential"])
def test_known_tails_stay(simultaneous):
    """R0 wants A *-> B <-* C, R1 B -> C, R4 A <-> B <-> C; a known tail is no arrowhead after."""
    path = "A o-o B,B o-o C"
    assert orient(path, {"AC": ""}, [], simultaneous)[0] == lines("A o-> B,B <-o C")
    kept, conflicts, claims = orient(path, {"AC": ""}, [], simultaneous, tails=["AB"])
    assert (kept, conflicts) == (lines("A o-- B,B <-o C"), 0)
    assert set(np.unique(claims)) <= {0, orientation.CONFLICT}
    # R1 writes both ends of B o-o C
    assert orient(path, {"AC": "B"}, ["AB"], simultaneous)[0] == lines("A o-> B,B --> C")
    kept = orient(path, {"AC": "B"}, ["AB"], simultaneous, tails=["BC"])[0]
    assert kept == lines("A o-> B,B --- C")
    # D *-> A <-> B o-* C with A -> C discriminates B
    four = "A o-o B,A o-o C,B o-o C,A o-o D"
    arrows = ["DA", "BA", "AC"]
    sepsets = {"BD": "", "CD": "A"}
    assert orient(four, sepsets, arrows, simultaneous, tails=["CA"])[0] == lines(
        "A <-> B,A --> C,B <-> C,A <-o D"
    )
    kept = orient(four, sepsets, arrows, simultaneous, tails=["CA", "BC"])[0]
    assert kept == lines("A <-> B,A --> C,B <-- C,A <-o D")


def test_a_known_tail_is_a_premise():
    """R2: A -> B *-> C, A *-o C gives an arrowhead at C; R8 then a tail at A."""
    graph = "A o-o B,B o-o C,A o-o C"
    arrows, tails = ["AB", "BC"], ["BA", "CB"]
    assert orient(graph, {}, arrows, True)[0] == lines("A o-> B,B o-> C,A o-o C")
    assert orient(graph, {}, arrows, True, tails=tails)[0] == lines("A --> B,B --> C,A o-> C")
