"""Slow and obvious twins of R5-R7 and of Meek's rules, and graphs written as text for rule tests.

Graphs are dictionaries of marks as in `tests.naive`; a pair that background knowledge forbade has
the symbol "x" at both ends: it is in the dictionary, so that nothing takes it for "not adjacent",
and it is nobody's neighbour.
"""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np

from tests import naive

CODE = {**naive.CODE, "x": 4}
LEFT = {"o": 1, "<": 2, "-": 3, "x": 4}
RIGHT = {"o": 1, ">": 2, "-": 3, "x": 4}


# --- graphs as text and as arrays ---------------------------------------------------------------


def read_graph(text):
    """Return (marks, names) of "A o-> B,B --- C"; "A xxx B" is a forbidden pair."""
    names = sorted({name for line in text.split(",") for name in line.split()[::2]})
    marks = np.zeros((len(names), len(names)), dtype=np.uint8)
    for line in text.split(","):
        left, symbol, right = line.split()
        i, j = names.index(left), names.index(right)
        assert marks[i, j] == 0
        marks[i, j], marks[j, i] = RIGHT[symbol[2]], LEFT[symbol[0]]
    return marks, names


def write_graph(marks, names):
    """Invert `read_graph`: a set of lines, each read from the alphabetically first node."""
    left = {code: symbol for symbol, code in LEFT.items()}
    right = {code: symbol for symbol, code in RIGHT.items()}
    line = {4: "x"}
    return {
        f"{names[i]} {left[marks[j, i]]}{line.get(marks[i, j], '-')}{right[marks[i, j]]} {names[j]}"
        for i, j in np.argwhere(np.triu(marks))
    }


def to_array(mark, n):
    out = np.zeros((n, n), dtype=np.uint8)
    for (i, j), symbol in mark.items():
        out[i, j] = CODE[symbol]
    return out


def from_array(marks):
    names = {code: symbol for symbol, code in CODE.items()}
    return {(int(i), int(j)): names[int(marks[i, j])] for i, j in np.argwhere(marks)}


def separator_arrays(n, sepset) -> tuple[Any, Any, Any]:
    """Separating sets by pair i < j as the three arrays that kernels read."""
    start = np.zeros((n, n), dtype=np.int64)
    size = np.zeros((n, n), dtype=np.int16)
    nodes: list[int] = []
    for (i, j), members in sepset.items():
        start[i, j], size[i, j] = len(nodes), len(members)
        nodes += members
    return start, size, np.array(nodes, dtype=np.int64)


# --- PAGs ---------------------------------------------------------------------------------------


class Orientation(naive.Orientation):
    """R0-R10, with forbidden pairs and marks that stay."""

    def __init__(self, mark, n, sepset, simultaneous, pinned=frozenset()):
        super().__init__(mark, n, sepset, simultaneous)
        self.pinned = pinned

    def near(self, node):
        return [k for k in range(self.n) if self.mark.get((node, k), "x") != "x"]

    def claim(self, i, j, symbol):
        if self.simultaneous or (i, j) not in self.pinned:
            super().claim(i, j, symbol)

    def uncovered(self):
        walk = super().uncovered()
        walk.remove_nodes_from([pair for pair, symbol in self.mark.items() if symbol == "x"])
        return walk

    def tail(self, i, j):
        """Write a tail at j unless the circle there is one of contradicting claims."""
        if self.mark[i, j] == "o" and (i, j) not in self.frozen:
            self.mark[i, j] = "-"
            return True
        return False

    def rule_5(self):
        """Undirected edges: all o-o edges on a cycle that has no shielded triple."""
        circles = nx.Graph(
            [p for p, symbol in self.mark.items() if symbol == self.mark[p[::-1]] == "o"]
        )
        found = set()
        for cycle in nx.simple_cycles(circles):
            around = [cycle[k:] + cycle[:k] for k in range(len(cycle))]
            if len(cycle) > 3 and all((c[0], c[2]) not in self.mark for c in around):
                found |= {(c[0], c[1]) for c in around} | {(c[1], c[0]) for c in around}
        for i, j in found:
            self.tail(i, j)

    def rule_6(self, a, b, c):
        return self.mark[a, b] == self.mark[b, a] == "-" and self.mark[c, b] == "o"

    def rule_7(self, a, b, c):
        away = self.mark[b, a] == "-" and self.mark[a, b] == "o"
        return away and self.mark[c, b] == "o" and (a, c) not in self.mark

    def complete_selection(self, rng):
        """R5, then single matches of R6 and R7 in random order until there is none."""
        self.rule_5()
        triples = [
            (a, b, c) for b in range(self.n) for a, c in itertools.permutations(self.near(b), 2)
        ]
        changed = True
        while changed:
            changed = False
            for k in rng.permutation(len(triples)):
                a, b, c = triples[k]
                if self.rule_6(a, b, c) or self.rule_7(a, b, c):
                    changed |= self.tail(c, b)


# --- CPDAGs -------------------------------------------------------------------------------------


class Meek:
    """V-structures and Meek's rules on a set of arcs and a set of undirected edges."""

    def __init__(self, edges, arcs, forbidden, n, sepset, simultaneous):
        """``edges``: frozensets without a direction; ``arcs``: pairs; ``forbidden``: frozensets."""
        self.edges, self.arcs, self.n = set(edges), set(arcs), n
        self.sepset, self.simultaneous = sepset, simultaneous
        self.adjacent = self.edges | {frozenset(arc) for arc in arcs} | set(forbidden)
        self.frozen: set[frozenset[int]] = set()
        self.claims: set[tuple[int, int]] = set()

    def apart(self, i, j):
        return i != j and frozenset((i, j)) not in self.adjacent

    def open(self, i, j):
        return frozenset((i, j)) in self.edges

    def joined(self, i, j):
        return self.open(i, j) or (i, j) in self.arcs or (j, i) in self.arcs

    def direct(self, i, j):
        if not self.open(i, j) or frozenset((i, j)) in self.frozen:
            return
        if self.simultaneous:
            self.claims.add((i, j))
        else:
            self.edges.remove(frozenset((i, j)))
            self.arcs.add((i, j))

    def run(self, rule):
        before = set(self.arcs)
        rule()
        for i, j in self.claims:
            if (j, i) in self.claims:
                self.frozen.add(frozenset((i, j)))
            else:
                self.edges.discard(frozenset((i, j)))
                self.arcs.add((i, j))
        self.claims.clear()
        return self.arcs != before

    def v_structures(self):
        for b in range(self.n):
            near = [k for k in range(self.n) if self.joined(b, k)]
            for a, c in itertools.combinations(near, 2):
                if self.apart(a, c) and b not in self.sepset[a, c]:
                    self.direct(a, b)
                    self.direct(c, b)

    def matches(self, premise):
        """Direct the undirected edges i - j of which the premise is true, in ascending order."""
        for i, j in itertools.permutations(range(self.n), 2):
            if self.open(i, j) and premise(i, j):
                self.direct(i, j)

    def rule_1(self):
        self.matches(lambda b, c: any((a, b) in self.arcs and self.apart(a, c) for a in self.all))

    def rule_2(self):
        self.matches(
            lambda a, c: any((a, b) in self.arcs and (b, c) in self.arcs for b in self.all)
        )

    def rule_3(self):
        self.matches(
            lambda a, b: any(
                self.open(a, c) and self.open(a, d) and {(c, b), (d, b)} <= self.arcs
                for c, d in itertools.combinations(self.all, 2)
                if self.apart(c, d)
            )
        )

    def rule_4(self):
        self.matches(
            lambda a, b: any(
                self.open(a, c) and self.open(a, d) and {(d, c), (c, b)} <= self.arcs
                for c, d in itertools.permutations(self.all, 2)
                if self.apart(b, d)
            )
        )

    @property
    def all(self):
        return range(self.n)

    def orient(self):
        self.run(self.v_structures)
        rules = [self.rule_1, self.rule_2, self.rule_3, self.rule_4]
        while any([self.run(rule) for rule in rules]):
            pass

    def to_array(self):
        out = np.zeros((self.n, self.n), dtype=np.uint8)
        for edge in self.adjacent - self.edges:
            i, j = edge
            out[i, j] = out[j, i] = 4
        for edge in self.edges:
            i, j = edge
            out[i, j] = out[j, i] = 3
        for i, j in self.arcs:
            out[i, j], out[j, i] = 2, 3
        return out


def v_structures_of(dag):
    """Unshielded colliders of a networkx DAG as (parents, node)."""
    return {
        (frozenset((a, c)), b)
        for b in dag
        for a, c in itertools.combinations(dag.predecessors(b), 2)
        if not dag.has_edge(a, c) and not dag.has_edge(c, a)
    }


def maximally_directed(dag, known=()):
    """Marks true in all DAGs that are Markov equivalent to ``dag`` and contain ``known`` arcs."""
    arcs = list(dag.edges)
    wanted = v_structures_of(dag)
    tails = np.zeros((len(dag), len(dag)), dtype=bool)
    count = 0
    for flips in itertools.product([False, True], repeat=len(arcs)):
        other = nx.DiGraph()
        other.add_nodes_from(range(len(dag)))
        other.add_edges_from(
            arc[::-1] if flip else arc for arc, flip in zip(arcs, flips, strict=True)
        )
        if not set(known) <= set(other.edges) or v_structures_of(other) != wanted:
            continue
        if nx.is_directed_acyclic_graph(other):
            count += 1
            for i, j in other.edges:
                tails[j, i] = True
    assert count
    out = np.zeros(tails.shape, dtype=np.uint8)
    for i, j in arcs:
        for a, b in ((i, j), (j, i)):
            # the mark at b: an arrowhead if the edge never leaves b, else a tail
            out[a, b] = 3 if tails[a, b] else 2
    return out
