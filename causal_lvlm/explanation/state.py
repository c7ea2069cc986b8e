"""What a search knows about one scope so far, and how near the trees hold its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from causal_lvlm.explanation.candidates import UnitTree
from causal_lvlm.explanation.evaluator import Subset

__all__ = ["SearchState", "distances"]


@dataclass
class SearchState:
    """What is known about one scope so far."""

    best: Subset | None = None
    irreducible: bool = False
    minimality: str = "none"
    ended: str | None = None
    grown: int | None = None
    random: tuple[float | None, int] = (None, 0)

    def offer(self, subset: Subset, irreducible: bool) -> None:
        """Take over a set that is smaller than, or as small as and better known than, the best."""
        if self.best is None or len(subset) < len(self.best):
            self.best, self.irreducible = subset, irreducible or len(subset) == 1
        elif subset == self.best:
            self.irreducible = self.irreducible or irreducible
        self.grown = len(subset) if self.grown is None else self.grown
        # An irreducible set with a single member is a minimum: the empty set was asked.
        self.minimality = (
            "minimum" if len(self.best) == 1 else "irreducible" if self.irreducible else "none"
        )


def distances(trees: Sequence[UnitTree]) -> dict[int, int]:
    """Return for each unit the smallest depth at which a tree holds it."""
    distance: dict[int, int] = {}
    for tree in trees:
        for unit, depth in tree.depth.items():
            distance[unit] = min(depth, distance.get(unit, depth))
    return distance
