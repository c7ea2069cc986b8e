"""transformers #37686: a rendered prompt, tokenized as usual, begins with two first tokens.

The template writes the first token and the tokenizer adds another; ``tokenize=True`` gives one.
Here a question, its messages and its rendered prompt are all the tokens of ``tokenize=True``.
"""

from __future__ import annotations

from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.tiny import BUILDERS

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)


def test_one_first_token_however_the_question_is_given():
    model, tokenizer = BUILDERS["text_gemma"]()
    tokenizer.chat_template = TEMPLATE
    lvlm = LVLM(model, tokenizer)
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 3?"}]}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    right = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    doubled = tokenizer(rendered)["input_ids"]
    assert doubled[:2] == [tokenizer.bos_token_id] * 2 and doubled[1:] == list(right)
    for prompt in ("What is 2 + 3?", messages, rendered):
        trace = lvlm.run(None, prompt, max_new_tokens=1)
        assert trace.layout.token_ids[: trace.layout.n_prompt].tolist() == list(right)
        text = [
            token
            for token, kind in zip(trace.layout.tokens, trace.layout.modality, strict=True)
            if kind == "prompt"
        ]
        assert "".join(text) == "What is 2 + 3?"
