"""`compare_graphs` against counting by hand, and the properties of a metric."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import StructureError
from causal_lvlm.storage import to_jsonable
from causal_lvlm.structure.compare import compare_graphs
from causal_lvlm.structure.pag import PAG
from tests.examples import examples

#         0 --> 1, 1 <-> 2, 2 o-o 3
TRUTH = PAG(np.array([[0, 2, 0, 0], [3, 0, 2, 0], [0, 2, 0, 1], [0, 0, 1, 0]]))
#         0 --> 1, 1 o-> 2, 0 --- 3
LEARNED = PAG(np.array([[0, 2, 0, 3], [3, 0, 2, 0], [0, 1, 0, 0], [3, 0, 0, 0]]))
EMPTY = PAG(np.zeros((4, 4), dtype=np.uint8))


def as_pag(n: int, ends: list[tuple[int, int]]) -> PAG:
    marks = np.zeros((n, n), dtype=np.uint8)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for (i, j), (at_i, at_j) in zip(pairs, ends, strict=False):
        if at_i:
            marks[j, i], marks[i, j] = at_i, at_j
    return PAG(marks)


# No edge, or one of nine: the marks at both ends.
EDGE = st.one_of(st.just((0, 0)), st.tuples(st.integers(1, 3), st.integers(1, 3)))


def graphs(n: int = 5, count: int = 1):
    one = st.lists(EDGE, min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2)
    return st.tuples(*[one.map(lambda ends: as_pag(n, ends))] * count)


def slow(learned: PAG, truth: PAG) -> dict[str, int]:
    """Count pair by pair, end by end."""
    n, out = learned.n_nodes, dict.fromkeys(("tp", "fp", "fn", "shd", "ends", "right"), 0)
    for i in range(n):
        for j in range(i + 1, n):
            a = (int(learned.marks[j, i]), int(learned.marks[i, j]))
            b = (int(truth.marks[j, i]), int(truth.marks[i, j]))
            out["tp"] += a[0] > 0 and b[0] > 0
            out["fp"] += a[0] > 0 and b[0] == 0
            out["fn"] += a[0] == 0 and b[0] > 0
            out["shd"] += a != b
            out["ends"] += int(a[0] != b[0]) + int(a[1] != b[1])
            out["right"] += sum(x == y > 0 for x, y in zip(a, b, strict=True))
    return out


def test_by_hand():
    found = compare_graphs(LEARNED, TRUTH)
    assert (found.true_positives, found.false_positives, found.false_negatives) == (2, 1, 1)
    assert found.extra == ((0, 3),) and found.missing == ((2, 3),) and found.changed == ((1, 2),)
    assert found.changed_symbols == (("o->", "<->"),)
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.shd == 3 and found.mark_distance == 5
    assert found.mark_accuracy == 3 / 4  # of the four marks on 0-1 and 1-2
    # Arrowheads learned: at 1, at 2; true: at 1, at 1, at 2. Tails learned: 0, 0, 3; true: 0.
    assert found.arrowhead_precision == 1.0 and found.arrowhead_recall == pytest.approx(2 / 3)
    assert found.tail_precision == pytest.approx(1 / 3) and found.tail_recall == 1.0
    assert not found.same
    assert json.loads(json.dumps(to_jsonable(found.to_dict())))["changed"] == [[1, 2]]


def test_what_is_undefined_is_nan():
    nothing = compare_graphs(EMPTY, EMPTY)
    assert nothing.same and nothing.shd == 0
    for name in ("precision", "recall", "f1", "mark_accuracy", "arrowhead_recall", "tail_recall"):
        assert math.isnan(getattr(nothing, name)), name
    no_edge_learned = compare_graphs(EMPTY, TRUTH)
    assert math.isnan(no_edge_learned.precision) and no_edge_learned.recall == 0.0
    assert no_edge_learned.f1 == 0.0 and math.isnan(no_edge_learned.mark_accuracy)
    no_edge_true = compare_graphs(TRUTH, EMPTY)
    assert math.isnan(no_edge_true.recall) and no_edge_true.precision == 0.0
    alone = compare_graphs(
        PAG(np.zeros((1, 1), dtype=np.uint8)), PAG(np.zeros((1, 1), dtype=np.uint8))
    )
    assert alone.same and alone.n_nodes == 1


@examples(60)
@given(graphs(5, 2))
def test_against_counting(pair):
    found, counted = compare_graphs(*pair), slow(*pair)
    assert found.true_positives == counted["tp"] == pair[0].n_edges - found.false_positives
    assert found.false_positives == counted["fp"] and found.false_negatives == counted["fn"]
    assert found.shd == counted["shd"] and found.mark_distance == counted["ends"]
    assert found.shd <= found.mark_distance <= 2 * found.shd
    assert sum(map(sum, found.confusion)) == 20
    if counted["tp"]:
        assert found.mark_accuracy == counted["right"] / (2 * counted["tp"])


@examples(60)
@given(graphs(4, 3))
def test_distances_are_metrics(three):
    a, b, c = three
    for name in ("shd", "mark_distance"):
        distance = {
            (x, y): getattr(compare_graphs(three[x], three[y]), name)
            for x in range(3)
            for y in range(3)
        }
        assert distance[0, 0] == 0
        assert (distance[0, 1] == 0) == (a == b)
        assert distance[0, 1] == distance[1, 0]
        assert distance[0, 2] <= distance[0, 1] + distance[1, 2], (a, b, c)


@examples(30)
@given(graphs(5, 2))
def test_swapping_swaps_precision_and_recall(pair):
    there, back = compare_graphs(*pair), compare_graphs(*pair[::-1])
    assert there.extra == back.missing and there.changed == back.changed
    for one, other in (("precision", "recall"), ("arrowhead_precision", "arrowhead_recall"),
                       ("tail_precision", "tail_recall"), ("f1", "f1")):  # fmt: skip
        assert getattr(there, one) == pytest.approx(getattr(back, other), nan_ok=True)


@examples(30)
@given(graphs(5, 2), st.permutations(range(5)))
def test_numbering_does_not_matter(pair, order):
    turned = [PAG(graph.marks[np.ix_(order, order)]) for graph in pair]
    assert compare_graphs(*turned).confusion == compare_graphs(*pair).confusion


def test_structures_kinds_and_names():
    def wrap(pag, kind="pag", names=None):
        return SimpleNamespace(pag=pag, kind=kind, names=names)

    assert compare_graphs(wrap(LEARNED), TRUTH) == compare_graphs(LEARNED, wrap(TRUTH))
    #             0 --> 1, 1 --- 2
    cpdag = PAG(np.array([[0, 2, 0, 0], [3, 0, 3, 0], [0, 3, 0, 0], [0, 0, 0, 0]]))
    assert compare_graphs(wrap(cpdag, "cpdag"), cpdag).kind == "cpdag"
    for bare in (TRUTH, LEARNED, wrap(LEARNED, None)):  # circles, or <->
        for pair in ((wrap(cpdag, "cpdag"), bare), (bare, wrap(cpdag, "cpdag"))):
            with pytest.raises(StructureError, match="this graph has circles or <->"):
                compare_graphs(*pair)
    assert compare_graphs(wrap(LEARNED, None), wrap(TRUTH)).kind == "pag"
    with pytest.raises(StructureError, match="'pag' cannot be compared with a 'cpdag'"):
        compare_graphs(wrap(LEARNED), wrap(TRUTH, "cpdag"))
    with pytest.raises(StructureError, match="4 and 1 nodes"):
        compare_graphs(LEARNED, PAG(np.zeros((1, 1), dtype=np.uint8)))
    with pytest.raises(StructureError, match="node 1 is 'b' in one graph and 'x'"):
        compare_graphs(wrap(LEARNED, names=("a", "b", "c", "d")),
                       wrap(TRUTH, names=("a", "x", "c", "d")))  # fmt: skip
    with pytest.raises(StructureError, match="not list"):
        compare_graphs([[0]], TRUTH)  # type: ignore[arg-type]
