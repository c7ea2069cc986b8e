"""Structure learning: ordered ICD, ICD, FCI and PC, from one signature.

1. The input becomes a correlation matrix (`causal_lvlm.structure.inputs`), checked, with a
   tolerance below which a remaining variance counts as zero (`causal_lvlm.structure.checks`).
2. Size 0: edges whose |correlation| is at or below the threshold go.
3. Sizes 1, 2, 3, ...: for each edge, the conditioning sets that the algorithm allows
   (`causal_lvlm.structure.algorithms`), until no edge has a set left.
4. Orientation: R0-R4, with selection bias R5-R7, then R8-R10 (PAG); v-structures and Meek's rules
   (CPDAG of PC).

An order of the nodes, in tiers, says that a later node is no cause of an earlier one: edges across
tiers start o->, and their conditioning sets come from tiers up to the later end's.
``ordered_icd`` has one by default (the order of the rows), ``fci`` and ``pc`` if it is given. One
single tier is ICD, singleton tiers are ordered ICD as published.

``variant="stable"`` (default) gives a result that does not depend on how nodes are numbered: a size
is worked on with the graph and marks as they were at its start, of the separating sets the one with
the largest p-value is kept, edges go at the end of the size, each orientation rule acts on all its
matches at once. ``"sequential"`` deletes and orients as it goes.

|Partial correlations| that differ by at most 1e-12 are equal: what is below that depends on the
processor and the order in which it adds up. Of separating sets of one size whose values are within
1e-12 of the smallest, as with repeated columns or the exact zeros of a model, only numbers can
decide: the lexicographically first wins, nodes counted along the order (that of the rows if none is
given). So there a renumbering may take another set, and with it marks. A value within 1e-12 of the
threshold is at it, which is independent; one within 1e-12 of 1 is 1, with a p-value of 0.

References: Rohekar, Nisimov, Gurwicz, Novik, NeurIPS 2021 (arXiv 2111.04095); ordered ICD: arXiv
2412.07446 and CLEANN, arXiv 2310.20307; FCI and orientation: Zhang, Artificial Intelligence 172
(2008); PC: Spirtes, Glymour, Scheines, Causation, Prediction, and Search; order-independence:
Colombo, Maathuis, JMLR 15 (2014); Meek, UAI 1995.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from causal_lvlm.errors import BudgetError, KnowledgeError, SampleSizeError, StructureError
from causal_lvlm.structure.algorithms import ALGORITHMS, despite_ctrl_c, run
from causal_lvlm.structure.checks import (
    check_correlation,
    check_order,
    checked_integer,
    critical_values,
    largest_testable_size,
)
from causal_lvlm.structure.chunks import Limits
from causal_lvlm.structure.collect import collect
from causal_lvlm.structure.compiling import compile_kernels
from causal_lvlm.structure.inputs import as_source
from causal_lvlm.structure.knowledge import BackgroundKnowledge, Masks
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.tables import is_table

if TYPE_CHECKING:
    import numpy.typing as npt

    from causal_lvlm.arrays import IntArray

__all__ = ["learn_structure", "learn_structures"]

DEFAULT_ALPHA = 1e-5


class CorrelationLike(Protocol):
    """What `learn_structure` reads from an object such as `TokenCorrelation`."""

    @property
    def correlation(self) -> npt.ArrayLike: ...


def learn_structure(
    source: npt.ArrayLike | CorrelationLike,
    *,
    input: str = "auto",
    n_samples: int | None = None,
    alpha: float | None = None,
    threshold: float | None = None,
    algorithm: str | None = None,
    order: npt.ArrayLike | None = None,
    tiers: npt.ArrayLike | None = None,
    variant: str = "stable",
    max_conditioning_size: int | None = None,
    selection_bias: bool = False,
    knowledge: BackgroundKnowledge | None = None,
    evidence: bool = True,
    time_limit: float | None = None,
    max_tests: int | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    n_jobs: int | None = 1,
) -> LearnedStructure:
    """Learn a causal graph with constraint-based tests of partial correlation.

    Parameters
    ----------
    source : array_like, or an object with an attribute ``correlation``
        A correlation matrix (N, N), or what `input` says. From an object such as
        `TokenCorrelation`, or what the helpers of `causal_lvlm.structure.inputs` return, ``names``,
        ``tiers`` (for ``ordered_icd``), and ``threshold`` or ``n_samples`` are taken too, unless
        given here.
    input : {"auto", "correlation", "covariance", "data", "attention"}
        What a plain array is: ``"data"`` is a table (samples, variables), ``"attention"`` one head
        (T, T) whose rows are queries. ``"auto"`` takes a symmetric matrix with unit diagonal as a
        correlation, a symmetric table whose rows are named like its columns as a covariance, and
        any other table as data; anything else must be named.
    n_samples : int, optional
        Sample size of Fisher's z-test. Needed unless `threshold` is given or the source is data.
    alpha : float, default 1e-5
        Significance level. A larger p-value means independent.
    threshold : float, optional
        Instead of alpha and n_samples: the smallest |partial correlation| that counts as
        dependence, the same for all sizes.
    algorithm : {"ordered_icd", "icd", "fci", "pc"}, optional
        ``pc`` assumes that there are no latent variables and returns a CPDAG, the others a PAG.
        Default is ``ordered_icd``, but ``icd`` for data tables, covariances and correlations with
        names, without `order` and `tiers`: their columns are in no causal order. Where an order was
        used, a note of the result says so.
    order : array_like of int, shape (N,), optional
        The nodes from the earliest to the latest; for ``ordered_icd`` by default row order. A
        later node is no ancestor of an earlier one.
    tiers : array_like of int, shape (N,), optional
        Tier of each node: a node of a later tier is no ancestor of one of an earlier tier, nodes of
        one tier are not ordered among each other. With an `order` they must not decrease along it.
        By default each node is its own tier, if there is an order.
    variant : {"stable", "sequential"}
    max_conditioning_size : int, optional
        Largest conditioning set; by default as large as the graph and n_samples allow.
    selection_bias : bool, default False
        Whether samples may have been selected by an effect of the variables: undirected edges
        become possible (rules R5-R7). Never with an order, which then no longer forbids tails, and
        not for ``pc``, which assumes that there is none.
    knowledge : BackgroundKnowledge, optional
    evidence : bool, default True
        Whether to keep, for each pair, the largest p-value, the smallest |partial correlation| and
        the number of tests (24 bytes a pair).
    time_limit : float, optional
        Seconds, compiling on a first call apart, after which the graph learned so far is returned,
        with ``complete=False``. The stable variant then leaves out the size it was working on, so
        that the result does not depend on the order in which edges were looked at. Ctrl-C does the
        same.
    max_tests : int, optional
        Number of CI tests that ends learning in the same way: a size that would exceed it counts
        for nothing in the stable variant. So does one edge that alone has more conditioning sets to
        look at.
    progress : callable, optional
        Called as ``progress(size, edges_done, edges)`` between groups of edges.
    n_jobs : int, default 1
        Threads that share the edges of a size (stable variant only), None for all processors. The
        result does not depend on it.

    Returns
    -------
    LearnedStructure

    Raises
    ------
    CorrelationError, DataError, AttentionError
        If the input is not what it should be, see `causal_lvlm.structure.inputs` and
        `causal_lvlm.structure.checks`.
    SampleSizeError
        If n_samples is too small for the conditioning size.
    KnowledgeError
        If background knowledge contradicts itself, or names what is no node.
    StructureError
        If another argument is not valid.
    BudgetError
        If `time_limit`, `max_tests` or `n_jobs` is not positive.

    Examples
    --------
    Two independent causes of a common effect; row order is causal order:

    >>> r = [[1.0, 0.0, 0.6], [0.0, 1.0, 0.6], [0.6, 0.6, 1.0]]
    >>> structure = learn_structure(r, n_samples=200, alpha=0.01)
    >>> structure.pag.marks.tolist(), structure.sepset(0, 1)
    ([[0, 0, 2], [0, 0, 2], [1, 1, 0]], ())

    The same without the order:

    >>> [str(learn_structure(r, n_samples=200, alpha=0.01, algorithm=name).kind)
    ...  for name in ("icd", "fci", "pc")]
    ['pag', 'pag', 'cpdag']
    """
    return _learn(
        source, threading.Event(), input=input, n_samples=n_samples, alpha=alpha,
        threshold=threshold, algorithm=algorithm, order=order, tiers=tiers, variant=variant,
        max_conditioning_size=max_conditioning_size, selection_bias=selection_bias,
        knowledge=knowledge, evidence=evidence, time_limit=time_limit, max_tests=max_tests,
        progress=progress, n_jobs=n_jobs,
    )  # fmt: skip


def learn_structures(
    sources: Iterable[npt.ArrayLike | CorrelationLike], *, n_jobs: int | None = 1, **options: Any
) -> tuple[LearnedStructure, ...]:
    """Learn one graph per source, such as per attention head, in parallel threads.

    Parameters
    ----------
    sources : iterable
        For example an array of shape (heads, N, N); each as in `learn_structure`.
    n_jobs : int, default 1
        Threads, None for all processors. The result does not depend on it.
    **options
        See `learn_structure`; the same for all sources.

    Returns
    -------
    tuple of LearnedStructure
        In the order of the sources. After Ctrl-C those not yet learned have ``complete=False``.

    Raises
    ------
    CausalLVLMError
        See `learn_structure`; the error of the first source that has one. StructureError if
        `sources` is a single one.
    """
    n_jobs = _positive("n_jobs", os.cpu_count() or 1 if n_jobs is None else n_jobs)
    if hasattr(sources, "correlation"):
        raise StructureError("learn_structures takes several sources; for one: learn_structure")
    shape = getattr(sources, "shape", None)
    if shape is not None and len(shape) == 2:
        raise StructureError(
            f"an array of sources must have the shape (sources, rows, columns), not {shape}; for "
            "one matrix use learn_structure"
        )
    try:
        items = list(sources)
    except TypeError as error:
        raise StructureError(f"sources must be a list of matrices or the like: {error}") from error
    cancel = threading.Event()

    def learn(item: Any) -> LearnedStructure:
        try:
            return _learn(item, cancel, **options)
        except KeyboardInterrupt:
            # before it had learned anything; the results of the others are not lost
            cancel.set()
            return _learn(item, cancel, **options)

    if min(n_jobs, len(items)) <= 1:
        return tuple(learn(item) for item in items)
    with ThreadPoolExecutor(max_workers=min(n_jobs, len(items))) as pool:
        futures = [pool.submit(learn, item) for item in items]
        results = []
        for future in futures:
            try:
                results.append(future.result())
            except KeyboardInterrupt:
                # the learners look at this flag, so that what they have so far is not lost
                cancel.set()
                results.append(future.result())
            except BaseException:
                cancel.set()
                raise
        return tuple(results)


def _learn(
    source: Any,
    cancel: threading.Event,
    *,
    input: str = "auto",
    n_samples: int | None = None,
    alpha: float | None = None,
    threshold: float | None = None,
    algorithm: str | None = None,
    order: npt.ArrayLike | None = None,
    tiers: npt.ArrayLike | None = None,
    variant: str = "stable",
    max_conditioning_size: int | None = None,
    selection_bias: bool = False,
    knowledge: BackgroundKnowledge | None = None,
    evidence: bool = True,
    time_limit: float | None = None,
    max_tests: int | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    n_jobs: int | None = 1,
) -> LearnedStructure:
    time_limit = _positive_seconds(time_limit)
    n_jobs = os.cpu_count() or 1 if n_jobs is None else n_jobs
    max_tests, n_jobs = _positive("max_tests", max_tests), _positive("n_jobs", n_jobs)
    if threshold is not None and alpha is not None:
        raise StructureError("give either threshold or alpha (with n_samples), not both")
    given = source
    if is_table(source) or not hasattr(source, "correlation"):
        source = as_source(source, input=input, n_samples=n_samples)
    elif input != "auto":
        raise StructureError(f"input={input!r} describes a plain array, not a {type(source)!r}")
    if algorithm is None:
        kind = getattr(source, "kind", "correlation")
        named = kind == "correlation" and getattr(source, "names", None) is not None
        tiered = tiers is not None or getattr(source, "tiers", None) is not None
        unordered = (kind in ("data", "covariance") or named) and order is None and not tiered
        algorithm = "icd" if unordered else "ordered_icd"
    _check_choices(algorithm, variant, selection_bias, knowledge, progress)
    if threshold is None and alpha is None and n_samples is None:
        threshold = getattr(source, "threshold", None)
    if n_samples is None:
        n_samples = getattr(source, "n_samples", None)
    if n_samples is not None:
        n_samples = checked_integer("n_samples", n_samples, SampleSizeError)
    origin = "as given" if order is not None or tiers is not None else "as the rows stand"
    if tiers is None and order is None and algorithm == "ordered_icd":
        tiers = getattr(source, "tiers", None)
        origin = origin if tiers is None else "by the tiers of the source"
    _check_order_allowed(algorithm, order, tiers, selection_bias)
    if threshold is None and n_samples is None:
        raise StructureError("give n_samples (with alpha), or threshold")
    if threshold is None and alpha is None:
        alpha = DEFAULT_ALPHA
    if time_limit is not None:
        compile_kernels(algorithm, variant, bool(selection_bias))
    values, tolerance = check_correlation(source.correlation)
    n = len(values)
    if algorithm != "ordered_icd" and order is None and tiers is None:
        permutation, ranks = np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    else:
        permutation, ranks = check_order(n, order, tiers)
    names, kind = _names(source, n), str(getattr(source, "kind", "correlation"))
    notes = (*getattr(source, "notes", ()), *_order_note(permutation, ranks, names, origin))
    # what the caller holds anyway is kept by reference, and no copy of it longer than needed
    plain = isinstance(given, np.ndarray) and kind == "correlation"
    kept = given if plain else source.correlation
    del source
    masks = _masks(knowledge, n, names, permutation, ranks, algorithm, selection_bias)
    tested_samples = None if threshold is not None else n_samples
    limit_size = largest_testable_size(n, tested_samples, max_conditioning_size)
    # a copy that is ours; the kernels are compiled for arrays that can be written to
    values.setflags(write=True)
    if not np.array_equal(permutation, np.arange(n)):
        values = np.ascontiguousarray(values[np.ix_(permutation, permutation)])
    learner = Learner(
        correlation=values,
        tiers=ranks,
        critical=critical_values(limit_size, tested_samples, alpha, threshold),
        tolerance=tolerance,
        stable=variant == "stable",
        selection_bias=selection_bias,
        n_samples=tested_samples,
        knowledge=masks,
        limits=Limits(
            deadline=None if time_limit is None else time.monotonic() + time_limit,
            max_tests=max_tests,
            cancel=cancel,
        ),
        keep_evidence=evidence,
        n_jobs=n_jobs,
        progress=progress,
    )
    del values
    stopped = run(learner, algorithm)
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
        "knowledge": None if knowledge is None else knowledge.to_dict(),
        "time_limit": time_limit,
        "max_tests": max_tests,
        "tolerance": tolerance,
        "input": kind,
        "order": None if order is None else permutation.tolist(),
        "tiers": None if tiers is None else np.asarray(tiers).tolist(),
    }
    return despite_ctrl_c(
        lambda: collect(
            learner, permutation, stopped, parameters, correlation=kept, names=names,
            notes=(*notes, *learner.notes),
        )
    )  # fmt: skip


def _check_choices(
    algorithm: Any, variant: Any, selection_bias: Any, knowledge: Any, progress: Any
) -> None:
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
def _positive(name: str, limit: int) -> int: ...
@overload
def _positive(name: str, limit: None) -> None: ...
def _positive(name: str, limit: int | None) -> int | None:
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


def _names(source: Any, n: int) -> tuple[str, ...] | None:
    names = getattr(source, "names", None)
    if names is None:
        return None
    if len(names) != n:
        raise StructureError(f"{len(names)} names were given for {n} nodes")
    return tuple(str(name) for name in names)


def _order_note(
    permutation: IntArray, ranks: IntArray, names: tuple[str, ...] | None, origin: str
) -> tuple[str, ...]:
    """Say that an order was used, since arrowheads follow from it alone."""
    if not len(ranks) or ranks[-1] == 0:
        return ()
    first = min(5, len(ranks))
    texts = [str(k) if names is None else names[k] for k in permutation[:first].tolist()]
    signs = [" < " if up else ", " for up in np.diff(ranks[: first + 1])]
    shown = "".join(part for pair in zip(texts, [*signs, ""], strict=False) for part in pair)
    return (
        f"causal order used, {origin}: {shown}{'...' if len(ranks) > first else ''} (a later node "
        "is no cause of an earlier one, so arrowheads follow from the order alone; without one: "
        "algorithm='icd')",
    )


def _masks(
    knowledge: BackgroundKnowledge | None,
    n: int,
    names: tuple[str, ...] | None,
    permutation: IntArray,
    ranks: IntArray,
    algorithm: str,
    selection_bias: bool,
) -> Masks | None:
    """Return background knowledge for nodes numbered along the order."""
    if not knowledge:
        return None
    if selection_bias and knowledge.forbidden_orientations:
        raise StructureError(
            "forbidden_orientations do not go with selection_bias=True: a node that is no cause of "
            "another may still be a cause of the selection, so an arrowhead does not follow"
        )
    tiers = np.empty(n, dtype=np.int64)
    tiers[permutation] = ranks
    masks = knowledge.masks(n, names, tiers=tiers, acyclic=algorithm == "pc")
    return masks.permuted(permutation)
