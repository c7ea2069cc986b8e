"""One target under test: its units, the way they are masked, and what the model said so far.

Every metric asks the same kind of question: how likely is the target when only these units, or all
but these, are visible? Curves of different methods share many of them (the empty and the full one
at least), so a `Case` asks through an `Asker`: a question that was asked before costs no model run.
`runs` counts rows that the model computed, `asked` rows that a metric wanted.

Positions that belong to no unit (the frame, the predicting row) always stay.

Equal scores have no order of their own. Breaking ties by position would give every flat map the
same, arbitrary order (the image row by row, then the text), and a sparse map a tail that is no
chance but a choice; they are therefore broken by a seeded permutation (``ties="random"``), which
is the same for all methods of a case. ``ties="index"`` is the order of `Attribution.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import BoolArray, FloatArray
from causal_lvlm.asker import EMBEDDING_MASKINGS, Asker
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.errors import TargetError
from causal_lvlm.protocols import MASKINGS as INTERVENTIONS
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import TargetLike, Units, resolve_target
from causal_lvlm.units import make_units, units_name

__all__ = ["MASKINGS", "Case"]

MASKINGS = (*INTERVENTIONS, *EMBEDDING_MASKINGS)

TIES = ("random", "index")

T = TypeVar("T")


class Case:
    """One target with its units, and the questions that metrics ask about it.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        See `resolve_target`.
    units : Units or str
        The smallest things that are masked, see `causal_lvlm.units.make_units`.
    masking : str
        One of `MASKINGS`.
    seed : int
        Of ties and of metrics that draw samples.
    backend, batch_size, max_memory
        As `Trace.evaluate` takes them.
    ties : {"random", "index"}
        How equal scores are ordered, see the module's text.

    Attributes
    ----------
    trace, target, units, masking, seed
        The target and the units are resolved.
    asker : Asker
        Asks the model about them, and remembers.

    Raises
    ------
    TargetError
        If the answer holds no such target, or nothing before it can be masked.
    ValueError
        If `masking`, `ties` or `units` is unknown.
    """

    def __init__(
        self,
        trace: TraceLike,
        target: TargetLike,
        *,
        units: str | Units = "patch+word",
        masking: str = "remove",
        seed: int = 0,
        backend: str = "auto",
        batch_size: int | None = None,
        max_memory: int | str | None = None,
        ties: str = "random",
    ) -> None:
        check_choice("masking", masking, MASKINGS)
        check_choice("ties", ties, TIES)
        whole_number("seed", seed, 0)
        self.trace = trace
        self.target = resolve_target(trace.layout, target)
        self.units = make_units(trace, self.target, units)
        if not len(self.units):
            raise TargetError(
                f"nothing before the target {self.target.text!r} can be masked with units="
                f"{units!r}; choose other units or a later target"
            )
        self.units_name = units_name(units)
        self.masking = masking
        self.seed = seed
        self.ties = ties
        self.asker = Asker(
            trace, self.target, self.units, masking=masking, backend=backend,
            batch_size=batch_size, max_memory=max_memory,
        )  # fmt: skip
        self._remembered: dict[tuple[str, str], Any] = {}

    def __repr__(self) -> str:
        """Say what is tested."""
        return (
            f"Case({self.target.text!r}, {len(self.units)} units, masking={self.masking!r}, "
            f"runs={self.runs})"
        )

    # -- questions ----------------------------------------------------------------------------

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def full(self) -> float:
        """Probability of the target with everything visible."""
        return float(self.without([()]).prob[0])

    @property
    def empty(self) -> float:
        """Probability of the target with no unit visible."""
        return float(self.keep([()]).prob[0])

    @property
    def runs(self) -> int:
        """Rows that the model computed, with every masking (`under`) of this case."""
        return self.asker.runs

    @property
    def asked(self) -> int:
        """Rows that were asked for, those in memory included."""
        return self.asker.asked

    def keep(self, subsets: Sequence[Iterable[int]] | BoolArray) -> Answers:
        """Ask with only these units visible.

        Parameters
        ----------
        subsets : sequence of iterables of int, or ndarray of bool (K, U)
            Units that stay.

        Returns
        -------
        Answers
            One row per subset.
        """
        return self.asker.rows(self._visible(subsets))

    def without(self, subsets: Sequence[Iterable[int]] | BoolArray) -> Answers:
        """Ask with these units masked and all others visible; see `keep`."""
        return self.asker.rows(~self._visible(subsets))

    def under(self, masking: str) -> Case:
        """Return the case of the same target and units with another masking.

        Its runs count here too, and its memory is kept.
        """
        check_choice("masking", masking, MASKINGS)
        other = copy(self)
        other.masking, other.asker = masking, self.asker.under(masking)
        return other

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` returned when this masking's case was first asked for this key."""
        place = (self.masking, key)
        if place not in self._remembered:
            self._remembered[place] = make()
        found: T = self._remembered[place]
        return found

    # -- scores -------------------------------------------------------------------------------

    def scores(self, values: npt.ArrayLike) -> FloatArray:
        """Return checked scores of units, float64 (U,).

        Raises
        ------
        ValueError
            If there is not one finite number per unit.
        """
        found = np.asarray(values, dtype=np.float64)
        if found.shape != (self.n_units,):
            raise ValueError(
                f"scores must be one number for each of the {self.n_units} units, got shape "
                f"{found.shape}; Attribution.unit_scores(case.units) gives them"
            )
        bad = int((~np.isfinite(found)).sum())
        if bad:
            raise ValueError(f"{bad} of {len(found)} scores are NaN or infinite")
        return found

    def order(self, values: npt.ArrayLike) -> tuple[int, ...]:
        """Return the units, highest score first, ties as the case breaks them."""
        found = self.scores(values)
        second = np.arange(self.n_units)
        if self.ties == "random":
            second = np.random.default_rng([self.seed, self.n_units]).permutation(self.n_units)
        return tuple(int(u) for u in np.lexsort((second, -found)))

    def _visible(self, subsets: Sequence[Iterable[int]] | BoolArray) -> BoolArray:
        """Return subsets as a mask (K, U)."""
        if isinstance(subsets, np.ndarray) and subsets.dtype == np.bool_:
            if subsets.ndim != 2 or subsets.shape[1] != self.n_units:
                raise ValueError(
                    f"subsets must have shape (K, {self.n_units}), got {subsets.shape}"
                )
            return subsets
        chosen = np.zeros((len(subsets), self.n_units), dtype=np.bool_)
        for row, subset in enumerate(subsets):
            members = [int(u) for u in subset]
            wrong = [u for u in members if not 0 <= u < self.n_units]
            if wrong:
                raise ValueError(f"units {wrong} do not exist, allowed: 0..{self.n_units - 1}")
            chosen[row, members] = True
        return chosen
