"""Which fields of a text file are names of columns, names of rows, or values.

Nothing is left out without a note, and where two readings are possible the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.cli.numerals import Numerals, check_points, looks_numeric, told_numerals
from causal_lvlm.cli.text_lines import Lines, called
from causal_lvlm.errors import DataError

__all__ = ["TextTable", "start_of"]

_INDEX = {"id", "index", "row", "rownames", "obs", "case", "nr", "no", "x", "unnamed: 0"}


class TextTable:
    """The fields of a file while it is found out which of them are names.

    Parameters
    ----------
    path : str
        For messages.
    lines : Lines

    Attributes
    ----------
    notes : list of str
        What was left out, and readings that could be others.
    """

    def __init__(self, path: str, lines: Lines) -> None:
        self.path = repr(path)
        self.lines = lines
        self.numbers = [line for line, _ in lines.rows]
        self.rows = [[part.strip() for part in row] for _, row in lines.rows]
        self.notes = list(lines.notes)
        self.numerals = told_numerals(part for row in self.rows[1:] for part in row)
        if self.numerals.decimal == ",":
            self.notes.append("numbers were read with a decimal comma")
        elif self.numerals.thousands:
            self.notes.append("commas in numbers were read as separators of thousands")

    def value(self, part: str) -> float | None:
        """Return a number, NaN for a missing value, or None for a text."""
        return self.numerals.value(part)

    def take_names(self, header: bool | None) -> list[str] | None:
        """Return the names of columns, and leave only rows of equal length with values."""
        above = self._names_above() if header is None else None
        if header is None and above is None:
            header = self._has_header()
        names = self.rows.pop(0) if header else None
        first = self.numbers.pop(0) if header else 0
        if not self.rows:
            raise DataError(f"{self.path} holds a line of names and no numbers")
        self._cut_empty_ends(names)
        width = len(self.rows[0])
        for line, row in zip(self.numbers, self.rows, strict=True):
            if len(row) != width:
                raise DataError(
                    f"line {line} of {self.path} has {len(row)} fields (separated by "
                    f"{called(self.lines.delimiter)}), but line {self.numbers[0]} has {width}"
                    f"{self._hint()}"
                )
        if names is None and above is None:
            self._check_leading_zeros()
        if above is not None:
            self.notes.append("the names were read from the comment above the first line")
            return above
        if names is not None and len(names) != width:
            self._check_one_delimiter(first, names, width)
            if len(names) != width - 1:
                raise DataError(
                    f"{self.path} has {len(names)} names for {width} columns{self._hint()}"
                )
        return names

    def _check_leading_zeros(self) -> None:
        """Refuse digits behind a decimal comma that were taken for a column of their own."""
        if self.lines.delimiter != ",":
            return
        for line, row in zip(self.numbers, self.rows, strict=True):
            for part in row:
                if re.fullmatch(r"[+-]?0\d+|-0", part):
                    raise DataError(
                        f"{part!r} in line {line} of {self.path} is written like a part of a "
                        "number with a decimal comma; write decimal points, or separate the "
                        "fields by semicolons (or write it without the leading zero)"
                    )

    def _check_one_delimiter(self, line: int, names: list[str], width: int) -> None:
        """Refuse a line of names that is separated in another way than the values."""
        ours, start = self.lines.delimiter, self.rows[0][0]
        for other in set("\t;|,") - {ours}:
            parts = len(ours.join(names).split(other))
            if parts == width > 1 or (width == 1 and len(start.split(other)) == len(names)):
                one, two = (other, ours) if width > 1 else (ours, other)
                raise DataError(
                    f"the fields of line {line} of {self.path} are separated by {called(one)}, "
                    f"those of the lines after it by {called(two)}"
                )

    def _hint(self) -> str:
        widths = [len(row) for row in self.rows]
        if widths[1:] and np.diff(widths[-3:]).tolist() == [1, 1]:
            return ". Is it the lower half of a matrix? Write the whole of it, and nothing else"
        sample = self.rows[0]
        if self.lines.delimiter == "," and all(self.value(part) is not None for part in sample):
            return (
                ". If commas are decimal signs too, write decimal points, or separate the fields "
                "by semicolons"
            )
        return ""

    def _names_above(self) -> list[str] | None:
        """Return the fields of a comment above the first line if they can be its names."""
        above, first = self.lines.above, self.rows[0]
        single = all(part and len(part.split()) == 1 for part in above)
        text = all(self.value(part) is None and not looks_numeric(part) for part in above)
        numbers = all(self.value(part) is not None for part in first)
        found = len(above) == len(first) == len(set(above)) and single and text and numbers
        return above if found else None

    def _has_header(self) -> bool | None:
        """Whether the first line holds names; None if it does not, but a comment above it may."""
        first, rest = self.rows[0], self.rows[1:]
        text = [
            k for k, part in enumerate(first)
            if self.value(part) is None and not looks_numeric(part)
        ]  # fmt: skip
        if text:
            numbers = [k for k, part in enumerate(first) if part and k not in text]
            numbers = [k for k in numbers if self.value(first[k]) is not None]
            over_numbers = any(
                k < len(row) and row[k] and self.value(row[k]) is not None
                for row in rest for k in text
            )  # fmt: skip
            same = bool(rest) and all(len(row) == len(first) for row in rest)
            if numbers and same and not over_numbers:
                raise DataError(
                    f"the first line of {self.path} ({start_of(first)}) can hold names or values: "
                    "its texts stand in columns of text, its numbers in columns of numbers; give "
                    "--header or --no-header"
                )
            return True
        if self._counts():
            self.notes.append(
                f"the first line counts the columns ({start_of(first)}), so it was read as their "
                "names, not as a sample; if it is a sample, give --no-header"
            )
            return True
        named = sum(map(bool, first))
        corner = not first[0] and named > 0 and all(first[1 : named + 1])
        if corner and _labels([row[0] for row in rest], self.numerals):
            self.notes.append(
                f"the first line ({start_of(first)}) was read as names, since the first column "
                "holds names of rows below an empty field; if it is a sample, give --no-header"
            )
            return True
        return None

    def _counts(self) -> bool:
        """Whether the first line is 0, 1, ..., p-1 or 1, 2, ..., p, perhaps after an empty field.

        A symmetric matrix may begin with such a line too (a Toeplitz matrix does); it has no
        header.
        """
        first = self.rows[0]
        if first and not first[0]:
            first = first[1:]
        p = len(first)
        if p < 2 or first not in ([str(k) for k in range(p)], [str(k + 1) for k in range(p)]):
            return False
        rows = self.rows
        square = len(rows) == p == len(rows[0]) and all(len(row) == p for row in rows)
        return not square or any(
            self.value(rows[i][j]) != self.value(rows[j][i]) for i in range(p) for j in range(i)
        )

    def _cut_empty_ends(self, names: list[str] | None) -> None:
        """Take away what stands behind the last delimiter where that is nothing in every line."""
        where = []
        if names is not None and len(names) > 1 and not names[-1]:
            most = len(names)
            while most > 1 and not names[most - 1]:
                most -= 1
            if all(not any(row[most:]) for row in self.rows):
                del names[most:]
                where.append("the line of names")
        end = 1 + max(k for row in self.rows for k, part in enumerate(row) if part)
        keep = max(end, min(map(len, self.rows)) if names is None else len(names))
        if names is None and len({len(row) for row in self.rows}) == 1:
            keep = end
        longer = [row for row in self.rows if len(row) > keep]
        for row in longer:
            del row[keep:]
        if longer:
            where.append(
                "all lines" if len(longer) == len(self.rows) else f"some lines ({len(longer)})"
            )
        if where:
            self.notes.append(
                f"a delimiter at the end of {' and '.join(where)} was ignored: nothing follows it"
            )

    def take_row_names(self, names: list[str] | None) -> tuple[str, ...] | None:
        """Return the names of rows and take them away, if there are any."""
        width = len(self.rows[0])
        if names is None:
            self._remark_on_count("index")
            return None
        short = len(names) == width - 1
        if not short and (names[0] or width < 2):
            self._remark_on_count(names[0])
            return None
        column = [row[0] for row in self.rows]
        reading = _labels(column, self.numerals, in_order=short)
        if not reading:
            raise DataError(self._two_readings(names, column, short))
        for row in self.rows:
            del row[0]
        if not short:
            del names[0]
        if reading == "nothing":
            self.notes.append("a delimiter at the start of the lines was ignored")
            return None
        missing = "the line of names leaves it out" if short else "it has no name"
        self.notes.append(
            f"the first column ({start_of(column)}) was left out: {missing}, so it was read as "
            f"names of rows ({reading}); with a name in the first line it is data"
        )
        return tuple(column)

    def _two_readings(self, names: list[str], column: list[str], short: bool) -> str:
        start = start_of(column)
        if not short:
            return (
                f"the first column of {self.path} has no name, and its values ({start}) are "
                "neither text nor distinct consecutive numbers: it may hold names of rows or a "
                "variable. Give it a name in the first line (--skip NAME then leaves it out)"
            )
        comma = ""
        if self.lines.delimiter == ",":
            comma = f", or a comma is a decimal sign ({','.join(self.rows[0][:2])})"
        return (
            f"{self.path} has {len(names)} names for {len(names) + 1} columns. Either the first "
            f"column holds names of rows (but {start} are neither text nor consecutive numbers)"
            f"{comma}, or one column lacks its name. Name every column in the first line; write "
            "decimal points, or separate the fields by semicolons"
        )

    def _remark_on_count(self, name: str) -> None:
        column = [row[0] for row in self.rows]
        table = 1 < len(self.rows[0]) != len(column)  # no single column, no matrix
        if table and name.lower() in _INDEX and column[0] in ("0", "1"):
            if _labels(column, self.numerals, in_order=True):
                self.notes.append(
                    f"the first column counts the rows ({start_of(column)}) and is used as data; "
                    "if it only numbers them, leave it out (--skip)"
                )

    def columns(self, names: list[str] | None) -> tuple[Any, tuple[str, ...] | None]:
        """Return a matrix and its names, or a dict of columns if some of them hold text."""
        columns = [list(column) for column in zip(*self.rows, strict=True)]
        if names is not None:
            empty = [k for k, name in enumerate(names) if not name]
            lost = [k for k in empty if not any(columns[k])]
            if len(lost) < len(empty):
                k = min(set(empty) - set(lost))
                raise DataError(
                    f"column {k + 1} of {self.path} ({start_of(columns[k])}) has no name; give it "
                    "one in the first line"
                )
            if lost:
                self.notes.append(f"columns without name and values were left out ({len(lost)})")
            columns = [column for k, column in enumerate(columns) if k not in lost]
            names = [name for name in names if name]
        read = [self._column(column) for column in columns]
        texts = None if names is None else tuple(names)
        if all(column.dtype.kind == "f" for column in read):
            values = np.column_stack(read) if read else np.empty((len(self.rows), 0))
            return values, texts
        labels = texts or tuple(str(k) for k in range(len(read)))
        if len(set(labels)) < len(labels):
            raise DataError(f"two columns of {self.path} have the same name")
        return dict(zip(labels, read, strict=True)), None

    def _column(self, parts: list[str]) -> Any:
        """Return numbers as float64; else objects, so that what is no number can be named."""
        values = [self.value(part) for part in parts]
        if None not in values:
            check_points(parts)
            return np.array(values, dtype=np.float64)
        mixed = np.empty(len(parts), dtype=object)
        mixed[:] = [part if v is None else v for part, v in zip(parts, values, strict=True)]
        return mixed


def _labels(column: Sequence[str], numerals: Numerals, *, in_order: bool = False) -> str:
    """Return why a column holds names of rows; nothing if it may as well be data."""
    if not any(column):
        return "nothing"
    values = [numerals.value(part) for part in column]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return "text"
    if len(numbers) < 2 or not all(v.is_integer() for v in numbers):
        return ""
    counted = numbers if in_order else sorted(numbers)
    return "consecutive numbers" if all(np.diff(counted) == 1) else ""


def start_of(parts: Sequence[str]) -> str:
    """Return the first few fields as text."""
    shown = [part if len(part) < 24 else part[:20] + "..." for part in parts if part]
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")
