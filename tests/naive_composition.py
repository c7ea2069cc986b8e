"""The slow way to orders and covariance sources: every layer whole, every product a matrix.

This is how `causal_lvlm.composition` was computed before it read layers in blocks; tests compare
with it, and `experiments.capture_cost.orders` takes its time.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def whole(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's attention and gradient, float64 (H, T, T)."""
    return np.asarray(layer.attention, dtype=float), np.asarray(layer.gradient, dtype=float)


def influence_matrix(trace: Any, target: Any) -> np.ndarray:
    """Return the influence matrix (T, T)."""
    composed = np.eye(len(trace.layout))
    for layer in trace.backward(target).language():
        attention, gradient = whole(layer)
        cut = np.abs(attention * gradient).mean(axis=0)
        composed = composed + composed @ (cut / cut.sum(axis=1).max())
    return composed


def relevancy_matrix(trace: Any, target: Any) -> np.ndarray:
    """Return the relevancy matrix (T, T)."""
    composed = np.eye(len(trace.layout))
    for layer in trace.backward(target).language():
        attention, gradient = whole(layer)
        composed = composed + composed @ np.maximum(attention * gradient, 0).mean(axis=0)
    return composed


def attended(trace: Any, target: Any) -> np.ndarray:
    """Return the predicting row of attention, mean over heads and sum over layers (T,)."""
    total = np.zeros(len(trace.layout))
    for _, weights in trace.iter_attention():
        total += weights[:, target.predictor].mean(axis=0, dtype=float)
    return total


def rollout(trace: Any, target: Any) -> np.ndarray:
    """Return the predicting row of attention composed over layers (T,)."""
    length = len(trace.layout)
    composed = np.eye(length)
    for _, weights in trace.iter_attention():
        composed = (0.5 * weights.mean(axis=0, dtype=float) + 0.5 * np.eye(length)) @ composed
    return composed[target.predictor]


def gradient_norm(trace: Any, target: Any) -> np.ndarray:
    """Return the norm of the gradient at each embedding (T,)."""
    return np.asarray(trace.backward(target).gradient_norm)
