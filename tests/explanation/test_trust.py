"""`target_stability` and `target_null`: the whole way from a trace, again and again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from causal_lvlm.correlation import attention_correlation
from causal_lvlm.errors import AttentionError, StructureError
from causal_lvlm.explanation.null import _permuted, target_null
from causal_lvlm.explanation.trust import target_stability
from causal_lvlm.structure import learn_structure
from tests.explanation.fakes import FakeTrace, layout


def trace(seed=0):
    return FakeTrace(keeps=lambda visible: True, layout=layout(3, 3, 3), seed=seed)


def test_without_jitter_frequencies_are_shares_of_heads_and_levels():
    levels = (0.2, 0.4)
    found = target_stability(trace(), 0, runs=8, jitter=0.0, thresholds=levels, tiers="image-block")
    votes: dict[tuple[int, int], int] = {}
    for head in (0, 1):
        for level in levels:
            one = attention_correlation(trace(), 0, head=head, threshold=level, tiers="image-block")
            marks = learn_structure(one).pag.marks
            for i, j in np.argwhere(marks):
                pair = (int(one.positions[i]), int(one.positions[j]))
                votes[pair] = votes.get(pair, 0) + 1
    assert (
        votes
        and {
            (int(found.positions[i]), int(found.positions[j])): round(4 * f)
            for (i, j), f in np.ndenumerate(found.edges.edge_frequency)
            if f
        }
        == votes
    )
    assert np.allclose(found.edges.mark_frequency.sum(axis=2), 1.0)
    assert found.labels[found.target_node] == "red" and found.runs_without_target == 0
    assert json.loads(json.dumps(found.to_dict()))["positions"] == found.positions.tolist()


def test_jitter_changes_graphs_and_threads_do_not():
    options: dict[str, Any] = {"runs": 12, "jitter": 0.6, "heads": [1], "seed": 5}
    one = target_stability(trace(), 0, **options)
    two = target_stability(trace(), 0, n_jobs=3, **options)
    assert np.array_equal(one.edges.mark_frequency, two.edges.mark_frequency)
    upper = one.edges.edge_frequency
    assert ((upper > 0) & (upper < 1)).any()
    assert one.edges.parameters["heads"] == [1]


def test_effective_attention_has_no_heads():
    found = target_stability(trace(), 0, runs=3, layer="effective")
    assert found.edges.parameters["heads"] == [None] and found.edges.n_runs == 3


def test_null_of_a_target():
    found = target_null(trace(), 0, head=1, permutations=9, threshold=0.3)
    one = attention_correlation(trace(), 0, head=1, threshold=0.3)
    assert found.pag == learn_structure(one).pag
    assert np.array_equal(found.degrees.sum(axis=1), 2 * found.counts)
    assert found.pair_frequency.sum() / 2 == pytest.approx(found.mean)
    again = target_null(trace(), 0, head=1, permutations=9, threshold=0.3, n_jobs=3)
    assert np.array_equal(found.counts, again.counts)
    assert found.node_p_value(found.pag.n_nodes - 1) >= 1 / 10
    assert target_null(trace(), 0, layer="effective", permutations=2).n_permutations == 2


def test_permuted_attention_is_still_causal_and_keeps_sinks():
    weights = trace().attention()[0].astype(float)
    weights[1, :, 0] += 1.0  # a sink in head 1 only
    moved = _permuted(weights, np.random.default_rng(0))
    assert not np.triu(moved, 1).any()
    assert np.allclose(np.sort(moved, axis=-1), np.sort(weights, axis=-1))
    assert np.array_equal(moved[1, :, 0], weights[1, :, 0])
    assert not np.array_equal(moved[0, :, 0], weights[0, :, 0])


def test_weights_of_the_fake_are_exchangeable_so_p_is_not_small():
    values = [
        target_null(trace(seed), 0, head=0, permutations=9, threshold=0.3).p_value
        for seed in range(12)
    ]
    # Each is 0.1 with probability at most 0.1: of 12, six or more with 0.0005.
    assert sum(p <= 0.1 for p in values) < 6


def test_bad_input():
    with pytest.raises(StructureError, match="gradients"):
        target_stability(trace(), 0, source="relevancy")
    with pytest.raises(StructureError, match="gradients"):
        target_null(trace(), 0, source="relevancy")
    with pytest.raises(AttentionError, match="one head"):
        target_null(trace(), 0)
    with pytest.raises(StructureError, match="jitter"):
        target_stability(trace(), 0, jitter=-1.0)
    with pytest.raises(StructureError, match="either"):
        target_stability(trace(), 0, alphas=0.1, thresholds=0.1)
