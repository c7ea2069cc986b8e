"""The bare-loop limit: a compiled loop over the order-0 and order-1 tests alone, one thread.

For each edge (a, b) that order 0 keeps, the smallest squared partial correlation given one earlier
neighbour of b: nothing is deleted, oriented, checked or collected. The loop uses what was found to
be fastest here (squares without roots; minima over the bit patterns of non-negative numbers, which
compilers turn into vector instructions where floats are not), so it is a limit and not a straw man.
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit
from scipy import special

from causal_lvlm.arrays import FloatArray

# The bits of +infinity, as an integer
_INFINITY = 0x7FF0000000000000


@njit(nogil=True)
def _values(r_ab, row_a, row_b, weight_a, weight_b, outside, stop, values):
    for c in range(stop):
        rest = r_ab - row_a[c] * row_b[c]
        values[c] = rest * rest * weight_a[c] * weight_b[c] + outside[c]


@njit(nogil=True)
def _smallest(bits, stop):
    low = np.int64(_INFINITY)
    for c in range(stop):
        low = min(low, bits[c])
    return low


@njit(nogil=True)
def _loop(correlation, weight, outside, squared, best):
    n = len(correlation)
    values = np.empty(n)
    bits = values.view(np.int64)
    tests = 0
    for b in range(n):
        for a in range(b):
            r_ab = correlation[b, a]
            if r_ab * r_ab <= squared:
                continue
            _values(
                r_ab, correlation[a], correlation[b], weight[a], weight[b], outside[b], b, values
            )
            best[b, a] = _smallest(bits, b)
            tests += b - 1
    return tests


def measure(
    correlation: FloatArray, n_samples: int, alpha: float, repeat: int = 20
) -> tuple[float, int]:
    """Return the best time in seconds, and the number of order-1 tests."""
    values = np.asarray(correlation, dtype=np.float64)
    z = special.ndtri(1.0 - alpha / 2.0) / np.sqrt(n_samples - 3)
    squared = float(np.tanh(z) ** 2)
    best = np.zeros(values.shape, dtype=np.int64)
    seconds = np.inf
    tests = 0
    for _ in range(repeat + 1):
        began = time.perf_counter()
        dependent = values * values > squared
        weight = 1.0 / np.maximum(1.0 - values * values, 1e-9)
        outside = np.where(dependent, 0.0, np.inf)
        np.fill_diagonal(outside, np.inf)
        tests = _loop(values, weight, outside, squared, best)
        seconds = min(seconds, time.perf_counter() - began)  # the first run compiles
    return seconds, int(tests)
