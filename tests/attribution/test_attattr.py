"""Self-attention attribution: a toy whose integral is known, and the model's own gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.attribution.attattr import attattr
from causal_lvlm.methods import attribute
from causal_lvlm.tokens import TokenLayout
from tests.attribution.conftest import make_layout
from tests.attribution.traces import ALL, embedded, score_of, text_only, windowed
from tests.explanation.fakes import FakeModel


@dataclass
class Toy:
    """p(A) = b·x + (b·x)² with x_j = Σ_h v_hj A_h[q, j]: quadratic in the factor α."""

    layout: TokenLayout = field(default_factory=make_layout)
    n_layers: int = 2
    attention_kinds: tuple[str, ...] = ()
    model_id: str = "toy"
    model = FakeModel()
    revision: str | None = None

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        n = len(self.layout)
        self.weights = np.tril(rng.random((2, 3, n, n)))
        self.slope = rng.normal(size=(2, 3, n))

    def attention(self, layers=(-1,)):
        return self.weights[list(layers)].astype(np.float32)

    def value(self, layer: int, alpha: float, row: int) -> float:
        x = (self.slope[layer] * alpha * self.weights[layer][:, row]).sum()
        return float(x + x * x)

    def scaled_attention_gradient(self, target, layer, alphas, *, score, against):
        total = np.zeros_like(self.weights[layer])
        for alpha in alphas:
            for row in (p - 1 for p in target.positions):
                x = (self.slope[layer] * alpha * self.weights[layer][:, row]).sum()
                total[:, row] += self.slope[layer] * (1 + 2 * x)
        return (total / len(alphas)).astype(np.float32)

    def evaluate_heads(self, ablate, target, *, source):
        assert source == "zero" and ablate.shape == (2, 2, 3)
        layer = int(np.flatnonzero(ablate[1].all(axis=1))[0])
        assert not ablate[0].any() and ablate.sum() == 3
        rows = [p - 1 for p in target.positions]
        high = sum(self.value(layer, 1.0, row) for row in rows)
        return SimpleNamespace(log_prob=np.array([high, 0.0]))


@pytest.mark.parametrize("layer", [0, -1])
def test_midpoints_integrate_a_quadratic_exactly_and_scores_add_up(layer):
    toy = Toy()
    result = attribute(toy, "red", "attattr", layer=layer, rule="midpoint", n_steps=3)
    number, row = layer % 2, 12
    linear = (toy.slope[number] * toy.weights[number][:, row]).sum(axis=0)
    expected = linear * (1 + linear.sum())  # ∫ (1 + 2αx) dα = 1 + x
    expected[13:] = 0
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4, atol=1e-6)
    gain = toy.value(number, 1.0, row) - toy.value(number, 0.0, row)
    assert result.scores.sum() == pytest.approx(gain, rel=1e-4)
    assert (result.model_runs, result.backward_passes) == (6, 3)
    logged = attribute(toy, "red", "attattr", layer=layer, rule="midpoint", score="log_prob")
    assert logged.parameters["completeness_gap"] == pytest.approx(0.0, abs=1e-4)
    assert logged.parameters["score_change"] == pytest.approx(gain)


def test_right_and_left_points_are_the_paper_and_its_code():
    toy, row, m = Toy(), 12, 4
    x = (toy.slope[1] * toy.weights[1][:, row]).sum()
    linear = (toy.slope[1] * toy.weights[1][:, row]).sum(axis=0)
    for rule, alphas in (("right", [1, 2, 3, 4]), ("left", [0, 1, 2, 3])):
        mean = np.mean([1 + 2 * a / m * x for a in alphas])
        expected = linear * mean
        expected[13:] = 0
        result = attribute(toy, "red", "attattr", rule=rule, n_steps=m)
        np.testing.assert_allclose(result.scores, expected, rtol=1e-4, atol=1e-6)


def test_all_layers_are_the_sum_of_each():
    toy = Toy()
    seen: list[Any] = []
    both = attribute(toy, "dark red", "attattr", layer="all", progress=lambda *s: seen.append(s))
    each = [attribute(toy, "dark red", "attattr", layer=n).scores for n in (0, 1)]
    np.testing.assert_allclose(both.scores, sum(each), rtol=1e-6)
    assert both.model_runs == 42 and seen[-1] == ("attattr", 2, 2)


@pytest.mark.parametrize("make, layer", [(embedded, 2), (text_only, 1), (text_only, 0)])
@pytest.mark.parametrize("wanted", [0, slice(0, 2)])
def test_scores_of_all_rows_add_up_to_what_the_layer_s_attention_does(make, layer, wanted):
    """log p(A) - log p(0·A), the latter by a hook that makes the layer's heads say nothing."""
    trace = make()
    target = trace.target(wanted)
    forward = score_of(trace, target, "log_prob")
    embeds = torch.tensor(trace.embeddings())[None]
    language = getattr(trace.model.model.model, "language_model", trace.model.model.model)
    projection = language.layers[layer].self_attn.o_proj
    with torch.no_grad():
        high = float(forward(embeds)[0])
        handle = projection.register_forward_pre_hook(lambda module, given: (given[0] * 0,))
        try:
            low = float(forward(embeds)[0])
        finally:
            handle.remove()
    options = {"layer": layer, "score": "log_prob", "rule": "midpoint"}
    found = attattr(trace, target, n_steps=60, rows="all", **options)
    assert abs(high - low) > 0.01
    assert found.values.sum() == pytest.approx(high - low, rel=0.05)
    assert found.parameters["score_change"] == pytest.approx(high - low, rel=1e-3)
    gap = found.parameters["completeness_gap"]
    assert gap == pytest.approx(found.values.sum() - (high - low), abs=1e-3 * abs(high - low))
    rows = attattr(trace, target, n_steps=60, **options)
    assert rows.parameters["completeness_gap"] == pytest.approx(gap, abs=1e-9)
    if layer == 2:  # the last layer's other rows lead nowhere
        np.testing.assert_allclose(rows.values, found.values, atol=1e-9)


def test_gradient_at_full_attention_is_the_backward_pass():
    """With one step at its right end, AttAttr is attention x gradient of the probability."""
    trace = embedded()
    target = trace.target(0)
    result = attribute(trace, target, "attattr", n_steps=1)
    layer = next(iter(trace.backward(target, score="prob").language()))
    expected = (layer.attention * layer.gradient)[:, target.predictor].sum(axis=0)
    expected[target.start :] = 0
    np.testing.assert_allclose(result.scores, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ALL)
def test_runs_on_one_picture_two_and_none(name):
    trace = ALL[name]()
    result = attribute(trace, 1 if name != "embedded" else 0, "attattr", n_steps=3, layer=-2)
    assert result.scores[: result.target.start].any()
    for grid in trace.layout.grids:
        assert result.scores[grid.positions].any()


def test_what_the_row_cannot_see_gets_nothing():
    trace = windowed()
    target = trace.target(2)
    scores = attribute(trace, target, "attattr", layer="all", n_steps=2).scores
    assert not scores[: target.predictor - 2].any() and scores[target.predictor - 2]


@pytest.mark.parametrize(
    "options, match",
    [
        ({"layer": 2}, "2 layers"),
        ({"layer": "last"}, "layer must be"),
        ({"n_steps": 0}, "n_steps"),
        ({"rule": "simpson"}, "rule must be"),
        ({"rows": "own"}, "rows must be"),
        ({"score": "margin"}, "score must be"),
    ],
)
def test_bad_options_say_what_is_allowed(options, match):
    with pytest.raises(ValueError, match=match):
        attribute(Toy(), "red", "attattr", **options)
