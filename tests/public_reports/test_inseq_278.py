"""inseq #278: a prompt made by `apply_chat_template` could not be attributed.

It begins with a special token, the text decoded for comparison did not, and the tool refused it.
Here such a prompt is used as it stands, and what the user wrote in it is what is explained.
"""

from __future__ import annotations

import causal_lvlm as cl
from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.tiny import BUILDERS

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def test_a_prompt_that_begins_with_a_special_token_is_explained():
    model, tokenizer = BUILDERS["text_mistral"]()
    tokenizer.chat_template = TEMPLATE
    question = "Summarise: it rained."
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    trace = LVLM(model, tokenizer).run(None, prompt, max_new_tokens=3)
    assert trace.prompt == prompt == f"<s>[INST] {question} [/INST]"
    layout = trace.layout
    words = [t for t, m in zip(layout.tokens, layout.modality, strict=True) if m == "prompt"]
    assert "".join(words) == question
    assert cl.explain(trace, 1, max_runs=12, n_random=1).model_runs > 0
