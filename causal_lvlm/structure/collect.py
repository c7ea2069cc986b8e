"""From the state of a learner to a `LearnedStructure` in the caller's numbering."""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_lvlm.arrays import IntArray
from causal_lvlm.structure.evidence import PairEvidence
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.pag import ARROW, PAG, TAIL
from causal_lvlm.structure.result import LearnedStructure
from causal_lvlm.structure.validity import reachability

__all__ = ["collect"]


def collect(
    learner: Learner,
    permutation: IntArray,
    stopped: str,
    parameters: dict[str, Any],
    *,
    correlation: Any,
    names: tuple[str, ...] | None,
    notes: tuple[str, ...],
) -> LearnedStructure:
    """Give the nodes the caller's numbers and collect the result.

    Parameters
    ----------
    learner : Learner
        Has ended.
    permutation : ndarray of shape (N,), int64
        The caller's number of each of the learner's nodes.
    stopped : str
    parameters : dict
    correlation : array_like
        What the caller gave; it is kept by reference.
    names, notes : tuple of str
    """
    from causal_kernels import CONFLICT, collect_separators, condense

    n = len(learner.marks)
    marks = np.empty_like(learner.marks)
    marks[np.ix_(permutation, permutation)] = learner.marks
    place = np.empty(n, dtype=np.int64)
    place[permutation] = np.arange(n)
    for a, b in learner.forced:
        learner.sepset_size[a, b] = 0
    ends, nodes = collect_separators(
        learner.marks, place, permutation, learner.sepset_start, learner.sepset_size,
        learner.sepset_nodes,
    )  # fmt: skip
    notes += _chains(learner, permutation)
    evidence = None
    if learner.keep_evidence:
        evidence = PairEvidence(
            *(condense(v, place) for v in (learner.weakest, learner.z, learner.pair_tests))
        )
    return LearnedStructure(
        pag=PAG(marks),
        separator_start=ends,
        separator_nodes=nodes,
        unseparated=_in_pairs(permutation[learner.forced], n),
        tests_per_size=tuple(learner.tests),
        undecided=_in_pairs(permutation[np.argwhere(learner.blind)], n),
        complete=stopped == "no_more_sets",
        stopped=stopped,
        unfinished_size=learner.unfinished_size,
        edges_left=learner.edges_left,
        conflicts=int(np.count_nonzero(learner.claims == CONFLICT)),
        thresholds=tuple(float(v) for v in learner.critical[: len(learner.tests)]),
        parameters=parameters,
        evidence=evidence,
        names=names,
        notes=notes,
        correlation=correlation,
        kind="cpdag" if parameters["algorithm"] == "pc" else "pag",
    )


def _in_pairs(pairs: IntArray, n: int) -> IntArray:
    """Return pairs (K, 2) with the smaller node first, in lexicographic order."""
    ordered = np.sort(pairs.reshape(-1, 2), axis=1)
    return ordered[np.argsort(ordered[:, 0] * n + ordered[:, 1])]


def _chains(learner: Learner, permutation: IntArray) -> tuple[str, ...]:
    """Say where a chain of directed edges contradicts "i is no cause of j", which marks cannot."""
    if not learner.blocked.size:
        return ()
    directed = (learner.marks == ARROW) & (learner.marks.T == TAIL)
    hit = np.argwhere(reachability(directed) & (learner.blocked.T > 0))
    if not len(hit):
        return ()
    shown = ", ".join(f"{permutation[i]} to {permutation[j]}" for i, j in hit[:5])
    return (
        f"background knowledge: {len(hit)} forbidden orientations are contradicted by a chain of "
        f"directed edges through other nodes ({shown}{', ...' if len(hit) > 5 else ''})",
    )
