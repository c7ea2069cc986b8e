"""Decoders whose attention is not plain: windows, chunks, sinks, soft caps, few layers of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BambaConfig,
    Cohere2Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    Lfm2Config,
    Llama4TextConfig,
    Qwen3NextConfig,
)

import causal_lvlm as cl
from causal_lvlm.errors import CaptureError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.lvlm.test_evaluate import dropped_by_hand, merged_embeddings, target_log_probs
from tests.models import tiny_llava

WINDOW = 7
SMALL: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2
)
HEADS: dict[str, Any] = dict(**SMALL, head_dim=8)
SLIDING, FULL = "sliding_attention", "full_attention"


def experts(kinds):
    return GptOssConfig(
        **HEADS,
        num_hidden_layers=len(kinds),
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=WINDOW,
        layer_types=kinds,
    )


def linear():
    return Qwen3NextConfig(
        **HEADS,
        num_hidden_layers=3,
        layer_types=["linear_attention", FULL, "linear_attention"],
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )


CASES: dict[str, Any] = {
    "sinks": lambda: experts([SLIDING, FULL]),
    "sinks, window last": lambda: experts([FULL, SLIDING]),
    "window last": lambda: Gemma3TextConfig(
        **HEADS, num_hidden_layers=3, sliding_window=WINDOW, layer_types=[SLIDING, FULL, SLIDING]
    ),
    "soft cap": lambda: Gemma2Config(
        **HEADS,
        num_hidden_layers=2,
        sliding_window=WINDOW,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=8,
        layer_types=[SLIDING, FULL],
    ),
    "windows by place": lambda: Cohere2Config(
        **SMALL, num_hidden_layers=3, sliding_window=WINDOW, layer_types=[SLIDING, SLIDING, FULL]
    ),
    "chunks": lambda: Llama4TextConfig(
        **HEADS,
        num_hidden_layers=2,
        attention_chunk_size=WINDOW + 1,
        num_local_experts=2,
        interleave_moe_layer_step=2,
        intermediate_size_mlp=64,
        layer_types=["chunked_attention", FULL],
    ),
    "linear": linear,
    "convolution": lambda: Lfm2Config(
        **SMALL, num_hidden_layers=3, layer_types=["conv", FULL, "conv"], block_multiple_of=16
    ),
    "state space": lambda: BambaConfig(
        **SMALL,
        num_hidden_layers=3,
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=16,
        mamba_expand=2,
    ),
}
KINDS = {
    "sinks": ("window", "full"),
    "sinks, window last": ("full", "window"),
    "window last": ("window", "full", "window"),
    "soft cap": ("window", "full"),
    "windows by place": ("window", "window", "full"),
    "chunks": ("window", "full"),
    "linear": ("full",),
    "convolution": ("full",),
    "state space": ("full",),
}
HYBRIDS = ("linear", "convolution", "state space")


def make(name):
    """Return a new model of a case: same seed, same weights."""
    return tiny_llava(seed=1, text_config=CASES[name]())


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Return the name, a trace, and a second model of the same weights in eager mode."""
    trace = LVLM(*make(request.param)).run(noise_image(), PROMPT, max_new_tokens=4)
    model, processor = make(request.param)
    model.set_attn_implementation("eager")
    return request.param, trace, model, processor


def test_capture_equals_eager_and_the_layers_are_told_apart(case):
    name, trace, model, processor = case
    assert trace.self_check.passed and trace.self_check.argmax_agreement == 1.0
    assert trace.attention_kinds == KINDS[name]
    pixels = processor.image_processor(images=[trace.image], return_tensors="pt")
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(trace.layout.token_ids.copy())[None],
            attention_mask=torch.ones(1, len(trace.layout), dtype=torch.long),
            pixel_values=pixels["pixel_values"],
            output_attentions=True,
            use_cache=False,
        )
    expected = [a[0].numpy() for a in output.attentions if a is not None and a.numel()]
    captured = trace.attention(range(trace.n_layers))
    assert len(expected) == trace.n_layers == len(KINDS[name])
    np.testing.assert_allclose(captured, np.stack(expected), atol=5e-5)
    assert not np.triu(captured, 1).any()


def test_rows_sum_to_one_but_for_what_goes_to_a_sink(case):
    name, trace, _, _ = case
    sums = trace.attention(range(trace.n_layers)).sum(axis=-1)
    if name.startswith("sinks"):
        assert sums.max() <= 1 + 1e-5 and sums.min() < 0.5
        assert (sums < 0.999).mean() > 0.1
    else:
        np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_windows_are_respected_and_the_last_global_layer_is_found(case):
    name, trace, _, _ = case
    captured = trace.attention(range(trace.n_layers))
    length = captured.shape[-1]
    beyond = np.tril(np.ones((length, length), dtype=bool), -(WINDOW + 1))
    for weights, kind in zip(captured, KINDS[name], strict=True):
        assert weights[:, beyond].any() == (kind == "full")
    index = len(KINDS[name]) - 1 - KINDS[name][::-1].index("full")
    calls: list[int] = []
    handle = trace.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    np.testing.assert_allclose(trace.attention("global")[0], captured[index], atol=1e-6)
    trace.attention(-1)
    handle.remove()
    assert not calls  # both were kept by the self-check's pass
    np.testing.assert_allclose(trace.attention([0, "global"])[1], captured[index], atol=1e-6)
    assert trace.global_layer == index
    for layer, kind in enumerate(KINDS[name]):
        remark = trace.layer_remark(layer)
        if kind == "full":
            assert remark is None
        else:
            assert re.search(r"looks at a window of \d+ tokens only", remark)
            assert remark.endswith(f"the last layer that sees them all is {index}")
    assert trace.layer_remark(-1) == trace.layer_remark(trace.n_layers - 1)


def test_a_model_of_windows_alone_has_no_global_layer():
    lvlm = LVLM(*tiny_llava(seed=1, text_config=experts([SLIDING, SLIDING])))
    with pytest.raises(IndexError, match="window only; give a number"):
        lvlm.layer_indices("global")
    assert lvlm.layer_remark(-1).endswith("; so do all its layers")


def blocked_by_hand(model, embeds, keep, target):
    """Run the language model eagerly on masks of both kinds, masked keys taken out by hand."""
    length = len(embeds)
    place = np.arange(length)
    causal = place[:, None] >= place[None]
    keys = keep[None] | np.eye(length, dtype=bool)
    chunk = place // (WINDOW + 1)
    kinds = {
        FULL: causal,
        SLIDING: causal & (place[:, None] - place[None] < WINDOW),
        "chunked_attention": causal & (chunk[:, None] == chunk[None]),
    }
    lowest = torch.finfo(torch.float32).min
    masks = {
        kind: torch.where(torch.tensor(mask & keys), 0.0, lowest)[None, None]
        for kind, mask in kinds.items()
    }
    scale = getattr(model, "logit_scale", 1.0)
    with torch.no_grad():
        hidden = model.get_decoder()(
            inputs_embeds=embeds[None], attention_mask=masks, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden)[0] * scale
    return target_log_probs(logits, target, 0)


def test_removal_is_what_it_says_on_every_decoder(case):
    name, trace, model, processor = case
    target = trace.target(2)
    keep = random_masks(trace, target, 6)
    result = trace.evaluate(keep, target)
    embeds = merged_embeddings(model, processor, trace.image, trace.layout.token_ids.tolist())
    by_hand = dropped_by_hand if name in HYBRIDS else blocked_by_hand
    expected = np.array([by_hand(model, embeds, row, target) for row in keep])
    np.testing.assert_allclose(result.token_log_probs, expected, atol=1e-4)
    assert result.backend == ("drop" if name in HYBRIDS else "block")
    assert np.ptp(expected) > 0.05


def test_the_way_that_does_not_hold_is_refused_or_found_at_run_time(case):
    name, trace, _, _ = case
    keep = random_masks(trace, trace.target(2), 6)
    if name in HYBRIDS:  # nothing can be hidden in layers without attention: refused, not run
        with pytest.raises(UnsupportedModelError, match="without attention"):
            trace.evaluate(keep, 2, backend="block")
        return
    with pytest.warns(UserWarning, match="masking by 'drop' differs"):
        fresh = LVLM(*make(name)).run(noise_image(), PROMPT, max_new_tokens=4)
        assert not fresh.evaluate(keep, 2, backend="drop").check.agrees


def test_an_explanation_is_found(case):
    _, trace, _, _ = case
    assert cl.explain(trace, 2, max_runs=40) is not None


def test_attention_outside_the_interface_is_refused_by_name():
    config = FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    lvlm = LVLM(*tiny_llava(seed=1, text_config=config))
    with pytest.raises(CaptureError, match=r"FalconModel\) does not use the attention interface"):
        lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
