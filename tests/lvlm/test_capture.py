"""Captured attention against transformers' own eager ``output_attentions``, model by model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, MistralConfig, Qwen2Config

from causal_lvlm.lvlm import LVLM
from tests.lvlm.helpers import PROMPT, noise_image
from tests.models import tiny_llava

SMALL: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2
)


def decoder(name):
    """Return a small configuration of another decoder, or None for the default."""
    if name == "mistral-window":
        return MistralConfig(**SMALL, num_hidden_layers=2, sliding_window=7, head_dim=8)
    if name == "gemma2-softcap":
        return Gemma2Config(
            **SMALL,
            num_hidden_layers=2,
            head_dim=8,
            sliding_window=9,
            attn_logit_softcapping=5.0,
            query_pre_attn_scalar=8,
        )
    if name == "qwen2":
        return Qwen2Config(**SMALL, num_hidden_layers=3)
    return None


CASES: dict[str, dict[str, Any]] = {
    "llama": dict(),
    "llama-gqa-byte": dict(kv_heads=2, tokenizer="byte"),
    "siglip": dict(tower="siglip", vision_feature_layer=-1),
    "mistral-window": dict(),
    "gemma2-softcap": dict(),
    "qwen2": dict(),
}


def make(name):
    """Return a new model of a case: same seed, same weights."""
    return tiny_llava(seed=1, text_config=decoder(name), **CASES[name])


def eager(name, trace):
    """Run the whole model eagerly from token ids and pixels; returns its output."""
    model, processor = make(name)
    model.set_attn_implementation("eager")
    pixels = processor.image_processor(images=[trace.image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(trace.layout.token_ids)[None],
            attention_mask=torch.ones(1, len(trace.layout), dtype=torch.long),
            pixel_values=pixels,
            output_attentions=True,
            use_cache=False,
        )


@pytest.mark.parametrize("name", CASES)
def test_capture_equals_eager_output_attentions(name):
    lvlm = LVLM(*make(name))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=6)
    reference = eager(name, trace)
    n_layers = len(reference.attentions)
    captured = trace.attention(range(n_layers))
    expected = np.stack([a[0].numpy() for a in reference.attentions])
    assert captured.shape == expected.shape and captured.dtype == np.float32
    np.testing.assert_allclose(captured, expected, atol=5e-5)
    # Far from uniform, or this test would pass with nearly anything.
    assert captured.max(axis=-1).mean() > 0.4
    np.testing.assert_allclose(captured.sum(axis=-1), 1.0, atol=1e-5)
    assert not np.triu(captured, 1).any()


@pytest.mark.parametrize("name", CASES)
def test_layers_arrive_in_order_whichever_way_they_are_asked_for(name):
    lvlm = LVLM(*make(name))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    streamed = dict(trace.iter_attention())
    assert list(streamed) == list(range(len(lvlm.attention_modules)))
    last, first = trace.attention((-1, 0))
    np.testing.assert_array_equal(last, streamed[max(streamed)])
    np.testing.assert_array_equal(first, streamed[0])
    assert np.abs(first - last).max() > 0.1
    with pytest.raises(IndexError, match="allowed"):
        trace.attention(len(streamed))


@pytest.mark.parametrize("name", ["llama", "llama-gqa-byte", "gemma2-softcap"])
def test_head_outputs_through_the_output_projection_are_the_modules_output(name):
    lvlm = LVLM(*make(name))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    model, processor = make(name)
    model.set_attn_implementation("eager")
    for layer, block in enumerate(model.get_decoder().layers):
        found: list[torch.Tensor] = []
        handle = block.self_attn.register_forward_hook(lambda m, i, o, f=found: f.append(o[0]))
        pixels = processor.image_processor(images=[trace.image], return_tensors="pt")
        with torch.no_grad():
            model(
                input_ids=torch.tensor(trace.layout.token_ids)[None],
                pixel_values=pixels["pixel_values"],
            )
        handle.remove()
        heads = trace.head_outputs(layer)
        joined = torch.tensor(heads.copy()).transpose(0, 1).flatten(1)
        with torch.no_grad():
            projected = block.self_attn.o_proj(joined)
        torch.testing.assert_close(projected, found[0][0], atol=5e-5, rtol=0)


def test_real_geometry_has_576_image_tokens_and_captures():
    lvlm = LVLM(*tiny_llava(seed=2, layers=2, image_size=336, patch=14))
    trace = lvlm.run(noise_image((170, 260)), PROMPT, max_new_tokens=3)
    assert len(trace.layout.positions("image")) == 576
    grid = trace.layout.grids[0]
    assert (grid.rows, grid.cols) == (24, 24)
    assert trace.self_check.passed
    weights = trace.attention(-1)
    assert weights.shape == (1, 4, len(trace.layout), len(trace.layout))
    assert len(trace.vision_positions) == 577


def test_half_precision_keeps_float32_weights():
    model, processor = tiny_llava(seed=3)
    lvlm = LVLM(model.to(torch.bfloat16), processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    weights = trace.attention(-1)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    assert not np.triu(weights[0], 1).any()


def test_arrays_are_read_only():
    trace = LVLM(*tiny_llava()).run(noise_image(), PROMPT, max_new_tokens=3)
    target = trace.target(1)
    evaluation = trace.evaluate(np.ones((1, len(trace.layout)), bool), target)
    arrays: list[Any] = [
        trace.log_probs,
        trace.attention(-1),
        next(trace.iter_attention())[1],
        trace.head_outputs(),
        trace.layout.token_ids,
        trace.layout.grids[0].boxes,
        evaluation.token_log_probs,
        trace.backward(target).input_x_gradient,
        next(trace.backward(target).language()).gradient,
    ]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[(0,) * array.ndim] = 0
