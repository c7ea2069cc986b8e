"""`edge_stability`: frequencies against separate runs, limits, seeds, threads, files, bad input."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from causal_lvlm.errors import (
    AttentionError,
    DataError,
    OutputError,
    SampleSizeError,
    StructureError,
)
from causal_lvlm.structure import learn_structure
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.knowledge import BackgroundKnowledge
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.resample import shuffled_turns, wishart_correlation
from causal_lvlm.structure.stability import edge_stability
from causal_lvlm.structure.stability_result import EdgeStability
from causal_lvlm.structure.weights import jittered


def attention(n=8, seed=0, heads=None):
    rng = np.random.default_rng(seed)
    shape = (n, n) if heads is None else (heads, n, n)
    weights = np.tril(rng.gamma(0.5, size=shape) + 1e-6)
    return weights / weights.sum(axis=-1, keepdims=True)


def chain_table(n=400, seed=0):
    """0 -> 1 -> 2, and 3 alone."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    x[:, 1] += x[:, 0]
    x[:, 2] += x[:, 1]
    return x


def row_correlation(weights):
    """The published definition, written out."""
    n = len(weights)
    c = np.array([[weights[i] @ weights[j] for j in range(n)] for i in range(n)])
    return c / np.sqrt(np.outer(np.diag(c), np.diag(c)))


def consistent(found):
    n = found.n_nodes
    assert np.array_equal(found.edge_frequency, found.edge_frequency.T)
    assert np.allclose(found.mark_frequency.sum(axis=2), 1.0)
    assert np.allclose(found.mark_frequency[:, :, 1:].sum(axis=2), found.edge_frequency)
    total = found.edge_frequency[np.triu_indices(n, 1)].sum() * found.n_runs
    assert total == pytest.approx(found.edge_counts.sum())
    for array in (found.edge_frequency, found.mark_frequency, found.edge_counts):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_without_jitter_one_graph_has_frequency_one():
    weights = attention()
    alone = learn_structure(row_correlation(weights), threshold=0.3)
    found = edge_stability(weights, runs=5, jitter=0.0, thresholds=0.3)
    consistent(found)
    assert np.array_equal(found.edge_frequency, (alone.pag.marks > 0).astype(float))
    assert found.consensus(1.0) == alone.pag
    assert found.edge_counts.tolist() == [alone.pag.n_edges] * 5


def test_heads_and_levels_are_gone_through_evenly():
    weights = attention(heads=3)
    levels = (0.2, 0.5)
    alone = [
        learn_structure(row_correlation(weights[h]), threshold=t).pag.marks
        for h in range(3)
        for t in levels
    ]
    found = edge_stability(weights, runs=12, jitter=0.0, thresholds=levels)
    consistent(found)
    assert np.allclose(found.edge_frequency, np.mean([m > 0 for m in alone], axis=0))
    for code in range(4):
        assert np.allclose(found.mark_frequency[:, :, code], np.mean([m == code for m in alone], 0))
    assert found.parameters["heads"] == [0, 1, 2] and found.parameters["seed"] == 0
    two = edge_stability(weights, runs=4, jitter=0.0, thresholds=0.2, heads=[2])
    assert np.array_equal(two.edge_frequency, alone[4] > 0)


def test_consensus_against_counting():
    weights = attention(heads=3)
    found = edge_stability(weights, runs=9, jitter=0.0, thresholds=0.3)
    graphs = [learn_structure(row_correlation(w), threshold=0.3).pag.marks for w in weights]
    for share in (0.3, 0.4, 0.5, 2 / 3, 0.7, 1.0):
        expected = np.zeros((8, 8), dtype=int)
        for i in range(8):
            for j in range(8):
                codes = [int(g[i, j]) for g in graphs if g[i, j]]
                if len(codes) / 3 < share - 1e-9 or not codes:
                    continue
                best = max((2, 3), key=codes.count)
                expected[i, j] = best if codes.count(best) > len(codes) / 2 else 1
        assert found.consensus(share) == PAG(expected), share
    with pytest.raises(StructureError, match="threshold"):
        found.consensus(0.0)


def test_consensus_of_cpdags_is_a_cpdag():
    marks = np.zeros((2, 2, 4))
    # Of four runs two have 0 -> 1, one 0 - 1, one 1 -> 0.
    marks[0, 1, 2:], marks[1, 0, 2:] = (0.5, 0.5), (0.25, 0.75)
    frequency = np.array([[0.0, 1.0], [1.0, 0.0]])
    found = EdgeStability(frequency, marks, np.ones(4, dtype=int), 4, 0, {}, kind="cpdag")
    assert found.consensus().marks.tolist() == [[0, 3], [3, 0]]
    marks[0, 1, 2:], marks[1, 0, 2:] = (0.75, 0.25), (0.0, 1.0)
    found = EdgeStability(frequency, marks, np.ones(4, dtype=int), 4, 0, {}, kind="cpdag")
    assert found.consensus().marks.tolist() == [[0, 2], [3, 0]]


def test_seed_and_threads():
    weights = attention(heads=2)
    options: dict[str, Any] = {
        "runs": 14,
        "alphas": (1e-3, 0.05),
        "n_samples": (100, 400),
        "jitter": 0.4,
    }
    one = edge_stability(weights, seed=3, **options)
    many = edge_stability(weights, seed=3, n_jobs=4, **options)
    other = edge_stability(weights, seed=4, **options)
    consistent(one)
    assert np.array_equal(one.mark_frequency, many.mark_frequency)
    assert np.array_equal(one.edge_counts, many.edge_counts)
    assert not np.array_equal(one.mark_frequency, other.mark_frequency)


def test_turns_are_even_and_shuffled():
    turns = shuffled_turns(4, 10, seed=0)
    assert np.bincount(turns[:8], minlength=4).tolist() == [2, 2, 2, 2] and len(turns) == 10
    assert len({tuple(shuffled_turns(4, 4, seed=s)) for s in range(20)}) > 5


def test_jitter_keeps_zeros_and_sums_and_has_its_size():
    weights = np.tril(np.ones((200, 200)))
    weights[0] = 0.0
    moved = jittered(weights, 0.3, np.random.default_rng(0))
    assert np.array_equal(moved == 0, weights == 0)
    assert np.allclose(moved.sum(axis=1), weights.sum(axis=1))
    # Bringing a row back to its sum shifts its logarithms, so the spread within rows is looked at.
    assert np.log(moved[-1]).std() == pytest.approx(0.3, rel=0.2)


def test_data_finds_the_chain_and_not_the_loner():
    found = edge_stability(chain_table(), kind="data", runs=20, alphas=0.01, algorithm="icd")
    consistent(found)
    assert found.edge_frequency[0, 1] == found.edge_frequency[1, 2] == 1.0
    assert found.edge_frequency[3, :3].max() <= 0.3
    assert found.parameters["n_samples"] == [400]
    half = edge_stability(chain_table(), kind="data", runs=20, alphas=0.01, resample="subsample")
    assert half.parameters["n_samples"] == [200]
    assert half.edge_frequency[0, 2] <= 0.3


def test_names_come_from_the_table():
    table = chain_table(50)

    frame = dict(zip("abcd", table.T, strict=True))
    found = edge_stability(frame, kind="data", runs=2, alphas=0.01)
    assert found.names == ("a", "b", "c", "d")
    assert edge_stability(table, kind="data", runs=2, alphas=0.01, names=list("wxyz")).names == (
        "w", "x", "y", "z",
    )  # fmt: skip


@pytest.mark.parametrize("n_samples", [40, 5, 3])
def test_resampled_correlations_have_the_moments_of_correlations(n_samples):
    # With 3 variables, 40 and 5 go through Bartlett's factor and 3 through plain draws.
    root: Any = np.linalg.cholesky([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]])
    rng = np.random.default_rng(0)
    drawn = np.array([wishart_correlation(root, n_samples, rng) for _ in range(6000)])
    plain = np.array(
        [np.corrcoef(rng.standard_normal((n_samples, 3)) @ root.T, rowvar=False)
         for _ in range(6000)]
    )  # fmt: skip
    assert np.abs(drawn.mean(axis=0) - plain.mean(axis=0)).max() < 0.05
    assert np.abs(drawn.std(axis=0) - plain.std(axis=0)).max() < 0.03


def test_correlation_with_many_samples_is_certain():
    r = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.6], [0.6, 0.6, 1.0]])
    source = SimpleNamespace(correlation=r, n_samples=100_000, tiers=[0, 0, 1], threshold=None)
    found = edge_stability(source, kind="correlation", runs=10, alphas=1e-4)
    assert found.consensus(1.0) == learn_structure(source, alpha=1e-4).pag
    few = edge_stability(r, kind="correlation", runs=60, n_samples=12, alphas=0.05)
    assert 0.05 < few.edge_frequency[0, 2] < 0.95


def test_level_may_be_given_as_the_learner_names_it():
    weights = attention()
    assert np.array_equal(
        edge_stability(weights, runs=3, threshold=0.4).mark_frequency,
        edge_stability(weights, runs=3, thresholds=[0.4]).mark_frequency,
    )


def test_nodes_are_rows_and_sinks_can_be_dropped():
    weights = attention(12)
    weights[:, 0] += 4.0
    rows = [3, 5, 9]
    found = edge_stability(weights, runs=1, jitter=0.0, threshold=0.3, nodes=rows, sink="drop")
    kept = weights.copy()
    kept[:, 0] = 0.0
    alone = learn_structure(row_correlation(kept[rows]), threshold=0.3)
    assert found.consensus(1.0) == alone.pag
    with pytest.raises(AttentionError, match="row 0 has no weight without the sinks"):
        edge_stability(weights, runs=1, threshold=0.3, sink="drop")


@pytest.mark.parametrize("kind", ["data", "correlation", "attention"])
def test_knowledge_may_name_nodes(kind):
    names = tuple("abcd")
    source: Any
    options: dict[str, Any] = {"alpha": 0.01, "names": names}
    if kind == "attention":
        source, options = attention(4), {"threshold": 0.3, "names": names}
    elif kind == "data":
        source = chain_table()
    else:
        source = correlation_from_data(chain_table(), names=names)
    knowledge = BackgroundKnowledge(required=[("a", "d")], forbidden=[("a", "b")])
    found = edge_stability(source, kind=kind, runs=6, knowledge=knowledge, **options)
    assert found.names == names
    assert found.edge_frequency[0, 3] == 1.0 and found.edge_frequency[0, 1] == 0.0
    told = found.parameters["first_run"]["knowledge"]
    assert told == json.loads(json.dumps(knowledge.to_dict()))


def test_default_algorithm_is_that_of_the_kind_of_source():
    table = chain_table(60)
    for kind, source, options in (
        ("data", table, {}),
        ("correlation", correlation_from_data(table), {}),
        ("correlation", np.corrcoef(table.T), {"n_samples": 60}),
        ("attention", attention(4), {"n_samples": 60}),
    ):
        found = edge_stability(source, kind=kind, runs=1, alpha=0.01, **options)
        of_data = kind == "data" or hasattr(source, "kind")
        want = "icd" if of_data else "ordered_icd"
        assert found.parameters["first_run"]["algorithm"] == want


def test_budgets_are_for_each_run():
    table = chain_table()
    found = edge_stability(table, kind="data", runs=3, alpha=0.01, max_tests=6)
    assert found.incomplete_runs == 3
    limited = edge_stability(table, kind="data", runs=3, alpha=0.01, time_limit=60.0)
    free = edge_stability(table, kind="data", runs=3, alpha=0.01)
    assert limited.incomplete_runs == 0
    assert np.array_equal(limited.mark_frequency, free.mark_frequency)
    assert limited.parameters["first_run"]["time_limit"] == 60.0


def test_progress_counts_runs():
    seen: list[tuple[int, int]] = []
    edge_stability(
        attention(), runs=4, threshold=0.3, progress=lambda done, runs: seen.append((done, runs))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_ctrl_c_ends_all_runs():
    """One run's `learn_structure` returns what it has; the other runs must not follow."""
    calls: list[int] = []

    def stop(*state: int) -> None:
        calls.append(1)
        raise KeyboardInterrupt

    module = importlib.import_module("causal_lvlm.structure.stability")
    real = module.learn_structure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "learn_structure", lambda *a, **o: real(*a, progress=stop, **o))
        with pytest.raises(KeyboardInterrupt):
            edge_stability(chain_table(), kind="data", runs=50, alpha=0.01)
    assert len(calls) == 1


def test_files(tmp_path):
    found = edge_stability(attention(), runs=4, thresholds=(0.2, 0.4), names=list("abcdefgh"))
    path = found.save(tmp_path / "stability.json")
    loaded = EdgeStability.load(path)
    assert np.array_equal(loaded.mark_frequency, found.mark_frequency)
    assert np.array_equal(loaded.edge_frequency, found.edge_frequency)
    assert loaded.parameters == json.loads(json.dumps(found.parameters))
    assert loaded.names == found.names and loaded.versions == found.versions
    assert loaded.summary()["edges_ever"] == len(loaded.to_dict()["edges"])
    (tmp_path / "stability.npz").unlink()
    with pytest.raises(OutputError, match="cannot read"):
        EdgeStability.load(path)
    with pytest.raises(OutputError, match=r"\.json"):
        found.save(tmp_path / "stability.npz")


@pytest.mark.parametrize(
    ("source", "options", "error", "words"),
    [
        (-attention(), {}, AttentionError, "negative"),
        (np.ones(3), {}, AttentionError, "shape"),
        (np.eye(4) * [1, 1, 0, 1], {}, AttentionError, "row 2 has no weight"),
        (attention(), {"heads": [0]}, AttentionError, "one head"),
        (attention(heads=2), {"heads": [2]}, AttentionError, "0..1"),
        (attention(), {"nodes": [8]}, AttentionError, "0..7"),
        (attention(), {"jitter": -1.0}, StructureError, "jitter"),
        (attention(), {"alphas": 0.1}, StructureError, "either"),
        (attention(), {"threshold": 0.1}, StructureError, "either"),
        (attention(), {"thresholds": []}, StructureError, "empty"),
        (attention(), {"resample": "subsample"}, StructureError, "no effect"),
        (attention(), {"runs": 0}, ValueError, "runs"),
        (attention(), {"kind": "graph"}, ValueError, "kind"),
        (np.ones((9, 2)), {"kind": "data"}, DataError, "constant"),
        (np.array([[np.nan, 1.0]] * 9), {"kind": "data"}, DataError, "missing"),
        ([["a"]], {"kind": "data"}, DataError, "text"),
        (np.ones((3, 2)), {"kind": "data"}, SampleSizeError, "3 usable"),
        (chain_table(9), {"kind": "data", "jitter": 0.1}, StructureError, "jitter has no effect"),
        (chain_table(9), {"kind": "data", "resample": "subsample", "n_samples": 10},
         SampleSizeError, "subsample"),
        (np.eye(3), {"kind": "correlation"}, StructureError, "give n_samples"),
    ],
)  # fmt: skip
def test_bad_input(source, options, error, words):
    with pytest.raises(error, match=words):
        edge_stability(source, **{"thresholds": 0.3, "runs": 2, **options})


def test_samples_with_a_constant_column_are_drawn_again():
    table = chain_table(60)
    table[:, 3] = 0.0
    table[0, 3] = 1.0
    # A bootstrap sample of 60 rows lacks row 0 with probability 0.36.
    found = edge_stability(table, kind="data", runs=20, alpha=1e-6, algorithm="icd")
    assert found.n_runs == 20 and found.edge_frequency[1, 2] > 0.9
    rare = np.repeat(table, 2000, axis=0)
    rare[1:, 3] = 0.0
    with pytest.raises(DataError, match=r"100 samples of 4 rows.*constant"):
        edge_stability(rare, kind="data", runs=1, n_samples=4, threshold=0.3)
