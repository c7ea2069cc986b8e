"""Soft maps of models without a token for each patch, against eager weights and painted pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.test_families import PROMPT, case, local, overlaps, painted
from tests.lvlm.families.tiny import BUILDERS, skip_if_old
from tests.lvlm.helpers import noise_image

SOFT = ("blip2", "instructblip", "mllama")


@pytest.mark.parametrize("name", SOFT)
def test_weights_equal_those_of_eager_modules(name):
    _, trace = case(name)
    if name != "mllama":
        skip_if_old("the Q-Former does not use the attention interface there")
    found = trace.image_attention()
    model, processor = BUILDERS[name]()
    model.set_attn_implementation("eager")
    kept: list[torch.Tensor] = []
    for part, module in model.named_modules():
        if part.endswith("crossattention.attention") or part.endswith("cross_attn"):
            module.register_forward_hook(lambda m, i, o: kept.append(o[1][0].mean(dim=0)))
    inputs = processor(images=list(trace.images), text=[trace.prompt], return_tensors="pt")
    with torch.no_grad():
        model(**inputs)
    expected = torch.stack(kept).mean(dim=0).numpy()
    n_rows = min(len(found.positions), len(expected))  # Mllama: the prompt, without the answer
    keys = np.setdiff1d(np.arange(expected.shape[1]), np.arange(0, expected.shape[1], 10))
    keys = keys[: found.weights.shape[1]] if name == "mllama" else np.arange(1, expected.shape[1])
    np.testing.assert_allclose(found.weights[:n_rows], expected[:n_rows, keys], atol=5e-5)
    assert found.weights.sum(axis=1).max() <= 1 + 1e-5
    assert found.boxes.shape == (found.weights.shape[1], 4)


@pytest.mark.parametrize("size", [(300, 180), (170, 260)], ids=str)
@pytest.mark.parametrize("name", SOFT)
def test_painting_a_patch_changes_what_its_key_holds(name, size):
    lvlm = local(name)
    if name != "mllama":
        skip_if_old("the Q-Former does not use the attention interface there")
    image = noise_image(size, seed=3)
    trace = lvlm.run(image, PROMPT, max_new_tokens=1)
    boxes = trace.image_attention().boxes
    kept: list[np.ndarray] = []
    tower = lvlm.tower
    handle = tower.register_forward_hook(lambda m, i, o: kept.append(o[0].numpy()))

    def keys(picture):
        with lvlm.session(), torch.no_grad():
            inputs = lvlm.process([picture], trace.prompt).inputs
            lvlm.embed(inputs, inputs["input_ids"])
        states = kept[-1].reshape(-1, kept[-1].shape[-2], kept[-1].shape[-1])[:, 1:]
        return states.reshape(-1, states.shape[-1])[: len(boxes)]

    before = keys(image)
    tried = 0
    for cell in np.random.default_rng(0).permutation(len(boxes))[:12]:
        left, top, right, bottom = boxes[cell]
        wide, tall = right - left, bottom - top
        if wide < 8 or tall < 8:
            continue
        box = (left + 0.3 * wide, top + 0.3 * tall, right - 0.3 * wide, bottom - 0.3 * tall)
        change = np.abs(keys(painted(image, box)) - before).max(axis=1)
        assert change.argmax() == cell
        assert change[~overlaps(boxes, box, 0.25)].max(initial=0.0) <= 0.01 * change.max()
        tried += 1
    handle.remove()
    assert tried >= 5


def test_models_with_a_grid_have_no_soft_map():
    _, trace = case("paligemma")
    with pytest.raises(UnsupportedModelError, match="patch_box"):
        trace.image_attention()
    text = LVLM(*BUILDERS["text_llama"]()).run(None, PROMPT, max_new_tokens=1)
    with pytest.raises(UnsupportedModelError, match="no image"):
        text.image_attention()
