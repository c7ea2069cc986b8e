"""A correlation with what is known about it, and a covariance that becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.errors import CorrelationError, DataError
from causal_lvlm.structure.tables import Table, read_table, shown

__all__ = [
    "SYMMETRY",
    "CorrelationSource",
    "aligned",
    "correlation_from_covariance",
    "named_alike",
    "square_table",
]

SYMMETRY = 1e-5  # as for a correlation matrix: float32 keeps symmetry only to its rounding


@dataclass(frozen=True, eq=False)
class CorrelationSource:
    """A correlation matrix and what is known about it.

    Parameters
    ----------
    correlation : ndarray of float64, shape (N, N)
        Read-only. Not checked further here: the learner does that.
    n_samples : int, optional
        Number of samples it was computed from.
    threshold : float, optional
        Smallest |partial correlation| that counts as dependence, where there are no samples.
    tiers : ndarray of int64, shape (N,), optional
    names : tuple of str, optional
        Names of the nodes.
    notes : tuple of str
        What was noticed about the input: columns left out, fewer samples than variables.
    kind : {"correlation", "covariance", "data", "attention"}
        What it was computed from.
    """

    correlation: FloatArray
    n_samples: int | None = None
    threshold: float | None = None
    tiers: IntArray | None = None
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    kind: str = "correlation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "correlation", frozen(self.correlation, np.float64))
        if self.tiers is not None:
            object.__setattr__(self, "tiers", frozen(self.tiers, np.int64))


def correlation_from_covariance(
    covariance: Any, *, n_samples: int | None = None, names: Sequence[str] | None = None
) -> CorrelationSource:
    """Return a covariance matrix scaled to unit diagonal.

    Parameters
    ----------
    covariance : array_like of shape (N, N), or table object
        Symmetric, with positive variances on the diagonal.
    n_samples : int, optional
        Number of samples it was computed from.
    names : sequence of str, optional
        Names of the nodes, instead of the table's own.

    Raises
    ------
    CorrelationError
        If it is not square, finite or symmetric, or a covariance exceeds what its variances allow.
    DataError
        If a variance is not positive (the nodes are named), or the table is not one of numbers.

    Examples
    --------
    >>> correlation_from_covariance([[4.0, 1.0], [1.0, 1.0]]).correlation.tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    table = square_table(covariance, names, "covariance")
    values = table.values
    if not np.isfinite(values).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(values))[0])
        raise CorrelationError(
            f"the covariance of {table.called(i)} and {table.called(j)} is {values[i, j]}"
        )
    variances = values.diagonal()
    bad = np.flatnonzero(variances <= 0)
    if bad.size:
        which = shown(f"{table.called(int(k))} ({variances[k]:g})" for k in bad)
        raise DataError(
            f"variances must be positive, but these are not: {which}; leave those nodes out"
        )
    deviation = np.sqrt(variances)
    correlation = values / deviation[:, None] / deviation
    skew = np.abs(correlation - correlation.T)
    if float(skew.max()) > SYMMETRY:
        i, j = (int(k) for k in np.unravel_index(int(skew.argmax()), skew.shape))
        raise CorrelationError(
            f"the covariance is not symmetric: entry ({i}, {j}) is {values[i, j]:.6g}, "
            f"entry ({j}, {i}) is {values[j, i]:.6g}"
        )
    beyond = np.abs(correlation)
    if float(beyond.max()) > 1.0 + SYMMETRY:
        i, j = (int(k) for k in np.unravel_index(int(beyond.argmax()), beyond.shape))
        raise CorrelationError(
            f"the covariance of {table.called(i)} and {table.called(j)} is {values[i, j]:.6g}, "
            f"more than their variances allow ({deviation[i] * deviation[j]:.6g})"
        )
    correlation = np.clip((correlation + correlation.T) / 2.0, -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return CorrelationSource(
        correlation, n_samples, names=table.names, notes=table.notes, kind="covariance"
    )


def square_table(values: Any, names: Sequence[str] | None, what: str) -> Table:
    """Return a square matrix with the names of its columns, or raise CorrelationError.

    Rows that carry the names of columns are put into the order of the columns.
    """
    shape = np.shape(values) if isinstance(values, np.ndarray) else None
    if shape is not None and (len(shape) != 2 or shape[0] != shape[1] or not shape[0]):
        raise CorrelationError(
            f"a {what} matrix must be square and not empty, not of shape {shape}"
        )
    try:
        table = read_table(values, names)
    except DataError as error:
        raise CorrelationError(f"a {what} matrix of numbers is needed: {error}") from error
    rows, columns = table.values.shape
    if rows != columns:
        raise CorrelationError(f"a {what} matrix must be square, not of shape {rows, columns}")
    return aligned(table)


def named_alike(table: Table) -> bool:
    """Whether rows carry names of columns, as those of a covariance do and samples do not.

    Numbers are no names, unless they are exactly those of the columns.
    """
    if table.rows is None or table.names is None:
        return False
    rows, columns = set(table.rows), set(table.names)
    if rows == columns:
        return len(table.rows) == len(rows)
    return any(not name.lstrip("-").isdigit() for name in rows & columns)


def aligned(table: Table) -> Table:
    """Return a square matrix with its rows in the order of its columns, by their names.

    Raises
    ------
    CorrelationError
        If rows and columns share some names, but not all.
    """
    if not named_alike(table) or table.rows == table.names:
        return table
    assert table.rows is not None and table.names is not None
    only = [name for name in table.rows if name not in table.names]
    lacking = [name for name in table.names if name not in table.rows]
    if only or lacking or len(set(table.rows)) < len(table.rows):
        differ = f"{shown(only or table.rows)} / {shown(lacking)}" if only or lacking else "twice"
        raise CorrelationError(
            f"rows and columns of the matrix have different names ({differ}); give the whole "
            "matrix, with the same variables in both"
        )
    order = [table.rows.index(name) for name in table.names]
    note = "the rows of the matrix were put into the order of its columns, by their names"
    return Table(table.values[order], table.names, table.names, (*table.notes, note))
