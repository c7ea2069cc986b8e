"""Images of every kind, prompts of every kind, and errors that say what to do."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from causal_lvlm.errors import ImageError, PromptError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.images import open_image
from causal_lvlm.lvlm.layout import token_text
from causal_lvlm.lvlm.prompts import render_prompt
from tests.lvlm.helpers import PROMPT, noise_image
from tests.models import tiny_llava


@pytest.fixture(scope="module")
def lvlm():
    """Return a small model."""
    return LVLM(*tiny_llava(seed=9))


def saved(image, name, folder, **options):
    """Write an image and return its path."""
    path = folder / name
    image.save(path, **options)
    return path


def rotated_by_exif(image):
    """Return JPEG bytes stored on their side, with the tag that sets them upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it 90 degrees clockwise
    buffer = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", exif=exif, quality=98)
    return buffer.getvalue()


def transparent(image):
    """Return an RGBA image, its left half fully transparent over black."""
    array = np.dstack([np.asarray(image), np.full(image.size[::-1], 255, np.uint8)])
    array[:, : array.shape[1] // 2] = 0
    return Image.fromarray(array)


def deep_grey(image):
    """Return a 16-bit image."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


KINDS: dict[str, Callable[[Image.Image], Any]] = {
    "rgb": lambda image: image,
    "cmyk": lambda image: image.convert("CMYK"),
    "grey": lambda image: image.convert("L"),
    "black and white": lambda image: image.convert("1"),
    "palette": lambda image: image.quantize(64),
    "rgba": transparent,
    "grey with alpha": lambda image: image.convert("LA"),
    "16-bit": deep_grey,
    "float": lambda image: Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255),
    "ycbcr": lambda image: image.convert("YCbCr"),
    "exif": rotated_by_exif,
    "array": np.asarray,
    "16-bit array": lambda image: np.asarray(image).astype(np.uint16) * 257,
    "float array": lambda image: np.asarray(image) / 255.0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_the_same_layout(lvlm, kind):
    plain = noise_image((80, 120))
    given = KINDS[kind](plain)
    image = open_image(given)
    assert image.mode == "RGB" and image.size == (80, 120)
    trace = lvlm.run(given, PROMPT, max_new_tokens=1)
    expected = lvlm.run(plain, PROMPT, max_new_tokens=1)
    np.testing.assert_array_equal(trace.layout.grids[0].boxes, expected.layout.grids[0].boxes)
    assert trace.layout.tokens[:-1] == expected.layout.tokens[:-1]


def test_colours_survive():
    plain = noise_image((80, 120))
    array = np.asarray(plain).astype(int)
    grey = np.asarray(plain.convert("L")).astype(int)
    for kind in ("cmyk", "exif", "array", "16-bit array", "float array"):
        found = np.asarray(open_image(KINDS[kind](plain))).astype(int)
        assert np.abs(found - array).mean() < 3, kind
    for kind in ("grey", "16-bit", "float", "grey with alpha"):
        found = np.asarray(open_image(KINDS[kind](plain))).astype(int)
        assert np.abs(found - grey[:, :, None]).max() <= 1, kind
    found = np.asarray(open_image(transparent(plain)))
    assert (found[:, :40] == 255).all()
    np.testing.assert_array_equal(found[:, 40:], array[:, 40:])


def test_paths_and_bytes_are_opened(tmp_path):
    plain = noise_image()
    path = saved(plain, "scene.png", tmp_path)
    for given in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(np.asarray(open_image(given)), np.asarray(plain))
    deep = saved(deep_grey(plain), "deep.png", tmp_path)
    assert np.asarray(open_image(deep)).max() < 255


def test_the_callers_image_is_not_changed(lvlm):
    plain = noise_image()
    before = np.asarray(plain).copy()
    trace = lvlm.run(plain, PROMPT, max_new_tokens=1)
    trace.image.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(plain), before)


def test_unreadable_images_say_why(tmp_path, lvlm):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    whole = saved(noise_image(), "whole.png", tmp_path).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    empty = tmp_path / "empty.png"
    empty.touch()
    cases = {
        str(broken): "cannot be read",
        str(cut): "cannot be read",
        str(empty): "cannot be read",
        str(tmp_path / "nothing.png"): "does not exist",
        str(tmp_path): "is a folder",
    }
    for path, message in cases.items():
        with pytest.raises(ImageError, match=message):
            lvlm.run(path, PROMPT)
    cases_in_memory: tuple[tuple[Any, str], ...] = (
        (b"", "cannot be read"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 2), np.uint8), "must be"),
        (np.zeros(4, np.uint8), "must be"),
        (np.full((4, 4), 3.0), "within"),
        (np.full((4, 4), np.nan), "finite"),
        (np.full((4, 4, 3), 300), "0..255"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (42, "got int"),
    )
    for given, message in cases_in_memory:
        with pytest.raises(ImageError, match=message):
            open_image(given)


def test_one_pixel_and_extreme_shapes_work(lvlm):
    for size in ((1, 1), (400, 7), (5, 300)):
        trace = lvlm.run(noise_image(size), PROMPT, max_new_tokens=1)
        assert trace.self_check.passed
        assert len(trace.layout.positions("image")) == 16


def roles(trace):
    """Return the tokens of each modality."""
    layout = trace.layout
    return {
        kind: [t for t, m in zip(layout.tokens, layout.modality, strict=True) if m == kind]
        for kind in ("prompt", "special", "generated")
    }


WORDS = ["what", "color", "is", "the", "circle", "?"]
FRAME = ["<s>", "user", ":", "assistant", ":"]


@pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
def test_placeholder_is_added_and_the_persons_words_are_known(template):
    lvlm = LVLM(*tiny_llava(seed=9, chat_template=template))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    assert trace.prompt == f"USER: <image>\n{PROMPT} ASSISTANT:"
    assert trace.parameters["prompt_source"] == ("chat_template" if template else "plain")
    found = roles(trace)
    assert found["prompt"] == WORDS and found["special"] == FRAME
    assert len(found["generated"]) == 2


@pytest.mark.parametrize(
    "verbatim",
    [
        f"USER: <image>\n{PROMPT} ASSISTANT:",
        f"USER:<image> {PROMPT}\nASSISTANT:",
    ],
)
def test_verbatim_prompt_is_kept_and_its_frame_found(lvlm, verbatim):
    trace = lvlm.run(noise_image(), verbatim, max_new_tokens=1)
    assert trace.prompt == verbatim and trace.parameters["prompt_source"] == "verbatim"
    found = roles(trace)
    assert found["prompt"] == WORDS and found["special"] == FRAME


def test_verbatim_prompt_without_a_known_frame_is_all_words(lvlm):
    trace = lvlm.run(noise_image(), "describe this <image> in four", max_new_tokens=1)
    assert roles(trace)["prompt"] == ["describe", "this", "in", "four"]
    assert roles(trace)["special"] == ["<s>"]
    positions = trace.layout.positions("image")
    assert trace.layout.tokens[positions[0] - 1] == "this"
    assert trace.layout.tokens[positions[-1] + 1] == "in"


def test_template_on_or_off(lvlm):
    verbatim = "what is in <image> ?"
    forced = lvlm.run(noise_image(), verbatim, chat_template=True, max_new_tokens=1)
    assert forced.prompt == "USER: <image>\nwhat is in   ? ASSISTANT:"
    off = lvlm.run(noise_image(), PROMPT, chat_template=False, max_new_tokens=1)
    assert off.parameters["prompt_source"] == "plain"
    without = LVLM(*tiny_llava(seed=9, chat_template=False))
    with pytest.raises(PromptError, match="no chat template"):
        without.run(noise_image(), PROMPT, chat_template=True)


def test_template_that_starts_with_the_first_token_does_not_double_it():
    model, processor = tiny_llava(seed=9)
    processor.chat_template = "{{ '<s>' }}" + processor.chat_template
    trace = LVLM(model, processor).run(noise_image(), PROMPT, max_new_tokens=1)
    assert trace.layout.tokens.count("<s>") == 1
    assert roles(trace)["prompt"] == WORDS


def test_template_of_a_text_model_gets_a_string():
    processor = tiny_llava(seed=9)[1]
    processor.chat_template = "{{ 'Q: ' + messages[0]['content'] + ' A:' }}"
    prompt = render_prompt(
        processor, PROMPT, placeholder="<image>", plain_frame="{placeholder}{prompt}"
    )
    assert prompt.text == f"Q: <image>\n{PROMPT} A:" and prompt.source == "chat_template"
    processor.chat_template = "{{ 'no place for anything' }}"
    prompt = render_prompt(
        processor, PROMPT, placeholder="<image>", plain_frame="{placeholder}|{prompt}"
    )
    assert prompt.text == f"<image>|{PROMPT}" and prompt.source == "plain"


def test_bad_prompts_say_what_is_wrong(lvlm):
    for empty in ("", "  \n"):
        with pytest.raises(PromptError, match="empty"):
            lvlm.run(noise_image(), empty)
    with pytest.raises(PromptError, match="3 image placeholders"):
        lvlm.run(noise_image(), "<image> and <image> or <image>")
    with pytest.raises(PromptError, match="got int"):
        lvlm.run(noise_image(), 3)
    with pytest.raises(ValueError, match="max_new_tokens"):
        lvlm.run(noise_image(), PROMPT, max_new_tokens=0)


@pytest.mark.parametrize("tokenizer", ["word", "byte"])
def test_tokens_read_as_text_and_words_are_numbered(tokenizer):
    lvlm = LVLM(*tiny_llava(seed=9, tokenizer=tokenizer))
    trace = lvlm.run(noise_image(), "the red circle, the cup", max_new_tokens=6)
    layout = trace.layout
    by_word: dict[int, str] = {}
    for token, word, kind in zip(layout.tokens, layout.words, layout.modality, strict=True):
        if kind == "prompt" and word >= 0:
            by_word[int(word)] = by_word.get(int(word), "") + token
    assert [t.strip() for t in by_word.values()] == ["the", "red", "circle", ",", "the", "cup"]
    if tokenizer == "byte":
        assert {" red", " circle", " the"} <= set(layout.tokens)
    else:
        assert {"red", "circle", "the"} <= set(layout.tokens)
    generated = layout.words[layout.n_prompt :]
    assert (np.diff(generated[generated >= 0]) >= 0).all()
    assert generated[generated >= 0].min() > max(by_word)
    assert (layout.words[layout.positions("image")] == -1).all()


def test_layout_agrees_with_the_processor(lvlm):
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
    encoded = lvlm.processor(images=trace.image, text=trace.prompt, return_tensors="np")
    np.testing.assert_array_equal(
        trace.layout.token_ids[: trace.layout.n_prompt], encoded["input_ids"][0]
    )
    assert trace.layout.n_prompt == encoded["input_ids"].shape[1]


def test_tokens_of_a_sentencepiece_like_tokenizer_keep_their_space():
    vocabulary = ["<unk>", "\u2581", "\u2581red", "\u2581cup", "s", "\n", "?"]
    tokenizer = Tokenizer(
        models.BPE({t: i for i, t in enumerate(vocabulary)}, [], unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert wrapped.decode([2]) == "red"  # decoding alone loses the space
    found = [token_text(wrapped, i) for i in range(1, len(vocabulary))]
    assert found == [" ", " red", " cup", "s", "\n", "?"]
