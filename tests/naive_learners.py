"""PC, FCI and ICD with selection in plain Python, on top of `tests.naive`.

They take a test of independence (a correlation or an m-separation oracle) and the largest strength
that counts as independence for each size of the conditioning set, and say what the definitions say:

- PC, order-independent (Colombo and Maathuis, JMLR 15, 2014): the sets of one size come from the
  adjacencies at the start of that size, the separating set with the smallest dependence is kept,
  edges go at the end of the size.
- FCI (Spirtes, Glymour, Scheines; Zhang, Artificial Intelligence 172, 2008): the same skeleton, R0,
  possible-d-sep sets on that graph, again all sizes with sets from there; then R0-R10.
- R5-R7 of Zhang, section 3; Meek's rules (UAI 1995).
"""

from __future__ import annotations

import itertools

from tests import naive


class FullOrientation(naive.Orientation):
    """R0-R10. ``fired`` counts, per rule, how often it changed a mark."""

    def __init__(self, mark, n, sepset, simultaneous):
        super().__init__(mark, n, sepset, simultaneous)
        self.fired: dict[str, int] = {}

    def run(self, rule):
        before = dict(self.mark)
        changed = super().run(rule)
        count = sum(self.mark[pair] != symbol for pair, symbol in before.items())
        self.fired[rule.__name__] = self.fired.get(rule.__name__, 0) + count
        return changed

    def circles(self, i):
        """Nodes k with i o-o k."""
        return [k for k in self.near(i) if self.mark[i, k] == self.mark[k, i] == "o"]

    def circle_paths(self, path, goal):
        """Yield the uncovered circle paths <A, C, ..., D, B> that begin with ``path``.

        Only those for which A, D are not adjacent and B, C are not adjacent.
        """
        for node in self.circles(path[-1]):
            if node in path or (path[-2], node) in self.mark:
                continue
            if node == goal:
                if (path[0], path[-1]) not in self.mark and (path[1], goal) not in self.mark:
                    yield [*path, node]
            else:
                yield from self.circle_paths([*path, node], goal)

    def rule_5(self):
        """A o-o B and such a path of at least three edges: all its edges and A-B are undirected."""
        for a in range(self.n):
            for b in self.circles(a):
                for c in self.circles(a):
                    if c == b or (c, b) in self.mark:
                        continue
                    for path in self.circle_paths([a, c], b):
                        for i, j in [(a, b), *itertools.pairwise(path)]:
                            self.claim(i, j, "-")
                            self.claim(j, i, "-")

    def rule_6(self):
        """A - B o-* C: a tail at B."""
        for b in range(self.n):
            if any(self.mark[a, b] == self.mark[b, a] == "-" for a in self.near(b)):
                for c in self.near(b):
                    if self.mark[c, b] == "o":
                        self.claim(c, b, "-")

    def rule_7(self):
        """A -o B o-* C, A and C not adjacent: a tail at B."""
        for b in range(self.n):
            for a in self.near(b):
                if self.mark[b, a] == "-" and self.mark[a, b] == "o":
                    for c in self.near(b):
                        if c != a and self.mark[c, b] == "o" and (a, c) not in self.mark:
                            self.claim(c, b, "-")

    def complete(self, selection=False):
        if selection:
            self.run(self.rule_5)
            self.fixed_point([self.rule_6, self.rule_7])
        super().complete()


def orient_pag(edges, n, sepset, *, selection, stable=True):
    """R0-R10 on a skeleton: return (marks array, conflicts, how often each rule fired)."""
    mark = {pair: "o" for i, j in edges for pair in ((i, j), (j, i))}
    work = FullOrientation(mark, n, sepset, stable)
    work.orient()
    conflicts = len(work.frozen)
    work.complete(selection)
    return naive.to_array(mark, n), conflicts, work.fired


def one_size(test, edges, size, pools, threshold, sepset):
    """Test all sets of one size on a frozen graph; return (edges left, number of tests).

    ``pools(i, j)`` yields the two sets to draw from. A set in both counts once.
    """
    kept, tests = [], 0
    for i, j in edges:
        choices = sorted(
            {
                members
                for pool in pools(i, j)
                for members in itertools.combinations(sorted(set(pool) - {i, j}), size)
            }
        )
        tests += len(choices)
        strengths = [(test(i, j, members), members) for members in choices]
        best = naive.best_set(strengths)
        if best is not None and min(strengths)[0] <= threshold + naive.TIE:
            sepset[i, j] = best[1]
        else:
            kept.append((i, j))
    return kept, tests


def pc_skeleton(test, n, thresholds, max_size=None):
    """Return (edges i < j, separating sets, tests per size) of the order-independent PC."""
    edges = list(itertools.combinations(range(n), 2))
    sepset: dict[tuple[int, int], tuple[int, ...]] = {}
    tests = []
    for size in range(n - 1):
        if max_size is not None and size > max_size:
            break
        near = {v: {a + b - v for a, b in edges if v in (a, b)} for v in range(n)}
        if size and not any(len(near[v]) > size for v in range(n)):
            break
        edges, count = one_size(
            test, edges, size, lambda i, j, near=near: (near[i], near[j]), thresholds(size), sepset
        )
        tests.append(count)
    return edges, sepset, tests


def sure_colliders(test, n, edges, sepset, thresholds):
    """Marks with the arrowheads of unshielded triples that hold although edges may be superfluous.

    A *-> B <-* C if B is not in the separating set of A and C and depends on both given that set
    (Colombo, Maathuis, Kalisch, Richardson, Annals of Statistics 40, 2012, lemma 3.1).
    """
    mark = {pair: "o" for i, j in edges for pair in ((i, j), (j, i))}
    for b in range(n):
        for a, c in itertools.combinations([k for k in range(n) if (b, k) in mark], 2):
            if (a, c) in mark or b in sepset[a, c]:
                continue
            given = sepset[a, c]
            if min(test(a, b, given), test(c, b, given)) > thresholds(len(given)) + naive.TIE:
                mark[a, b] = mark[c, b] = ">"
    return mark


def fci(test, n, thresholds, *, selection=False, stable=True, textbook=True):
    """Return (marks, separating sets, conflicts, fired) of FCI.

    ``textbook``: possible-d-sep sets after plain R0. Otherwise after `sure_colliders`, for each
    edge, along possible ancestors of its ends only: smaller, and the same where there is a truth.
    """
    edges, sepset, _ = pc_skeleton(test, n, thresholds)
    if textbook:
        mark = {pair: "o" for i, j in edges for pair in ((i, j), (j, i))}
        work = naive.Orientation(mark, n, sepset, stable)
        work.run(work.rule_0)
    else:
        mark = sure_colliders(test, n, edges, sepset, thresholds)

    def pools(i, j):
        inside = set(range(n))
        if not textbook:
            above = naive.possible_ancestors(mark, i) | naive.possible_ancestors(mark, j)
            inside = above - {i, j}
        return [set(naive.pds_distance(mark, v, inside, n * n)) for v in (i, j)]

    reach = {edge: pools(*edge) for edge in edges}
    for size in range(1, n - 1):
        edges, _ = one_size(test, edges, size, lambda i, j: reach[i, j], thresholds(size), sepset)
    marks, conflicts, fired = orient_pag(edges, n, sepset, selection=selection, stable=stable)
    return marks, sepset, conflicts, fired


def icd(test, n, thresholds, *, selection=False, stable=True):
    """Return (marks, separating sets, conflicts, fired) of ICD."""
    learned = naive.learn(test, n, thresholds, tier=lambda node: 0, stable=stable)
    edges = [(i, j) for i, j in itertools.combinations(range(n), 2) if learned.marks[i, j]]
    marks, conflicts, fired = orient_pag(
        edges, n, learned.sepset, selection=selection, stable=stable
    )
    return marks, learned.sepset, conflicts, fired


def pc(test, n, thresholds, *, max_size=None):
    """Return (marks of the CPDAG, separating sets, tests per size) of PC, order-independent.

    An edge with claims in both directions stays undirected.
    """
    edges, sepset, tests = pc_skeleton(test, n, thresholds, max_size)
    adjacent = {pair for i, j in edges for pair in ((i, j), (j, i))}
    near = {v: sorted(b for a, b in adjacent if a == v) for v in range(n)}
    arcs: set[tuple[int, int]] = set()  # (i, j): i -> j
    frozen: set[tuple[int, int]] = set()

    def settle(claims):
        changed = False
        for i, j in sorted(claims):
            if (i, j) in arcs or (j, i) in arcs or (min(i, j), max(i, j)) in frozen:
                continue
            if (j, i) in claims:
                frozen.add((min(i, j), max(i, j)))
            else:
                arcs.add((i, j))
                changed = True
        return changed

    def is_open(i, j):
        return (i, j) in adjacent and (i, j) not in arcs and (j, i) not in arcs

    settle(
        {
            (end, b)
            for b in range(n)
            for a, c in itertools.combinations(near[b], 2)
            if (a, c) not in adjacent and b not in sepset[min(a, c), max(a, c)]
            for end in (a, c)
        }
    )
    rules = [
        lambda b, c: any((a, b) in arcs and a != c and (a, c) not in adjacent for a in near[b]),
        lambda a, c: any((a, b) in arcs and (b, c) in arcs for b in near[a]),
        lambda d, b: any(
            (a, b) in arcs and (c, b) in arcs and is_open(d, a) and is_open(d, c)
            and (a, c) not in adjacent
            for a, c in itertools.combinations(near[d], 2)
        ),
        lambda d, b: any(
            is_open(d, a) and (a, c) in arcs and (c, b) in arcs and (a, b) not in adjacent
            and (d, c) in adjacent
            for a in near[d]
            for c in near[b]
        ),
    ]  # fmt: skip
    while any(
        [
            settle({(i, j) for i, j in sorted(adjacent) if is_open(i, j) and rule(i, j)})
            for rule in rules
        ]
    ):
        pass
    mark = {}
    for i, j in adjacent:
        mark[i, j] = ">" if (i, j) in arcs else "-"
    return naive.to_array(mark, n), sepset, tests
