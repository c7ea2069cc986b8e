"""Everything that people hand in as a picture: opened, or refused with what to do."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from causal_lvlm.app import uploads
from causal_lvlm.errors import ImageError
from causal_lvlm.lvlm import images
from causal_lvlm.lvlm.images import frames_remark, open_image, open_images
from causal_lvlm.rasters import FORMATS

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(2, 0, 1)


def encoded(pixels=PIXELS, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer


ARRAYS: dict[str, Any] = {
    "tensor": torch.tensor(PIXELS),
    "planes": torch.tensor(PLANES),
    "planes of floats": torch.tensor(PLANES) / 255.0,
    "double": torch.tensor(PLANES).double() / 255.0,
    "batch of one": (torch.tensor(PLANES) / 255.0)[None],
    "batch of one, channels last": torch.tensor(PIXELS)[None],
    "with gradient": (torch.tensor(PLANES) / 255.0).requires_grad_(),
    "integers": torch.tensor(PLANES).long(),
    "array of planes": PLANES,
    "array of one": PIXELS[None],
    "array of one of planes": PLANES[None],
    "half": (PIXELS / 255.0).astype(np.float16),
    "big-endian": PIXELS.astype(">u2") * 257,
    "masked": np.ma.masked_array(PIXELS),
    "buffer, written to its end": encoded(),
    "buffer": io.BytesIO(encoded().getvalue()),
    "memory": memoryview(encoded().getvalue()),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_tensors_and_buffers(kind):
    found = np.asarray(open_image(ARRAYS[kind])).astype(int)
    assert np.abs(found - PIXELS).max() <= (1 if kind == "half" else 0)


def test_bfloat16_keeps_what_it_has():
    found = np.asarray(open_image((torch.tensor(PLANES) / 255.0).bfloat16())).astype(int)
    assert np.abs(found - PIXELS).max() <= 1


@pytest.mark.parametrize("shape", [(1, 8, 12), (8, 12, 1), (8, 12), (1, 1, 8, 12), (1, 8, 12, 1)])
@pytest.mark.parametrize("make", [torch.tensor, np.asarray])
def test_grey_in_every_shape(shape, make):
    grey = PIXELS[:, :, 0]
    assert (np.asarray(open_image(make(grey.reshape(shape))))[:, :, 1] == grey).all()


def test_where_either_axis_could_be_channels():
    """Torch has channels first, numpy last."""
    values = np.zeros((3, 5, 4), np.uint8)
    assert open_image(values).size == (5, 3) and open_image(torch.tensor(values)).size == (4, 5)


def test_open_files_at_any_position(tmp_path):
    path = tmp_path / "ä b.png"
    path.write_bytes(encoded().getvalue())
    with path.open("rb") as stream:
        stream.seek(5)
        first, second = open_images([stream, stream])
        assert stream.tell() == 5
    assert (np.asarray(first) == PIXELS).all() and (np.asarray(second) == PIXELS).all()
    for address in (path.as_uri(), f"file:{path.as_uri()[7:]}", f"file://localhost{path}"):
        assert (np.asarray(open_image(address)) == PIXELS).all()


class Stream:
    """A body that comes over a network: it can be read once."""

    def read(self):
        return encoded().getvalue()


def test_streams_without_position():
    assert open_image(Stream()).size == (12, 8)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ("https://example.org/a.png", "not fetched from addresses: download it"),
        (Path("https://example.org/a.png"), "not fetched"),
        ("s3://bucket/a.png", "not fetched"),
        ("data:image/png;base64,iVBORw0KGgo=", r"base64\.b64decode"),
        ("file://elsewhere/a.png", "another machine"),
        ("", "is empty"),
        ("a\0b.png", "does not exist"),
        ("a\ud800.png", "does not exist"),
        ("iVBORw0KGgo" * 1000, r"'iVBO.{20,200} does not exist"),
        (io.StringIO("text"), "mode 'rb'"),
        (PIXELS.astype(object), "numbers, not object"),
        (PIXELS.astype(str), "numbers, not <U3"),
        (PIXELS.astype("M8[D]"), "numbers, not datetime64"),
        (PIXELS.astype("m8[s]"), "numbers, not timedelta64"),
        (PIXELS + 0j, "numbers, not complex128"),
        (np.zeros((4, 4), [("r", "u1")]), "must hold numbers"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "numbers, not complex64"),
        (torch.empty(3, 4, 4, device="meta"), "meta tensor"),
        (np.stack([PIXELS] * 2), "list of images"),
        (torch.zeros(5, 3, 8, 8), "list of images"),
        (torch.zeros(7, 8, 9), r"got \(7, 8, 9\)"),
        (np.float32(1), r"got \(\)"),
        ([[1, 2], [3, 4]], "got list"),
        (torch.tensor(PLANES) * 1.0, "0..255 use uint8"),
    ],
)
def test_what_is_no_picture(picture, words):
    with pytest.raises(ImageError, match=words):
        open_image(picture)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
def test_frames_that_are_left_out_are_said(form):
    first, second = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    stream = io.BytesIO()
    first.save(stream, form, save_all=True, append_images=[second])
    opened = open_image(stream)
    assert opened.getpixel((4, 4))[0] > 200
    assert "first of the picture's 2 frames" in frames_remark(opened)
    assert frames_remark(open_image(opened)) == frames_remark(opened)  # opened early, handed on
    assert frames_remark(open_image(first)) is None


def test_files_that_cannot_be_read_any_more(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded().getvalue())
    with path.open("rb") as stream, Image.open(path) as lazy:
        pass
    with (tmp_path / "b.png").open("wb") as writing:
        for picture in (stream, lazy, writing):
            with pytest.raises(ImageError, match="cannot be"):
                open_image(picture)


@pytest.mark.parametrize("form", ["EPS", "PDF", "PPM", "ICO", "TGA", "PCX"])
def test_one_list_of_formats_for_files_and_uploads(tmp_path, form, monkeypatch):
    """Ghostscript is never started, whatever the name of a file says."""
    assert uploads.FORMATS is images.FORMATS is FORMATS and form not in FORMATS
    data = encoded(np.tile(PIXELS, (4, 4, 1)), form).getvalue()
    (tmp_path / "a.png").write_bytes(data)
    for picture in (data, tmp_path / "a.png", io.BytesIO(data)):
        with pytest.raises(ImageError, match="formats PNG, JPEG"):
            open_image(picture)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_end_in_one_kind_of_error(form):
    data = encoded(form=form).getvalue()

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        places=st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4),
        cut=st.integers(0, len(data)),
        number=st.integers(0, 2**32 - 1),
    )
    def check(places, cut, number):
        damaged = bytearray(data)
        for place, value in places:
            damaged[place] = value
        if number % 3 == 0:
            struct.pack_into("<I", damaged, number % (len(data) - 4), number)
        try:
            open_image(bytes(damaged[: cut if number % 2 else len(data)]))
        except ImageError:
            pass

    check()
