"""`load_model`: folders, objects, names, and what it says when it cannot."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, BertConfig, BertForMaskedLM
from transformers.utils import logging

from causal_lvlm.errors import CaptureError, ModelOfflineError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM, load_model, loading
from causal_lvlm.lvlm.families import FAMILIES, family_of
from tests.lvlm.helpers import PROMPT, noise_image
from tests.models import tiny_llava, word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder written by ``save_pretrained``."""
    path = tmp_path_factory.mktemp("model")
    model, processor = tiny_llava(seed=13)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_a_folder_gives_the_model_that_was_saved(folder):
    expected = LVLM(*tiny_llava(seed=13)).run(noise_image(), PROMPT, max_new_tokens=4)
    for name in (folder, str(folder)):
        lvlm = load_model(name)
        trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=4)
        assert trace.layout.tokens == expected.layout.tokens
        np.testing.assert_allclose(trace.log_probs, expected.log_probs, atol=1e-5)
        assert trace.model_id == str(folder)
    assert lvlm.dtype == torch.float32 and lvlm.device.type == "cpu"
    assert not any(p.requires_grad for p in lvlm.model.parameters())
    assert np.isfinite(trace.backward(0, vision=True).gradient_norm).all()


def test_options_are_passed_on(folder):
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype=torch.float64).dtype == torch.float64
    lvlm = load_model(folder, attn_implementation="eager", device="cpu")
    assert lvlm.text_config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="dtype must be"):
        load_model(folder, dtype="int8")
    absent = [] if torch.cuda.is_available() else ["cuda"]
    for device in ["toaster", *absent]:
        with pytest.raises(ValueError, match="cannot be used here"):
            load_model(folder, device=device)


def test_objects_in_memory():
    pair = tiny_llava(seed=13)
    lvlm = load_model(pair)
    assert lvlm.model is pair[0] and lvlm.processor is pair[1]
    facts = lvlm.describe()
    assert facts["model_type"] == "llava" and facts["layers"] == 3 and facts["heads"] == 4
    assert facts["parameters"] == sum(p.numel() for p in pair[0].parameters())


def test_unsupported_types_list_what_is_supported(tmp_path):
    config = BertConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=20,
    )
    text_model = BertForMaskedLM(config)
    text_model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"^models of type 'bert' are not supported; .*"
    ):
        load_model(tmp_path)
    with pytest.raises(UnsupportedModelError, match="`causal-lvlm models` lists what is"):
        LVLM(text_model, word_tokenizer())
    with pytest.raises(UnsupportedModelError, match="has no tokenizer"):
        LVLM(tiny_llava()[0], word_tokenizer())
    with pytest.raises(UnsupportedModelError, match="None"):
        family_of(None)
    assert family_of("llava") is FAMILIES[0]


def test_what_is_not_there_is_reported(tmp_path):
    for name in (tmp_path / "nothing", "./nothing", str(tmp_path / "nothing")):
        with pytest.raises(UnsupportedModelError, match="no model folder"):
            load_model(name)
    with pytest.raises(UnsupportedModelError, match="name is empty"):
        load_model("")
    with pytest.raises(UnsupportedModelError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_model(tmp_path)


def test_a_hub_name_that_cannot_be_reached_is_reported():
    with pytest.raises(ModelOfflineError, match="is not on this machine"):
        load_model("nobody/no-such-model")


def test_a_decoder_outside_the_attention_interface_is_refused(monkeypatch):
    lvlm = LVLM(*tiny_llava(seed=13))
    for layer in lvlm.decoder.layers:
        monkeypatch.setattr(
            layer.self_attn, "forward", lambda hidden_states, **_: (hidden_states, None)
        )
    with pytest.raises(CaptureError, match="attention interface"):
        lvlm.attention_modules  # noqa: B018


def test_layers_are_found_in_the_order_they_are_called():
    lvlm = LVLM(*tiny_llava(seed=13))
    assert list(lvlm.attention_modules) == [layer.self_attn for layer in lvlm.decoder.layers]
    assert lvlm.layer_indices([-1, 0]) == [2, 0] and lvlm.layer_indices(1) == [1]


@pytest.fixture
def bars_on():
    """Enable the bars of transformers, whatever the environment says."""
    enabled = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    yield
    if not enabled:
        logging.disable_progress_bar()


def current_hook():
    hook = logging.set_tqdm_hook(None)
    logging.set_tqdm_hook(hook)
    return hook


def test_loading_prints_no_bar_but_a_users_own_load_does(folder, bars_on, capfd):
    load_model(folder)
    load_model()
    assert "Loading weights" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled() and current_hook() is None
    AutoModelForImageTextToText.from_pretrained(folder)
    assert "Loading weights" in capfd.readouterr().err


def test_a_users_hook_sees_other_bars_and_is_put_back(folder, bars_on):
    seen = []

    def hook(factory, args, options):
        seen.append(options.get("desc"))
        return logging.EmptyTqdm(*args, **options)

    logging.set_tqdm_hook(hook)
    try:
        with loading._quiet():
            logging.tqdm(desc="Downloading")
            logging.tqdm(desc="Loading weights")
        load_model(folder)
        with pytest.raises(UnsupportedModelError):
            load_model("./nothing")
        assert current_hook() is hook
        assert seen == ["Downloading"]
    finally:
        logging.set_tqdm_hook(None)


def test_overlapping_loads_restore_the_hook_once_and_other_threads_keep_their_bars(bars_on):
    seen = []

    def hook(factory, args, options):
        seen.append(threading.current_thread().name)
        return logging.EmptyTqdm(*args, **options)

    inside, leave = threading.Event(), threading.Event()

    def load():
        with loading._quiet():
            logging.tqdm(desc="Loading weights")
            inside.set()
            leave.wait(10)

    logging.set_tqdm_hook(hook)
    try:
        thread = threading.Thread(target=load, name="ours")
        with loading._quiet():
            thread.start()
            assert inside.wait(10)
        other = threading.Thread(target=lambda: logging.tqdm(desc="Loading weights"), name="user")
        other.start()
        other.join()
        assert current_hook() is not hook  # one load is still under way
        leave.set()
        thread.join()
        assert current_hook() is hook
        assert seen == ["user"]
    finally:
        leave.set()
        logging.set_tqdm_hook(None)
