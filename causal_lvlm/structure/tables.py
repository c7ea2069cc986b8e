"""Data tables of any common kind as one float64 array with named columns.

Read are: arrays (of numpy, torch, scipy.sparse and others) and lists of rows, mappings of column
names to columns, and any object with ``.columns`` and ``.to_numpy()`` (pandas, polars and others;
none of them is imported here). What only looks like a table is refused with what to do.

A table may carry names of rows: the index of a data frame, or a column of text that holds the names
of the other columns. They tell a covariance from samples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, plain_array
from causal_lvlm.errors import DataError

__all__ = [
    "Table", "checked_names", "is_table", "label_column", "left_out", "read_table",
    "shown",
]  # fmt: skip

_SHOWN = 6
_MOST_LABELS = 50_000  # more rows than any matrix that can be learned from has


@dataclass(frozen=True)
class Table:
    """Numbers with named columns.

    Parameters
    ----------
    values : ndarray of float64, shape (n, p)
        May hold NaN where a value is missing, and infinities. May be the caller's own array.
    names : tuple of str or None
        None if the table had no names.
    rows : tuple of str or None
        Names of the rows, if there are any.
    notes : tuple of str
        What was left out or put into another order.
    """

    values: FloatArray
    names: tuple[str, ...] | None
    rows: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

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
    return isinstance(values, (Mapping, Table)) or (
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


def _refused(data: Any) -> str | None:
    """Say why an object is no table although it looks like one, and what to do."""
    if isinstance(data, (str, bytes, os.PathLike)):
        return (
            "a table or matrix is needed, not text; a file is read with numpy or pandas first, or "
            "by the command: causal-lvlm learn FILE"
        )
    kind = type(data).__name__
    if isinstance(data, (list, tuple)) and data and isinstance(data[0], Mapping):
        return (
            "a list of dicts holds one sample each; give a mapping of names to columns, "
            "{'a': [...], 'b': [...]}, or pandas.DataFrame(rows)"
        )
    if isinstance(data, np.ndarray) or is_table(data) or hasattr(data, "to_pydict"):
        return None
    loads = next(
        (n for n in ("collect", "compute", "to_pandas", "toPandas") if hasattr(data, n)), ""
    )
    if loads and (hasattr(data, "columns") or hasattr(data, "collect_schema")):
        return f"a {kind} is no table in memory yet; give the result of .{loads}()"
    if callable(getattr(data, "to_numpy", None)) and len(np.shape(data)) == 1:
        return f"a {kind} is one column; a graph needs several: give a data frame or a mapping"
    return None


def _labels_of(index: Any) -> tuple[str, ...] | None:
    """Return the labels of rows; None without an index (lists have a method of that name)."""
    if index is None or callable(index) or len(index) > _MOST_LABELS:
        return None
    return tuple(str(label) for label in index)


def _columns(data: Mapping[Any, Any]) -> tuple[list[Any], tuple[str, ...] | None]:
    """Return the columns of a mapping, and the names of rows that all of them carry."""
    for name, column in data.items():
        if isinstance(column, Mapping):
            raise DataError(
                f"column {str(name)!r} is a mapping itself; give each column as a list of numbers"
            )
    carried = {_labels_of(getattr(column, "index", None)) for column in data.values()} - {None}
    if len(carried) > 1:
        raise DataError(
            "the rows of the columns are labelled differently; pandas.DataFrame(columns) brings "
            "them into one order"
        )
    columns = [np.asarray(plain_array(column)) for column in data.values()]
    shapes = {column.shape for column in columns}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise DataError(f"the columns have different shapes: {shown(sorted(shapes))}")
    return columns, carried.pop() if carried else None


def read_table(
    data: Any, names: Sequence[Any] | None = None, rows: Sequence[Any] | None = None
) -> Table:
    """Read a table of numbers.

    Parameters
    ----------
    data : array_like of shape (n, p), mapping of str to columns, or table object
        Rows are samples. Truth values count as 0 and 1; None, NaN and the missing values of pandas
        become NaN, and so do masked entries. A `Table` is taken as it is.
    names : sequence of str, optional
        Names of the columns, instead of the table's own.
    rows : sequence of str, optional
        Names of the rows, instead of the table's own.

    Raises
    ------
    DataError
        If the data have not two axes or no column, hold text, dates or complex numbers, names do
        not fit, or the object must be turned into a table first (one column, a lazy frame).

    Examples
    --------
    >>> read_table({"rain": [0, 1, 1], "wet": [False, True, None]}).values.tolist()
    [[0.0, 0.0], [1.0, 1.0], [1.0, nan]]
    """
    reason = _refused(data)
    if reason is not None:
        raise DataError(reason)
    own, carried, columns = _opened(data)
    if isinstance(columns, list):
        if not columns:
            raise DataError("the data table has no column")
        n, p = len(columns[0]), len(columns)
    else:
        n, p = columns.shape
    texts = checked_names(names if names is not None else own, p)
    carried = _row_names(carried, rows, own, texts)
    if carried is not None and len(carried) != n:
        raise DataError(f"{len(carried)} names were given for {n} rows")
    notes = data.notes if isinstance(data, Table) else ()
    if not isinstance(columns, list):
        return Table(np.asarray(columns, dtype=np.float64), texts, carried, notes)
    labels = label_column(columns, texts)
    if labels is not None and texts is not None:
        notes = (left_out(texts[labels]),)
        carried = tuple(str(label) for label in columns.pop(labels))
        texts = texts[:labels] + texts[labels + 1 :]
    return _filled(Table(np.empty((n, len(columns))), texts, carried, notes), columns)


def _row_names(
    carried: tuple[str, ...] | None,
    given: Sequence[Any] | None,
    own: Sequence[Any] | None,
    texts: tuple[str, ...] | None,
) -> tuple[str, ...] | None:
    """Return the names given for rows, else the table's own, renamed as columns were."""
    if given is not None:
        return tuple(str(row) for row in given)
    if carried is None or own is None or texts is None:
        return carried
    renamed = dict(zip(map(str, own), texts, strict=True))
    return tuple(renamed.get(label, label) for label in carried)


def _filled(table: Table, columns: Sequence[Any]) -> Table:
    """Write the columns into a table; DataError naming all that hold no numbers."""
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


def _opened(data: Any) -> tuple[Sequence[Any] | None, tuple[str, ...] | None, Any]:
    """Return names of columns and of rows, and an array of numbers or a list of columns."""
    if isinstance(data, Table):
        return data.names, data.rows, data.values
    if callable(getattr(data, "to_pydict", None)):  # pyarrow
        data = data.to_pydict()
    if isinstance(data, np.ndarray) and data.dtype.names is not None:
        data = {name: data[name] for name in data.dtype.names}
    if isinstance(data, Mapping):
        columns, carried = _columns(data)
        return list(data), carried, columns
    own: Sequence[Any] | None = None
    carried = None
    if is_table(data):
        own, carried = list(data.columns), _labels_of(getattr(data, "index", None))
        data = data.to_numpy()
    elif hasattr(data, "coords") and len(getattr(data, "dims", ())) == 2:  # xarray
        found = [data.coords[dim] if dim in data.coords else None for dim in data.dims]
        carried, own = (None if c is None else tuple(str(v) for v in c.values) for c in found)
        data = data.values
    given = _matrix(data)
    return own, carried, given if given.dtype.kind in "biuf" and given.shape[1] else list(given.T)


def _matrix(data: Any) -> Any:
    """Return an array of two axes, with NaN for masked entries."""
    try:
        data = plain_array(data)
    except ValueError as error:
        raise DataError(str(error)) from error
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
    return given


def left_out(name: str) -> str:
    """Say that a column holds names of rows."""
    return f"column {name!r} holds the names of the rows and was left out"


def label_column(columns: Sequence[Any], names: Sequence[str] | None) -> int | None:
    """Return the column that holds the names of all others, as a covariance has it in a file."""
    if names is None or len(columns[0]) != len(columns) - 1:
        return None
    for k, column in enumerate(columns):
        if column.dtype.kind in "OUT" and {str(v) for v in column} == set(names) - {names[k]}:
            return k
    return None


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
