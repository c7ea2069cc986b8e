"""From a source and options to a learner that can run, and from its end to a result."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import IntArray
from causal_lvlm.errors import StructureError
from causal_lvlm.structure.checks import (
    check_correlation,
    check_order,
    critical_values,
    largest_testable_size,
)
from causal_lvlm.structure.chunks import Limits
from causal_lvlm.structure.collect import collect
from causal_lvlm.structure.compiling import compile_kernels
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.masks import Masks
from causal_lvlm.structure.options import LearnOptions
from causal_lvlm.structure.result import LearnedStructure

__all__ = ["Task", "prepare"]


@dataclass(frozen=True)
class Task:
    """One graph to be learned.

    Attributes
    ----------
    learner : Learner
        Its nodes are numbered along the causal order.
    options : LearnOptions
        All decided.
    permutation : ndarray of int64, shape (N,)
        The caller's number of each of the learner's nodes.
    correlation : array_like
        What the caller gave; it is kept by reference.
    kind : str
        What the source was made from.
    names : tuple of str or None
    notes : tuple of str
    """

    learner: Learner
    options: LearnOptions
    permutation: IntArray
    correlation: Any
    kind: str
    names: tuple[str, ...] | None
    notes: tuple[str, ...]

    def result(self, stopped: str) -> LearnedStructure:
        """Collect what the learner has learned; `stopped` says why it ended."""
        learner, options = self.learner, self.options
        asked = options.max_conditioning_size
        if stopped == "size_limit":
            by_caller = asked is not None and asked <= learner.limit
            stopped = "max_conditioning_size" if by_caller else "n_samples"
        knowledge, tiers = options.knowledge, options.tiers
        parameters = {
            "algorithm": options.algorithm,
            "variant": options.variant,
            "alpha": options.alpha,
            "n_samples": options.n_samples,
            "threshold": options.threshold,
            "max_conditioning_size": asked,
            "selection_bias": options.selection_bias,
            "knowledge": None if knowledge is None else knowledge.to_dict(),
            "time_limit": options.time_limit,
            "max_tests": options.max_tests,
            "tolerance": learner.tolerance,
            "input": self.kind,
            "order": None if options.order is None else self.permutation.tolist(),
            "tiers": None if tiers is None else np.asarray(tiers).tolist(),
        }
        return collect(
            learner, self.permutation, stopped, parameters, correlation=self.correlation,
            names=self.names, notes=(*self.notes, *learner.notes),
        )  # fmt: skip


def prepare(given: Any, options: LearnOptions, cancel: threading.Event) -> Task:
    """Check a source and what goes with it, and number its nodes along the causal order.

    Parameters
    ----------
    given : array_like or object with an attribute ``correlation``
    options : LearnOptions
    cancel : threading.Event
        Ends learning when it is set.

    Raises
    ------
    CausalLVLMError
        See `causal_lvlm.structure.learn_structure`.
    """
    source = options.source_of(given)
    before, options = options, options.for_source(source)
    if options.time_limit is not None:
        compile_kernels(str(options.algorithm), options.variant, bool(options.selection_bias))
    values, tolerance = check_correlation(source.correlation)
    n = len(values)
    if options.ordered:
        permutation, ranks = check_order(n, options.order, options.tiers)
    else:
        permutation, ranks = np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    names, kind = _names(source, n), str(getattr(source, "kind", "correlation"))
    note = _order_note(permutation, ranks, names, _origin(before, options))
    notes = (*getattr(source, "notes", ()), *note)
    # what the caller holds anyway is kept by reference, and no copy of it longer than needed
    plain = isinstance(given, np.ndarray) and kind == "correlation"
    kept = given if plain else source.correlation
    del source
    masks = _masks(options, n, names, permutation, ranks)
    limit_size = largest_testable_size(n, options.tested_samples, options.max_conditioning_size)
    # a copy that is ours; the kernels are compiled for arrays that can be written to
    values.setflags(write=True)
    if not np.array_equal(permutation, np.arange(n)):
        values = np.ascontiguousarray(values[np.ix_(permutation, permutation)])
    deadline = None if options.time_limit is None else time.monotonic() + options.time_limit
    learner = Learner(
        correlation=values,
        tiers=ranks,
        critical=critical_values(
            limit_size, options.tested_samples, options.alpha, options.threshold
        ),
        tolerance=tolerance,
        stable=options.variant == "stable",
        selection_bias=options.selection_bias,
        n_samples=options.tested_samples,
        knowledge=masks,
        limits=Limits(deadline=deadline, max_tests=options.max_tests, cancel=cancel),
        keep_evidence=options.evidence,
        n_jobs=int(options.n_jobs or 1),
        progress=options.progress,
    )
    return Task(learner, options, permutation, kept, kind, names, notes)


def _origin(given: LearnOptions, decided: LearnOptions) -> str:
    """Say where the causal order comes from."""
    if given.order is not None or given.tiers is not None:
        return "as given"
    return "as the rows stand" if decided.tiers is None else "by the tiers of the source"


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
    options: LearnOptions,
    n: int,
    names: tuple[str, ...] | None,
    permutation: IntArray,
    ranks: IntArray,
) -> Masks | None:
    """Return background knowledge for nodes numbered along the order."""
    knowledge = options.knowledge
    if not knowledge:
        return None
    if options.selection_bias and knowledge.forbidden_orientations:
        raise StructureError(
            "forbidden_orientations do not go with selection_bias=True: a node that is no cause of "
            "another may still be a cause of the selection, so an arrowhead does not follow"
        )
    tiers = np.empty(n, dtype=np.int64)
    tiers[permutation] = ranks
    masks = knowledge.masks(
        n, names, tiers=tiers, acyclic=options.algorithm == "pc", selection=options.selection_bias
    )
    return masks.permuted(permutation)
