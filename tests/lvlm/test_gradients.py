"""A and dA of every layer against an eager model whose attention weights keep their gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.lvlm import LVLM
from tests.lvlm.helpers import PROMPT, noise_image
from tests.lvlm.test_capture import decoder
from tests.models import tiny_llava

CASES: dict[str, dict[str, Any]] = {
    "clip": dict(seed=1),
    "gqa-byte-all-tower-layers": dict(
        seed=2, kv_heads=2, tokenizer="byte", vision_feature_layer=-1
    ),
    "siglip": dict(seed=3, tower="siglip", vision_feature_layer=-1),
    "gemma2-softcap": dict(seed=1),
    "mistral-window": dict(seed=1),
}


def make(name):
    """Return a new model of a case."""
    return tiny_llava(text_config=decoder(name), **CASES[name])


def eager_gradients(name, trace, target, score, against=None):
    """Return {part: [(A, dA) per layer]}, and embeddings with their gradient."""
    model, processor = make(name)
    model.set_attn_implementation("eager")
    kept: dict[str, list] = {"language": [], "vision": []}
    merged = []

    def keep(part):
        def hook(module, inputs, output):
            output[1].retain_grad()
            kept[part].append(output[1])

        return hook

    for layer in model.get_decoder().layers:
        layer.self_attn.register_forward_hook(keep("language"))
    for part, module in model.model.vision_tower.named_modules():
        if part.endswith("self_attn"):
            module.register_forward_hook(keep("vision"))

    def embeds_hook(module, args, kwargs):
        kwargs["inputs_embeds"].retain_grad()
        merged.append(kwargs["inputs_embeds"])

    model.get_decoder().register_forward_pre_hook(embeds_hook, with_kwargs=True)
    pixels = processor.image_processor(images=[trace.image], return_tensors="pt")["pixel_values"]
    logits = model(
        input_ids=torch.tensor(trace.layout.token_ids)[None], pixel_values=pixels, use_cache=False
    ).logits[0]
    scores = logits.log_softmax(-1) if score == "log_prob" else logits
    total = torch.stack(
        [scores[p - 1, i] for p, i in zip(target.positions, target.token_ids, strict=True)]
    ).sum()
    if against is not None:
        total = total - scores[target.predictor, against]
    total.backward()
    layers = {
        part: [
            None if a.grad is None else (a.detach()[0].numpy(), a.grad[0].numpy()) for a in found
        ]
        for part, found in kept.items()
    }
    return layers, merged[0].detach()[0], merged[0].grad[0], float(total.detach())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("which", "score", "against"),
    [(2, "logit", None), (slice(0, 3), "log_prob", None), (1, "logit", 9)],
    ids=["logit", "log_prob-of-three", "against"],
)
def test_attention_and_gradient_equal_eager(name, which, score, against):
    trace = LVLM(*make(name)).run(noise_image(), PROMPT, max_new_tokens=4)
    target = trace.target(which)
    layers, embeds, gradient, total = eager_gradients(name, trace, target, score, against)
    found = trace.backward(target, score=score, vision=True, against=against)
    assert found.score == pytest.approx(total, abs=1e-4)
    for part, stream in (("language", found.language()), ("vision", found.vision())):
        expected = {i: pair for i, pair in enumerate(layers[part]) if pair is not None}
        numbers = []
        for item in stream:
            weights, weights_gradient = expected[item.layer]
            scale = np.abs(weights_gradient).max()
            assert scale > 0
            np.testing.assert_allclose(item.attention, weights, atol=5e-5)
            np.testing.assert_allclose(item.gradient, weights_gradient, atol=1e-4 * max(scale, 1))
            numbers.append(item.layer)
        assert numbers == sorted(expected, reverse=True)
    product = (embeds.double() * gradient.double()).sum(-1)
    np.testing.assert_allclose(found.input_x_gradient, product, atol=1e-4)
    np.testing.assert_allclose(
        found.gradient_norm, gradient.double().norm(dim=-1), atol=1e-4, rtol=1e-4
    )
    assert found.input_x_gradient.shape == (len(trace.layout),)


def test_tower_layers_that_nothing_uses_are_left_out():
    trace = LVLM(*make("clip")).run(noise_image(), PROMPT, max_new_tokens=2)
    layers = [item.layer for item in trace.backward(0, vision=True).vision()]
    assert layers == [1, 0]  # of three: the features come from the last but one


def test_language_only_gives_the_same_and_leaves_the_tower_alone():
    lvlm = LVLM(*make("clip"))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    with_vision = trace.backward(0, vision=True)
    without = trace.backward(0)
    for a, b in zip(with_vision.language(), without.language(), strict=True):
        np.testing.assert_allclose(a.gradient, b.gradient, atol=1e-6)
    np.testing.assert_allclose(with_vision.gradient_norm, without.gradient_norm, atol=1e-6)
    with pytest.raises(ValueError, match="vision=True"):
        next(without.vision())


def test_no_gradient_is_left_on_the_model_and_its_parameters_stay_trainable():
    model, processor = make("clip")
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=2)
    trace.backward(0, vision=True)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_works_inside_no_grad_and_twice():
    trace = LVLM(*make("clip")).run(noise_image(), PROMPT, max_new_tokens=2)
    with torch.no_grad():
        found = trace.backward(1)
    first, second = list(found.language()), list(found.language())
    assert [a.layer for a in first] == [2, 1, 0]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.gradient, b.gradient)
    with pytest.raises(ValueError, match="score must be one of"):
        trace.backward(1, score="probability")
