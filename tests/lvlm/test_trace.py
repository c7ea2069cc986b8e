"""Generation, self-check, saving, loading and attaching."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from causal_lvlm.errors import (
    DetachedTraceError,
    EmptyAnswerError,
    OutputError,
    SelfCheckError,
    TargetError,
)
from causal_lvlm.lvlm import LVLM, Trace
from causal_lvlm.protocols import ModelLike, TraceLike
from causal_lvlm.results import Rules
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


@pytest.fixture(scope="module")
def lvlm():
    """Return a small model."""
    return LVLM(*tiny_llava(seed=10))


@pytest.fixture(scope="module")
def trace(lvlm):
    """Return a run of it."""
    return lvlm.run(noise_image(), PROMPT, max_new_tokens=6)


def prefer(model, token_id, bias):
    """Add to the logit of one token; returns the hook's handle."""

    def add(module, inputs, output):
        output = output.clone()
        output[..., token_id] += bias
        return output

    return model.lm_head.register_forward_hook(add)


@pytest.mark.parametrize(
    "options",
    [dict(), dict(tokenizer="byte", kv_heads=2), dict(tower="siglip", vision_feature_layer=-1)],
    ids=["word", "byte", "siglip"],
)
def test_answer_equals_plain_generate_and_log_probs_the_teacher_forced_pass(options):
    lvlm = LVLM(*tiny_llava(seed=11, **options))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=8)
    model, processor = tiny_llava(seed=11, **options)
    inputs = processor(
        images=noise_image(), text=f"USER: <image>\n{PROMPT} ASSISTANT:", return_tensors="pt"
    )
    with torch.no_grad():
        sequence = model.generate(**inputs, do_sample=False, max_new_tokens=8)
        np.testing.assert_array_equal(trace.layout.token_ids, sequence[0])
        logits = model(input_ids=sequence, pixel_values=inputs["pixel_values"]).logits[0]
    n_prompt = inputs["input_ids"].shape[1]
    assert trace.layout.n_prompt == n_prompt and len(trace.layout) == n_prompt + 8
    log_probs = logits.double().log_softmax(-1)
    expected = [float(log_probs[p - 1, sequence[0, p]]) for p in range(n_prompt, n_prompt + 8)]
    np.testing.assert_allclose(trace.log_probs, expected, atol=1e-4)
    check = trace.self_check
    assert check.passed and check.argmax_agreement == 1.0
    assert check.max_log_prob_difference < 1e-4
    text = processor.tokenizer.decode(sequence[0, n_prompt:], skip_special_tokens=True)
    assert trace.answer == text.strip()


def test_answer_depends_on_the_image(lvlm, trace):
    answers = {lvlm.run(noise_image(seed=s), PROMPT, max_new_tokens=6).answer for s in range(6)}
    assert len(answers) > 1


def test_penalties_of_the_checkpoint_do_not_change_greedy_decoding(trace):
    model, processor = tiny_llava(seed=10)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.num_beams = 3
    again = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=6)
    assert again.layout.tokens == trace.layout.tokens and again.self_check.passed


def test_end_of_sequence_stops_and_is_no_answer(trace):
    model, processor = tiny_llava(seed=10)
    # As likely as it must be to be said somewhere, but not at once.
    for bias in np.arange(0.5, 8.0, 0.25):
        handle = prefer(model, 3, bias)
        try:
            ended = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=6)
        except EmptyAnswerError:
            pytest.skip("no bias ends this answer after its first token")
        finally:
            handle.remove()
        if ended.parameters["finished"]:
            break
    assert ended.layout.tokens[-1] == "</s>" and ended.layout.modality[-1] == "special"
    assert "</s>" not in ended.answer
    assert len(ended.log_probs) == len(ended.layout) - ended.layout.n_prompt < 6
    assert not trace.parameters["finished"]


def test_a_model_that_says_nothing_is_reported():
    model, processor = tiny_llava(seed=10)
    prefer(model, 3, 100.0)
    with pytest.raises(EmptyAnswerError, match="generated nothing"):
        LVLM(model, processor).run(noise_image(), PROMPT)


def test_self_check_notices_a_difference():
    model, processor = tiny_llava(seed=10)
    lvlm = LVLM(model, processor)
    original = lvlm.logits
    lvlm.logits = lambda *a, **k: original(*a, **k) * 1.1  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="self-check"):
        trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    assert not trace.self_check.passed
    with pytest.raises(SelfCheckError, match="not to be trusted"):
        lvlm.run(noise_image(), PROMPT, max_new_tokens=3, strict=True)


def test_save_load_attach(lvlm, trace, tmp_path):
    path = trace.save(tmp_path / "trace.json")
    loaded = Trace.load(path)
    assert loaded.to_dict() == trace.to_dict()
    assert loaded.layout.tokens == trace.layout.tokens and loaded.answer == trace.answer
    np.testing.assert_array_equal(np.asarray(loaded.image), np.asarray(trace.image))
    np.testing.assert_array_equal(loaded.log_probs, trace.log_probs)
    np.testing.assert_array_equal(loaded.layout.grids[0].boxes, trace.layout.grids[0].boxes)
    with pytest.raises(ValueError, match="read-only"):
        loaded.log_probs[0] = 0
    target = loaded.target(1)
    keep = random_masks(trace, target, 6)
    rows, heads = np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), bool)
    for verb in (
        lambda: loaded.attention(),
        lambda: loaded.iter_attention(),
        lambda: loaded.head_outputs(),
        lambda: loaded.head_values(),
        lambda: loaded.image_attention(),
        lambda: loaded.backward(target),
        lambda: loaded.evaluate(keep, target),
        lambda: loaded.evaluate_heads(heads, target),
        lambda: loaded.embeddings(),
        lambda: loaded.token_embeddings([5]),
        lambda: loaded.baseline_embeddings(),
        lambda: loaded.evaluate_embeddings(rows, target),
        lambda: loaded.embedding_gradient(rows, target),
        lambda: loaded.hidden_states(),
        lambda: loaded.lens([0], [5]),
        lambda: loaded.feature_gradient(target),
        lambda: loaded.scaled_attention_gradient(target, 0, [1.0]),
        lambda: loaded.propagate(target, Rules()),
        lambda: loaded.blocked([3]),
        lambda: loaded.layer_remark(0),
        lambda: loaded.token_id("red"),
        lambda: loaded.token_text(5),
        lambda: loaded.backend_checks,
        lambda: loaded.vision_positions,
        lambda: loaded.n_layers,
        lambda: loaded.global_layer,
        lambda: loaded.attention_kinds,
        lambda: loaded.model,
    ):
        with pytest.raises(DetachedTraceError, match="attach"):
            verb()
    assert loaded.attach(lvlm) is loaded
    np.testing.assert_allclose(loaded.attention(), trace.attention(), atol=1e-6)
    np.testing.assert_allclose(
        loaded.evaluate(keep, target).margin, trace.evaluate(keep, target).margin, atol=1e-5
    )


def test_attaching_another_model_is_refused(trace, tmp_path):
    loaded = Trace.load(trace.save(tmp_path / "trace.json"))
    for other in (
        tiny_llava(seed=12),
        tiny_llava(seed=10, tokenizer="byte"),
        tiny_llava(seed=10, image_size=96),
    ):
        with pytest.raises(SelfCheckError, match="attach the model it was made with"):
            loaded.attach(LVLM(*other))
    with pytest.raises(DetachedTraceError):
        loaded.attention()


def test_damaged_files_are_reported(trace, tmp_path):
    with pytest.raises(OutputError, match="cannot read"):
        Trace.load(tmp_path / "nothing.json")
    path = trace.save(tmp_path / "trace.json")
    value = json.loads(path.read_text())
    del value["tokens"]
    path.write_text(json.dumps(value))
    with pytest.raises(OutputError, match="damaged"):
        Trace.load(path)
    path.write_text('{"kind": "explanation"}')
    with pytest.raises(OutputError, match="explanation"):
        Trace.load(path)


def test_targets_that_are_not_there_say_what_is(trace):
    with pytest.raises(TargetError, match="is not in the answer"):
        trace.evaluate(np.ones((1, len(trace.layout)), bool), "zebra")
    with pytest.raises(TargetError, match="out of range"):
        trace.backward(6)


def test_what_is_recorded(trace):
    assert trace.model_id == "in memory" and trace.revision is None
    assert {"python", "torch", "transformers"} <= set(trace.versions)
    assert trace.parameters["max_new_tokens"] == 6
    assert trace.parameters["dtype"] == "float32"
    assert trace.token_text(trace.layout.token_ids[-1]) == trace.layout.tokens[-1]


def test_a_model_that_says_the_image_token_is_still_explained():
    model, processor = tiny_llava(seed=10)
    for bias in np.arange(2.0, 20.0, 1.0):
        handle = prefer(model, processor.image_token_id, bias)
        trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=4)
        handle.remove()
        if processor.image_token_id in trace.layout.token_ids[trace.layout.n_prompt :]:
            break
    assert processor.image_token_id in trace.layout.token_ids[trace.layout.n_prompt :]
    assert len(trace.layout.positions("image")) == 16 and trace.self_check.passed


def _as_asked(trace: Trace, lvlm: LVLM) -> tuple[TraceLike, ModelLike]:
    """Let mypy prove that a trace and its model are what the other rooms ask for."""
    return trace, lvlm
