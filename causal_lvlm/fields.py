"""What the values of a saved file must be: a file's schema is a table of checks, field by field.

A check takes a value as JSON gave it and the name of its place, and returns the value that the
result is made of; what does not fit raises `OutputError` with the place, what is expected there
and what was found. A reader is then one call:

>>> read = record({"text": text, "positions": many(whole(0), least=1), "note": text}, {"note"})
>>> read({"text": "red", "positions": [3, 4], "more": 1}, "target")
{'text': 'red', 'positions': (3, 4)}

Fields that a schema does not know are left out, so that files of later versions can be read; those
named in the second argument may be missing, so that files of earlier ones can.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from causal_lvlm.errors import CausalLVLMError, OutputError

__all__ = [
    "Check", "array", "choice", "damaged", "flag", "instance", "many", "maybe", "number", "plain",
    "reading", "record", "refuse", "rows", "settings", "table", "text", "whole",
]  # fmt: skip

Check: TypeAlias = Callable[[Any, str], Any]

INT64 = 2**63 - 1
DEPTH = 40  # levels of plain data (parameters, details); nothing that is saved comes near


def refuse(where: str, expected: str, value: Any) -> OutputError:
    """Return the error that says what is wrong with a value, however large the value is."""
    return OutputError(f"{where} must be {expected}, got {_shown(value)}")


def damaged(where: str, problem: str) -> OutputError:
    """Return the error that says why values which are fine by themselves do not fit together."""
    return OutputError(f"{where} {problem}")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    if isinstance(value, Mapping):
        return f"an object with {len(value)} fields"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return repr(value)
    return repr(value) if isinstance(value, int) and abs(value) < 10**18 else type(value).__name__


@contextmanager
def reading(path: Any, what: str) -> Iterator[None]:
    """Name the file in errors of its schema, and of the objects that are made from it.

    Raises
    ------
    OutputError
        Instead of any error of this package, and instead of a ``ValueError``, with which the
        dataclasses of results refuse what contradicts itself.
    """
    try:
        yield
    except (CausalLVLMError, ValueError) as error:
        raise OutputError(
            f"{str(path)!r} is no complete {what} (damaged or incomplete): {error}; save it again"
        ) from error


def text(value: Any, where: str) -> str:
    """Check that it is text."""
    if not isinstance(value, str):
        raise refuse(where, "text", value)
    return value


def flag(value: Any, where: str) -> bool:
    """Check that it is true or false."""
    if not isinstance(value, bool):
        raise refuse(where, "true or false", value)
    return value


def whole(low: int | None = None, high: int | None = INT64) -> Check:
    """Return the check of a whole number from `low` to `high`, both allowed."""
    expected = f"a whole number from {low} to {high}"
    if high == INT64:
        expected = "a whole number" + ("" if low is None else f", {low} or more")
    least = -INT64 if low is None else low

    def check(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise refuse(where, expected, value)
        found = int(value)
        if found < least or (high is not None and found > high):
            raise refuse(where, expected, value)
        return found

    return check


def number(low: float = -math.inf, high: float = math.inf, *, nan: bool = False) -> Check:
    """Return the check of a finite number; with `nan`, null stands for NaN (JSON has none)."""
    expected = "a number" if low == -math.inf and high == math.inf else f"within {low:g}..{high:g}"

    def check(value: Any, where: str) -> float:
        if value is None and nan:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise refuse(where, expected, value)
        size: Any = abs(value)
        found = float(value) if size <= 1.7e308 else math.nan  # a whole number may be larger
        if not low <= found <= high and not (nan and value != value):
            raise refuse(where, expected, value)
        return found

    return check


def choice(*options: str) -> Check:
    """Return the check of one of some words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in options:
            raise refuse(where, f"one of {', '.join(options)}", value)
        return value

    return check


def maybe(check: Check) -> Check:
    """Return a check that lets null pass."""
    return lambda value, where: None if value is None else check(value, where)


def many(check: Check, *, least: int = 0, length: int | None = None) -> Check:
    """Return the check of a list; its items become a tuple."""

    def items(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise refuse(where, "a list", value)
        if length is not None and len(value) != length:
            raise refuse(where, f"a list of {length}", value)
        if len(value) < least:
            raise refuse(where, f"a list of {least} or more", value)
        return tuple(check(item, f"{where}[{k}]") for k, item in enumerate(value))

    return items


def rows(*checks: Check) -> Check:
    """Return the check of a list with a check for each of its items, such as a pair."""

    def items(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != len(checks):
            raise refuse(where, f"a list of {len(checks)}", value)
        pairs = enumerate(zip(value, checks, strict=True))
        return tuple(check(item, f"{where}[{k}]") for k, (item, check) in pairs)

    return items


def table(check: Check, *, least: int = 0) -> Check:
    """Return the check of an object with any names, whose values are alike."""

    def fields(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or len(value) < least:
            raise refuse(where, "an object" + (f" of {least} or more" if least else ""), value)
        return {
            text(key, f"a name in {where}"): check(v, _at(where, key)) for key, v in value.items()
        }

    return fields


def record(schema: Mapping[str, Check], optional: AbstractSet[str] = frozenset()) -> Check:
    """Return the check of an object with these fields; of `optional` ones any may be missing."""

    def fields(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise refuse(where or "the file", "an object", value)
        missing = [name for name in schema if name not in value and name not in optional]
        if missing:
            raise damaged(where or "the file", f"has no field {missing[0]!r}")
        return {n: check(value[n], _at(where, n)) for n, check in schema.items() if n in value}

    return fields


def settings(**known: Check) -> Check:
    """Return the check of free parameters: plain data, of which some are used and so are typed."""
    typed = record(known, frozenset(known))

    def fields(value: Any, where: str) -> dict[str, Any]:
        return {**table(plain)(value, where), **typed(value, where)}

    return fields


def plain(value: Any, where: str, depth: int = DEPTH) -> Any:
    """Let pass what JSON can say, nested no deeper than `DEPTH`."""
    if isinstance(value, (Mapping, list, tuple)):
        if not depth:
            raise damaged(where, f"is nested more than {DEPTH} levels deep")
        for item in value.values() if isinstance(value, Mapping) else value:
            plain(item, where, depth - 1)
    return value


def array(
    dtype: Any,
    *shape: int | None,
    low: float = -math.inf,
    high: float = math.inf,
    nan: bool = False,
) -> Check:
    """Return the check of numbers in lists of equal length, or of an array.

    Parameters
    ----------
    dtype : dtype_like
        Of the array that is returned: int64, float64, uint8, ... Whole numbers are checked to be
        whole, all are checked to be finite.
    *shape : int or None
        Length of each axis; None where any will do.
    low, high : float
        Smallest and largest value allowed.
    nan : bool
        Whether null, NaN or an infinity may stand for a number that is not there.
    """
    kind = np.dtype(dtype).kind
    allowed = "iu" if kind in "iu" else "iuf"
    called = f"{'whole ' if kind in 'iu' else ''}numbers"
    axes = " x ".join("N" if n is None else str(n) for n in shape)

    def check(value: Any, where: str) -> npt.NDArray[Any]:
        found = _as_array(value, nan)
        if found is None or (found.size and found.dtype.kind not in allowed):
            raise refuse(where, f"{axes} {called}", value)
        if (found.size == 0 and 0 in shape[: found.ndim]) or (found.size == 0 and len(shape) > 1):
            found = found.reshape([n or 0 for n in shape])  # JSON says [] for 0 x 2, too
        if found.ndim != len(shape) or any(
            n is not None and n != m for n, m in zip(shape, found.shape, strict=True)
        ):
            raise refuse(where, f"{axes} {called}", found)
        if ((found < low) | (found > high)).any() or not (nan or np.isfinite(found).all()):
            bounds = f" within {low:g}..{high:g}" if (low, high) != (-math.inf, math.inf) else ""
            raise damaged(where, f"must hold finite {called}{bounds}")
        return found.astype(dtype)

    return check


def _as_array(value: Any, nan: bool) -> npt.NDArray[Any] | None:
    """Return lists of numbers as an array; None where they are none."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, (list, tuple)):
        return None
    if nan and value and not isinstance(value[0], (list, tuple)):
        value = [math.nan if item is None else item for item in value]
    try:
        found = np.array(value)
    except (ValueError, OverflowError):  # lists of different lengths
        return None
    return found


def instance(cls: type, **own: Check) -> Check:
    """Return the check of an object that becomes a dataclass: its fields are its schema.

    The check of a field follows from its annotation (``int``, ``float``, ``bool``, ``str``, ``X |
    None``, ``tuple[X, ...]``, ``tuple[X, Y]``, mappings), unless it is given here. A field with a
    default may be missing.
    """
    hints = get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_")]
    missing = dataclasses.MISSING
    typed = record(
        {f.name: own.get(f.name) or _of_type(hints[f.name]) for f in fields},
        {f.name for f in fields if f.default is not missing or f.default_factory is not missing},
    )
    return lambda value, where: cls(**typed(value, where))


def _of_type(hint: Any) -> Check:
    plain_types: dict[Any, Check] = {
        int: whole(), float: number(nan=True), bool: flag, str: text, Any: plain,
    }  # fmt: skip
    if hint in plain_types:
        return plain_types[hint]
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (one,) = (part for part in inside if part is not type(None))
        return maybe(_of_type(one))
    if origin is tuple and len(inside) == 2 and inside[1] is ...:
        return many(_of_type(inside[0]))
    if origin is tuple:
        return rows(*(_of_type(part) for part in inside))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return table(_of_type(inside[1]))
    raise TypeError(f"no check for fields of type {hint!r}; give one")


def _at(where: str, name: str) -> str:
    short = name if len(name) <= 40 else name[:40] + "…"
    return f"{where}.{short}" if where else short


def indices(values: Sequence[int], length: int, where: str) -> None:
    """Raise `OutputError` unless all values are indices of something of this length."""
    wrong = [v for v in values if not 0 <= v < length]
    if wrong:
        raise damaged(where, f"holds {wrong[0]}; allowed are 0..{length - 1}")
