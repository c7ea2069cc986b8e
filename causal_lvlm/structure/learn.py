"""Structure learning from a correlation matrix: ICD and ordered ICD, order by order.

1. Size 0: edges whose |correlation| is at or below the threshold go.
2. Size 1: for each edge, its neighbours one by one as the conditioning node.
3. Orient (R0-R4). Size r >= 2: for each edge, the sets of r nodes that meet the ICD-Sep conditions
   (a PDS-path inside the set from the root to each member, members are possible ancestors of an
   end). Again until a size has no set to test for any edge.
4. Orient for the last time (R0-R4, then R8-R10).

``icd`` starts from o-o edges and looks around both ends of an edge. ``ordered_icd`` knows an order:
edges start o-> towards the later tier, sets come from tiers up to the later end's and are rooted
there; within a tier it is ICD. One single tier is ICD, singleton tiers are ordered ICD as
published.

``variant="stable"`` (default) gives a result that does not depend on how nodes are numbered: a size
is worked on with the graph and marks as they were at its start, of the separating sets the one with
the largest p-value is kept, edges go at the end of the size, each orientation rule acts on all its
matches at once. ``"sequential"`` deletes and orients as it goes.

References: Rohekar, Nisimov, Gurwicz, Novik, NeurIPS 2021 (arXiv 2111.04095); ordered ICD: arXiv
2412.07446 and CLEANN, arXiv 2310.20307; orientation: Zhang, Artificial Intelligence 172 (2008).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from causal_lvlm.errors import BudgetError, StructureError
from causal_lvlm.structure.checks import (
    check_correlation,
    check_order,
    largest_testable_size,
    squared_thresholds,
)
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.result import LearnedStructure

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["learn_structure"]

DEFAULT_ALPHA = 1e-5


class CorrelationLike(Protocol):
    """What `learn_structure` reads from an object such as `TokenCorrelation`."""

    @property
    def correlation(self) -> npt.ArrayLike: ...


def learn_structure(
    correlation: npt.ArrayLike | CorrelationLike,
    *,
    n_samples: int | None = None,
    alpha: float | None = None,
    threshold: float | None = None,
    algorithm: str = "ordered_icd",
    order: npt.ArrayLike | None = None,
    tiers: npt.ArrayLike | None = None,
    variant: str = "stable",
    max_conditioning_size: int | None = None,
    selection_bias: bool = False,
    time_limit: float | None = None,
    max_tests: int | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> LearnedStructure:
    """Learn a partial ancestral graph from a correlation matrix.

    Parameters
    ----------
    correlation : array_like of shape (N, N), or an object with an attribute ``correlation``
        From such an object ``tiers`` (for ``ordered_icd``), and ``threshold`` or ``n_samples`` are
        taken too, unless given here.
    n_samples : int, optional
        Sample size of Fisher's z-test. Needed unless `threshold` is given.
    alpha : float, default 1e-5
        Significance level. A larger p-value means independent.
    threshold : float, optional
        Instead of alpha and n_samples: the smallest |partial correlation| that counts as
        dependence, the same for all sizes.
    algorithm : {"ordered_icd", "icd"}
    order : array_like of int, shape (N,), optional
        The nodes from the earliest to the latest, for ``ordered_icd``; by default row order. A
        later node is no ancestor of an earlier one.
    tiers : array_like of int, shape (N,), optional
        Tier of each node, not decreasing along the order; nodes of one tier are not ordered among
        each other. By default each node is its own tier.
    variant : {"stable", "sequential"}
    max_conditioning_size : int, optional
        Largest conditioning set; by default as large as the graph and n_samples allow.
    selection_bias : bool, default False
        Not available yet (and never with an order).
    time_limit : float, optional
        Seconds after which the graph learned so far is returned, with ``complete=False``. The
        stable variant then leaves out the size it was working on, so that the result does not
        depend on the order in which edges were looked at.
    max_tests : int, optional
        Number of CI tests after which learning ends in the same way. Both limits are looked at
        between groups of edges, so they may be exceeded somewhat. An edge that alone has more
        conditioning sets to look at than `max_tests` ends learning too.
    progress : callable, optional
        Called as ``progress(size, edges_done, edges)`` between groups of edges.

    Returns
    -------
    LearnedStructure

    Raises
    ------
    CorrelationError
        If the matrix is no correlation matrix, see `causal_lvlm.structure.checks`.
    SampleSizeError
        If n_samples is too small for the conditioning size.
    StructureError
        If another argument is not valid.
    BudgetError
        If `time_limit` or `max_tests` is not positive.

    Examples
    --------
    Two independent causes of a common effect; row order is causal order:

    >>> r = [[1.0, 0.0, 0.6], [0.0, 1.0, 0.6], [0.6, 0.6, 1.0]]
    >>> structure = learn_structure(r, n_samples=200, alpha=0.01)
    >>> structure.pag.marks.tolist(), structure.sepset(0, 1)
    ([[0, 0, 2], [0, 0, 2], [1, 1, 0]], ())
    """
    matrix, n_samples, threshold, tiers = _unpack(
        correlation, n_samples, alpha, threshold, tiers, algorithm
    )
    if algorithm not in ("ordered_icd", "icd"):
        raise StructureError(f"algorithm {algorithm!r} is unknown; there are 'ordered_icd', 'icd'")
    if variant not in ("stable", "sequential"):
        raise StructureError(f"variant {variant!r} is unknown; there are 'stable', 'sequential'")
    if selection_bias:
        raise StructureError(
            "selection_bias=True is not available: with selection variables an order no longer "
            "forbids tails, and without one rules R5-R7 are needed"
        )
    if algorithm == "icd" and (order is not None or tiers is not None):
        raise StructureError("'icd' takes no order and no tiers; use algorithm='ordered_icd'")
    if threshold is not None and alpha is not None:
        raise StructureError("give either threshold or alpha (with n_samples), not both")
    if threshold is None and n_samples is None:
        raise StructureError("give n_samples (with alpha), or threshold")
    for name, limit in (("time_limit", time_limit), ("max_tests", max_tests)):
        if limit is not None and not limit > 0:
            raise BudgetError(f"{name} must be positive, not {limit}")
    if threshold is None and alpha is None:
        alpha = DEFAULT_ALPHA
    values, tolerance = check_correlation(matrix)
    n = len(values)
    if algorithm == "icd":
        permutation, ranks = np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    else:
        permutation, ranks = check_order(n, order, tiers)
    tested_samples = None if threshold is not None else n_samples
    limit_size = largest_testable_size(n, tested_samples, max_conditioning_size)
    squared = squared_thresholds(limit_size, tested_samples, alpha, threshold)
    learner = Learner(
        correlation=np.ascontiguousarray(values[np.ix_(permutation, permutation)]),
        tiers=ranks,
        squared=squared,
        tolerance=tolerance,
        stable=variant == "stable",
        deadline=None if time_limit is None else time.monotonic() + time_limit,
        max_tests=max_tests,
        progress=progress,
    )
    stopped = learner.learn()
    if stopped == "size_limit":
        asked = max_conditioning_size is not None and max_conditioning_size <= limit_size
        stopped = "max_conditioning_size" if asked else "n_samples"
    parameters = {
        "algorithm": algorithm,
        "variant": variant,
        "alpha": alpha,
        "n_samples": n_samples,
        "threshold": threshold,
        "max_conditioning_size": max_conditioning_size,
        "selection_bias": selection_bias,
        "time_limit": time_limit,
        "max_tests": max_tests,
        "tolerance": tolerance,
        "order": None if order is None else permutation.tolist(),
        "tiers": None if tiers is None else np.asarray(tiers).tolist(),
    }
    return learner.result(values, permutation, stopped, parameters)


def _unpack(
    source: Any,
    n_samples: int | None,
    alpha: float | None,
    threshold: float | None,
    tiers: npt.ArrayLike | None,
    algorithm: str,
) -> tuple[Any, int | None, float | None, Any]:
    """Read matrix and defaults from an object with an attribute ``correlation``."""
    if not hasattr(source, "correlation"):
        return source, n_samples, threshold, tiers
    if tiers is None and algorithm == "ordered_icd":
        tiers = getattr(source, "tiers", None)
    if threshold is None and alpha is None and n_samples is None:
        threshold = getattr(source, "threshold", None)
    if n_samples is None:
        n_samples = getattr(source, "n_samples", None)
    return source.correlation, n_samples, threshold, tiers
