"""Checks of what structure learning is given; a failure is a typed error that says what to do."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, special

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.errors import (
    CausalLVLMError,
    CorrelationError,
    SampleSizeError,
    StructureError,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "LOWEST_EIGENVALUE",
    "check_correlation",
    "check_order",
    "checked_integer",
    "critical_values",
    "largest_testable_size",
    "squared_thresholds",
]

LOWEST_EIGENVALUE = -1e-5
_SYMMETRY = 1e-5  # float32 matrices are symmetric and normalised only to their rounding
_SHIFTS = (1e-10, 1e-8, 1e-6, 1e-5)


def check_correlation(values: Any) -> tuple[FloatArray, float]:
    """Check a correlation matrix and find the tolerance below which its pivots are noise.

    Cholesky factorisations of R + shift * I are tried with growing shifts: they cost a fraction of
    the eigenvalues. The first that succeeds bounds the smallest eigenvalue by -shift, and pivots
    up to ten times that shift (at least 1e-9) count as zero; only if none succeeds are eigenvalues
    computed.

    Parameters
    ----------
    values : array_like of shape (N, N)

    Returns
    -------
    correlation : ndarray of shape (N, N)
        float64, symmetric, with unit diagonal, read-only.
    tolerance : float
        For `causal_kernels.partial_correlation`.

    Raises
    ------
    CorrelationError
        If the matrix is empty, not square, not numeric, not finite, not symmetric, has a diagonal
        other than one, entries beyond [-1, 1], or an eigenvalue below -1e-5.
    """
    try:
        given = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CorrelationError(f"a correlation matrix of numbers is needed: {error}") from error
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.shape[0] == 0:
        raise CorrelationError(
            f"a correlation matrix must be square and not empty, not of shape {given.shape}"
        )
    if not np.isfinite(given).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(given))[0])
        raise CorrelationError(
            f"the correlation of nodes {i} and {j} is {given[i, j]}; drop nodes without variance"
        )
    off = float(np.abs(given.diagonal() - 1.0).max())
    if off > _SYMMETRY:
        node = int(np.abs(given.diagonal() - 1.0).argmax())
        raise CorrelationError(
            f"entry ({node}, {node}) is {given[node, node]:.6g}, but a correlation matrix has ones "
            "on its diagonal; divide a covariance by the standard deviations first"
        )
    skew = np.abs(given - given.T)
    if float(skew.max()) > _SYMMETRY:
        i, j = (int(k) for k in np.unravel_index(int(skew.argmax()), skew.shape))
        raise CorrelationError(
            f"the matrix is not symmetric: entry ({i}, {j}) is {given[i, j]:.6g}, "
            f"entry ({j}, {i}) is {given[j, i]:.6g}"
        )
    correlation = (given + given.T) / 2.0
    beyond = float(np.abs(correlation).max())
    if beyond > 1.0 + _SYMMETRY:
        raise CorrelationError(f"the largest |entry| is {beyond:.6g}; correlations lie in [-1, 1]")
    np.clip(correlation, -1.0, 1.0, out=correlation)
    np.fill_diagonal(correlation, 1.0)
    shift = _definite_shift(correlation)
    if shift is None:
        smallest = smallest_eigenvalue(correlation)
        if smallest < LOWEST_EIGENVALUE:
            raise CorrelationError(
                f"the smallest eigenvalue is {smallest:.3g}; a correlation matrix has none below 0 "
                f"(rounding excused down to {LOWEST_EIGENVALUE:g}). Was it computed with missing "
                "values or edited by hand?"
            )
        shift = -LOWEST_EIGENVALUE
    correlation.setflags(write=False)
    return correlation, max(1e-9, 10.0 * shift)


def _definite_shift(correlation: FloatArray) -> float | None:
    """Return the first shift that makes the matrix positive definite, None if none does."""
    for shift in _SHIFTS:
        shifted = correlation.copy()
        np.fill_diagonal(shifted, 1.0 + shift)
        try:
            linalg.cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:
            continue
        return shift
    return None


def smallest_eigenvalue(correlation: FloatArray) -> float:
    """Return the smallest eigenvalue of a symmetric matrix of shape (N, N)."""
    return float(linalg.eigvalsh(correlation, subset_by_index=[0, 0], check_finite=False)[0])


def check_order(
    n: int, order: npt.ArrayLike | None, tiers: npt.ArrayLike | None
) -> tuple[IntArray, IntArray]:
    """Check a causal order and tiers.

    Parameters
    ----------
    n : int
        Number of nodes.
    order : array_like of int, shape (N,), optional
        The nodes from the earliest to the latest; by default 0..N-1, sorted by tier.
    tiers : array_like of int, shape (N,), optional
        Tier of each node (indexed by node); must not decrease along an order that is given. By
        default every node has its own.

    Returns
    -------
    order : ndarray of shape (N,), int64
    ranks : ndarray of shape (N,), int64
        Tier of each node **in the order**, counted 0, 1, 2, ...

    Raises
    ------
    StructureError
        If the order is no permutation of the nodes, or the tiers do not fit.
    """
    if order is None:
        # tiers alone are an order; within a tier the row order is as good as any
        ranks = np.zeros(n) if tiers is None else _integers(tiers, "tiers", n)
        permutation = np.argsort(ranks, kind="stable").astype(np.int64)
    else:
        permutation = _integers(order, "order", n)
        missing = np.setdiff1d(np.arange(n), permutation)
        if missing.size:
            raise StructureError(
                f"order is no permutation of the nodes 0..{n - 1}: it lacks {missing[:5].tolist()}"
                f"{' and more' if missing.size > 5 else ''}"
            )
    if tiers is None:
        return permutation, np.arange(n, dtype=np.int64)
    along = _integers(tiers, "tiers", n)[permutation]
    falls = np.flatnonzero(np.diff(along) < 0)
    if falls.size:
        k = int(falls[0])
        raise StructureError(
            f"tiers must not decrease along the order: node {permutation[k]} has tier {along[k]} "
            f"and node {permutation[k + 1]} after it has tier {along[k + 1]}"
        )
    return permutation, np.unique(along, return_inverse=True)[1].astype(np.int64)


def checked_integer(name: str, value: Any, error: type[CausalLVLMError]) -> int:
    """Return a whole number, which may come as a float such as 1e6.

    Raises
    ------
    CausalLVLMError
        Of the type `error`, for anything else; NaN, infinity, booleans and text included.
    """
    if not isinstance(value, (bool, np.bool_)):
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            return int(value)
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise error(f"{name} must be a whole number, not {value!r}")


def _integers(values: npt.ArrayLike, name: str, n: int) -> IntArray:
    try:
        given = np.asarray(values)
    except ValueError as error:
        raise StructureError(f"{name} must be a list of {n} integers: {error}") from error
    if given.shape != (n,):
        raise StructureError(f"{name} has shape {given.shape}; {n} nodes need ({n},)")
    if not np.issubdtype(given.dtype, np.integer):
        raise StructureError(f"{name} must hold integers, not {given.dtype}")
    return given.astype(np.int64)


def largest_testable_size(n: int, n_samples: int | None, max_conditioning_size: int | None) -> int:
    """Return the largest conditioning size that can be tested.

    Raises
    ------
    StructureError
        If `max_conditioning_size` is negative.
    SampleSizeError
        If n_samples is no whole number, or ``n_samples - size - 3`` is not positive for the size
        asked for (or for size 0).
    """
    limit = max(0, n - 2)
    if max_conditioning_size is not None:
        asked = checked_integer("max_conditioning_size", max_conditioning_size, StructureError)
        if asked < 0:
            raise StructureError(f"max_conditioning_size must be 0 or more, not {asked}")
        limit = min(limit, asked)
    if n_samples is None:
        return limit
    n_samples = checked_integer("n_samples", n_samples, SampleSizeError)
    if n_samples < 4:
        raise SampleSizeError(
            f"n_samples is {n_samples}; Fisher's z needs n_samples - |S| - 3 > 0, so at least 4"
        )
    if max_conditioning_size is not None and limit > n_samples - 4:
        raise SampleSizeError(
            f"n_samples is {n_samples}, too small for conditioning sets of size {limit}: "
            f"n_samples - |S| - 3 must be positive. Allowed is max_conditioning_size <= "
            f"{n_samples - 4}, or more samples"
        )
    return min(limit, n_samples - 4)


def critical_values(
    limit: int, n_samples: int | None, alpha: float | None, threshold: float | None
) -> FloatArray:
    """Return, for each size 0..limit, the largest |partial correlation| that is independent.

    Either the same ``threshold`` for all sizes, or Fisher's z: a test says "dependent" if
    |atanh r| * sqrt(n_samples - |S| - 3) > z, with z the 1 - alpha/2 quantile of the normal
    distribution, that is if |r| > tanh(z / sqrt(n_samples - |S| - 3)).

    Raises
    ------
    StructureError
        If alpha or the threshold is not strictly between 0 and 1.
    """
    for name, value in (("threshold", threshold), ("alpha", alpha)):
        if isinstance(value, (str, bytes)) or not np.isscalar(0.0 if value is None else value):
            raise StructureError(f"{name} must be a number between 0 and 1, not {value!r}")
    if threshold is not None:
        if not (math.isfinite(threshold) and 0.0 < threshold < 1.0):
            raise StructureError(f"threshold must be between 0 and 1, not {threshold}")
        return np.full(limit + 1, float(threshold))
    if alpha is None or n_samples is None:
        raise StructureError("give n_samples (with alpha), or threshold")
    if not (math.isfinite(alpha) and 0.0 < alpha < 1.0):
        raise StructureError(f"alpha must be between 0 and 1, not {alpha}")
    z = -float(special.ndtri(alpha / 2.0))
    sizes = np.arange(limit + 1)
    return np.asarray(np.tanh(z / np.sqrt(n_samples - sizes - 3.0)), dtype=np.float64)


def squared_thresholds(critical: FloatArray) -> FloatArray:
    """Return the largest squared partial correlation that counts as independent, by size.

    A value that ties with the critical one (`causal_kernels.partial`) is at it, so independent; one
    that ties with 1 is dependent, also where tanh rounds to 1 for a tiny alpha.
    """
    from causal_kernels import TIE

    return np.asarray(np.minimum(critical + TIE, 1.0 - TIE) ** 2, dtype=np.float64)
