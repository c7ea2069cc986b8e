"""More families: the same as in `tiny`, which puts them into its table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tests.lvlm.families.making import (
    TEXT,
    VISION,
    Pair,
    byte_tokenizer,
    finished,
    image_processor,
    lenient,
    text,
)
from tests.lvlm.families.resizing import torch_image_processor
from tests.models import tiny_llava


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


def glm4v() -> Pair:
    marks = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    tokenizer = byte_tokenizer(*marks, bos=False, image_token="<|image|>", video_token="<|video|>")
    number = tokenizer.convert_tokens_to_ids
    config = transformers.Glm4vConfig(
        vision_config=dict(
            depth=2,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=64,
            num_heads=4,
            image_size=64,
            patch_size=8,
            spatial_merge_size=2,
        ),
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
                "partial_rotary_factor": 1.0,
            },
        },
        image_token_id=number("<|image|>"),
        video_token_id=number("<|video|>"),
        image_start_token_id=number("<|begin_of_image|>"),
        image_end_token_id=number("<|end_of_image|>"),
        video_start_token_id=number("<|begin_of_video|>"),
        video_end_token_id=number("<|end_of_video|>"),
        tie_word_embeddings=False,
    )
    images = image_processor(
        "Glm4vImageProcessorPil",
        patch_size=8,
        size={"shortest_edge": 32**2 * 2, "longest_edge": 96**2 * 2},
    )
    with lenient():
        processor = transformers.Glm4vProcessor(images, tokenizer, video_processor=None)
    return finished(config, "Glm4vForConditionalGeneration", tokenizer), processor


def vipllava() -> Pair:
    model, processor = tiny_llava(seed=5, tokenizer="byte", chat_template=False)
    config = transformers.VipLlavaConfig(
        vision_config=model.config.vision_config,
        text_config=model.config.text_config,
        image_token_index=model.config.image_token_id,
        vision_feature_layers=[-1, -2],
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    made = finished(config, "VipLlavaForConditionalGeneration", processor.tokenizer)
    return made, processor


def deepseek_vl() -> Pair:
    tokenizer = byte_tokenizer(image_token="<image_placeholder>")
    config = transformers.DeepseekVLConfig(
        vision_config=transformers.SiglipVisionConfig(
            **VISION, image_size=48, patch_size=12, vision_use_head=False
        ),
        text_config=text("LlamaConfig", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    images = image_processor("DeepseekVLImageProcessorPil", size={"height": 48, "width": 48})
    processor = transformers.DeepseekVLProcessor(images, tokenizer, num_image_tokens=16)
    return finished(config, "DeepseekVLForConditionalGeneration", tokenizer), processor


def janus() -> Pair:
    tokenizer = byte_tokenizer(
        image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>"
    )
    config = transformers.JanusConfig(
        vision_config=dict(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            mlp_ratio=2.0,
            image_size=48,
            patch_size=12,
            projection_dim=32,
            num_image_tokens=16,
        ),
        vq_config=dict(
            embed_dim=4,
            num_embeddings=16,
            latent_channels=8,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            num_patches=4,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        text_config=text("LlamaConfig", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    images = image_processor("JanusImageProcessorPil", size={"height": 48, "width": 48})
    processor = transformers.JanusProcessor(images, tokenizer)
    processor.num_image_tokens = 16  # no argument in the oldest version
    return finished(config, "JanusForConditionalGeneration", tokenizer), processor


def ovis2() -> Pair:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = byte_tokenizer("<image>", "<IMG_ATOM>", *marks)
    number = tokenizer.convert_tokens_to_ids
    config = transformers.Ovis2Config(
        vision_config=dict(**VISION, image_size=48, patch_size=12, vocab_size=24, hidden_stride=1),
        text_config=text("Qwen2Config", tokenizer),
        image_token_id=number("<IMG_ATOM>"),
        visual_indicator_token_ids=[number(mark) for mark in marks],
        vocab_size=len(tokenizer),
        hidden_size=32,
        tie_word_embeddings=False,
    )
    images = image_processor(
        "Ovis2ImageProcessorPil",
        size={"height": 48, "width": 48},
        crop_to_patches=True,
        max_patches=4,
    )
    processor = transformers.Ovis2Processor(images, tokenizer, image_seq_length=16)
    return finished(config, "Ovis2ForConditionalGeneration", tokenizer), processor


def cohere2_vision() -> Pair:
    tokenizer = byte_tokenizer(
        image_token="<|IMG_PATCH|>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    config = transformers.Cohere2VisionConfig(
        vision_config=transformers.SiglipVisionConfig(
            **VISION, image_size=32, patch_size=8, vision_use_head=False
        ),
        text_config=text(
            "Cohere2Config",
            tokenizer,
            sliding_window=12,
            head_dim=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    images = torch_image_processor(
        "Cohere2VisionImageProcessor",
        "cohere2_vision",
        size={"height": 32, "width": 32},
        max_patches=4,
        crop_to_patches=True,
    )
    images.patch_size = 2  # image tokens along the side of a tile
    with lenient():
        processor = transformers.Cohere2VisionProcessor(images, tokenizer)
    return finished(config, "Cohere2VisionForConditionalGeneration", tokenizer), processor


def llama4() -> Pair:
    marks = "image_start image_end patch tile_x_separator tile_y_separator".split()
    tokenizer = byte_tokenizer(*(f"<|{mark}|>" for mark in marks), image_token="<|image|>")
    config = transformers.Llama4Config(
        vision_config=dict(
            **{**VISION, "intermediate_size": 128},
            image_size=32,
            patch_size=4,
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
            pixel_shuffle_ratio=0.5,
        ),
        text_config=transformers.Llama4TextConfig(
            **TEXT,
            vocab_size=len(tokenizer),
            head_dim=8,
            intermediate_size_mlp=64,
            num_local_experts=2,
            attention_chunk_size=24,
            no_rope_layers=[1, 1, 0],
            attn_temperature_tuning=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
        tie_word_embeddings=False,
    )
    images = torch_image_processor(
        "Llama4ImageProcessor", "llama4", size={"height": 32, "width": 32}, max_patches=2
    )
    with lenient():
        processor = transformers.Llama4Processor(
            images, tokenizer, patch_size=4, pixel_shuffle_ratio=0.5
        )
    return finished(config, "Llama4ForConditionalGeneration", tokenizer), processor


def lfm2_vl() -> Pair:
    marks = [f"<|img_row_{r}_col_{c}|>" for r in range(1, 5) for c in range(1, 5)]
    marks += ["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer(*marks, image_token="<image>")
    config = transformers.Lfm2VlConfig(
        vision_config=transformers.Siglip2VisionConfig(**VISION, num_patches=64, patch_size=4),
        text_config=text(  # layers of convolution between those of attention
            "Lfm2Config", tokenizer, layer_types=["conv", "full_attention", "full_attention"]
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=32,
        tie_word_embeddings=False,
    )
    images = torch_image_processor(
        "Lfm2VlImageProcessor",
        "lfm2_vl",
        encoder_patch_size=4,
        tile_size=32,
        max_tiles=4,
        min_image_tokens=4,
        max_image_tokens=20,
    )
    with lenient():
        processor = transformers.Lfm2VlProcessor(images, tokenizer)
    return finished(config, "Lfm2VlForConditionalGeneration", tokenizer), processor


def molmo2() -> Pair:
    marks = "im_patch im_col im_start low_res_im_start frame_start im_end frame_end im_low".split()
    tokenizer = byte_tokenizer(
        *(f"<{mark}>" for mark in marks),
        "<|im_start|>",
        "<|im_end|>",
        bos=False,
        image_token="<|image|>",
        video_token="<|video|>",
    )
    number = tokenizer.convert_tokens_to_ids
    heads = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=8)
    config = transformers.Molmo2Config(
        vision_config=dict(**{**VISION, **heads}, image_size=[36, 36], patch_size=4),
        adapter_config=dict(
            **heads,
            hidden_size=32,
            intermediate_size=64,
            text_hidden_size=32,
            vision_feature_layer=[1, 0],
        ),
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "additional_vocab_size": 8,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_start_token_id=number("<im_start>"),
        low_res_image_start_token_id=number("<low_res_im_start>"),
        image_end_token_id=number("<im_end>"),
        image_patch_id=number("<im_patch>"),
        frame_start_token_id=number("<frame_start>"),
        frame_end_token_id=number("<frame_end>"),
        tie_word_embeddings=False,
    )
    images = torch_image_processor(  # nine patches a side: pooled by two, with one of padding
        "Molmo2ImageProcessor",
        "molmo2",
        size={"height": 36, "width": 36},
        patch_size=4,
        overlap_margins=[2, 2],
        max_crops=4,
    )
    with lenient():
        processor = transformers.Molmo2Processor(images, None, tokenizer)
    model = finished(config, "Molmo2ForConditionalGeneration", tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight"):  # attention far from uniform
                parameter.fill_(4.0)
    return model, processor


def perception_lm() -> Pair:
    """PerceptionLM with CLIP's tower in place of timm's."""
    marks = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = byte_tokenizer(*marks, image_token="<|image|>", video_token="<|video|>")
    vision = transformers.CLIPVisionConfig(**VISION, image_size=32, patch_size=4)
    vision.model_args = {"embed_dim": 32}
    config = transformers.PerceptionLMConfig(
        vision_config=vision,
        text_config=text("LlamaConfig", tokenizer),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        tie_word_embeddings=False,
    )
    images = torch_image_processor(
        "PerceptionLMImageProcessor", "perception_lm", tile_size=32, max_num_tiles=4
    )
    with lenient():
        processor = transformers.PerceptionLMProcessor(
            None, images, tokenizer, patch_size=4, pooling_ratio=2
        )
    return finished(config, "PerceptionLMForConditionalGeneration", tokenizer), processor


class _Tower(transformers.ConvNextModel):
    """What stands for Gemma 3n's tower, which is timm's: (B, D, 4, 4) of pictures of 48 pixels."""

    def __init__(self) -> None:
        super().__init__(
            transformers.ConvNextConfig(
                hidden_sizes=[8, 32], depths=[1, 1], num_stages=2, patch_size=6, image_size=48
            )
        )

    def forward(self, pixel_values: Any, do_pooling: bool = False, **options: Any) -> Any:
        return super().forward(pixel_values, **options)


def gemma3n() -> Pair:
    """Gemma 3n with a convolutional tower of transformers in place of timm's."""
    tokenizer = byte_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        audio_token="<audio_soft_token>",
        boa_token="<start_of_audio>",
        eoa_token="<end_of_audio>",
    )
    n_tokens, number = len(tokenizer), tokenizer.convert_tokens_to_ids
    config = transformers.Gemma3nConfig(
        vision_config=dict(hidden_size=32, vocab_size=4, vocab_offset=n_tokens),
        audio_config=dict(
            hidden_size=32,
            vocab_size=4,
            vocab_offset=n_tokens + 4,
            input_feat_size=16,
            conf_num_attention_heads=4,
            conf_num_hidden_layers=1,
            sscp_conv_channel_size=[4, 4],
        ),
        text_config=dict(
            **{**TEXT, "num_hidden_layers": 4},
            vocab_size=n_tokens + 8,
            vocab_size_per_layer_input=n_tokens,
            head_dim=8,
            hidden_size_per_layer_input=4,
            altup_num_inputs=2,
            laurel_rank=4,
            num_kv_shared_layers=2,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        vision_soft_tokens_per_image=16,
        boi_token_id=number("<start_of_image>"),
        eoi_token_id=number("<end_of_image>"),
        image_token_id=number("<image_soft_token>"),
        boa_token_id=number("<start_of_audio>"),
        eoa_token_id=number("<end_of_audio>"),
        audio_token_id=number("<audio_soft_token>"),
        tie_word_embeddings=False,
    )
    images = image_processor("SiglipImageProcessorPil", size={"height": 48, "width": 48})
    with lenient():
        processor = transformers.Gemma3nProcessor(None, images, tokenizer, image_seq_length=16)
    module = transformers.models.gemma3n.modeling_gemma3n

    class Auto:
        @staticmethod
        def from_config(config: Any) -> Any:
            timm = config.model_type == "gemma3n_vision"
            return _Tower() if timm else transformers.AutoModel.from_config(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AutoModel", Auto)
        return finished(config, "Gemma3nForConditionalGeneration", tokenizer), processor


MORE: dict[str, Any] = {
    "lfm2_vl": lfm2_vl,
    "molmo2": molmo2,
    "perception_lm": perception_lm,
    "gemma3n": gemma3n,
    "llama4": llama4,
    "cohere2_vision": cohere2_vision,
    "idefics2": idefics2,
    "aria": aria,
    "glm4v": glm4v,
    "vipllava": vipllava,
    "deepseek_vl": deepseek_vl,
    "janus": janus,
    "ovis2": ovis2,
}
