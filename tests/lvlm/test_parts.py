"""What is kept about a model's modules is what walking through them anew would say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.attention_function import NAME
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


class Adapted(torch.nn.Module):
    """A projection with something added to it, as adapters do."""

    def __init__(self, base: torch.nn.Linear, scale: float = 0.5) -> None:
        super().__init__()
        self.base, self.more = base, copy.deepcopy(base)
        self.scale = scale

    def forward(self, x):
        return self.base(x) + self.scale * self.more(x)


def adapted(model):
    for layer in model.get_decoder().layers:
        layer.self_attn.v_proj = Adapted(layer.self_attn.v_proj)


def other_attention(model):
    layers = model.get_decoder().layers
    layers[0].self_attn = copy.deepcopy(layers[1].self_attn)
    layers[0].self_attn.layer_idx = 0


def other_layer_in_place(model):
    layers = model.get_decoder().layers
    layers[-1] = copy.deepcopy(layers[-1])
    torch.nn.init.normal_(layers[-1].mlp.down_proj.weight, std=0.1)


def other_language_model(model):
    other = copy.deepcopy(model.model.language_model)
    torch.nn.init.normal_(other.layers[0].mlp.down_proj.weight, std=0.1)
    model.model.language_model = other


def behind_the_back_of_setattr(model):
    attention = model.get_decoder().layers[0].self_attn
    attention._modules["v_proj"] = Adapted(attention.v_proj, 2.0)


def other_head(model):
    model.lm_head = Adapted(model.lm_head, -0.5)


CHANGES = [
    adapted,
    other_attention,
    other_layer_in_place,
    other_language_model,
    behind_the_back_of_setattr,
    other_head,
]


def answers(lvlm):
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    target = trace.target(1)
    weights = dict(trace.iter_attention())
    evaluation = trace.evaluate(random_masks(trace, target, 3), target)
    gradient = trace.backward(target).gradient_norm
    return trace.log_probs, *weights.values(), evaluation.margin, gradient


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_that_is_another_one_is_noticed(change):
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    before = answers(lvlm)
    known = lvlm.current_parts()
    assert lvlm.current_parts() is known  # nothing changed, nothing was walked
    change(model)
    assert not known.current
    found, expected = answers(lvlm), answers(LVLM(model, processor))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(found[-1] - before[-1]).max() > 1e-4
    assert lvlm.attention_modules == LVLM(model, processor).attention_modules
    assert lvlm.current_parts().modules == tuple(model.modules())
    assert lvlm.decoder is model.get_decoder()
    assert lvlm.text_config is model.get_decoder().config


def told(trace):
    target = trace.target(1)
    keep = random_masks(trace, target, 3)
    keep[:, : trace.layout.n_prompt // 2] = True  # so that a stored prefix is used
    blocked = trace.evaluate(keep, target, backend="block").margin
    return trace.attention(-1), trace.evaluate(keep, target).margin, blocked


@pytest.mark.parametrize("change", CHANGES)
def test_a_trace_keeps_nothing_of_modules_that_are_gone(change):
    model, processor = tiny_llava(seed=8)
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=3)
    before = told(trace)
    change(model)
    found = told(trace)
    expected = told(trace.on(LVLM(model, processor)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(found[1] - before[1]).max() > 1e-4


def test_another_implementation_of_attention_is_set_aside_and_put_back():
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    seen = []
    for implementation in ("sdpa", "eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with lvlm.session(tower=True):
            seen.append(
                (
                    model.get_decoder().config._attn_implementation,
                    model.get_encoder("image").config._attn_implementation,
                )
            )
        assert model.config.text_config._attn_implementation == implementation
        assert model.config.vision_config._attn_implementation == implementation
    assert seen == [(NAME, NAME)] * 3


def test_another_configuration_of_a_module_is_read():
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    layer = model.get_decoder().layers[0].self_attn
    with lvlm.session():
        pass
    layer.config = copy.deepcopy(layer.config)
    with lvlm.session():
        assert layer.config._attn_implementation == NAME
    assert layer.config._attn_implementation == "sdpa"


def test_other_kinds_of_layers_are_noticed():
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    config = lvlm.text_config
    assert lvlm.drop_is_exact
    assert set(lvlm.attention_kinds) == {"full"}
    config.layer_types = ["full_attention"] * (config.num_hidden_layers - 1) + ["sliding_attention"]
    config.sliding_window = 4
    assert not lvlm.drop_is_exact
    assert lvlm.attention_kinds[-1] == "window"
    config.layer_types[-1] = "full_attention"  # in place
    assert lvlm.drop_is_exact
    assert set(lvlm.attention_kinds) == {"full"}


def test_a_model_compiled_later_is_run_uncompiled():
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    layer = model.get_decoder().layers[0]
    layer.compile(backend=backend)
    lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    assert not calls
    assert layer._compiled_call_impl is not None


def test_hooks_places_and_formats_are_those_of_the_call():
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    seen = []
    handle = model.get_decoder().layers[0].register_forward_hook(lambda *_: seen.append(1))
    lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    handle.remove()
    assert seen
    model.to(torch.float64)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    assert trace.self_check.passed
    assert lvlm.dtype == trace.prepared.embeds.dtype == torch.float64
