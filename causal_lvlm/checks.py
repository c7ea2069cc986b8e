"""Checks of plain arguments, shared by the rooms: the reason first, then what is allowed."""

from __future__ import annotations

import difflib
import inspect
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from causal_lvlm.errors import OptionError, OptionTypeError, quoted

__all__ = [
    "check_annotated",
    "check_choice",
    "check_names",
    "check_text",
    "nearest",
    "number",
    "one_name",
    "printable",
    "shown",
    "whole_number",
]

_LONGEST = 80  # characters of what may be a name that was meant


def shown(value: Any) -> str:
    """Return a value as a message repeats it: not more than a line of it."""
    if callable(value):
        return f"a function ({getattr(value, '__name__', type(value).__name__)})"
    return quoted(value)


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` for a name that is nearly one of those allowed, else ""."""
    if len(value) > _LONGEST:
        return ""
    plain = {name.casefold().replace("-", "_"): name for name in allowed}
    wanted = value.strip().casefold().replace("-", "_").replace(" ", "_")
    found = [n for n in plain if n.replace("_", "") == wanted.replace("_", "")]
    # A part of a name that is said alone: blur for pixels-blur.
    found = found or [n for n in plain if len(wanted) > 2 and wanted in n]
    found = found or difflib.get_close_matches(wanted, plain, n=2, cutoff=0.6)
    names = " or ".join(repr(plain[name]) for name in found[:3])
    return f"; did you mean {names}?" if names else ""


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise OptionError unless `value` is one of `allowed`."""
    if not isinstance(value, str):
        raise OptionTypeError(f"{name} must be one of {_listed(allowed)}, got {shown(value)}")
    if value not in allowed:
        hint = nearest(value, allowed)
        raise OptionError(f"{name} must be one of {_listed(allowed)}, got {shown(value)}{hint}")


def one_name(kind: str, value: Any, known: Mapping[str, str], instead: str) -> str:
    """Return what a name stands for, whatever its case and with ``-`` for ``_``.

    Parameters
    ----------
    kind : str
        What is named: a method, a metric.
    value : str
    known : mapping of str to str
        Names and aliases to what they stand for.
    instead : str
        What to do who has something of their own, for a value that is no name.

    Returns
    -------
    str

    Raises
    ------
    OptionTypeError
        If `value` is no text.
    OptionError
        If nothing has that name.
    """
    if not isinstance(value, str):
        raise OptionTypeError(f"a {kind} is named by a text, got {shown(value)}; {instead}")
    plain = value.strip().lower().replace("-", "_")
    for name, stands_for in known.items():
        if name.lower().replace("-", "_") == plain:
            return stands_for
    names = ", ".join(dict.fromkeys(known.values()))
    raise OptionError(f"unknown {kind} {shown(value)}{nearest(value, known)}; known are: {names}")


def check_names(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise OptionTypeError if an option is given that there is not."""
    there = sorted(allowed)
    for name in given:
        if name not in there:
            raise OptionTypeError(
                f"{what} has no option {name}{nearest(name, there)}; "
                f"it has {', '.join(there) or 'none of its own'}"
            )


def whole_number(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`; raise OptionError otherwise."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    text = f"{name} must be a whole number of at least {least}, got {shown(value)}"
    if found is None or isinstance(value, (bool, np.bool_)):
        raise OptionTypeError(text)
    if found < least:
        raise OptionError(text)
    return found


def number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Return `value` as a float strictly between two bounds; raise OptionError otherwise."""
    between = f"above {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
    text = f"{name} must be a number {between}, got {shown(value)}"
    if isinstance(value, (bool, np.bool_, str, bytes)) or not _is_number(value):
        raise OptionTypeError(text)
    if not (math.isfinite(value) and low < value < high):
        raise OptionError(text)
    return float(value)


def check_annotated(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Hold options to the annotations of a function, before it is called.

    What is annotated as a literal, a number, a truth value or a text (or a union of these and
    None) is checked; other annotations are left to the function.

    Raises
    ------
    OptionError
        If a text is none of those that a literal lists.
    OptionTypeError
        If a value is of another type.
    """
    names = vars(sys.modules[function.__module__])
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given or parameter.annotation is parameter.empty:
            continue
        try:
            hint = (
                eval(parameter.annotation, dict(names))
                if isinstance(parameter.annotation, str)
                else parameter.annotation
            )
        except (NameError, TypeError):  # a type that is imported for type checkers only
            continue
        _check_hint(name, given[name], hint)


def _check_hint(name: str, value: Any, hint: Any) -> None:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    literals = [v for k in kinds if typing.get_origin(k) is typing.Literal
                for v in typing.get_args(k)]  # fmt: skip
    plain = {k for k in kinds if k in _PLAIN}
    if any(k not in plain and typing.get_origin(k) is not typing.Literal for k in kinds):
        return
    if any(_PLAIN[k](value) for k in plain) or value in literals:
        return
    if literals and (isinstance(value, str) or not plain):
        check_choice(name, value, [v for v in literals if isinstance(v, str)])
    allowed = [repr(v) for v in literals] + [_CALLED[k] for k in kinds if k in plain]
    raise OptionTypeError(f"{name} must be {' or '.join(allowed)}, got {shown(value)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, (float, np.floating))


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    int: _is_whole,
    float: _is_number,
    bool: lambda value: isinstance(value, (bool, np.bool_)),
    str: lambda value: isinstance(value, str),
    type(None): lambda value: value is None,
}
_CALLED = {int: "a whole number", float: "a number", bool: "True or False", str: "a text",
           type(None): "None"}  # fmt: skip


def _listed(allowed: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in allowed)


def check_text(name: str, text: str, error: type[ValueError] = ValueError) -> None:
    """Raise an error if a text holds lone surrogates, which no tokenizer and no file takes.

    They come from bytes that are not UTF-8, on the command line and in names of files, or from
    half of an escaped character in JSON.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as found:
        raise error(
            f"{name} holds {text[found.start]!r} at position {found.start}, which is no character: "
            "a byte of another encoding, or half of an escape; write it in UTF-8"
        ) from None


def printable(text: str) -> str:
    """Return a text with lone surrogates written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
