"""Checks of plain arguments, shared by the rooms."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.errors import quoted

__all__ = ["check_choice", "whole_number"]


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {quoted(value)}")


def whole_number(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`; raise ValueError otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {quoted(value)}")
    return number
