"""Prompts longer than the model's context are refused before it runs; up to it they are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from causal_lvlm.errors import PromptError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.length import context_length
from tests.lvlm.families import tiny
from tests.lvlm.helpers import noise_image
from tests.models import tiny_llava

LIMIT = 40


def short_text_model(kind: str, monkeypatch: Any, **options: Any) -> LVLM:
    """Return a text model of few positions."""
    monkeypatch.setitem(tiny.TEXT, "max_position_embeddings", LIMIT)
    for name, value in options.items():
        monkeypatch.setitem(tiny.TEXT, name, value)
    return LVLM(*tiny.text_model(kind)())


def calls_of(lvlm: LVLM) -> list[str]:
    """Return a list that grows whenever the language model is called."""
    seen: list[str] = []
    lvlm.decoder.register_forward_pre_hook(lambda module, args: seen.append(type(module).__name__))
    return seen


# Rotary positions; a table of them, which ends in an error of indexing; windows shorter than that.
@pytest.mark.parametrize(
    ("kind", "options"),
    [("Llama", {}), ("OPT", {}), ("Mistral", {"sliding_window": 8}), ("GPTNeoX", {})],
)
def test_the_limit_is_exact(kind, options, monkeypatch):
    lvlm = short_text_model(kind, monkeypatch, **options)
    seen = calls_of(lvlm)
    for n_words, n_new, advice in (
        (LIMIT + 1, 1, "shorten the prompt, or"),
        (LIMIT, 1, "shorten the prompt, or"),
        (LIMIT - 4, 5, "max_new_tokens=4 or less"),
        (4, 60, "max_new_tokens=36 or less"),
    ):
        message = rf"has {n_words} tokens .* {n_words + n_new} in all, but .* takes {LIMIT}; .*"
        with pytest.raises(PromptError, match=message + advice):
            lvlm.run(None, "a" * (n_words - 1), max_new_tokens=n_new)
    assert not seen  # nothing ran
    trace = lvlm.run(None, "a" * (LIMIT - 5), max_new_tokens=4)
    assert len(trace.layout) == LIMIT and trace.self_check.passed and seen


def test_tokens_of_images_count(monkeypatch):
    model, processor = tiny_llava(seed=3)
    model.config.text_config.max_position_embeddings = 20
    lvlm = LVLM(model, processor)
    with pytest.raises(PromptError, match=r"has 19 tokens .* 21 in all, but .* takes 20"):
        lvlm.run(noise_image(), "<image> what ?", max_new_tokens=2, chat_template=False)
    model.config.text_config.max_position_embeddings = 21
    trace = lvlm.run(noise_image(), "<image> what ?", max_new_tokens=2, chat_template=False)
    assert len(trace.layout) == 21
    # Put to a model with fewer positions, the sequence is refused, too.
    other, _ = tiny_llava(seed=3)
    other.config.text_config.max_position_embeddings = 20
    with pytest.raises(UnsupportedModelError, match=r"21 in all, but .* takes 20"):
        trace.on(LVLM(other, processor))


# Dynamic positions move with every token, so that one pass repeats no generation beyond the length
# the model was trained with: its self-check says so.
@pytest.mark.filterwarnings("ignore:the self-check:UserWarning")
@pytest.mark.parametrize("scaling", ["yarn", "dynamic", "linear"])
def test_what_a_scaled_model_takes_is_not_refused(scaling, monkeypatch):
    rope = {"rope_type": scaling, "factor": 2.0, "rope_theta": 10000.0}
    lvlm = short_text_model("Llama", monkeypatch, rope_parameters=rope)
    trace = lvlm.run(None, "a" * 70, max_new_tokens=4)
    assert len(trace.layout) == 75
    with pytest.raises(PromptError, match="takes 80"):
        lvlm.run(None, "a" * 90, max_new_tokens=4)


@pytest.mark.parametrize(
    ("positions", "rope", "known"),
    [
        (512, None, 512),
        (512, {"rope_type": "default"}, 512),
        # The positions are those it was trained with, or those it has with its scaling.
        (512, {"rope_type": "yarn", "factor": 4.0}, 2048),
        (2048, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        (512, {"type": "dynamic", "factor": 2.0}, 1024),
        (512, {"rope_type": "longrope", "original_max_position_embeddings": 128}, 512),
        (512, {"rope_type": "longrope", "factor": 8.0}, 4096),
        # The factor is about frequencies.
        (512, {"rope_type": "llama3", "factor": 32.0}, 512),
        # One set for each kind of layer.
        (512, {"full_attention": {"rope_type": "linear", "factor": 8.0}}, 4096),
        (512, {"rope_type": "yarn", "factor": None}, 512),
        (None, {"rope_type": "yarn", "factor": 2.0}, None),
        (0, None, None),
    ],
)
def test_context_length(positions, rope, known):
    for name in ("rope_parameters", "rope_scaling"):
        config = SimpleNamespace(**{"max_position_embeddings": positions, name: rope})
        assert context_length(config) == known


def test_other_names_of_the_length():
    assert context_length(transformers.GPT2Config(n_positions=64)) == 64
    assert context_length(transformers.OPTConfig(max_position_embeddings=64)) == 64
    assert context_length(transformers.BloomConfig()) is None  # attention biased by distance
