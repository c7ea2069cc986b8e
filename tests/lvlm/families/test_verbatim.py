"""What a user wrote is what the model gets: verbatim prompts and rendered ones, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from causal_lvlm.errors import PromptError
from causal_lvlm.lvlm import LVLM, Trace
from causal_lvlm.lvlm.families import TEXT
from causal_lvlm.lvlm.prompts import Prompt, render_prompt
from tests.lvlm.families.test_families import case
from tests.lvlm.families.tiny import AVAILABLE, BUILDERS
from tests.lvlm.helpers import noise_image
from tests.models import tiny_llava

WORDS = "What is it?\n Say it."
# A template of its own for each family: its plain frame, with roles, a first token and an end.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>: "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}MARK{% else %}{{ p['text'] }}"
    "{% endif %}{% endfor %}{% endif %}</{{ m['role'] }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>: {% endif %}"
)


def asked(lvlm: LVLM, prompt: Any, n_images: int, **options: Any) -> Prompt:
    return render_prompt(
        lvlm.processor,
        prompt,
        placeholder=lvlm.placeholder,
        plain_frame=lvlm.family.plain_frame,
        n_images=n_images,
        in_text=not lvlm.family.prepends,
        around=lvlm.family.around,
        **options,
    )


@pytest.mark.parametrize("name", AVAILABLE)
def test_what_the_template_rendered_is_what_it_would_render(name, monkeypatch):
    lvlm = case(name)[0]
    n_images = 0 if lvlm.family is TEXT else 1
    before, after = lvlm.family.around
    mark = "" if lvlm.family.prepends else before + lvlm.placeholder + after
    template = TEMPLATE.replace("MARK", mark)
    if name.startswith("paligemma"):  # its processor writes the first token, behind the image
        template = template.removeprefix("{{ bos_token }}")
    # The template is the tokenizer's where the processor's class needs torchvision, or videos.
    theirs = lvlm.family is not TEXT and name not in ("pixtral", "mistral3", "smolvlm")
    monkeypatch.setattr(lvlm.processor if theirs else lvlm.tokenizer, "chat_template", template)
    images = [noise_image((100, 60), seed=2)][:n_images]
    first = asked(lvlm, WORDS, n_images)
    again = asked(lvlm, first.text, n_images)
    assert first.source == "chat_template" and again.source == "verbatim"
    assert again.text == first.text
    assert [first.text[slice(*span)] for span in first.words] == [WORDS]
    assert [again.text[slice(*span)] for span in again.words] == [WORDS]
    inputs = [
        lvlm.process(images, p.text, rendered=p.rendered).inputs["input_ids"]
        for p in (first, again)
    ]
    assert torch.equal(*inputs)
    ids = inputs[0][0].tolist()
    assert ids.count(lvlm.tokenizer.bos_token_id) == 1
    if lvlm.family is TEXT:  # the one answer to what a template's tokens are
        own = lvlm.tokenizer.apply_chat_template(
            [{"role": "user", "content": WORDS}], add_generation_prompt=True, return_dict=False
        )
        assert ids == list(own)


def test_a_text_model_gets_every_character():
    lvlm = case("text_llama")[0]
    for prompt in ("is it?\n", "\n is it ?  \n\n", "a", "x <image> y\t"):
        trace = lvlm.run(None, prompt, chat_template=False, max_new_tokens=1)
        assert trace.prompt == prompt and trace.parameters["prompt_source"] == "verbatim"
        n_prompt = trace.layout.n_prompt
        assert trace.layout.token_ids[:n_prompt].tolist() == lvlm.tokenizer(prompt)["input_ids"]
        assert trace.layout.modality[1:n_prompt].tolist() == ["prompt"] * (n_prompt - 1)
    with pytest.raises(PromptError, match="empty"):
        lvlm.run(None, "\n", chat_template=False)


def test_a_vision_language_model_gets_every_character():
    lvlm = LVLM(*tiny_llava(seed=9, tokenizer="byte"))
    image = noise_image()
    for prompt, images in (("is <image> it?\n", image), (" is it? \n", None)):
        trace = lvlm.run(images, prompt, chat_template=False, max_new_tokens=1)
        assert trace.prompt == prompt
        given = {"images": image} if images else {}
        own = lvlm.processor(text=prompt, return_tensors="np", **given)["input_ids"][0]
        assert trace.layout.token_ids[: trace.layout.n_prompt].tolist() == own.tolist()
    framed = lvlm.run(image, " is it? \n", chat_template=False, max_new_tokens=1)
    assert framed.prompt == "USER: <image>\n is it? \n ASSISTANT:"


def candidates(trace: Trace) -> str:
    """Return the tokens that are the user's words, as one text."""
    layout = trace.layout
    pairs = zip(layout.tokens, layout.modality, strict=True)
    return "".join(token for token, kind in pairs if kind == "prompt")


def test_only_the_users_words_of_a_rendered_prompt_are_candidates():
    model, tokenizer = BUILDERS["text_llama"]()
    tokenizer.chat_template = TEMPLATE
    lvlm = LVLM(model, tokenizer)
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three?"},
    ]
    for answer in (True, False):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
        for option in (None, True, False):
            trace = lvlm.run(None, text, chat_template=option, max_new_tokens=2)
            assert trace.prompt == text and candidates(trace) == "onethree?"
            assert (trace.layout.token_ids == tokenizer.bos_token_id).sum() == 1
    plain = lvlm.run(None, turns, max_new_tokens=2)
    assert plain.prompt == tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    assert candidates(plain) == "onethree?" and plain.self_check.passed


def test_one_prompt_at_a_time():
    lvlm = LVLM(*tiny_llava(seed=9))
    cases: tuple[tuple[Any, str], ...] = (
        (["what?", "where?"], "one prompt at a time: 2 strings"),
        ([{"role": "user"}], "'role' and 'content'"),
        ([{"role": "user", "content": None}], "a list of parts"),
        ([{"role": "user", "content": [{"type": "text"}]}], "holds its words as a string"),
        ([{"role": "user", "content": ["what?"]}], "a list of parts"),
        ([], "must end with the user's"),
    )
    for wrong, message in cases:
        with pytest.raises(PromptError, match=message):
            lvlm.run(noise_image(), wrong)
