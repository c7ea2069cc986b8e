"""Partial correlation of any order by elimination, without inverting a matrix.

1. Copy the block of the correlation matrix that belongs to (given..., x, y).
2. Eliminate the conditioning variables one after the other (one step of Gauss-Jordan each): what
   is left is the covariance of x and y given those variables.
3. Divide the remaining covariance by the root of the two remaining variances.

Near-singular input: a pivot is the share of a variable's variance that the variables before it
leave unexplained. An error of size eps in each entry of the matrix changes what is left of a
variable by at most eps s^2, where s = 1 + the sum of |regression coefficients| of that variable on
those before it (its row sum in the inverse of the Cholesky factor, times its diagonal). When a
pivot, or the remaining variance of x or y, is at or below ``tolerance`` or ``NOISE * s^2``, the
value cannot be told from rounding and the status is ``SINGULAR``: the test then says neither
"dependent" nor "independent". Two near-copies in a row make s large although no pivot alone is
small.

Near-ties: what a value is off by depends on the order in which a processor adds up. Values that
differ by at most ``TIE`` are one, in all that is decided: which separating set is taken (all sets
within ``TIE`` of the smallest |partial correlation| are equal, the one of the lowest nodes wins,
`tie_bound`), whether a value is at the threshold (the learner adds ``TIE`` to it), and whether two
nodes are copies of each other (|r| >= 1 - ``TIE``). Each rule asks for the distance to one number
that does not depend on what came before, not for the distance to the last best: so the order of
the sets, chunks and threads do not matter.

References: T. W. Anderson, An Introduction to Multivariate Statistical Analysis, section 2.5.3;
N. J. Higham, Accuracy and Stability of Numerical Algorithms, chapter 10.
"""

from __future__ import annotations

from causal_kernels.compiled import kernel

__all__ = ["NOISE", "OK", "SINGULAR", "TIE", "partial_correlation", "tie_bound"]

OK = 0
SINGULAR = 1
NOISE = 1e-9  # what an entry may be off, beyond which a remaining variance means something
TIE = 1e-12  # |partial correlations| that differ by no more are equal


@kernel
def tie_bound(lowest):
    """Return the largest squared partial correlation that ties with the squared ``lowest``."""
    return (lowest**0.5 + TIE) ** 2


@kernel
def partial_correlation(correlation, x, y, given, size, tolerance, work):
    """Return (status, r) of the correlation of x and y given ``given[:size]``.

    ``correlation`` float64 (N, N); ``given`` int64 (>= size,); ``work`` float64, at least
    (size + 2, size + 3), is overwritten. ``r`` is 0.0 when the status is ``SINGULAR``.
    """
    spread = size + 2  # column of `work` that holds s of each variable
    for i in range(size):
        for j in range(i + 1):
            work[i, j] = correlation[given[i], given[j]]
        work[size, i] = correlation[x, given[i]]
        work[size + 1, i] = correlation[y, given[i]]
    work[size, size] = correlation[x, x]
    work[size + 1, size] = correlation[y, x]
    work[size + 1, size + 1] = correlation[y, y]
    for i in range(size + 2):
        work[i, spread] = 1.0
    for p in range(size):
        pivot = work[p, p]
        share = work[p, spread]
        if not pivot > max(tolerance, NOISE * share * share):
            return SINGULAR, 0.0
        for i in range(p + 1, size + 2):
            factor = work[i, p] / pivot
            work[i, spread] += abs(factor) * share
            for j in range(p + 1, i + 1):
                work[i, j] -= factor * work[j, p]
    var_x = work[size, size]
    var_y = work[size + 1, size + 1]
    if not var_x > max(tolerance, NOISE * work[size, spread] ** 2):
        return SINGULAR, 0.0
    if not var_y > max(tolerance, NOISE * work[size + 1, spread] ** 2):
        return SINGULAR, 0.0
    # y's row was reduced by the conditioning variables only, so this is its covariance with x
    return OK, work[size + 1, size] / (var_x * var_y) ** 0.5
