"""Checks made on every run, so that a silent mismatch cannot pass for an explanation.

`check_run` compares the teacher-forced pass, on which everything rests, with the generation.
`geometry_error` sends a coordinate ramp (red grows to the right, green downwards) through the
model's image processor: the mean colour of each patch says where in the original it came from, and
must agree with the rectangle in the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from causal_lvlm.lvlm.results import SelfCheck
from causal_lvlm.tokens import TokenLayout

if TYPE_CHECKING:
    from causal_lvlm.arrays import FloatArray
    from causal_lvlm.lvlm.model import LVLM
    from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["check_run", "geometry_error"]

# Half formats differ between kernels by about their own step times the size of the logits.
_TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-6, torch.float16: 0.05, torch.bfloat16: 0.3}


def check_run(prepared: Prepared, recorded: FloatArray, geometry: float = 0.0) -> SelfCheck:
    """Compare one teacher-forced pass with the recorded generation.

    Parameters
    ----------
    prepared : Prepared
    recorded : ndarray of float64, shape (G,)
        Log-probabilities of the generated tokens when they were generated.
    geometry : float
        Result of `geometry_error`.
    """
    lvlm = prepared.lvlm
    n_prompt, length = prepared.layout.n_prompt, len(prepared.layout)
    with lvlm.session(), torch.no_grad():
        # The last token predicts nothing that was recorded.
        logits = lvlm.logits(
            prepared.embeds[:, : length - 1],
            prepared.position_ids[:, : length - 1],
            length - n_prompt,
        )[0].double()
    targets = prepared.token_ids[0, n_prompt:]
    log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu().numpy()
    difference = float(np.abs(log_probs - recorded).max())
    agreement = float((logits.argmax(-1) == targets).double().mean())
    tolerance = _TOLERANCE.get(lvlm.dtype, 0.3)
    # A half format may swap two tokens whose logits are nearly equal.
    agrees = agreement == 1.0 or lvlm.dtype not in (torch.float32, torch.float64)
    return SelfCheck(
        passed=bool(difference <= tolerance and agrees and geometry < 0.5),
        argmax_agreement=agreement,
        max_log_prob_difference=difference,
        tolerance=tolerance,
        geometry_error=geometry,
    )


def geometry_error(lvlm: LVLM, layout: TokenLayout, image_size: tuple[int, int]) -> float:
    """Return the largest distance between predicted and measured cell centres, in cells.

    Returns
    -------
    float
        0 where the model's pixels are not one square image (nothing can be compared).
    """
    width, height = image_size
    if len(layout.grids) != 1:
        return 0.0
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.rint((np.arange(width) + 0.5) / width * 255).astype(np.uint8)[None]
    ramp[:, :, 1] = np.rint((np.arange(height) + 0.5) / height * 255).astype(np.uint8)[:, None]
    ramp[:, :, 2] = 255
    grid = layout.grids[0]
    pixels = lvlm.pixels([Image.fromarray(ramp)])["pixel_values"][0].float().cpu().numpy()
    seen = _denormalised(pixels, lvlm.processor.image_processor)
    patch_y, patch_x = seen.shape[1] // grid.rows, seen.shape[2] // grid.cols
    cells = seen[:, : patch_y * grid.rows, : patch_x * grid.cols]
    cells = cells.reshape(3, grid.rows, patch_y, grid.cols, patch_x).mean(axis=(2, 4))
    cells = cells.reshape(3, -1)
    inside = cells[2] > 0.99  # less blue: partly padding
    if not inside.any():
        return 0.0
    boxes = grid.boxes[inside]
    centres = np.stack([boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)])
    found = np.stack([cells[0, inside] * width, cells[1, inside] * height])
    sizes = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]])
    # Eight bits resolve a ramp no finer than one step of it, and enlarging holds it constant
    # within half a pixel of the border.
    blur = np.array([[width], [height]]) / 255.0 + 0.5
    distance = np.maximum(np.abs(centres - found) - blur, 0.0)
    return float((distance / np.maximum(sizes, 1e-9)).max())


def _denormalised(pixels: Any, image_processor: Any) -> Any:
    """Undo the processor's normalisation: values in [0, 1], shape (3, H, W)."""
    if getattr(image_processor, "do_normalize", False):
        mean = np.asarray(image_processor.image_mean, dtype=np.float64)[:, None, None]
        std = np.asarray(image_processor.image_std, dtype=np.float64)[:, None, None]
        pixels = pixels * std + mean
    if not getattr(image_processor, "do_rescale", True):
        pixels = pixels / 255.0
    return pixels
