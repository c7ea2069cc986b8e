"""What `learn_structure` is told: checked, and completed with what a source says of itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from causal_lvlm.errors import BudgetError, KnowledgeError, SampleSizeError, StructureError
from causal_lvlm.structure.algorithms import ALGORITHMS
from causal_lvlm.structure.checks import checked_integer
from causal_lvlm.structure.inputs import as_source
from causal_lvlm.structure.knowledge import BackgroundKnowledge
from causal_lvlm.structure.tables import is_table

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CorrelationLike", "LearnOptions", "positive"]

DEFAULT_ALPHA = 1e-5


class CorrelationLike(Protocol):
    """What `learn_structure` reads from an object such as `TokenCorrelation`."""

    @property
    def correlation(self) -> npt.ArrayLike:
        """Correlation matrix (N, N)."""


@dataclass(frozen=True, eq=False)
class LearnOptions:
    """The options of `learn_structure`, which describes them.

    Raises
    ------
    BudgetError
        If `time_limit`, `max_tests` or `n_jobs` is not positive.
    StructureError
        If both kinds of level are given.
    """

    input: str = "auto"
    n_samples: int | None = None
    alpha: float | None = None
    threshold: float | None = None
    algorithm: str | None = None
    order: npt.ArrayLike | None = None
    tiers: npt.ArrayLike | None = None
    variant: str = "stable"
    max_conditioning_size: int | None = None
    selection_bias: bool = False
    knowledge: BackgroundKnowledge | None = None
    evidence: bool = True
    time_limit: float | None = None
    max_tests: int | None = None
    progress: Callable[[int, int, int], None] | None = None
    n_jobs: int | None = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_limit", _positive_seconds(self.time_limit))
        object.__setattr__(self, "max_tests", positive("max_tests", self.max_tests))
        n_jobs = os.cpu_count() or 1 if self.n_jobs is None else self.n_jobs
        object.__setattr__(self, "n_jobs", positive("n_jobs", n_jobs))
        if self.threshold is not None and self.alpha is not None:
            raise StructureError("give either threshold or alpha (with n_samples), not both")

    def source_of(self, given: Any) -> Any:
        """Return what was given as an object with a correlation."""
        if is_table(given) or not hasattr(given, "correlation"):
            return as_source(given, input=self.input, n_samples=self.n_samples)
        if self.input != "auto":
            raise StructureError(
                f"input={self.input!r} describes a plain array, not a {type(given)!r}"
            )
        return given

    def for_source(self, source: Any) -> LearnOptions:
        """Return these options with algorithm, level, number of samples and tiers decided.

        Parameters
        ----------
        source : object with an attribute ``correlation``
            Its ``kind``, ``names``, ``tiers``, ``threshold`` and ``n_samples`` count where nothing
            else was said.

        Raises
        ------
        StructureError, KnowledgeError, SampleSizeError
            If an option is not valid, or does not go with another one or with the source.
        """
        algorithm = self.algorithm
        if algorithm is None:
            algorithm = _default_algorithm(self, source)
        _check_choices(algorithm, self)
        threshold, alpha, n_samples = self.threshold, self.alpha, self.n_samples
        if threshold is None and alpha is None and n_samples is None:
            threshold = getattr(source, "threshold", None)
        if n_samples is None:
            n_samples = getattr(source, "n_samples", None)
        if n_samples is not None:
            n_samples = checked_integer("n_samples", n_samples, SampleSizeError)
        tiers = self.tiers
        if tiers is None and self.order is None and algorithm == "ordered_icd":
            tiers = getattr(source, "tiers", None)
        _check_order_allowed(algorithm, self.order, tiers, self.selection_bias)
        if threshold is None and n_samples is None:
            raise StructureError("give n_samples (with alpha), or threshold")
        if threshold is None and alpha is None:
            alpha = DEFAULT_ALPHA
        return replace(
            self, algorithm=algorithm, threshold=threshold, alpha=alpha, n_samples=n_samples,
            tiers=tiers,
        )  # fmt: skip

    @property
    def ordered(self) -> bool:
        """Whether the nodes are in a causal order (once the algorithm is decided)."""
        given = self.order is not None or self.tiers is not None
        return given or self.algorithm == "ordered_icd"

    @property
    def tested_samples(self) -> int | None:
        """Number of samples of Fisher's z-test; None with a fixed threshold."""
        return None if self.threshold is not None else self.n_samples


def _default_algorithm(options: LearnOptions, source: Any) -> str:
    """Return ``"icd"`` for columns that are in no causal order, else ``"ordered_icd"``."""
    kind = getattr(source, "kind", "correlation")
    named = kind == "correlation" and getattr(source, "names", None) is not None
    tiered = options.tiers is not None or getattr(source, "tiers", None) is not None
    ordered = options.order is not None or tiered
    return "icd" if (kind in ("data", "covariance") or named) and not ordered else "ordered_icd"


def _check_choices(algorithm: str, options: LearnOptions) -> None:
    variant, selection_bias = options.variant, options.selection_bias
    knowledge, progress = options.knowledge, options.progress
    if algorithm not in ALGORITHMS:
        known = ", ".join(repr(name) for name in ALGORITHMS)
        raise StructureError(f"algorithm {algorithm!r} is unknown; there are {known}")
    if variant not in ("stable", "sequential"):
        raise StructureError(f"variant {variant!r} is unknown; there are 'stable', 'sequential'")
    if not isinstance(selection_bias, (bool, np.bool_)):
        raise StructureError(f"selection_bias must be True or False, not {selection_bias!r}")
    if knowledge is not None and not isinstance(knowledge, BackgroundKnowledge):
        raise KnowledgeError(
            f"knowledge must be a BackgroundKnowledge(required=..., forbidden=..., "
            f"forbidden_orientations=...), not {knowledge!r}"
        )
    if progress is not None and not callable(progress):
        raise StructureError(
            f"progress must be callable as progress(size, done, edges), not {progress!r}"
        )


@overload
def positive(name: str, limit: int) -> int: ...
@overload
def positive(name: str, limit: None) -> None: ...
def positive(name: str, limit: int | None) -> int | None:
    """Return a limit as a whole number; BudgetError unless it is one of at least 1, or None."""
    if limit is None:
        return None
    number = checked_integer(name, limit, BudgetError)
    if number < 1:
        raise BudgetError(f"{name} must be positive, not {limit}")
    return number


def _positive_seconds(limit: float | None) -> float | None:
    """Return a limit of time; infinity is none."""
    if limit is None:
        return None
    if not isinstance(limit, (int, float, np.integer, np.floating)) or isinstance(limit, bool):
        raise BudgetError(f"time_limit must be a number of seconds, not {limit!r}")
    if not limit > 0:
        raise BudgetError(f"time_limit must be positive, not {limit}")
    return None if math.isinf(limit) else float(limit)


def _check_order_allowed(algorithm: str, order: Any, tiers: Any, selection_bias: bool) -> None:
    if algorithm == "icd" and (order is not None or tiers is not None):
        raise StructureError("'icd' takes no order and no tiers; use algorithm='ordered_icd'")
    if not selection_bias:
        return
    if algorithm == "pc":
        raise StructureError("'pc' assumes no selection bias; use 'fci' or 'icd'")
    if algorithm == "ordered_icd" or order is not None or tiers is not None:
        raise StructureError(
            "selection_bias=True does not go with an order: with selection variables an order no "
            "longer forbids tails, and separating sets may need later nodes; use 'icd' or 'fci' "
            "without an order"
        )
