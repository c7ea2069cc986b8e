"""Where models look that have no image token for each patch: soft maps from cross-attention.

BLIP-2 and InstructBLIP hand their language model a few learned queries; each has looked at the
whole image, and what is left of its place is the Q-Former's attention to the patches of the vision
tower. Mllama's language model looks at the patches itself, in some of its layers.

Both are maps of attention, not of tokens: a patch here cannot be masked on its own, and mixes with
others in the vision tower before it is looked at.

1. The model runs once; the calls of its cross-attention modules are recorded.
2. Their weights are averaged over layers and heads; what went to class tokens or to padding is left
   out, so a row may sum to less than one.
3. Patches get rectangles of the original by the image processor's own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import Float32Array, FloatArray, IntArray, frozen
from causal_lvlm.errors import CaptureError, UnsupportedModelError
from causal_lvlm.lvlm.attention_function import Recorder, attention_weights, recording, switched
from causal_lvlm.lvlm.geometry import cell_boxes, clip_geometry
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.tiles import as_pair, function_of

__all__ = ["ImageAttention", "Looks"]


@dataclass(frozen=True)
class ImageAttention:
    """How much each position looks at each patch of the image.

    Attributes
    ----------
    positions : ndarray of int64, shape (P,)
        Sequence positions of the rows: the queries' (BLIP-2), or all (Mllama).
    weights : ndarray of float32, shape (P, C)
        Mean over layers and heads; a row sums to at most one.
    boxes : ndarray of float64, shape (C, 4)
        Rectangle of each patch in pixels of the original image, clipped to it: empty in padding.
    source : str
        Where the weights come from, in words.
    """

    positions: IntArray
    weights: Float32Array
    boxes: FloatArray
    source: str


class Looks(Live):
    """Where models look that have no image token for each patch."""

    def image_attention(self) -> ImageAttention:
        """Return a soft map for models without a token for each patch (BLIP-2, Mllama).

        Raises
        ------
        UnsupportedModelError
            If the model has image tokens with places of their own, or there is not one image.
        """
        prepared = self.prepared
        family = prepared.lvlm.family
        if family.soft_map is None:
            raise UnsupportedModelError(
                f"{family.name}: there is no image, or attention to it is attention to image "
                "tokens; use trace.attention, and layout.patch_box where they have a place in the "
                "image"
            )
        if len(prepared.images) != 1:
            raise UnsupportedModelError(
                f"a soft map is made for one image, and there are {len(prepared.images)}"
            )
        return _queries(prepared) if family.soft_map == "q-former" else _cross(prepared)


def _mean_weights(calls: list[Any]) -> torch.Tensor:
    """Return the mean (Tq, Tk) over calls and heads."""
    found = [attention_weights(call)[0].mean(dim=0) for call in calls]
    return torch.stack(found).mean(dim=0)


def _record(configs: list[Any], modules: frozenset[int], run: Any) -> list[Any]:
    recorder = Recorder(record=True, modules=modules)
    with switched(configs), recording(recorder), torch.no_grad():
        run()
    if not recorder.calls:
        raise CaptureError(
            "the model's cross-attention does not go through the attention interface of "
            "transformers in the installed version; a newer one is needed (5.23.0 serves)"
        )
    return recorder.calls


def _queries(prepared: Prepared) -> ImageAttention:
    lvlm = prepared.lvlm
    qformer = lvlm.model.qformer
    modules = {
        id(m): m for n, m in qformer.named_modules() if n.endswith("crossattention.attention")
    }
    configs = {id(m.config): m.config for m in qformer.modules() if hasattr(m, "config")}
    calls = _record(
        list(configs.values()),
        frozenset(modules),
        lambda: lvlm.embed(prepared.inputs, prepared.token_ids),
    )
    with switched(configs.values()):
        weights = _mean_weights(calls)
    positions = prepared.layout.positions("image")
    patch = int(lvlm.model.config.vision_config.patch_size)
    n_patches = weights.shape[1] - 1  # the class token stands first
    tile = clip_geometry(lvlm.processor.image_processor, prepared.images[0].size, patch, n_patches)[
        0
    ]
    return ImageAttention(
        positions,
        frozen(weights[: len(positions), 1:].cpu().numpy(), np.float32),
        frozen(tile.boxes, np.float64),
        "cross-attention of the Q-Former, mean over its layers and heads",
    )


def _cross(prepared: Prepared) -> ImageAttention:
    lvlm = prepared.lvlm
    with lvlm.session():
        calls = _record(
            [],
            lvlm.cross_attention,
            lambda: prepared.logits(prepared.embeds, prepared.positions, 1),
        )
        weights = _mean_weights(calls)
    boxes, keys = _tile_keys(prepared)
    return ImageAttention(
        np.arange(len(prepared.layout)),
        frozen(weights[:, keys].cpu().numpy(), np.float32),
        frozen(boxes, np.float64),
        "cross-attention of the language model, mean over its cross-attention layers and heads",
    )


def _tile_keys(prepared: Prepared) -> tuple[FloatArray, IntArray]:
    """Return boxes of Mllama's patches, and which key each is: tiles of a class token and patches.

    The image is resized with its aspect kept to fit a canvas of tiles, and padded at the right and
    the bottom.
    """
    images = prepared.lvlm.processor.image_processor
    width, height = prepared.images[0].size
    edge = as_pair(images.size)[0]
    patch = int(prepared.lvlm.model.config.vision_config.patch_size)
    canvas = function_of(images, "get_optimal_tiled_canvas")(
        image_height=height,
        image_width=width,
        max_image_tiles=images.max_image_tiles,
        tile_size=edge,
    )
    new_height, new_width = function_of(images, "get_image_size_fit_to_canvas")(
        image_height=height,
        image_width=width,
        canvas_height=canvas[0],
        canvas_width=canvas[1],
        tile_size=edge,
    )
    rows, cols = (int(v) // edge for v in canvas)
    grid = edge // patch
    scale = width / new_width, height / new_height
    boxes, keys = [], []
    for number in range(rows * cols):
        row, col = divmod(number, cols)
        offset = col * edge, row * edge
        boxes.append(cell_boxes(grid, grid, patch, scale, offset, (0, 0), (width, height)))
        keys.append(number * (grid * grid + 1) + 1 + np.arange(grid * grid))
    return np.concatenate(boxes), np.concatenate(keys)
