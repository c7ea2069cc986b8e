"""Grad-CAM in both conventions and LLaVA-CAM, against formulas written out with autograd."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.errors import AttentionError, UnsupportedModelError
from causal_lvlm.methods import attribute
from causal_lvlm.tokens import TokenLayout
from tests.attribution.conftest import make_layout
from tests.attribution.traces import ALL, embedded, score_of, text_only, windowed
from tests.explanation.fakes import FakeModel

METHODS = ("grad_cam", "feature_grad_cam", "llava_cam")


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("wanted, rows", [("red", [12]), ("dark red", [11, 12])])
def test_attention_grad_cam_is_its_formula(trace, layer, wanted, rows):
    chosen = trace.layers[layer]
    expected = np.zeros(15)
    for row in rows:
        cam = np.zeros(15)
        for attention, gradient in zip(chosen.attention, chosen.gradient, strict=True):
            seen = [(i, j) for i in range(15) for j in range(i + 1)]
            alpha = sum(float(gradient[i, j]) for i, j in seen) / len(seen)
            cam += alpha * attention[row] / len(chosen.attention)
        expected += np.maximum(cam, 0)
    expected[rows[0] + 1 :] = 0
    result = attribute(trace, wanted, "grad_cam", layer=layer)
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4, atol=1e-8)
    assert result.parameters["layer"] == chosen.layer


def test_attention_grad_cam_scales_with_the_score_and_ignores_gradients_beyond_the_mask(trace):
    before = attribute(trace, "red", "grad_cam").scores
    ahead = np.triu(np.ones((15, 15), dtype=bool), 1)
    trace.layers[-1].gradient[:, ahead] = 1e6
    np.testing.assert_array_equal(attribute(trace, "red", "grad_cam").scores, before)
    trace.layers[-1].gradient[:] *= 8.0
    np.testing.assert_allclose(attribute(trace, "red", "grad_cam").scores, 8 * before, rtol=1e-6)
    trace.layers[-1].attention[0, 12, 2] = np.nan
    with pytest.raises(AttentionError, match="layer 3"):
        attribute(trace, "red", "grad_cam")


def test_the_global_layer_is_the_last_without_a_window(trace):
    trace.attention_kinds = ("window", "full", "window", "window")
    assert attribute(trace, "red", "grad_cam", layer="global").parameters["layer"] == 1
    trace.attention_kinds = ("window",) * 4
    assert attribute(trace, "red", "grad_cam", layer="global").parameters["layer"] == 3


@dataclass
class FakeFeatures:
    """Features and gradients drawn from the noise's seed."""

    layout: TokenLayout = field(default_factory=make_layout)
    images: tuple[Any, ...] = ("a picture",)
    n_layers: int = 4
    model_id: str = "fake"
    model = FakeModel()
    revision: str | None = None
    asked: list[Any] = field(default_factory=list)

    def feature_gradient(self, target, layer, *, score, against, noise=0.0, seed=0):
        self.asked.append((layer, score, against, noise, seed))
        rng = np.random.default_rng([7, layer])
        features, gradient = rng.normal(size=(2, len(self.layout), 6))
        wobble = np.random.default_rng(seed).normal(size=features.shape)
        return (features + noise * wobble).astype(np.float32), gradient.astype(np.float32)


IMAGE, TEXT = list(range(2, 8)), [8, 9, 10]  # of the fake layout, before "dark", which predicts


def cam(features, gradient, rectify):
    values = np.zeros(len(features))
    for positions in (IMAGE, [*TEXT]):
        alpha = np.mean([np.maximum(gradient[p], 0) if rectify else gradient[p]
                         for p in positions], axis=0)  # fmt: skip
        for p in positions:
            values[p] = max(0.0, float(alpha @ features[p]))
    return values


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("layer, number", [(-2, 2), (0, 0)])
def test_feature_grad_cam_pools_image_and_text_apart(layer, number, rectify):
    trace = FakeFeatures()
    result = attribute(trace, "red", "feature_grad_cam", layer=layer, rectify=rectify)
    features, gradient = trace.feature_gradient(None, number, score="logit", against=None)
    np.testing.assert_allclose(result.scores, cam(features, gradient, rectify), rtol=1e-5)
    assert trace.asked[0] == (number, "logit", None, 0.0, 0)
    assert result.parameters["layer"] == number


def test_llava_cam_is_the_mean_of_normalised_noisy_maps():
    trace = FakeFeatures()
    result = attribute(trace, "red", "llava_cam", n_samples=7, sigma=0.3, seed=5)
    seeds = [seed for *_, seed in trace.asked]
    assert len(set(seeds)) == 7 and {noise for _, _, _, noise, _ in trace.asked} == {0.3}
    maps = []
    for seed in seeds:
        features, gradient = trace.feature_gradient(
            None, 2, score="logit", against=None, noise=0.3, seed=seed
        )
        found = cam(features, gradient, True)
        maps.append(found / found.max())
    np.testing.assert_allclose(result.scores, np.mean(maps, axis=0), rtol=1e-5)
    error = np.std(maps, axis=0, ddof=1) / np.sqrt(7)
    np.testing.assert_allclose(result.standard_error, error, rtol=1e-4, atol=1e-9)
    assert (result.model_runs, result.backward_passes, result.seed) == (7, 7, 5)


def test_seeds_repeat_and_differ():
    first, again, other = (
        attribute(FakeFeatures(), "red", "llava_cam", n_samples=3, seed=s).scores for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


@pytest.mark.parametrize("against", [None, 7])
def test_feature_grad_cam_equals_hooks_and_autograd(against):
    """The gradient at a layer's output, by a hook on the model's own layer."""
    trace = embedded()
    target = trace.target(0)
    kept: list[torch.Tensor] = []

    def keep(module, _, output):
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        tensor.retain_grad()
        kept.append(tensor)

    layers = trace.model.model.model.language_model.layers
    handle = layers[1].register_forward_hook(keep)
    try:
        embeds = torch.tensor(trace.embeddings())[None].requires_grad_(True)
        score_of(trace, target, "logit", against)(embeds).sum().backward()
    finally:
        handle.remove()
    features, gradient = kept[0][0].detach().numpy(), kept[0].grad[0].numpy()
    modality = trace.layout.modality
    expected = np.zeros(len(modality))
    for own in (modality == "image", np.isin(modality, ["prompt", "generated"])):
        own = own & (np.arange(len(modality)) < target.predictor)
        alpha = gradient[own].mean(axis=0)
        expected[own] = np.maximum(features[own] @ alpha, 0)
    found = attribute(trace, target, "feature_grad_cam", layer=1, against=against).scores
    assert expected.max() > 1e-6
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_runs_on_one_picture_two_and_none(name, method):
    trace = ALL[name]()
    options = {"n_samples": 2} if method == "llava_cam" else {}
    result = attribute(trace, 1 if name != "embedded" else 0, method, **options)
    assert result.scores.shape == (len(trace.layout),) and result.scores.min() >= 0
    assert result.scores.any() or "all scores are zero" in result.notes[-1]
    if method == "llava_cam" and not trace.images:
        assert result.model_runs == 1 and "no picture" in result.notes[0]


def test_noise_on_the_picture_changes_the_map():
    trace = embedded()
    still = attribute(trace, 0, "llava_cam", n_samples=1, sigma=0.0)
    noisy = attribute(trace, 0, "llava_cam", n_samples=1, sigma=0.1)
    assert np.abs(still.scores - noisy.scores).max() > 1e-4


def test_attention_grad_cam_gives_nothing_to_what_the_row_cannot_see():
    trace = windowed()
    target = trace.target(2)
    scores = attribute(trace, target, "grad_cam").scores
    assert not scores[: target.predictor - 2].any()


@pytest.mark.parametrize(
    "method, options, match",
    [
        ("grad_cam", {"layer": 3}, "3 layers"),
        ("grad_cam", {"layer": True}, "layer must be"),
        ("feature_grad_cam", {"layer": -1}, r"last one.*0\.\.1"),
        ("feature_grad_cam", {"layer": 2}, "last one"),
        ("feature_grad_cam", {"layer": "all"}, "layer must be"),
        ("llava_cam", {"n_samples": 0}, "n_samples"),
        ("llava_cam", {"sigma": -1.0}, "sigma"),
        ("llava_cam", {"sigma": float("nan")}, "sigma"),
        ("llava_cam", {"seed": -1}, "seed"),
        ("grad_cam", {"score": "entropy"}, "score must be"),
    ],
)
def test_bad_options_say_what_is_allowed(method, options, match):
    with pytest.raises(ValueError, match=match):
        attribute(text_only(), 1, method, **options)


def test_a_model_of_one_layer_has_no_feature_map():
    with pytest.raises(UnsupportedModelError, match="grad_cam"):
        attribute(FakeFeatures(n_layers=1), "red", "feature_grad_cam")
