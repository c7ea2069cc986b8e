"""The tiny LLaVA: CLIP tower, projector and Llama decoder at 1.2 million parameters.

It is an ordinary ``LlavaForConditionalGeneration`` with an ordinary ``LlavaProcessor``: what is
saved here is loaded by plain ``from_pretrained``.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from causal_lvlm.tiny.scenes import GRID, IMAGE_SIZE, PATCH_SIZE
from causal_lvlm.tiny.vocabulary import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    IMAGE,
    INDEX,
    PAD,
    WORDS,
    build_tokenizer,
)

__all__ = ["N_PATCHES", "build_model", "build_processor", "normalise_pixels", "tiny_config"]

N_PATCHES = GRID * GRID
PIXEL_MEAN = 0.4
PIXEL_STD = 0.25


def tiny_config(
    *, width: int = 128, vision_layers: int = 4, text_layers: int = 3, heads: int = 4
) -> LlavaConfig:
    """Return the configuration of the embedded model; smaller ones are for tests.

    Parameters
    ----------
    width : int
        Width of the tower and of the decoder.
    vision_layers, text_layers, heads : int
        Depth of the two transformers, and heads of each layer.

    Returns
    -------
    transformers.LlavaConfig
    """
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=width,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=text_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=INDEX[BOS],
        eos_token_id=INDEX[EOS],
        pad_token_id=INDEX[PAD],
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=INDEX[IMAGE],
        image_seq_length=N_PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def build_model(seed: int, config: LlavaConfig | None = None) -> LlavaForConditionalGeneration:
    """Return a model with random weights.

    Parameters
    ----------
    seed : int
        Of the random weights; the global random state is left as it was.
    config : LlavaConfig, optional
        By default that of the embedded model.

    Returns
    -------
    LlavaForConditionalGeneration
        In fp32, in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config or tiny_config())
    model.generation_config.eos_token_id = INDEX[EOS]
    model.generation_config.bos_token_id = INDEX[BOS]
    model.generation_config.pad_token_id = INDEX[PAD]
    model.generation_config.max_new_tokens = 32
    return model.train()


def build_processor() -> LlavaProcessor:
    """Return the processor: pictures become 96 x 96 and prompts get 64 image tokens.

    Returns
    -------
    LlavaProcessor
    """
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size=side,
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        ),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def normalise_pixels(pixels: Any) -> torch.Tensor:
    """Do what the image processor does to pictures that already have the right size.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, 96, 96, 3)

    Returns
    -------
    Tensor of float32, shape (n, 3, 96, 96)
    """
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255.0
    return (scaled - PIXEL_MEAN) / PIXEL_STD
