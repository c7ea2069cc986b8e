"""Data tables of any common kind as one float64 array with named columns.

Read are: arrays and lists of rows, mappings of column names to columns, and any object with
``.columns`` and ``.to_numpy()`` (pandas, polars and others; none of them is imported here).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import DataError

__all__ = ["Table", "checked_names", "is_table", "read_table", "shown"]

_SHOWN = 6


@dataclass(frozen=True)
class Table:
    """Numbers with named columns.

    Parameters
    ----------
    values : ndarray of float64, shape (n, p)
        May hold NaN where a value is missing, and infinities. May be the caller's own array.
    names : tuple of str or None
        None if the table had no names.
    """

    values: FloatArray
    names: tuple[str, ...] | None

    def called(self, column: int) -> str:
        """Return how messages name a column."""
        return str(column) if self.names is None else repr(self.names[column])


def shown(items: Iterable[object], most: int = _SHOWN) -> str:
    """Return the first items as text, and how many more there are."""
    listed = [str(item) for item in items]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def is_table(values: Any) -> bool:
    """Return whether an object is a table with named columns."""
    return isinstance(values, Mapping) or (
        hasattr(values, "columns") and callable(getattr(values, "to_numpy", None))
    )


def checked_names(names: Sequence[Any] | None, n: int) -> tuple[str, ...] | None:
    """Return names as text, one for each of `n` columns.

    Raises
    ------
    DataError
        If their number is wrong, or a name comes twice.
    """
    if names is None:
        return None
    texts = tuple(str(name) for name in names)
    if len(texts) != n:
        raise DataError(f"{len(texts)} names were given for {n} columns")
    if len(set(texts)) < n:
        repeated = [name for k, name in enumerate(texts) if name in texts[:k]]
        raise DataError(
            f"the name {repeated[0]!r} is used for more than one column; give each its own"
        )
    return texts


def read_table(data: Any, names: Sequence[Any] | None = None) -> Table:
    """Read a table of numbers.

    Parameters
    ----------
    data : array_like of shape (n, p), mapping of str to columns, or table object
        Rows are samples. Truth values count as 0 and 1; None, NaN and the missing values of pandas
        become NaN, and so do masked entries.
    names : sequence of str, optional
        Names of the columns, instead of the table's own.

    Raises
    ------
    DataError
        If the data have not two axes or no column, hold text, dates or complex numbers, or names
        do not fit.

    Examples
    --------
    >>> read_table({"rain": [0, 1, 1], "wet": [False, True, None]}).values.tolist()
    [[0.0, 0.0], [1.0, 1.0], [1.0, nan]]
    """
    own: Sequence[Any] | None = None
    if isinstance(data, Mapping):
        own = list(data)
        columns = [np.asarray(column) for column in data.values()]
        shapes = {column.shape for column in columns}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise DataError(f"the columns have different shapes: {shown(sorted(shapes))}")
    else:
        if is_table(data):
            own = list(data.columns)
            data = data.to_numpy()
        if isinstance(data, np.ma.MaskedArray) and data.dtype.kind in "biuf":
            # its hidden values are no values
            data = np.ma.filled(data.astype(np.float64), np.nan)  # type: ignore[no-untyped-call]
        try:
            given = np.asarray(data)
        except ValueError as error:  # rows of different lengths
            raise DataError(f"a data table needs rows of equal length: {error}") from error
        if given.ndim != 2:
            raise DataError(
                f"a data table has two axes (samples, variables), not the shape {given.shape}"
            )
        if given.dtype.kind in "biuf" and given.shape[1]:
            texts = checked_names(names if names is not None else own, given.shape[1])
            return Table(np.asarray(given, dtype=np.float64), texts)
        columns = list(given.T)
    if not columns:
        raise DataError("the data table has no column")
    texts = checked_names(names if names is not None else own, len(columns))
    table = Table(np.empty((len(columns[0]), len(columns))), texts)
    refused = []
    for k, column in enumerate(columns):
        numbers = _numbers(column)
        if isinstance(numbers, str):
            refused.append(f"{table.called(k)} ({numbers})")
        else:
            table.values[:, k] = numbers
    if refused:
        raise DataError(
            f"columns that hold no numbers: {shown(refused)}; leave them out or code them as "
            "numbers"
        )
    return table


def _numbers(column: Any) -> FloatArray | str:
    """Return a column as float64, or say what else it holds."""
    if column.dtype.kind in "biuf":
        return np.asarray(column, dtype=np.float64)
    if column.dtype.kind != "O":
        return {"U": "text", "S": "text", "M": "dates", "m": "durations", "c": "complex"}.get(
            column.dtype.kind, str(column.dtype)
        )
    numbers = np.empty(len(column))
    for row, value in enumerate(column):
        # pandas writes missing values of its own integer columns as an object named NAType.
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            numbers[row] = math.nan
        elif isinstance(value, (str, bytes, complex)):
            kind = "complex" if isinstance(value, complex) else "text"
            return f"{kind}, such as {value!r} in row {row}"
        else:
            try:
                numbers[row] = float(value)
            except (TypeError, ValueError):
                return f"{type(value).__name__}, such as {str(value)[:40]!r} in row {row}"
    return numbers
