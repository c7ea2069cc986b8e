"""Slow and obvious twins of the kernels: sets, dictionaries, networkx; nothing shared with them.

A graph is a dictionary ``mark[i, j]`` -> "o", ">" or "-" (the mark at j on the edge i-j), with both
(i, j) and (j, i) present or both absent. A test of independence is any function ``test(i, j, S)``
that returns how dependent i and j are given S (small is independent), so that a correlation matrix
and an m-separation oracle can be used alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import networkx as nx
import numpy as np

Marks = dict[tuple[int, int], str]
Test = Callable[[int, int, tuple[int, ...]], float]
CODE = {"o": 1, ">": 2, "-": 3}


# --- correlations and truths ------------------------------------------------------------------


def partial_correlation(correlation, x, y, given):
    """Partial correlation from the inverse of the block (x, y, given...)."""
    block = [x, y, *given]
    precision = np.linalg.inv(np.asarray(correlation, dtype=np.float64)[np.ix_(block, block)])
    return float(-precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1]))


TIE = 1e-12  # values no further apart are equal


def best_set(strengths):
    """Of (strength, members) the lowest members among those that tie with the smallest strength."""
    smallest = min((strength for strength, _ in strengths), default=None)
    if smallest is None:
        return None
    return min(
        ((s, members) for s, members in strengths if s <= smallest + TIE), key=lambda one: one[1]
    )


def correlation_test(correlation) -> Test:
    """|partial correlation| as the strength of dependence."""
    return lambda i, j, given: abs(partial_correlation(correlation, i, j, given))


def separation_test(dag: nx.DiGraph) -> Test:
    """Dependence 0 or 1 by d-separation in a DAG (nodes not asked about are latent)."""
    return lambda i, j, given: 0.0 if nx.is_d_separator(dag, {i}, {j}, set(given)) else 1.0


def random_dag(rng, n, degree):
    """Return weights (n, n), ``weights[i, j]`` = effect of j on i, of a randomly numbered DAG."""
    weights = np.zeros((n, n))
    number = rng.permutation(n)
    for a, b in itertools.combinations(range(n), 2):
        if rng.random() < degree / max(1, n - 1):
            weights[number[b], number[a]] = rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
    return weights


def population_correlation(weights, observed):
    """Correlation of the observed variables of a linear model with unit noise."""
    n = len(weights)
    mixing = np.linalg.inv(np.eye(n) - weights)
    covariance = (mixing @ mixing.T)[np.ix_(observed, observed)]
    scale = 1 / np.sqrt(np.diag(covariance))
    return covariance * np.outer(scale, scale)


def dag_of(weights):
    """networkx DAG with an arc j -> i for each effect of j on i."""
    return nx.from_numpy_array((np.asarray(weights) != 0).T.astype(int), create_using=nx.DiGraph)


def ancestry_of(weights):
    """networkx digraph with an arc j -> i for each directed path from j to i."""
    return nx.transitive_closure_dag(dag_of(weights))


def order_of(weights, observed):
    """A topological order of a DAG, restricted to the observed variables and renumbered."""
    index = {int(node): k for k, node in enumerate(observed)}
    return [index[v] for v in nx.lexicographical_topological_sort(dag_of(weights)) if v in index]


# --- graphs -----------------------------------------------------------------------------------


def to_array(mark: Marks, n: int):
    """Marks as an array in pcalg coding."""
    out = np.zeros((n, n), dtype=np.uint8)
    for (i, j), symbol in mark.items():
        out[i, j] = CODE[symbol]
    return out


def from_array(marks) -> Marks:
    """Invert `to_array`."""
    names = {code: symbol for symbol, code in CODE.items()}
    return {(int(i), int(j)): names[int(marks[i, j])] for i, j in np.argwhere(marks)}


def legal(mark: Marks, u, v, w) -> bool:
    """A consecutive triple of a PDS-path: a collider or a triangle."""
    if (u, v) not in mark or (v, w) not in mark or u == w:
        return False
    return (u, w) in mark or (mark[u, v] == ">" and mark[w, v] == ">")


def pds_pairs(mark: Marks, root, nodes: Iterable[int], max_depth) -> list[set[tuple[int, int]]]:
    """Level k: the pairs (previous, node) at the end of a shortest PDS-walk of k + 1 edges."""
    nodes = set(nodes) - {root}
    levels: list[set[tuple[int, int]]] = [{(root, v) for v in nodes if (root, v) in mark}]
    met = set(levels[0])
    while levels[-1] and len(levels) < max_depth:
        following = {(v, w) for u, v in levels[-1] for w in nodes if legal(mark, u, v, w)} - met
        levels.append(following)
        met |= following
    return levels


def pds_distance(mark: Marks, root, nodes, max_depth) -> dict[int, int]:
    """Shortest PDS-walk to each node that has one."""
    distance: dict[int, int] = {}
    for depth, level in enumerate(pds_pairs(mark, root, nodes, max_depth), start=1):
        for _, node in level:
            distance.setdefault(node, depth)
    return distance


def is_pds_set(mark: Marks, root, members) -> bool:
    """ICD-Sep condition 2: PDS-walks inside the set lead to each of its members."""
    return set(pds_distance(mark, root, members, len(members) ** 2 + 1)) == set(members)


def possible_ancestors(mark: Marks, node) -> set[int]:
    """Nodes with a possibly directed path to the node, and the node."""
    step = nx.DiGraph()
    step.add_node(node)
    for (i, j), symbol in mark.items():
        if symbol != "-" and mark[j, i] != ">":
            step.add_edge(i, j)
    return set(nx.ancestors(step, node)) | {node}


# --- orientation ------------------------------------------------------------------------------


class Orientation:
    """R0-R4 and R8-R10, either all matches of a rule at once or one by one."""

    def __init__(self, mark: Marks, n: int, sepset: dict, simultaneous: bool):
        self.mark, self.n, self.sepset, self.simultaneous = mark, n, sepset, simultaneous
        self.frozen: set[tuple[int, int]] = set()
        self.claims: list[tuple[tuple[int, int], str]] = []

    def near(self, node):
        return [k for k in range(self.n) if (node, k) in self.mark]

    def claim(self, i, j, symbol):
        if self.simultaneous:
            self.claims.append(((i, j), symbol))
        else:
            self.mark[i, j] = symbol

    def separated_by(self, i, j):
        return self.sepset[min(i, j), max(i, j)]

    def run(self, rule):
        before = dict(self.mark)
        rule()
        asked: dict[tuple[int, int], set[str]] = {}
        for pair, symbol in self.claims:
            asked.setdefault(pair, set()).add(symbol)
        self.claims.clear()
        for pair, symbols in asked.items():
            if self.mark[pair] != "o" or pair in self.frozen:
                continue
            if len(symbols) == 2:
                self.frozen.add(pair)
            else:
                self.mark[pair] = symbols.pop()
        return self.mark != before

    def fixed_point(self, rules):
        while any([self.run(rule) for rule in rules]):
            pass

    def rule_0(self):
        for b in range(self.n):
            for a, c in itertools.combinations(self.near(b), 2):
                if (a, c) not in self.mark and b not in self.separated_by(a, c):
                    self.claim(a, b, ">")
                    self.claim(c, b, ">")

    def rule_1(self):
        for b in range(self.n):
            for c in self.near(b):
                into = [a for a in self.near(b) if self.mark[a, b] == ">" and a != c]
                if self.mark[c, b] == "o" and any((a, c) not in self.mark for a in into):
                    self.claim(c, b, "-")
                    self.claim(b, c, ">")

    def rule_2(self):
        for a in range(self.n):
            for c in self.near(a):
                if self.mark[a, c] == "o" and any(
                    (b, c) in self.mark
                    and self.mark[a, b] == self.mark[b, c] == ">"
                    and "-" in (self.mark[b, a], self.mark[c, b])
                    for b in self.near(a)
                ):
                    self.claim(a, c, ">")

    def rule_3(self):
        for d in range(self.n):
            for b in self.near(d):
                if self.mark[d, b] != "o":
                    continue
                ends = [
                    a
                    for a in self.near(d)
                    if self.mark[a, d] == "o" and self.mark.get((a, b)) == ">"
                ]
                if any((a, c) not in self.mark for a, c in itertools.combinations(ends, 2)):
                    self.claim(d, b, ">")

    def discriminating(self, a, b, c):
        """First nodes D of the discriminating paths (D, ..., A, B, C), nearest first."""
        found: list[int] = []
        level, met = [a], {a, b, c}
        while level:
            following: list[int] = []
            for at in level:
                for d in self.near(at):
                    if d in met or self.mark[d, at] != ">":
                        continue
                    if (d, c) not in self.mark:
                        found.append(d)
                        met.add(d)
                    elif (self.mark[d, c], self.mark[c, d], self.mark[at, d]) == (">", "-", ">"):
                        following.append(d)
                        met.add(d)
            level = following
        return found

    def rule_4(self):
        for b in range(self.n):
            for c in self.near(b):
                for a in self.near(b):
                    if self.mark[c, b] != "o" or a == c or self.mark[b, a] != ">":
                        continue
                    if self.mark.get((a, c)) != ">" or self.mark[c, a] != "-":
                        continue
                    for d in self.discriminating(a, b, c)[: None if self.simultaneous else 1]:
                        if b in self.separated_by(d, c):
                            self.claim(c, b, "-")
                            self.claim(b, c, ">")
                        else:
                            for i, j in ((b, a), (a, b), (b, c), (c, b)):
                                self.claim(i, j, ">")

    def tail_candidates(self):
        """Edges A o-> C."""
        return [
            (a, c)
            for (a, c) in sorted(self.mark)
            if self.mark[a, c] == ">" and self.mark[c, a] == "o"
        ]

    def is_parent(self, i, j):
        return self.mark.get((i, j)) == ">" and self.mark[j, i] == "-"

    def rule_8(self):
        for a, c in self.tail_candidates():
            if any(
                self.mark[b, a] == "-" and self.mark[a, b] in "o>" and self.is_parent(b, c)
                for b in self.near(a)
            ):
                self.claim(c, a, "-")

    def uncovered(self):
        """Digraph over pairs: an arc continues an uncovered possibly directed walk."""
        possible = [p for p in self.mark if self.mark[p] != "-" and self.mark[p[::-1]] != ">"]
        walk = nx.DiGraph()
        walk.add_nodes_from(possible)
        walk.add_edges_from(
            ((u, v), (v, w))
            for u, v in possible
            for w in self.near(v)
            if w != u and (v, w) in walk and (u, w) not in self.mark
        )
        return walk

    def reach(self, a):
        """For each possible child mu of A: the nodes where uncovered walks A, mu, ... can end."""
        walk = self.uncovered()
        walk.remove_nodes_from([pair for pair in list(walk) if pair[1] == a])
        return {
            mu: {mu} | {end for _, end in nx.descendants(walk, (a, mu))}
            for mu in self.near(a)
            if (a, mu) in walk
        }

    def rule_9(self):
        for a, c in self.tail_candidates():
            ends = self.reach(a)
            if any(b != c and (b, c) not in self.mark and c in ends[b] for b in ends):
                self.claim(c, a, "-")

    def rule_10(self):
        for a, c in self.tail_candidates():
            ends = {mu: nodes for mu, nodes in self.reach(a).items() if mu != c}
            pars = [b for b in self.near(c) if b != a and self.is_parent(b, c)]
            if any(
                (b in ends[mu] and d in ends[omega]) or (d in ends[mu] and b in ends[omega])
                for b, d in itertools.combinations(pars, 2)
                for mu, omega in itertools.combinations(ends, 2)
                if (mu, omega) not in self.mark
            ):
                self.claim(c, a, "-")

    def orient(self):
        self.run(self.rule_0)
        self.fixed_point([self.rule_1, self.rule_2, self.rule_3, self.rule_4])

    def complete(self):
        self.fixed_point([self.rule_8, self.rule_9, self.rule_10])


# --- learning ---------------------------------------------------------------------------------


@dataclass
class Learned:
    """Marks as an array, separating sets by pair i < j, tests per size, conflicting marks."""

    marks: np.ndarray
    sepset: dict[tuple[int, int], tuple[int, ...]]
    tests: list[int]
    conflicts: int


def learn(
    test: Test,
    n: int,
    thresholds: Callable[[int], float],
    *,
    tier: Callable[[int], int],
    stable: bool,
    max_size: int | None = None,
) -> Learned:
    """ICD with tiers, as the definitions say it. Nodes are numbered along the order.

    ``tier=lambda node: 0`` is ICD; ``tier=lambda node: node`` is ordered ICD as published.
    """
    pairs = list(itertools.combinations(range(n), 2))
    sepset: dict[tuple[int, int], tuple[int, ...]] = {}
    mark: Marks = {}
    for i, j in pairs:
        if test(i, j, ()) <= thresholds(0) + TIE:
            sepset[i, j] = ()
        else:
            mark[i, j] = mark[j, i] = "o"
    tests = [len(pairs)]
    conflicts = 0

    def reset_and_orient():
        nonlocal conflicts
        for i, j in list(mark):
            mark[i, j] = ">" if tier(j) > tier(i) else "o"
        work = Orientation(mark, n, sepset, stable)
        work.orient()
        conflicts = len(work.frozen)
        return work

    def remove(i, j):
        del mark[i, j], mark[j, i]

    def candidates(tree, current, i, j, size):
        """Conditioning sets of an edge i < j: by sum of distances, then lexicographically."""
        earlier = {v for v in range(n) if tier(v) <= tier(j)}
        roots = [j, i] if tier(i) == tier(j) else [j]
        if size == 1:
            return [(z,) for z in sorted(earlier - {i, j}) if any((x, z) in tree for x in roots)]
        ancestral = possible_ancestors(current, i) | possible_ancestors(current, j)
        total: dict[tuple[int, ...], int] = {}
        for root in roots:
            distance = pds_distance(tree, root, earlier, size)
            pool = sorted((set(distance) & ancestral) - {i, j})
            for members in itertools.combinations(pool, size):
                if is_pds_set(tree, root, members):
                    length = sum(distance[z] for z in members)
                    total[members] = min(length, total.get(members, length))
        return sorted(total, key=lambda members: (total[members], members))

    for size in range(1, n - 1):
        todo = sorted((p for p in pairs if p in mark), key=lambda p: (tier(p[1]), *p))
        if not todo or (max_size is not None and size > max_size):
            break
        if size > 1:
            reset_and_orient()
        start = dict(mark)
        tests.append(0)
        any_candidate = False
        doomed = []
        tier_start, tier_graph = None, start
        for i, j in todo:
            if tier(j) != tier_start:
                tier_start, tier_graph = tier(j), dict(mark)
            # published: one tree per later node (ordered), two trees of the current graph (ICD);
            # neighbours, for sets of one node, are always the current ones
            tree = mark if tier(i) == tier(j) or size == 1 else tier_graph
            sets = candidates(*((start, start) if stable else (tree, mark)), i, j, size)
            any_candidate = any_candidate or bool(sets)
            met: list[tuple[float, tuple[int, ...]]] = []
            for members in sets:
                met.append((test(i, j, members), members))
                tests[-1] += 1
                if not stable and met[-1][0] <= thresholds(size) + TIE:
                    met = met[-1:]
                    break
            best = best_set(met)
            if best is not None and best[0] <= thresholds(size) + TIE:
                sepset[i, j] = best[1]
                if stable:
                    doomed.append((i, j))
                else:
                    remove(i, j)
        for i, j in doomed:
            remove(i, j)
        if not any_candidate:
            break
    reset_and_orient().complete()
    return Learned(to_array(mark, n), sepset, tests, conflicts)
