"""A model is used in evaluation mode, whatever the caller set, and found again as it was left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.lvlm import LVLM, load_model
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


def model_with_dropout() -> tuple[Any, Any]:
    """Return a model whose answers vary in training mode."""
    model, processor = tiny_llava(seed=8)
    for config in (model.config.text_config, model.config.vision_config):
        config.attention_dropout = 0.5
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    return model.eval(), processor


def everything(lvlm: LVLM) -> list[Any]:
    """Return what all kinds of verbs say."""
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    target = trace.target(1)
    layers = list(trace.backward(target, vision=True).language())
    return [
        trace.log_probs,
        trace.attention(0),
        trace.evaluate(random_masks(trace, target, 4), target).margin,
        *(layer.gradient for layer in layers),
    ]


@pytest.fixture(scope="module")
def loaded():
    """Return a model and what it says in evaluation mode."""
    pair = model_with_dropout()
    lvlm = load_model(pair)
    return lvlm, everything(lvlm)


def flags(model: Any) -> list[Any]:
    """Return all that a call must leave alone."""
    return [
        [
            (m.training, getattr(m, "gradient_checkpointing", None), sorted(vars(m)))
            for m in model.modules()
        ],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [vars(m.config).copy() for m in model.modules() if hasattr(m, "config")],
    ]


def checkpointed(model: Any) -> None:
    model.gradient_checkpointing_enable()
    model.train()


def one_submodule(model: Any) -> None:
    model.get_decoder().layers[1].self_attn.train()


def wrong_way_round(model: Any) -> None:
    model.train()
    model.get_decoder().layers[0].eval()
    model.training = False


def frozen_in_part(model: Any) -> None:
    model.train()
    for number, weight in enumerate(model.parameters()):
        weight.requires_grad_(number % 2 == 0)


def returns_tuples(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.return_dict = False
            module.config.output_hidden_states = True


STATES: dict[str, Callable[[Any], Any]] = {
    "train": lambda model: model.train(),
    "gradient checkpointing": checkpointed,
    "one submodule": one_submodule,
    "all but one": wrong_way_round,
    "partly frozen": frozen_in_part,
    "tuples": returns_tuples,
}


def undo(model: Any) -> None:
    model.eval()
    model.gradient_checkpointing_disable()
    model.requires_grad_(True)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.return_dict, module.config.output_hidden_states = True, False


@pytest.mark.parametrize("name", STATES)
def test_a_state_changes_nothing_and_stays(loaded, name):
    lvlm, right = loaded
    STATES[name](lvlm.model)
    before = flags(lvlm.model)
    try:
        found = everything(lvlm)
        assert flags(lvlm.model) == before
        # Handed over in that state, too.
        again = everything(load_model((lvlm.model, lvlm.processor)))
        assert flags(lvlm.model) == before
    finally:
        undo(lvlm.model)
    for a, b, c in zip(right, found, again, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)
        np.testing.assert_allclose(c, a, atol=1e-6)


def test_the_state_matters_without_a_session(loaded):
    lvlm, _ = loaded
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=1)
    lvlm.model.train()
    try:
        with torch.no_grad():
            logits = [lvlm.model(**trace.prepared.inputs).logits for _ in range(2)]
    finally:
        lvlm.model.eval()
    assert (logits[0] - logits[1]).abs().max() > 0.01


@pytest.mark.parametrize("verb", ["run", "attention", "evaluate", "backward"])
def test_the_state_is_put_back_after_an_exception(loaded, verb):
    lvlm, _ = loaded
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    target = trace.target(1)
    checkpointed(lvlm.model)
    before = flags(lvlm.model)
    seen = []

    def fail(module: Any, *_: Any) -> None:
        seen.append(module.training)
        raise RuntimeError("planned failure")

    handle = lvlm.model.get_decoder().layers[1].register_forward_hook(fail)
    calls = {
        "run": lambda: lvlm.run(noise_image(), PROMPT, max_new_tokens=3),
        "attention": lambda: trace.attention(0),
        "evaluate": lambda: trace.evaluate(random_masks(trace, target, 4), target),
        "backward": lambda: trace.backward(target),
    }
    try:
        with pytest.raises(RuntimeError, match="planned failure"):
            calls[verb]()
        handle.remove()
        assert seen == [False] and flags(lvlm.model) == before
    finally:
        undo(lvlm.model)


MODES: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "plain": nullcontext,
}


@pytest.mark.parametrize("name", MODES)
def test_the_callers_modes_change_nothing(loaded, name):
    lvlm, right = loaded
    with MODES[name]():
        found = everything(lvlm)
        trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
        assert torch.is_inference_mode_enabled() == (name == "inference mode")
        assert torch.is_autocast_enabled("cpu") == (name == "autocast")
    for a, b in zip(right, found, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)
    # What was asked inside can be gone on with outside.
    list(trace.backward(trace.target(1)).language())


def test_a_default_number_format_changes_nothing(loaded):
    lvlm, right = loaded
    torch.set_default_dtype(torch.float64)
    try:
        found = everything(lvlm)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(right, found, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


def test_weights_loaded_in_inference_mode_can_be_differentiated():
    with torch.inference_mode():
        lvlm = load_model()
    trace = lvlm.run(noise_image(), "what color is the circle ?", max_new_tokens=2)
    assert np.isfinite(trace.backward(0).gradient_norm).all()
