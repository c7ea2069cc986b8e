"""What is known of a method before it runs: one `MethodInfo` stands in each module's ``TABLE``.

A method is a function ``(trace, target, **options) -> Scores``. Every module of methods exports
``TABLE``, pairs of function and description, which `causal_lvlm.methods.registry` joins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from causal_lvlm.attribution.result import Scores

__all__ = [
    "FAMILIES",
    "ONE_BACKWARD",
    "ONE_FORWARD",
    "MethodFunction",
    "MethodInfo",
    "Progress",
    "Table",
]

MethodFunction: TypeAlias = "Callable[..., Scores]"
Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called with what is being done, how many steps are done, and how many there are."""

ONE_FORWARD = "1 forward"
ONE_BACKWARD = "1 forward, 1 backward"

FAMILIES = (
    "attention",
    "gradient",
    "propagation",
    "lens",
    "perturbation",
    "causal",
    "consensus",
    "random",
)


@dataclass(frozen=True)
class MethodInfo:
    """What a user chooses a method by.

    Attributes
    ----------
    name : str
    aliases : tuple of str
        Other names that `attribute` accepts.
    family : str
        One of `FAMILIES`.
    summary : str
    cost : str
        Passes through the model for one target, with the method's default options.
    needs : tuple of str
        What it takes beside trace and target: ``units`` (it scores units, not positions),
        ``against`` (it explains "why this and not that"), ``image``, ``class token``.
    reference : str
        Where it was published: authors, year, arXiv number or venue.
    optional : bool
        Not among the methods that are run when none is named: behind an extra, very expensive,
        or with a caveat that its documentation states.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    summary: str
    cost: str
    needs: tuple[str, ...] = ()
    reference: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        """Check the family."""
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}")


Table: TypeAlias = "tuple[tuple[MethodFunction, MethodInfo], ...]"
