"""The words of the tiny model, and its tokenizer.

One token a word: the text is put in lower case and split at white space and punctuation, so that
``"Circle?"`` and ``"circle ?"`` are the same two tokens.
"""

from __future__ import annotations

import re
from typing import Any

from causal_lvlm.tiny.scenes import COLOURS, NUMBERS, SHAPES, plural

__all__ = [
    "BOS",
    "CHAT_TEMPLATE",
    "EOS",
    "IMAGE",
    "PAD",
    "PROMPT_FORM",
    "SPECIAL",
    "UNKNOWN",
    "WORDS",
    "build_tokenizer",
    "encode_words",
]

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, IMAGE)
_FUNCTION_WORDS = (
    *("user", "assistant", ":", "?", ".", ",", "a", "an", "and", "the", "is", "are", "there"),
    *("what", "color", "shape", "how", "many", "describe", "image", "yes", "no"),
)
WORDS = (
    *SPECIAL,
    *_FUNCTION_WORDS,
    *SHAPES,
    *(plural(shape) for shape in SHAPES),
    *COLOURS,
    "silver",
    "small",
    "large",
    *NUMBERS,
)
INDEX = {word: index for index, word in enumerate(WORDS)}
PROMPT_FORM = "USER: <image>\n{question} ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}"
    "{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
_TOKEN = re.compile(r"\w+|[^\w\s]")


def encode_words(text: str) -> list[int]:
    """Token numbers of plain text (no special tokens), as the tokenizer gives them, but faster.

    Parameters
    ----------
    text : str
        Words of the tiny world; an unknown word becomes ``<unk>``.

    Returns
    -------
    list of int
    """
    unknown = INDEX[UNKNOWN]
    return [INDEX.get(word, unknown) for word in _TOKEN.findall(text.lower())]


def build_tokenizer() -> Any:
    """Return the word-level fast tokenizer.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Puts ``<s>`` in front; never splits a special token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(INDEX, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, INDEX[BOS])]
    )
    # A word is joined to the next by one space, so that offsets into the decoded text are simple.
    core.decoder = decoders.WordPiece(prefix="\u2581\u2581", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
