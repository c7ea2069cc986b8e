"""Truths that no learner computed: separation, MAGs of DAGs, and whole Markov classes by counting.

Everything follows definitions, on graphs small enough for that; nothing is shared with the kernels
or with the plain-Python learners.

1. `DagOracle`: d-separation in a DAG with latent and selection variables (in the moral graph of the
   ancestors; `networkx` says the same, see tests/structure/test_truth_oracle.py).
2. `mag_of`: the MAG over the observed variables, by inducing paths (Richardson and Spirtes,
   Ancestral graph Markov models, Annals of Statistics 30, 2002, section 4.2).
3. `all_mags`: for up to four nodes every MAG there is, grouped by its m-separations.
   `markov_class`: for sparse graphs of a few nodes more, the MAGs equivalent to a given one. A mark
   of the PAG (`common_marks`) is an arrowhead or a tail exactly if it is the same in all of them.
4. `cpdag_of`: every DAG with the skeleton and the v-structures of the given one.
5. `random_case` and `canonical_case`: random linear models with latent and selection variables,
   and the population correlation of the observed ones given the selection variables.

Marks are arrays in pcalg coding: ``marks[i, j]`` is the mark at j, 0 none, 1 circle, 2 arrowhead,
3 tail.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from tests import naive

CIRCLE, ARROW, TAIL = 1, 2, 3


# --- separation in a DAG ----------------------------------------------------------------------


def bits(mask):
    """Yield the positions of the ones of a non-negative integer, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class DagOracle:
    """Separation of observed variables in a DAG, given selection variables.

    Called as ``oracle(i, j, given)`` with indices into ``observed``: 0.0 if separated, else 1.0.
    Nodes neither observed nor selected are latent.
    """

    def __init__(self, weights, observed, selected=()):
        total = len(weights)
        self.observed = [int(node) for node in observed]
        self.selected = sum(1 << int(node) for node in selected)
        self.parents = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in weights]
        self.children = [sum(1 << int(i) for i in np.flatnonzero(row)) for row in weights.T]
        self.ancestors = [1 << node for node in range(total)]  # and the node itself
        for _ in range(total):
            for node in range(total):
                for parent in bits(self.parents[node]):
                    self.ancestors[node] |= self.ancestors[parent]
        self.known: dict[tuple[int, int, tuple[int, ...]], float] = {}

    def __call__(self, i, j, given):
        key = (min(i, j), max(i, j), tuple(sorted(given)))
        if key not in self.known:
            mask = sum(1 << self.observed[k] for k in key[2]) | self.selected
            apart = self.separated(self.observed[i], self.observed[j], mask)
            self.known[key] = 0.0 if apart else 1.0
        return self.known[key]

    def above(self, mask):
        """Ancestors of a set of nodes, the nodes included."""
        return functools.reduce(lambda out, node: out | self.ancestors[node], bits(mask), 0)

    def separated(self, x, y, given):
        """d-separation: no path from x to y in the moral graph of all ancestors without given."""
        inside = self.above(1 << x | 1 << y | given)
        seen, front = 1 << x, [x]
        while front:
            node = front.pop()
            married = functools.reduce(
                lambda out, child: out | self.parents[child],
                bits(self.children[node] & inside),
                0,
            )
            near = (self.parents[node] | self.children[node] | married) & inside & ~given & ~seen
            if near >> y & 1:
                return False
            seen |= near
            front += bits(near)
        return True


# --- the MAG of a DAG -------------------------------------------------------------------------


def inducing_path(oracle: DagOracle, x, y) -> bool:
    """Tell whether a path joins x and y that no set of observed variables can block.

    Inner nodes that are not latent are colliders on it; colliders are ancestors of x, y or of a
    selection variable.
    """
    seen_by_others = sum(1 << node for node in oracle.observed) | oracle.selected
    colliders = oracle.above(1 << x | 1 << y | oracle.selected)

    def extend(at, into, visited):
        # `into`: the path comes to `at` by an arrowhead
        for node in bits((oracle.parents[at] | oracle.children[at]) & ~visited):
            against = bool(oracle.parents[at] >> node & 1)  # the edge is at <- node
            if at != x:
                if into and against:
                    if not colliders >> at & 1:
                        continue
                elif seen_by_others >> at & 1:
                    continue
            if node == y or extend(node, not against, visited | 1 << node):
                return True
        return False

    return extend(x, False, 1 << x)


def mag_of(oracle: DagOracle):
    """Marks of the MAG over the observed variables, given the selection variables."""
    n = len(oracle.observed)
    marks = np.zeros((n, n), dtype=np.uint8)
    for i, j in itertools.combinations(range(n), 2):
        x, y = oracle.observed[i], oracle.observed[j]
        if inducing_path(oracle, x, y):
            marks[i, j] = TAIL if oracle.above(1 << x | oracle.selected) >> y & 1 else ARROW
            marks[j, i] = TAIL if oracle.above(1 << y | oracle.selected) >> x & 1 else ARROW
    return marks


# --- random models ----------------------------------------------------------------------------


@dataclass
class Case:
    """A linear model, its observed and selected variables, and what follows from them."""

    weights: np.ndarray
    observed: np.ndarray
    selected: np.ndarray
    correlation: np.ndarray
    oracle: DagOracle

    @property
    def n(self):
        """Number of observed variables."""
        return len(self.observed)


def correlation_given(weights, observed, selected):
    """Population correlation of the observed variables given the selected ones (unit noise)."""
    mixing = np.linalg.inv(np.eye(len(weights)) - weights)
    covariance = mixing @ mixing.T
    left = covariance[np.ix_(observed, observed)]
    if len(selected):
        across = covariance[np.ix_(observed, selected)]
        inner = covariance[np.ix_(selected, selected)]
        left = left - across @ np.linalg.solve(inner, across.T)
    scale = 1 / np.sqrt(np.diag(left))
    correlation = left * np.outer(scale, scale)
    correlation = (correlation + correlation.T) / 2
    np.fill_diagonal(correlation, 1.0)
    return correlation


def make_case(weights, observed, selected) -> Case:
    """Bring a linear model together with its correlation and its oracle."""
    return Case(
        weights,
        observed,
        selected,
        correlation_given(weights, observed, selected),
        DagOracle(weights, observed, selected),
    )


def random_weights(rng, shape):
    """Effects away from zero, of both signs."""
    return rng.choice([-1, 1], size=shape) * rng.uniform(0.4, 1.2, size=shape)


def random_case(rng, n, n_latent, n_selected, degree) -> Case:
    """A random linear model with n observed, some latent and some selected variables.

    Variables with several children tend to be latent, those with several ancestors selected:
    other choices leave no trace in the graph of the rest.
    """
    total = n + n_latent + n_selected
    weights = naive.random_dag(rng, total, degree)
    present = weights != 0
    confounding = np.minimum(present.sum(axis=0), 2) + rng.random(total)
    latent = np.argsort(-confounding)[:n_latent]
    common = np.minimum(present.sum(axis=1), 2) + rng.random(total)
    common[latent] = -1
    selected = np.argsort(-common)[:n_selected]
    observed = np.setdiff1d(np.arange(total), np.concatenate([latent, selected]))
    return make_case(weights, observed, selected)


def partial_correlations(correlation):
    """All partial correlations as ``{(i, j, given): value}``, from inverses of all blocks."""
    n = len(correlation)
    out = {}
    for size in range(2, n + 1):
        blocks = np.array(list(itertools.combinations(range(n), size)))
        precision = np.linalg.inv(correlation[blocks[:, :, None], blocks[:, None, :]])
        root = np.sqrt(np.einsum("kii->ki", precision))
        values = -precision / (root[:, :, None] * root[:, None, :])
        for block, value in zip(blocks.tolist(), values.tolist(), strict=True):
            for a, b in itertools.combinations(range(size), 2):
                given = tuple(block[:a] + block[a + 1 : b] + block[b + 1 :])
                out[block[a], block[b], given] = value[a][b]
    return out


def is_faithful(case: Case, smallest=1e-6, largest=1e-9) -> bool:
    """Tell whether every dependence of the model shows in its correlation.

    Dependences must be above ``smallest`` (a threshold of 8e-7 is used) and independences below
    ``largest`` (rounding). The learners are not asked.
    """
    for (i, j, given), value in partial_correlations(case.correlation).items():
        if abs(value) <= smallest and (case.oracle(i, j, given) or abs(value) > largest):
            return False
    return True


# --- all MAGs over a few nodes ----------------------------------------------------------------


def ancestors_in(marks):
    """Return bool (N, N): entry [j, i] says that a directed path leads from i to j, or i is j."""
    n = len(marks)
    up = np.eye(n, dtype=bool) | ((marks == ARROW) & (marks.T == TAIL)).T
    for _ in range(n):
        up = (up.astype(np.uint8) @ up.astype(np.uint8)) > 0
    return up


def is_ancestral(marks) -> bool:
    """No directed cycle, no i <-> j with an ancestor of the other, no arrowhead at i -- j."""
    up = ancestors_in(marks)
    if (up & up.T & ~np.eye(len(marks), dtype=bool)).any():
        return False
    bidirected = (marks == ARROW) & (marks.T == ARROW)
    undirected = (marks == TAIL) & (marks.T == TAIL)
    at_undirected = undirected.any(axis=0)
    return not ((bidirected & up).any() or (marks == ARROW)[:, at_undirected].any())


def m_connected(table, up, i, j, given) -> bool:
    """m-connection by its definition: some path whose colliders, and only those, are open.

    ``table`` holds the marks as nested lists (they are read often), ``up`` is `ancestors_in`.
    """
    n = len(table)
    above = {z for g in given for z in range(n) if up[g, z]}

    def extend(path):
        v = path[-1]
        for w in range(n):
            if not table[v][w] or w in path:
                continue
            if len(path) > 1:
                collider = table[path[-2]][v] == ARROW and table[w][v] == ARROW
                if (v not in above) if collider else (v in given):
                    continue
            if w == j or extend([*path, w]):
                return True
        return False

    return extend([i])


def questions(n):
    """All (i, j, given) over n nodes, i < j."""
    return [
        (i, j, given)
        for i, j in itertools.combinations(range(n), 2)
        for size in range(n - 1)
        for given in itertools.combinations([k for k in range(n) if k not in (i, j)], size)
    ]


def model_of_mag(marks) -> frozenset:
    """The m-separations of an ancestral graph."""
    table, up = marks.tolist(), ancestors_in(marks)
    return frozenset(q for q in questions(len(table)) if not m_connected(table, up, *q))


def has_model(marks, model) -> bool:
    """Tell whether an ancestral graph has exactly these m-separations."""
    table, up = marks.tolist(), ancestors_in(marks)
    return all(
        m_connected(table, up, *question) != (question in model)
        for question in questions(len(table))
    )


def model_of_dag(oracle: DagOracle) -> frozenset:
    """The separations of the observed variables given the selection variables."""
    return frozenset(q for q in questions(len(oracle.observed)) if not oracle(*q))


@functools.cache
def all_mags(n, undirected):
    """Every MAG over n nodes (n <= 4), by its m-separations: ``{model: [marks, ...]}``.

    Without ``undirected`` only those without undirected edges (no selection).
    """
    kinds = [(0, 0), (ARROW, TAIL), (TAIL, ARROW), (ARROW, ARROW)]
    if undirected:
        kinds.append((TAIL, TAIL))
    pairs = list(itertools.combinations(range(n), 2))
    classes: dict[frozenset, list[np.ndarray]] = {}
    for choice in itertools.product(kinds, repeat=len(pairs)):
        marks = np.zeros((n, n), dtype=np.uint8)
        for (i, j), (at_j, at_i) in zip(pairs, choice, strict=True):
            marks[i, j], marks[j, i] = at_j, at_i
        if not is_ancestral(marks):
            continue
        model = model_of_mag(marks)
        separated = {(i, j) for i, j, _ in model}
        if separated == {pair for pair in pairs if not marks[pair]}:  # maximal
            classes.setdefault(model, []).append(marks)
    return classes


def common_marks(members):
    """Return the PAG of MAGs with one skeleton: marks that are the same in all, else circles."""
    first = members[0]
    same = np.all([marks == first for marks in members], axis=0)
    return np.where(same, first, CIRCLE).astype(np.uint8)


def markov_class(mag, undirected):
    """All MAGs with the m-separations of the given one, by listing all marks of its skeleton.

    Equivalent MAGs have the same skeleton and the same unshielded colliders, which ends most
    branches early. The number of marks is exponential in the number of edges: keep it below ten.
    """
    n = len(mag)
    kinds = [(ARROW, TAIL), (TAIL, ARROW), (ARROW, ARROW)]
    if undirected:
        kinds.append((TAIL, TAIL))
    edges = [(int(i), int(j)) for i, j in np.argwhere(np.triu(mag))]
    wanted = model_of_mag(mag)
    marks = np.zeros_like(mag)
    members = []

    def fits(b):
        around = [a for a in range(n) if marks[a, b]]
        if {ARROW} < {int(marks[a, b]) for a in around}:
            if any(marks[a, b] == marks[b, a] == TAIL for a in around):
                return False  # an arrowhead at an undirected edge
        return all(
            (marks[a, b] == marks[c, b] == ARROW) == (mag[a, b] == mag[c, b] == ARROW)
            for a, c in itertools.combinations(around, 2)
            if not mag[a, c]
        )

    def place(k):
        if k == len(edges):
            if is_ancestral(marks) and has_model(marks, wanted):
                members.append(marks.copy())
            return
        i, j = edges[k]
        for marks[i, j], marks[j, i] in kinds:
            if fits(i) and fits(j):
                place(k + 1)
        marks[i, j] = marks[j, i] = 0

    place(0)
    return members


def respects(marks, tiers) -> bool:
    """Tell whether no node is an ancestor of a node of an earlier tier."""
    later = np.greater.outer(tiers, tiers)  # [i, j]: i is later than j
    return not (ancestors_in(marks).T & later).any()


def canonical_case(rng, marks) -> Case:
    """A random linear model whose MAG is the given one (Richardson and Spirtes, section 6.1).

    A latent cause for each i <-> j, a selected effect for each i -- j.
    """
    n = len(marks)
    edges = [(int(i), int(j)) for i, j in np.argwhere(np.triu(marks))]
    bidirected = [e for e in edges if marks[e] == marks[e[::-1]] == ARROW]
    undirected = [e for e in edges if marks[e] == marks[e[::-1]] == TAIL]
    total = n + len(bidirected) + len(undirected)
    present = np.zeros((total, total), dtype=bool)
    present[:n, :n] = ((marks == ARROW) & (marks.T == TAIL)).T
    for k, ends in enumerate(bidirected, start=n):
        present[list(ends), k] = True
    for k, ends in enumerate(undirected, start=n + len(bidirected)):
        present[k, list(ends)] = True
    weights = np.where(present, random_weights(rng, present.shape), 0.0)
    return make_case(weights, np.arange(n), np.arange(n + len(bidirected), total))


# --- CPDAGs -----------------------------------------------------------------------------------


def cpdag_of(arcs):
    """CPDAG of a DAG, bool (N, N) with ``arcs[i, j]`` = i -> j, by listing its Markov class.

    Undirected edges have tails at both ends. The class is all acyclic orientations of the skeleton
    with the same v-structures (Verma and Pearl, UAI 1990).
    """
    n = len(arcs)
    edges = [(int(i), int(j)) for i, j in np.argwhere(np.triu(arcs | arcs.T))]
    adjacent = arcs | arcs.T

    def colliders(graph, b):
        return {
            (a, c)
            for a, c in itertools.combinations(range(n), 2)
            if graph[a, b] and graph[c, b] and not adjacent[a, c]
        }

    wanted = [colliders(arcs, b) for b in range(n)]
    members = []
    graph = np.zeros((n, n), dtype=bool)
    left = [sum(node in edge for edge in edges) for node in range(n)]

    def place(k):
        if k == len(edges):
            members.append(graph.copy())
            return
        for a, b in (edges[k], edges[k][::-1]):
            graph[a, b] = True
            left[a] -= 1
            left[b] -= 1
            cyclic = _reaches(graph, b, a)
            fits = all(
                found == wanted[v] if left[v] == 0 else found <= wanted[v]
                for v in (a, b)
                for found in [colliders(graph, v)]
            )
            if not cyclic and fits:
                place(k + 1)
            graph[a, b] = False
            left[a] += 1
            left[b] += 1

    place(0)
    marks = np.zeros((n, n), dtype=np.uint8)
    for i, j in edges:
        for a, b in ((i, j), (j, i)):
            if all(member[a, b] for member in members):
                marks[a, b], marks[b, a] = ARROW, TAIL
        if not marks[i, j]:
            marks[i, j] = marks[j, i] = TAIL
    return marks


def _reaches(graph, start, goal):
    seen, front = {start}, [start]
    while front:
        node = front.pop()
        if node == goal:
            return True
        for following in np.flatnonzero(graph[node]):
            if following not in seen:
                seen.add(int(following))
                front.append(int(following))
    return False
