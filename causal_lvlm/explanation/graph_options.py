"""What may be chosen about a verified causal graph; defaults and what is allowed in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from causal_lvlm.checks import check_choice, check_names, number, shown, whole_number
from causal_lvlm.errors import BudgetError, OptionError, OptionTypeError
from causal_lvlm.explanation.options import check_against, check_drop_ratio
from causal_lvlm.explanation.testers import TESTERS

__all__ = ["EDGE_KINDS", "GraphOptions", "check_graph"]

EDGE_KINDS = ("mask", "value")
LEAST_RUNS = 5  # unmasked, without a cut, everything cut, the learned graph, and one to search


@dataclass(frozen=True)
class GraphOptions:
    """Options of `causal_graph`.

    Attributes
    ----------
    kind : {"mask", "value"}
        How an edge is cut: the row does not see the column, or reads nothing there.
    tester : {"flip", "drop", "contrast"}
        See `causal_lvlm.explanation.testers`.
    against : str or int, optional
        Rival token for ``contrast``.
    drop_ratio : float in (0, 1)
    source : {"influence", "relevancy", "attention", "output"}
        What the learned graph's correlation is made from.
    threshold : float, optional
        Smallest partial correlation that counts; see `causal_lvlm.correlation`.
    pool : int
        Image tokens are nodes in blocks of pool x pool cells.
    max_runs : int
        Runs with edges cut, random controls included.
    time_limit : float, optional
        Seconds; the best sets verified so far are returned.
    n_random : int
        Random controls for each verified set.
    instead : bool
        Whether the model goes on from the target with the necessary cut, so that the graph says
        what it would have said; for ``kind="mask"``.
    seed : int
        For the random controls.
    """

    kind: str = "mask"
    tester: str = "flip"
    against: str | int | None = None
    drop_ratio: float = 0.5
    source: Literal["influence", "relevancy", "attention", "output"] = "influence"
    threshold: float | None = None
    pool: int = 1
    max_runs: int = 150
    time_limit: float | None = None
    n_random: int = 20
    instead: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not allowed."""
        check_choice("kind", self.kind, EDGE_KINDS)
        check_choice("tester", self.tester, TESTERS)
        check_choice("source", self.source, ("influence", "relevancy", "attention", "output"))
        check_against(self.tester, self.against)
        check_drop_ratio(self.drop_ratio)
        for name, least in (("pool", 1), ("n_random", 0), ("seed", 0)):
            whole_number(name, getattr(self, name), least)
        if self.threshold is not None:
            number("threshold", self.threshold, 0, 1)
        if not isinstance(self.instead, (bool, np.bool_)):
            raise OptionTypeError(f"instead must be True or False, got {shown(self.instead)}")
        try:
            whole_number("max_runs", self.max_runs, LEAST_RUNS)
            if self.time_limit is not None:
                number("time_limit, in seconds,", self.time_limit, 0)
        except OptionError as error:
            raise BudgetError(str(error)) from None

    def changed(self, given: dict[str, Any]) -> GraphOptions:
        """Return the options with others by name; raises OptionError for an unknown name.

        Parameters
        ----------
        given : dict
        """
        check_names("causal_graph", given, [f.name for f in fields(self)])
        return replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


def check_graph(value: object) -> None:
    """Raise `OptionTypeError` unless this is what `explain` takes as `graph`."""
    if not isinstance(value, (bool, GraphOptions)):
        raise OptionTypeError(f"graph must be True, False or GraphOptions(...), got {shown(value)}")
