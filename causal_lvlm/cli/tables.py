"""Read data tables from text (CSV, TSV, white space) and Parquet files, without pandas."""

from __future__ import annotations

import csv
import importlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.cli.support import say
from causal_lvlm.errors import DataError

__all__ = ["read_csv", "read_parquet"]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "."})


def read_csv(path: Path, header: bool | None = None) -> tuple[Any, tuple[str, ...] | None]:
    """Read a table with one sample per line.

    Columns are separated by tabs in a ``.tsv`` file, else by the first of tab, semicolon and comma
    that the first line has, else by white space. Empty fields and the usual words for missing
    values are NaN. A first column without a name (or that the line of names leaves out, as R
    writes tables) holds names of rows and is left out.

    Parameters
    ----------
    path : pathlib.Path
        Text in UTF-8.
    header : bool, optional
        Whether the first line holds names; by default if one of its fields is not a number and
        not missing, or if it counts the columns (0, 1, 2, ... or 1, 2, 3, ..., as pandas writes
        for columns without names), which a remark on stderr says.

    Returns
    -------
    values : ndarray of float64, shape (n, p), or dict of str to ndarray
        The latter if some columns hold text: they may still be left out.
    names : tuple of str or None

    Raises
    ------
    DataError
        If there is no line, or lines have different numbers of fields.
    ValueError
        If the file is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {str(path)!r} as text in UTF-8: {error}") from error
    try:
        rows = _rows(text, path.suffix.lower())
    except csv.Error as error:
        raise DataError(f"cannot read {str(path)!r} as a table: {error}") from error
    if not rows:
        raise DataError(f"{str(path)!r} holds no line")
    if header is None:
        header = any(_number(field) is None for field in rows[0][1] if field.strip())
        if not header and _counts([row for _, row in rows]):
            header = True
            say(f"the first line counts the columns ({_start(rows[0][1])}), so it was read as "
                "their names, not as a sample; if it is a sample, give --no-header")  # fmt: skip
    names = [field.strip() for field in rows.pop(0)[1]] if header else None
    if not rows:
        raise DataError(f"{str(path)!r} holds a line of names and no numbers")
    width = len(rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise DataError(
                f"line {line} of {str(path)!r} has {len(row)} fields, but line {rows[0][0]} has "
                f"{width}"
            )
    columns: list[Any] = list(zip(*(row for _, row in rows), strict=True))
    if names is not None and (len(names) == width - 1 or (len(names) == width and not names[0])):
        columns, names = columns[1:], names[len(names) - width + 1 :]
    if names is not None and len(names) != len(columns):
        raise DataError(f"{str(path)!r} has {len(names)} names for {width} columns")
    read = [_column(column) for column in columns]
    texts = None if names is None else tuple(names)
    if all(column.dtype.kind == "f" for column in read):
        return np.column_stack(read) if read else np.empty((len(rows), 0)), texts
    called = texts or tuple(str(k) for k in range(len(read)))
    if len(set(called)) < len(called):
        raise DataError(f"two columns of {str(path)!r} have the same name")
    return dict(zip(called, read, strict=True)), None


def _counts(rows: list[list[str]]) -> bool:
    """Whether the first line is 0, 1, ..., p-1 or 1, 2, ..., p, perhaps after an empty field.

    A symmetric matrix may begin with such a line too (a Toeplitz matrix does); it has no header.
    """
    first = [field.strip() for field in rows[0]]
    if first and not first[0]:
        first = first[1:]
    p = len(first)
    if p < 2 or first not in ([str(k) for k in range(p)], [str(k + 1) for k in range(p)]):
        return False
    square = len(rows) == p == len(rows[0]) and all(len(row) == p for row in rows)
    return not square or any(
        _number(rows[i][j]) != _number(rows[j][i]) for i in range(p) for j in range(i)
    )


def _start(fields: list[str]) -> str:
    shown = [field.strip() for field in fields if field.strip()]
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")


def _rows(text: str, suffix: str) -> list[tuple[int, list[str]]]:
    """Return (number of the line, fields) of every line that is not blank."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = "\t" if suffix == ".tsv" else next((c for c in "\t;," if c in first), None)
    if delimiter is None:
        lines = enumerate(text.split("\n"), start=1)
        return [(k, line.split()) for k, line in lines if line.strip()]
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    return [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]


def _column(fields: tuple[str, ...]) -> Any:
    """Return numbers as float64, or the fields as they are."""
    numbers = np.empty(len(fields))
    for k, field in enumerate(fields):
        number = _number(field)
        if number is None:
            return np.array(fields, dtype=object)
        numbers[k] = number
    return numbers


def _number(field: str) -> float | None:
    text = field.strip()
    try:
        return float(text)
    except ValueError:
        return math.nan if text.lower() in MISSING else None


def read_parquet(path: Path) -> dict[str, Any]:
    """Return the columns of a Parquet file; an index that pandas stored is left out.

    Raises
    ------
    ValueError
        If pyarrow is not installed, or it cannot read the file.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"Parquet files need the package pyarrow (pip install pyarrow): {error}"
        ) from error
    try:
        table = parquet.read_table(path)
    except (ValueError, OSError) as error:  # pyarrow's errors derive from one of these
        raise ValueError(f"cannot read {str(path)!r} as Parquet: {error}") from error
    named = zip(table.column_names, table.columns, strict=True)
    return {
        name: column.to_numpy() for name, column in named if not name.startswith("__index_level_")
    }
