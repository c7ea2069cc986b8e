"""A prompt that a chat template has rendered is recognised, whatever the template writes."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from causal_lvlm.errors import PromptError
from causal_lvlm.lvlm.prompts import Prompt, render_prompt
from causal_lvlm.lvlm.rendered import find_rendered
from tests.lvlm.families.tiny import byte_tokenizer

_CHATML_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set before = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set before = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first %}{{ before }}{% endif %}{{ m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA3 = (
    "{{ bos_token }}<|start|>system<|end|>\n\nToday is the 1st.\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% set messages = messages[1:] %}{% endif %}<|eot|>"
    "{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
_PLAIN = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n' }}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_MARKS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|start|>", "<|eot|>")
# Template, and the special tokens of its tokenizer beside <s> and </s>.
TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (_CHATML_TURNS, ("<|im_start|>", "<|im_end|>")),
    "chatml with a default": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n"
        "{% endif %}" + _CHATML_TURNS,
        ("<|im_start|>", "<|im_end|>"),
    ),
    "marks that are no special tokens": (_CHATML_TURNS, ()),
    "gemma": (_GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    "llama 2": (_LLAMA2, ()),
    "llama 3": (_LLAMA3, _MARKS),
    "a first line and words": (
        "A talk with a machine.\n\n"
        "{% for m in messages %}{{ {'user': 'USER', 'assistant': 'ASSISTANT', "
        "'system': 'NOTE'}[m['role']] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        (),
    ),
    "words": (_PLAIN, ()),
    "headings": (
        "{% for m in messages %}{{ '### ' + {'user': 'Instruction', 'assistant': 'Response', "
        "'system': 'System'}[m['role']] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}",
        (),
    ),
    "nothing ends a turn": (
        "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        _MARKS,
    ),
    "a bare system prompt": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
        "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}{% endif %}"
        "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        _MARKS,
    ),
    "a line break ends a turn": (
        "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n"
        "{% if m['role'] == 'assistant' %}{{ eos_token + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        _MARKS,
    ),
    "thinks": (
        _CHATML_TURNS.replace(
            "assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n{% endif %}"
        ),
        ("<|im_start|>", "<|im_end|>"),
    ),
}
ASKED = ("what is it?", "and why, user?\nSay it in one line.")
ANSWERED = "A red cup."


def as_text(tokenizer: Any, prompt: str) -> Prompt:
    """Return the prompt as a text model sees it."""
    return render_prompt(tokenizer, prompt, placeholder="", plain_frame="{prompt}", n_images=0)


def conversation(n_turns: int, system: bool) -> list[dict[str, Any]]:
    """Return messages of so many questions, an answer between them."""
    said = [{"role": "user", "content": ASKED[i]} for i in range(n_turns)]
    turns = [said[0]]
    for question in said[1:]:
        turns += [{"role": "assistant", "content": ANSWERED}, question]
    return [{"role": "system", "content": "You see well."}] * system + turns


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_words_of_every_turn_are_found(name):
    template, specials = TEMPLATES[name]
    tokenizer = byte_tokenizer(*specials)
    tokenizer.chat_template = template
    seen = 0
    for n_turns, system, answer in product((1, 2), (False, True), (False, True)):
        if system and name == "gemma":
            continue  # refuses a system prompt
        if (name, n_turns, system, answer) == ("words", 1, True, False):
            continue  # nothing marks either end of it: it could be a question as well
        text = tokenizer.apply_chat_template(
            conversation(n_turns, system), tokenize=False, add_generation_prompt=answer
        )
        # As it is; with a first token more; with the beginning of an answer.
        for given in (text, "<s>" + text, text + "It is" * answer):
            found = find_rendered(tokenizer, given, "")
            assert found is not None, given
            assert [given[slice(*span)] for span in found.words] == list(ASKED[:n_turns]), given
            prompt = as_text(tokenizer, given)
            assert prompt.text == given and prompt.source == "verbatim" and prompt.rendered
            seen += 1
    assert seen >= 12  # not all were left out


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("question", ["what is it?", " Who is USER 7? ASSISTANT?\n", "A talk"])
def test_a_question_is_not_taken_for_a_rendered_prompt(name, question):
    template, specials = TEMPLATES[name]
    tokenizer = byte_tokenizer(*specials)
    tokenizer.chat_template = template
    assert find_rendered(tokenizer, question, "") is None
    prompt = as_text(tokenizer, question)
    # What is rendered is what the template makes of the question, to the last character.
    own = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.text == own and prompt.source == "chat_template"
    ((start, stop),) = prompt.words
    assert own[start:stop] in (question, question.strip())


def test_a_system_prompt_of_another_day_and_tools_are_frame():
    template, specials = TEMPLATES["llama 3"]
    tokenizer = byte_tokenizer(*specials)
    tokenizer.chat_template = template
    given = (
        "<s><|start|>system<|end|>\n\nToday is the 2nd. Tools: user<|eot|>"
        "<|start|>user<|end|>\n\nhow warm?<|eot|><|start|>assistant<|end|>\n\ncall()<|eot|>"
        "<|start|>tool<|end|>\n\n20<|eot|><|start|>assistant<|end|>\n\n"
    )
    found = find_rendered(tokenizer, given, "")
    assert found is not None and [given[slice(*s)] for s in found.words] == ["how warm?"]


def test_a_template_that_writes_the_words_alone_recognises_nothing():
    tokenizer = byte_tokenizer()
    for template in ("{{ messages[-1]['content'] }}", "{{ raise_exception('never') }}", "fixed"):
        tokenizer.chat_template = template
        assert find_rendered(tokenizer, "what is it?", "") is None
    tokenizer.chat_template = None
    assert find_rendered(tokenizer, "<|im_start|>user\nwhat?<|im_end|>", "") is None


# -- with images ----------------------------------------------------------------------------------

_PARTS = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}MARK{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
)
SEEING: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # Template, placeholder, special tokens.
    "chatml": (
        _CHATML_TURNS.replace(
            "{{ m['content'] }}", _PARTS.replace("MARK", "<|vision_start|><|pad|><|vision_end|>")
        ),
        "<|pad|>",
        ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|pad|>"),
    ),
    "images first": (
        "{% for m in messages %}{{ m['role'] | upper + ': ' }}"
        "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>\n' }}{% endif %}"
        "{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] + ' ' }}"
        "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        "<image>",
        ("<image>",),
    ),
    "a colon that goes with images": (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
        "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        + _PARTS.replace("MARK", "<image>")
        + "<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        "<image>",
        ("<|im_start|>", "<end_of_utterance>", "<image>"),
    ),
    "brackets": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]"
        + _PARTS.replace("MARK", "[IMG]")
        + "[/INST]{% else %}"
        + _PARTS
        + "{{ eos_token }}{% endif %}{% endfor %}",
        "[IMG]",
        ("[INST]", "[/INST]", "[IMG]"),
    ),
    "words": (
        "{% for m in messages %}{{ m['role'] }}: "
        + _PARTS.replace("MARK", "<image>")
        + "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        "<image>",
        ("<image>",),
    ),
}


@pytest.mark.parametrize("name", SEEING)
def test_images_are_no_words(name):
    template, placeholder, specials = SEEING[name]
    tokenizer = byte_tokenizer(*specials)
    tokenizer.chat_template = template
    image, words = {"type": "image"}, [{"type": "text", "text": text} for text in ASKED]
    layouts = [[[image, words[0]]], [[words[0], image]], [[image, words[0], image, words[1]]]]
    layouts += [[[image, words[0]], [words[1]]], [[words[0]], [image, image, words[1]]]]
    for contents, answer in product(layouts, (False, True)):
        turns: list[dict[str, Any]] = []
        for content in contents:
            if turns:
                reply = [{"type": "text", "text": ANSWERED}]
                turns.append({"role": "assistant", "content": reply})
            turns.append({"role": "user", "content": content})
        given = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
        n_images = sum(part is image for content in contents for part in content)
        prompt = render_prompt(
            tokenizer, given, placeholder=placeholder, plain_frame="{prompt}", n_images=n_images
        )
        assert prompt.text == given and prompt.source == "verbatim"
        said = " ".join(given[slice(*span)] for span in prompt.words)
        asked = [p["text"] for content in contents for p in content if p["type"] == "text"]
        assert said == " ".join(asked), given
        with pytest.raises(PromptError, match=f"{n_images} image placeholders"):
            render_prompt(
                tokenizer, given, placeholder=placeholder, plain_frame="{prompt}", n_images=3
            )


def test_a_rendered_prompt_without_a_place_for_the_image_is_refused():
    template, placeholder, specials = SEEING["chatml"]
    tokenizer = byte_tokenizer(*specials)
    tokenizer.chat_template = template
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": ASKED[0]}], tokenize=False, add_generation_prompt=True
    )
    with pytest.raises(PromptError, match=r"0 image .* already rendered .* leave 1"):
        render_prompt(tokenizer, given, placeholder=placeholder, plain_frame="{prompt}")
    # In a plain template two words are no proof: they are the question's.
    tokenizer.chat_template = SEEING["words"][0]
    prompt = render_prompt(tokenizer, "user: hm", placeholder="<image>", plain_frame="{prompt}")
    assert prompt.text == "user: <image>user: hm\nassistant:"
