"""What differs between families of models: one table entry and one geometry function each.

A family says which model types it serves, where the image tokens come from, and how its prompt is
framed when there is no chat template. Everything else (merging features, positions, masks, capture,
masking, gradients) is taken from the model itself and shared.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from causal_lvlm.arrays import IntArray
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.family import Family
from causal_lvlm.lvlm.geometry import Cells, Site, clip_geometry
from causal_lvlm.lvlm.tiles import (
    anyres,
    canvas,
    cross_attended,
    gemma4_grid,
    image_size_grid,
    letterbox,
    llama4_tiles,
    no_grid,
    ovis_tiles,
    patch_grid,
    ramp_cells,
    row_column_tiles,
    square,
)
from causal_lvlm.lvlm.views import lfm2_tiles, molmo_views, perception_tiles

__all__ = ["FAMILIES", "REFUSED", "TEXT", "Family", "family_of", "family_table", "supported_types"]


def _no_geometry(site: Site) -> Cells:
    return Cells((), 0)


def _llava_geometry(site: Site) -> Cells:
    patch = int(site.config.vision_config.patch_size)
    n_tokens = site.n_tokens // site.n_images
    tiles = clip_geometry(site.processor.image_processor, site.image_size, patch, n_tokens)
    return Cells(tuple(tiles), n_tokens)


def _patch_positions(model: Any, image_positions: IntArray) -> IntArray:
    """Tower positions where every patch keeps its place; a class token stands first."""
    tower: torch.nn.Module = model.get_encoder("image")
    has_class_token = any(hasattr(m, "class_embedding") for m in tower.modules())
    return np.concatenate([[-1] * has_class_token, image_positions]).astype(np.int64)


def _language_model(model: Any) -> Any:
    return model.language_model


# What the tests of `tests/lvlm/families` paint and compare, with this version and an older one.
_tested = partial(Family, tested="5.23.0")

_NO_PIXELS = "remove (drop, block), edges, neutral"
_CHATML = "<|im_start|>user\n{image}{{prompt}}<|im_end|>\n<|im_start|>assistant\n"
_QWEN_FRAME = _CHATML.format(image="{placeholder}")
_QWEN_AROUND = ("<|vision_start|>", "<|vision_end|>")
_IDEFICS_FRAME = "<|im_start|>User:{placeholder}{prompt}<end_of_utterance>\nAssistant:"
_GEMMA_FRAME = "<start_of_turn>user\n{placeholder}{prompt}<end_of_turn>\n<start_of_turn>model\n"

FAMILIES: tuple[Family, ...] = (
    _tested(
        name="LLaVA-1.5",
        model_types=("llava",),
        mapping="one square grid, row by row",
        geometry=_llava_geometry,
        plain_frame="USER: {placeholder}\n{prompt} ASSISTANT:",
        tower_positions=_patch_positions,
    ),
    _tested(
        name="LLaVA-NeXT",
        model_types=("llava_next", "llava_next_video"),
        mapping="whole image, then its tiles as one map with line breaks",
        geometry=anyres,
        plain_frame="USER: {placeholder}\n{prompt} ASSISTANT:",
    ),
    _tested(
        name="LLaVA-OneVision",
        model_types=("llava_onevision",),
        mapping="whole image, then its tiles as one map (shrunk if large) with line breaks",
        geometry=anyres,
        plain_frame=_CHATML.format(image="{placeholder}\n"),
    ),
    _tested(
        name="Qwen2-VL",
        model_types=("qwen2_vl",),
        mapping="stretched, 2 x 2 patches merged, as many tokens as pixels ask for",
        geometry=patch_grid,
        plain_frame=_QWEN_FRAME,
        around=_QWEN_AROUND,
    ),
    _tested(
        name="Qwen2.5-VL",
        model_types=("qwen2_5_vl",),
        mapping="stretched, 2 x 2 patches merged, as many tokens as pixels ask for",
        geometry=patch_grid,
        plain_frame=_QWEN_FRAME,
        around=_QWEN_AROUND,
    ),
    _tested(
        name="Idefics3",
        model_types=("idefics3",),
        mapping="tiles, then the whole image",
        geometry=row_column_tiles,
        plain_frame=_IDEFICS_FRAME,
    ),
    _tested(
        name="SmolVLM",
        model_types=("smolvlm",),
        mapping="tiles, then the whole image",
        geometry=row_column_tiles,
        plain_frame=_IDEFICS_FRAME,
        processor="the real processor, without num2words (videos only)",
    ),
    _tested(
        name="PaliGemma",
        model_types=("paligemma",),
        mapping="one square grid, row by row; the whole prompt looks ahead",
        geometry=square,
        plain_frame="{placeholder}{prompt}",
        fill={"token_type_ids": 1},
        tower_positions=_patch_positions,
    ),
    _tested(
        name="InternVL",
        model_types=("internvl",),
        mapping="tiles, then a thumbnail",
        geometry=canvas,
        plain_frame=_CHATML.format(image="{placeholder}\n"),
    ),
    _tested(
        name="Gemma 3",
        model_types=("gemma3",),
        mapping="one square grid (pooled); image tokens look ahead",
        geometry=square,
        plain_frame=_GEMMA_FRAME,
        placeholder_from="boi_token",
    ),
    _tested(
        name="Pixtral",
        model_types=("llava",),
        vision_types=("pixtral",),
        mapping="stretched, one token a patch, rows ended by [IMG_BREAK]",
        geometry=image_size_grid,
        plain_frame="[INST]{placeholder}{prompt}[/INST]",
        processor="the real image processor; text expanded by hand (its class needs torchvision)",
    ),
    _tested(
        name="Mistral 3",
        model_types=("mistral3",),
        mapping="stretched, 2 x 2 patches merged, rows ended by [IMG_BREAK]",
        geometry=image_size_grid,
        plain_frame="[INST]{placeholder}{prompt}[/INST]",
        processor="the real image processor; text expanded by hand (its class needs torchvision)",
    ),
    _tested(
        name="Qwen3-VL",
        model_types=("qwen3_vl", "qwen3_vl_moe"),
        mapping="stretched, 2 x 2 patches merged; features added in deeper layers too",
        geometry=patch_grid,
        plain_frame=_QWEN_FRAME,
        around=_QWEN_AROUND,
    ),
    _tested(
        name="Qwen3.5",
        model_types=("qwen3_5", "qwen3_5_moe"),
        mapping="stretched, 2 x 2 patches merged; some layers of linear attention",
        geometry=patch_grid,
        plain_frame=_QWEN_FRAME,
        around=_QWEN_AROUND,
        masking="remove (drop alone: layers of linear attention), neutral, pixels",
    ),
    _tested(
        name="GLM-4V",
        model_types=("glm4v",),
        mapping="stretched, 2 x 2 patches merged, as many tokens as pixels ask for",
        geometry=patch_grid,
        plain_frame="[gMASK]<sop><|user|>\n{placeholder}{prompt}<|assistant|>\n",
        around=("<|begin_of_image|>", "<|end_of_image|>"),
    ),
    _tested(
        name="VipLLaVA",
        model_types=("vipllava",),
        mapping="one square grid, row by row",
        geometry=_llava_geometry,
        plain_frame="###Human: {placeholder}\n{prompt}###Assistant:",
    ),
    _tested(
        name="DeepSeek-VL",
        model_types=("deepseek_vl",),
        mapping="one square grid, the image padded to a square",
        geometry=letterbox,
        plain_frame="User: {placeholder}{prompt}\n\nAssistant:",
    ),
    _tested(
        name="Janus",
        model_types=("janus",),
        mapping="one square grid, the image padded to a square",
        geometry=letterbox,
        plain_frame="<|User|>: {placeholder}\n{prompt}\n\n<|Assistant|>:",
    ),
    _tested(
        name="Ovis2",
        model_types=("ovis2",),
        mapping="whole image, then its tiles",
        geometry=ovis_tiles,
        plain_frame=_CHATML.format(image="{placeholder}\n"),
    ),
    _tested(
        name="Aya Vision",
        model_types=("aya_vision",),
        mapping="tiles, then a thumbnail",
        geometry=canvas,
        masking="remove (block alone: windows count tokens), edges, neutral, pixels",
    ),
    _tested(
        name="Command A Vision",
        model_types=("cohere2_vision",),
        mapping="tiles, then a thumbnail",
        geometry=canvas,
        masking="remove (block alone: windows count tokens), edges, neutral, pixels",
        processor="the real processor; torchvision's resizing by torch",
    ),
    _tested(
        name="Llama 4",
        model_types=("llama4",),
        mapping="tiles of a padded image, then the whole image",
        geometry=llama4_tiles,
        plain_frame="<|header_start|>user<|header_end|>\n\n{placeholder}{prompt}<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n",
        masking="remove (block alone: chunks count tokens), edges, neutral, pixels",
        processor="the real processor; torchvision's resizing by torch",
    ),
    _tested(
        name="LFM2-VL",
        model_types=("lfm2_vl",),
        mapping="tiles, then the whole image; some layers of convolution",
        geometry=lfm2_tiles,
        plain_frame=_CHATML.format(image="{placeholder}"),
        masking="remove (drop alone: layers of convolution), neutral, pixels",
        processor="the real processor; torchvision's resizing by torch",
    ),
    _tested(
        name="Molmo 2",
        model_types=("molmo2",),
        mapping="whole image, then a finer canvas of it, 2 x 2 patches pooled; images look ahead",
        geometry=molmo_views,
        plain_frame="{placeholder}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        processor="the real processor; torchvision's resizing by torch",
        oldest="5.23.0",
    ),
    _tested(
        name="PerceptionLM",
        model_types=("perception_lm",),
        mapping="whole image, then its tiles; 2 x 2 patches pooled",
        geometry=perception_tiles,
        plain_frame="<|start_header_id|>user<|end_header_id|>\n\n{placeholder}{prompt}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        processor="the real processor; torchvision's resizing by torch; CLIP's tower for timm's",
    ),
    _tested(
        name="Gemma 3n",
        model_types=("gemma3n",),
        mapping="one square grid, row by row",
        geometry=square,
        plain_frame=_GEMMA_FRAME,
        masking="remove (block alone: windows count tokens), edges, neutral, pixels",
        processor="the real processor; a ConvNeXt tower in place of timm's",
    ),
    _tested(
        name="FastVLM",
        model_types=("fast_vlm",),
        mapping="one square grid, row by row",
        geometry=square,
        plain_frame=_CHATML.format(image="{placeholder}\n"),
        processor="the real processor; a ConvNeXt tower in place of timm's",
    ),
    _tested(
        name="Gemma 4",
        model_types=("gemma4",),
        mapping="stretched, 3 x 3 patches pooled, as many tokens as pixels ask for",
        geometry=gemma4_grid,
        plain_frame=_GEMMA_FRAME,
        oldest="5.23.0",
    ),
    _tested(
        name="BLIP-2",
        model_types=("blip-2",),
        mapping="learned queries without a place in the image; soft map from the Q-Former",
        geometry=no_grid,
        plain_frame="{prompt}",
        head=_language_model,
        soft_map="q-former",
        prepends=True,
        masking=_NO_PIXELS,
    ),
    _tested(
        name="InstructBLIP",
        model_types=("instructblip",),
        mapping="learned queries without a place in the image; soft map from the Q-Former",
        geometry=no_grid,
        plain_frame="{prompt}",
        head=_language_model,
        soft_map="q-former",
        prepends=True,
        masking=_NO_PIXELS,
    ),
    _tested(
        name="Idefics2",
        model_types=("idefics2",),
        mapping="learned queries (a Perceiver) without a place in the image",
        geometry=no_grid,
        plain_frame="User:{placeholder}{prompt}<end_of_utterance>\nAssistant:",
        masking=_NO_PIXELS,
    ),
    _tested(
        name="Aria",
        model_types=("aria",),
        mapping="learned queries (a resampler) without a place in the image",
        geometry=no_grid,
        plain_frame=_CHATML.format(image="{placeholder}"),
        masking=_NO_PIXELS,
    ),
    _tested(
        name="Mllama",
        model_types=("mllama",),
        mapping="no image tokens: words only; soft map from cross-attention",
        geometry=cross_attended,
        soft_map="cross-attention",
        plain_frame="{placeholder}{prompt}",
        masking="remove (drop, block), edges, neutral; words only, image cells cannot be masked",
    ),
)

_TEXT_TYPES = tuple(
    "llama qwen2 qwen3 mistral gemma gemma2 smollm3 phi phi3 granite olmo2 olmo3 cohere2 "
    "starcoder2 stablelm opt gpt_neox glm4 apertus nemotron".split()
)

TEXT = _tested(
    name="Text decoder",
    model_types=_TEXT_TYPES,
    mapping="no image: words only",
    geometry=_no_geometry,
    plain_frame="{prompt}",
    text_only=True,
    masking="remove (drop, block; with windows block alone), edges, neutral",
    processor="a byte-level tokenizer of their own",
)

# Types whose answer is written by a decoder that looks back at an encoder, or that have no
# attention interface in their language model: refused by name.
REFUSED = {
    "chameleon": "a model that looks its image tokens up in a codebook, without a vision tower",
    "emu3": "a model that looks its image tokens up in a codebook, without a vision tower",
    "fuyu": "a model without a vision tower",
    "gemma4_unified": "a model without a vision tower",
    "idefics": "a model that looks at its images by gated cross-attention of its own",
    "kosmos-2": "a model whose image tokens have no id of their own",
    "kosmos-2.5": "a model whose image tokens have no id of their own",
    "instructblipvideo": "a model of videos",
    "video_llava": "a model of videos",
    "evolla": "a model of proteins",
    "pi0": "a model that writes a robot's actions",
    "diffusion_gemma": "a model that does not write one token after the other",
    "florence2": "an encoder-decoder model",
    "pix2struct": "an encoder-decoder model",
    "pp_formulanet": "an encoder-decoder model",
    "t5gemma2": "an encoder-decoder model",
    "udop": "an encoder-decoder model",
    "vision-encoder-decoder": "an encoder-decoder model",
    "t5": "an encoder-decoder model",
    "bart": "an encoder-decoder model",
    "blip": "a model whose text decoder does not use the attention interface of transformers",
    "git": "a model whose text decoder does not use the attention interface of transformers",
}


def guess(model_type: str) -> Family:
    """Return the family of an unknown type: its geometry is read off a ramp, or it is refused."""
    return Family(
        name=f"unknown ({model_type})",
        model_types=(model_type,),
        mapping="read off a coordinate ramp, tile by tile",
        geometry=ramp_cells,
        guessed=True,
        tested="",
    )


def family_table() -> list[dict[str, Any]]:
    """Return one row of plain values per family, as ``causal-lvlm models`` prints them."""
    return [
        {
            "family": family.name,
            "types": list(family.model_types),
            "vision_types": list(family.vision_types),
            "status": family.status,
            "mapping": family.mapping,
            "masking": family.masking,
            "tower": family.tower,
            "processor": family.processor,
            "tested": family.tested,
            "oldest": family.oldest,
        }
        for family in (*FAMILIES, TEXT)
    ]


def supported_types() -> list[tuple[str, str]]:
    """Return every supported model type with the family that serves it."""
    return [(t, f.name) for f in (*FAMILIES, TEXT) for t in f.model_types]


def family_of(config: Any, given: Family | None = None) -> Family:
    """Return the family that serves a model.

    Parameters
    ----------
    config : PretrainedConfig or str
        The model's configuration, or its type.
    given : Family, optional
        The user's own entry, which comes before the table.

    Raises
    ------
    UnsupportedModelError
        If none does; the message says why.
    """
    model_type = config if isinstance(config, str) else getattr(config, "model_type", None)
    if given is not None:
        if model_type not in given.model_types:
            raise UnsupportedModelError(
                f"the family {given.name!r} serves {list(given.model_types)} and the model's type "
                f"is {model_type!r}; name it in the family's model_types"
            )
        return given
    vision = getattr(getattr(config, "vision_config", None), "model_type", None)
    serving = [family for family in (*FAMILIES, TEXT) if model_type in family.model_types]
    if _writes_with_an_encoder(config):  # BLIP-2 comes with either kind of language model
        serving = []
    # A family made for this vision tower comes before one that serves any.
    for family in sorted(serving, key=lambda f: not f.vision_types):
        if not family.vision_types or vision in family.vision_types:
            return family
    known = f"{TEXT.model_types[0]}, llava, qwen2_5_vl"
    advice = f"`causal-lvlm models` lists what is ({known}, ...)"
    reason = REFUSED.get(str(model_type))
    if reason is None and _writes_with_an_encoder(config):
        reason = "an encoder-decoder model"
    if reason is not None:
        raise UnsupportedModelError(
            f"models of type {model_type!r} are not supported: it is {reason}; {advice}"
        )
    if vision is not None and model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return guess(str(model_type))
    raise UnsupportedModelError(f"models of type {model_type!r} are not supported; {advice}")


def _writes_with_an_encoder(config: Any) -> bool:
    """Whether the answer is written by a decoder that looks back at a text encoder (BLIP-2, T5)."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    return any(bool(getattr(c, "is_encoder_decoder", False)) for c in (config, text))
