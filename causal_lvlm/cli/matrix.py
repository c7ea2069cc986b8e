"""Read the matrix of ``causal-lvlm learn`` from a file, and make attention a correlation."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.cli.support import say
from causal_lvlm.errors import AttentionError, CorrelationError

__all__ = ["read_matrix"]


def read_matrix(
    path: Path, key: str | None, *, attention: bool, head: int | None
) -> tuple[FloatArray, list[str]]:
    """Return a correlation matrix and the names of its nodes.

    Parameters
    ----------
    path : pathlib.Path
        A ``.npy`` or ``.npz`` file of numbers.
    key : str or None
        Name of the matrix in a ``.npz`` file.
    attention : bool
        Whether the file holds attention, whose rows are then correlated.
    head : int or None
        Which head, if there are several.

    Returns
    -------
    correlation : ndarray of float64, shape (N, N)
        Not yet checked if the file held a correlation matrix: the learner does that.
    names : list of str
        Rows of the matrix in the file.

    Raises
    ------
    ValueError
        If there is no such file, it holds no numbers, or an option does not fit to it.
    CorrelationError, AttentionError
        If the matrix has a wrong shape or wrong values.
    """
    values = _numbers(path, key)
    if not attention:
        if head is not None:
            raise ValueError("--head chooses a head of attention; give --attention as well")
        if values.ndim != 2:
            raise CorrelationError(
                f"a correlation matrix has two axes, but {str(path)!r} holds shape {values.shape}"
            )
        return values, [str(n) for n in range(len(values))]
    return _correlated(_head(values, head))


def _numbers(path: Path, key: str | None) -> FloatArray:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{str(path)!r} {what}; give a .npy or .npz file")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if key is not None:
                raise ValueError("it holds one array only: leave --key out")
            values = loaded
        else:
            with loaded:
                values = _chosen(loaded, key)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read a matrix from {str(path)!r}: {error}") from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{str(path)!r} holds values of type {values.dtype}, not real numbers")
    return np.asarray(values, dtype=np.float64)


def _chosen(arrays: Any, key: str | None) -> Any:
    """Return the array that was asked for, else the one that can be meant."""
    names = list(arrays.files)
    wanted = key or next((n for n in ("correlation", "attention") if n in names), None)
    wanted = wanted or (names[0] if len(names) == 1 else None)
    if wanted in names:
        return arrays[wanted]
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise ValueError(f"it holds {shown}; choose one with --key" if names else "it holds no array")


def _head(values: FloatArray, head: int | None) -> FloatArray:
    if values.ndim == 3 and len(values):
        if head is None or not -len(values) <= head < len(values):
            raise AttentionError(
                f"attention has {len(values)} heads; choose one with --head 0..{len(values) - 1}"
            )
        values = values[head]
    elif head is not None:
        raise AttentionError(f"attention of shape {values.shape} has one head; leave --head out")
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise AttentionError(
            f"attention must have shape (T, T) or (heads, T, T), got {values.shape}"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        row, column = np.argwhere(~np.isfinite(values) | (values < 0))[0]
        raise AttentionError(
            f"attention must be finite and non-negative, but entry ({row}, {column}) is "
            f"{values[row, column]:g}"
        )
    return values


def _correlated(values: FloatArray) -> tuple[FloatArray, list[str]]:
    """Return the correlation of the rows of attention (A·Aᵀ); empty rows are left out and named."""
    from causal_lvlm.correlation import correlation_of_rows

    strength = (values**2).sum(axis=1)
    kept = np.flatnonzero(strength > 1e-12 * strength.max(initial=0.0))
    if not len(kept):
        raise AttentionError("no row of the attention has any weight")
    if len(kept) < len(values):
        lost = sorted(set(range(len(values))) - set(kept.tolist()))
        say(f"rows without weight are left out: {lost}")
    return correlation_of_rows(values[kept]), [str(n) for n in kept]
