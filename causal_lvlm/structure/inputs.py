"""What can be learned from: data tables, covariances, correlations and attention matrices.

Each helper returns a `CorrelationSource`: a correlation matrix with names, the sample size where it
is known, and notes on what was noticed or left out. `as_source` chooses the helper.

A data table becomes a correlation in these steps:

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
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, plain_array
from causal_lvlm.errors import CorrelationError, DataError, SampleSizeError, StructureError
from causal_lvlm.structure.sources import (
    SYMMETRY,
    CorrelationSource,
    aligned,
    correlation_from_attention,
    correlation_from_covariance,
    named_alike,
    square_table,
)
from causal_lvlm.structure.tables import Table, read_table, shown

__all__ = [
    "CorrelationSource",
    "as_source",
    "correlation_from_attention",
    "correlation_from_covariance",
    "correlation_from_data",
]

INPUTS = ("auto", "correlation", "covariance", "data", "attention")
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


def as_source(
    values: Any,
    *,
    input: str = "auto",
    n_samples: int | None = None,
    names: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    drop: bool = False,
    head: int | None = None,
    sink: str = "keep",
    notes: Sequence[str] = (),
) -> CorrelationSource:
    """Read a raw array or table as what it is said, or seems, to be.

    Parameters
    ----------
    values : array_like, mapping or table object
        A `CorrelationSource` is returned as it is.
    input : {"auto", "correlation", "covariance", "data", "attention"}
        With "auto" a square, symmetric array with a diagonal of ones is a correlation; a symmetric
        table whose rows carry the names of columns is a covariance; an array that is not square,
        and a table with names of columns alone, is data; anything else is an error.
    n_samples : int, optional
        Sample size; for data by default the number of rows.
    names : sequence of str, optional
        Names of the columns.
    rows : sequence of str, optional
        Names of the rows; a table object brings its own.
    drop : bool, default False
        For data only, see `correlation_from_data`.
    head, sink
        For attention only, see `correlation_from_attention`.
    notes : sequence of str
        What was noticed before, put in front of the notes of the source.

    Raises
    ------
    StructureError
        If `input` is unknown, or an option is given that is for another input.
    CorrelationError, DataError, AttentionError, SampleSizeError
        See the helpers; `CorrelationError` also if "auto" cannot tell what a square array is.
    """
    if isinstance(values, CorrelationSource):
        return values
    if input not in INPUTS:
        raise StructureError(f"input must be one of {', '.join(INPUTS)}, not {input!r}")
    if rows is not None and not (isinstance(values, np.ndarray) and values.ndim != 2):
        values, names = read_table(values, names, rows), None
    if input == "auto":
        values, input = _guess(values, names)
        names = None if isinstance(values, Table) else names
    if drop and input != "data":
        raise StructureError(f"drop=True leaves out rows and columns of data, not of {input}")
    if (head is not None or sink != "keep") and input != "attention":
        raise StructureError(f"head and sink are options of attention, but this is {input}")
    if input == "data":
        source = correlation_from_data(values, names=names, drop=drop, n_samples=n_samples)
    elif input == "covariance":
        source = correlation_from_covariance(values, names=names, n_samples=n_samples)
    elif input == "attention":
        source = correlation_from_attention(
            values, names=names, head=head, sink=sink, n_samples=n_samples
        )
    else:
        table = square_table(values, names, "correlation")
        source = CorrelationSource(table.values, n_samples, names=table.names, notes=table.notes)
    return replace(source, notes=(*notes, *source.notes)) if notes else source


def _guess(values: Any, names: Sequence[str] | None) -> tuple[Any, str]:
    """Return an array or table and what it seems to be; raise if a square one is no correlation."""
    try:
        values = plain_array(values)
    except ValueError as error:
        raise DataError(str(error)) from error
    if isinstance(values, np.ndarray) and values.ndim != 2 and values.dtype.names is None:
        raise CorrelationError(
            f"a correlation matrix must be square, and a data table has two axes, not the shape "
            f"{values.shape}; for attention of several heads give input='attention' "
            "(correlation_from_attention)"
        )
    table = read_table(values, names)
    array = table.values
    alike = named_alike(table)
    if array.shape[0] != array.shape[1]:
        if alike:
            raise CorrelationError(
                f"the rows ({shown(table.rows or ())}) have names of columns, so this seems to be "
                f"a part of a covariance or correlation matrix, of shape {array.shape}; give the "
                "whole matrix, or input='data' if each row is a sample"
            )
        return table, "data"
    straight = aligned(table)
    array = straight.values
    finite = np.isfinite(array)
    size = float(np.abs(array[finite]).max(initial=0.0))
    symmetric = _symmetric(array, finite, size)
    diagonal = array.diagonal()[finite.diagonal()]
    ones = bool((np.abs(diagonal - 1.0) <= SYMMETRY).all())
    if symmetric and ones and (alike or len(diagonal)):
        # kept by reference where it was an array
        plain = straight.names is None and isinstance(values, np.ndarray)
        return (values if plain and values.dtype.kind != "b" else straight), "correlation"
    if symmetric and alike:
        note = "read as a covariance: its rows carry the names of its columns"
        return replace(straight, notes=(*straight.notes, note)), "covariance"
    if straight.names is not None and not alike and not symmetric:
        if finite.all() and _reordered(array / size):
            raise CorrelationError(
                "the table is a symmetric matrix whose rows stand in another order than its "
                "columns, and nothing names the rows; give it with its rows in the order of the "
                "columns, or input='data' if each row is a sample"
            )
        return table, "data"
    if not finite.all():
        return straight, "correlation"  # its check names the entry
    raise CorrelationError(_neither(array, symmetric))


def _symmetric(array: FloatArray, finite: BoolArray, size: float) -> bool:
    skew = np.abs(array - array.T)[finite & finite.T]
    return bool((finite == finite.T).all()) and float(skew.max(initial=0.0)) <= SYMMETRY * size


def _neither(array: FloatArray, symmetric: bool) -> str:
    """Say why a square array is no correlation, and what it may be."""
    if symmetric:
        k = int(np.abs(array.diagonal() - 1.0).argmax())
        return (
            f"entry ({k}, {k}) is {array[k, k]:.6g}, but a correlation matrix has ones on its "
            "diagonal; for a covariance give input='covariance' (correlation_from_covariance), for "
            "a square table of samples input='data' (correlation_from_data)"
        )
    i, j = (int(k) for k in np.unravel_index(int(np.abs(array - array.T).argmax()), array.shape))
    return (
        f"the matrix is not symmetric, so it is no correlation: entry ({i}, {j}) is "
        f"{array[i, j]:.6g}, entry ({j}, {i}) is {array[j, i]:.6g}; for attention give "
        "input='attention' (correlation_from_attention), for a square table of samples "
        "input='data' (correlation_from_data)"
    )


def _reordered(array: FloatArray) -> bool:
    """Whether a square array is symmetric but for the order of its rows.

    Each of its rows then holds the numbers of one of its columns.
    """
    rows, columns = (sorted(np.sort(half, axis=1).round(6).tolist()) for half in (array, array.T))
    return bool(np.allclose(rows, columns, rtol=0.0, atol=SYMMETRY))
