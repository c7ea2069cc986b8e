"""More families: the same as in `tiny`, which puts them into its table."""

from __future__ import annotations

from typing import Any

import transformers

from tests.lvlm.families.making import (
    TEXT,
    VISION,
    Pair,
    byte_tokenizer,
    finished,
    image_processor,
    text,
)


def idefics2() -> Pair:
    tokenizer = byte_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    config = transformers.Idefics2Config(
        vision_config={**VISION, "image_size": 48, "patch_size": 12},
        perceiver_config=dict(
            hidden_size=32,
            resampler_n_latents=4,
            resampler_depth=1,
            resampler_n_heads=4,
            resampler_head_dim=8,
            num_key_value_heads=2,
        ),
        text_config=text("MistralConfig", tokenizer, head_dim=8, sliding_window=None),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    images = image_processor(
        "Idefics2ImageProcessorPil", size={"shortest_edge": 24, "longest_edge": 48}
    )
    processor = transformers.Idefics2Processor(images, tokenizer, image_seq_len=4)
    return finished(config, "Idefics2ForConditionalGeneration", tokenizer), processor


def aria() -> Pair:
    tokenizer = byte_tokenizer(image_token="<|img|>")
    config = transformers.AriaConfig(
        vision_config=transformers.Idefics3VisionConfig(**VISION, image_size=980, patch_size=98),
        text_config=transformers.AriaTextConfig(
            **TEXT,
            vocab_size=len(tokenizer),
            moe_num_experts=2,
            moe_topk=1,
            moe_num_shared_experts=1,
        ),
        projector_patch_to_query_dict={100: 9},
        image_token_index=tokenizer.convert_tokens_to_ids("<|img|>"),
        tie_word_embeddings=False,
    )
    images = image_processor("AriaImageProcessorPil", max_image_size=980, min_image_size=336)
    processor = transformers.AriaProcessor(images, tokenizer, size_conversion={980: 9})
    return finished(config, "AriaForConditionalGeneration", tokenizer), processor


MORE: dict[str, Any] = {"idefics2": idefics2, "aria": aria}
