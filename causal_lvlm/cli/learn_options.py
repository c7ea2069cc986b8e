"""What options of ``causal-lvlm learn`` say about nodes: columns, tiers, background knowledge."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from causal_lvlm.cli.tables import Loaded
from causal_lvlm.errors import DataError, StructureError, quoted

__all__ = ["as_option", "chosen_columns", "node_pairs", "tiers_of"]


def chosen_columns(loaded: Loaded, only: str | None, skip: str | None) -> Loaded:
    """Return the table with the columns of ``--columns``, or without those of ``--skip``.

    Of a symmetric matrix the rows go as well.

    Raises
    ------
    ValueError
        If both are given, there are no columns to choose from, or a column does not exist.
    """
    if only is None and skip is None:
        return loaded
    if only is not None and skip is not None:
        raise ValueError("give either --columns or --skip, not both")
    values = loaded.values
    table = isinstance(values, dict)
    if not table and np.ndim(values) != 2:
        raise ValueError("--columns and --skip choose columns of a table or matrix")
    names = tuple(values) if table else loaded.names
    names = names or tuple(str(k) for k in range(np.shape(values)[1]))
    wanted = _fields(only if only is not None else str(skip))
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"there is no column {quoted(unknown[0])}; there are {_listed(names)}")
    kept = wanted if only is not None else [name for name in names if name not in wanted]
    if table:
        return replace(loaded, values={name: values[name] for name in kept})
    index, rows = [names.index(name) for name in kept], loaded.rows
    square = values.shape[0] == values.shape[1] and loaded.kind != "data"
    if square and rows is not None and set(rows) == set(names):
        chosen = [rows.index(name) for name in kept]
        values, rows = values[chosen], tuple(kept)
    elif square and np.allclose(values, values.T, atol=1e-5, equal_nan=True):
        values, rows = values[index], None
    return replace(loaded, values=values[:, index], names=tuple(kept), rows=rows)


def tiers_of(text: str | None, names: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """Return an order of the nodes that fits to tiers, and the tier of each node.

    Parameters
    ----------
    text : str or None
        Either one whole number per node, separated by commas or white space, or groups of names,
        ``age,sex;income``, earliest first; or the path of a file with that text, in which the end
        of a line ends a group too.
    names : sequence of str
        The nodes.

    Raises
    ------
    StructureError
        If numbers or names do not fit to the nodes.
    """
    if text is None:
        return None
    try:
        is_file = Path(text).is_file()
    except OSError:  # longer than a file name may be
        is_file = False
    if is_file:
        text = Path(text).read_text(encoding="utf-8")
    numbers = [part for part in re.split(r"[\s,;]+", text) if part]
    if all(re.fullmatch(r"-?\d+", part) for part in numbers) and ";" not in text:
        if len(numbers) != len(names):
            raise StructureError(
                f"--tiers has {len(numbers)} numbers, but there are {len(names)} nodes: "
                f"{_listed(names)}"
            )
        tiers = [int(part) for part in numbers]
    else:
        groups = [_fields(group) for group in re.split(r"[;\n]", text) if group.strip()]
        tier = {name: k for k, group in enumerate(groups) for name in group}
        if sum(map(len, groups)) != len(tier) or set(tier) != set(names):
            wrong = [n for n in tier if n not in names] or [n for n in names if n not in tier]
            problem = f"{wrong[0]!r} is not in both" if wrong else "a name comes twice"
            raise StructureError(
                f"--tiers must name each node once ({problem}); the nodes are {_listed(names)}"
            )
        tiers = [tier[name] for name in names]
    return [int(k) for k in np.argsort(tiers, kind="stable")], tiers


def node_pairs(texts: Sequence[str], option: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of nodes that an option gave as ``A,B``, as numbers.

    Raises
    ------
    StructureError
        If a text is no pair, or names what is no node.
    """
    pairs = []
    for text in texts:
        fields = _fields(text)
        if len(fields) != 2:
            raise StructureError(f"{option} takes two nodes, A,B, not {text!r}")
        for name in fields:
            if name not in names:
                raise StructureError(f"{option} names {name!r}; the nodes are {_listed(names)}")
        pairs.append((names.index(fields[0]), names.index(fields[1])))
    return pairs


def _fields(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"cannot read the names {text!r}: {error}") from error
    return [field.strip() for row in rows for field in row]


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def as_option(text: str) -> str:
    """Return the message of an error of the library with its arguments written as options."""
    text = re.sub(r"input='(\w+)'( \(\w+\))?", r"--input \1", text)
    text = text.replace("leave them out", "leave them out (--skip)")
    text = re.sub(r"algorithm='(\w+)'", r"--algorithm \1", text)
    text = re.sub(r"head=(\d)", r"--head \1", text).replace("leave head out", "leave --head out")
    return text.replace("drop=True", "--drop").replace("head and sink are", "--head and --sink are")
