"""Read what ``causal-lvlm learn`` learns from: arrays (.npy, .npz) and tables (see `tables`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from causal_lvlm.cli.support import say
from causal_lvlm.cli.tables import Loaded, read_parquet, read_text
from causal_lvlm.errors import DataError, OutputError, quoted
from causal_lvlm.npz import read_array, read_arrays

__all__ = ["read_input"]

KINDS = ("correlation", "attention", "data", "covariance")
MAX_BYTES = 64 * 2**30  # of all arrays of a .npz file together


def read_input(path: Path, key: str | None, header: bool | None = None) -> Loaded:
    """Read an array or a table.

    Parameters
    ----------
    path : pathlib.Path
        ``.npy``, ``.npz``, ``.parquet``; anything else is text with one sample per line.
    key : str or None
        Name of the array in a .npz file.
    header : bool, optional
        Whether the first line of a text holds names; by default if it is not all numbers.

    Raises
    ------
    ValueError
        If there is no such file.
    DataError
        If it cannot be read as what its name says.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(
            f"{quoted(str(path))} {what}; give a .csv, .tsv, .parquet, .npy or .npz file"
        )
    suffix = path.suffix.lower()
    if key is not None and suffix != ".npz":
        raise ValueError("--key names an array in a .npz file: leave --key out")
    if suffix in (".npy", ".npz"):
        if header is not None:
            raise ValueError("--header and --no-header are for text files")
        return _arrays(path, key)
    if suffix in (".parquet", ".pq"):
        return _labelled(read_parquet(path))
    return _labelled(read_text(path, header))


def _labelled(loaded: Loaded) -> Loaded:
    """Take the names of rows from the column that holds the names of all other columns."""
    from causal_lvlm.structure.tables import label_column, left_out

    values = loaded.values
    if not isinstance(values, dict) or loaded.rows is not None or not values:
        return loaded
    names = list(values)
    k = label_column(list(values.values()), names)
    if k is None:
        return loaded
    note = left_out(names[k])
    say(note)
    rest = {name: values[name] for name in names if name != names[k]}
    rows = tuple(str(label) for label in values[names[k]])
    notes = (*loaded.notes, note)
    if all(column.dtype.kind in "biuf" for column in rest.values()):
        table = np.column_stack([column.astype(np.float64) for column in rest.values()])
        return Loaded(table, tuple(rest), rows=rows, notes=notes)
    return Loaded(rest, rows=rows, notes=notes)


def _arrays(path: Path, key: str | None) -> Loaded:
    names, kind = None, "auto"
    try:
        if path.suffix.lower() == ".npy":
            values = read_array(path)
        else:
            stored = read_arrays(path, most=MAX_BYTES)
            chosen = _chosen(list(stored), key)
            values = stored[chosen]
            kind = chosen if chosen in KINDS else "auto"
            if "names" in stored and stored["names"].dtype.kind == "U":
                names = tuple(stored["names"].ravel().tolist())
    except (OutputError, ValueError) as error:
        raise DataError(f"cannot read a matrix from {str(path)!r}: {error}") from error
    if values.dtype.names is not None:
        return Loaded({name: values[name] for name in values.dtype.names}, names, kind)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{str(path)!r} holds values of type {values.dtype}, not real numbers")
    return Loaded(values, names, kind)


def _chosen(files: list[str], key: str | None) -> str:
    """Return the array that was asked for, else the one that can be meant."""
    names = [name for name in files if name != "names"] or files
    wanted = key or next((name for name in KINDS if name in names), None)
    wanted = wanted or (names[0] if len(names) == 1 else None)
    if wanted in files:
        return str(wanted)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise ValueError(f"it holds {shown}; choose one with --key" if names else "it holds no array")
