"""The answer is the model's plain argmax, whatever a checkpoint's generation settings ask for.

The reference is a loop by hand over the model's own forward pass, without ``generate`` or a cache.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import WatermarkingConfig

from causal_lvlm.cli.results import describe
from causal_lvlm.explanation import explain
from causal_lvlm.lvlm import LVLM, Trace
from causal_lvlm.reporting import report
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image
from tests.models import tiny_llava

LENGTH = 5
QUESTION = "what is it?"
# What each setting does with a model whose plain answer is `said` (token ids).
SETTINGS: dict[str, Any] = {
    "min_new_tokens": lambda said: 4,
    "min_length": lambda said: 500,
    "suppress_tokens": lambda said: said,
    "begin_suppress_tokens": lambda said: said[:1],
    "sequence_bias": lambda said: [[[token], -50.0] for token in set(said)],
    "bad_words_ids": lambda said: [[token] for token in set(said)],
    "forced_bos_token_id": lambda said: 9,
    "forced_eos_token_id": lambda said: 9,
    "guidance_scale": lambda said: 3.0,
    "num_return_sequences": lambda said: 2,
    "num_beams": lambda said: 3,
    "num_beam_groups": lambda said: 3,
    "diversity_penalty": lambda said: 2.0,
    "early_stopping": lambda said: True,
    "length_penalty": lambda said: -3.0,
    "stop_strings": lambda said: ["a", "e", "!"],
    "max_time": lambda said: 1e-9,
    "max_length": lambda said: 1,
    "max_new_tokens": lambda said: 1,
    "penalty_alpha": lambda said: 0.6,
    "dola_layers": lambda said: "high",
    "force_words_ids": lambda said: [[9]],
    "constraints": lambda said: [object()],
    "prompt_lookup_num_tokens": lambda said: 3,
    "assistant_early_exit": lambda said: 1,
    "num_assistant_tokens": lambda said: 3,
    "is_assistant": lambda said: True,
    "cache_implementation": lambda said: "static",
    "cache_config": lambda said: {"backend": "quanto"},
    "use_cache": lambda said: False,
    "do_sample": lambda said: True,
    "temperature": lambda said: 9.0,
    "top_k": lambda said: 1,
    "top_p": lambda said: 0.1,
    "min_p": lambda said: 0.5,
    "typical_p": lambda said: 0.2,
    "epsilon_cutoff": lambda said: 0.3,
    "eta_cutoff": lambda said: 0.3,
    "repetition_penalty": lambda said: 9.0,
    "no_repeat_ngram_size": lambda said: 1,
    "encoder_repetition_penalty": lambda said: 0.01,
    "encoder_no_repeat_ngram_size": lambda said: 1,
    "exponential_decay_length_penalty": lambda said: [1, 9.0],
    "renormalize_logits": lambda said: True,
    "remove_invalid_values": lambda said: True,
    "watermarking_config": lambda said: WatermarkingConfig(bias=50.0, seeding_scheme="selfhash"),
    "token_healing": lambda said: True,
    "prefill_chunk_size": lambda said: 2,
    "compile_config": lambda said: {"fullgraph": True},
    "disable_compile": lambda said: True,
    "return_dict_in_generate": lambda said: False,
    "output_scores": lambda said: True,
    "output_attentions": lambda said: True,
    "output_hidden_states": lambda said: True,
    "an_entry_of_its_own": lambda said: 3,
}
# In what form a result is returned: no word is lost about that.
OF_FORM = {
    "use_cache",
    "return_dict_in_generate",
    "output_scores",
    "output_attentions",
    "output_hidden_states",
}
# How long an answer may be is an argument of `run`: recorded, but nothing to remark on.
LENGTHS = {"max_length", "max_new_tokens"}


def by_hand(model: Any, inputs: dict[str, Any], n: int = LENGTH) -> list[int]:
    """Return the most likely tokens, one forward pass over the whole sequence for each."""
    said: list[int] = []
    with torch.no_grad():
        for _ in range(n):
            logits = model(**inputs, use_cache=False).logits
            said.append(int(logits[0, -1].argmax()))
            more = torch.tensor([said[-1:]])
            for name in ("input_ids", "attention_mask"):
                end = more if name == "input_ids" else torch.ones_like(more)
                inputs = {**inputs, name: torch.cat([inputs[name], end], dim=1)}
    return said


def models() -> dict[str, tuple[Any, Any, Any]]:
    """Return models, processors and images of three kinds, one with a `generate` inside."""
    image = noise_image((60, 60), seed=3)
    return {
        "text": (*BUILDERS["text_llama"](), None),
        "image and text": (*tiny_llava(seed=9, tokenizer="byte", chat_template=False), image),
        "a language model of its own": (*BUILDERS["blip2"](), image),
    }


@pytest.fixture(scope="module")
def kinds():
    """Return each kind with what it says by hand."""
    found = {}
    for name, (model, processor, image) in models().items():
        lvlm = LVLM(model, processor)
        trace = lvlm.run(image, QUESTION, max_new_tokens=LENGTH)
        said = by_hand(model, dict(trace.prepared.inputs))
        assert trace.layout.token_ids[trace.layout.n_prompt :].tolist() == said
        found[name] = lvlm, image, said
    return found


def holders(model: Any) -> list[Any]:
    """Return the modules that bring settings of generation."""
    return [m for m in model.modules() if vars(m).get("generation_config") is not None]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_nothing_and_is_said(kinds, name):
    for kind, (lvlm, image, said) in kinds.items():
        value = SETTINGS[name](said)
        before = [(m, m.generation_config) for m in holders(lvlm.model)]
        changed = []
        for module, own in before:
            module.generation_config = GenerationConfig(**own.to_dict())
            setattr(module.generation_config, name, value)
            changed.append(module.generation_config)
        try:
            trace = lvlm.run(image, QUESTION, max_new_tokens=LENGTH, strict=True)
            assert [m.generation_config for m in holders(lvlm.model)] == changed
            assert all(getattr(own, name) == value for own in changed)
        finally:
            for module, own in before:
                module.generation_config = own
        assert trace.layout.token_ids[trace.layout.n_prompt :].tolist() == said, kind
        assert set(trace.parameters["set_aside"]) == {name} - OF_FORM
        if name in OF_FORM | LENGTHS:
            assert not any("set aside" in remark for remark in trace.remarks)
        else:
            assert f"{name}=" in trace.remarks[0]
        json.dumps(trace.parameters, allow_nan=False)


def test_all_of_them_at_once_and_as_methods_of_the_checkpoint(kinds, monkeypatch):
    lvlm, image, said = kinds["image and text"]
    own = GenerationConfig(**lvlm.model.generation_config.to_dict())
    for name, make in SETTINGS.items():
        setattr(own, name, make(said))
    monkeypatch.setattr(lvlm.model, "generation_config", own)
    # So does transformers put a checkpoint's own function of generating on the object.
    theirs = functools.partial(pytest.fail, "the checkpoint's own code was called")
    monkeypatch.setattr(lvlm.model, "generate", theirs, raising=False)
    trace = lvlm.run(image, QUESTION, max_new_tokens=LENGTH, strict=True)
    assert trace.layout.token_ids[trace.layout.n_prompt :].tolist() == said
    assert set(trace.parameters["set_aside"]) == set(SETTINGS) - OF_FORM


def test_defaults_and_token_ids_are_nothing_to_speak_of(kinds):
    lvlm, image, _ = kinds["image and text"]
    own = lvlm.model.generation_config
    lvlm.model.generation_config = GenerationConfig(
        **{**own.to_dict(), "do_sample": False, "temperature": 1.0, "num_beams": 1, "top_k": 50}
    )
    try:
        trace = lvlm.run(image, QUESTION, max_new_tokens=2)
    finally:
        lvlm.model.generation_config = own
    assert trace.parameters["set_aside"] == {} and trace.remarks == ()


@pytest.mark.parametrize("kind", ["list", "number", "tensor"])
def test_stop_tokens_are_kept(kinds, kind):
    lvlm, image, said = kinds["image and text"]
    assert said[2] not in said[:2]
    own = lvlm.model.generation_config
    values = {"list": [3, said[2]], "number": said[2], "tensor": torch.tensor([said[2]])}
    lvlm.model.generation_config = GenerationConfig(pad_token_id=0)
    lvlm.model.generation_config.eos_token_id = values[kind]
    try:
        trace = lvlm.run(image, QUESTION, max_new_tokens=LENGTH)
    finally:
        lvlm.model.generation_config = own
    assert trace.layout.token_ids[trace.layout.n_prompt :].tolist() == said[:3]
    assert trace.parameters["finished"] is True


def test_what_was_set_aside_is_said_everywhere(kinds, tmp_path, monkeypatch):
    lvlm, image, _ = kinds["image and text"]
    own = GenerationConfig(**lvlm.model.generation_config.to_dict())
    own.repetition_penalty, own.suppress_tokens = 1.05, list(range(9000))
    monkeypatch.setattr(lvlm.model, "generation_config", own)
    trace = lvlm.run(image, QUESTION, max_new_tokens=2)
    (remark,) = trace.remarks
    assert "repetition_penalty=1.05" in remark and len(remark) < 250
    assert Trace.load(trace.save(tmp_path / "t.json")).remarks == trace.remarks
    explanation = explain(trace, 0, max_runs=6, n_random=0)
    assert f"  Note: {remark}." in describe(explanation).splitlines()
    page = report(trace, [explanation], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Note: the checkpoint&#x27;s own settings of generation were set aside" in page
    assert np.isfinite(trace.log_probs).all()


def test_a_generation_that_is_stopped_gives_the_settings_back(kinds):
    lvlm, image, _ = kinds["a language model of its own"]
    before = [m.generation_config for m in holders(lvlm.model)]
    assert len(before) == 2

    def stop(token_id: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lvlm.run(image, QUESTION, max_new_tokens=3, on_token=stop)
    assert all(m.generation_config is b for m, b in zip(holders(lvlm.model), before, strict=True))
