"""Files are whole or not there, and errors say what to do."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from causal_lvlm.errors import OutputError
from causal_lvlm.storage import (
    decode_image,
    encode_image,
    output_folder,
    read_json,
    to_jsonable,
    versions,
    write_bytes,
    write_json,
)


def test_json_round_trip_with_numpy_values(tmp_path):
    value = {"kind": "x", "a": np.arange(3), "b": np.float32(0.5), "c": (1, {"d": np.nan})}
    back = read_json(write_json(tmp_path / "sub" / "x.json", value), "x")
    assert back == {"kind": "x", "a": [0, 1, 2], "b": 0.5, "c": [1, {"d": None}]}
    assert to_jsonable({3, 1, 2}) == [1, 2, 3]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "a.bin", b"old")

    def broken(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", broken)
    with pytest.raises(OutputError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_unusable_folder_is_refused_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to the folder"):
        output_folder(tmp_path / "file")
    assert output_folder(tmp_path / "new" / "deep").is_dir()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kind": "other"}'])
def test_reading_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(OutputError, match=r"x\.json"):
        read_json(tmp_path / "x.json", "explanation")
    with pytest.raises(OutputError):
        read_json(tmp_path / "missing.json", "explanation")


def test_images_survive_encoding():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode_image(encode_image(Image.fromarray(pixels)))), pixels)


def test_versions_name_what_results_depend_on():
    assert {"python", "numpy", "torch", "transformers"} <= set(versions())
