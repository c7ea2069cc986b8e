"""Whatever is put on the model is undone, also after an exception and with overlapping threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.attention_function import NAME, switched
from causal_lvlm.lvlm.threads import one_thread
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


def implementations(model):
    """Return the attention implementation of every configuration of a model."""
    config = model.config
    return (
        config._attn_implementation,
        config.text_config._attn_implementation,
        config.vision_config._attn_implementation,
    )


@pytest.mark.parametrize("original", ["sdpa", "eager"])
def test_implementation_is_restored_after_every_verb(original):
    model, processor = tiny_llava(seed=8)
    model.set_attn_implementation(original)
    before = implementations(model)
    assert before == (original,) * 3
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=3)
    target = trace.target(1)
    trace.attention()
    list(trace.iter_attention())
    next(trace.iter_attention())  # abandoned half-way
    trace.head_outputs()
    list(trace.backward(target, vision=True).vision())
    trace.evaluate(random_masks(trace, target, 4), target)
    assert implementations(model) == before


@pytest.mark.parametrize("verb", ["attention", "evaluate", "backward", "run"])
def test_implementation_is_restored_after_an_exception(verb):
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    target = trace.target(1)
    lvlm.attention_modules  # noqa: B018 (looked up once, and not what is tested here)
    seen = []

    def fail(*_):
        seen.append(implementations(model))
        raise RuntimeError("planned failure")

    handle = model.get_decoder().layers[1].register_forward_hook(fail)
    calls = {
        "attention": lambda: trace.attention(0),  # the last layer is kept by the run
        "evaluate": lambda: trace.evaluate(random_masks(trace, target, 4), target),
        "backward": lambda: trace.backward(target, vision=True),
        "run": lambda: lvlm.run(noise_image(), PROMPT, max_new_tokens=3),
    }
    with pytest.raises(RuntimeError, match="planned failure"):
        calls[verb]()
    handle.remove()
    assert seen[0][1] == NAME
    assert seen[0][2] == (NAME if verb == "backward" else "sdpa")
    assert implementations(model) == ("sdpa",) * 3
    trace.attention()  # and it still works


def test_two_threads_with_overlapping_exits():
    model, _ = tiny_llava(seed=8)
    config = model.config.text_config
    first_in, second_in = threading.Event(), threading.Event()
    first_out, release = threading.Event(), threading.Event()
    seen = {}

    def first():
        with switched([config]):
            first_in.set()
            assert second_in.wait(10)
        seen["after first left"] = config._attn_implementation
        first_out.set()

    def second():
        assert first_in.wait(10)
        with switched([config]):
            second_in.set()
            assert first_out.wait(10)
            seen["second still inside"] = config._attn_implementation
            release.wait(0.01)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(first), pool.submit(second)]:
            future.result(timeout=20)
    assert seen == {"after first left": NAME, "second still inside": NAME}
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize("original", ["sdpa", "eager"])
def test_concurrent_runs_on_one_model_give_what_they_give_alone(original):
    model, processor = tiny_llava(seed=8)
    model.set_attn_implementation(original)
    lvlm = LVLM(model, processor)
    images = [noise_image(seed=s) for s in range(4)]

    def work(image):
        trace = lvlm.run(image, PROMPT, max_new_tokens=3)
        target = trace.target(1)
        evaluation = trace.evaluate(random_masks(trace, target, 12), target)
        gradient = next(trace.backward(target).language()).gradient
        return trace.log_probs, trace.attention(), evaluation.margin, gradient

    alone = [work(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, images))
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
    assert np.abs(alone[0][1] - alone[1][1]).max() > 0.01
    assert implementations(model) == (original,) * 3


def test_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread(active=False):
            assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="planned"), one_thread():
            raise RuntimeError("planned")
        assert torch.get_num_threads() == 2
        LVLM(*tiny_llava()).run(noise_image(), PROMPT, max_new_tokens=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_number_of_threads_with_overlapping_exits():
    before = torch.get_num_threads()
    inside, leave = threading.Event(), threading.Event()
    seen: list[int] = []

    def other():
        with one_thread():
            inside.set()
            assert leave.wait(10)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    try:
        torch.set_num_threads(2)
        thread = threading.Thread(target=other)
        with one_thread():
            thread.start()
            assert inside.wait(10)
        assert torch.get_num_threads() == 2
        leave.set()
        thread.join(10)
        assert seen == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
