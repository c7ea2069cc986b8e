"""How a text file writes numbers: decimal point or comma, and a sign between thousands.

1. A decimal comma is recognised where it cannot separate thousands (``1,5``, ``0,941``); a comma
   between thousands where it cannot be a decimal sign (``1,234.5``, ``1,234,567``). Where all
   commas could be either (``1,234``), and no number with a point decides, the file is refused.
2. Points between thousands are told in the same way beside decimal commas. A column in which whole
   numbers stand beside such as ``12.500`` is refused, too.
3. Blanks (also the narrow and the unbreakable one) and apostrophes between groups of three digits
   are left out. An underscore makes a text: it stands in names as often as in numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from causal_lvlm.errors import DataError

__all__ = ["MISSING", "Numerals", "check_points", "looks_numeric", "told_numerals"]

MISSING = frozenset({
    "", "na", "n/a", "nan", "null", "none", "?", ".", "-", "#n/a", "#na", "<na>", "-nan", "nat",
    "1.#qnan", "-1.#ind", "1.#ind",
})  # fmt: skip
_GROUPS = re.compile(r"[+-]?\d{1,3}(?:[ \u00a0\u202f'’]\d{3})+(?:[.,]\d+)?", re.ASCII)
_GAPS = re.compile(r"[ \u00a0\u202f'’]")
_NUMERIC = re.compile(
    r"[+\-\u2212]?[\d.,_'’ \u00a0\u202f]*\d[\d.,_'’ \u00a0\u202f]*(e[+-]?\d+)?", re.I
)
_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)(e[+-]?\d+)?", re.I | re.ASCII)
# commas: certainly between thousands, certainly decimal, or either
_THOUSANDS = re.compile(r"[+-]?\d{1,3}((,\d{3})+\.\d*|(,\d{3}){2,})", re.ASCII)
_DECIMAL = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.I | re.ASCII)
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_POINTED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+", re.ASCII)
_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})?", re.ASCII)
_POINT_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+", re.ASCII)


def looks_numeric(field: str) -> bool:
    """Whether a field is made of digits and the signs that people put between them."""
    return _NUMERIC.fullmatch(field.strip()) is not None


@dataclass(frozen=True)
class Numerals:
    """How numbers are written.

    Parameters
    ----------
    decimal, thousands : str
        Signs; the second may be empty.
    """

    decimal: str = "."
    thousands: str = ""

    def value(self, field: str) -> float | None:
        """Return a number, NaN for a missing value, or None for anything else."""
        text = field.strip()
        if "," not in text and not self.thousands:
            try:
                # Python takes underscores and the digits of every script
                return float(text) if text.isascii() and "_" not in text else self._marked(text)
            except ValueError:
                pass
        return self._marked(text)

    def _marked(self, text: str) -> float | None:
        if text.lower() in MISSING:
            return math.nan
        text = text.replace("\u2212", "-")
        if _GROUPS.fullmatch(text):
            text = _GAPS.sub("", text)
        if self.thousands and self.thousands in text:
            groups = rf"[+-]?\d{{1,3}}(\{self.thousands}\d{{3}})+(\{self.decimal}\d*)?"
            if not re.fullmatch(groups, text, re.ASCII):
                return None
            text = text.replace(self.thousands, "")
        if self.decimal != "." and "." in text:
            return None
        text = text.replace(self.decimal, ".")
        try:
            return float(text) if text.isascii() and "_" not in text else None
        except ValueError:
            return None


def check_points(column: Iterable[str]) -> None:
    """Refuse a column whose points may stand between thousands, such as 987, 1.234, 12.500.

    Programs write all numbers of a column with three decimals, or none of them with a last zero.

    Raises
    ------
    DataError
        If the column has both, and nothing that tells a decimal point.
    """
    texts = [text for text in map(str.strip, column) if text.lower() not in MISSING]
    padded = next((text for text in texts if "." in text and text.endswith("0")), "")
    whole = next((text for text in texts if "." not in text and len(text) > 2), "")
    if padded and whole and all(_GROUP.fullmatch(text) for text in texts):
        raise DataError(
            f"{padded!r} beside {whole!r} can be read as {float(padded):g} (decimal point) or as "
            f"{padded.replace('.', '')} (point between thousands); write it without the point, or "
            "without the last zero"
        )


def _sign_of(text: str) -> str:
    """Return what a field shows about points and commas."""
    text = _GAPS.sub("", text) if _GROUPS.fullmatch(text) else text
    kinds = {
        "either": _EITHER, "thousands": _THOUSANDS, "pointed": _POINTED, "decimal": _DECIMAL,
        "point groups": _POINT_GROUPS, "point": _POINT,
    }  # fmt: skip
    return next((kind for kind, pattern in kinds.items() if pattern.fullmatch(text)), "")


def told_numerals(fields: Iterable[str]) -> Numerals:
    """Return how the fields of a file write numbers.

    Raises
    ------
    DataError
        If the fields contradict each other, or a comma can be read in two ways.
    """
    texts = [field.strip() for field in fields]
    if not any("," in text for text in texts):
        return Numerals()
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(_sign_of(text), text)
    thousands, either, point = (found.get(k, "") for k in ("thousands", "either", "point"))
    pointed, grouped = found.get("pointed", ""), found.get("point groups", "")
    decimal = found.get("decimal", pointed)
    clash = thousands or point
    if decimal and clash:
        raise DataError(
            f"numbers are written in two ways: {decimal!r} has a decimal comma, {clash!r} has not; "
            "write all of them with a decimal point"
        )
    if decimal:
        if grouped and not pointed:
            raise DataError(
                f"{grouped!r} beside {decimal!r}: the point may be a decimal point or stand "
                "between thousands; write all numbers with a decimal point"
            )
        return Numerals(",", "." if pointed else "")
    if thousands or (either and point):
        return Numerals(".", ",")
    if either:
        raise DataError(
            f"{either!r} can be read as {either.replace(',', '.')} (decimal comma) or as "
            f"{either.replace(',', '')} (comma between thousands); write a decimal point, or no "
            "comma"
        )
    return Numerals()
