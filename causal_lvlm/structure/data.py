"""From a data table to a correlation.

1. Missing or infinite values are refused (or their rows left out), never filled in.
2. Each column is scaled by a power of two, shifted by its first value and centred by the mean of
   what is left, so that neither huge means nor huge values cost digits; then it is divided by its
   norm.
3. Constant columns and columns that repeat another one up to shift and scale are refused (or left
   out): they would make every test on them meaningless.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import DataError, SampleSizeError
from causal_lvlm.structure.sources import CorrelationSource
from causal_lvlm.structure.tables import Table, read_table, shown

__all__ = ["correlation_from_data"]

FEWEST_SAMPLES = 4  # Fisher's z needs n_samples - |S| - 3 > 0
# 1 - |r| of two columns that are the same up to shift, scale and rounding: there float64 cannot
# tell r from 1 well enough for a partial correlation given one of them.
_EQUAL = 1e-12


def correlation_from_data(
    data: Any,
    *,
    names: Sequence[str] | None = None,
    drop: bool = False,
    n_samples: int | None = None,
) -> CorrelationSource:
    """Return the correlation of the columns of a data table.

    Parameters
    ----------
    data : array_like of shape (n, p), mapping of str to columns, or table object
        Rows are samples, columns variables; see `causal_lvlm.structure.tables.read_table`.
    names : sequence of str, optional
        Names of the columns, instead of the table's own.
    drop : bool, default False
        Leave out, with a note, what is otherwise an error: rows with missing or infinite values,
        constant columns, and columns that repeat an earlier one up to shift and scale.
    n_samples : int, optional
        Effective sample size, where rows depend on each other (time series); by default their
        number.

    Raises
    ------
    DataError
        If the table is not one of numbers, or holds what `drop` leaves out; the columns are named.
    SampleSizeError
        If there are fewer than four samples.

    Examples
    --------
    >>> source = correlation_from_data({"a": [1.0, 2, 3, 4], "b": [1.0, 2, 3, 5]})
    >>> source.names, source.n_samples, source.correlation.round(3).tolist()
    (('a', 'b'), 4, [[1.0, 0.983], [0.983, 1.0]])
    """
    table = read_table(data, names)
    notes = list(table.notes)
    values = _finite_rows(table, drop, notes)
    if len(values) < FEWEST_SAMPLES:
        rows = "row" if len(values) == 1 else "rows"
        raise SampleSizeError(
            f"the table has {len(values)} usable {rows} (samples) and {values.shape[1]} columns; "
            f"at least {FEWEST_SAMPLES} samples are needed. Are samples in rows?"
        )
    unit, constant = _standardised(values)
    if constant:
        which = shown(table.called(k) for k in constant)
        if not drop:
            raise DataError(
                f"constant columns (they have no correlation): {which}; leave them out, or give "
                "drop=True"
            )
        notes.append(f"constant columns left out: {which}")
    kept = [k for k in range(values.shape[1]) if k not in set(constant)]
    if not kept:
        raise DataError("every column is constant: there is nothing to learn from")
    correlation = _gram(unit[:, kept])
    repeats = _repeats(correlation)
    if repeats:
        which = shown(f"{table.called(kept[b])} (as {table.called(kept[a])})" for b, a in repeats)
        if not drop:
            raise DataError(
                f"columns that repeat another one up to shift and scale: {which}; keep one of "
                "each, or give drop=True"
            )
        notes.append(f"columns that repeat another one left out: {which}")
        rest = np.setdiff1d(np.arange(len(kept)), [b for b, _ in repeats])
        correlation = correlation[np.ix_(rest, rest)]
        kept = [kept[k] for k in rest]
    samples = len(values) if n_samples is None else operator.index(n_samples)
    if samples > len(values):
        raise SampleSizeError(
            f"n_samples is {samples}, but the table has only {len(values)} usable rows"
        )
    if len(values) <= len(kept):
        notes.append(
            f"fewer samples than variables need ({len(values)} samples, {len(kept)} variables): "
            "the correlation matrix is singular, conditioning sets are limited to "
            f"{samples - FEWEST_SAMPLES} nodes, and some pairs may be undecidable"
        )
    texts = None if table.names is None else tuple(table.names[k] for k in kept)
    if texts is None and len(kept) < values.shape[1]:
        texts = tuple(str(k) for k in kept)  # numbers of the table, not of what is left
    return CorrelationSource(correlation, samples, names=texts, notes=tuple(notes), kind="data")


def _finite_rows(table: Table, drop: bool, notes: list[str]) -> FloatArray:
    finite = np.isfinite(table.values)
    if finite.all():
        return table.values
    lost = np.flatnonzero(~finite.all(axis=1))
    columns = np.flatnonzero(~finite.all(axis=0))
    where = (
        f"columns {shown(table.called(int(k)) for k in columns)} "
        f"(rows {shown(int(row) for row in lost)})"
    )
    if not drop:
        missing, infinite = int(np.isnan(table.values).sum()), int(np.isinf(table.values).sum())
        raise DataError(
            f"{missing} missing and {infinite} infinite values in {where}; fill them in, leave "
            "those rows or columns out, or give drop=True to leave the rows out"
        )
    notes.append(f"{len(lost)} rows with missing or infinite values left out, in {where}")
    return table.values[finite.all(axis=1)]


def _standardised(values: FloatArray) -> tuple[FloatArray, list[int]]:
    """Return centred columns of norm one (zeros where constant), and which are constant."""
    size = np.abs(values).max(axis=0)
    # A power of two, so that scaling is exact; without it, squares and even differences of very
    # large (or products of very small) values leave the range of float64.
    exponent = np.frexp(np.where(size > 0, size, 1.0))[1]
    # One memory order, so that the last bit does not depend on the kind of table.
    centred = np.ldexp(np.ascontiguousarray(values), -exponent)
    # Eight steps of rounding at the column's own size are no variation.
    constant = np.ptp(centred, axis=0) <= 8 * np.spacing(np.where(size > 0, 1.0, 0.0))
    centred -= centred[0]
    centred /= np.where(constant, 1.0, np.abs(centred).max(axis=0))
    centred -= centred.mean(axis=0)
    centred /= np.where(constant, 1.0, np.linalg.norm(centred, axis=0))
    centred[:, constant] = 0.0
    return centred, [int(k) for k in np.flatnonzero(constant)]


def _gram(unit: FloatArray) -> FloatArray:
    correlation: FloatArray = unit.T @ unit
    correlation = np.clip((correlation + correlation.T) / 2.0, -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _repeats(correlation: FloatArray) -> list[tuple[int, int]]:
    """Return (column, earlier column that it repeats), the earliest of each group being kept."""
    equal = np.abs(correlation) >= 1.0 - _EQUAL
    found: dict[int, int] = {}
    for a, b in np.argwhere(np.triu(equal, 1)):
        if int(a) not in found:
            found.setdefault(int(b), int(a))
    return sorted(found.items())
