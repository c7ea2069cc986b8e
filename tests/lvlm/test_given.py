"""What cannot be used is refused when it is loaded, with its reason first; wrappers are opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from causal_lvlm.errors import CaptureError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM, load_model
from causal_lvlm.lvlm.families import FAMILIES, Family, family_of
from tests.lvlm.families.test_families import case
from tests.lvlm.helpers import PROMPT, noise_image
from tests.models import tiny_llava


@pytest.fixture(scope="module")
def pair():
    """Return a model and its processor."""
    return tiny_llava(seed=13)


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    """Return a folder written by ``save_pretrained``."""
    path = tmp_path_factory.mktemp("given") / "good"
    pair[0].save_pretrained(path)
    pair[1].save_pretrained(path)
    return path


def on_meta(model: Any) -> Any:
    with torch.device("meta"):
        return type(model)(model.config)


WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a model alone": (lambda m, p: m, r"a LlavaForConditionalGeneration alone was given"),
    "the wrong way round": (lambda m, p: (p, m), "the pair is the wrong way round"),
    "three": (lambda m, p: (m, p, p), "a pair is needed, .* got 3"),
    "one": (lambda m, p: [m], "a pair is needed, .* got 1"),
    "no processor": (lambda m, p: (m, None), r"the processor of .* \(NoneType\) has no tokenizer"),
    "a tokenizer": (lambda m, p: (m, p.tokenizer), "a processor for image and text is needed"),
    "two processors": (lambda m, p: (p, p), "a model of transformers is needed"),
    "another module": (
        lambda m, p: (torch.nn.Linear(2, 2), p),
        "a model of transformers is needed",
    ),
    "no head": (lambda m, p: (m.model, p), "LlavaModel has no head that writes text"),
    "nowhere": (lambda m, p: (on_meta(m), p), "weights of the model are on the meta device"),
    "a configuration": (lambda m, p: m.config, "or as a pair, .* got LlavaConfig"),
    "bytes": (lambda m, p: b"folder", "or as a pair, .* got bytes"),
    "a number": (lambda m, p: 7, "or as a pair, .* got int"),
    "a dict": (lambda m, p: {"model": m, "processor": p}, "or as a pair, .* got dict"),
    "an address": (lambda m, p: "https://hub.example/a/b", "is an address; give the hub id"),
    "an endless name": (lambda m, p: "x" * 5000, r"\[. \d+ characters .\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_model_and_processor_is_refused(pair, name):
    make, message = WRONG[name]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load_model(make(*pair))
    assert len(str(caught.value)) < 600


def test_wrappers_are_opened(pair):
    model, processor = pair
    right = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=3)
    compiled: Any = torch.compile(torch.nn.DataParallel(model), backend="eager")
    wrapped = torch.nn.DataParallel(compiled)
    for given in ((wrapped, processor), [wrapped, processor]):
        lvlm = load_model(given)
        assert lvlm.model is model
        trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
        np.testing.assert_allclose(trace.log_probs, right.log_probs, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "meta"}, "device 'meta' holds shapes without values"),
        ({"device": None}, "device None cannot be used"),
        ({"dtype": None}, "dtype must be .* got None"),
        ({"dtype": 16}, "dtype must be .* got 16"),
        ({"dtype": torch.int8}, "dtype must be .* got torch.int8"),
        ({"dtype": "float8_e4m3fn"}, "dtype must be"),
    ],
    ids=str,
)
def test_options_that_cannot_be(folder, option, message):
    for name in (folder, None):
        with pytest.raises(ValueError, match=message):
            load_model(name, **option)


def edited(folder: Path, to: Path, **changes: Any) -> Path:
    """Return a copy with another ``config.json``."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    for name, value in changes.items():
        where = config["text_config"] if name.startswith("text_") else config
        where[name.removeprefix("text_") if where is not config else name] = value
    (to / "config.json").write_text(json.dumps(config))
    return to


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"model_type": "phi3_v"}, "does not know its type 'phi3_v'; a newer version may"),
    "unknown, with code": (
        {"model_type": "x", "auto_map": {"AutoConfig": "x.X"}},
        "does not know its type 'x'; it brings code of its own",
    ),
    "text": ({"text_hidden_size": "abc"}, "hidden_size.*expected int"),
    "negative": ({"text_hidden_size": -4}, r"cannot be loaded \("),
    "zero": ({"text_num_attention_heads": 0}, "ZeroDivisionError"),
    "other sizes": ({"text_intermediate_size": 24}, "weights have other sizes than its config"),
    "an activation": ({"text_hidden_act": "nope"}, "nope"),
    "quantised by a string": ({"quantization_config": "x"}, "cannot be loaded"),
    "another model": ({"model_type": "vipllava"}, r"lacks \d+ weights of its model|other sizes"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_that_cannot_be_read_says_why(folder, tmp_path, name, monkeypatch):
    changes, message = CONFIGS[name]
    path = edited(folder, tmp_path / "m", **changes)
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append("y") or "y")
    for trust in (False, True):  # code is not run for a type that is refused in any case
        with pytest.raises(UnsupportedModelError, match=message) as caught:
            load_model(path, trust_remote_code=trust)
        assert len(str(caught.value)) < 700
    assert not asked  # nor is anybody asked at the terminal


def test_weights_that_are_missing_or_damaged_are_not_made_up(folder, tmp_path):
    logging.set_verbosity_error()
    weights = load_file(folder / "model.safetensors")
    path = tmp_path / "m"
    shutil.copytree(folder, path)
    rest = {name: w for name, w in weights.items() if "lm_head" not in name}
    save_file(rest, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"lacks 1 weights .*lm_head"):
        load_model(path)
    for damaged in (b"junk" * 50, (folder / "model.safetensors").read_bytes()[:900]):
        (path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UnsupportedModelError, match="SafetensorError"):
            load_model(path)


def test_files_and_adapters_are_told_from_folders_of_models(folder, tmp_path):
    with pytest.raises(UnsupportedModelError, match="is a file; give the folder"):
        load_model(folder / "config.json")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="it holds an adapter"):
        load_model(tmp_path)


def test_the_reason_of_a_refusal_comes_first_and_the_list_is_a_command():
    kinds = ("Bert", "T5", "Blip", "VideoLlava")
    for config in (getattr(transformers, f"{kind}Config")() for kind in kinds):
        with pytest.raises(UnsupportedModelError) as caught:
            family_of(config)
        message = str(caught.value)
        assert message.startswith(f"models of type {config.model_type!r} are not supported")
        assert "`causal-lvlm models`" in message and len(message) < 250
    assert family_of("llava") is FAMILIES[0]


@pytest.mark.parametrize("error", [KeyError("pixel_values_images"), ValueError("no video")])
def test_a_type_nobody_has_tested_is_tried_at_load(monkeypatch, error):
    model, processor = tiny_llava(seed=5)
    own = Family("My LLaVA", ("llava",), "one square grid", FAMILIES[0].geometry)
    assert load_model((model, processor), family=own).family is own

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(type(processor), "__call__", refuse)
    with pytest.raises(UnsupportedModelError, match=r"^type 'llava' .* cannot be used: ") as caught:
        load_model((model, processor), family=own)
    assert str(error).strip("'") in str(caught.value)


def test_a_decoder_outside_the_attention_interface_is_refused_at_load(monkeypatch):
    lvlm = case("text_llama")[0]
    model = lvlm.model
    for layer in lvlm.decoder.layers:
        plain = {"forward": lambda hidden_states, **_: (hidden_states, None)}
        monkeypatch.setattr(layer.self_attn, "forward", plain["forward"])
    with pytest.raises(CaptureError, match="attention interface"):
        load_model((model, lvlm.processor))


def test_a_processor_of_another_model_is_noticed():
    lvlm = load_model((tiny_llava(seed=5)[0], tiny_llava(seed=5, tokenizer="byte")[1]))
    with pytest.raises(UnsupportedModelError, match="outside the vocabulary"):
        lvlm.run(noise_image(), "what ?", max_new_tokens=1)
