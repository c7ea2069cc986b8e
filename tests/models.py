"""Tiny random vision-language models with real processors, for every test that needs one.

Weights are random but rescaled so that attention is far from uniform and answers depend on the
image; a uniform attention would let many mistakes pass.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

WORDS = (
    "user assistant what color shape is the a there how many circle square triangle star cross "
    "ring cup spoon red green blue yellow purple pink cyan white silver yes no zero one two three "
    "four and in this image describe scene of"
).split()

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a lower-casing word-level tokenizer: tokens carry no space."""
    vocabulary = ["<pad>", "<unk>", "<s>", "</s>", "<image>", ":", "?", ".", ",", *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return _finished(tokenizer)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with a few merges of whole words (a space leads the word)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<pad>", "<unk>", "<s>", "</s>", "<image>", *alphabet]
    merges = []
    for word in (" red", " circle", " the"):
        pieces = word.replace(" ", "Ġ")
        for length in range(2, len(pieces) + 1):
            if pieces[:length] not in vocabulary:
                vocabulary.append(pieces[:length])
                merges.append((pieces[: length - 1], pieces[length - 1]))
    tokenizer = Tokenizer(
        models.BPE({token: i for i, token in enumerate(vocabulary)}, merges, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s?\w+|\s?[^\w\s]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def tiny_llava(
    seed: int = 0,
    layers: int = 3,
    *,
    width: int = 32,
    heads: int = 4,
    kv_heads: int | None = None,
    image_size: int = 48,
    patch: int = 12,
    vision_layers: int = 3,
    vision_feature_layer: int = -2,
    tower: str = "clip",
    tokenizer: str = "word",
    chat_template: bool = True,
    text_config: Any = None,
    never_end: bool = True,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return a random LLaVA and its processor.

    Parameters
    ----------
    seed : int
    layers, width, heads, kv_heads : int
        Of the language model.
    image_size, patch, vision_layers : int
        Of the vision tower; 48 and 12 give 4 x 4 image tokens, 336 and 14 the real 24 x 24.
    vision_feature_layer : int
        -2 as in LLaVA-1.5, whose last tower layer is unused; -1 as in the embedded model.
    tower : {"clip", "siglip"}
    tokenizer : {"word", "byte"}
    chat_template : bool
        Whether the processor has one.
    text_config : PretrainedConfig, optional
        Another decoder; vocabulary and width are set here.
    never_end : bool
        Make the end-of-sequence token so unlikely that answers have full length.
    """
    torch.manual_seed(seed)
    tok = word_tokenizer() if tokenizer == "word" else byte_tokenizer()
    text = text_config or LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=2048,
    )
    text.vocab_size = len(tok)
    text.tie_word_embeddings = False
    text.bos_token_id, text.eos_token_id, text.pad_token_id = 2, 3, 0
    sizes = dict(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch,
    )
    clip = tower == "clip"
    vision = CLIPVisionConfig(**sizes) if clip else SiglipVisionConfig(**sizes)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy="default" if clip else "full",
        image_seq_length=(image_size // patch) ** 2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config).eval()
    _rescale(model)
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 0
    model.generation_config.bos_token_id = 2
    if never_end:
        # No bias in the head: a row of zeros is beaten by some positive logit.
        with torch.no_grad():
            for token_id in range(5):
                model.lm_head.weight[token_id] = 0.0
    if clip:
        pixels: Any = CLIPImageProcessorPil(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
        )
    else:
        pixels = SiglipImageProcessorPil(size={"height": image_size, "width": image_size})
    processor = LlavaProcessor(
        pixels,
        tok,
        patch_size=patch,
        vision_feature_select_strategy="default" if clip else "full",
        num_additional_image_tokens=1 if clip else 0,
        chat_template=CHAT_TEMPLATE if chat_template else None,
    )
    return model, processor


def _rescale(model: torch.nn.Module) -> None:
    """Draw weights so that attention is peaked and signals neither vanish nor explode."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                continue
            fan_in = parameter.shape[1:].numel() if "embed" not in name else 1
            scale = 2.5 if ("q_proj" in name or "k_proj" in name) else 1.0
            parameter.copy_(torch.randn_like(parameter) * scale / fan_in**0.5)
