"""Every method on small random models against eager attention with kept gradients.

The reference shares no code with the package: a second model of the same seed, a plain eager
forward pass, hooks that keep each layer's weights, one `backward()`, and rules 5 and 6 written as
whole matrix products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from causal_lvlm.attribution import relevancy_matrix
from causal_lvlm.attribution.gradients import TABLE as GRADIENTS
from causal_lvlm.attribution.relevancy import TABLE as RELEVANCY
from causal_lvlm.attribution.weights import TABLE as WEIGHTS
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm import LVLM, Trace
from causal_lvlm.methods import attribute
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import resolve_target
from tests.models import tiny_llava

CASES: dict[str, dict[str, Any]] = {
    "clip": dict(seed=1, layers=3),
    "clip, last tower layer, grouped keys": dict(
        seed=2, layers=2, kv_heads=2, vision_feature_layer=-1, tokenizer="byte"
    ),
    "siglip": dict(seed=3, layers=3, tower="siglip", vision_feature_layer=-1),
}
TARGETS = (0, 2, slice(1, 4))
TABLES = (WEIGHTS, RELEVANCY, GRADIENTS)
INFOS = [info for table in TABLES for _, info in table]


class Reference:
    """Weights and gradients of one target by eager attention."""

    def __init__(self, options, trace, target, score):
        model, processor = tiny_llava(**options)
        model.set_attn_implementation("eager")
        kept = {}

        def keep(module, _, output):
            output[1].retain_grad()
            kept[module] = output[1]

        text = [layer.self_attn for layer in model.model.language_model.layers]
        tower = [
            m
            for m in model.model.vision_tower.modules()
            if type(m).__name__.endswith(("CLIPAttention", "SiglipAttention"))
        ]
        for module in text + tower:
            module.register_forward_hook(keep)
        pixels = processor.image_processor(trace.image, return_tensors="pt")["pixel_values"]
        logits = model(
            input_ids=torch.tensor(trace.layout.token_ids)[None],
            attention_mask=torch.ones(1, len(trace.layout), dtype=torch.long),
            pixel_values=pixels,
        ).logits[0]
        scores = logits.log_softmax(-1) if score == "log_prob" else logits
        sum(
            scores[p - 1, i] for p, i in zip(target.positions, target.token_ids, strict=True)
        ).backward()
        self.language = [_pair(kept[m]) for m in text]
        self.tower = [_pair(kept[m]) for m in tower if kept[m].grad is not None]
        self.n_tower = len(tower)


def _pair(weights):
    return tuple(t[0].detach().double().numpy() for t in (weights, weights.grad))


def compose(layers):
    matrix = np.eye(layers[0][0].shape[-1])
    for weights, gradient in layers:
        matrix = matrix + (weights * gradient).clip(min=0).mean(axis=0) @ matrix
    return matrix


def normalise(matrix):
    rest = matrix - np.eye(len(matrix))
    sums = rest.sum(axis=1, keepdims=True)
    return rest / np.where(sums == 0, 1, sums)


def expected_scores(reference, rows, image):
    """All methods from whole matrices; `rows` predict the target, `image` are its positions."""
    language, tower = compose(reference.language), compose(reference.tower)
    size = len(language)

    def on_image(values):
        full = np.zeros(size)
        full[image] = values
        return full

    excess = (language - np.eye(size))[rows].sum(axis=0)
    last_weights, last_gradient = reference.language[-1]
    rolled = np.eye(size)
    for weights, _ in reference.language:
        rolled = (weights.mean(axis=0) + np.eye(size)) / 2 @ rolled
    result = {
        "attention": last_weights[:, rows].mean(axis=(0, 1)),
        "rollout": rolled[rows].mean(axis=0),
        "relevancy": excess,
        "relevancy-llama": normalise(language)[rows].sum(axis=0),
        "grad_attention": (last_weights * last_gradient)[:, rows].clip(min=0).mean(0).sum(0),
    }
    first = len(tower) - len(image)  # 1 with a class token, 0 without
    result["relevancy-chain"] = np.where(
        np.isin(np.arange(size), image), on_image(excess[image] @ tower[first:, first:]), excess
    )
    if first:
        result["relevancy-vit"] = on_image(normalise(tower)[0, 1:])
        start = np.pad(language[np.ix_(image, image)], ((1, 0), (1, 0)))
        start[0, 0] = 1
        result["relevancy-all"] = on_image(normalise(tower @ start)[0, 1:])
        total = np.zeros(size)
        for row in rows:
            start = np.eye(len(tower))
            start[0, 1:] += language[row, image]
            start[1:, 0] += language[row, image]
            total += on_image(normalise(tower @ start)[0, 1:])
        result["relevancy-all_v2"] = total
    return result


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    options = CASES[request.param]
    noise = np.random.default_rng(0).integers(0, 255, size=(60, 90, 3), dtype=np.uint8)
    model = LVLM(*tiny_llava(**options), model_id="tiny")
    return options, model.run(Image.fromarray(noise), "What color is the circle?", max_new_tokens=5)


@pytest.mark.parametrize("score", ["logit", "log_prob"])
def test_methods_agree_with_eager_attention(case, score):
    options, trace = case
    image = trace.layout.positions("image")
    for wanted in TARGETS:
        target = resolve_target(trace.layout, wanted)
        reference = Reference(options, trace, target, score)
        if options.get("vision_feature_layer") != -1:
            assert len(reference.tower) == reference.n_tower - 1  # the last layer is not used
        expected = expected_scores(reference, [p - 1 for p in target.positions], image)
        for info in INFOS:
            extra = {} if info.family == "attention" else {"score": score}
            if info.name not in expected:
                with pytest.raises(UnsupportedModelError, match=info.name):
                    attribute(trace, target, info.name, **extra)
                continue
            values = expected[info.name]
            values[target.start :] = 0
            result = attribute(trace, target, info.name, **extra)
            scale = np.abs(values).max()
            assert scale > 1e-4, info.name  # not a comparison of zeros
            error = np.abs(result.scores - values).max()
            assert error < 1e-4 * scale, f"{info.name}, target {wanted}: {error:.1e} of {scale:.1e}"
        matrix = compose(reference.language)
        error = np.abs(relevancy_matrix(trace, target, score=score) - matrix).max()
        assert error < 1e-4 * np.abs(matrix - np.eye(len(matrix))).max()


def test_own_row_and_layer_choice(case):
    options, trace = case
    target = resolve_target(trace.layout, 2)
    layers = [w for w, _ in Reference(options, trace, target, "logit").language]
    for layer in (0, -1):
        expected = layers[layer][1, target.start].copy()
        expected[target.start :] = 0
        result = attribute(trace, target, "attention", row="own", head=1, layer=layer)
        np.testing.assert_allclose(result.scores, expected, atol=1e-5)


def test_another_image_changes_the_scores(case):
    _, trace = case
    other = Image.fromarray(255 - np.asarray(trace.image))
    again = trace.model.run(other, "What color is the circle?", max_new_tokens=5)
    image = trace.layout.positions("image")
    for name in ("attention", "relevancy", "relevancy-chain"):
        one, two = (attribute(t, 0, name).scores[image] for t in (trace, again))
        assert np.abs(one - two).max() > 1e-3 * np.abs(one).max(), name


def as_protocol(trace: Trace) -> TraceLike:
    """Let the type checker prove that a trace is what the methods ask for."""
    return trace
