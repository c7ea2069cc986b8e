"""Several images, several turns, no image; what is refused, and what an unknown family gets."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers

import causal_lvlm as cl
from causal_lvlm.cli.results import describe
from causal_lvlm.errors import ImageError, PromptError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM, Trace
from causal_lvlm.lvlm.families import FAMILIES, family_of
from causal_lvlm.lvlm.interventions import mask_pixels
from causal_lvlm.lvlm.ramp import cell_errors, geometry_error
from tests.lvlm.families.tiny import BUILDERS, NEWEST, is_old
from tests.lvlm.helpers import noise_image, random_masks
from tests.models import tiny_llava

PROMPT = "What is it?"
SEVERAL = (
    "llava paligemma paligemma2 llava_next llava_onevision qwen2_vl qwen2_5_vl qwen3_vl idefics3 "
    "smolvlm internvl gemma3 pixtral mistral3 aya_vision fast_vlm gemma4 mllama"
).split()
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize("name", SEVERAL)
def test_two_images_of_different_sizes(name):
    lvlm = LVLM(*BUILDERS[name]())
    images = [noise_image((100, 60), seed=1), noise_image((60, 90), seed=2)]
    trace = lvlm.run(images, PROMPT, max_new_tokens=3)
    assert trace.self_check.passed and len(trace.images) == 2
    if name != "mllama":
        assert {g.image for g in trace.layout.grids} == {0, 1}
        for grid in trace.layout.grids:
            assert grid.image_size == images[grid.image].size
            assert (grid.boxes[:, 2:].max(axis=0) <= np.array(grid.image_size) + 1e-9).all()
        first = max(g.positions.max() for g in trace.layout.grids if g.image == 0)
        assert first < min(g.positions.min() for g in trace.layout.grids if g.image == 1)
        # The ramp looks at both, and sees where either is not where the layout says.
        sizes = [image.size for image in images]
        checked = cell_errors(lvlm, trace.layout, sizes)
        assert {grid.image for _, grid in checked} == {0, 1}
        assert max(error for error, _ in checked) < 0.2
        for wrong in (0, 1):
            grids = [
                replace(g, boxes=g.boxes[::-1].copy()) if g.image == wrong else g
                for g in trace.layout.grids
            ]
            mirrored = replace(trace.layout, grids=tuple(grids))
            assert geometry_error(lvlm, mirrored, sizes) > 0.5
    target = trace.target(2)
    keep = random_masks(trace, target, 5)
    if trace.prepared.drop_is_exact:
        drop = trace.evaluate(keep, target, backend="drop").token_log_probs
        block = trace.evaluate(keep, target, backend="block").token_log_probs
        np.testing.assert_allclose(drop, block, atol=5e-5)
    # Each image changes the answer's probability, through its own tokens.
    swapped = lvlm.run(images[::-1], PROMPT, max_new_tokens=3)
    assert np.abs(swapped.log_probs - trace.log_probs).max() > 1e-4


def test_painting_the_second_image_leaves_the_first_alone():
    lvlm = LVLM(*BUILDERS["qwen2_vl"]())
    images = [noise_image((100, 60), seed=1), noise_image((60, 90), seed=2)]
    trace = lvlm.run(images, PROMPT, max_new_tokens=3)
    second = next(g for g in trace.layout.grids if g.image == 1)
    masked = mask_pixels(trace.prepared, second.positions[:1], "mean")
    assert np.array_equal(np.asarray(masked[0]), np.asarray(images[0]))
    assert not np.array_equal(np.asarray(masked[1]), np.asarray(images[1]))
    assert trace.prepared.embeds_of(masked).shape == trace.prepared.embeds.shape


def test_the_terminal_speaks_of_images_and_passes_remarks_on():
    lvlm = LVLM(*BUILDERS["gemma3"]())
    images = [noise_image((100, 60), seed=1), noise_image((60, 90), seed=2)]
    for given, heading in ((images, "Within the images:"), (images[:1], "Within the image:")):
        trace = lvlm.run(given, PROMPT, max_new_tokens=2)
        explanation = cl.explain(trace, 1, max_runs=20, n_random=1)
        assert f"  {heading}" in describe(explanation)
        assert "Note" not in describe(explanation)
        remark = trace.layer_remark(-1)
        last = describe(replace(explanation, layer_remark=remark)).splitlines()[-1]
        assert last == f"  Note: {remark}."


def test_images_and_turns_survive_saving(tmp_path):
    model, processor = tiny_llava(seed=3, tokenizer="byte")
    processor.chat_template = TEMPLATE
    lvlm = LVLM(model, processor)
    images = [noise_image((80, 120), seed=1), noise_image((60, 60), seed=2)]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the circle"}]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and now?"}]},
    ]
    trace = lvlm.run(images, messages, max_new_tokens=4)
    assert trace.prompt == (
        "user: <image>the circle\nassistant: red\nuser: <image>and now?\nassistant:"
    )
    own = [
        t for t, m in zip(trace.layout.tokens, trace.layout.modality, strict=True) if m == "prompt"
    ]
    assert "".join(own).replace(" ", "") == "thecircleandnow?"
    loaded = Trace.load(trace.save(tmp_path / "t.json"))
    assert [i.size for i in loaded.images] == [i.size for i in images]
    loaded.attach(lvlm)
    np.testing.assert_allclose(loaded.attention(-1), trace.attention(-1), atol=1e-6)


def test_the_number_of_placeholders_must_be_that_of_the_images():
    lvlm = LVLM(*tiny_llava(seed=3))
    image = noise_image()
    with pytest.raises(PromptError, match=r"2 image placeholders.*1 image"):
        lvlm.run(image, "<image> <image> what?")
    with pytest.raises(PromptError, match=r"1 image placeholders.*2 images"):
        lvlm.run([image, image], "<image> what?")
    trace = lvlm.run([image, image], "<image> and <image> what?", max_new_tokens=2)
    assert trace.parameters["prompt_source"] == "verbatim"
    assert [g.image for g in trace.layout.grids] == [0, 1]
    last = trace.layout.grids[1].positions[-1]
    assert trace.layout.label(int(last)) == "image1[3,3]"
    with pytest.raises(PromptError, match="hold 0 images and 1 were given"):
        lvlm.run(image, [{"role": "user", "content": [{"type": "text", "text": "what?"}]}])
    with pytest.raises(PromptError, match="need a chat template"):
        LVLM(*tiny_llava(chat_template=False)).run(image, [{"role": "user", "content": "what?"}])


def test_labels_name_the_tile():
    layout = LVLM(*BUILDERS["internvl"]()).run(noise_image((100, 60)), PROMPT).layout
    labels = [layout.label(int(g.positions[1])) for g in layout.grids]
    assert labels == ["image.0[0,1]", "image.1[0,1]", "image.2[0,1]"]


def test_no_image(tmp_path):
    lvlm = LVLM(*tiny_llava(seed=3))
    trace = lvlm.run(None, "what color is the circle ?", max_new_tokens=3)
    assert trace.image is None and trace.images == () and not trace.layout.grids
    assert "<image>" not in trace.prompt and trace.self_check.passed
    loaded = Trace.load(trace.save(tmp_path / "t.json"))
    assert loaded.image is None and loaded.attach(lvlm).n_layers == trace.n_layers
    text = LVLM(*BUILDERS["text_llama"]())
    with pytest.raises(ImageError, match="text model"):
        text.run(noise_image(), PROMPT)


def test_a_text_model_is_loaded_explained_and_saved(tmp_path):
    model, tokenizer = BUILDERS["text_llama"]()
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    lvlm = cl.load_model(tmp_path / "m")
    trace = lvlm.run(None, PROMPT, max_new_tokens=4)
    explanation = cl.explain(trace, target=1, max_runs=60, n_random=2)
    assert explanation.sets["text"].verified
    assert lvlm.describe()["vision_tower"] is None
    explanation.save(tmp_path / "why.json")
    assert np.isfinite(trace.backward(1).gradient_norm).all()


def test_a_template_of_the_tokenizer_serves_a_text_model():
    model, tokenizer = BUILDERS["text_llama"]()
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n"
        "{% endfor %}[assistant]"
    )
    lvlm = LVLM(model, tokenizer)
    trace = lvlm.run(None, PROMPT, max_new_tokens=2)
    assert trace.prompt == f"[user] {PROMPT}\n[assistant]"
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three?"},
    ]
    trace = lvlm.run(None, turns, max_new_tokens=2)
    own = [
        t for t, m in zip(trace.layout.tokens, trace.layout.modality, strict=True) if m == "prompt"
    ]
    assert "".join(own) == "onethree?"


@pytest.mark.parametrize(
    "video", ["clip.mp4", np.zeros((2, 8, 8, 3), np.uint8)], ids=["file", "4d"]
)
def test_videos_are_refused(video):
    lvlm = LVLM(*tiny_llava())
    with pytest.raises(ImageError, match="video"):
        lvlm.run(video, PROMPT)
    turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}]
    with pytest.raises(PromptError, match="video"):
        lvlm.run(None, turns)


def test_encoder_decoders_are_refused_by_name():
    for kind in ("Florence2Config", "VisionEncoderDecoderConfig", "T5Config", "UdopConfig"):
        made = SimpleNamespace(model_type=getattr(transformers, kind).model_type)
        with pytest.raises(
            UnsupportedModelError, match=r"it is an encoder-decoder model; .*models"
        ):
            family_of(made)
    with pytest.raises(UnsupportedModelError, match=r"'blip'.*attention interface"):
        family_of(transformers.BlipConfig())
    t5 = transformers.Blip2Config(text_config=transformers.T5Config().to_dict())
    with pytest.raises(UnsupportedModelError, match=r"'blip-2'.*encoder-decoder"):
        family_of(t5)
    opt = transformers.Blip2Config(text_config=transformers.OPTConfig().to_dict())
    assert family_of(opt).name == "BLIP-2"


def test_every_type_named_has_a_configuration():
    known = set(transformers.CONFIG_MAPPING)
    for family in FAMILIES:
        lacking = is_old() and family.oldest == NEWEST
        assert lacking or set(family.model_types) <= known
