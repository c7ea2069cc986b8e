"""Run and capture beside plain generation, and beside capturing all layers.

``python -m experiments.capture_cost.capture`` measures four ways in processes of their own:

plain
    processor and ``generate`` with scaled-dot-product attention: what a user pays anyway.
ours
    `LVLM.run` (with its self-check) and the attention of the last layer.
all layers
    ``generate``, then one pass with ``output_attentions=True``: every layer's weights at once.
stitched
    ``generate(output_attentions=True)``, as LVLM-Interpret does.

and then a sequence of 3,000 tokens within a limit on memory, ours and with all layers.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable
from typing import Any

from experiments.capture_cost.common import (
    in_process,
    measured,
    picture,
    prompt_of,
    random_llava,
    save,
)

MODES = ("plain", "ours", "all layers", "stitched")
NEW = 60


def one(mode: str, layers: int, width: int, heads: int, words: int, limit_gb: float) -> None:
    """Measure one mode in this process and print a JSON line."""
    import torch

    from causal_lvlm.lvlm import LVLM

    model, processor = random_llava(layers=layers, width=width, heads=heads)
    image, prompt = picture(), prompt_of(words)
    text = f"USER: <image>\n{prompt} ASSISTANT:"

    def generate(new: int, **options: Any) -> tuple[Any, Any]:
        inputs = processor(images=[image], text=[text], return_tensors="pt")
        with torch.no_grad():
            found = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=new,
                return_dict_in_generate=True,
                **options,
            )
        return inputs, found

    def all_layers(new: int) -> Any:
        inputs, found = generate(new)
        model.set_attn_implementation("eager")
        sequence = found.sequences
        with torch.no_grad():
            return model(
                input_ids=sequence,
                attention_mask=torch.ones_like(sequence),
                pixel_values=inputs["pixel_values"],
                output_attentions=True,
                use_cache=False,
                logits_to_keep=new,
            ).attentions

    lvlm = LVLM(model, processor)

    def ours(new: int) -> Any:
        trace = lvlm.run(image, text, max_new_tokens=new)
        return trace.attention(-1)

    def stitched(new: int) -> Any:
        model.set_attn_implementation("eager")
        return generate(new, output_attentions=True)[1].attentions

    calls: dict[str, Callable[[int], Any]] = {
        "plain": generate,
        "ours": ours,
        "all layers": all_layers,
        "stitched": stitched,
    }
    row: dict[str, Any] = {"mode": mode, "layers": layers, "width": width, "heads": heads}
    if limit_gb:
        resource.setrlimit(resource.RLIMIT_AS, (int(limit_gb * 2**30), -1))
        row["limit_gb"] = limit_gb
    else:
        calls["plain"](2)  # the first call of anything pays for lazy imports and thread pools
    try:
        result, seconds, used, peak = measured(lambda: calls[mode](NEW))
    except (RuntimeError, MemoryError) as error:
        row["error"] = str(error).splitlines()[0][:120]
    else:
        row |= {"seconds": round(seconds, 2), "cpu_seconds": round(used, 2)}
        row |= {"peak_mb": round(peak / 2**20, 1)}
        if mode == "ours":
            row["tokens"] = int(result.shape[-1])
    print(json.dumps(row))


def main() -> None:
    """Measure all ways and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=MODES)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--limit-gb", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.layers, given.width, given.heads, given.words, given.limit_gb)
        return
    module = "experiments.capture_cost.capture"
    sizes = [f"--{k}={getattr(given, k)}" for k in ("layers", "width", "heads", "words")]
    lines: list[dict[str, Any]] = []
    for _ in range(given.repeats):
        for mode in MODES:  # in turns, so that a busy minute does not hit one mode only
            row = in_process(module, "--one", mode, *sizes)
            lines.append(row)
            print(row, flush=True)
    for mode in ("ours", "all layers"):
        row = in_process(
            module, "--one", mode, "--limit-gb=6", "--words=2360", "--width=128", "--heads=16"
        )
        lines.append(row)
        print(row, flush=True)
    plain, ours, every, steps = (
        {
            key: min(r[key] for r in lines if r["mode"] == mode and "limit_gb" not in r)
            for key in ("seconds", "cpu_seconds", "peak_mb")
        }
        for mode in MODES
    )
    extra = max(ours["peak_mb"] - plain["peak_mb"], 0.1)
    ratios = {
        "wall time, run + capture / plain generation": ours["seconds"] / plain["seconds"],
        "CPU time, run + capture / plain generation": ours["cpu_seconds"] / plain["cpu_seconds"],
        "extra memory, all layers / ours": (every["peak_mb"] - plain["peak_mb"]) / extra,
        "extra memory, stitched / ours": (steps["peak_mb"] - plain["peak_mb"]) / extra,
    }
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    lines.append({"ratios": {k: round(v, 2) for k, v in ratios.items()}})
    save("capture", lines)


if __name__ == "__main__":
    main()
