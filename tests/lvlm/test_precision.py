"""The self-check and number formats: near-ties pass, others do not; weights are in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import causal_lvlm as cl
from causal_lvlm.errors import SelfCheckError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.selfcheck import check_run
from causal_lvlm.lvlm.spotcheck import tolerance_of
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava

HALF = [torch.bfloat16, torch.float16]


def with_other_last_token(trace, token_id):
    """Return what the trace would have recorded had the model generated another last token."""
    ids = trace.layout.token_ids.copy()
    ids[-1] = token_id
    layout = replace(trace.layout, token_ids=ids)
    prepared = Prepared(trace.model, trace.images, layout, trace.prompt)
    count = len(trace.log_probs)
    with trace.model.session(), torch.no_grad():
        logits = prepared.logits(prepared.embeds, prepared.positions, count + 1)[0, :-1].double()
    targets = torch.tensor(ids[-count:])[:, None]
    recorded = logits.log_softmax(-1).gather(1, targets)[:, 0].numpy()
    return prepared, recorded, float(logits[-1].max() - logits[-1, token_id])


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_only_a_near_tie_may_be_another_token(dtype):
    model, processor = tiny_llava(seed=4)
    lvlm = LVLM(model.to(dtype), processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    assert trace.self_check.passed and trace.self_check.largest_gap <= tolerance_of(dtype)
    won = int(trace.layout.token_ids[-1])
    near, far = (9, 10) if won not in (9, 10) else (11, 12)
    with torch.no_grad():
        # `near` says nearly what the winner says, `far` something else.
        model.lm_head.weight[near] = model.lm_head.weight[won] * (1 - 1e-4)
    prepared, recorded, gap = with_other_last_token(trace, near)
    found = check_run(prepared, recorded)
    assert gap <= tolerance_of(dtype)
    assert found.passed and found.largest_gap == pytest.approx(gap, abs=1e-6)
    assert dtype != torch.float32 or (found.argmax_agreement == 0.75 and found.largest_gap > 0)
    prepared, recorded, gap = with_other_last_token(trace, far)
    assert gap > 2 * tolerance_of(dtype)
    found = check_run(prepared, recorded)
    # The log-probability is the one recorded; only the choice is not the model's.
    assert found.max_log_prob_difference <= tolerance_of(dtype)
    assert found.argmax_agreement == 0.75 and not found.passed
    assert found.largest_gap == pytest.approx(gap, abs=1e-6)


def broken_trace():
    """Return a trace whose model is, unlike at its generation, deaf to the last layer."""
    model, processor = tiny_llava(seed=4)
    lvlm = LVLM(model, processor)
    plain = model.generate

    def generate(*args, **options):
        output = plain(*args, **options)
        with torch.no_grad():
            model.get_decoder().layers[-1].mlp.down_proj.weight.zero_()
        return output

    model.generate = generate
    with pytest.warns(UserWarning, match="self-check of .* failed"):
        return lvlm.run(noise_image(), PROMPT, max_new_tokens=4)


def test_no_explanation_of_another_computation_unless_forced():
    trace = broken_trace()
    assert not trace.self_check.passed
    with pytest.raises(SelfCheckError, match="force=True"):
        cl.explain(trace, 2, max_runs=20)
    assert cl.explain(trace, 2, max_runs=20, force=True) is not None


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_weights_are_computed_in_float32_from_half_formats(dtype):
    model, processor = tiny_llava(seed=3)
    lvlm = LVLM(model.to(dtype), processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    weights = trace.attention((0, -1))
    assert weights.dtype == np.float32
    # Half formats would be off by their own step, 2e-3 or 5e-4 here.
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    for layer, streamed in trace.iter_attention():
        if layer in (0, lvlm.layer_indices(-1)[0]):
            np.testing.assert_allclose(streamed, weights[int(layer > 0)], atol=1e-6)
    full = LVLM(*tiny_llava(seed=3)).run(noise_image(), PROMPT, max_new_tokens=4)
    n_prompt = trace.layout.n_prompt
    first = (slice(None), slice(None), slice(n_prompt), slice(n_prompt))
    assert np.abs(weights[first] - full.attention((0, -1))[first]).mean() < 0.02


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_formats_are_evaluated_and_explained(dtype):
    model, processor = tiny_llava(seed=4)
    lvlm = LVLM(model.to(dtype), processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    target = trace.target(2)
    keep = random_masks(trace, target, 8)
    dropped = trace.evaluate(keep, target, backend="drop")
    blocked = trace.evaluate(keep, target, backend="block")
    assert np.isfinite(dropped.log_prob).all()
    np.testing.assert_allclose(dropped.log_prob, blocked.log_prob, atol=tolerance_of(dtype))
    assert np.isfinite(trace.backward(target).gradient_norm).all()
    assert cl.explain(trace, 2, max_runs=40) is not None


def test_the_passes_the_run_already_made_are_not_made_again():
    lvlm = LVLM(*tiny_llava(seed=4))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    calls = []
    lvlm.decoder.register_forward_hook(lambda *_: calls.append(1))
    last = trace.attention(-1)
    trace.head_outputs(), trace.head_values()
    assert not calls  # queries and keys of the last layer were kept by the self-check's pass
    fresh = trace.attention((0, -1))
    assert len(calls) == 1
    np.testing.assert_allclose(last[0], fresh[1], atol=1e-6)
