"""Orders and covariance sources from one pass, against the slow way written out plainly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from causal_lvlm.composition import compose, influence_matrix, relevancy_matrix
from causal_lvlm.correlation import attention_correlation, attention_correlations
from causal_lvlm.errors import AttentionError
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import resolve_target
from tests import naive_composition as naive
from tests.explanation.fakes import FakeTrace, layout

N_LAYERS, N_HEADS = 3, 2


class InBlocks:
    """A layer that hands out its rows a few at a time, as far as they see."""

    def __init__(self, layer, attention, gradient, causal):
        self.layer, self.attention, self.gradient = layer, attention, gradient
        self._causal = causal

    def blocks(self, gradient=True):
        length = self.attention.shape[1]
        for start in range(0, length, 4):
            rows = slice(start, min(start + 4, length))
            seen = rows.stop if self._causal else length
            part = self.gradient[:, rows, :seen] if gradient else None
            yield rows, self.attention[:, rows, :seen], part


class ManyLayers(FakeTrace):
    """A fake trace of several layers, whole or in blocks, causal or not."""

    def __init__(self, causal=True, blocks=True):
        super().__init__(lambda visible: True, layout=layout(3, 3, 4))
        rng = np.random.default_rng(4)
        length = len(self.layout)
        self.passes, self.layers = 0, []
        for number in range(N_LAYERS):
            weights = rng.gamma(0.3, size=(N_HEADS, length, length)) + 1e-3
            weights = np.tril(weights) if causal else weights
            weights /= weights.sum(-1, keepdims=True)
            gradient = rng.normal(size=weights.shape)
            arrays = weights.astype(np.float32), gradient.astype(np.float32)
            if blocks:
                self.layers.append(InBlocks(number, *arrays, causal))
            else:
                self.layers.append(
                    SimpleNamespace(layer=number, attention=arrays[0], gradient=arrays[1])
                )

    def iter_attention(self):
        self.passes += 1
        yield from ((layer.layer, layer.attention) for layer in self.layers)

    def backward(self, target, **options):
        self.passes += 1
        found = super().backward(target)
        found.language = lambda: iter(reversed(self.layers))
        return found


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("source", ["influence", "relevancy", "attention"])
def test_one_pass_says_what_the_slow_way_says(causal, blocks, source):
    trace = ManyLayers(causal, blocks)
    target = resolve_target(trace.layout, 0)
    found = TargetPass(trace, target, source)
    assert trace.passes == 0  # nothing is run before something is asked
    np.testing.assert_allclose(found.orders.attended, naive.attended(trace, target), rtol=1e-12)
    np.testing.assert_allclose(found.orders.composed, naive.rollout(trace, target), rtol=1e-12)
    np.testing.assert_array_equal(found.orders.gradient_norm, naive.gradient_norm(trace, target))
    trace.passes = 0
    if source == "attention":
        with pytest.raises(RuntimeError, match="not asked for"):
            found.take_matrix()
        return
    plain = {"influence": naive.influence_matrix, "relevancy": naive.relevancy_matrix}[source]
    matrix = found.take_matrix()
    assert trace.passes == 0
    # Rule 5 is in float32, as published code has it.
    tolerance = 1e-12 if source == "influence" else 1e-6
    np.testing.assert_allclose(matrix, plain(trace, target), rtol=tolerance, atol=1e-15)
    own = {"influence": influence_matrix, "relevancy": relevancy_matrix}[source](trace, target)
    np.testing.assert_allclose(own, matrix, rtol=1e-12)
    with pytest.raises(RuntimeError, match="taken already"):
        found.take_matrix()


@pytest.mark.parametrize("source", ["influence", "relevancy"])
def test_rows_of_a_product_are_the_product_of_rows(source):
    trace = ManyLayers()
    rows = np.random.default_rng(0).normal(size=(3, len(trace.layout)))
    whole = compose(np.eye(len(trace.layout)), reversed(trace.layers), source, "language model")
    before = rows.copy()
    found = compose(rows, reversed(trace.layers), source, "language model")
    np.testing.assert_allclose(found, rows @ whole, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("source", ["influence", "relevancy"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error_and_no_layer_is_passed_over(source, bad):
    trace = ManyLayers()
    trace.layers[1].gradient[0, 6, 3] = bad
    with pytest.raises(AttentionError, match="layer 1 of the language model"):
        attention_correlation(trace, 0, source=source)


@pytest.mark.parametrize("source", ["influence", "relevancy"])
def test_a_correlation_takes_its_matrix_from_a_pass_that_is_made_anyway(source):
    trace = ManyLayers()
    target = resolve_target(trace.layout, 0)
    passed = TargetPass(trace, target, source)
    (found,) = attention_correlations(trace, target, source=source, passed=passed)
    assert trace.passes == 1
    alone = attention_correlation(trace, target, source=source)
    np.testing.assert_allclose(found.correlation, alone.correlation, rtol=1e-12)
    assert passed.orders.attended.shape == (len(trace.layout),)
    assert trace.passes == 2
