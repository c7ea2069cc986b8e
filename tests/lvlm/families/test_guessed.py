"""Families that no test has painted: a guessed or given geometry is confirmed on the model.

Families of the table serve as unknown ones, so that the right geometry is known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import causal_lvlm as cl
from causal_lvlm.errors import ImageError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM, Trace
from causal_lvlm.lvlm.families import Family, family_of, guess
from causal_lvlm.lvlm.geometry import Cells, Site, Tile
from causal_lvlm.lvlm.tiles import stretched
from tests.lvlm.families.test_families import PROMPT, case
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image

FEW: dict[str, Any] = dict(max_runs=40, n_random=1, max_tests=2_000)


def unknown(name: str) -> LVLM:
    """Return a family's model as one that the table does not know, but for its prompts."""
    model, processor = BUILDERS[name]()
    known, guessed = family_of(model.config), guess(model.config.model_type)
    keys = ("placeholder", "placeholder_from", "plain_frame", "around", "fill")
    prompts = {key: getattr(known, key) for key in keys}
    return LVLM(model, processor, family=replace(guessed, **prompts))


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl", "internvl", "mistral3"])
def test_a_guess_that_is_right_is_confirmed_and_said_to_be_one(name):
    lvlm = unknown(name)
    assert lvlm.family.guessed and lvlm.family.status == "experimental"
    image = noise_image((100, 60), seed=2)
    trace = lvlm.run(image, PROMPT, max_new_tokens=3)
    right = case(name)[1].layout.grids
    assert len(trace.layout.grids) == len(right)
    for found, expected in zip(trace.layout.grids, right, strict=True):
        assert (found.rows, found.cols) == (expected.rows, expected.cols)
        np.testing.assert_array_equal(found.positions, expected.positions)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1.0)  # eight bits of colour
    assert trace.parameters["geometry"] == "painted"
    said = "where image tokens lie in the image is guessed, and confirmed on the model: each of"
    assert trace.parameters["geometry_remark"].startswith(said)
    # The second run of the same sizes paints nothing.
    runs: list[int] = []
    handle = lvlm.tower.register_forward_hook(lambda *_: runs.append(1))
    lvlm.run(noise_image((100, 60), seed=5), PROMPT, max_new_tokens=3)
    handle.remove()
    assert len(runs) <= 3


@pytest.mark.parametrize("name", ["idefics2", "aria", "blip2", "llava_next", "gemma4"])
def test_resamplers_and_what_cannot_be_read_have_no_grid(name):
    lvlm = unknown(name)
    if name == "blip2":
        known = family_of(lvlm.model.config)
        lvlm = LVLM(
            lvlm.model,
            lvlm.processor,
            family=replace(lvlm.family, head=known.head, prepends=True),
        )
    for size in ((60, 75), (100, 100)):
        trace = lvlm.run(noise_image(size), PROMPT, max_new_tokens=2)
        assert not trace.layout.grids and trace.self_check.passed
        assert len(trace.layout.positions("image")) > 0
        assert trace.parameters["geometry"] == "absent"
        remark = trace.parameters["geometry_remark"]
        assert remark.startswith("the image tokens have no known place in the image: type")


def test_trace_explanation_and_report_say_that_a_geometry_is_guessed_or_absent(tmp_path):
    for name, words in (("llava", "is guessed, and confirmed"), ("idefics2", "no known place")):
        trace = unknown(name).run(noise_image((60, 60)), PROMPT, max_new_tokens=3)
        loaded = Trace.load(trace.save(tmp_path / "trace.json"))
        assert words in loaded.parameters["geometry_remark"]
        found = cl.explain(trace, target=1, **FEW)
        assert words in found.sentence() and words in found.to_dict()["sentence"]
        assert words in cl.report(trace, [found], tmp_path / "r.html").read_text(encoding="utf-8")
        unit = (int(trace.layout.positions("image")[0]),)
        one = replace(found.main, units=(unit,))
        from causal_lvlm.explanation.wording import members

        assert members(found.layout, one) == (
            "1 image patch" if name == "llava" else "1 image token"
        )
    known = case("llava")[1]
    assert known.parameters["geometry"] == "family"
    assert "Note:" not in cl.explain(known, target=1, **FEW).sentence()


ORDERS = {
    "columns before rows": lambda g: g.T,
    "mirrored": lambda g: g[:, ::-1],
    "upside down": lambda g: g[::-1],
    "turned": lambda g: g[::-1, ::-1],
    "window by window": lambda g: g.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3),
    "every second first": lambda g: np.concatenate([g[:, ::2], g[:, 1::2]], axis=1),
    "one further": lambda g: np.roll(g.reshape(-1), 1),
}


@pytest.mark.parametrize("order", ORDERS)
def test_tokens_in_another_order_are_no_grid(order):
    lvlm = unknown("paligemma")
    other = ORDERS[order](np.arange(16).reshape(4, 4)).reshape(-1)

    def reordered(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output[:, torch.from_numpy(np.ascontiguousarray(other))]

    lvlm.model.model.multi_modal_projector.register_forward_hook(reordered)
    trace = lvlm.run(noise_image((80, 60)), PROMPT, max_new_tokens=2)
    assert trace.parameters["geometry"] == "absent" and not trace.layout.grids


def mixed(kind: str, output: torch.Tensor) -> torch.Tensor:
    """Return the features of 16 patches as another projector would mix them."""
    if kind == "mean of all":
        return output.mean(dim=1, keepdim=True).expand_as(output)
    if kind == "learned queries":
        generator = torch.Generator().manual_seed(0)
        query = torch.randn(16, output.shape[-1], generator=generator)
        return torch.softmax(query @ output.transpose(1, 2), dim=-1) @ output
    if kind == "rows pooled":
        rows = output.reshape(1, 4, 4, -1)
        return rows.mean(dim=2, keepdim=True).expand_as(rows).flatten(1, 2)
    strided = output[:, ::4]  # a quarter of the patches, each four times
    return strided.repeat(1, 4, 1)


@pytest.mark.parametrize("kind", ["mean of all", "learned queries", "rows pooled", "strided"])
def test_features_that_mix_patches_are_no_grid(kind):
    lvlm = unknown("paligemma")
    lvlm.model.model.multi_modal_projector.register_forward_hook(
        lambda _module, _args, output: mixed(kind, output)
    )
    trace = lvlm.run(noise_image((80, 60)), PROMPT, max_new_tokens=2)
    assert trace.parameters["geometry"] == "absent" and not trace.layout.grids


def test_a_processor_that_mirrors_or_turns_is_no_grid(monkeypatch):
    lvlm = unknown("paligemma")
    images = type(lvlm.processor.image_processor)
    plain = images.__call__
    for change in (lambda p: p.flip(-1), lambda p: p.transpose(-1, -2)):

        def changed(self: Any, *args: Any, change: Any = change, **options: Any) -> Any:
            found = plain(self, *args, **options)
            found["pixel_values"] = change(found["pixel_values"])
            return found

        monkeypatch.setattr(images, "__call__", changed)
        lvlm.known_sizes.places.clear()
        trace = lvlm.run(noise_image((90, 60)), PROMPT, max_new_tokens=2)
        assert not trace.layout.grids
        assert "do not show the image row by row" in trace.parameters["geometry_remark"]


def test_a_picture_that_is_not_square_is_read_too():
    lvlm = unknown("pixtral")
    trace = lvlm.run(noise_image((90, 60)), PROMPT, max_new_tokens=2)
    (grid,) = trace.layout.grids
    assert grid.cols > grid.rows and trace.parameters["geometry"] == "painted"


def test_an_image_that_never_reaches_an_unknown_model_is_refused(monkeypatch):
    lvlm = unknown("idefics2")
    kind = type(lvlm.processor)
    plain = kind.__call__

    def first_twice(self: Any, images: Any = None, **options: Any) -> Any:
        return plain(self, images=[[images[0][0]] * len(images[0])], **options)

    monkeypatch.setattr(kind, "__call__", first_twice)
    with pytest.raises(ImageError, match="takes no notice of image 1"):
        lvlm.run([noise_image((60, 60)), noise_image((60, 60), seed=1)], PROMPT)


def one_square(site: Site) -> Cells:
    """Return four by four cells of an image that is stretched."""
    boxes = stretched(4, 4, (0.0, 0.0, *(float(v) for v in site.image_size)))
    return Cells((Tile(4, 4, boxes),), site.n_tokens // site.n_images)


def test_a_family_of_the_users_is_one_entry_and_one_function():
    model, processor = BUILDERS["llava"]()
    mine = Family("Mine", ("llava",), "one square grid", one_square)
    lvlm = cl.load_model((model, processor), family=mine)
    assert lvlm.family is mine and not mine.tested
    trace = lvlm.run(noise_image((60, 60)), PROMPT, max_new_tokens=3)
    assert trace.self_check.passed and trace.parameters["geometry"] == "painted"
    assert "is what the family 'Mine' says" in trace.parameters["geometry_remark"]
    assert cl.explain(trace, target=1, **FEW).model_runs > 0
    assert lvlm.randomised(1, seed=0).family is mine
    # The same function on an image that is cropped.
    with pytest.warns(UserWarning, match="self-check"):
        trace = lvlm.run(noise_image((200, 60)), PROMPT, max_new_tokens=3)
    assert not trace.self_check.passed and trace.self_check.geometry_error > 0.5
    with pytest.raises(UnsupportedModelError, match=r"'Mine' serves \['llava'\].*'paligemma'"):
        cl.load_model(BUILDERS["paligemma"](), family=mine)


def test_a_family_of_the_users_that_lies_about_the_model_fails_the_self_check():
    def other_order(site: Site) -> Cells:
        cells = one_square(site)
        boxes = cells.tiles[0].boxes.reshape(4, 4, 4).transpose(1, 0, 2).reshape(16, 4)
        return Cells((Tile(4, 4, boxes),), cells.n_tokens)

    mine = Family("Mine", ("llava",), "columns first", other_order)
    lvlm = cl.load_model(BUILDERS["llava"](), family=mine)
    with pytest.warns(UserWarning, match="self-check"):
        trace = lvlm.run(noise_image((60, 60)), PROMPT, max_new_tokens=3)
    assert trace.self_check.geometry_error >= 1
    assert trace.parameters["geometry"] == "unconfirmed"
    assert "is not as 'Mine' says" in trace.parameters["geometry_remark"]


def test_a_family_may_say_that_there_is_no_grid():
    def nothing(site: Site) -> Cells:
        return Cells((), site.n_tokens, has_grid=False)

    lvlm = LVLM(*BUILDERS["llava"](), family=Family("Mine", ("llava",), "no grid", nothing))
    trace = lvlm.run(noise_image((60, 60)), PROMPT, max_new_tokens=2)
    assert trace.parameters["geometry"] == "absent" and not trace.layout.grids
    assert "the family 'Mine' says so" in trace.parameters["geometry_remark"]
