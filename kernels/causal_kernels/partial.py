"""Partial correlation of any order by elimination, without inverting a matrix.

1. Copy the block of the correlation matrix that belongs to (given..., x, y).
2. Eliminate the conditioning variables one after the other (one step of Gauss-Jordan each): what
   is left is the covariance of x and y given those variables.
3. Divide the remaining covariance by the root of the two remaining variances.

Near-singular input: a pivot is the share of a variable's variance that the variables before it
leave unexplained. When a pivot, or the remaining variance of x or y, is at or below ``tolerance``,
the value cannot be told from rounding and the status is ``SINGULAR``: the test then says neither
"dependent" nor "independent".

Reference: T. W. Anderson, An Introduction to Multivariate Statistical Analysis, section 2.5.3.
"""

from __future__ import annotations

from numba import njit

__all__ = ["OK", "SINGULAR", "partial_correlation"]

OK = 0
SINGULAR = 1


@njit(cache=True, nogil=True)
def partial_correlation(correlation, x, y, given, size, tolerance, work):
    """Return (status, r) of the correlation of x and y given ``given[:size]``.

    ``correlation`` float64 (N, N); ``given`` int64 (>= size,); ``work`` float64, at least
    (size + 2, size + 2), is overwritten. ``r`` is 0.0 when the status is ``SINGULAR``.
    """
    for i in range(size):
        for j in range(i + 1):
            work[i, j] = correlation[given[i], given[j]]
        work[size, i] = correlation[x, given[i]]
        work[size + 1, i] = correlation[y, given[i]]
    work[size, size] = correlation[x, x]
    work[size + 1, size] = correlation[y, x]
    work[size + 1, size + 1] = correlation[y, y]
    for p in range(size):
        pivot = work[p, p]
        if not pivot > tolerance:
            return SINGULAR, 0.0
        for i in range(p + 1, size + 2):
            factor = work[i, p] / pivot
            for j in range(p + 1, i + 1):
                work[i, j] -= factor * work[j, p]
    var_x = work[size, size]
    var_y = work[size + 1, size + 1]
    if not (var_x > tolerance and var_y > tolerance):
        return SINGULAR, 0.0
    return OK, work[size + 1, size] / (var_x * var_y) ** 0.5
