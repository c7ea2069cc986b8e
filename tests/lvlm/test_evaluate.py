"""Masked evaluation against sequences rebuilt by hand, one at a time, in eager mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.errors import AttentionError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.interventions import mask_pixels
from causal_lvlm.protocols import MASKINGS
from tests.lvlm.helpers import PROMPT, candidate_positions, noise_image, random_masks
from tests.lvlm.test_capture import decoder
from tests.models import tiny_llava

CASES: dict[str, dict[str, Any]] = {
    "word": dict(seed=4),
    "byte-gqa": dict(seed=5, kv_heads=2, tokenizer="byte"),
    "siglip": dict(seed=6, tower="siglip", vision_feature_layer=-1),
}
TARGETS = [0, 2, slice(1, 4)]


@pytest.fixture(scope="module", params=CASES)
def run(request):
    """Return a trace, and a second model of the same weights in eager mode."""
    trace = LVLM(*tiny_llava(**CASES[request.param])).run(noise_image(), PROMPT, max_new_tokens=5)
    model, processor = tiny_llava(**CASES[request.param])
    model.set_attn_implementation("eager")
    return trace, model, processor


def merged_embeddings(model, processor, image, token_ids):
    """Put features in place of image tokens, in a loop over positions."""
    with torch.no_grad():
        pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        features = model.get_image_features(pixel_values=pixels).pooler_output[0]
        embeds = model.get_input_embeddings()(torch.tensor(token_ids))
        position = [p for p, i in enumerate(token_ids) if i == model.config.image_token_id]
        for feature, p in zip(features, position, strict=True):
            embeds[p] = feature
    return embeds


def target_log_probs(logits, target, offset):
    """Return log-probabilities of the target's tokens; row 0 of logits is position offset."""
    log_probs = logits.double().log_softmax(-1)
    return [
        float(log_probs[p - 1 - offset, i])
        for p, i in zip(target.positions, target.token_ids, strict=True)
    ]


def dropped_by_hand(model, embeds, keep, target):
    """Build the shorter sequence of one mask and run it alone."""
    stays = [p for p in range(len(embeds)) if keep[p]]
    with torch.no_grad():
        logits = model(
            inputs_embeds=embeds[stays][None],
            position_ids=torch.tensor(stays)[None],
            attention_mask=torch.ones(1, len(stays), dtype=torch.long),
            use_cache=False,
        ).logits[0]
    whole = torch.zeros(len(embeds), logits.shape[-1])
    whole[stays] = logits
    return target_log_probs(whole, target, 0)


@pytest.mark.parametrize("which", TARGETS, ids=str)
@pytest.mark.parametrize("backend", ["drop", "block", "auto"])
def test_remove_equals_shorter_sequences_built_by_hand(run, which, backend):
    trace, model, processor = run
    target = trace.target(which)
    keep = random_masks(trace, target, 12)
    embeds = merged_embeddings(model, processor, trace.image, trace.layout.token_ids.tolist())
    expected = np.array([dropped_by_hand(model, embeds, row, target) for row in keep])
    result = trace.evaluate(keep, target, backend=backend)
    np.testing.assert_allclose(result.token_log_probs, expected, atol=1e-4)
    np.testing.assert_allclose(result.log_prob, expected.sum(axis=1), atol=1e-4)
    assert result.runs == 12 and result.masking == "remove"
    assert result.backend in ("drop", "block")
    assert np.ptp(expected[:, 0]) > 0.05  # masking matters here


@pytest.mark.parametrize("backend", ["drop", "block", "auto"])
def test_result_does_not_depend_on_batches_or_on_the_order_of_rows(run, backend):
    trace, _, _ = run
    target = trace.target(3)
    keep = random_masks(trace, target, 20, seed=1)
    whole = trace.evaluate(keep, target, backend=backend)
    for size in (1, 3, 64):
        part = trace.evaluate(keep, target, backend=backend, batch_size=size)
        np.testing.assert_allclose(part.token_log_probs, whole.token_log_probs, atol=1e-4)
        np.testing.assert_array_equal(part.argmax, whole.argmax)
    order = np.random.default_rng(0).permutation(20)
    turned = trace.evaluate(keep[order], target, backend=backend)
    np.testing.assert_allclose(turned.margin, whole.margin[order], atol=1e-4)


def test_nothing_masked_gives_back_the_generation(run):
    trace, _, _ = run
    target = trace.target(slice(0, 5))
    keep = np.ones((1, len(trace.layout)), dtype=bool)
    for masking in MASKINGS:
        result = trace.evaluate(keep, target, masking=masking)
        np.testing.assert_allclose(result.token_log_probs[0], trace.log_probs, atol=1e-4)
        assert result.argmax[0].tolist() == list(target.token_ids)
        assert (result.margin[0] > 0).all()
        np.testing.assert_allclose(result.top_log_prob, result.token_log_probs)


def edges_by_hand(model, embeds, keep, target):
    """Run eagerly with a 4-d mask in which only the predicting rows lose keys."""
    length = len(embeds)
    allowed = np.tril(np.ones((length, length), dtype=bool))
    for row in range(target.predictor, target.positions[-1]):
        allowed[row] &= keep
    mask = torch.where(torch.tensor(allowed), 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = model(
            inputs_embeds=embeds[None], attention_mask=mask[None, None], use_cache=False
        ).logits[0]
    return target_log_probs(logits, target, 0)


@pytest.mark.parametrize("which", TARGETS, ids=str)
def test_edges_equals_a_hand_made_mask_and_differs_from_remove(run, which):
    trace, model, processor = run
    target = trace.target(which)
    keep = random_masks(trace, target, 8, seed=2)
    embeds = merged_embeddings(model, processor, trace.image, trace.layout.token_ids.tolist())
    expected = np.array([edges_by_hand(model, embeds, row, target) for row in keep])
    result = trace.evaluate(keep, target, masking="edges")
    np.testing.assert_allclose(result.token_log_probs, expected, atol=1e-4)
    removed = trace.evaluate(keep, target)
    assert np.abs(result.log_prob - removed.log_prob).max() > 0.05


def test_neutral_equals_embeddings_replaced_by_hand(run):
    trace, model, processor = run
    target = trace.target(2)
    keep = random_masks(trace, target, 8, seed=3)
    embeds = merged_embeddings(model, processor, trace.image, trace.layout.token_ids.tolist())
    is_image = trace.layout.modality == "image"
    image_mean = embeds[torch.tensor(is_image)].mean(dim=0)
    text_mean = model.get_input_embeddings().weight.detach().mean(dim=0)
    result = trace.evaluate(keep, target, masking="neutral")
    for row, stays in enumerate(keep):
        changed = embeds.clone()
        for p in np.flatnonzero(~stays):
            changed[p] = image_mean if is_image[p] else text_mean
        expected = dropped_by_hand(model, changed, np.ones(len(stays), bool), target)
        np.testing.assert_allclose(result.token_log_probs[row], expected, atol=1e-4)


@pytest.mark.parametrize("masking", ["pixels-blur", "pixels-mean"])
def test_pixels_equals_encoding_the_painted_image_by_hand(run, masking):
    trace, model, processor = run
    target = trace.target(2)
    keep = random_masks(trace, target, 6, seed=4)
    result = trace.evaluate(keep, target, masking=masking)
    is_image = trace.layout.modality == "image"
    for row, stays in enumerate(keep):
        painted = mask_pixels(
            trace.prepared, np.flatnonzero(~stays & is_image), masking.removeprefix("pixels-")
        )
        embeds = merged_embeddings(model, processor, painted, trace.layout.token_ids.tolist())
        expected = dropped_by_hand(model, embeds, stays | is_image, target)
        np.testing.assert_allclose(result.token_log_probs[row], expected, atol=1e-4)


def test_painted_pixels_lie_within_the_rectangles(run):
    trace, _, _ = run
    position = int(trace.layout.positions("image")[5])
    left, top, right, bottom = (round(v) for v in trace.layout.patch_box(position))
    original = np.asarray(trace.image).astype(int)
    for how in ("blur", "mean"):
        changed = np.asarray(mask_pixels(trace.prepared, np.array([position]), how)[0]) != original
        assert changed[top:bottom, left:right].mean() > 0.5
        changed[top:bottom, left:right] = False
        assert not changed.any()
    mean = np.asarray(mask_pixels(trace.prepared, np.array([position]), "mean")[0])
    np.testing.assert_allclose(mean[top, left], original.mean(axis=(0, 1)), atol=0.51)


def test_against_margin_and_argmax_agree_with_each_other(run):
    trace, _, _ = run
    target = trace.target(1)
    keep = random_masks(trace, target, 30, seed=5)
    plain = trace.evaluate(keep, target)
    flipped = plain.argmax[:, 0] != target.token_ids[0]
    assert flipped.any() and not flipped.all()
    np.testing.assert_array_equal(plain.margin[:, 0] < 0, flipped)
    other = int(plain.argmax[flipped][0, 0])
    result = trace.evaluate(keep, target, against=other)
    rows = plain.argmax[:, 0] == other
    np.testing.assert_allclose(result.against_log_prob[rows], plain.top_log_prob[rows, 0])
    assert plain.against_log_prob is None
    gap = result.token_log_probs[rows, 0] - result.against_log_prob[rows]
    np.testing.assert_allclose(gap, plain.margin[rows, 0], atol=1e-6)


def test_against_may_be_a_word():
    trace = LVLM(*tiny_llava(seed=4)).run(noise_image(), PROMPT, max_new_tokens=2)
    keep = np.ones((1, len(trace.layout)), dtype=bool)
    by_id = trace.evaluate(keep, 0, against=trace.model.tokenizer.convert_tokens_to_ids("red"))
    by_word = trace.evaluate(keep, 0, against="red")
    assert by_id.against_log_prob == by_word.against_log_prob
    with pytest.raises(ValueError, match="no token"):
        trace.evaluate(keep, 0, against="zebra")
    with pytest.raises(ValueError, match="outside the vocabulary"):
        trace.evaluate(keep, 0, against=10_000)


@pytest.mark.parametrize("name", ["mistral-window", "gemma2-softcap"])
def test_windowed_decoders_are_blocked_not_dropped(name):
    trace = LVLM(*tiny_llava(seed=1, text_config=decoder(name))).run(
        noise_image(), PROMPT, max_new_tokens=4
    )
    target = trace.target(2)
    keep = random_masks(trace, target, 6)
    result = trace.evaluate(keep, target)
    assert result.backend == "block"
    model, processor = tiny_llava(seed=1, text_config=decoder(name))
    model.set_attn_implementation("eager")
    embeds = merged_embeddings(model, processor, trace.image, trace.layout.token_ids.tolist())
    # The model's own masks of both kinds of layer, with the masked keys taken out by hand.
    window = model.config.text_config.sliding_window
    length = len(embeds)
    causal = np.tril(np.ones((length, length), dtype=bool))
    near = causal & ~np.tril(np.ones((length, length), dtype=bool), -window)
    for row, stays in enumerate(keep):
        keys = stays[None] | np.eye(length, dtype=bool)
        lowest = torch.finfo(torch.float32).min
        full, sliding = (
            torch.where(torch.tensor(m & keys), 0.0, lowest)[None, None] for m in (causal, near)
        )
        mask = (
            sliding
            if name.startswith("mistral")
            else {"full_attention": full, "sliding_attention": sliding}
        )
        with torch.no_grad():
            decoded = model.model.language_model(
                inputs_embeds=embeds[None], attention_mask=mask, use_cache=False
            ).last_hidden_state
            logits = model.lm_head(decoded)[0]
        expected = target_log_probs(logits, target, 0)
        np.testing.assert_allclose(result.token_log_probs[row], expected, atol=1e-4)


def test_masks_that_cannot_be_are_refused():
    trace = LVLM(*tiny_llava(seed=4)).run(noise_image(), PROMPT, max_new_tokens=4)
    target = trace.target(2)
    whole = np.ones((2, len(trace.layout)), dtype=bool)
    for position in (0, target.predictor, target.start, len(trace.layout) - 1):
        keep = whole.copy()
        keep[1, position] = False
        with pytest.raises(ValueError, match=rf"\[{position}\] cannot be masked"):
            trace.evaluate(keep, target)
    with pytest.raises(ValueError, match="boolean"):
        trace.evaluate(whole.astype(int), target)
    with pytest.raises(ValueError, match="boolean"):
        trace.evaluate(whole[:, 1:], target)
    with pytest.raises(ValueError, match="masking must be one of"):
        trace.evaluate(whole, target, masking="delete")
    with pytest.raises(ValueError, match="backend must be one of"):
        trace.evaluate(whole, target, backend="fast")
    with pytest.raises(ValueError, match="batch_size"):
        trace.evaluate(whole, target, batch_size=0)
    assert trace.evaluate(whole[:0], target).token_log_probs.shape == (0, 1)


def test_weights_that_are_not_finite_are_reported():
    model, processor = tiny_llava(seed=4)
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=4)
    target = trace.target(2)
    keep = random_masks(trace, target, 3)
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises(AttentionError, match="not a number"):
        trace.evaluate(keep, target)


def test_vision_is_encoded_once_per_trace():
    lvlm = LVLM(*tiny_llava(seed=4))
    calls = []
    lvlm.tower.register_forward_hook(lambda *_: calls.append(1))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
    after_run = len(calls)
    target = trace.target(2)
    trace.evaluate(random_masks(trace, target, 20), target)
    trace.attention()
    trace.backward(target)
    assert after_run == 2 and len(calls) == after_run  # once to generate, once for us


def test_every_candidate_may_be_masked_alone():
    trace = LVLM(*tiny_llava(seed=4)).run(noise_image(), PROMPT, max_new_tokens=4)
    target = trace.target(3)
    candidates = candidate_positions(trace, target)
    keep = np.ones((len(candidates), len(trace.layout)), dtype=bool)
    keep[np.arange(len(candidates)), candidates] = False
    dropped = trace.evaluate(keep, target, backend="drop")
    blocked = trace.evaluate(keep, target, backend="block")
    np.testing.assert_allclose(dropped.margin, blocked.margin, atol=1e-4)
    assert "generated" in {str(trace.layout.modality[p]) for p in candidates}
