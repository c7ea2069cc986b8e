"""From the rows of a matrix to their correlation: the linear algebra behind the causal graph.

`TokenCorrelation` is the record of it over tokens; `causal_lvlm.correlation` makes one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen

__all__ = ["TokenCorrelation", "correlation_of_rows", "find_sinks", "partial_out"]

# A column is a sink when later rows give it this share of their weight on average.
SINK_SHARE = 0.3


def correlation_of_rows(rows: FloatArray) -> FloatArray:
    """Return ``M·Mᵀ`` scaled to unit diagonal.

    Parameters
    ----------
    rows : ndarray of float64, shape (N, D)
        No row may be zero.

    Returns
    -------
    ndarray of float64, shape (N, N)

    Examples
    --------
    Two rows that share half of their weight:

    >>> correlation_of_rows(np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])).round(3).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    correlation: FloatArray = unit @ unit.T
    # Rounding leaves a few 1e-17 of asymmetry, which the learner would refuse.
    correlation = np.clip((correlation + correlation.T) / 2.0, -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def find_sinks(attention: FloatArray, share: float = SINK_SHARE) -> tuple[int, ...]:
    """Return the positions that get at least `share` of the weight of later rows on average.

    Parameters
    ----------
    attention : ndarray, shape (T, T)
        Rows are queries.
    share : float

    Returns
    -------
    tuple of int
        A column needs at least four later rows to be called a sink.
    """
    length = attention.shape[0]
    found = []
    for position in range(length - 4):
        if float(attention[position + 1 :, position].mean()) >= share:
            found.append(position)
    return tuple(found)


def partial_out(nodes: FloatArray, sinks: FloatArray) -> FloatArray:
    """Project the sinks' rows out of the nodes' rows: their Gram matrix is then conditional."""
    # Singular vectors, not a QR: rows of several sinks may depend on each other, and a QR would
    # then complete its basis with arbitrary directions.
    _, size, right = np.linalg.svd(sinks, full_matrices=False)
    basis = right[size > 1e-10 * max(float(size.max(initial=0.0)), 1e-300)]
    residual: FloatArray = nodes - (nodes @ basis.T) @ basis
    return residual


@dataclass(frozen=True)
class TokenCorrelation:
    """A correlation matrix over tokens, and which positions its nodes are.

    Attributes
    ----------
    correlation : ndarray of float64, shape (N, N)
        Symmetric, unit diagonal. The target is the last node.
    positions : ndarray of int64, shape (N,)
        First sequence position of each node, ascending (for ``row="predictor"`` the last node is
        the predicting position, which stands for the target).
    members : tuple of tuple of int
        All positions of each node (more than one for pooled image blocks).
    tiers : ndarray of int64, shape (N,)
        Non-decreasing; nodes of one tier are unordered among themselves.
    n_samples : int or None
        Samples behind the correlation, None where the dependence threshold is given directly.
    threshold : float or None
        Smallest |partial correlation| that counts, where given directly.
    layer : int or "effective" or "mean" or None
        None for ``source="relevancy"`` and ``"influence"``, which span all layers.
    head : int or None
        None where there is no single head.
    source, sink, row : str
    dropped : tuple of (int, str)
        Position and reason of every token before the target that is no node.
    sinks : tuple of int
        Positions that were found to be attention sinks.
    sink_mass : float
        Mean share of weight that the rows of the nodes give to the sinks.
    candidate_mass : float
        Share of the weight of the target's row that falls on the nodes other than sinks and the
        target itself: how much this head looks at what may explain the target. NaN if unknown.
    """

    correlation: FloatArray
    positions: IntArray
    members: tuple[tuple[int, ...], ...]
    tiers: IntArray
    n_samples: int | None
    threshold: float | None
    layer: int | str | None
    head: int | None
    source: str
    sink: str
    row: str
    dropped: tuple[tuple[int, str], ...]
    sinks: tuple[int, ...]
    sink_mass: float
    candidate_mass: float = math.nan

    def __post_init__(self) -> None:
        """Freeze the arrays and check their shapes."""
        object.__setattr__(self, "correlation", frozen(self.correlation, np.float64))
        object.__setattr__(self, "positions", frozen(self.positions, np.int64))
        object.__setattr__(self, "tiers", frozen(self.tiers, np.int64))
        n = len(self.members)
        if self.correlation.shape != (n, n) or self.positions.shape != (n,):
            raise ValueError(
                f"{n} nodes need a ({n}, {n}) correlation and ({n},) positions, got "
                f"{self.correlation.shape} and {self.positions.shape}"
            )

    @property
    def target_node(self) -> int:
        """Node that stands for the target: the last one."""
        return len(self.members) - 1
