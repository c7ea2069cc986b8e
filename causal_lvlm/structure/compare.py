"""How far a learned graph is from another one: edges, marks, distances, and which edges differ.

Both graphs are read as the N (N - 1) / 2 pairs of nodes, each with one of the ways two marks can be
put on it, or without an edge:

1. Skeleton: a pair with an edge in both graphs is a true positive, in the learned one only a false
   positive (extra), in the truth only a false negative (missing).
2. Structural Hamming distance (Tsamardinos, Brown, Aliferis, Machine Learning 65, 2006, section
   5.2, carried over from CPDAGs to any marks): one for every extra edge, one for every missing
   edge, one for every shared edge that does not have the same two marks. It counts the pairs in
   which the graphs differ, so it is a metric.
3. Mark distance: the same count over ends instead of pairs. An extra or missing edge counts two, a
   shared edge one for each end whose mark differs. Also a metric; SHD <= mark distance <= 2 SHD.
4. Marks: an arrowhead (tail, circle) of the learned graph is right if the truth has the edge too
   and the same mark at that end.

A ratio whose denominator is zero is NaN, never 0 or 1: an empty learned graph has no precision, an
empty truth no recall, two empty graphs no F1, no shared edge no mark accuracy.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.errors import StructureError
from causal_lvlm.structure.marks import ARROW, CIRCLE, TAIL, check_kind, edge_symbol
from causal_lvlm.structure.pag import PAG

if TYPE_CHECKING:
    from causal_lvlm.structure.result import LearnedStructure

__all__ = ["GraphComparison", "compare_graphs"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class GraphComparison:
    """What `compare_graphs` found; ratios without a denominator are NaN.

    Attributes
    ----------
    n_nodes : int
    true_positives, false_positives, false_negatives : int
        Edges in both graphs, in the learned one only, in the truth only.
    shd : int
        Structural Hamming distance: pairs of nodes in which the graphs differ.
    mark_distance : int
        Ends in which they differ; an extra or missing edge counts two.
    confusion : tuple of 4 tuples of 4 int
        ``confusion[t][m]``: ends with code t in the truth and m in the learned graph (0 none,
        1 circle, 2 arrowhead, 3 tail). All 16 numbers add up to N (N - 1).
    extra, missing, changed : tuple of (int, int)
        Pairs i < j, in lexicographic order: edges of the learned graph only, of the truth only,
        and shared edges with different marks.
    changed_symbols : tuple of (str, str)
        Learned and true edge of every changed pair, such as ``("o->", "-->")``.
    kind : str
        ``"pag"`` or ``"cpdag"``.
    """

    n_nodes: int
    true_positives: int
    false_positives: int
    false_negatives: int
    shd: int
    mark_distance: int
    confusion: tuple[tuple[int, ...], ...]
    extra: tuple[Pair, ...]
    missing: tuple[Pair, ...]
    changed: tuple[Pair, ...]
    changed_symbols: tuple[tuple[str, str], ...]
    kind: str = "pag"

    @property
    def precision(self) -> float:
        """Share of the learned edges that are true; NaN if none was learned."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the true edges that were learned; NaN if the truth has none."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN only if both graphs are empty."""
        both = 2 * self.true_positives
        return _ratio(both, both + self.false_positives + self.false_negatives)

    @property
    def mark_accuracy(self) -> float:
        """Share of right marks among the two of every shared edge; NaN if no edge is shared."""
        right = sum(self.confusion[code][code] for code in (CIRCLE, ARROW, TAIL))
        return _ratio(right, 2 * self.true_positives)

    @property
    def arrowhead_precision(self) -> float:
        """Share of the learned arrowheads that are true; NaN if none was learned."""
        return self.mark_precision(ARROW)

    @property
    def arrowhead_recall(self) -> float:
        """Share of the true arrowheads that were learned; NaN if the truth has none."""
        return self.mark_recall(ARROW)

    @property
    def tail_precision(self) -> float:
        """Share of the learned tails that are true; NaN if none was learned."""
        return self.mark_precision(TAIL)

    @property
    def tail_recall(self) -> float:
        """Share of the true tails that were learned; NaN if the truth has none."""
        return self.mark_recall(TAIL)

    @property
    def same(self) -> bool:
        """Whether the graphs are equal."""
        return self.shd == 0

    def mark_precision(self, code: int) -> float:
        """Share of the learned marks with this code (1..3) that are true, edges included."""
        return _ratio(self.confusion[code][code], sum(row[code] for row in self.confusion))

    def mark_recall(self, code: int) -> float:
        """Share of the true marks with this code (1..3) that were learned, edges included."""
        return _ratio(self.confusion[code][code], sum(self.confusion[code]))

    def summary(self) -> dict[str, Any]:
        """Return the numbers without the edge lists."""
        names = (
            "kind", "n_nodes", "true_positives", "false_positives", "false_negatives", "precision",
            "recall", "f1", "shd", "mark_distance", "mark_accuracy", "arrowhead_precision",
            "arrowhead_recall", "tail_precision", "tail_recall",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return `summary`, the confusion counts and the edge lists as plain data."""
        lists = asdict(self)
        names = ("confusion", "extra", "missing", "changed", "changed_symbols")
        return {**self.summary(), **{name: [list(item) for item in lists[name]] for name in names}}


def compare_graphs(
    learned: PAG | LearnedStructure, truth: PAG | LearnedStructure
) -> GraphComparison:
    """Compare a learned graph with the true one (or any two graphs over the same nodes).

    Parameters
    ----------
    learned, truth : PAG or LearnedStructure
        Nodes correspond by number. Both must be of the same kind: a circle has no place in a
        CPDAG, and a tail at both ends means something else in a PAG. A bare `PAG` does not say its
        kind and takes the other's. A DAG is not the PAG or CPDAG of itself: what a true DAG looks
        like to a learner has to be derived from it first.

    Returns
    -------
    GraphComparison

    Raises
    ------
    StructureError
        If the graphs differ in the number of nodes, in their names, or in kind, or a bare graph has
        circles or ``<->`` and the other is a CPDAG.

    Examples
    --------
    The truth is 0 --> 1 o-> 2; learned was 0 o-> 1 and 0 o-o 2:

    >>> truth = PAG([[0, 2, 0], [3, 0, 2], [0, 1, 0]])
    >>> found = compare_graphs(PAG([[0, 2, 1], [1, 0, 0], [1, 0, 0]]), truth)
    >>> found.shd, found.precision, found.mark_accuracy, found.changed_symbols
    (3, 0.5, 0.5, (('o->', '-->'),))
    """
    mine, true = _graph(learned), _graph(truth)
    if mine.n_nodes != true.n_nodes:
        raise StructureError(
            f"the graphs have {mine.n_nodes} and {true.n_nodes} nodes; only graphs over the same "
            "nodes can be compared (leave out or add isolated nodes first)"
        )
    said = [getattr(graph, "kind", None) for graph in (learned, truth)]
    kinds = [kind for kind in said if kind is not None]
    if len(set(kinds)) > 1:
        raise StructureError(
            f"a {kinds[0]!r} cannot be compared with a {kinds[1]!r}: their marks do not mean the "
            "same; learn both with algorithms of one kind"
        )
    kind = kinds[0] if kinds else "pag"
    for graph in (mine, true):
        check_kind(graph, kind)
    names = [n for n in (getattr(g, "names", None) for g in (learned, truth)) if n is not None]
    if len(names) == 2 and tuple(names[0]) != tuple(names[1]):
        i = next(k for k, pair in enumerate(zip(*names, strict=True)) if pair[0] != pair[1])
        raise StructureError(
            f"node {i} is {names[0][i]!r} in one graph and {names[1][i]!r} in the other; bring "
            "both into the same order of variables"
        )
    a, b = mine.marks, true.marks
    off = ~np.eye(len(a), dtype=bool)
    confusion = np.bincount(
        4 * b[off].astype(np.int64) + a[off], minlength=16
    ).reshape(4, 4)  # fmt: skip
    shared = (a > 0) & (b > 0)
    changed = _pairs(shared & ((a != b) | (a != b).T))
    extra, missing = _pairs((a > 0) & (b == 0)), _pairs((a == 0) & (b > 0))
    return GraphComparison(
        n_nodes=mine.n_nodes,
        true_positives=int(np.count_nonzero(shared)) // 2,
        false_positives=len(extra),
        false_negatives=len(missing),
        shd=len(extra) + len(missing) + len(changed),
        mark_distance=int(np.count_nonzero(a != b)),
        confusion=tuple(tuple(int(k) for k in row) for row in confusion),
        extra=extra,
        missing=missing,
        changed=changed,
        changed_symbols=tuple(
            (edge_symbol(mine, i, j), edge_symbol(true, i, j)) for i, j in changed
        ),
        kind=kind,
    )


def _graph(value: Any) -> PAG:
    graph = value if isinstance(value, PAG) else getattr(value, "pag", None)
    if not isinstance(graph, PAG):
        raise StructureError(
            f"a PAG or a LearnedStructure is needed, not {type(value).__name__}; PAG(marks) makes "
            "one from an array of marks"
        )
    return graph


def _pairs(where: Any) -> tuple[Pair, ...]:
    return tuple((int(i), int(j)) for i, j in np.argwhere(np.triu(where, 1)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
