"""Painting: change one rectangle's pixels, and only that token's feature may change.

The tower's attention outputs are set to zero, so that patches do not mix; what is left between a
pixel and a token is exactly the geometry.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.geometry import Cells, Tile, clip_geometry
from tests.lvlm.helpers import PROMPT, noise_image
from tests.models import tiny_llava

PROMPT_WITH_IMAGE = f"USER: <image>\n{PROMPT} ASSISTANT:"
SHAPES = [(300, 180), (170, 260), (96, 96), (60, 75)]
MODELS: dict[str, dict[str, Any]] = {
    "clip-8x8": dict(image_size=96),
    "clip-24x24": dict(image_size=336, patch=14, layers=1),
    "siglip-8x8": dict(image_size=96, tower="siglip", vision_feature_layer=-1),
    "pad-to-square": dict(image_size=96),
}


def local_model(name):
    """Return a model whose tower cannot mix patches."""
    model, processor = tiny_llava(seed=7, **MODELS[name])
    if name == "pad-to-square":
        edge = {"height": 96, "width": 96}
        processor.image_processor = LlavaImageProcessorPil(
            do_pad=True, size={"shortest_edge": 96}, crop_size=edge
        )
    with torch.no_grad():
        for part, module in model.model.vision_tower.named_modules():
            if part.endswith("self_attn"):
                module.out_proj.weight.zero_()
                module.out_proj.bias.zero_()
    return LVLM(model, processor)


def features(lvlm, image):
    """Return image features, (n_image_tokens, D)."""
    with torch.no_grad():
        inputs = lvlm.process([image], PROMPT_WITH_IMAGE).inputs
        embeds, _ = lvlm.embed(inputs, inputs["input_ids"])
    return embeds[inputs["input_ids"] == lvlm.image_token_id].numpy()


def inner(box, resize):
    """Shrink a rectangle by the reach of bicubic resampling; None if nothing is left."""
    margin = 2.0 * max(resize, 1.0) + 0.5
    left, top = (int(np.ceil(v + margin)) for v in box[:2])
    right, bottom = (int(np.floor(v - margin)) for v in box[2:])
    return (left, top, right, bottom) if right > left and bottom > top else None


def painted(image, box):
    """Return the image with a rectangle inverted."""
    array = np.asarray(image).copy()
    left, top, right, bottom = box
    array[top:bottom, left:right] = 255 - array[top:bottom, left:right]
    array[top:bottom, left:right, 0] ^= 128
    return Image.fromarray(array)


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_painting_a_rectangle_changes_its_token_only(name, size):
    lvlm = local_model(name)
    image = noise_image(size, seed=3)
    trace = lvlm.run(image, PROMPT, max_new_tokens=1)
    grid = trace.layout.grids[0]
    assert trace.self_check.geometry_error < 0.2
    before = features(lvlm, image)
    n_cells = grid.rows * grid.cols
    cells = np.random.default_rng(0).permutation(n_cells)[:24]
    cell_width = np.ptp(grid.boxes[:, [0, 2]], axis=1).max()
    resize = cell_width / (lvlm.model.config.vision_config.patch_size)
    tried = 0
    for cell in cells:
        box = inner(grid.boxes[cell], resize)
        if box is None:  # padding, cut off by the image's edge, or too small to paint inside
            continue
        change = np.abs(features(lvlm, painted(image, box)) - before).max(axis=1)
        assert change[cell] > 1e-3
        change[cell] = 0.0
        assert change.max() == 0.0
        tried += 1
    if name == "clip-24x24" and min(size) < 150:
        return  # enlarged so much that no pixel of the original belongs to one cell alone
    assert tried >= 8


@pytest.mark.parametrize("size", [(300, 180), (170, 260)], ids=str)
def test_what_the_crop_cuts_off_belongs_to_no_token(size):
    lvlm = local_model("clip-8x8")
    image = noise_image(size, seed=3)
    boxes = lvlm.run(image, PROMPT, max_new_tokens=1).layout.grids[0].boxes
    left, top = boxes[:, :2].min(axis=0)
    right, bottom = boxes[:, 2:].max(axis=0)
    assert (right - left) == pytest.approx(bottom - top, rel=0.02)
    before = features(lvlm, image)
    width, height = size
    margin = 6
    outside = (
        (0, 0, int(left) - margin, height) if width > height else (0, 0, width, int(top) - margin)
    )
    np.testing.assert_array_equal(features(lvlm, painted(image, outside)), before)


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_cells_tile_the_part_of_the_image_that_is_seen(name, size):
    lvlm = local_model(name)
    grid = lvlm.run(noise_image(size), PROMPT, max_new_tokens=1).layout.grids[0]
    boxes = grid.boxes.reshape(grid.rows, grid.cols, 4)
    np.testing.assert_allclose(boxes[:, 1:, 0], boxes[:, :-1, 2])
    np.testing.assert_allclose(boxes[1:, :, 1], boxes[:-1, :, 3])
    assert grid.boxes.min() >= 0
    assert (grid.boxes[:, 2] <= size[0]).all() and (grid.boxes[:, 3] <= size[1]).all()
    assert grid.image_size == size


def test_run_time_check_notices_a_wrong_geometry(monkeypatch):
    lvlm = local_model("clip-8x8")
    whole = lvlm.family.geometry
    shifted = SimpleNamespace(
        **{
            **vars(lvlm.family),
            "geometry": lambda site: Cells(
                tuple(Tile(t.rows, t.cols, np.roll(t.boxes, 1, axis=0)) for t in whole(site).tiles),
                whole(site).n_tokens,
            ),
        }
    )
    monkeypatch.setattr(lvlm, "family", shifted)
    with pytest.warns(UserWarning, match="self-check"):
        trace = lvlm.run(noise_image((96, 96)), PROMPT, max_new_tokens=1)
    assert not trace.self_check.passed and trace.self_check.geometry_error > 0.5


def test_vision_positions_map_tower_tokens_to_the_sequence():
    trace = LVLM(*tiny_llava(seed=7)).run(noise_image(), PROMPT, max_new_tokens=1)
    positions = trace.vision_positions
    assert positions[0] == -1
    np.testing.assert_array_equal(positions[1:], trace.layout.positions("image"))
    siglip = tiny_llava(seed=7, tower="siglip", vision_feature_layer=-1)
    trace = LVLM(*siglip).run(noise_image(), PROMPT, max_new_tokens=1)
    np.testing.assert_array_equal(trace.vision_positions, trace.layout.positions("image"))


def test_sizes_that_are_not_understood_are_refused():
    processor = SimpleNamespace(
        do_resize=True, size={"longest_edge": 80}, do_center_crop=False, do_pad=False
    )
    with pytest.raises(UnsupportedModelError, match="not understood"):
        clip_geometry(processor, (100, 80), 14, 4)
    processor.size = {"height": 28, "width": 28}
    with pytest.raises(UnsupportedModelError, match="2 x 2 patches"):
        clip_geometry(processor, (100, 80), 14, 5)
