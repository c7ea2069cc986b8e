"""Every orientation rule by itself: where it acts, and a near miss where it must not.

Graphs are written as "A o-> B" lines; a rule is applied once to the marks as they stand.
"""

from __future__ import annotations

import numpy as np
import pytest
from causal_kernels import orientation, tails
from causal_kernels.graph import neighbour_lists

LEFT = {"o": 1, "<": 2, "-": 3}
RIGHT = {"o": 1, ">": 2, "-": 3}


def graph(text):
    names = sorted({name for line in text.split(",") for name in line.split()[::2]})
    marks = np.zeros((len(names), len(names)), dtype=np.uint8)
    for line in text.split(","):
        left, symbol, right = line.split()
        i, j = names.index(left), names.index(right)
        marks[i, j], marks[j, i] = RIGHT[symbol[2]], LEFT[symbol[0]]
    return marks, names


def apply(rule, text, sepsets=None, simultaneous=True):
    """Apply rule number ``rule``; ``sepsets`` maps "AC" to "B..." for pairs without an edge."""
    marks, names = graph(text)
    n = len(names)
    start, neighbour = neighbour_lists(marks)
    claims = np.zeros((n, n), dtype=np.uint8)
    sep_start = np.zeros((n, n), dtype=np.int64)
    sep_size = np.zeros((n, n), dtype=np.int16)
    sep_nodes: list[int] = []
    for pair, members in (sepsets or {}).items():
        i, j = sorted(names.index(name) for name in pair)
        sep_start[i, j], sep_size[i, j] = len(sep_nodes), len(members)
        sep_nodes += [names.index(name) for name in members]
    sep = (sep_start, sep_size, np.array(sep_nodes, dtype=np.int64))
    work = (np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64))
    lists = (start, neighbour)
    if rule == 0:
        orientation.rule_0(marks, claims, *lists, *sep, simultaneous)
    elif rule in (1, 2, 3):
        function = (orientation.rule_1, orientation.rule_2, orientation.rule_3)[rule - 1]
        function(marks, claims, *lists, simultaneous)
    elif rule == 4:
        orientation.rule_4(marks, claims, *lists, *sep, simultaneous, *work)
    elif rule == 8:
        tails.rule_8(marks, claims, *lists)
    else:
        seen = np.full((n, n), -1, dtype=np.int64)
        queue = np.empty((len(neighbour) + 1, 2), dtype=np.int64)
        stamp = 0
        for a in range(n):
            reach = np.zeros((n, n), dtype=np.uint8)
            stamp = tails.uncovered_reach(marks, *lists, a, reach, seen, stamp, queue)
            function = tails.rule_9 if rule == 9 else tails.rule_10
            function(marks, claims, *lists, a, reach)
    orientation._settle(marks, claims, *lists)
    return marks, names, int((claims == 4).sum())


def check(rule, before, after, sepsets=None, conflicts=0):
    for simultaneous in (True, False):
        marks, names, found = apply(rule, before, sepsets, simultaneous)
        expected, expected_names = graph(after)
        assert names == expected_names
        np.testing.assert_array_equal(marks, expected)
        assert found == conflicts


@pytest.mark.parametrize(
    ("rule", "before", "after", "sepsets"),
    [
        # R0: unshielded, the middle node outside the separating set
        (0, "A o-o B,B o-o C", "A o-> B,B <-o C", {"AC": ""}),
        (0, "A o-o B,B o-o C", "A o-o B,B o-o C", {"AC": "B"}),
        (0, "A o-o B,B o-o C,A o-o C", "A o-o B,B o-o C,A o-o C", {}),
        # R1: A *-> B o-* C, A and C not adjacent
        (1, "A o-> B,B o-o C", "A o-> B,B --> C", None),
        (1, "A <-> B,B o-> C", "A <-> B,B --> C", None),
        (1, "A o-o B,B o-o C", "A o-o B,B o-o C", None),
        (1, "A o-> B,B o-o C,A o-o C", "A o-> B,B o-o C,A o-o C", None),
        # R2: both forms, then without the tail that makes one of the edges directed
        (2, "A --> B,B o-> C,A o-o C", "A --> B,B o-> C,A o-> C", None),
        (2, "A o-> B,B --> C,A o-o C", "A o-> B,B --> C,A o-> C", None),
        (2, "A o-> B,B o-> C,A o-o C", "A o-> B,B o-> C,A o-o C", None),
        (2, "A --> B,B o-o C,A o-o C", "A --> B,B o-o C,A o-o C", None),
        # R3: collider A *-> B <-* C and A *-o D o-* C
        (
            3,
            "A o-> B,C o-> B,A o-o D,C o-o D,D o-o B",
            "A o-> B,C o-> B,A o-o D,C o-o D,D o-> B",
            None,
        ),
        (
            3,
            "A o-> B,C o-> B,A o-> D,C o-o D,D o-o B",
            "A o-> B,C o-> B,A o-> D,C o-o D,D o-o B",
            None,
        ),
        (
            3,
            "A o-> B,C o-> B,A o-o D,C o-o D,D o-o B,A o-o C",
            "A o-> B,C o-> B,A o-o D,C o-o D,D o-o B,A o-o C",
            None,
        ),
        # R4: D *-> A <-> B o-> C with A -> C; longer path; D adjacent to C
        (4, "D o-> A,A <-> B,A --> C,B o-> C", "D o-> A,A <-> B,A --> C,B --> C", {"CD": "AB"}),
        (4, "D o-> A,A <-> B,A --> C,B o-> C", "D o-> A,A <-> B,A --> C,B <-> C", {"CD": "A"}),
        (4, "D o-> A,A <-o B,A --> C,B o-o C", "D o-> A,A <-> B,A --> C,B <-> C", {"CD": "A"}),
        (
            4,
            "D o-> E,E <-> A,A <-> B,A --> C,E --> C,B o-> C",
            "D o-> E,E <-> A,A <-> B,A --> C,E --> C,B --> C",
            {"CD": "ABE"},
        ),
        (
            4,
            "D o-> A,A <-> B,A --> C,B o-> C,C o-o D",
            "D o-> A,A <-> B,A --> C,B o-> C,C o-o D",
            {},
        ),
        (4, "D o-> A,A <-> B,A o-> C,B o-> C", "D o-> A,A <-> B,A o-> C,B o-> C", {"CD": "AB"}),
        # R8
        (8, "A --> B,B --> C,A o-> C", "A --> B,B --> C,A --> C", None),
        (8, "A --o B,B --> C,A o-> C", "A --o B,B --> C,A --> C", None),
        (8, "A o-> B,B --> C,A o-> C", "A o-> B,B --> C,A o-> C", None),
        (8, "A --> B,B o-> C,A o-> C", "A --> B,B o-> C,A o-> C", None),
        # R9: uncovered path A, B, D, C with B and C not adjacent
        (9, "A o-> C,A o-o B,B o-> D,D --> C", "A --> C,A o-o B,B o-> D,D --> C", None),
        (9, "A o-> C,A o-o B,B <-o D,D --> C", "A o-> C,A o-o B,B <-o D,D --> C", None),
        (
            9,
            "A o-> C,A o-o B,B o-> D,D --> C,A o-o D",
            "A o-> C,A o-o B,B o-> D,D --> C,A o-o D",
            None,
        ),
        (
            9,  # B and C adjacent
            "A o-> C,A o-o B,B o-> D,D o-> E,E o-> C,B o-o C",
            "A o-> C,A o-o B,B o-> D,D o-> E,E o-> C,B o-o C",
            None,
        ),
        # R10: single edges A o-> B, A o-> D; longer ways; adjacent first nodes
        (
            10,
            "A o-> C,B --> C,D --> C,A o-> B,A o-> D",
            "A --> C,B --> C,D --> C,A o-> B,A o-> D",
            None,
        ),
        (
            10,
            "A o-> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,E o-o C,F o-o C",
            "A --> C,B --> C,D --> C,A o-o E,E o-> B,A o-o F,F o-> D,E o-o C,F o-o C",
            None,
        ),
        (
            10,
            "A o-> C,B --> C,D --> C,A o-> B,A o-> D,B o-o D",
            "A o-> C,B --> C,D --> C,A o-> B,A o-> D,B o-o D",
            None,
        ),
        (
            10,
            "A o-> C,B o-> C,D --> C,A o-> B,A o-> D",
            "A o-> C,B o-> C,D --> C,A o-> B,A o-> D",
            None,
        ),
    ],
)  # fmt: skip
def test_rule(rule, before, after, sepsets):
    check(rule, before, after, sepsets)


def test_contradicting_claims_leave_a_circle():
    """R1 from both sides of B o-o C claims B -> C and C -> B at once."""
    marks, _, conflicts = apply(1, "A o-> B,B o-o C,C <-o D")
    np.testing.assert_array_equal(marks, graph("A o-> B,B o-o C,C <-o D")[0])
    assert conflicts == 2
    # one after the other the first one wins
    marks, _, conflicts = apply(1, "A o-> B,B o-o C,C <-o D", simultaneous=False)
    np.testing.assert_array_equal(marks, graph("A o-> B,B --> C,C <-o D")[0])
    assert conflicts == 0
