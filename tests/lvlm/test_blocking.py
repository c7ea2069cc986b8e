"""Blocked positions: nothing computed elsewhere depends on them, in any verb; and `Trace.on`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causal_lvlm.errors import DetachedTraceError, SelfCheckError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM, Trace, load_model
from causal_lvlm.tiny import sample_inputs, weights_path
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import candidate_positions, noise_image, random_masks
from tests.lvlm.plain import PROMPT, Plain, case, hide, target_log_probs
from tests.models import tiny_llava

FAMILIES = ("llava", "qwen2_vl", "gemma3", "aya_vision", "text_gemma2", "mllama")
DEPENDING = ("llava", "gemma3", "mllama")
EMBEDDED = pytest.param(
    "embedded",
    marks=pytest.mark.skipif(
        not (weights_path() / "model.safetensors").is_file(), reason="no embedded weights here"
    ),
)


def trace_of(name):
    """Return the trace of a family, or of the embedded model."""
    if name != "embedded":
        return case(name)[1]
    sample = sample_inputs()[0]
    return load_model().run(sample.image_path, sample.prompt)


def some_positions(trace, target):
    """Return a third of what could be masked, as positions to block."""
    candidates = candidate_positions(trace, target)
    chosen = np.random.default_rng(1).choice(candidates, max(2, len(candidates) // 3), False)
    return np.sort(chosen)


def other_contents(trace, positions):
    """Return the same blocked trace with wild embeddings at some positions."""
    prepared = trace.prepared
    changed = prepared.embeds.clone()
    noise = torch.randn(changed.shape, generator=torch.Generator().manual_seed(0))
    changed[:, positions] += 3 * changed.std() * noise[:, positions]
    fresh = type(prepared)(
        prepared.lvlm, prepared.images, prepared.layout, prepared.prompt, prepared.inputs,
        prepared.hidden, (changed, prepared.context),
    )  # fmt: skip
    return Trace(trace.record, fresh)


def verbs(trace, target, free, keep):
    """Return what every verb says about rows that are not blocked, by name."""
    rows = trace.embeddings()[None]
    backward = trace.backward(target, score="log_prob")
    heads = np.zeros((2, trace.n_layers, trace.attention(0).shape[1]), dtype=bool)
    heads[1, 0] = True
    mask = keep[-1]
    return {
        "attention": trace.attention(range(trace.n_layers))[:, :, free],
        "iter": np.stack([a for _, a in trace.iter_attention()])[:, :, free],
        "outputs": trace.head_outputs(0)[:, free],
        "values": trace.head_values(-1)[:, free],
        "products": np.stack([g.attention * g.gradient for g in backward.language()])[:, :, free],
        "norm": backward.gradient_norm,
        "auto": trace.evaluate(keep, target).margin,
        "block": trace.evaluate(keep, target, backend="block").margin,
        "edges": trace.evaluate(keep, target, masking="edges").margin,
        "neutral": trace.evaluate(keep, target, masking="neutral").margin,
        "hidden": trace.hidden_states(-1)[free],
        "lens": trace.lens(free, trace.layout.token_ids[-3:], 0),
        "features": trace.feature_gradient(target, 0)[1],
        "scaled": trace.scaled_attention_gradient(target, 0, [0.5])[:, free][:, :, free],
        "rows": trace.evaluate_embeddings(rows, target).margin,
        "gradient": trace.embedding_gradient(rows, target)[1],
        "ablated": trace.evaluate_heads(heads, target).margin,
        "corrupt": trace.evaluate_heads(heads, target, source="corrupt", keep=mask).margin,
        "restored": trace.evaluate_heads(heads, target, base="corrupt", keep=mask).margin,
    }


@pytest.mark.parametrize("name", [EMBEDDED, *FAMILIES])
def test_no_verb_depends_on_what_stands_at_blocked_positions(name):
    whole = trace_of(name)
    target = whole.target(0 if name == "embedded" else 3)
    positions = some_positions(whole, target)
    free = np.setdiff1d(np.arange(len(whole.layout)), positions)
    trace = whole.blocked(positions)
    keep = random_masks(trace, target, 4, seed=5)
    found = verbs(trace, target, free, keep)
    changed = verbs(other_contents(trace, positions), target, free, keep)
    for verb, expected in found.items():
        np.testing.assert_allclose(changed[verb], expected, atol=1e-6, rtol=1e-6, err_msg=verb)
    if name in DEPENDING:  # without the block each of them does depend on it
        open_ = verbs(other_contents(whole, positions), target, free, keep)
        plain = verbs(whole, target, free, keep)
        for verb in found:
            assert np.abs(open_[verb] - plain[verb]).max() > 1e-7, verb
    # Nothing at all is left: not little, but zero.
    assert not found["attention"][..., positions].any()
    assert not found["iter"][..., positions].any()
    assert not found["norm"][positions].any() and found["norm"].any()
    assert not found["gradient"][0, positions].any() and found["gradient"].any()
    assert not found["features"][positions].any() and found["features"].any()
    assert not found["products"][..., positions].any() and found["products"].any()
    weights = trace.attention(range(trace.n_layers))
    own = weights[:, :, positions, positions]  # a blocked position still sees itself
    assert (own > 0).any()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "text_gemma2"])
def test_a_blocked_trace_says_what_the_model_says_under_the_mask_by_hand(name):
    _, trace = case(name)
    target = trace.target(3)
    positions = some_positions(trace, target)
    hidden = np.zeros(len(trace.layout), dtype=bool)
    hidden[positions] = True
    plain = Plain(name, trace)
    with plain.arguments(hide(hidden, len(hidden))), torch.no_grad():
        output = plain(output_attentions=True)
    expected = np.stack([a[0].numpy() for a in output.attentions])
    blocked = trace.blocked(positions)
    np.testing.assert_allclose(blocked.attention(range(len(expected))), expected, atol=1e-4)
    everything = np.ones((1, len(hidden)), dtype=bool)
    found = blocked.evaluate(everything, target).token_log_probs[0]
    np.testing.assert_allclose(found, target_log_probs(output.logits[0], target), atol=2e-4)
    assert abs(found[0] - trace.log_probs[3]) > 1e-4
    # Blocking is masking: without the block, hidden in every layer by a mask of keys.
    masked = trace.evaluate(~hidden[None], target, backend="block").token_log_probs[0]
    np.testing.assert_allclose(found, masked, atol=1e-4)


@pytest.mark.parametrize("backend", ["drop", "block"])
@pytest.mark.parametrize("name", ["llava", "gemma3", "text_gemma2"])
def test_masking_a_blocked_token_changes_nothing_and_prefixes_are_made_under_the_mask(
    name, backend, monkeypatch
):
    _, whole = case(name)
    target = whole.target(3)
    positions = some_positions(whole, target)
    trace = whole.blocked(positions)
    keep = random_masks(trace, target, 6, seed=7)
    more = keep.copy()
    more[:, positions] = False
    with_prefix = trace.evaluate(keep, target, backend=backend).token_log_probs
    np.testing.assert_allclose(
        trace.evaluate(more, target, backend=backend).token_log_probs, with_prefix, atol=5e-5
    )
    monkeypatch.setattr(type(trace.prepared), "can_reuse_prefix", False)
    alone = trace.evaluate(keep, target, backend=backend).token_log_probs
    np.testing.assert_allclose(with_prefix, alone, atol=5e-5)
    monkeypatch.undo()
    late = np.ones((2, len(whole.layout)), dtype=bool)
    late[1, max(candidate_positions(whole, target))] = False
    assert whole.prepared.can_reuse_prefix == trace.prepared.can_reuse_prefix
    found = trace.evaluate(late, target, backend=backend).token_log_probs
    safe = trace.evaluate(late, target, backend="block").token_log_probs
    np.testing.assert_allclose(found, safe, atol=5e-5)


def test_the_original_stays_open_blocks_add_up_and_are_recorded(tmp_path):
    lvlm = LVLM(*tiny_llava(seed=10))
    trace = lvlm.run(noise_image(), "What color is the circle?", max_new_tokens=4)
    before = trace.attention(0)
    image = trace.layout.positions("image")
    once = trace.blocked(image[:2])
    twice = once.blocked([int(image[5])])
    np.testing.assert_array_equal(trace.attention(0), before)
    assert twice.parameters["blocked"] == [*image[:2].tolist(), int(image[5])]
    assert "blocked" not in trace.parameters
    last = len(trace.layout) - 1
    assert not twice.attention(0)[..., last, image[[0, 1, 5]]].any()
    assert once.attention(0)[..., last, image[5]].any()
    loaded = Trace.load(twice.save(tmp_path / "trace.json"))
    with pytest.raises(DetachedTraceError):
        loaded.blocked([1])
    loaded.attach(lvlm)
    np.testing.assert_allclose(loaded.attention(0), twice.attention(0), atol=1e-6)
    with pytest.raises(ValueError, match="cannot be blocked"):
        trace.blocked([len(trace.layout)])


def test_layers_without_attention_are_refused(monkeypatch):
    _, trace = case("llava")
    monkeypatch.setattr(LVLM, "only_drop", True)
    with pytest.raises(UnsupportedModelError, match="without attention"):
        trace.blocked([3])


# -- another model --------------------------------------------------------------------------------


def test_the_same_sequence_asked_of_another_model():
    _, trace = case("llava")
    target = trace.target(2)
    keep = random_masks(trace, target, 4)
    same = trace.on(LVLM(*BUILDERS["llava"]()))
    assert same.self_check.passed
    np.testing.assert_allclose(
        same.evaluate(keep, target).margin, trace.evaluate(keep, target).margin, atol=1e-5
    )
    other_model = LVLM(*tiny_llava(seed=2, tokenizer="byte", chat_template=False))
    other_model.model_id = "another"
    other = trace.on(other_model)
    assert not other.self_check.passed and other.model_id == "another"
    assert other.layout is trace.layout
    asked = other_model.run(trace.image, PROMPT, max_new_tokens=1)
    np.testing.assert_allclose(
        other.embeddings()[: trace.layout.n_prompt],
        asked.embeddings()[: trace.layout.n_prompt],
        atol=1e-5,
    )
    with pytest.raises(SelfCheckError, match="does not reproduce"):
        trace.on(other_model, check=True)
    blocked = trace.blocked([4]).on(other_model)
    assert not blocked.attention(0)[:, :, 5:, 4].any()
    with pytest.raises(UnsupportedModelError, match=r"cannot be put to|another vocabulary"):
        trace.on(case("gemma3")[0])
