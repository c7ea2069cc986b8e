"""Several images: the same inputs as the processor's own chat-template path, or a refusal.

The reference is ``processor.apply_chat_template(..., tokenize=True, return_dict=True)``, which
loads the images of the messages itself, hands them over in a way of its own, and tokenizes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from causal_lvlm.errors import ImageError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.prompts import render_prompt
from tests.lvlm.families.test_families import IMAGE_TEXT, PROMPT, case
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image

SIZES = [(100, 60), (60, 90), (48, 48)]
# Stand-ins for processors whose class needs torchvision have no chat-template path of their own.
OWN_PROCESSOR = [name for name in IMAGE_TEXT if name not in ("pixtral", "mistral3")]
ONE_IMAGE = [name for name in IMAGE_TEXT if name in ("blip2", "instructblip")]


def template_of(lvlm: LVLM) -> str:
    """Return a chat template that writes an image as the family's frame does."""
    before, after = lvlm.family.around
    mark = "" if lvlm.family.prepends else before + lvlm.placeholder + after
    return (
        "{% for m in messages %}User: {% for p in m['content'] %}"
        f"{{% if p['type'] == 'image' %}}{mark}{{% else %}}{{{{ p['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endfor %}\nAnswer:"
    )


@pytest.mark.parametrize("name", OWN_PROCESSOR)
def test_inputs_are_those_of_the_processors_own_template_path(name, monkeypatch):
    lvlm = case(name)[0]
    processor = lvlm.processor
    template = template_of(lvlm)
    monkeypatch.setattr(processor, "chat_template", template)
    if name == "smolvlm":  # its template path reads defaults for videos, given or not
        frames = SimpleNamespace(num_frames=1, fps=1, size={}, max_image_size={})
        monkeypatch.setattr(processor, "video_processor", frames)
    for n_images in (1,) if name in ONE_IMAGE else (1, 2, 3):
        images = [noise_image(size, seed=i) for i, size in enumerate(SIZES[:n_images])]
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": PROMPT}]}]
        own = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt"
        )
        rendered = render_prompt(
            processor,
            PROMPT,
            placeholder=lvlm.placeholder,
            plain_frame=lvlm.family.plain_frame,
            n_images=n_images,
            in_text=not lvlm.family.prepends,
            around=lvlm.family.around,
        )
        assert rendered.source == "chat_template"
        ours = lvlm.process(images, rendered.text).inputs
        assert set(ours) == set(own) - {"labels"}  # PaliGemma makes them for training
        for key, value in ours.items():
            torch.testing.assert_close(value, torch.as_tensor(own[key]), rtol=0, atol=0)


def test_onevision_shows_two_images_by_one_tile_each():
    lvlm = case("llava_onevision")[0]
    images = [noise_image(size) for size in SIZES[:2]]
    trace = lvlm.run(images, PROMPT, max_new_tokens=2)
    assert int((trace.layout.token_ids == lvlm.image_token_id).sum()) == 2 * (16 + 1)
    assert [(g.image, g.rows, g.cols) for g in trace.layout.grids] == [(0, 4, 4), (1, 4, 4)]
    assert trace.self_check.passed


@pytest.mark.parametrize("name", ONE_IMAGE)
def test_a_second_image_is_never_ignored(name):
    images = [noise_image(size) for size in SIZES[:2]]
    with pytest.raises(ImageError, match="takes one image for each prompt and 2 were given"):
        LVLM(*BUILDERS[name]()).run(images, PROMPT, max_new_tokens=2)


@pytest.mark.parametrize("name", [n for n in IMAGE_TEXT if n not in ONE_IMAGE])
def test_every_image_of_two_reaches_the_model(name):
    lvlm = case(name)[0]
    images = [noise_image(size, seed=i) for i, size in enumerate(SIZES[:2])]
    trace = lvlm.run(images, PROMPT, max_new_tokens=2)
    assert trace.self_check.passed
    for number in (0, 1):
        other = list(images)
        other[number] = noise_image(SIZES[number], seed=9)
        inputs = lvlm.process(other, trace.prompt).inputs
        with lvlm.session(), torch.no_grad():
            embeds, context = lvlm.embed(inputs, trace.prepared.token_ids)
        if name == "mllama":  # nothing of an image stands in the sequence
            embeds = context.cross["cross_attention_states"]
            before = trace.prepared.context.cross["cross_attention_states"]
        else:
            before = trace.prepared.embeds
        assert (embeds != before).any()
