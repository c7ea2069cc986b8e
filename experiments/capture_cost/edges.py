"""A kept graph of ten nodes in 3,000 positions, beside a plain model under the same 4-D mask.

``python -m experiments.capture_cost.edges`` makes a random LLaVA with 55 x 55 image tokens and
draws kept graphs: nine sources, each with an edge into the target's row, some into each other.
Every other content edge is cut.

naive
    One full forward of the language model for each graph, on embeddings that are at hand, with an
    explicit additive mask (1, 1, T, T), asked for the last row's logits only.
ours
    `Trace.evaluate_edges` with `all_but`, which computes ancestors and frame alone. "First" is the
    first call on the trace: what the model's own mask allows is read from a plain run, and two rows
    are computed again over the whole sequence (`Evaluation.check`).

Seconds are CPU seconds of one thread. Answers must agree within the tolerance of that check.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.capture_cost.common import measured, picture, prompt_of, random_llava, save


def graphs(edges: Any, number: int, nodes: int) -> list[Any]:
    """Return pairs to keep, for each of some graphs: target's row and `nodes` - 1 sources."""
    rng = np.random.default_rng(0)
    target = edges.readers[0]
    sources = np.unique(edges.pairs[edges.pairs[:, 1] == target][:, 0])
    found = []
    for _ in range(number):
        chosen = np.sort(rng.choice(sources, nodes - 1, replace=False))
        pairs = [(int(s), target) for s in chosen]
        pairs += [(int(a), int(b)) for a, b in pairwise(chosen)]
        found.append(pairs)
    return found


def naive(trace: Any, edges: Any, pairs: Any, target: Any) -> float:
    """Return the target's log-probability of one full forward under an explicit mask."""
    import torch

    prepared, stop = trace.prepared, edges.stop
    seen = edges.allowed[:stop, :stop] & ~edges.content
    for source, reader in pairs:
        seen[reader, source] = True
    mask = torch.zeros(1, 1, stop, stop)
    mask.masked_fill_(~torch.tensor(seen)[None, None], torch.finfo(torch.float32).min)
    model = prepared.lvlm.model
    with torch.no_grad():
        states = model.get_decoder()(
            inputs_embeds=prepared.embeds[:, :stop], attention_mask=mask, use_cache=False
        ).last_hidden_state
        logits = model.get_output_embeddings()(states[:, -1])
    return float(logits[0].double().log_softmax(-1)[target.token_ids[0]])


def main() -> None:
    """Measure both and print the ratio."""
    import torch

    from causal_lvlm.edges import all_but
    from causal_lvlm.lvlm import LVLM
    from causal_lvlm.lvlm.spotcheck import tolerance_for

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=55, help="Image tokens along a side.")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--graphs", type=int, default=16)
    parser.add_argument("--naive-graphs", type=int, default=3, help="How many the plain way does.")
    parser.add_argument("--nodes", type=int, default=10)
    given = parser.parse_args()
    started = time.time()
    torch.set_num_threads(1)
    pixels = 14 * given.side
    model, processor = random_llava(
        layers=given.layers, width=given.width, heads=given.heads, image_size=pixels,
        vision_layers=2,
    )  # fmt: skip
    text = f"USER: <image>\n{prompt_of(60)} ASSISTANT:"
    lvlm = LVLM(model, processor)
    trace = lvlm.run(picture(size=(pixels, pixels)), text, max_new_tokens=4)
    target = trace.target(2)
    edges, _, allowed_cpu, _ = measured(lambda: trace.edges(target))
    kept = graphs(edges, given.graphs, given.nodes)
    cuts = [all_but(pairs) for pairs in kept]
    first, _, first_cpu, _ = measured(lambda: trace.evaluate_edges(cuts[:1], target))
    found, _, cpu, _ = measured(lambda: trace.evaluate_edges(cuts, target))
    few = kept[: given.naive_graphs]
    expected, _, naive_cpu, _ = measured(
        lambda: [naive(trace, edges, pairs, target) for pairs in few]
    )
    each, naive_each = cpu / given.graphs, naive_cpu / len(few)
    difference = float(np.abs(found.log_prob[: len(few)] - expected).max())
    line = {
        **vars(given),
        "positions": edges.stop,
        "frame": len(edges.frame),
        "content_edges": len(edges.pairs),
        "backend": found.backend,
        "allowed_cpu": round(allowed_cpu, 2),
        "first_call_cpu": round(first_cpu, 2),
        "ours_cpu_each": round(each, 4),
        "naive_cpu_each": round(naive_each, 3),
        "ratio": round(naive_each / each, 1),
        "ratio_of_all_first_calls": round(
            given.graphs * naive_each / (allowed_cpu + first_cpu + cpu), 1
        ),
        "difference": difference,
        "tolerance": tolerance_for(lvlm),
        "agrees": bool(difference <= tolerance_for(lvlm)),
        "check": None if first.check is None else first.check.agrees,
        "seconds": round(time.time() - started, 1),
    }
    print(json.dumps(line))
    save("edges", [line])


if __name__ == "__main__":
    main()
