"""Every family, end to end on a tiny random model: capture, self-check, geometry, masking, why.

The references are the model's own: eager ``output_attentions`` on inputs extended by the model's
own rule for generation, the tokens ``generate`` chose, and pixels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import causal_lvlm as cl
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm import LVLM, attention_function
from causal_lvlm.target_pass import TargetPass
from tests import naive_composition as naive
from tests.lvlm.families.tiny import BUILDERS, skip_if_old
from tests.lvlm.helpers import noise_image, random_masks

PROMPT = "What is it?"
TEXT_ONLY = tuple(name for name in BUILDERS if name.startswith("text_"))
WITHOUT_GRID = (*TEXT_ONLY, "blip2", "instructblip", "idefics2", "aria", "mllama")
IMAGE_TEXT = [name for name in BUILDERS if name not in TEXT_ONLY]
WITH_GRID = [name for name in BUILDERS if name not in WITHOUT_GRID]
# A window that counts tokens: leaving some out lets it reach further.
# Layers of linear attention or convolution: nothing can be blocked in them.
HYBRID = ("qwen3_5", "qwen3_5_moe", "lfm2_vl")
DROP_DIFFERS = ("aya_vision", "cohere2_vision", "llama4", "gemma3n", *HYBRID)
LOOKS_AHEAD = ("paligemma", "paligemma2", "gemma3", "molmo2")


@cache
def case(name: str) -> tuple[LVLM, Any]:
    """Return a family's model and one trace of it."""
    lvlm = LVLM(*BUILDERS[name]())
    image = None if name in TEXT_ONLY else noise_image((100, 60), seed=2)
    return lvlm, lvlm.run(image, PROMPT, max_new_tokens=5)


def eager(name: str, trace: Any) -> Any:
    """Run a second copy of the model eagerly on inputs extended by its own rule."""
    model, processor = BUILDERS[name]()
    model.set_attn_implementation("eager")
    images = {"images": list(trace.images)} if trace.images else {}
    inputs = dict(processor(**images, text=[trace.prompt], return_tensors="pt"))
    ids = torch.tensor(trace.layout.token_ids)[None]
    kept = {k: v for k, v in inputs.items() if k not in ("input_ids", "labels")}
    for _ in range(len(ids[0]) - trace.layout.n_prompt):
        kept = model._update_model_kwargs_for_generation({}, kept, is_encoder_decoder=False)
    given = model.prepare_inputs_for_generation(
        ids, is_first_iteration=True, use_cache=False, **kept
    )
    given = {k: v for k, v in given.items() if k not in ("use_cache", "logits_to_keep")}
    if name == "llama4":  # its own rule makes a mask of chunks for a cache, one key too long here
        given = {"input_ids": ids, "pixel_values": kept["pixel_values"]}
    with torch.no_grad():
        output = model(**given, use_cache=False, output_attentions=True)
    return getattr(output, "language_model_outputs", None) or output


def self_attention(name: str, output: Any, length: int) -> list[np.ndarray]:
    """Return (H, T, T) of every self-attention layer of the language model."""
    found = [a[0].float().numpy() for a in output.attentions if a is not None]
    return [a for a in found if a.shape[-2:] == (length, length)]


@pytest.mark.parametrize("name", BUILDERS)
def test_capture_equals_eager_output_attentions(name):
    _, trace = case(name)
    if name.startswith("paligemma"):
        skip_if_old("its own rule puts generated tokens into the prefix that looks ahead")
    captured = trace.attention(range(trace.n_layers))
    expected = self_attention(name, eager(name, trace), len(trace.layout))
    assert len(expected) == trace.n_layers
    np.testing.assert_allclose(captured, np.stack(expected), atol=5e-5)
    assert captured.max(axis=-1).mean() > 0.15  # far from uniform
    ahead = np.triu(captured, 1).any()
    assert ahead == (name in LOOKS_AHEAD)


@pytest.mark.parametrize("name", BUILDERS)
def test_layers_read_in_blocks_say_what_whole_layers_say(name, monkeypatch):
    _, trace = case(name)
    target = trace.target(slice(1, 3))
    whole = trace.attention(range(trace.n_layers))
    kept = {layer.layer: layer for layer in trace.backward(target).language()}
    for layer in kept.values():
        _ = layer.attention, layer.gradient  # rebuilt in one piece
    monkeypatch.setattr(attention_function, "_BLOCK_BYTES", 700)
    np.testing.assert_allclose(trace.attention(range(trace.n_layers)), whole, atol=2e-5)
    for layer in trace.backward(target).language():
        expected = kept[layer.layer]
        weights, gradient = np.zeros((2, *expected.attention.shape))
        parts = []
        for rows, some, its_gradient in layer.blocks():
            weights[:, rows, : some.shape[-1]] = some
            gradient[:, rows, : some.shape[-1]] = its_gradient
            parts.append(rows)
        stop = parts[-1].stop
        assert len(parts) > 2
        assert [rows.start for rows in parts[1:]] == [rows.stop for rows in parts[:-1]]
        np.testing.assert_allclose(weights[:, :stop], expected.attention[:, :stop], atol=2e-5)
        scale = np.abs(expected.gradient).max()
        # Behind what a row sees the gradient means nothing.
        np.testing.assert_allclose(
            gradient * (weights > 0), expected.gradient * (weights > 0), atol=1e-5 * scale
        )
        assert not expected.gradient[:, stop:].any()
    found = TargetPass(trace, target, "influence")
    scale = naive.gradient_norm(trace, target).max()
    np.testing.assert_allclose(
        found.take_matrix(), naive.influence_matrix(trace, target), atol=1e-5
    )
    np.testing.assert_allclose(found.orders.attended, naive.attended(trace, target), atol=1e-5)
    np.testing.assert_allclose(found.orders.composed, naive.rollout(trace, target), atol=1e-6)
    np.testing.assert_allclose(
        found.orders.gradient_norm, naive.gradient_norm(trace, target), atol=1e-5 * scale
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_the_teacher_forced_pass_is_the_generation(name):
    _, trace = case(name)
    assert trace.self_check.passed
    assert trace.self_check.argmax_agreement == 1.0
    assert trace.self_check.max_log_prob_difference < 1e-4
    assert trace.self_check.geometry_error < 0.2
    assert len(trace.log_probs) == 5
    assert PROMPT in trace.prompt
    words = "".join(
        t for t, m in zip(trace.layout.tokens, trace.layout.modality, strict=True) if m == "prompt"
    )
    assert words == PROMPT


@pytest.mark.parametrize("name", IMAGE_TEXT)
def test_the_answer_depends_on_the_image(name):
    lvlm, trace = case(name)
    other = lvlm.run(noise_image((100, 60), seed=11), PROMPT, max_new_tokens=5)
    assert np.abs(other.log_probs - trace.log_probs).max() > 1e-3


@pytest.mark.parametrize("name", [n for n in BUILDERS if n not in DROP_DIFFERS])
def test_dropping_equals_blocking(name):
    _, trace = case(name)
    target = trace.target(3)
    keep = random_masks(trace, target, 8, seed=4)
    drop = trace.evaluate(keep, target, backend="drop")
    block = trace.evaluate(keep, target, backend="block")
    np.testing.assert_allclose(drop.token_log_probs, block.token_log_probs, atol=5e-5)
    assert np.ptp(block.token_log_probs) > 1e-2
    np.testing.assert_allclose(block.token_log_probs[0], trace.log_probs[3], atol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_reused_prefix_changes_nothing(name, monkeypatch):
    _, trace = case(name)
    target = trace.target(3)
    keep = np.ones((4, len(trace.layout)), dtype=bool)
    late = trace.layout.positions("prompt")
    keep[1, late[-2:]] = False
    keep[2, late[:2]] = False
    keep[3, trace.layout.n_prompt] = False  # where prompts look ahead, only answers have a prefix
    found = trace.evaluate(keep, target)
    only_late = trace.evaluate(keep[3:], target)
    monkeypatch.setattr(type(trace.prepared), "can_reuse_prefix", False)
    plain = trace.evaluate(keep, target, backend="drop" if name in HYBRID else "block")
    np.testing.assert_allclose(found.token_log_probs, plain.token_log_probs, atol=5e-5)
    np.testing.assert_allclose(only_late.token_log_probs, plain.token_log_probs[3:], atol=5e-5)


@pytest.mark.parametrize("masking", ["edges", "neutral", "pixels-mean"])
@pytest.mark.parametrize("name", WITH_GRID)
def test_other_interventions_run_and_matter(name, masking):
    _, trace = case(name)
    target = trace.target(2)
    keep = np.ones((2, len(trace.layout)), dtype=bool)
    keep[1, trace.layout.positions("image")] = False
    if masking == "edges" and name in HYBRID:
        with pytest.raises(UnsupportedModelError, match="mix tokens without attention"):
            trace.evaluate(keep, target, masking=masking)
        with pytest.raises(UnsupportedModelError, match="backend='block'"):
            trace.evaluate(keep, target, backend="block")
        return
    found = trace.evaluate(keep, target, masking=masking).token_log_probs
    assert found[0, 0] == pytest.approx(trace.log_probs[2], abs=1e-4)
    assert np.isfinite(found).all() and abs(found[1, 0] - found[0, 0]) > 1e-6


@pytest.mark.parametrize("name", ["text_llama", "text_gemma2", *IMAGE_TEXT])
def test_an_explanation_is_found_and_verified(name):
    _, trace = case(name)
    for index in (2, 3, 1, 4, 0):  # not every token of a random model can be changed by masking
        found = cl.explain(trace, target=index, max_runs=120, n_random=4, max_tests=20_000)
        sets = [one for one in found.sets.values() if one.verified]
        if sets:
            break
    best = sets[0]
    keep = np.ones((1, len(trace.layout)), dtype=bool)
    keep[0, list(best.positions)] = False
    again = trace.evaluate(keep, found.target, backend="drop" if name in HYBRID else "block")
    assert again.argmax[0, 0] != trace.layout.token_ids[found.target.start]


@pytest.mark.parametrize("name", ["text_llama", *IMAGE_TEXT])
def test_gradients_reach_every_layer_and_position(name):
    _, trace = case(name)
    found = trace.backward(2)
    layers = sorted(layer.layer for layer in found.language())
    assert layers == list(range(trace.n_layers))
    assert np.isfinite(found.gradient_norm).all()
    start = trace.target(2).start
    assert (found.gradient_norm[:start] > 0).mean() > 0.5
    assert not found.gradient_norm[start:].any()


# What attention modules call the map of their heads' outputs.
OUTWARD = ("out_proj", "o_proj", "proj", "projection", "projection_layer", "linear")


# -- geometry: paint, and see which features change ---------------------------------------------


def local(name: str) -> LVLM:
    """Return the family's model with a tower that cannot mix patches."""
    model, processor = BUILDERS[name]()
    lvlm = LVLM(model, processor)
    with torch.no_grad():
        for part, module in lvlm.tower.named_modules():
            last = part.rsplit(".", 1)[-1]
            inside = "attn" in part or "attention" in part
            mixes = inside and last in OUTWARD
            if (mixes or last == "dwconv") and hasattr(module, "weight"):
                module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()
    return lvlm


def image_features(lvlm: LVLM, trace: Any, image: Image.Image) -> np.ndarray:
    """Return what enters the language model at every position, (T, D)."""
    inputs = lvlm.process([image], trace.prompt).inputs
    with lvlm.session(), torch.no_grad():
        found: np.ndarray = lvlm.embed(inputs, inputs["input_ids"])[0][0].numpy()
    return found


def painted(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Return the image with a rectangle inverted."""
    left, top, right, bottom = (round(v) for v in box)
    array = np.asarray(image).copy()
    array[top:bottom, left:right] = 255 - array[top:bottom, left:right]
    array[top:bottom, left:right, 0] ^= 128
    return Image.fromarray(array)


def overlaps(boxes: np.ndarray, box: Any, grow: float) -> np.ndarray:
    """Whether cells, grown by a share of their size, meet a rectangle."""
    size = (boxes[:, 2:] - boxes[:, :2]) * grow
    low, high = boxes[:, :2] - size, boxes[:, 2:] + size
    meets: np.ndarray = (low < np.array(box[2:])) & (high > np.array(box[:2]))
    return np.asarray(meets.all(axis=1))


@pytest.mark.parametrize("size", [(300, 180), (170, 260)], ids=str)
@pytest.mark.parametrize("name", WITH_GRID)
def test_painting_a_cell_changes_its_tokens_only(name, size):
    lvlm = local(name)
    image = noise_image(size, seed=3)
    trace = lvlm.run(image, PROMPT, max_new_tokens=1)
    assert trace.self_check.geometry_error < 0.2
    before = image_features(lvlm, trace, image)
    grids = trace.layout.grids
    positions = np.concatenate([g.positions for g in grids])
    boxes = np.concatenate([g.boxes for g in grids])
    tried = 0
    for cell in np.random.default_rng(0).permutation(len(positions))[:10]:
        left, top, right, bottom = boxes[cell]
        wide, tall = right - left, bottom - top
        if wide < 8 or tall < 8:
            continue  # cut by the border, or too small to paint inside
        box = (left + 0.3 * wide, top + 0.3 * tall, right - 0.3 * wide, bottom - 0.3 * tall)
        after = image_features(lvlm, trace, painted(image, box))
        change = np.abs(after - before).max(axis=1)
        own = next(g for g in grids if positions[cell] in g.positions)
        # Of its own tile the cell changes most; whatever else changes sees these pixels too.
        assert own.positions[change[own.positions].argmax()] == positions[cell]
        meets = overlaps(boxes, box, 0.6 if name == "llava_onevision" else 0.25)
        assert (
            change[positions[~meets]].max(initial=0.0) <= 0.01 * change.max()
        )  # resampling has tails
        rest = np.setdiff1d(np.arange(len(before)), positions)
        assert not change[rest].any()
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("name", WITH_GRID)
def test_cells_cover_the_image_once_in_every_tile(name):
    _, trace = case(name)
    width, height = trace.images[0].size
    boxes = np.concatenate([g.boxes for g in trace.layout.grids])
    assert boxes[:, :2].min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
    areas = [np.prod(g.boxes[:, 2:] - g.boxes[:, :2], axis=1).sum() for g in trace.layout.grids]
    whole = width * height
    assert all(area <= whole * 1.001 for area in areas)
    shown = trace.layout.positions("image")
    assert sorted(np.concatenate([g.positions for g in trace.layout.grids])) == shown.tolist()
