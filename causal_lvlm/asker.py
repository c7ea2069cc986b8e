"""One model asked about one target, again and again, with parts of its input masked.

Searches, metrics and perturbation methods ask the same question: what does the model say of the
target when these units are masked? `Asker` is the only place where they run it.

1. A question has a key, which says of what kind it is. A few sets at a time, each chosen by what
   the one before gave, are frozensets of masked units (`Asker.sets`); thousands of rows at once are
   booleans over the units, and their keys are packed bytes (`Asker.rows`); edges that are cut are
   their own keys (`Asker.cuts`). Each user asks in one form.
2. What was asked before comes from memory and costs nothing.
3. The rest goes to ``trace.evaluate`` in the order asked, `at_once` rows in a call, as far as the
   budget allows. (Where masked embeddings are replaced by a baseline it goes to
   ``trace.evaluate_embeddings``; where edges are cut, to ``trace.evaluate_edges``.)
4. What came back is counted, checked, and remembered as it came: log-probabilities, margins, first
   choices. What that means is for the user to judge.

Other interventions on the same target are asked with `Asker.under`: each has its own memory, all
have one budget and count together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import BoolArray, Float32Array
from causal_lvlm.budget import Budget
from causal_lvlm.checks import check_choice
from causal_lvlm.edges import Cut
from causal_lvlm.protocols import TraceLike
from causal_lvlm.results import EmbeddingEvaluation, Evaluation
from causal_lvlm.tokens import Target, Units

__all__ = [
    "EDGE_MASKINGS",
    "EMBEDDING_MASKINGS",
    "Asker",
    "Subset",
]

EMBEDDING_MASKINGS = ("zero", "pad", "blur")
"""Masked embeddings are replaced: by zeros, by padding, or by features of the blurred image."""

EDGE_MASKINGS = ("cut-mask", "cut-value")
"""Edges are cut: the row does not see the column, or reads nothing there."""

Subset: TypeAlias = frozenset[int]
Key: TypeAlias = Subset | bytes | Cut


@dataclass(eq=False)
class Asker:
    """Asks a model about one target under masks, and remembers what it said.

    Attributes
    ----------
    trace : TraceLike
        Only ``layout`` and ``evaluate`` are used, and for `EMBEDDING_MASKINGS` the embeddings.
    target : Target
    units : Units
        All that may be masked.
    masking : str
        One of `causal_lvlm.protocols.MASKINGS`, `EMBEDDING_MASKINGS` or `EDGE_MASKINGS`.
    backend, against, batch_size, max_memory
        As ``trace.evaluate`` takes them.
    at_once : int, optional
        Most rows in one call of ``trace.evaluate``; all that are asked together by default. A
        batch that holds what a search looks for is finished, so it wants few.
    rivals : tuple of int, optional
        A token for each of the target's; where edges are cut, `Answers.lead` is over them.
    budget : Budget
    siblings : dict of str to Asker
        Those of the same target with other maskings, and this one; see `under`.
    memory : dict of key to int
        Where in `answers` the answer to each question stands. The keys are of the kind in which
        the user of this object asks.
    answers : Answers
        All answers so far.
    backends : set of str
        How the answers were computed, and which ways a spot check ruled out.
    """

    trace: TraceLike
    target: Target
    units: Units
    masking: str = "remove"
    backend: str = "auto"
    against: int | str | None = None
    batch_size: int | None = None
    max_memory: int | str | None = None
    at_once: int | None = None
    rivals: tuple[int, ...] | None = None
    budget: Budget = field(default_factory=Budget)
    siblings: dict[str, Asker] = field(default_factory=dict, repr=False)
    memory: dict[Any, int] = field(init=False, repr=False, default_factory=dict)
    answers: Answers = field(init=False, repr=False)
    backends: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        """Note which unit covers which position; begin with no answers."""
        self.siblings[self.masking] = self
        self._runs = self._asked = 0
        self._baseline: tuple[Float32Array, Float32Array] | None = None
        places = sorted(self.units.unit_of().items())
        self._positions = np.array([p for p, _ in places], dtype=np.int64)
        self._unit_at = np.array([u for _, u in places], dtype=np.int64)
        ids, none = self.target.token_ids, np.empty(0)
        tokens = np.empty((0, len(ids)), dtype=np.int64)
        floats = tokens.astype(np.float64)
        self.answers = Answers(ids, floats, tokens, tokens, none, none, none)

    @property
    def runs(self) -> int:
        """Rows that the model computed, with every masking."""
        return sum(one._runs for one in self.siblings.values())

    @property
    def asked(self) -> int:
        """Rows that were asked for, those in memory included, with every masking."""
        return sum(one._asked for one in self.siblings.values())

    def under(self, masking: str) -> Asker:
        """Return the asker of the same target with another masking; it counts here too."""
        return self.siblings.get(masking) or replace(self, masking=masking)

    def count(self, rows: int) -> None:
        """Count rows that somebody evaluated without this object."""
        self._asked += rows
        self._computed(rows)

    def sets(self, masks: Sequence[Iterable[int]]) -> Answers:
        """Ask with each of some sets of units masked, all others visible.

        Raises
        ------
        BudgetEnded
            When the budget ends; answers given before are kept in memory.
        """
        keys = [frozenset(mask) for mask in masks]

        def visible(rows: list[int]) -> BoolArray:
            made = np.ones((len(rows), len(self.units)), dtype=np.bool_)
            for row, visible_units in zip(rows, made, strict=True):
                visible_units[list(keys[row])] = False
            return made

        return self._ask(keys, lambda rows: self._evaluate(self.keep(visible(rows))))

    def cuts(self, cuts: Sequence[Cut]) -> Answers:
        """Ask with edges cut; the masking, one of `EDGE_MASKINGS`, says how.

        Raises
        ------
        BudgetEnded
            When the budget ends; answers given before are kept in memory.
        """
        return self._ask(cuts, lambda rows: self._evaluate_cuts([cuts[row] for row in rows]))

    def rows(self, visible: BoolArray) -> Answers:
        """Ask with only the units of each row visible.

        Parameters
        ----------
        visible : ndarray of bool, shape (K, U)

        Raises
        ------
        BudgetEnded
            When the budget ends; answers given before are kept in memory.
        """
        keys = [row.tobytes() for row in np.packbits(visible, axis=1)]
        return self._ask(keys, lambda rows: self._evaluate(self.keep(visible[rows])))

    def unmasked(self) -> Answers:
        """Ask with nothing masked, in the plain way; that answers for the empty set."""
        everything = np.ones((1, len(self.trace.layout)), dtype=np.bool_)
        found = self.trace.evaluate(
            everything, self.target, masking="remove", backend=self.backend, against=self.against
        )
        self._computed(1)
        self._remember([frozenset()], found)
        return self.sets([()])

    def keep(self, visible: BoolArray) -> BoolArray:
        """Return masks (K, T) of rows over units (K, U): False where a unit is not visible."""
        # Curves over thousands of units have thousands of rows: no loop over them here.
        keep = np.ones((len(visible), len(self.trace.layout)), dtype=np.bool_)
        keep[:, self._positions] = visible[:, self._unit_at]
        return keep

    def embeddings(self) -> tuple[Float32Array, Float32Array]:
        """Return the sequence's embeddings and what masked ones become, float32 (T, D) each.

        Raises
        ------
        ValueError
            If the masking replaces no embeddings.
        """
        check_choice("masking (to replace embeddings)", self.masking, EMBEDDING_MASKINGS)
        if self._baseline is None:
            self._baseline = (
                np.asarray(self.trace.embeddings(), dtype=np.float32),
                np.asarray(self.trace.baseline_embeddings(self.masking), dtype=np.float32),
            )
        return self._baseline

    def _ask(
        self,
        keys: Sequence[Key],
        evaluate: Callable[[list[int]], Evaluation | EmbeddingEvaluation],
    ) -> Answers:
        """Answer from memory, and ask the rest; `evaluate` runs the model on some of the rows."""
        self._asked += len(keys)
        places = {key: row for row, key in enumerate(keys)}
        missing = [row for key, row in places.items() if key not in self.memory]
        while missing:
            size = min(self.at_once or len(missing), self.budget.allowance(), len(missing))
            batch, missing = missing[:size], missing[size:]
            found = evaluate(batch)
            self._computed(size)
            self._remember([keys[row] for row in batch], found)
        return self.answers.take([self.memory[key] for key in keys])

    def _evaluate(self, keep: BoolArray) -> Evaluation | EmbeddingEvaluation:
        """Run the model; `keep` has shape (k, T)."""
        if self.masking in EMBEDDING_MASKINGS:
            plain, baseline = self.embeddings()
            return self.trace.evaluate_embeddings(
                lambda row: np.where(keep[row][:, None], plain, baseline),
                self.target,
                n_rows=len(keep),
                against=self.against,
                batch_size=self.batch_size,
            )
        found = self.trace.evaluate(
            keep, self.target, masking=self.masking, backend=self.backend, against=self.against,
            batch_size=self.batch_size, max_memory=self.max_memory,
        )  # fmt: skip
        return self._noted(found)

    def _evaluate_cuts(self, cuts: Sequence[Cut]) -> Evaluation:
        """Run the model with edges cut."""
        check_choice("masking (to cut edges)", self.masking, EDGE_MASKINGS)
        found = self.trace.evaluate_edges(
            cuts, self.target, kind=self.masking.removeprefix("cut-"), against=self.against,
            rivals=self.rivals, batch_size=self.batch_size, max_memory=self.max_memory,
        )  # fmt: skip
        return self._noted(found)

    def _noted(self, found: Evaluation) -> Evaluation:
        """Note how it was computed, and which way a spot check ruled out."""
        check = found.check
        ruled_out = "" if check is None or check.agrees else f" ({check.way} differs)"
        self.backends.add(found.backend + ruled_out)
        return found

    def _computed(self, rows: int) -> None:
        self._runs += rows
        self.budget.used += rows

    def _remember(self, keys: Sequence[Key], found: Evaluation | EmbeddingEvaluation) -> None:
        """Put the rows of what the model answered into the memory."""
        if len(found.margin) != len(keys):
            raise ValueError(f"{len(keys)} rows were asked, {len(found.margin)} answered")
        against, n = found.against_log_prob, len(keys)
        lead = np.full(n, np.nan)
        if isinstance(found, Evaluation) and found.rival_log_probs is not None:
            lead = found.fixed_margin
        new = Answers(
            self.target.token_ids,
            np.asarray(found.token_log_probs, dtype=np.float64),
            np.asarray(found.argmax, dtype=np.int64),
            np.asarray(found.runner_up, dtype=np.int64),
            np.asarray(found.margin, dtype=np.float64).min(axis=1),
            np.full(n, np.nan) if against is None else np.asarray(against),
            lead,
        )
        first = len(self.answers)
        self.memory.update((key, first + row) for row, key in enumerate(keys))
        self.answers = self.answers.joined(new)
