"""Nothing stays on a user's model, and two threads do not see each other's masks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.test_families import IMAGE_TEXT, PROMPT, case
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image, random_masks


def state(lvlm: LVLM) -> dict[str, Any]:
    """Return what a call could have left behind: hooks, implementations, the tokenizer."""
    modules = list(lvlm.model.modules())
    return {
        # Some towers keep hooks of transformers' own, which record hidden states.
        "hooks": [
            hook
            for m in modules
            for hook in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())
            if not hook.__module__.startswith("transformers.")
        ],
        "attention": [
            (id(m.config), m.config._attn_implementation)
            for m in modules
            if hasattr(m, "config") and hasattr(m.config, "_attn_implementation")
        ],
        "tokenizer": id(getattr(lvlm.processor, "tokenizer", lvlm.processor)),
    }


@pytest.mark.parametrize("name", ["text_gemma2", *IMAGE_TEXT])
def test_nothing_stays_on_the_model(name):
    lvlm = LVLM(*BUILDERS[name]())
    before = state(lvlm)
    image = None if name.startswith("text_") else noise_image((100, 60))
    trace = lvlm.run(image, PROMPT, max_new_tokens=3)
    trace.attention(-1)
    keep = random_masks(trace, trace.target(1), 3)
    trace.evaluate(keep, 1)
    assert state(lvlm) == before
    assert lvlm.describe()["layers"] == lvlm.text_config.num_hidden_layers
    decoder = lvlm.decoder
    forward = decoder.forward

    def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("broken in the middle")

    decoder.forward = broken
    with pytest.raises(RuntimeError, match="broken in the middle"):
        trace.prepared.logits(trace.prepared.embeds, trace.prepared.positions, 1)
    decoder.forward = forward
    assert state(lvlm) == before


@pytest.mark.parametrize("name", ["qwen3_vl", "paligemma2", "gemma3", "mllama"])
def test_two_threads_with_masks_of_their_own(name):
    _, trace = case(name)
    target = trace.target(3)
    masks = [random_masks(trace, target, 4, seed=seed) for seed in range(6)]
    alone = [trace.evaluate(keep, target).token_log_probs for keep in masks]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda k: trace.evaluate(k, target).token_log_probs, masks))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)
