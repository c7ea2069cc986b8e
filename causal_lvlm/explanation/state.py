"""What a search is given, what it knows about each scope so far, and what it reports of it.

Both searches work on `Case`s, one for each scope (joint, image, text), and leave in them what they
found. Budgets and Ctrl-C never lose anything: the smallest set that any model run confirmed is the
result (`SearchState.recover`), and `explaining_set` says what ended the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from causal_lvlm.asker import Subset
from causal_lvlm.budget import Budget
from causal_lvlm.explanation.candidates import UnitTree
from causal_lvlm.explanation.question import Question
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.target_pass import TargetPass

__all__ = ["Case", "Search", "SearchState", "explaining_set", "scopes_of"]

# Share of the remaining runs that a scope may use; what it leaves goes to the next one. The joint
# scope comes last: it starts from the sets that image and text alone have, and mixes them.
SCOPE_SHARES = {"text": 0.25, "image": 0.6, "joint": 1.0}


@dataclass
class SearchState:
    """What is known about one scope so far."""

    best: Subset | None = None
    irreducible: bool = False
    minimality: str = "none"
    ended: str | None = None
    grown: int | None = None
    random: tuple[float | None, int] = (None, 0)  # share that pass, number
    controls_of: Subset | None = None  # the set that these random sets are like

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

    def recover(self, met: Sequence[Subset], empty_fails: bool) -> None:
        """After a budget ended: the smallest set that any run confirmed is the result.

        Parameters
        ----------
        met : sequence of frozenset of int
            Explaining sets of the scope, see `Question.met`.
        empty_fails : bool
            Whether the empty set is known to be no explanation.
        """
        smallest = min(met, key=lambda s: (len(s), sorted(s)), default=None)
        if smallest is not None and (self.best is None or len(smallest) < len(self.best)):
            # One member is a minimum if the empty set is known to fail.
            single = len(smallest) == 1 and empty_fails
            self.best, self.irreducible = smallest, single
            self.minimality = "minimum" if single else "none"


@dataclass
class Case:
    """One scope and what is known about it.

    Attributes
    ----------
    name : {"joint", "image", "text", "custom"}
    question : Question
    share : float
        Part of the runs that are left which the scope may use.
    trees : list of UnitTree
    state : SearchState
    spent : int
        Runs so far.
    idle : bool
        Whether its whole changes nothing (necessary mode), or nothing is needed (sufficient mode).
    hopeless : bool
        Whether every subset was asked and failed.
    sought : bool
        Whether a set of it was looked for, so that no interruption stands in its way.
    orders : list of list of int
        Units of the scope, best first, where the search follows several orders.
    """

    name: str
    question: Question
    share: float
    trees: list[UnitTree]
    state: SearchState = field(default_factory=SearchState)
    spent: int = 0
    idle: bool = False
    hopeless: bool = False
    sought: bool = False
    orders: list[list[int]] = field(default_factory=list)


@dataclass
class Search:
    """What a search is given.

    Attributes
    ----------
    cases : sequence of Case
        The scopes, in the order of search.
    passed : TargetPass
        What candidates are ordered by, from one pass for all scopes.
    budget : Budget
    mode : {"necessary", "sufficient"}
    max_radius : int
    max_size : int or None
    n_random : int
    seed : int
    tell : callable
        Called with a name of each stage that begins.
    interrupted : bool
        Whether Ctrl-C ended it.
    """

    cases: Sequence[Case]
    passed: TargetPass
    budget: Budget
    mode: str
    max_radius: int
    max_size: int | None
    n_random: int
    seed: int
    tell: Callable[[str], None]
    interrupted: bool = False


def scopes_of(
    modality: Sequence[str], candidates: str | list[int]
) -> tuple[list[tuple[str, tuple[int, ...], float]], str | None]:
    """Return name, units and share of the runs of every scope, and which is the joint one's twin.

    Without an image (or without text) two scopes are one question: it is asked once.
    """
    everything = tuple(range(len(modality)))
    if candidates != "all":
        name = candidates if isinstance(candidates, str) else "custom"
        return [(name, everything, 1.0)], None
    image = tuple(u for u in everything if modality[u] == "image")
    text = tuple(u for u in everything if modality[u] != "image")
    parts = {"text": text, "image": image, "joint": everything}
    twin = next((name for name in ("text", "image") if parts[name] == everything), None)
    if twin is not None:
        del parts["joint"]
    return [(name, parts[name], SCOPE_SHARES[name]) for name in parts], twin


def _outcome(case: Case, max_size: int | None) -> str:
    """Return the outcome of a search, see `ExplainingSet`.

    That nothing in a scope can change the prediction may be said where all of its subsets were
    asked, or, in sufficient mode, where none of it is needed.
    """
    best = case.state.best
    if not case.question.scope:
        return "no_candidates"
    if best is not None:
        return "max_size" if len(best) > (max_size or len(best)) else "explained"
    if case.idle:
        sure = case.hopeless or case.question.mode == "sufficient"
        return "not_maskable" if sure else "not_found"
    return case.state.ended or "max_runs"


def explaining_set(case: Case, max_size: int | None) -> ExplainingSet:
    """Return what was found in one scope, and how sure it is."""
    question, state, best = case.question, case.state, case.state.best
    asker, outcome = question.asker, _outcome(case, max_size)
    if outcome == "no_candidates":
        return ExplainingSet(scope=case.name, outcome=outcome)
    before = float(np.exp(question.tester.full_log_prob))
    if best is None or outcome != "explained":
        return ExplainingSet(
            scope=case.name, outcome=outcome, model_runs=case.spent, ended=state.ended,
            probability_before=before, n_tried=question.n_asked(),
        )  # fmt: skip
    after = asker.sets([question.mask_of(best)])
    radii = [(t.radius_of(best), t.head) for t in case.trees]
    inside = [(radius, head) for radius, head in radii if radius is not None]
    # Of heads that hold the set at one radius, the first.
    radius, head = min(inside, key=lambda pair: pair[0], default=(None, None))
    same = [s for s in question.met() if len(s) == len(best) and s != best]
    return ExplainingSet(
        scope=case.name,
        outcome=outcome,
        positions=asker.units.positions(best),
        units=tuple(asker.units.members[u] for u in sorted(best)),
        verified=True,
        minimality=state.minimality,
        found_by="graph" if inside else "fallback",
        head=head,
        radius=radius,
        probability_before=before,
        probability_after=float(np.exp(after.log_prob[0])),
        margin_before=float(asker.sets([()]).margin[0]),
        margin_after=float(after.margin[0]),
        predicted_after=tuple(asker.trace.token_text(int(t)) for t in after.argmax[0]),
        random_flip_rate=state.random[0],
        n_random=state.random[1],
        alternatives=tuple(sorted(asker.units.positions(s) for s in same)),
        model_runs=case.spent,
        grown_size=state.grown,
        ended=state.ended,
        n_tried=question.n_asked(),
    )
