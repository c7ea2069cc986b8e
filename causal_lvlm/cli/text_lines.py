"""Text files as rows of fields: encoding, comments and delimiter are found.

Nothing here knows what a field means; `causal_lvlm.cli.tables` does.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from causal_lvlm.cli.numerals import looks_numeric
from causal_lvlm.errors import DataError, quoted

__all__ = ["Lines", "called", "read_lines"]

_OTHERS = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"\x1f\x8b": "compressed (gzip): decompress it first",
    b"BZh": "compressed (bzip2): decompress it first",
    b"\xfd7zXZ": "compressed (xz): decompress it first",
    b"PAR1": "a Parquet file: let its name end in .parquet",
    b"\x93NUMPY": "an array of numpy: let its name end in .npy",
}
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
_DELIMITERS = ("\t", ";", "|", ",", " ")  # the last stands for any white space
_CALLED = {"\t": "a tab", " ": "white space"}
# spreadsheets write errors and missing values with the same sign
_COMMENT = re.compile(r"\s*(#(?!(N/?A|DIV/0!|VALUE!|REF!|NUM!|NAME\?|NULL!))|%(?=[\s%])|//)")
_LOOKED_AT = 100  # lines from which the delimiter is told


@dataclass
class Lines:
    """The rows of a text.

    Parameters
    ----------
    rows : list of (int, list of str)
        Number of the line, and its fields, of every line that is neither blank nor a comment.
    delimiter : str
        A blank for white space of any length.
    above : list of str
        Fields of the comment right above the first row, which may hold the names.
    notes : list of str
        What was left out, or read in a way that a person should know of.
    """

    rows: list[tuple[int, list[str]]]
    delimiter: str
    above: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def called(delimiter: str) -> str:
    """Return how messages call a delimiter."""
    return _CALLED.get(delimiter, repr(delimiter))


def read_lines(path: Path) -> Lines:
    """Read a text file.

    Parameters
    ----------
    path : pathlib.Path
        UTF-8, UTF-16 or UTF-32 (with a byte order mark, or UTF-16 without); else Windows-1252,
        with a note. A first line ``sep=;`` names the delimiter. Lines that begin with ``#`` (or
        with ``//`` or a single ``%``) are comments.

    Raises
    ------
    ValueError
        If the file cannot be read, or is no text.
    DataError
        If there is no row, or a quote is not closed.
    """
    notes: list[str] = []
    text = _decoded(path, notes)
    if text.lstrip()[:1] in ("{", "[") and _is_json(text):
        raise ValueError(f"{quoted(str(path))} holds JSON, not a table; give it as CSV")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    wanted = _named_delimiter(lines)
    comments = [k for k, line in enumerate(lines) if _COMMENT.match(line)]
    first = next((k for k, line in enumerate(lines) if line.strip() and k not in set(comments)), -1)
    if first < 0:
        every = "no line that is no comment" if comments else "no line"
        raise DataError(f"{str(path)!r} holds {every}")
    above = [k for k in comments if k < first and not any(s.strip() for s in lines[k + 1 : first])]
    heading = _COMMENT.sub("", lines[above[-1]], count=1).strip() if above else ""
    for k in comments:
        lines[k] = ""
    if comments:
        where = ", ".join(str(k + 1) for k in comments[:5]) + (", ..." if comments[5:] else "")
        notes.append(f"comments were left out (lines {where})")
    delimiter = wanted or _told_delimiter(lines)
    try:
        if "\n".join(lines).count('"') % 2:
            for _ in csv.reader(lines, delimiter=delimiter, strict=True):
                pass
        rows = _split(lines, delimiter)
        fields = _split([heading], delimiter)
    except csv.Error as error:
        reason = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise DataError(f"cannot read {str(path)!r} as a table: {reason}") from error
    if any(not any(part.strip() for part in row) for _, row in rows):
        bare = [line for line, row in rows if not any(part.strip() for part in row)]
        rows = [(line, row) for line, row in rows if any(part.strip() for part in row)]
        notes.append(f"lines of nothing but delimiters were left out ({len(bare)})")
    if not rows:
        raise DataError(f"{str(path)!r} holds no line")
    return Lines(rows, delimiter, [f.strip() for _, row in fields for f in row], notes)


def _decoded(path: Path, notes: list[str]) -> str:
    data = path.read_bytes()
    for start, what in _OTHERS.items():
        if data.startswith(start):
            raise ValueError(f"{quoted(str(path))} is {what}")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    if not encoding:
        zeros = [data[k:4096:2].count(0) for k in (0, 1)]
        encoding = "utf-8"
        if min(zeros) == 0 and max(zeros) > len(data[:4096]) / 4:
            encoding = "utf-16-be" if zeros[0] else "utf-16-le"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        called = encoding.upper().removesuffix("-SIG")
        if encoding != "utf-8":
            raise ValueError(
                f"cannot read {quoted(str(path))} as text in {called}: {error}; save it as UTF-8"
            ) from error
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise ValueError(
                f"cannot read {quoted(str(path))} as text in UTF-8: {error}"
            ) from error
        notes.append("the text is not UTF-8, so it was read as Windows-1252: look at the names")
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise ValueError(f"{quoted(str(path))} is no text: it holds control characters")
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _named_delimiter(lines: list[str]) -> str | None:
    """Return the delimiter that a first line ``sep=;`` names, and take that line away."""
    for k, line in enumerate(lines):
        if line.strip():
            found = re.fullmatch(r'\s*"?sep=(.)"?[\s,;]*', line, flags=re.IGNORECASE)
            if found:
                lines[k] = ""
            return found.group(1) if found else None
    return None


def _told_delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that cuts the lines into equally many fields, numbers if possible."""
    shown = [line for line in lines if line.strip()][:_LOOKED_AT]
    fitting: list[tuple[bool, int, str]] = []
    for delimiter in _DELIMITERS:
        rows = [row for _, row in _split(shown, delimiter)]
        if _fits(rows):
            numbers = any(looks_numeric(part) for row in rows[1:3] for part in row)
            fitting.append((not numbers, len(fitting), delimiter))
    if fitting:
        best = min(fitting)[2]
        # white space and decimal commas: each comma stands in the last of several words
        bare = not any(re.search(r",\s", s) for s in shown[1:])  # "1, 2" is cut at its commas
        words = best == "," and fitting[-1][2] == " " and all(len(s.split()) > 1 for s in shown[1:])
        numbers = bare and words and all(looks_numeric(s.split()[-1]) for s in shown[1:])
        return " " if numbers else best
    if all(len(line.split()) == 1 for line in shown[1:]):
        inside = [c for c in _DELIMITERS[:-1] if any(c in line for line in shown[1:])]
        if not inside:  # one column, whose name may hold blanks
            return next((c for c in _DELIMITERS[:-1] if shown[0].rstrip().endswith(c)), "\t")
    # lines of unequal length: the messages shall count fields as a person would
    return next((c for c in _DELIMITERS[:-1] if c in shown[0]), " ")


def _fits(rows: list[list[str]]) -> bool:
    """Whether rows have equally many fields, but for a delimiter at their ends."""
    if not rows:
        return False
    body = rows[1:] or rows
    most = max(map(len, body))
    ends = {len(row) for row in body if row[-1].strip() or len(row) < most}
    width = max(ends) if ends else most - 1
    even = ends <= {width} and most - width <= 1
    return even and width > 1 and abs(len(rows[0]) - width) <= 1


def _split(lines: Sequence[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """Return (number of the line, fields) of every line that is not blank."""
    if delimiter == " ":
        return [(k, line.split()) for k, line in enumerate(lines, start=1) if line.strip()]
    stream = io.StringIO("\n".join(lines), newline="")
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
    return [(reader.line_num, row) for row in reader if row and (len(row) > 1 or row[0].strip())]
