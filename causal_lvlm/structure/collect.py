"""From the state of a learner to a `LearnedStructure` in the caller's numbering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.structure.evidence import PairEvidence
from causal_lvlm.structure.finishing import cut_off, restored
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.marks import ARROW, TAIL
from causal_lvlm.structure.pag import PAG
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
    notes += _contradictions(learner, permutation, names)
    evidence = None
    if learner.keep_evidence:
        evidence = PairEvidence(
            condense(learner.weakest, place),
            condense(learner.z, place),
            # numbers of 64 bits like the others: only moved, so one compiled kernel does
            condense(learner.pair_tests.view(np.float64), place).view(np.int64),
        )
    return LearnedStructure(
        pag=PAG(marks),
        separator_start=ends,
        separator_nodes=nodes,
        unseparated=_in_pairs(permutation[learner.forced], n),
        restored=np.array(sorted(permutation[restored(learner)].tolist()), dtype=np.int32),
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


def _contradictions(
    learner: Learner, permutation: IntArray, names: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Say where knowledge (or an order) is not what the marks show, or the marks not the data."""

    def listed(pairs: Any, sign: str = " - ") -> str:
        ends = [
            [str(k) if names is None else names[k] for k in permutation[list(pair)].tolist()]
            for pair in pairs[:5]
        ]
        return ", ".join(map(sign.join, ends)) + (", ..." if len(pairs) > 5 else "")

    notes = []
    if len(learner.forced):
        notes.append(
            f"background knowledge: nothing separated {listed(learner.forced, ' and ')}; the edge "
            "is left out only because it is forbidden, and the graph shows an independence there "
            "that the data do not"
        )
    back = restored(learner)
    if len(back):
        notes.append(
            f"background knowledge: {listed(back, ' -> ')} separated by the data and "
            "without a possibly directed path; the edge is there only because the first is known "
            "to be a cause of the second"
        )
    lost = cut_off(learner)
    if len(lost):
        notes.append(
            f"background knowledge: no possibly directed path is left for {listed(lost, ' to ')}"
            ", known to be causes, and the edge between them is forbidden"
        )
    later = learner.tiers[None, :] > learner.tiers[:, None]
    into = later | (learner.known == ARROW) if learner.known.size else later
    # one excluded direction is always obeyed; <-> is what a PAG has for two
    both = np.argwhere(np.triu(into & into.T & (learner.marks > 0) & (learner.marks != ARROW)))
    if len(both):
        notes.append(
            f"background knowledge: both directions of {listed(both)} are excluded, but the data "
            "keep the edge; a CPDAG has none for that, so it is left undirected (forbid the edge, "
            "or use algorithm='fci' or algorithm='icd', where it is <->)"
        )
    if learner.knowledge is not None and learner.known.size:
        notes += _chains(learner, learner.knowledge.causes, listed)
    return tuple(notes)


def _chains(learner: Learner, causes: BoolArray, listed: Callable[..., str]) -> list[str]:
    """Say which chains of directed edges are against what is known, or against each other."""
    notes = []
    directed = (learner.marks == ARROW) & (learner.marks.T == TAIL)
    reach = reachability(directed)
    hit = np.argwhere(reach & (learner.known.T == ARROW) & ~causes.T)
    if len(hit):
        notes.append(
            f"background knowledge: {len(hit)} forbidden orientations are contradicted by a "
            "chain of directed edges through other nodes "
            f"({listed(hit, ' to ')})"
        )
    hit = np.argwhere(reach & causes.T)
    if len(hit):
        notes.append(
            f"background knowledge: {len(hit)} known causes are contradicted by a chain of "
            f"directed edges back to them ({listed(hit, ' to ')})"
        )
    circle = np.flatnonzero(reach.diagonal())
    if len(circle):
        notes.append(
            "background knowledge: the directions that it leaves form a cycle through "
            f"{listed(circle[:, None], '')}, which no causal graph has; it contradicts the data"
        )
    arrows = (learner.marks == ARROW) & (learner.marks.T == ARROW)
    almost = np.argwhere(arrows & reach)
    if len(almost):
        notes.append(
            f"background knowledge: {listed(almost, ' <-> ')} although a chain of directed "
            "edges leads from the first to the second, which no PAG has; it contradicts the "
            "data"
        )
    return notes
