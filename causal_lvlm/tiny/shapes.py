"""Binary stamps of the eight shapes of the tiny scenes.

A stamp is drawn analytically, without anti-aliasing: a pixel belongs to the shape when its centre
does. The mask of an object is therefore exact, which is what makes a scene a ground truth.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from causal_lvlm.errors import quoted

__all__ = ["SHAPES", "stamp"]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "cup", "spoon")


def _polygon(x: FloatArray, y: FloatArray, vertices: FloatArray) -> BoolArray:
    """Even-odd rule: which points lie inside the polygon with these (n, 2) vertices."""
    inside = np.zeros(x.shape, dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _star(x: FloatArray, y: FloatArray) -> BoolArray:
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    length = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    vertices = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
    return _polygon(x, y, vertices)


def _inside(shape: str, x: FloatArray, y: FloatArray) -> BoolArray:
    """Membership of points in the unit version of ``shape`` (y points down)."""
    if shape == "circle":
        return x**2 + y**2 <= 0.9
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.83
    if shape == "triangle":
        return _polygon(x, y, np.array([[0.0, -1.0], [0.98, 0.8], [-0.98, 0.8]]))
    if shape == "star":
        return _star(x, y)
    if shape == "cross":
        arm = 0.3
        long = 0.95
        horizontal = (np.abs(x) <= long) & (np.abs(y) <= arm)
        return horizontal | ((np.abs(y) <= long) & (np.abs(x) <= arm))
    if shape == "ring":
        square = x**2 + y**2
        ring: BoolArray = (square <= 1.0) & (square >= 0.3)
        return ring
    if shape == "cup":
        # A body that narrows downwards, and a handle to its right.
        half = 0.62 - 0.14 * (y + 0.8) / 1.6
        body = (np.abs(y) <= 0.8) & (np.abs(x + 0.28) <= half)
        from_handle = (x - 0.36) ** 2 + (y + 0.12) ** 2
        handle = (from_handle <= 0.30) & (from_handle >= 0.10) & (x > 0.2)
        return body | handle
    if shape == "spoon":
        # Bowl at the upper left, handle down to the lower right.
        along = (x + y) / np.sqrt(2.0)
        across = (x - y) / np.sqrt(2.0)
        bowl = ((along + 0.58) / 0.56) ** 2 + (across / 0.44) ** 2 <= 1.0
        handle = (along >= -0.2) & (along <= 1.12) & (np.abs(across) <= 0.16)
        spoon: BoolArray = bowl | handle
        return spoon
    raise ValueError(f"unknown shape {quoted(shape)}; known shapes: {', '.join(SHAPES)}")


@lru_cache(maxsize=1024)
def stamp(shape: str, radius: int, turn: int = 0) -> BoolArray:
    """Pixels of one shape in its own square window.

    Parameters
    ----------
    shape : str
        One of ``SHAPES``.
    radius : int
        Half the size in pixels.
    turn : int, default 0
        Rotation in steps of 5 degrees, clockwise.

    Returns
    -------
    ndarray of bool, shape (2 * radius + 3, 2 * radius + 3)
        Read-only; the centre pixel is the centre of the shape.

    Raises
    ------
    ValueError
        If the shape is unknown or the radius is smaller than 2.
    """
    if radius < 2:
        raise ValueError(f"radius {radius} is too small: a shape needs at least 2 pixels")
    axis = np.arange(-radius - 1, radius + 2, dtype=np.float64) / radius
    x, y = np.meshgrid(axis, axis)
    angle = np.deg2rad(5.0 * turn)
    turned_x = np.cos(angle) * x + np.sin(angle) * y
    turned_y = -np.sin(angle) * x + np.cos(angle) * y
    mask = _inside(shape, turned_x, turned_y)
    mask.flags.writeable = False
    return mask
