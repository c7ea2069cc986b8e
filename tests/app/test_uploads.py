"""What is handed in is checked before it is used."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from causal_lvlm.app import uploads
from causal_lvlm.app.uploads import checked_image, checked_json, inside_folder, painted
from causal_lvlm.errors import ImageError, OutputError


def png(size=(8, 6), **options):
    stream = io.BytesIO()
    Image.new("RGB", size, "#336699").save(stream, "PNG", **options)
    return stream.getvalue()


def bomb(side=30_000):
    """A PNG of a few bytes whose header promises side x side pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def test_a_picture_is_returned_upright_in_rgb(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    assert checked_image(path).size == (8, 6)
    assert checked_image(png()).mode == "RGB"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    def never(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(ImageError, match="far more pixels than"):
        checked_image(bomb())


@pytest.mark.parametrize("side", [5_001, 12_000])
def test_pixels_are_limited_below_what_pillow_warns_of(side):
    with pytest.raises(ImageError, match=f"{side} x {side} pixels; allowed are 25 million"):
        checked_image(bomb(side))


@pytest.mark.parametrize(
    "data",
    [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='x'/>", b"GIF89a",
     png()[:40]],
    ids=["empty", "postscript", "svg", "stub", "cut"],
)  # fmt: skip
def test_other_types_and_damaged_files_are_refused(data):
    with pytest.raises(ImageError):
        checked_image(data)


def test_animations_are_refused():
    stream = io.BytesIO()
    frames = [Image.new("L", (4, 4), 80 * n) for n in range(3)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="single"):
        checked_image(stream.getvalue())


def test_files_over_the_limit_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(uploads, "MAX_BYTES", 50)
    path = tmp_path / "a.png"
    path.write_bytes(png())
    for given in (path, png()):
        with pytest.raises(ImageError, match="MB"):
            checked_image(given)


def explanation(picture):
    image = base64.b64encode(picture).decode()
    return {"kind": "explanation", "trace": {"image": image, "more_images": []}}


def test_a_bomb_inside_an_explanation_is_refused(tmp_path):
    path = tmp_path / "e.json"
    path.write_text(json.dumps(explanation(bomb())))
    with pytest.raises(OutputError, match="picture inside"):
        checked_json(path)
    path.write_text(json.dumps(explanation(png())))
    assert checked_json(path) == path


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"kind": "trace"}', '{"kind": "explanation"}', "\x00"],
)
def test_what_is_no_explanation_is_refused(tmp_path, text):
    path = tmp_path / "e.json"
    path.write_text(text)
    with pytest.raises(OutputError):
        checked_json(path)


@pytest.mark.parametrize(
    "name",
    ["../secret.json", "/etc/passwd", "a/../../secret.json", "link.json", "x" * 5000, "a\0.json",
     "folder", "notes.txt", ""],
)  # fmt: skip
def test_links_reach_json_files_inside_the_folder_and_nothing_else(tmp_path, name):
    folder = tmp_path / "results"
    (folder / "folder").mkdir(parents=True)
    (folder / "good.json").write_text("{}")
    (folder / "notes.txt").write_text("x")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    assert inside_folder(folder, "good.json") == (folder / "good.json").resolve()
    with pytest.raises(OutputError, match="no saved explanation"):
        inside_folder(folder, name)


def test_links_open_nothing_without_a_folder():
    with pytest.raises(OutputError, match="--results"):
        inside_folder(None, "a.json")


def test_strokes_change_the_pixels_they_cover_and_no_others():
    image = Image.new("RGB", (20, 20), "#ffffff")
    result = painted(image, [{"points": [[2, 10], [17, 10]], "width": 4, "colour": "#ff0000"}])
    changed = (np.asarray(result) != 255).any(axis=2)
    assert changed[10, 2:18].all()
    assert not changed[:7].any() and not changed[14:].any()
    assert tuple(result.getpixel((9, 10))) == (255, 0, 0)
    assert (np.asarray(image) == 255).all()


@pytest.mark.parametrize(
    "stroke",
    [{}, {"points": [[1, 2]], "width": 0}, {"points": [[1]], "width": 2},
     {"points": [[float("nan"), 1]], "width": 2}, {"points": [[1, 1]], "width": float("inf")},
     {"points": [[1, 1]], "width": 2, "colour": "url(x)"}, 7],
)  # fmt: skip
def test_strokes_that_cannot_be_read_are_refused(stroke):
    with pytest.raises(ImageError):
        painted(Image.new("RGB", (9, 9)), [stroke])
