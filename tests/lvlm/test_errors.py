"""What is said when a model cannot be loaded: the errors of the hub, one by one."""

from __future__ import annotations

import json

import pytest
import transformers.utils.hub as hub
from huggingface_hub import errors

from causal_lvlm.errors import (
    ModelAccessError,
    ModelMemoryError,
    ModelNotFoundError,
    ModelOfflineError,
    PromptError,
    UnsupportedModelError,
)
from causal_lvlm.lvlm import LVLM, load_model, loading, unreadable
from tests.lvlm.helpers import noise_image
from tests.models import tiny_llava

NAME = "someone/some-model"


class Response:
    """As much of an answer of the hub as its errors look at."""

    request = None
    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, status):
        self.status_code = status


def answer(monkeypatch, error):
    """Let the hub answer every request for a file with an error."""

    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)


CASES = {
    "gated": (
        errors.GatedRepoError("403 Client Error", response=Response(403)),
        ModelAccessError,
        "is gated: accept its terms .*hf auth login.*HF_TOKEN",
    ),
    "refused": (
        errors.HfHubHTTPError("403 Client Error", response=Response(403)),
        ModelAccessError,
        "log in with",
    ),
    "not found": (
        errors.RepositoryNotFoundError("401 Client Error", response=Response(401)),
        ModelNotFoundError,
        f"no model '{NAME}'; check the spelling.*private, log in",
    ),
    "revision": (
        errors.RevisionNotFoundError("404 Client Error", response=Response(404)),
        ModelNotFoundError,
        "no revision 'v9'; give a branch, a tag or a commit",
    ),
    "no file": (
        errors.RemoteEntryNotFoundError("404 Client Error", response=Response(404)),
        UnsupportedModelError,
        "cannot be loaded",
    ),
    "not cached": (
        errors.LocalEntryNotFoundError("nothing in the cache"),
        ModelOfflineError,
        f"not on this machine and .*hf download {NAME}",
    ),
    "offline": (errors.OfflineModeIsEnabled("offline"), ModelOfflineError, "connect to"),
    "no network": (ConnectionError("no route to host"), ModelOfflineError, "not on this machine"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_answer_of_the_hub_has_one_helpful_error(case, monkeypatch):
    error, kind, message = CASES[case]
    answer(monkeypatch, error)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load_model(NAME, revision="v9")
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 400 and NAME in str(caught.value)
    assert caught.value.__cause__ is not None  # whoever wants the details has them


def test_offline_says_whether_it_is_a_setting_or_the_network(monkeypatch):
    answer(monkeypatch, errors.LocalEntryNotFoundError("nothing in the cache"))
    monkeypatch.setattr(unreadable.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelOfflineError, match="HF_HUB_OFFLINE is set"):
        load_model(NAME)
    monkeypatch.setattr(unreadable.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelOfflineError, match=r"revision 'v1'.*the hub cannot be reached"):
        load_model(NAME, revision="v1")


def test_a_name_that_cannot_be_a_hub_id():
    with pytest.raises(UnsupportedModelError, match=r"neither a folder here nor a hub id"):
        load_model("--wrong--name..")


def test_a_model_type_that_transformers_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "newer_than_this"}))
    with pytest.raises(UnsupportedModelError, match=r"transformers \d+\.\d+.*does not know its"):
        load_model(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model and its processor."""
    path = tmp_path_factory.mktemp("model")
    model, processor = tiny_llava(seed=13)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def without(folder, target, *names):
    """Copy a folder, some files left out."""
    for file in folder.iterdir():
        if file.name not in names:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_missing_processor_is_named(folder, tmp_path):
    without(folder, tmp_path, "processor_config.json", "preprocessor_config.json")
    with pytest.raises(UnsupportedModelError, match=r"no usable processor.*load_model\(\(model,"):
        load_model(tmp_path)


def test_missing_weights_are_not_blamed_on_the_processor(folder, tmp_path):
    without(folder, tmp_path, "model.safetensors")
    with pytest.raises(UnsupportedModelError, match="cannot be loaded") as caught:
        load_model(tmp_path)
    assert "processor" not in str(caught.value)


def test_too_little_memory_is_said_before_anything_is_read(folder, monkeypatch):
    count = sum(p.numel() for p in tiny_llava(seed=13)[0].parameters())
    monkeypatch.setattr(loading, "available_memory", lambda device: 4 * count - 1)
    forbidden = [loading.AutoProcessor, loading.AutoModelForImageTextToText]
    for kind in forbidden:
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ModelMemoryError, match=r"parameters and needs about .* in float32.*free"):
        load_model(folder)
    monkeypatch.undo()
    monkeypatch.setattr(loading, "available_memory", lambda device: 4 * count - 1)
    assert load_model(folder, dtype="bfloat16").dtype.itemsize == 2  # half is enough
    monkeypatch.setattr(loading, "available_memory", lambda device: None)
    load_model(folder)


def test_running_out_while_loading(folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(ModelMemoryError, match=r"ran out while loading.*bfloat16"):
        load_model(folder)


def test_a_missing_package_is_named(folder, monkeypatch):
    def fail(*_, **__):
        raise ImportError("Using `bitsandbytes` quantization requires bitsandbytes")

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(UnsupportedModelError, match=r"needs a package .*bitsandbytes"):
        load_model(folder)


def test_a_checkpoint_without_a_chat_template():
    lvlm = LVLM(*tiny_llava(seed=13, chat_template=False))
    trace = lvlm.run(noise_image(), "what color", max_new_tokens=2)
    assert trace.parameters["prompt_source"] != "chat_template"
    with pytest.raises(PromptError, match="no chat template"):
        lvlm.run(noise_image(), "what color", max_new_tokens=2, chat_template=True)


def test_a_budget_goes_with_the_model(folder):
    assert load_model(folder, max_memory="2GB").max_memory == 2 * 10**9
    assert load_model(tiny_llava(), max_memory=5).max_memory == 5
    assert load_model(folder).max_memory is None
    with pytest.raises(ValueError, match="max_memory must be"):
        load_model(folder, max_memory="much")
