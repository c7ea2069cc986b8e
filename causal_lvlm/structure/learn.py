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

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from causal_lvlm.errors import StructureError
from causal_lvlm.structure.algorithms import despite_ctrl_c, run
from causal_lvlm.structure.knowledge import BackgroundKnowledge
from causal_lvlm.structure.options import CorrelationLike, LearnOptions, positive
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.task import prepare

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["learn_structure", "learn_structures"]


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
        `TokenCorrelation`, or what `correlation_from_data` and its like return, ``names``,
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
    options = LearnOptions(
        input=input, n_samples=n_samples, alpha=alpha, threshold=threshold, algorithm=algorithm,
        order=order, tiers=tiers, variant=variant, max_conditioning_size=max_conditioning_size,
        selection_bias=selection_bias, knowledge=knowledge, evidence=evidence,
        time_limit=time_limit, max_tests=max_tests, progress=progress, n_jobs=n_jobs,
    )  # fmt: skip
    return _learn(source, options, threading.Event())


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
    n_jobs = positive("n_jobs", os.cpu_count() or 1 if n_jobs is None else n_jobs)
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
            return _learn(item, LearnOptions(**options), cancel)
        except KeyboardInterrupt:
            # before it had learned anything; the results of the others are not lost
            cancel.set()
            return _learn(item, LearnOptions(**options), cancel)

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
    source: npt.ArrayLike | CorrelationLike, options: LearnOptions, cancel: threading.Event
) -> LearnedStructure:
    """Learn one graph; `cancel` ends it early with what was learned so far."""
    task = prepare(source, options, cancel)
    stopped = run(task.learner, str(task.options.algorithm))
    return despite_ctrl_c(lambda: task.result(stopped))
