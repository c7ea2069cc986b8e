"""`null_edges`: what is permuted, p-values without and with structure, bad input."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from causal_lvlm.errors import AttentionError, DataError, OutputError, StructureError
from causal_lvlm.structure import learn_structure
from causal_lvlm.structure.knowledge import BackgroundKnowledge
from causal_lvlm.structure.null import null_edges
from causal_lvlm.structure.null_result import NullEdges
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.weights import permuted_rows


def structure_free(n=12, seed=0):
    """Rows whose weights are exchangeable among keys 0..query."""
    weights = np.tril(np.random.default_rng(seed).gamma(0.3, size=(n, n)) + 1e-9)
    return weights / weights.sum(axis=1, keepdims=True)


def with_structure(n=16, seed=0):
    """Every row repeats most of the row before it."""
    weights = structure_free(n, seed)
    for i in range(1, n):
        weights[i] = 0.9 * weights[i - 1] + 0.1 * weights[i]
    return weights


def test_permuting_moves_allowed_weights_only_and_loses_none():
    rng = np.random.default_rng(0)
    weights, allowed = rng.random((40, 30)), rng.random((40, 30)) < 0.5
    moved = permuted_rows(weights, allowed, rng)
    assert np.array_equal(moved[~allowed], weights[~allowed])
    for row, other, free in zip(weights, moved, allowed, strict=True):
        assert sorted(row[free]) == sorted(other[free])
    assert (moved != weights)[allowed].mean() > 0.8


def test_all_orders_are_equally_likely():
    weights = np.array([[1.0, 9.0, 2.0, 3.0]])
    allowed = np.array([[True, False, True, True]])
    rng = np.random.default_rng(0)
    seen = Counter(tuple(permuted_rows(weights, allowed, rng)[0]) for _ in range(6000))
    assert len(seen) == 6
    # Chi-squared with 5 degrees of freedom; 20.5 is exceeded with probability 0.001.
    assert sum((count - 1000) ** 2 / 1000 for count in seen.values()) < 20.5


@pytest.mark.parametrize("kind", ["attention", "data"])
def test_without_structure_p_is_uniform(kind):
    values = []
    for seed in range(30):
        if kind == "attention":
            source = structure_free(seed=seed)
        else:
            source = np.random.default_rng(seed).normal(size=(30, 6))
        found = null_edges(source, kind=kind, permutations=19, seed=seed, threshold=0.3)
        values.append(found.p_value)
    # Each is at most 0.05 with probability at most 0.05: of 30, six or more with 0.003.
    assert sum(p <= 0.05 for p in values) < 6
    assert 0.35 < np.mean(values) < 0.8


@pytest.mark.parametrize("kind", ["attention", "data"])
def test_strong_structure_has_the_smallest_p(kind):
    options: dict[str, Any]
    if kind == "attention":
        source, options = with_structure(), {"threshold": 0.3}
    else:
        rng = np.random.default_rng(0)
        source = np.cumsum(rng.normal(size=(200, 8)), axis=1)
        options = {"alpha": 0.01}
    found = null_edges(source, kind=kind, permutations=29, **options)
    assert found.p_value == 1 / 30
    assert found.observed > found.quantiles[0.95]
    assert found.node_p_value(5) <= 0.1
    if kind == "data":
        assert found.parameters["learn"]["n_samples"] == 200


def test_observed_graph_is_that_of_the_source():
    weights = structure_free()
    norms = np.linalg.norm(weights, axis=1)
    alone = learn_structure(weights @ weights.T / np.outer(norms, norms), threshold=0.3)
    found = null_edges(weights, permutations=3, threshold=0.3)
    assert found.pag == alone.pag
    consistent(found)


def consistent(found):
    n = found.pag.n_nodes
    assert np.array_equal(found.pair_frequency, found.pair_frequency.T)
    assert np.array_equal(found.degrees.sum(axis=1), 2 * found.counts)
    upper = found.pair_frequency[np.triu_indices(n, 1)]
    assert upper.sum() == pytest.approx(found.mean)
    with pytest.raises(ValueError, match="read-only"):
        found.counts[0] = 1
    json.dumps(found.to_dict())


def test_p_value_counts_ties():
    pag = PAG(np.array([[0, 2, 0], [1, 0, 0], [0, 0, 0]]))
    degrees = np.array([[1, 1, 0], [2, 1, 1], [0, 0, 0], [0, 1, 1]])
    found = NullEdges(pag, np.array([1, 2, 0, 1]), degrees, np.zeros((3, 3)), {})
    assert found.observed == 1 and found.p_value == (1 + 3) / 5
    assert found.p_value_fewer == (1 + 3) / 5
    assert found.node_p_value(0) == (1 + 2) / 5 and found.node_p_value(2) == 1.0
    with pytest.raises(StructureError, match=r"0\.\.2"):
        found.node_p_value(3)


def test_structure_may_mean_fewer_edges():
    # All rows are row 0 and a key of their own: row 0 separates all others.
    weights = np.zeros((14, 40))
    weights[:, :20] = np.random.default_rng(0).gamma(2.0, size=20)
    weights[np.arange(1, 14), 20 + np.arange(1, 14)] = np.linalg.norm(weights[0])
    found = null_edges(weights, permutations=19, threshold=0.1, allowed="all", sinks=())
    assert found.observed == 13 and found.observed < found.counts.min()
    assert found.p_value == 1.0 and found.p_value_fewer == 1 / 20


def test_seed_and_threads():
    weights = structure_free()
    one = null_edges(weights, permutations=12, threshold=0.3, seed=1)
    many = null_edges(weights, permutations=12, threshold=0.3, seed=1, n_jobs=4)
    other = null_edges(weights, permutations=12, threshold=0.3, seed=2)
    assert np.array_equal(one.counts, many.counts)
    assert np.array_equal(one.pair_frequency, many.pair_frequency)
    assert not np.array_equal(one.pair_frequency, other.pair_frequency)


@pytest.mark.parametrize("kind", ["attention", "data"])
def test_knowledge_may_name_nodes(kind):
    source: Any
    if kind == "attention":
        source, options = structure_free(4), {"threshold": 0.3, "names": tuple("abcd")}
    else:
        rng = np.random.default_rng(0)
        source = dict(zip("abcd", rng.normal(size=(4, 50)), strict=True))
        options = {"alpha": 0.01}
    knowledge = BackgroundKnowledge(required=[("a", "d")], forbidden=[("b", "c")])
    found = null_edges(source, kind=kind, permutations=5, knowledge=knowledge, **options)
    assert found.names == tuple("abcd")
    assert found.pag.marks[0, 3] and found.pair_frequency[0, 3] == 1.0
    assert not found.pag.marks[1, 2] and found.pair_frequency[1, 2] == 0.0
    algorithm = found.parameters["learn"]["algorithm"]
    assert algorithm == ("icd" if kind == "data" else "ordered_icd")


def test_budgets_are_for_each_graph():
    source = np.random.default_rng(0).normal(size=(50, 6))
    found = null_edges(source, kind="data", permutations=3, alpha=0.3, max_tests=5)
    assert found.incomplete == 3 == found.summary()["incomplete"]
    seen: list[tuple[int, int]] = []
    free = null_edges(
        source, kind="data", permutations=3, alpha=0.3, time_limit=60.0,
        progress=lambda done, count: seen.append((done, count)),
    )  # fmt: skip
    assert free.incomplete == 0 and seen == [(1, 3), (2, 3), (3, 3)]


def test_files(tmp_path):
    found = null_edges(structure_free(5), permutations=4, threshold=0.3, names=tuple("abcde"))
    path = found.save(tmp_path / "null.json")
    loaded = NullEdges.load(path)
    assert loaded.to_dict() == json.loads(json.dumps(found.to_dict()))
    assert loaded.pag == found.pag and loaded.names == found.names
    for name in ("counts", "degrees", "pair_frequency"):
        assert np.array_equal(getattr(loaded, name), getattr(found, name))
    (tmp_path / "null.npz").unlink()
    with pytest.raises(OutputError, match="cannot read"):
        NullEdges.load(path)
    with pytest.raises(OutputError, match=r"\.json"):
        found.save(tmp_path / "null.npz")


def test_sink_stays_where_it_is():
    weights = structure_free(12)
    weights[1:] *= 0.4
    weights[1:, 0] += 0.6
    options: dict[str, Any] = {"permutations": 5, "threshold": 0.5, "max_conditioning_size": 0}
    found = null_edges(weights, **options)
    assert found.parameters["sinks"] == [0]
    # All rows share the sink, so each two of them correlate by at least 0.36 / 0.52 in every
    # permuted graph. Moved about, the weight of the sink is shared no more.
    moved = null_edges(weights, sinks=(), **options)
    assert moved.parameters["sinks"] == []
    assert found.counts.tolist() == [66] * 5
    assert moved.counts.max() < 40
    dropped = null_edges(
        weights, permutations=5, threshold=0.3, sink="drop", nodes=list(range(1, 12))
    )
    assert dropped.pag.n_nodes == 11


def test_mask_may_be_given():
    weights = np.random.default_rng(0).random((6, 9))
    mask = np.zeros((6, 9), dtype=bool)
    mask[:, :4] = True
    found = null_edges(weights, permutations=4, threshold=0.3, allowed=mask)
    assert found.parameters["rows_permuted"] == 6 and found.parameters["allowed"] == "given"
    assert null_edges(weights, permutations=4, threshold=0.3, allowed="all").n_permutations == 4


@pytest.mark.parametrize(
    ("source", "options", "error", "words"),
    [
        (np.ones((2, 4, 4)), {}, AttentionError, "one head"),
        (np.ones((4, 4)), {}, AttentionError, "row 0 has weight on key 1"),
        (np.diag([1.0, 0.0, 1.0]), {}, AttentionError, "row 1 has no weight"),
        (np.tril(np.ones((4, 4))), {"allowed": np.ones((3, 3))}, AttentionError, "shape"),
        (np.eye(3), {"allowed": np.eye(3)}, AttentionError, "nothing to permute"),
        (np.tril(np.ones((4, 4))), {"sinks": [4]}, AttentionError, "sink 4"),
        (np.tril(np.full((4, 4), np.nan)), {}, AttentionError, "not finite"),
        (np.ones((9, 2)), {"kind": "data"}, DataError, "constant"),
        (np.eye(9), {"kind": "data", "nodes": [1]}, StructureError, "no effect"),
        (np.eye(9), {"kind": "correlation"}, ValueError, "kind"),
        (np.eye(9), {"permutations": 0}, ValueError, "permutations"),
    ],
)
def test_bad_input(source, options, error, words):
    with pytest.raises(error, match=words):
        null_edges(source, **{"threshold": 0.3, "permutations": 2, **options})
