"""Shared pieces of the tests of the model boundary."""

from __future__ import annotations

import numpy as np
from PIL import Image

PROMPT = "What color is the circle?"


def noise_image(size=(80, 120), seed=0):
    """Return an image of smooth coloured noise, (width, height) = size."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def candidate_positions(trace, target):
    """Return the positions that may be masked for a target."""
    return [
        p
        for p in range(target.start)
        if trace.layout.modality[p] != "special" and p != target.predictor
    ]


def random_masks(trace, target, n_rows, seed=0):
    """Return masks (n_rows, T) of many sizes; the first keeps everything, the last nothing."""
    rng = np.random.default_rng(seed)
    candidates = candidate_positions(trace, target)
    keep = np.ones((n_rows, len(trace.layout)), dtype=bool)
    for row in range(1, n_rows):
        size = len(candidates) if row == n_rows - 1 else rng.integers(1, len(candidates))
        keep[row, rng.choice(candidates, size, replace=False)] = False
    return keep
