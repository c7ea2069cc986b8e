"""Families that show an image whole and in parts: what the ramp sees, canvases, odd cases."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

from causal_lvlm.errors import PromptError, UnsupportedModelError
from causal_lvlm.lvlm.ramp import cell_errors
from causal_lvlm.lvlm.views import _patches
from tests.lvlm.families.test_families import PROMPT, case
from tests.lvlm.families.tiny import OLD, skip_if_old
from tests.lvlm.helpers import noise_image

PARTS = ("lfm2_vl", "molmo2", "perception_lm")


@pytest.mark.parametrize(
    "sizes", [[(32, 32)], [(100, 60), (60, 90)], [(40, 90), (100, 30)]], ids=str
)
@pytest.mark.parametrize("name", PARTS)
def test_the_ramp_sees_every_grid_and_tells_a_wrong_one(name, sizes):
    lvlm = case(name)[0]
    if name == "perception_lm":  # its processor puts images of equally many tiles into a batch
        sizes = [(100, 60)] * len(sizes)
    images = [noise_image(size, seed=i) for i, size in enumerate(sizes)]
    trace = lvlm.run(images, PROMPT, max_new_tokens=1)
    layout = trace.layout
    found = cell_errors(lvlm, layout, sizes)
    assert [grid for _, grid in found] == list(layout.grids)
    assert max(error for error, _ in found) < 0.2
    turned = [replace(grid, boxes=grid.boxes[::-1]) for grid in layout.grids]
    wrong = cell_errors(lvlm, replace(layout, grids=tuple(turned)), sizes)
    assert min(error for error, _ in wrong) > 1


@pytest.mark.parametrize("size", [378, 336])
@pytest.mark.parametrize("max_crops", [8, 24])
def test_the_patches_of_molmos_canvas_are_told_from_its_tokens(size, max_crops):
    skip_if_old(OLD["molmo2"])
    module = importlib.import_module("transformers.models.molmo2.image_processing_molmo2")
    side, margins = size // 14, 8
    for width, height in np.random.default_rng(0).integers(20, 3000, (200, 2)).tolist():
        canvas = module.compute_crop_geometry(height, width, max_crops, [4, 4], size, 14)[2:]
        for pixels in canvas:
            patches = pixels // 14
            assert _patches(-(-patches // 2), 2, side - margins, margins) == patches
    with pytest.raises(UnsupportedModelError, match="no canvas of crops"):
        _patches(2, 2, side - margins, margins)


def test_images_that_one_batch_cannot_hold_are_refused():
    skip_if_old("the image processor stacks them itself, and ends in a RuntimeError")
    with pytest.raises(PromptError, match="refused the prompt"):
        case("perception_lm")[0].run(
            [noise_image((40, 90)), noise_image((100, 30))], PROMPT, max_new_tokens=1
        )


def test_a_layer_with_several_hidden_states_has_no_output_to_read():
    _, trace = case("gemma3n")
    for read in (
        trace.hidden_states,
        lambda: trace.lens([3], [5]),
        lambda: trace.feature_gradient(1),
    ):
        with pytest.raises(UnsupportedModelError, match="keeps 2 versions of its hidden states"):
            read()
