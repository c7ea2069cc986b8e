"""Relevance propagation against closed forms, a written-out propagation, and conservation."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import pytest
import torch

from causal_lvlm.attribution.lrp import RULES
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.propagation import propagation
from causal_lvlm.methods import attribute, list_methods
from causal_lvlm.results import Rules
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image

ATTN, CP, RELP = RULES["attn_lrp"], RULES["cp_lrp"], RULES["relp"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relevance(module, x, rules, pick=lambda y: y.sum()):
    """Input times modified gradient of a number picked from what the module returns."""
    x = x.clone().requires_grad_(True)
    with propagation(module if isinstance(module, torch.nn.Module) else torch.nn.Identity(), rules):
        y = module(x)
    (gradient,) = torch.autograd.grad(pick(y), x)
    return (x * gradient).detach(), y.detach()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_bias_free_relu_network_conserves_and_equals_gradient_times_input():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 9, bias=False), torch.nn.ReLU(), torch.nn.Linear(9, 4, bias=False)
    ).double()
    x = normal(2, 5, 6)
    found, y = relevance(net, x, ATTN)
    x.requires_grad_(True)
    (plain,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.allclose(found, (x * plain).detach(), atol=1e-12)
    assert torch.allclose(found.sum(), y.sum(), atol=1e-12)


def test_biases_keep_exactly_what_the_linear_layer_says_they_add():
    torch.manual_seed(1)
    net = torch.nn.Linear(6, 4).double()
    found, y = relevance(net, normal(3, 6), ATTN)
    assert torch.allclose(y.sum() - found.sum(), 3 * net.bias.sum(), atol=1e-12)


@pytest.mark.parametrize("name", ["SiLU", "GELU", "Tanh"])
def test_an_activation_hands_on_its_value_and_not_its_slope(name):
    net = getattr(torch.nn, name)()
    x = normal(3, 4, 5)
    x[0, 0, 0] = 0.0
    found, y = relevance(net, x, ATTN)
    assert torch.allclose(found, y, atol=1e-12)


def test_an_activation_written_out_in_many_operations_counts_as_one():
    from transformers.activations import ACT2FN

    net = torch.nn.Sequential(ACT2FN["gelu_new"])
    found, y = relevance(net, normal(3, 4, 5), ATTN)
    assert torch.allclose(found, y, atol=1e-12)


class Gated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.gate, self.up = (torch.nn.Linear(5, 7, bias=False).double() for _ in range(2))
        self.act = torch.nn.SiLU()

    def forward(self, x):
        return self.act(self.gate(x)) * self.up(x)


def test_a_gate_halves_between_its_factors_or_is_a_constant():
    net, x = Gated(), normal(2, 3, 5)
    gate, up = net.gate(x), net.up(x)
    value = (torch.nn.functional.silu(gate) * up).detach()

    def through(linear, output):  # 0-rule written out: R_i = sum over k of x_i W_ki R_k / z_k
        share = output / linear(x)
        return (x * (share @ linear.weight)).detach()

    half = through(net.gate, value / 2) + through(net.up, value / 2)
    assert torch.allclose(relevance(net, x, ATTN)[0], half, atol=1e-10)
    assert torch.allclose(relevance(net, x, CP)[0], through(net.up, value), atol=1e-10)
    assert torch.allclose(half.sum(), value.sum(), atol=1e-10)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "written out", "power"])
def test_a_norm_is_linear_with_its_scale_held(kind):
    weight = normal(6, seed=3)

    def net(x):
        if kind == "layer_norm":
            return torch.nn.functional.layer_norm(x, (6,), weight, None, 1e-6)
        if kind == "rms_norm":
            return torch.nn.functional.rms_norm(x, (6,), weight, 1e-6)
        square = x.pow(2).mean(-1, keepdim=True) + 1e-6
        scale = torch.rsqrt(square) if kind == "written out" else torch.pow(square, -0.5)
        return weight * (x * scale)

    x = normal(2, 3, 6)
    coefficient = normal(2, 3, 6, seed=4)
    found, y = relevance(net, x, ATTN, lambda y: (y * coefficient).sum())
    centred = x - x.mean(-1, keepdim=True) if kind == "layer_norm" else x
    scale = 1 / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    slope = coefficient * weight * scale
    if kind == "layer_norm":
        slope = slope - slope.mean(-1, keepdim=True)
    assert torch.allclose(found, x * slope, atol=1e-10)
    assert torch.allclose(found.sum(), (y * coefficient).sum(), atol=1e-9)


def test_attention_follows_the_three_propositions_written_out():
    """Relevance passed back step by step: uniform rule, softmax rule, uniform rule; no gradient."""
    query, key, value = (normal(1, 1, 4, 3, seed=s) for s in (5, 6, 7))
    given = [t.clone().requires_grad_(True) for t in (query, key, value)]
    with propagation(torch.nn.Identity(), ATTN):
        output = torch.nn.functional.scaled_dot_product_attention(
            given[0], given[1], given[2], is_causal=True
        )
    gradients = torch.autograd.grad(output.sum(), given)
    found = [(t * g)[0, 0].detach().numpy() for t, g in zip(given, gradients, strict=True)]

    q, k, v = (t[0, 0].numpy() for t in (query, key, value))
    scores = np.where(np.tri(4, dtype=bool), q @ k.T / np.sqrt(3), -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    out = weights @ v
    of_out = out.copy()  # relevance starts as the output itself
    each = weights[:, :, None] * v[None] * (of_out / out)[:, None] / 2  # (query, key, d)
    of_value, of_weights = each.sum(axis=0), each.sum(axis=2)
    safe = np.where(np.isfinite(scores), scores, 0.0)
    of_scores = safe * (of_weights - weights * of_weights.sum(axis=1, keepdims=True))
    raw = q[:, None] * k[None] / np.sqrt(3)
    share = np.divide(of_scores, safe, out=np.zeros((4, 4)), where=safe != 0)
    pairs = raw * share[:, :, None] / 2
    expected = [pairs.sum(axis=1), pairs.sum(axis=0), of_value]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_frozen_attention_conserves_and_leaves_queries_and_keys_without_relevance():
    given = [normal(1, 2, 4, 3, seed=s).requires_grad_(True) for s in (5, 6, 7)]
    with propagation(torch.nn.Identity(), CP):
        output = torch.nn.functional.scaled_dot_product_attention(*given)
    gradients = torch.autograd.grad(output.sum(), given, allow_unused=True)
    assert gradients[0] is None and gradients[1] is None
    assert torch.allclose((given[2] * gradients[2]).sum(), output.sum(), atol=1e-12)


@cache
def family(name):
    lvlm = LVLM(*BUILDERS[name]())
    image = None if name.startswith("text_") else noise_image((100, 60), seed=2)
    return lvlm.run(image, "What is it?", max_new_tokens=3)


# Plain, soft-capped eager attention, parallel blocks with LayerNorm, gates in one matrix, images.
FAMILIES = ("text_llama", "text_gemma2", "text_phi", "text_phi3", "text_apertus", "qwen2_vl",
            "gemma3")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_conservative_rules_conserve_in_every_kind_of_decoder(name):
    trace = family(name)
    target = trace.target(1)
    score = trace.backward(target).score
    for rules in (CP, RELP):
        found = trace.propagate(target, rules)
        assert found.score == pytest.approx(score, abs=1e-4)
        # biases of these random models are zero: nothing may be lost
        assert abs(found.absorbed) < 1e-4 * max(1.0, abs(score))
        assert found.values[target.start :] == pytest.approx(0.0, abs=1e-7)
    plain = trace.backward(target).input_x_gradient
    assert not np.allclose(found.values, plain, atol=1e-3)


@pytest.fixture(scope="module")
def trace(embedded_model):
    from causal_lvlm.tiny import sample_inputs

    sample = sample_inputs()[0]
    return embedded_model.run(sample.image_path, sample.prompt)


def test_relevance_of_the_embedded_model_is_conserved(trace):
    target = trace.target(0)
    found = trace.propagate(target, CP)
    assert found.values.sum() == pytest.approx(found.score, abs=1e-3)
    assert found.score == pytest.approx(trace.backward(target).score, abs=1e-4)


def test_the_model_is_untouched_during_and_after(trace):
    target = trace.target(0)
    model = trace.model.model
    before = trace.backward(target).input_x_gradient
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    beside = []

    def other_thread():
        beside.append(trace.backward(target).input_x_gradient)

    with propagation(trace.model.decoder, ATTN):
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    with pytest.raises(RuntimeError, match="on purpose"), propagation(trace.model.decoder, ATTN):
        raise RuntimeError("on purpose")
    trace.propagate(target, ATTN)
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert hooks == after
    assert np.array_equal(before, trace.backward(target).input_x_gradient)
    assert np.array_equal(before, beside[0])


def test_positions_hidden_from_every_other_row_get_exactly_nothing(trace):
    target = trace.target(0)
    hidden = [int(p) for p in trace.layout.positions("image")[::7]]
    seen = trace.propagate(target, ATTN).values[hidden]
    assert np.abs(seen).max() > 0
    for rules in RULES.values():
        blocked = trace.blocked(hidden).propagate(target, rules)
        assert not blocked.values[hidden].any()


def test_a_contrast_with_itself_and_a_baseline_at_the_input_give_zero(trace):
    target = trace.target(0)
    plain = trace.propagate(target, CP)
    rival = trace.propagate(target, CP, against="red")
    assert rival.score < plain.score
    own = trace.propagate(target, CP, against=target.token_ids[0])
    assert np.abs(own.values).max() < 1e-4
    embeddings = trace.prepared.embeds[0].numpy()
    at_input = trace.propagate(target, RELP, baseline=embeddings)
    assert np.abs(at_input.values).max() == 0.0
    with pytest.raises(ValueError, match="baseline has shape"):
        trace.propagate(target, RELP, baseline=embeddings[:3])


@pytest.mark.parametrize("method", ["lrp", "cp_lrp", "relp"])
def test_the_patent_note_must_be_accepted_and_the_methods_are_optional(trace, method):
    with pytest.raises(ValueError, match="patent"):
        attribute(trace, 0, method)
    with pytest.raises(ValueError, match="patent"):
        attribute(trace, 0, method, accept_patent_note=1)
    result = attribute(trace, 0, method, accept_patent_note=True)
    assert (result.model_runs, result.backward_passes) == (1, 1)
    assert any("patent" in note for note in result.notes)
    (info,) = [info for info in list_methods() if info.name == method]
    assert info.optional and "patent" in info.summary


def test_relp_takes_a_baseline_and_names_wrong_options(trace):
    zero = attribute(trace, 0, "relp", accept_patent_note=True)
    mean = attribute(trace, 0, "relp", baseline="mean", accept_patent_note=True)
    assert not np.allclose(zero.scores, mean.scores)
    with pytest.raises(ValueError, match="baseline must be one of"):
        attribute(trace, 0, "relp", baseline="grey", accept_patent_note=True)
    for wrong in (Rules("thawed"), Rules("frozen", "open")):
        with pytest.raises(ValueError, match="must be"):
            trace.propagate(trace.target(0), wrong)
