"""What one metric is and returns: a `MetricInfo` to choose it by, one `Measured` per call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Measured", "MetricInfo"]

FAMILIES = ("faithfulness", "set", "localisation", "sanity", "agreement", "graph", "plausibility")
NEEDS = ("scores", "set", "region", "result", "other")


class Measured(NamedTuple):
    """What a metric function returns.

    Attributes
    ----------
    value : float or None
        None where the metric is not defined; ``detail["undefined"]`` says why.
    detail : dict
        Curves, bins, standard errors: what the value was made of.
    asked : int
        Masked rows that were asked for, those in the case's memory included.
    """

    value: float | None
    detail: dict[str, Any]
    asked: int = 0


@dataclass(frozen=True)
class MetricInfo:
    """What a user chooses a metric by.

    Attributes
    ----------
    name : str
        Published name.
    family : str
        One of faithfulness, set, localisation, sanity, agreement, graph, plausibility.
    better : {"higher", "lower", None}
    needs : str
        What the function takes after the case. ``scores``: one number per unit; ``set``: the
        members of an explaining set; ``region``: scores and ``region=``; ``result``: the
        attribution or explanation itself; ``other``: what its docstring says (such a metric is
        called directly, not through `evaluate`).
    summary : str
    reference : str
    masking : str or None
        Masking of the published definition, where it has one of its own; None takes the case's.
    maskings : tuple of str, optional
        The only ones it works with; None where any does.
    """

    name: str
    family: str
    better: str | None
    needs: str
    summary: str
    reference: str
    masking: str | None = None
    maskings: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the words that others switch on."""
        if self.family not in FAMILIES or self.needs not in NEEDS:
            raise ValueError(
                f"metric {self.name!r}: family must be one of {FAMILIES} and needs one of "
                f"{NEEDS}, got {self.family!r} and {self.needs!r}"
            )
        if self.better not in ("higher", "lower", None):
            raise ValueError(f"metric {self.name!r}: better must be higher, lower or None")

    @property
    def masks(self) -> bool:
        """Whether the value depends on how units are masked (then the masking is in its name)."""
        return self.family in ("faithfulness", "set") and self.name not in ("size", "model_runs")
