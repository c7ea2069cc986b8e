"""`attention_correlation` against formulas written out plainly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from causal_lvlm.correlation import attention_correlation, attention_correlations
from causal_lvlm.covariance import correlation_of_rows, find_sinks
from causal_lvlm.errors import AttentionError, DegenerateTargetError
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.explanation.fakes import FakeTrace, layout


class FixedTrace(FakeTrace):
    """A fake trace with the attention it is given."""

    def __init__(self, weights: np.ndarray, **options):
        super().__init__(lambda visible: True, **options)
        self.weights = weights.astype(np.float32)

    def attention(self, layers=(-1,)):
        return self.weights[None]

    def iter_attention(self):
        yield 0, self.weights
        yield 1, self.weights[::-1]


def causal_attention(length: int, heads: int = 2, sink: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.tril(rng.gamma(0.5, size=(heads, length, length)) + 1e-3)
    weights /= weights.sum(-1, keepdims=True)
    weights[:, 1:] *= 1 - sink
    weights[:, 1:, 0] += sink
    return weights


def plain_correlation(rows: np.ndarray) -> np.ndarray:
    c = rows @ rows.T
    return np.array(
        [[c[i, j] / np.sqrt(c[i, i] * c[j, j]) for j in range(len(c))] for i in range(len(c))]
    )


@pytest.fixture
def trace() -> FixedTrace:
    shape = layout(3, 3, 4)
    return FixedTrace(causal_attention(len(shape), sink=0.6), layout=shape)


@pytest.mark.parametrize("row", ["own", "predictor"])
@pytest.mark.parametrize("head", [0, 1])
def test_correlation_is_a_times_a_transposed_of_the_chosen_rows_and_all_columns(trace, row, head):
    result = attention_correlation(trace, "red", head=head, row=row)
    t = trace.layout.n_prompt
    stop = t + 1 if row == "own" else t
    nodes = [p for p in range(1, t - 1)] + [stop - 1]
    expected = plain_correlation(trace.weights[head][np.ix_(nodes, range(stop))].astype(float))
    assert result.positions.tolist() == nodes
    np.testing.assert_allclose(result.correlation, expected, atol=1e-12)
    assert (result.correlation == result.correlation.T).all()
    assert (np.diag(result.correlation) == 1).all()


def test_scaling_the_rows_changes_nothing():
    rows = np.random.default_rng(0).random((6, 9))
    scaled = rows * np.array([[0.1], [1], [5], [3], [7], [100]])
    np.testing.assert_allclose(correlation_of_rows(rows), correlation_of_rows(scaled), atol=1e-14)


def test_for_a_sink_at_position_zero_drop_and_condition_are_the_same(trace):
    assert find_sinks(trace.weights[0].astype(float)) == (0,)
    dropped = attention_correlation(trace, "red", head=0, sink="drop")
    conditioned = attention_correlation(trace, "red", head=0, sink="condition")
    np.testing.assert_allclose(dropped.correlation, conditioned.correlation, atol=1e-12)
    kept = attention_correlation(trace, "red", head=0, sink="keep")
    assert np.abs(kept.correlation - dropped.correlation).max() > 0.1
    assert kept.sinks == (0,) and 0.5 < kept.sink_mass < 0.9


def test_conditioning_equals_the_schur_complement_of_the_covariance():
    shape = layout(3, 3, 4)
    weights = causal_attention(len(shape))
    weights[:, 4:] *= 0.4
    weights[:, 4:, 3] += 0.6  # an image token is the sink
    trace = FixedTrace(weights, layout=shape)
    result = attention_correlation(trace, "red", head=0, sink="condition", row="predictor")
    assert result.sinks == (3,) and (3, "degenerate row") in result.dropped
    rows = weights[0].astype(np.float32).astype(float)[: shape.n_prompt, : shape.n_prompt]
    c = rows @ rows.T
    keep = result.positions
    schur = c[np.ix_(keep, keep)] - np.outer(c[keep, 3], c[3, keep]) / c[3, 3]
    scale = np.sqrt(np.diag(schur))
    np.testing.assert_allclose(result.correlation, schur / np.outer(scale, scale), atol=1e-9)


def test_sinks_that_depend_on_each_other_are_partialled_out_like_one():
    shape = layout(3, 3, 4)
    weights = causal_attention(len(shape))
    weights[:, 2:] *= 0.2
    weights[:, 2:, 0] += 0.4
    weights[:, 2:, 1] += 0.4
    weights[:, 1] = 0
    weights[:, 1, 0] = 1  # the second sink looks at the first only: their rows are equal
    trace = FixedTrace(weights, layout=shape)
    result = attention_correlation(trace, "red", head=0, sink="condition", row="predictor")
    assert result.sinks == (0, 1)
    rows = weights[0].astype(np.float32).astype(float)[: shape.n_prompt, : shape.n_prompt]
    c, keep, s = rows @ rows.T, result.positions, np.array([0, 1])
    schur = (
        c[np.ix_(keep, keep)]
        - c[np.ix_(keep, s)] @ np.linalg.pinv(c[np.ix_(s, s)], rcond=1e-10) @ c[np.ix_(s, keep)]
    )
    scale = np.sqrt(np.diag(schur))
    np.testing.assert_allclose(result.correlation, schur / np.outer(scale, scale), atol=1e-8)


def test_nodes_of_a_pooled_block_find_units_that_hold_a_part_of_it():
    shape = layout(4, 4, 2)
    trace = FixedTrace(causal_attention(len(shape)), layout=shape)
    result = attention_correlation(trace, "red", head=0, pool=2, row="predictor")
    units = candidate_units(shape, resolve_target(shape, 0), candidates=[2, 6], pool=2)
    assert units.of_nodes(result.members)[0] == 0


def test_output_source_is_pearson_correlation_over_the_head_dimension(trace):
    result = attention_correlation(trace, "red", head=1, source="output", row="own")
    outputs = trace.weights[1].astype(float) @ trace.head_values()[1].astype(float)
    np.testing.assert_allclose(
        result.correlation, np.corrcoef(outputs[result.positions]), atol=1e-10
    )


def test_effective_layer_is_the_product_of_half_attention_half_identity(trace):
    result = attention_correlation(trace, "red", layer="effective", row="own")
    eye = np.eye(len(trace.layout))
    mixed = 0.5 * trace.weights.astype(float).mean(0) + 0.5 * eye
    expected = plain_correlation((mixed @ mixed)[result.positions])
    np.testing.assert_allclose(result.correlation, expected, atol=1e-9)


def test_mean_layer_adds_the_residual_path_to_the_mean_over_layers(trace):
    result = attention_correlation(trace, "red", layer="mean")
    mean = trace.weights.astype(float).mean(0)  # both "layers" hold the same heads
    mixed = 0.75 * np.eye(len(trace.layout)) + 0.25 * mean
    np.testing.assert_allclose(
        result.correlation, plain_correlation(mixed[result.positions]), atol=1e-9
    )
    assert result.head is None and result.layer == "mean"


def test_with_the_residual_path_a_token_that_is_looked_at_is_correlated_with_who_looks():
    # Token 2 looks at itself only, the predicting row at token 2 only.
    shape = layout(2, 2, 2)
    weights = np.zeros((1, len(shape), len(shape)))
    weights[:, :, 0] = 1.0
    weights[:, 2] = np.eye(len(shape))[1]  # token 2 looks elsewhere: at token 1
    row = shape.n_prompt - 1
    weights[:, row] = np.eye(len(shape))[2]
    trace = FixedTrace(weights, layout=shape)
    bare = attention_correlation(trace, "red", head=0, row="predictor")
    mixed = attention_correlation(trace, "red", layer="mean")
    node = bare.positions.tolist().index(2)
    assert bare.correlation[node, -1] == 0.0 < 0.2 < mixed.correlation[node, -1]


class GradientTrace(FixedTrace):
    """Two layers with gradients of both signs; the last layer comes first, as in `Trace`."""

    def backward(self, target, **_):
        rng = np.random.default_rng(5)
        shape = self.weights.shape
        made = [
            SimpleNamespace(layer=n, attention=self.weights, gradient=rng.normal(size=shape))
            for n in (1, 0)
        ]
        return SimpleNamespace(language=lambda: iter(made))


def test_influence_composes_absolute_products_from_the_first_layer_to_the_last():
    shape = layout(3, 3, 4)
    trace = GradientTrace(causal_attention(len(shape)), layout=shape)
    result = attention_correlation(trace, "red", source="influence")
    last, first = list(trace.backward(None).language())
    expected = np.eye(len(shape))
    for layer in (first, last):  # rule 6: R <- R + C R, the first layer first
        c = np.abs(layer.attention.astype(float) * layer.gradient).mean(0)
        expected = expected + (c / c.sum(1).max()) @ expected
    np.testing.assert_allclose(
        result.correlation, plain_correlation(expected[result.positions]), atol=1e-9
    )
    assert result.row == "predictor" and result.layer is None and result.head is None


def test_influence_does_not_hang_on_the_unit_of_the_score():
    shape = layout(3, 3, 4)
    trace = GradientTrace(causal_attention(len(shape)), layout=shape)
    once = attention_correlation(trace, "red", source="influence").correlation
    plain = trace.backward
    trace.backward = lambda target, **o: SimpleNamespace(
        language=lambda: (
            SimpleNamespace(layer=n.layer, attention=n.attention, gradient=1e4 * n.gradient)
            for n in plain(target).language()
        )
    )
    again = attention_correlation(trace, "red", source="influence").correlation
    np.testing.assert_allclose(once, again, atol=1e-9)


def test_pooling_averages_the_rows_of_each_block():
    shape = layout(4, 4, 2)
    trace = FixedTrace(causal_attention(len(shape)), layout=shape)
    result = attention_correlation(trace, "red", head=0, pool=2, row="predictor")
    assert result.members[0] == (1, 2, 5, 6) and result.members[1] == (3, 4, 7, 8)
    stop = shape.n_prompt
    rows = np.array([trace.weights[0][list(m), :stop].mean(0) for m in result.members])
    np.testing.assert_allclose(result.correlation, plain_correlation(rows.astype(float)), atol=1e-6)


def test_top_k_keeps_the_image_tokens_the_target_attends_to_most(trace):
    result = attention_correlation(trace, "red", head=0, top_k=3, row="predictor")
    row = trace.weights[0][trace.layout.n_prompt - 1]
    best = sorted(sorted(range(1, 10), key=lambda p: -row[p])[:3])
    assert [p for p in result.positions if p in range(1, 10)] == best
    assert sum("top 3" in reason for _, reason in result.dropped) == 6


def test_min_attention_drops_what_the_target_hardly_attends_to(trace):
    result = attention_correlation(trace, "red", head=0, min_attention=0.02, row="predictor")
    row = trace.weights[0][trace.layout.n_prompt - 1]
    kept = set(result.positions[:-1].tolist())
    assert kept == {p for p in range(1, trace.layout.n_prompt - 1) if row[p] >= 0.02}


def test_tiers_keep_the_image_block_unordered_and_text_ordered(trace):
    ordered = attention_correlation(trace, "red", head=0)
    assert ordered.tiers.tolist() == list(range(14))
    block = attention_correlation(trace, "red", head=0, tiers="image-block")
    assert block.tiers.tolist() == [0] * 9 + [1, 2, 3, 4, 5]


def test_every_token_before_the_target_is_a_node_or_is_dropped_with_a_reason(trace):
    for row in ("own", "predictor"):
        result = attention_correlation(trace, "red", head=0, row=row)
        nodes = {p for m in result.members for p in m}
        dropped = {p for p, _ in result.dropped}
        stop = trace.layout.n_prompt + (row == "own")
        assert nodes | dropped == set(range(stop)) and not nodes & dropped


def test_attention_with_nan_is_refused(trace):
    trace.weights = trace.weights.copy()
    trace.weights[0, 5, 2] = np.nan
    with pytest.raises(AttentionError, match="not finite"):
        attention_correlation(trace, "red", head=0)


def test_a_target_without_weight_of_its_own_is_named_and_other_heads_are_kept(trace):
    trace.weights = trace.weights.copy()
    trace.weights[0, trace.layout.n_prompt - 1] = 0
    trace.weights[0, trace.layout.n_prompt - 1, 0] = 1  # all weight on the sink
    with pytest.raises(DegenerateTargetError, match="sink"):
        attention_correlation(trace, "red", head=0, sink="drop", row="predictor")
    first, second = attention_correlations(trace, "red", sink="drop", row="predictor")
    assert isinstance(first, DegenerateTargetError)
    assert not isinstance(second, DegenerateTargetError) and second.head == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"head": None}, AttentionError),
        ({"head": 7}, AttentionError),
        ({"head": 0, "layer": 3}, AttentionError),
        ({"head": 0, "layer": "effective"}, AttentionError),
        ({"head": 0, "source": "nothing"}, ValueError),
        ({"head": 0, "sink": "nothing"}, ValueError),
        ({"head": 0, "row": "nothing"}, ValueError),
        ({"head": 0, "tiers": "nothing"}, ValueError),
        ({"layer": "effective", "source": "output"}, ValueError),
        ({"source": "relevancy", "row": "own"}, ValueError),
        ({"source": "relevancy", "layer": 0}, ValueError),
        ({"head": 0, "layer": 1.5}, ValueError),
        ({"head": 0, "top_k": -1}, ValueError),
        ({"head": 0, "n_samples": 32, "threshold": 0.2}, ValueError),
    ],
)
def test_bad_options_are_refused(trace, options, error):
    with pytest.raises(error):
        attention_correlation(trace, "red", **options)
