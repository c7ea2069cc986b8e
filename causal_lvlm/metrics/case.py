"""One target under test: its units, the way they are masked, and a memory of what was asked.

Every metric asks the same kind of question: how likely is the target when only these units, or all
but these, are visible? Curves of different methods share many of them (the empty and the full one
at least), so a `Case` remembers each answer: a question that was asked before costs no model run.

1. A subset of units becomes a mask over positions; positions that belong to no unit (the frame, the
   predicting row) always stay.
2. Masks that are not in memory are evaluated in one call: `Trace.evaluate` for the interventions it
   knows, `Trace.evaluate_embeddings` where masked embeddings are replaced by a baseline.
3. `runs` counts rows that the model computed, `asked` rows that a metric wanted.

Equal scores have no order of their own. Breaking ties by position would give every flat map the
same, arbitrary order (the image row by row, then the text), and a sparse map a tail that is no
chance but a choice; they are therefore broken by a seeded permutation (``ties="random"``), which
is the same for all methods of a case. ``ties="index"`` is the order of `Attribution.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from causal_lvlm.arrays import BoolArray, Float32Array, FloatArray
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.errors import TargetError
from causal_lvlm.tokens import Target, TargetLike, Units, resolve_target
from causal_lvlm.units import make_units, units_name

__all__ = ["EMBEDDING_MASKINGS", "MASKINGS", "Answers", "Case"]

EMBEDDING_MASKINGS = ("zero", "pad", "blur")
"""Masked embeddings are replaced: by zeros, by padding, or by features of the blurred image."""

MASKINGS = ("remove", "edges", "neutral", "pixels-blur", "pixels-mean", *EMBEDDING_MASKINGS)

TIES = ("random", "index")

T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """What the model says about the target under K masks.

    Attributes
    ----------
    log_prob : ndarray of float64, shape (K,)
        Of the whole target: the sum over its tokens.
    margin : ndarray of float64, shape (K,)
        Logit of a target token minus its strongest rival's; the smallest over the tokens.
    changed : ndarray of bool, shape (K,)
        Whether the first choice differs from the target at one of its tokens.
    """

    log_prob: FloatArray
    margin: FloatArray
    changed: BoolArray

    @property
    def prob(self) -> FloatArray:
        """Probability of the whole target, float64 (K,)."""
        return np.asarray(np.exp(self.log_prob), dtype=np.float64)

    def read(self, score: str) -> FloatArray:
        """Return ``prob``, ``log_prob`` or ``margin``."""
        check_choice("score", score, ("prob", "log_prob", "margin"))
        value: FloatArray = getattr(self, score)
        return value


class Case:
    """One target with its units and a memory of masked rows.

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

    Raises
    ------
    TargetError
        If the answer holds no such target, or nothing before it can be masked.
    ValueError
        If `masking`, `ties` or `units` is unknown.
    """

    def __init__(
        self,
        trace: Any,
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
        self.target: Target = resolve_target(trace.layout, target)
        self.units: Units = make_units(trace, self.target, units)
        if not len(self.units):
            raise TargetError(
                f"nothing before the target {self.target.text!r} can be masked with units="
                f"{units!r}; choose other units or a later target"
            )
        self.units_name = units_name(units)
        self.masking = masking
        self.seed = seed
        self.ties = ties
        self._unit_at = np.full(len(trace.layout), -1, dtype=np.int64)
        for position, unit in self.units.unit_of().items():
            self._unit_at[position] = unit
        self._options: dict[str, Any] = {
            "backend": backend, "batch_size": batch_size, "max_memory": max_memory,
        }  # fmt: skip
        self._memory: dict[bytes, tuple[float, float, bool]] = {}
        self._siblings: dict[str, Case] = {masking: self}
        self._baseline: tuple[Float32Array, Float32Array] | None = None
        self._remembered: dict[str, Any] = {}
        self._runs = 0
        self._asked = 0

    def __repr__(self) -> str:
        """Say what is tested."""
        return (
            f"Case({self.target.text!r}, {len(self.units)} units, masking={self.masking!r}, "
            f"runs={self.runs})"
        )

    # -- questions ----------------------------------------------------------------------------

    @property
    def batch_size(self) -> int | None:
        """Most rows in one call of the model; None leaves it to the trace."""
        size: int | None = self._options["batch_size"]
        return size

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
        return sum(case._runs for case in self._siblings.values())

    @property
    def asked(self) -> int:
        """Rows that were asked for, those in memory included."""
        return sum(case._asked for case in self._siblings.values())

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
        return self._ask(self._visible(subsets))

    def without(self, subsets: Sequence[Iterable[int]] | BoolArray) -> Answers:
        """Ask with these units masked and all others visible; see `keep`."""
        return self._ask(~self._visible(subsets))

    def under(self, masking: str) -> Case:
        """Return the case of the same target and units with another masking.

        Its runs count here too, and its memory is kept.
        """
        if masking not in self._siblings:
            other = Case(
                self.trace, self.target, units=self.units, masking=masking, seed=self.seed,
                ties=self.ties, **self._options,
            )  # fmt: skip
            other.units_name = self.units_name
            other._siblings = self._siblings
            self._siblings[masking] = other
        return self._siblings[masking]

    def count(self, rows: int) -> None:
        """Count rows that a metric evaluated by itself."""
        self._runs += rows
        self._asked += rows

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` returned the first time it was asked for under this key."""
        if key not in self._remembered:
            self._remembered[key] = make()
        found: T = self._remembered[key]
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

    # -- the model ----------------------------------------------------------------------------

    def _visible(self, subsets: Sequence[Iterable[int]] | BoolArray) -> BoolArray:
        """Return subsets as a mask (K, U)."""
        if isinstance(subsets, np.ndarray) and subsets.dtype == np.bool_:
            if subsets.ndim != 2 or subsets.shape[1] != self.n_units:
                raise ValueError(
                    f"subsets must have shape (K, {self.n_units}), got {subsets.shape}"
                )
            return subsets.copy()
        chosen = np.zeros((len(subsets), self.n_units), dtype=np.bool_)
        for row, subset in enumerate(subsets):
            members = [int(u) for u in subset]
            wrong = [u for u in members if not 0 <= u < self.n_units]
            if wrong:
                raise ValueError(f"units {wrong} do not exist, allowed: 0..{self.n_units - 1}")
            chosen[row, members] = True
        return chosen

    def _ask(self, visible: BoolArray) -> Answers:
        self._asked += len(visible)
        keys = [row.tobytes() for row in np.packbits(visible, axis=1)]
        new = {key: row for row, key in enumerate(keys) if key not in self._memory}
        if new:
            rows = visible[list(new.values())]
            found = self._evaluate(rows)
            self._runs += len(rows)
            changed = (np.asarray(found.argmax) != np.array(self.target.token_ids)).any(axis=1)
            log_prob = np.asarray(found.token_log_probs, dtype=np.float64).sum(axis=1)
            margin = np.asarray(found.margin, dtype=np.float64).min(axis=1)
            for i, key in enumerate(new):
                self._memory[key] = (float(log_prob[i]), float(margin[i]), bool(changed[i]))
        answers = [self._memory[key] for key in keys]
        return Answers(
            log_prob=np.array([a[0] for a in answers], dtype=np.float64),
            margin=np.array([a[1] for a in answers], dtype=np.float64),
            changed=np.array([a[2] for a in answers], dtype=np.bool_),
        )

    def _evaluate(self, visible: BoolArray) -> Any:
        """Run the model; `visible` has shape (K, U)."""
        # Curves over thousands of units have thousands of rows: no loop over them here.
        keep = np.ones((len(visible), len(self.trace.layout)), dtype=np.bool_)
        covered = np.flatnonzero(self._unit_at >= 0)
        keep[:, covered] = visible[:, self._unit_at[covered]]
        if self.masking not in EMBEDDING_MASKINGS:
            return self.trace.evaluate(keep, self.target, masking=self.masking, **self._options)
        plain, baseline = self.embeddings()

        def row(index: int) -> Float32Array:
            return np.where(keep[index][:, None], plain, baseline)

        return self.trace.evaluate_embeddings(
            row, self.target, n_rows=len(keep), batch_size=self.batch_size
        )

    def embeddings(self) -> tuple[Float32Array, Float32Array]:
        """Return the sequence's embeddings and what masked ones become, float32 (T, D) each.

        Raises
        ------
        ValueError
            If the case's masking replaces no embeddings.
        """
        check_choice("masking (to replace embeddings)", self.masking, EMBEDDING_MASKINGS)
        if self._baseline is None:
            self._baseline = (
                np.asarray(self.trace.embeddings(), dtype=np.float32),
                np.asarray(self.trace.baseline_embeddings(self.masking), dtype=np.float32),
            )
        return self._baseline
