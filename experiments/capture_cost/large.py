"""The sizes of LLaVA-1.5-7B with random weights: times and memory on a GPU (or anything smaller).

``python -m experiments.capture_cost.large --device cuda --dtype bfloat16`` measures, after one call
of each to warm up: plain generation of 60 tokens; `LVLM.run` and the last layer's attention; one
pass with ``output_attentions=True``; 64 masked rows, and a loop of full forwards over them.

``--layers 2 --width 256 --vision-layers 2 --device cpu --dtype float32`` is the same on a small
machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from causal_lvlm.lvlm import LVLM
from experiments.capture_cost.common import measured, picture, prompt_of, save
from experiments.capture_cost.masked import GOALS, masks, naive
from tests.models import tiny_llava

NEW = 60


def build(given: argparse.Namespace) -> tuple[Any, Any]:
    """Return a random LLaVA of the given sizes on its device, and a processor."""
    processor = tiny_llava(image_size=336, patch=14)[1]
    heads = max(1, given.width // 128)
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=given.width,
            intermediate_size=int(given.width * 2.6875),
            num_hidden_layers=given.layers,
            num_attention_heads=heads,
            vocab_size=32_064,
            max_position_embeddings=4096,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=min(1024, given.width),
            intermediate_size=4 * min(1024, given.width),
            num_hidden_layers=given.vision_layers,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    dtype = getattr(torch, given.dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(given.device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None
    known = len(processor.tokenizer)
    model.lm_head.weight[known:] = 0  # never generated: the tokenizer has no text for them
    model.lm_head.weight[:5] = 0
    return model, processor


def cost(call: Callable[[], Any], device: str) -> tuple[Any, dict[str, float]]:
    """Return the result, seconds and the most memory above the start."""
    if device == "cpu":
        result, seconds, _, peak = measured(call)
    else:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() - base
    return result, {"seconds": round(seconds, 3), "peak_mb": round(peak / 2**20, 1)}


def main() -> None:
    """Measure and print JSON lines and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--vision-layers", type=int, default=24)
    parser.add_argument("--rows", type=int, default=64)
    given = parser.parse_args()
    model, processor = build(given)
    lvlm = LVLM(model, processor)
    image, text = picture(), f"USER: <image>\n{prompt_of(30)} ASSISTANT:"
    inputs = processor(images=[image], text=[text], return_tensors="pt").to(given.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)

    def plain() -> Any:
        with torch.no_grad():
            return model.generate(
                **inputs, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
            )

    def ours() -> Any:
        trace = lvlm.run(image, text, max_new_tokens=NEW)
        return trace, trace.attention(-1)

    def every_layer() -> Any:
        sequence = plain()
        implementation = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                return model(
                    input_ids=sequence,
                    pixel_values=inputs["pixel_values"],
                    output_attentions=True,
                    use_cache=False,
                    logits_to_keep=1,
                ).attentions
        finally:
            model.set_attn_implementation(implementation)

    found: dict[str, dict[str, Any]] = {}
    for name, call in (("plain", plain), ("run + capture", ours), ("all layers", every_layer)):
        call()
        result, found[name] = cost(call, given.device)
        if name == "run + capture":
            check = result[0].self_check
            found[name]["self_check"] = check.passed
            found[name]["largest_gap"] = round(check.largest_gap, 4)
        del result
        print(json.dumps({"what": name, **found[name]}), flush=True)
    for question in GOALS:
        trace = lvlm.run(image, text, max_new_tokens=NEW)
        target = trace.target(len(trace.layout) - trace.layout.n_prompt - 1)
        keep = masks(trace, question, given.rows)
        result, row = cost(
            partial(trace.evaluate, keep, target),
            given.device,
        )
        expected, loop = cost(
            partial(naive, model, inputs, trace, keep, target),
            given.device,
        )
        row |= {
            "naive_seconds": loop["seconds"],
            "ratio": round(loop["seconds"] / row["seconds"], 2),
            "way": result.check.way if result.check else result.backend,
            "agrees": result.check is None or result.check.agrees,
            "largest_batch": result.largest_batch,
            "halvings": result.halvings,
            "difference": float(np.abs(result.log_prob - expected).max()),
        }
        found[question] = row
        print(json.dumps({"what": question, **row}), flush=True)
    ratio = found["run + capture"]["seconds"] / found["plain"]["seconds"]
    print(f"run + capture / plain generation: {ratio:.2f} x the time")
    save("large", [vars(given), *({"what": k, **v} for k, v in found.items())])


if __name__ == "__main__":
    main()
