"""Nothing stays on a user's model: hooks, attributes, settings, weights; nor between two traces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from causal_lvlm.lvlm import LVLM
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


def state(model, processor):
    """Return all that could be left behind: hooks, attributes, settings, weights."""
    found = {}
    for name, module in model.named_modules():
        found[name] = (
            sorted(vars(module)),
            *(len(v) for k, v in sorted(vars(module).items()) if k.endswith("_hooks")),
            module.training,
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
    found["weights"] = {k: (v.clone(), v.requires_grad) for k, v in model.named_parameters()}
    found["config"] = model.config.to_dict()
    found["generation"] = model.generation_config.to_dict()
    found["processor"] = sorted(vars(processor)), sorted(vars(processor.image_processor))
    found["tokenizer"] = id(processor.tokenizer)
    found["gradients"] = [k for k, v in model.named_parameters() if v.grad is not None]
    found["global"] = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    return found


def assert_same(before, after):
    """Compare two states, weights bit for bit."""
    assert before.keys() == after.keys()
    for key in before.keys() - {"weights"}:
        assert before[key] == after[key], key
    for name, (weight, grad) in before["weights"].items():
        assert torch.equal(weight, after["weights"][name][0]) and grad == after["weights"][name][1]


VERBS = {
    "attention": lambda trace: trace.attention((0, -1)),
    "iter": lambda trace: list(trace.iter_attention()),
    "abandoned": lambda trace: next(trace.iter_attention()),
    "outputs": lambda trace: trace.head_outputs(0),
    "backward": lambda trace: list(trace.backward(1, vision=True).vision()),
    "remove": lambda trace: trace.evaluate(random_masks(trace, trace.target(1), 6), 1),
    "edges": lambda trace: trace.evaluate(
        random_masks(trace, trace.target(1), 6), 1, masking="edges"
    ),
    "pixels": lambda trace: trace.evaluate(
        random_masks(trace, trace.target(1), 6), 1, masking="pixels-blur"
    ),
    "run": lambda trace: trace.model.run(noise_image(seed=3), PROMPT, max_new_tokens=2),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_leaves_the_model_as_it_was(verb):
    model, processor = tiny_llava(seed=8)
    pixels = processor.image_processor(images=[noise_image()], return_tensors="pt")
    with torch.no_grad():  # transformers itself puts hooks on a tower that is used first
        model.get_image_features(pixel_values=pixels["pixel_values"])
    before = state(model, processor)
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=3)
    assert_same(before, state(model, processor))
    VERBS[verb](trace)
    assert_same(before, state(model, processor))


@pytest.mark.parametrize("where", ["tower", "first layer", "last layer", "head"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_exception_in_the_middle_leaves_the_model_as_it_was(verb, where):
    model, processor = tiny_llava(seed=8)
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=3)
    layers = model.get_decoder().layers
    modules = {
        "tower": model.get_encoder("image"),
        "first layer": layers[0],
        "last layer": layers[-1],
        "head": model.lm_head,
    }
    before = state(model, processor)

    def fail(*_):
        raise RuntimeError("planned failure")

    handle = modules[where].register_forward_hook(fail)
    failed = False
    try:
        VERBS[verb](trace)
    except RuntimeError as error:
        assert "planned failure" in str(error)
        failed = True
    handle.remove()
    # Image features are kept from the run; everything else is computed again by every verb.
    assert failed or where == "tower"
    assert_same(before, state(model, processor))
    VERBS[verb](trace)  # and it still works


def answers(trace):
    target = trace.target(1)
    evaluation = trace.evaluate(random_masks(trace, target, 8), target)
    return trace.attention((0, -1)), evaluation.margin, trace.backward(target).gradient_norm


def test_two_traces_of_one_model_do_not_disturb_each_other():
    lvlm = LVLM(*tiny_llava(seed=8))
    first = lvlm.run(noise_image(seed=1), PROMPT, max_new_tokens=3)
    expected = answers(first), [w for _, w in first.iter_attention()]
    second = lvlm.run(noise_image(seed=2), PROMPT, max_new_tokens=3)
    # One layer of the first, everything of the second, the next layer of the first, ...
    for (_, weights), alone in zip(first.iter_attention(), expected[1], strict=True):
        np.testing.assert_allclose(weights, alone, atol=1e-6)
        of_second = answers(second)
    for found, alone in zip(answers(first), expected[0], strict=True):
        np.testing.assert_allclose(found, alone, atol=1e-5)
    assert np.abs(of_second[0] - expected[0][0]).max() > 0.01


def test_one_trace_in_two_threads_gives_what_it_gives_alone():
    trace = LVLM(*tiny_llava(seed=8)).run(noise_image(), PROMPT, max_new_tokens=3)
    alone = answers(trace)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(answers, [trace] * 4))
    for found in together:
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_failing_thread_does_not_take_the_switch_from_a_working_one():
    model, processor = tiny_llava(seed=8)
    lvlm = LVLM(model, processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    expected = trace.attention((0, -1))
    before = state(model, processor)

    def work(fails):
        for _ in range(3):
            if fails:
                with pytest.raises(ValueError, match="planned"), lvlm.session():
                    raise ValueError("planned")
            else:
                np.testing.assert_allclose(trace.attention((0, -1)), expected, atol=1e-6)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [True, False, True, False]))
    assert_same(before, state(model, processor))


def test_another_attention_kernel_of_the_language_model_is_set_aside_and_put_back():
    plain = LVLM(*tiny_llava(seed=8)).run(noise_image(), PROMPT, max_new_tokens=3)
    model, processor = tiny_llava(seed=8)
    # Not installed here: any call that got through to it would fail.
    model.config.text_config._attn_implementation = "flash_attention_2"
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=3)
    assert trace.layout.tokens == plain.layout.tokens
    for found, expected in zip(answers(trace), answers(plain), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.config.text_config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("how", ["torch.compile(model)", "model.compile()"])
def test_a_compiled_model_is_run_uncompiled_and_stays_compiled(how):
    plain = LVLM(*tiny_llava(seed=8)).run(noise_image(), PROMPT, max_new_tokens=3)
    model, processor = tiny_llava(seed=8)
    compiled_calls = []

    def backend(graph, _inputs):
        compiled_calls.append(graph)
        return graph.forward

    if how == "model.compile()":
        model.compile(backend=backend)
        compiled = model
    else:
        compiled = torch.compile(model, backend=backend)
    lvlm = LVLM(compiled, processor)
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    assert not compiled_calls
    assert trace.layout.tokens == plain.layout.tokens
    for found, expected in zip(answers(trace), answers(plain), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not compiled_calls
    torch._dynamo.reset()
    with torch.no_grad():
        compiled(input_ids=torch.tensor([[5, 6, 7]]))
    assert compiled_calls  # still the user's compiled model
    torch._dynamo.reset()
