"""64 masked rows beside a loop of full forward passes.

``python -m experiments.capture_cost.masked`` asks three questions of a random LLaVA with 576 image
tokens and a vocabulary of 32,000, about 640 tokens in all:

many image tokens masked
    200 of 576, drawn anew for each row.
late text masked
    some of the last 60 tokens, which the model generated.
few tokens kept
    the text and 40 image tokens.

The naive loop calls the model once per row on token ids and pixels, with the masked tokens switched
off in the attention mask. Ours is `Trace.evaluate` on a trace that was never asked before: the
stored prefix and the run-time check of the fast way are included. Answers must agree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from causal_lvlm.lvlm import LVLM
from experiments.capture_cost.common import picture, prompt_of, random_llava, save

GOALS = {"many image tokens masked": 4.0, "late text masked": 6.0, "few tokens kept": 10.0}


def masks(trace: Any, question: str, rows: int) -> Any:
    """Return keep masks (rows, T) of one question about the last generated token."""
    rng = np.random.default_rng(0)
    image = trace.layout.positions("image")
    generated = trace.layout.positions("generated")[-61:-2]  # not the predicting one
    keep = np.ones((rows, len(trace.layout)), dtype=bool)
    for row in keep:
        if question == "many image tokens masked":
            row[rng.choice(image, 200, replace=False)] = False
        elif question == "late text masked":
            row[rng.choice(generated, 20, replace=False)] = False
        else:
            row[rng.choice(image, len(image) - 40, replace=False)] = False
    return keep


def naive(model: Any, inputs: Any, trace: Any, keep: Any, target: Any, **options: Any) -> Any:
    """Return the target's log-probability under each mask, one full forward each."""
    device = inputs["pixel_values"].device
    ids = torch.tensor(trace.layout.token_ids.copy(), device=device)[None, : target.start]
    found = []
    with torch.no_grad():
        for row in keep:
            output = model(
                input_ids=ids,
                attention_mask=torch.tensor(row[None, : target.start], device=device).long(),
                position_ids=torch.arange(target.start, device=device)[None],
                pixel_values=inputs["pixel_values"],
                use_cache=False,
                **options,
            )
            found.append(output.logits[0, -1].double().log_softmax(-1)[target.token_ids[0]])
    return torch.stack(found).cpu().numpy()


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result, wall seconds and CPU seconds."""
    start, used = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - start, time.process_time() - used


def main() -> None:
    """Measure the three questions and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = random_llava(layers=given.layers, width=given.width, heads=given.heads)
    image, text = picture(), f"USER: <image>\n{prompt_of(1)} ASSISTANT:"
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    lvlm = LVLM(model, processor)
    lines: list[dict[str, Any]] = []
    for question, goal in GOALS.items():
        trace = lvlm.run(image, text, max_new_tokens=60)
        target = trace.target(len(trace.layout) - trace.layout.n_prompt - 1)
        keep = masks(trace, question, given.rows)

        def ours(trace: Any = trace, keep: Any = keep, target: Any = target) -> Any:
            return trace.evaluate(keep, target)

        def loop(trace: Any = trace, keep: Any = keep, target: Any = target, **options: Any) -> Any:
            return naive(model, inputs, trace, keep, target, **options)

        first, first_wall, first_cpu = timed(ours)
        _, _, again_cpu = timed(ours)
        expected, full_wall, full_cpu = timed(loop)
        _, _, kept_cpu = timed(partial(loop, logits_to_keep=1))
        row = {
            "question": question,
            "tokens": len(trace.layout),
            "rows": given.rows,
            "backend": first.check.way if first.check else first.backend,
            "largest_batch": first.largest_batch,
            "difference": float(np.abs(first.log_prob - expected).max()),
            "ours_wall": round(first_wall, 2),
            "ours_cpu": round(first_cpu, 2),
            "ours_again_cpu": round(again_cpu, 2),
            "naive_wall": round(full_wall, 2),
            "naive_cpu": round(full_cpu, 2),
            "naive_last_row_cpu": round(kept_cpu, 2),
            "ratio_wall": round(full_wall / first_wall, 2),
            "ratio_cpu": round(full_cpu / first_cpu, 2),
            "ratio_cpu_last_row_only": round(kept_cpu / first_cpu, 2),
            "goal": goal,
        }
        lines.append(row)
        print(
            f"{question}: {row['ratio_wall']} x (wall), {row['ratio_cpu']} x (CPU) the naive loop, "
            f"goal {goal:.0f} x; {row['ratio_cpu_last_row_only']} x where the loop asks for the "
            f"last row's logits only; ours {row['ours_cpu']} s, by {row['backend']}, answers "
            f"within {row['difference']:.1e}",
            flush=True,
        )
    save("masked", lines)


if __name__ == "__main__":
    main()
