"""One tiny random model and its processor for every family; more of them are in `tiny_more`."""

from __future__ import annotations

from collections.abc import Callable
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
from tests.lvlm.families.tiny_more import MORE
from tests.models import tiny_llava


def text_model(kind: str) -> Callable[[], Pair]:
    """Return a builder of a text decoder."""

    def build() -> Pair:
        tokenizer = byte_tokenizer()
        config = text(f"{kind}Config", tokenizer)
        return finished(config, f"{kind}ForCausalLM", tokenizer), tokenizer

    return build


def llava() -> Pair:
    return tiny_llava(seed=1, tokenizer="byte", chat_template=False)


def llava_next(kind: str = "LlavaNext") -> Pair:
    tokenizer = byte_tokenizer(image_token="<image>", video_token="<video>")
    video = kind == "LlavaNextVideo"
    pinpoints = [[48, 96], [96, 48], [96, 96]]
    config = getattr(transformers, f"{kind}Config")(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=48, patch_size=12),
        text_config=text("LlamaConfig", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
        tie_word_embeddings=False,
        **({"video_token_index": tokenizer.convert_tokens_to_ids("<video>")} if video else {}),
    )
    images = image_processor(
        "LlavaNextImageProcessorPil",
        size={"shortest_edge": 48},
        crop_size={"height": 48, "width": 48},
        image_grid_pinpoints=pinpoints,
    )
    more = {"video_processor": None} if video else {}
    with lenient():
        processor = getattr(transformers, f"{kind}Processor")(
            image_processor=images,
            tokenizer=tokenizer,
            **more,
            patch_size=12,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
    return finished(config, f"{kind}ForConditionalGeneration", tokenizer), processor


def llava_next_video() -> Pair:
    return llava_next("LlavaNextVideo")


def llava_onevision() -> Pair:
    tokenizer = byte_tokenizer(image_token="<image>", video_token="<video>")
    pinpoints = [[48, 48], [48, 96], [96, 48], [96, 96], [144, 144]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=48, patch_size=12),
        text_config=text("Qwen2Config", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=False,
    )
    images = image_processor(
        "LlavaOnevisionImageProcessorPil",
        size={"height": 48, "width": 48},
        image_grid_pinpoints=pinpoints,
    )
    with lenient():
        processor = transformers.LlavaOnevisionProcessor(
            images,
            tokenizer,
            video_processor=None,
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_2",
        )
    return finished(config, "LlavaOnevisionForConditionalGeneration", tokenizer), processor


QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


def qwen(kind: str) -> Callable[[], Pair]:
    """Return a builder of a Qwen-VL."""

    def build() -> Pair:
        tokenizer = byte_tokenizer(
            *QWEN, bos=False, image_token="<|image_pad|>", video_token="<|video_pad|>"
        )
        ids = {
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
            for name, mark in {
                "image": "image_pad",
                "video": "video_pad",
                "vision_start": "vision_start",
                "vision_end": "vision_end",
            }.items()
        }
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        newer = kind.startswith("Qwen3")
        if newer:
            rope["mrope_interleaved"] = True
        patch = 8
        vision: dict[str, Any] = dict(
            depth=2, in_channels=3, patch_size=patch, spatial_merge_size=2
        )
        if kind == "Qwen2":
            vision.update(embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2)
        else:
            vision.update(hidden_size=32, out_hidden_size=32, intermediate_size=64, num_heads=4)
        if kind == "Qwen2_5":
            vision.update(window_size=32, fullatt_block_indexes=[1])
        if newer:
            vision.update(num_position_embeddings=64)
        if kind in ("Qwen3", "Qwen3Moe"):
            vision.update(deepstack_visual_indexes=[0])
        options: dict[str, Any] = {"rope_parameters": rope}
        if newer:
            options["head_dim"] = 8
        if "Moe" in kind:
            options.update(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32)
        if kind.startswith("Qwen3_5"):  # layers of linear attention between those of full attention
            options.update(
                layer_types=["linear_attention", "full_attention", "full_attention"],
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                rope_parameters=rope | {"partial_rotary_factor": 1.0},
            )
        same = {"Qwen2_5": "Qwen2_5_VL", "Qwen3Moe": "Qwen3VLMoe"}
        stem = kind if kind.startswith("Qwen3_5") else same.get(kind, f"{kind}VL")
        text_values = {**TEXT, "vocab_size": len(tokenizer), **options}
        config = getattr(transformers, f"{stem}Config")(
            text_config=text_values, vision_config=vision, tie_word_embeddings=False, **ids
        )
        images = image_processor(
            "Qwen2VLImageProcessorPil",
            patch_size=patch,
            size={"shortest_edge": 32**2, "longest_edge": 96**2},
        )
        with lenient():
            whose = "Qwen3VL" if newer else stem
            processor = getattr(transformers, f"{whose}Processor")(
                images, tokenizer, video_processor=None
            )
        return finished(config, f"{stem}ForConditionalGeneration", tokenizer), processor

    return build


def idefics3() -> Pair:
    return _idefics("Idefics3")


def smolvlm() -> Pair:
    return _idefics("SmolVLM")


def _idefics(kind: str) -> Pair:
    marks = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    marks += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>"]
    tokenizer = byte_tokenizer(*marks, "<image>")
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config=text("LlamaConfig", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    images = image_processor(
        f"{kind}ImageProcessorPil",
        size={"longest_edge": 64},
        max_image_size={"longest_edge": 32},
    )
    if kind == "SmolVLM":
        module = transformers.models.smolvlm.processing_smolvlm
        module.num2words = module.num2words or str  # used for videos alone
        with lenient():
            processor = transformers.SmolVLMProcessor(images, tokenizer, None, image_seq_len=4)
    else:
        processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)
    return finished(config, f"{kind}ForConditionalGeneration", tokenizer), processor


def paligemma(decoder: str) -> Callable[[], Pair]:
    """Return a builder of PaliGemma 1 or 2."""

    def build() -> Pair:
        tokenizer = byte_tokenizer(image_token="<image>")
        images = image_processor("SiglipImageProcessorPil", size={"height": 48, "width": 48})
        images.image_seq_length = 16
        processor = transformers.PaliGemmaProcessor(images, tokenizer)
        more: dict[str, Any] = {"head_dim": 8}
        if decoder == "Gemma2":
            more.update(sliding_window=16, attn_logit_softcapping=5.0, query_pre_attn_scalar=8)
        config = transformers.PaliGemmaConfig(
            vision_config=transformers.SiglipVisionConfig(
                **VISION, image_size=48, patch_size=12, vision_use_head=False
            ),
            text_config=text(f"{decoder}Config", tokenizer, **more),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            projection_dim=32,
            hidden_size=32,
            tie_word_embeddings=False,
        )
        return finished(config, "PaliGemmaForConditionalGeneration", tokenizer), processor

    return build


def internvl() -> Pair:
    tokenizer = byte_tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        bos=False,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=text("Qwen2Config", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = image_processor(
        "GotOcr2ImageProcessorPil", size={"height": 32, "width": 32}, max_patches=4
    )
    with lenient():
        processor = transformers.InternVLProcessor(images, tokenizer, None, image_seq_length=4)
    return finished(config, "InternVLForConditionalGeneration", tokenizer), processor


def aya_vision() -> Pair:
    tokenizer = byte_tokenizer(
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "TILE_1",
        "TILE_2",
        "TILE_3",
        "TILE_4",
        "TILE_GLOBAL",
        image_token="<image>",
    )
    config = transformers.AyaVisionConfig(
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
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    images = image_processor(
        "GotOcr2ImageProcessorPil", size={"height": 32, "width": 32}, max_patches=4
    )
    processor = transformers.AyaVisionProcessor(
        images, tokenizer, patch_size=8, img_size=32, downsample_factor=2
    )
    return finished(config, "AyaVisionForConditionalGeneration", tokenizer), processor


def gemma3() -> Pair:
    tokenizer = byte_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(
            **VISION, image_size=48, patch_size=6, vision_use_head=False
        ),
        text_config=text(
            "Gemma3TextConfig",
            tokenizer,
            head_dim=8,
            sliding_window=24,
            query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        mm_tokens_per_image=16,
        tie_word_embeddings=False,
    )
    images = image_processor("Gemma3ImageProcessorPil", size={"height": 48, "width": 48})
    processor = transformers.Gemma3Processor(images, tokenizer, image_seq_length=16)
    return finished(config, "Gemma3ForConditionalGeneration", tokenizer), processor


class HandBuiltPixtral:
    """What Pixtral's processor does (its own class cannot be imported without torchvision)."""

    chat_template = None
    image_token = "[IMG]"

    def __init__(self, image_processor: Any, tokenizer: Any, edge: int) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.edge = edge

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> dict[str, Any]:
        found = self.image_processor(images, return_tensors="pt") if images else {}
        pieces = text[0].split("[IMG]")
        joined = pieces[0]
        for size, piece in zip(found.get("image_sizes", []), pieces[1:], strict=True):
            rows, cols = (int(v) // self.edge for v in size)
            joined += "[IMG_BREAK]".join(["[IMG]" * cols] * rows) + "[IMG_END]" + piece
        options.pop("return_tensors", None)
        return {**self.tokenizer([joined], return_tensors="pt", **options), **found}


def pixtral(merge: int) -> Callable[[], Pair]:
    """Return a builder of Pixtral (merge = 1) or Mistral 3 (merge = 2)."""

    def build() -> Pair:
        tokenizer = byte_tokenizer(
            "[INST]", "[/INST]", "[IMG_BREAK]", "[IMG_END]", image_token="[IMG]"
        )
        kind = "Llava" if merge == 1 else "Mistral3"
        more = {} if merge == 1 else {"spatial_merge_size": merge}
        config = getattr(transformers, f"{kind}Config")(
            vision_config=transformers.PixtralVisionConfig(
                **VISION, head_dim=8, image_size=48, patch_size=8
            ),
            text_config=text("MistralConfig", tokenizer, head_dim=8, sliding_window=None),
            image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
            vision_feature_layer=-1,
            tie_word_embeddings=False,
            **({"vision_feature_select_strategy": "full"} if merge == 1 else {}),
            **more,
        )
        edge = 8 * merge
        images = image_processor(
            "PixtralImageProcessorPil",
            size={"longest_edge": 48},
            patch_size={"height": edge, "width": edge},
        )
        processor = HandBuiltPixtral(images, tokenizer, 8 * merge)
        return finished(config, f"{kind}ForConditionalGeneration", tokenizer), processor

    return build


def fast_vlm() -> Pair:
    """FastVLM with a convolutional tower of transformers in place of timm's."""
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    config = transformers.FastVlmConfig(
        vision_config=transformers.ConvNextConfig(
            hidden_sizes=[8, 32], depths=[1, 1], num_stages=2, patch_size=6, image_size=48
        ),
        text_config=text("Qwen2Config", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    config.vision_config.hidden_size = 32
    images = image_processor(
        "CLIPImageProcessorPil",
        size={"shortest_edge": 48},
        crop_size={"height": 48, "width": 48},
    )
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=12,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
    )
    return finished(config, "FastVlmForConditionalGeneration", tokenizer), processor


def gemma4() -> Pair:
    tokenizer = byte_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        "<|video|>",
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    config = transformers.Gemma4Config(
        vision_config=dict(
            **VISION,
            num_key_value_heads=4,
            head_dim=8,
            patch_size=4,
            pooling_kernel_size=3,
            position_embedding_size=512,
        ),
        text_config=text(
            "Gemma4TextConfig",
            tokenizer,
            head_dim=8,
            global_head_dim=8,
            sliding_window=24,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            hidden_size_per_layer_input=4,
            vocab_size_per_layer_input=len(tokenizer),
        ),
        audio_config=None,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<|image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio|>"),
        tie_word_embeddings=False,
    )
    images = image_processor(
        "Gemma4ImageProcessorPil", patch_size=4, pooling_kernel_size=3, max_soft_tokens=70
    )
    with lenient():
        processor = transformers.Gemma4Processor(None, images, tokenizer, None)
    return finished(config, "Gemma4ForConditionalGeneration", tokenizer), processor


def blip2() -> Pair:
    return _blip("Blip2")


def instructblip() -> Pair:
    return _blip("InstructBlip")


def _blip(kind: str) -> Pair:
    tokenizer = byte_tokenizer("<image>")  # the processor wants no named image token
    qformer = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        encoder_hidden_size=32,
        vocab_size=len(tokenizer),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if kind == "Blip2":
        decoder = text(
            "OPTConfig", tokenizer, ffn_dim=64, word_embed_proj_dim=32, do_layer_norm_before=True
        )
    else:
        decoder = text("LlamaConfig", tokenizer)
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**VISION, "image_size": 48, "patch_size": 12},
        qformer_config=qformer,
        text_config=decoder.to_dict(),
        num_query_tokens=6,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = image_processor("BlipImageProcessorPil", size={"height": 48, "width": 48})
    more = {} if kind == "Blip2" else {"qformer_tokenizer": byte_tokenizer()}
    with lenient():
        processor = getattr(transformers, f"{kind}Processor")(
            images, tokenizer, num_query_tokens=6, **more
        )
    model = finished(config, f"{kind}ForConditionalGeneration", tokenizer)
    return model, processor


def mllama() -> Pair:
    tokenizer = byte_tokenizer("<|python_tag|>", image_token="<|image|>")
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    config = transformers.MllamaConfig(
        vision_config=dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=4,
            image_size=24,
            patch_size=8,
            max_num_tiles=4,
            vision_output_dim=64,
            intermediate_layers_indices=[0],
            supported_aspect_ratios=ratios,
        ),
        text_config=text(
            "MllamaTextConfig",
            tokenizer,
            num_hidden_layers=4,
            cross_attention_layers=[1],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    images = image_processor(
        "MllamaImageProcessorPil", size={"height": 24, "width": 24}, max_image_tiles=4
    )
    processor = transformers.MllamaProcessor(images, tokenizer)
    model = finished(config, "MllamaForConditionalGeneration", tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):  # gates start closed: the image would not matter
                parameter.fill_(0.7)
    return model, processor


TEXT_DECODERS = (
    "Llama Qwen2 Qwen3 Mistral Gemma Gemma2 SmolLM3 Phi Phi3 Granite Olmo2 Olmo3 Cohere2 "
    "Starcoder2 StableLm OPT GPTNeoX Glm4 Apertus Nemotron"
).split()
_ALL: dict[str, Callable[[], Pair]] = {
    **{f"text_{kind.lower()}": text_model(kind) for kind in TEXT_DECODERS},
    "llava": llava,
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen("Qwen2"),
    "qwen2_5_vl": qwen("Qwen2_5"),
    "qwen3_vl": qwen("Qwen3"),
    "qwen3_vl_moe": qwen("Qwen3Moe"),
    "qwen3_5": qwen("Qwen3_5"),
    "qwen3_5_moe": qwen("Qwen3_5Moe"),
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "paligemma": paligemma("Gemma"),
    "paligemma2": paligemma("Gemma2"),
    "internvl": internvl,
    "gemma3": gemma3,
    "pixtral": pixtral(1),
    "mistral3": pixtral(2),
    "aya_vision": aya_vision,
    "fast_vlm": fast_vlm,
    "gemma4": gemma4,
    "blip2": blip2,
    "instructblip": instructblip,
    "mllama": mllama,
    **MORE,
}

NEWEST = "5.23.0"  # what the table of families says, see test_table.py
# What the oldest version supported (5.10.1) does not have, by builder.
OLD: dict[str, str] = {
    "text_nemotron": "Nemotron does not use the attention interface there",
    "gemma4": "Gemma 4's image processor cannot be imported without torchvision there",
    "molmo2": "Molmo 2 is not there",
}


def is_old() -> bool:
    """Whether transformers is older than the version the table names."""
    return number(transformers.__version__) < number(NEWEST)


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers that can be compared."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def skip_if_old(reason: str) -> None:
    """Skip a test with an older transformers, saying which and why."""
    if is_old():
        pytest.skip(f"transformers {transformers.__version__}: {reason}")


def _guarded(name: str) -> Callable[[], Pair]:
    def build() -> Pair:
        if name in OLD:
            skip_if_old(OLD[name])
        return _ALL[name]()

    return build


BUILDERS = {name: _guarded(name) for name in _ALL}
AVAILABLE = [name for name in BUILDERS if not (is_old() and name in OLD)]
