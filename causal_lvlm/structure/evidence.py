"""What the tests of each pair of nodes said: the evidence for an edge, or for its absence.

Arrays hold one entry for each pair i < j, in lexicographic order: pair (i, j) of N nodes is entry
``i N - i (i + 1) / 2 + j - i - 1``. Of several tests the one counts that spoke most for
independence; for an edge all tests said "dependent", so this is the weakest thing that keeps it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.errors import StructureError

__all__ = ["PairEvidence"]


@dataclass(frozen=True, eq=False)
class PairEvidence:
    """Numbers about the tests of each pair; 24 bytes a pair.

    Parameters
    ----------
    weakest : array_like of float64, shape (N (N - 1) / 2,)
        Smallest |partial correlation| over all tests of the pair; NaN if there was none.
    z : array_like of float64, same shape
        Smallest Fisher z, ``atanh |r| sqrt(n_samples - |S| - 3)``, over these tests; NaN with a
        fixed threshold, where tests have no p-value.
    tests : array_like of int64, same shape
        Number of tests that gave an answer.
    """

    weakest: FloatArray
    z: FloatArray
    tests: IntArray

    def __post_init__(self) -> None:
        for name, kind in (("weakest", np.float64), ("z", np.float64), ("tests", np.int64)):
            object.__setattr__(self, name, frozen(getattr(self, name), kind))
        if not len(self.weakest) == len(self.z) == len(self.tests):
            raise StructureError("weakest, z and tests need one entry for each pair")

    @property
    def p_values(self) -> FloatArray:
        """Largest p-value over all tests of each pair; NaN with a fixed threshold."""
        return np.asarray(2.0 * special.ndtr(-self.z), dtype=np.float64)

    @property
    def log10_p_values(self) -> FloatArray:
        """Decimal logarithms of `p_values`, which do not underflow."""
        return np.asarray((math.log(2.0) + special.log_ndtr(-self.z)) / math.log(10.0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PairEvidence) and all(
            np.array_equal(getattr(self, name), getattr(other, name), equal_nan=True)
            for name in ("weakest", "z", "tests")
        )

    __hash__ = None  # type: ignore[assignment]


def pair_index(n: int, i: int, j: int) -> int:
    """Return where the pair (i, j) of N nodes stands in condensed arrays."""
    low, high = min(i, j), max(i, j)
    return low * n - low * (low + 1) // 2 + high - low - 1
