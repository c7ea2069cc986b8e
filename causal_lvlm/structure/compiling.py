"""Compile the kernels that a call of structure learning will use, before its time is taken.

Compiling takes some ten seconds, once for each version of the kernels on a machine
(`causal_kernels.cache`). It is no part of learning: `compile_kernels` does it first, says how far
it is, and returns how long it took. Only what the algorithm calls is compiled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from causal_lvlm.structure.algorithms import ALGORITHMS, run
from causal_lvlm.structure.chunks import Limits
from causal_lvlm.structure.collect import collect
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.pds import pds_tree

__all__ = ["COMPILING", "compile_kernels"]

COMPILING = "compiling kernels (once)"  # what to call it where progress is shown
_LOCK = threading.Lock()
_ready: set[tuple[str, str, bool, bool]] = set()  # loaded in this process


def compile_kernels(
    algorithm: str = "ordered_icd",
    variant: str = "stable",
    selection_bias: bool = False,
    *,
    tree: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Compile, or load from disk, the kernels that learning with these options calls.

    Parameters
    ----------
    algorithm, variant, selection_bias
        See `causal_lvlm.learn_structure`, which also says so where an algorithm or variant is
        unknown; here nothing is compiled for it.
    tree : bool, default False
        Whether `pds_tree` will be called too.
    progress : callable, optional
        Called as ``progress(kernels compiled, kernels to compile)``, first with 0; never if nothing
        is to be compiled.

    Returns
    -------
    float
        Seconds, 0.0 if all are loaded already.
    """
    from causal_kernels.compiled import compiling, pending

    key = (algorithm, variant, bool(selection_bias), tree)
    known = algorithm in ALGORITHMS and variant in ("stable", "sequential")
    if key in _ready or not known:
        return 0.0
    waiting = pending(_called(*key))
    began = time.perf_counter()
    if waiting and progress is not None:
        progress(0, len(waiting))
    with compiling(waiting, progress), _LOCK:  # what another thread compiles meanwhile counts too
        _use_all(*key)
        _ready.add(key)
    return time.perf_counter() - began


def _use_all(algorithm: str, variant: str, selection_bias: bool, tree: bool) -> None:
    """Learn from five nodes whose partial correlations are never zero: sets of all sizes."""
    correlation = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    learner = Learner(
        correlation=correlation, tiers=np.zeros(5, dtype=np.int64), critical=np.full(4, 1e-6),
        tolerance=1e-9, stable=variant == "stable", selection_bias=selection_bias, n_samples=None,
        knowledge=None, limits=Limits(), keep_evidence=True,
    )  # fmt: skip
    if run(learner, algorithm) == "interrupted":
        raise KeyboardInterrupt
    learned = collect(
        learner, np.arange(5), "no_more_sets", {"algorithm": algorithm}, correlation=correlation,
        names=None, notes=(),
    )  # fmt: skip
    if tree:
        pds_tree(learned.pag, 4, 2)


def _called(algorithm: str, variant: str, selection_bias: bool, tree: bool) -> list[Any]:
    """Return the kernels that are called from Python; those that they call follow from them."""
    import causal_kernels as kernels

    stable = variant == "stable"
    called = [
        kernels.list_edges, kernels.neighbour_lists, kernels.delete_separated,
        kernels.note_unconditional, kernels.note_tests, kernels.collect_separators,
        kernels.condense,
    ]  # fmt: skip
    if stable:
        called += [kernels.inverse_rest, kernels.prepare_one, kernels.order_one, kernels.order_r]
    elif algorithm not in ("pc", "fci"):
        called += [kernels.order_one_sequential, kernels.order_r_sequential]
    else:
        called += [kernels.order_r_pool_sequential]
    if algorithm == "pc":
        called += kernels.CPDAG_RULES
    else:
        called += [*kernels.PAG_RULES, kernels.complete_tails, kernels.possible_ancestor_matrix]
    if algorithm == "fci":
        called += [kernels.sure_colliders, kernels.orient_colliders, kernels.pds_pools]
    elif algorithm != "pc":
        called += [kernels.needed_roots, *([kernels.pds_distance_matrix] if stable else [])]
    return (
        called
        + (kernels.SELECTION_RULES if selection_bias else [])
        + ([kernels.pds_tree] if tree else [])
    )
