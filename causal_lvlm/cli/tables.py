"""Read data tables from text (CSV, TSV, white space) and Parquet files, without pandas.

No column is lost without a word: what was left out, and any reading that could be another, is said
on stderr at once and kept in the notes of the result.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causal_lvlm.cli.support import say
from causal_lvlm.cli.text_lines import read_lines
from causal_lvlm.cli.text_table import TextTable, start_of
from causal_lvlm.errors import quoted

__all__ = ["Loaded", "read_parquet", "read_text"]


@dataclass(frozen=True)
class Loaded:
    """What a file holds.

    Parameters
    ----------
    values : ndarray, or dict of str to ndarray
        A matrix, or columns with names.
    names : tuple of str or None
        Names of columns that stand beside an array.
    kind : str
        ``"correlation"``, ``"attention"``, ``"data"`` or ``"covariance"`` if the array in a .npz
        file is called so, else ``"auto"``.
    rows : tuple of str or None
        Names of rows, which were left out of the values.
    notes : tuple of str
        What was left out, and readings that could be others; said on stderr already.
    """

    values: Any
    names: tuple[str, ...] | None = None
    kind: str = "auto"
    rows: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_text(path: Path, header: bool | None = None) -> Loaded:
    """Read a table with one sample per line.

    Comments, delimiter and encoding as in `text_lines`, numbers as in `numerals`. Empty fields and
    the usual words for missing values are NaN. Fields behind the last column that are empty in
    every line come from a delimiter at the end of lines. A first column without a name (or that the
    line of names leaves out, as R writes tables) holds names of rows if it is text or distinct
    consecutive numbers.

    Parameters
    ----------
    path : pathlib.Path
    header : bool, optional
        Whether the first line holds names; by default if one of its fields is not a number and
        not missing, or if it counts the columns (0, 1, 2, ... or 1, 2, 3, ..., as pandas writes
        for columns without names), which a remark on stderr says.

    Raises
    ------
    DataError
        If there is no line, lines have different numbers of fields, a first column could be data
        as well as names of rows, or numbers can be read in two ways.
    ValueError
        If the file is no text.
    """
    table = TextTable(str(path), read_lines(path))
    try:
        names = table.take_names(header)
        rows = table.take_row_names(names)
        values, texts = table.columns(names)
    finally:
        _say_all(table.notes)  # also where it is refused: what was left out may be why
    return Loaded(values, texts, rows=rows, notes=tuple(table.notes))


def _say_all(notes: Sequence[str]) -> None:
    for note in notes:
        say(note)


def read_parquet(path: Path) -> Loaded:
    """Return the columns of a Parquet file; an index that pandas stored names the rows.

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
        raise ValueError(f"cannot read {quoted(str(path))} as Parquet: {error}") from error
    named = list(zip(table.column_names, table.columns, strict=True))
    stored = (table.schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in stored if isinstance(name, str)]
    values = {name: column.to_numpy() for name, column in named if name not in index}
    labels = [column.to_numpy() for name, column in named if name in index]
    notes: tuple[str, ...] = ()
    if index:
        notes = (
            f"the index that pandas stored was left out ({start_of([str(v) for v in labels[0]])})",
        )
        _say_all(notes)
    rows = tuple(str(label) for label in labels[0]) if len(labels) == 1 else None
    return Loaded(values, rows=rows, notes=notes)
