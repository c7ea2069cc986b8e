"""The last orientation: all rules, and what known causes ask for beside them.

1. Forbidden edges that nothing separated are set aside: they are none, and no rule concludes
   anything from that.
2. All rules: R0-R4, with selection R5-R7, R8-R10; for a CPDAG v-structures and Meek's rules.
3. Where i is known to be a cause of j without an edge between them, one of the possibly directed
   paths from i to j is the real one. So if all of them pass u, and then v, u is a cause of v. That
   is known from then on, with all that follows (`causal_lvlm.structure.masks`); again from 2. If
   such causes contradict each other (in an ideal world they never do), all of them are left out.
4. Where no possibly directed path is left for a known cause, the edge i -> j comes back; again
   from 2. Of a chain of causes first the links, the pairs with the fewest causes between them. A
   forbidden edge does not come back (a note of the result says so).

Each round adds marks or edges, so there are few. All of it may be done a second time (after
Ctrl-C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np

from causal_lvlm.arrays import IntArray, UInt8Array
from causal_lvlm.structure.learner import Learner
from causal_lvlm.structure.marks import CIRCLE, NONE
from causal_lvlm.structure.masks import Masks
from causal_lvlm.structure.paths import needed_nodes, possible_causes

__all__ = ["cut_off", "finish_cpdag", "finish_pag", "restored"]

_NO_PAIRS = np.zeros((0, 2), dtype=np.int64)


def finish_pag(learner: Learner) -> None:
    """Remove forbidden edges, then orient for the last time: all rules."""
    from causal_kernels import FORBIDDEN

    def orient(known: UInt8Array) -> None:
        if learner.selection_bias and len(known):
            # R3 and R5 ask for circles where a tail alone may be known: first without it
            _all_rules(learner, learner.known_early)
            marks = learner.marks
            definite = np.where((marks > CIRCLE) & (marks < FORBIDDEN), marks, np.uint8(NONE))
            known = np.where(known > NONE, known, definite)
        _all_rules(learner, known)

    _finish(learner, orient)


def _all_rules(learner: Learner, known: UInt8Array) -> None:
    from causal_kernels import complete_selection, complete_tails

    learner.orient(known)
    learner.notes = ()
    if learner.selection_bias:
        open_edges = int(complete_selection(learner.marks, learner.claims, learner.stable))
        if open_edges:
            learner.notes = (
                f"rule R5 gave up on {open_edges} circle edges: too many cycles to look "
                "at; they keep their circles",
            )
    complete_tails(learner.marks, learner.claims)


def finish_cpdag(learner: Learner) -> None:
    """Remove forbidden edges, then v-structures and Meek's rules."""
    from causal_kernels import orient_cpdag

    def orient(known: UInt8Array) -> None:
        learner.claims = orient_cpdag(
            learner.marks, learner.tiers, known, learner.sepset_start, learner.sepset_size,
            learner.sepset_nodes, learner.stable,
        )  # fmt: skip

    _finish(learner, orient)


def _finish(learner: Learner, orient: Callable[[UInt8Array], None]) -> None:
    masks, known = learner.knowledge, learner.known
    while True:
        with _forbidden_set_aside(learner):
            orient(known)
        if masks is None or not masks.causes.any():
            return
        more = _followed(learner, masks)
        if more is not None:
            masks, known = more, more.known
        elif not _restore(learner):
            return


@contextmanager
def _forbidden_set_aside(learner: Learner) -> Iterator[None]:
    """While rules run, forbidden edges are none, and nothing follows from that."""
    from causal_kernels import FORBIDDEN

    if learner.knowledge is None:
        yield
        return
    there = np.triu(learner.knowledge.forbidden & (learner.marks > 0))
    there[learner.forced[:, 0], learner.forced[:, 1]] = True  # when done a second time
    learner.forced = np.argwhere(there).astype(np.int64)
    a, b = learner.forced.T
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    learner.marks[ends] = FORBIDDEN
    try:
        yield
    finally:
        learner.marks[ends] = 0


def _followed(learner: Learner, masks: Masks) -> Masks | None:
    """Return the masks with the causes that follow from known ones, None if there are no more."""
    assert learner.knowledge is not None
    apart = learner.knowledge.causes & (learner.marks == 0)
    found = {
        pair
        for i, j in np.argwhere(apart).tolist()
        for pair in pairwise(needed_nodes(learner.marks, i, j))
        if not masks.causes[pair]
    }
    if not found:
        return None
    later = learner.tiers[:, None] > learner.tiers[None, :]
    return masks.with_causes(sorted(found), later, learner.selection_bias)


def _restore(learner: Learner) -> bool:
    """Bring edges back for causes that no way is left for; tell whether there were any."""
    assert learner.knowledge is not None
    causes, forbidden = learner.knowledge.causes, learner.knowledge.forbidden
    left = [(i, j) for i, j in cut_off(learner).tolist() if not forbidden[i, j]]
    between = [np.count_nonzero(causes[i] & causes[:, j]) for i, j in left]
    for (i, j), count in zip(left, between, strict=True):
        if count == min(between):
            learner.marks[i, j] = learner.marks[j, i] = CIRCLE
    return bool(left)


def restored(learner: Learner) -> IntArray:
    """Return the pairs (i, j) whose edge i -> j came back after it was separated, shape (K, 2)."""
    if learner.knowledge is None:
        return _NO_PAIRS
    back = np.triu((learner.marks > 0) & (learner.sepset_size >= 0))
    return np.argwhere((back | back.T) & learner.knowledge.causes).astype(np.int64)


def cut_off(learner: Learner) -> IntArray:
    """Return the known causes (i, j) without a possibly directed path, shape (K, 2)."""
    if learner.knowledge is None:
        return _NO_PAIRS
    apart = learner.knowledge.causes & (learner.marks == 0)
    for j in np.flatnonzero(apart.any(axis=0)):
        apart[:, j] &= ~possible_causes(learner.marks, int(j))
    return np.argwhere(apart).astype(np.int64)
