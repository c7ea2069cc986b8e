"""Grad-ECLIP and MMEL against a formula written out position by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.errors import AttentionError
from causal_lvlm.methods import attribute
from tests.attribution.conftest import make_layout
from tests.attribution.traces import ALL, embedded, score_of, windowed
from tests.explanation.fakes import FakeModel

SPECIAL = (0, 1, 11)


@dataclass
class Layer:
    layer: int
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    output_gradient: np.ndarray

    def __post_init__(self) -> None:
        logits = np.einsum("hid,hjd->hij", self.query, self.key)
        logits[:, ~np.tril(np.ones(logits.shape[1:], dtype=bool))] = -np.inf
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        self.attention = weights / weights.sum(-1, keepdims=True)
        self.output = self.attention @ self.value
        self.gradient = np.einsum("hid,hjd->hij", self.output_gradient, self.value)


class Backward:
    def __init__(self, layers: list[Layer]) -> None:
        self.language = self.tensors = lambda: iter(layers[::-1])


class FakeTrace:
    model_id, revision, model = "fake", None, FakeModel()

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.layout = make_layout()
        n = len(self.layout)
        self.layers = [Layer(k, *rng.normal(size=(4, 2, n, 4))) for k in range(3)]
        self.asked: list[Any] = []

    def backward(self, target, *, score, against):
        self.asked.append((score, against))
        return Backward(self.layers)


def layer_map(layer: Layer, row: int, loosened: bool = True) -> np.ndarray:
    """E_i = Σ_h λ_hi (g_h · v_hi), by loops."""
    seen = [i for i in range(row + 1) if i not in SPECIAL]
    values = np.zeros(layer.key.shape[1])
    for h in range(len(layer.key)):
        q = layer.query[h, row]
        cosine = {i: q @ layer.key[h, i] / np.linalg.norm(q) / np.linalg.norm(layer.key[h, i])
                  for i in seen}  # fmt: skip
        low, high = min(cosine.values()), max(cosine.values())
        for i in seen:
            weight = (cosine[i] - low) / (high - low) if loosened else 1.0
            values[i] += weight * (layer.output_gradient[h, row] @ layer.value[h, i])
    return values


def before(values: np.ndarray, start: int) -> np.ndarray:
    values = np.maximum(values, 0)
    values[start:] = 0
    return values


@pytest.mark.parametrize("loosened", [True, False])
@pytest.mark.parametrize("wanted, rows", [("red", [12]), ("dark red", [11, 12])])
def test_the_last_layer_alone_is_grad_eclip(wanted, rows, loosened):
    trace = FakeTrace()
    result = attribute(trace, wanted, "grad_eclip", layers="last", loosened=loosened)
    expected = sum(layer_map(trace.layers[-1], row, loosened) for row in rows)
    np.testing.assert_allclose(result.scores, before(expected, rows[0] + 1), rtol=1e-5, atol=1e-9)
    assert result.method == "mmel" and result.parameters["weights"] == [1.0]


def test_layers_are_joined_as_the_three_weightings_say():
    trace = FakeTrace()
    maps = [layer_map(layer, 12) for layer in trace.layers]
    moved = np.array(
        [sum(abs(la.output_gradient[h, 12] @ la.output[h, 12]) for h in range(2))
         for la in trace.layers]
    )  # fmt: skip
    scaled = [m / np.abs(m).max() for m in maps]
    share = moved / moved.sum()
    expected = {
        "sum": sum(maps),
        "uniform": sum(scaled) / 3,
        "contribution": sum(w * m for w, m in zip(share, scaled, strict=True)),
    }
    for how, values in expected.items():
        result = attribute(trace, "red", "mmel", layer_weights=how)
        np.testing.assert_allclose(result.scores, before(values, 13), rtol=1e-5, atol=1e-9)
    result = attribute(trace, "red", "mmel")
    np.testing.assert_allclose(result.parameters["weights"], share, rtol=1e-6)


def test_keys_may_be_scaled_and_the_score_too():
    """λ is a cosine: lengths of queries and keys do not count; shares of layers do not change."""
    trace, other = FakeTrace(), FakeTrace()
    for layer in other.layers:
        layer.query, layer.key = 3 * layer.query, 0.2 * layer.key  # attention stays
        layer.gradient, layer.output_gradient = 5 * layer.gradient, 5 * layer.output_gradient
    one, two = (attribute(t, "red", "mmel").scores for t in (trace, other))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    last, fifth = (attribute(t, "red", "mmel", layers="last").scores for t in (trace, other))
    np.testing.assert_allclose(5 * last, fifth, rtol=1e-6)


def test_values_that_are_not_finite_are_refused():
    trace = FakeTrace()
    trace.layers[1].gradient[0, 12, 5] = np.nan
    with pytest.raises(AttentionError, match="layer 1"):
        attribute(trace, "red", "mmel")


def test_last_layer_equals_hooks_and_autograd_on_the_embedded_model():
    """Queries, keys and values from the model's own projections, the rotation by its own module."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    trace = embedded()
    target = trace.target(0)
    language = trace.model.model.model.language_model
    block = language.layers[-1].self_attn
    kept: dict[str, torch.Tensor] = {}

    def keep(name):
        def hook(module, given, output):
            kept[name] = output

        return hook

    def before_projection(module, given):
        given[0].retain_grad()
        kept["heads"] = given[0]

    handles = [getattr(block, f"{n}_proj").register_forward_hook(keep(n)) for n in "qkv"]
    handles.append(block.o_proj.register_forward_pre_hook(before_projection))
    embeds = torch.tensor(trace.embeddings())[None].requires_grad_(True)
    try:
        score_of(trace, target)(embeds).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    length, d = len(trace.layout), block.head_dim
    q, k, v = (kept[n].view(1, length, -1, d).transpose(1, 2) for n in "qkv")
    positions = torch.arange(length)[None]
    q, k = apply_rotary_pos_emb(q, k, *language.rotary_emb(v, positions))
    gradient = kept["heads"].grad.view(1, length, -1, d).transpose(1, 2)[0, :, target.predictor]
    seen = [i for i in range(target.start) if trace.layout.modality[i] != "special"]
    cosine = torch.cosine_similarity(q[0, :, [target.predictor]], k[0][:, seen], dim=-1)
    low, high = cosine.min(1, keepdim=True).values, cosine.max(1, keepdim=True).values
    weights = (cosine - low) / (high - low)
    expected = np.zeros(length)
    product = (weights * (v[0][:, seen] * gradient[:, None]).sum(-1)).sum(0)
    expected[seen] = np.maximum(product.detach().numpy(), 0)
    found = attribute(trace, target, "mmel", layers="last").scores
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-4 * expected.max())


@pytest.mark.parametrize("name", ALL)
def test_runs_on_one_picture_two_and_none(name):
    trace = ALL[name]()
    result = attribute(trace, 1 if name != "embedded" else 0, "mmel")
    assert result.scores.any() and result.scores.min() >= 0
    assert len(result.parameters["weights"]) == trace.n_layers
    assert sum(result.parameters["weights"]) == pytest.approx(1.0)
    assert not result.scores[trace.layout.positions("special")].any()


def test_what_the_row_cannot_see_gets_nothing():
    trace = windowed()
    target = trace.target(2)
    scores = attribute(trace, target, "mmel").scores
    assert not scores[: target.predictor - 2].any() and scores.any()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"layers": "first"}, "layers must be"),
        ({"layer_weights": "learned"}, "layer_weights must be"),
    ],
)
def test_bad_options_say_what_is_allowed(options, match):
    with pytest.raises(ValueError, match=match):
        attribute(FakeTrace(), "red", "mmel", **options)
