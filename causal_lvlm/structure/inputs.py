"""What can be learned from: data tables, covariances, correlations and attention matrices.

Each helper returns a `CorrelationSource`: a correlation matrix with names, the sample size where it
is known, and notes on what was noticed or left out. `as_source` chooses the helper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, plain_array
from causal_lvlm.errors import CorrelationError, DataError, StructureError
from causal_lvlm.structure.attention import correlation_from_attention
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.sources import (
    SYMMETRY,
    CorrelationSource,
    aligned,
    correlation_from_covariance,
    named_alike,
    square_table,
)
from causal_lvlm.structure.tables import Table, read_table, shown

__all__ = ["as_source"]

INPUTS = ("auto", "correlation", "covariance", "data", "attention")


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
