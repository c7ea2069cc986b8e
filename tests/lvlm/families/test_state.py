"""Nothing stays on a user's model, and two threads do not see each other's masks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

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


def walked(lvlm: LVLM) -> set[int]:
    """Return the configurations of language model and tower by a walk through all modules."""
    parts = [lvlm.model.get_decoder()]
    configs = [lvlm.model.config.get_text_config()]
    if lvlm.family.text_only or configs[0] is lvlm.model.config:
        configs = [lvlm.model.config] * lvlm.family.text_only
    if not lvlm.family.text_only:
        parts.append(lvlm.model.get_encoder("image"))
    configs += [m.config for part in parts for m in part.modules() if hasattr(m, "config")]
    return {id(config) for config in configs}


@pytest.mark.parametrize("name", ["text_gemma2", *IMAGE_TEXT])
def test_nothing_stays_on_the_model(name):
    lvlm = LVLM(*BUILDERS[name]())
    before = state(lvlm)
    configs = lvlm.current_parts().configs(tower=True)
    assert {id(config) for config in configs} == walked(lvlm)
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


QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def holders(model: Any) -> list[Any]:
    """Return the modules that keep positions between calls."""
    return [m for m in model.modules() if "rope_deltas" in vars(m)]


@pytest.mark.parametrize("name", QWEN)
def test_a_run_in_between_does_not_move_the_positions_of_another(name):
    lvlm = LVLM(*BUILDERS[name]())
    images = [noise_image((100, 60)), noise_image((30, 30), seed=1)]
    alone = [lvlm.run(image, PROMPT, max_new_tokens=6) for image in images]
    assert holders(lvlm.model)
    begun, done = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        # In the middle of the first generation, give the second one time to get in between.
        if threading.current_thread().name == "first" and not begun.is_set():
            begun.set()
            done.wait(20)

    found: dict[str, Any] = {}

    def work(which: str, image: Any) -> None:
        found[which] = lvlm.run(image, PROMPT, max_new_tokens=6)
        if which == "second":
            done.set()

    handle = lvlm.decoder.register_forward_hook(wait)
    first = threading.Thread(target=work, args=("first", images[0]), name="first")
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=work, args=("second", images[1]), name="second")
    second.start()
    for thread in (first, second):
        thread.join(30)
    handle.remove()
    for which, expected in zip(("first", "second"), alone, strict=True):
        assert found[which].self_check.passed
        np.testing.assert_allclose(found[which].log_probs, expected.log_probs, atol=1e-5)


@pytest.mark.parametrize("name", QWEN)
def test_a_generation_of_the_users_own_goes_on_after_ours(name):
    lvlm = LVLM(*BUILDERS[name]())
    trace = lvlm.run(noise_image((100, 60)), PROMPT, max_new_tokens=4)
    model, ids = lvlm.model, torch.tensor(trace.layout.token_ids)[None]
    n_prompt = trace.layout.n_prompt

    def generate(between: Any) -> Any:
        inputs = lvlm.process(trace.images, trace.prompt).inputs
        with torch.no_grad():
            output = model(**inputs, use_cache=True)
            between()
            return model(
                input_ids=ids[:, n_prompt : n_prompt + 1],
                past_key_values=output.past_key_values,
                use_cache=True,
            ).logits

    expected = generate(lambda: None)

    def ours() -> None:
        other = lvlm.run(noise_image((30, 30)), PROMPT, max_new_tokens=2)
        other.evaluate(random_masks(other, other.target(1), 3), 1, masking="pixels-mean")

    torch.testing.assert_close(generate(ours), expected)
    # What belongs to a batch of two is no obstacle either, and stays.
    kept = torch.zeros(2, 1, dtype=torch.long)
    for holder in holders(model):
        holder.rope_deltas = kept
    ours()
    trace.evaluate(random_masks(trace, trace.target(1), 3), 1)
    assert all(holder.rope_deltas is kept for holder in holders(model))
