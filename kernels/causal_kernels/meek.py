"""Orientation of a skeleton without latent variables: v-structures, then Meek's four rules.

Meek, Causal inference and causal explanation with background knowledge, UAI 1995, section 2.1
and figure 1; rule 4 matters only with background knowledge. ``A -> B``: arrowhead at B, tail at A.

1. All edges undirected, but directed into later tiers and where an arrowhead is known.
2. V-structures: A - B - C, A and C not adjacent, B outside sepset(A, C).
3. Meek's rules 1, 2, 3, 4 in turn until nothing changes.

Stable mode (``simultaneous``): a rule reads a graph that does not change while it runs; its matches
claim directions. An undirected edge that is claimed in one direction takes it; one claimed in both
stays undirected from then on and counts as a conflict. Sequential mode: each match is written at
once. In both, an edge that has a direction keeps it, so no edge gets two arrowheads.

While the rules run, undirected edges carry circles, on return tails. The time goes to the pairs
of neighbours in step 2 and to the sweep in step 3, both about the sum of the squared degrees;
that is far below what the tests cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, CIRCLE, NONE, TAIL, neighbour_lists
from causal_kernels.orientation import CONFLICT, in_sepset

__all__ = [
    "CPDAG_RULES",
    "meek_1",
    "meek_2",
    "meek_3",
    "meek_4",
    "orient_cpdag",
    "settle_directions",
    "v_structures",
]

CLAIMED = 1


@kernel
def _direct(marks, claims, i, j, simultaneous):
    """Claim, or in sequential mode write, i -> j; return 1 if written."""
    if marks[i, j] != CIRCLE or claims[i, j] == CONFLICT:
        return 0
    if simultaneous:
        claims[i, j] = CLAIMED
        return 0
    marks[i, j] = ARROW
    marks[j, i] = TAIL
    return 1


@kernel
def settle_directions(marks, claims, start, neighbour):
    """Write the claims of one rule, forget them, keep conflicts; return the number of changes."""
    changed = 0
    for i in range(marks.shape[0]):
        for k in range(start[i], start[i + 1]):
            j = neighbour[k]
            if claims[i, j] != CLAIMED:
                continue
            if claims[j, i] == CLAIMED:
                claims[i, j] = CONFLICT
                claims[j, i] = CONFLICT
                continue
            claims[i, j] = 0
            if marks[i, j] == CIRCLE:
                marks[i, j] = ARROW
                marks[j, i] = TAIL
                changed += 1
    return changed


@kernel
def _initial_directions(marks, claims, tiers, known, start, neighbour):
    """Undirected edges; into later tiers, and i -> j where ``known[i, j]`` is `ARROW`.

    An edge that is to point both ways stays undirected, as a conflict.
    """
    some = known.shape[0] > 0
    for i in range(marks.shape[0]):
        for k in range(start[i], start[i + 1]):
            j = neighbour[k]
            into_i = tiers[i] > tiers[j] or (some and known[j, i] == ARROW)
            into_j = tiers[j] > tiers[i] or (some and known[i, j] == ARROW)
            marks[i, j] = CIRCLE
            if into_i and into_j:
                claims[i, j] = CONFLICT
            elif into_i:
                marks[i, j] = TAIL
            elif into_j:
                marks[i, j] = ARROW


@kernel
def v_structures(
    marks, claims, start, neighbour, sepset_start, sepset_size, sepset_members, simultaneous
):
    """If A - B - C, A and C not adjacent, B not in sepset(A, C): orient A -> B <- C."""
    changed = 0
    for b in range(marks.shape[0]):
        for k in range(start[b], start[b + 1]):
            a = neighbour[k]
            for m in range(k + 1, start[b + 1]):
                c = neighbour[m]
                # asked first, it spares a look far away
                if (marks[a, b] != CIRCLE and marks[c, b] != CIRCLE) or marks[a, c] != NONE:
                    continue
                if not in_sepset(b, a, c, sepset_start, sepset_size, sepset_members):
                    changed += _direct(marks, claims, a, b, simultaneous)
                    changed += _direct(marks, claims, c, b, simultaneous)
    return changed


@kernel
def meek_1(marks, claims, start, neighbour, simultaneous):
    """If A -> B - C and A and C are not adjacent: orient B -> C."""
    changed = 0
    for b in range(marks.shape[0]):
        for m in range(start[b], start[b + 1]):
            c = neighbour[m]
            if marks[b, c] != CIRCLE:
                continue
            for k in range(start[b], start[b + 1]):
                a = neighbour[k]
                if marks[a, b] == ARROW and marks[a, c] == NONE:
                    changed += _direct(marks, claims, b, c, simultaneous)
                    break
    return changed


@kernel
def meek_2(marks, claims, start, neighbour, simultaneous):
    """If A -> B -> C and A - C: orient A -> C."""
    changed = 0
    for a in range(marks.shape[0]):
        for m in range(start[a], start[a + 1]):
            c = neighbour[m]
            if marks[a, c] != CIRCLE:
                continue
            for k in range(start[a], start[a + 1]):
                b = neighbour[k]
                if marks[a, b] == ARROW and marks[b, c] == ARROW:
                    changed += _direct(marks, claims, a, c, simultaneous)
                    break
    return changed


@kernel
def meek_3(marks, claims, start, neighbour, simultaneous):
    """If A - B, A - C -> B, A - D -> B and C and D are not adjacent: orient A -> B."""
    changed = 0
    for a in range(marks.shape[0]):
        for m in range(start[a], start[a + 1]):
            b = neighbour[m]
            if marks[a, b] != CIRCLE:
                continue
            found = False
            for k in range(start[a], start[a + 1]):
                c = neighbour[k]
                if marks[a, c] != CIRCLE or marks[c, b] != ARROW:
                    continue
                for q in range(k + 1, start[a + 1]):
                    d = neighbour[q]
                    if marks[a, d] == CIRCLE and marks[d, b] == ARROW and marks[c, d] == NONE:
                        found = True
                        break
                if found:
                    changed += _direct(marks, claims, a, b, simultaneous)
                    break
    return changed


@kernel
def meek_4(marks, claims, start, neighbour, simultaneous):
    """If A - B, A - C, A - D, D -> C -> B and B and D are not adjacent: orient A -> B."""
    changed = 0
    for a in range(marks.shape[0]):
        for m in range(start[a], start[a + 1]):
            b = neighbour[m]
            if marks[a, b] != CIRCLE:
                continue
            found = False
            for k in range(start[a], start[a + 1]):
                c = neighbour[k]
                if marks[a, c] != CIRCLE or marks[c, b] != ARROW:
                    continue
                for q in range(start[a], start[a + 1]):
                    d = neighbour[q]
                    if marks[a, d] != CIRCLE or marks[d, c] != ARROW:
                        continue
                    if marks[b, d] == NONE:
                        found = True
                        break
                if found:
                    changed += _direct(marks, claims, a, b, simultaneous)
                    break
    return changed


def orient_cpdag(
    marks: Any, tiers: Any, known: Any, sepset_start: Any, sepset_size: Any, sepset_members: Any,
    simultaneous: bool,
) -> Any:  # fmt: skip
    """Reset all marks, then apply the v-structures and Meek's rules to a fixed point, in place.

    ``tiers`` int64 (N,): an edge across tiers points to the later one. ``known`` uint8 (N, N), or
    (0, 0) for none: where ``known[i, j]`` is `ARROW` an edge i-j is i -> j. ``sepset_start`` int64
    (N, N) and ``sepset_size`` int16 (N, N) locate, for i < j, the members in ``sepset_members``
    int64. On return an edge has tails at both ends or is directed. Returns ``claims`` uint8 (N, N),
    which is ``CONFLICT``, in both entries, for an edge that contradicting claims left undirected.
    """
    n = marks.shape[0]
    claims = np.zeros((n, n), np.uint8)
    start, neighbour = neighbour_lists(marks)
    _initial_directions(marks, claims, tiers, known, start, neighbour)
    v_structures(
        marks, claims, start, neighbour, sepset_start, sepset_size, sepset_members, simultaneous
    )
    settle_directions(marks, claims, start, neighbour)
    changed = 1
    while changed > 0:
        changed = 0
        for rule in (meek_1, meek_2, meek_3, meek_4):
            changed += rule(marks, claims, start, neighbour, simultaneous)
            changed += settle_directions(marks, claims, start, neighbour)
    marks[marks == CIRCLE] = TAIL
    return claims


# what `orient_cpdag` calls; from Python, so that each rule is compiled once and not again inside it
CPDAG_RULES = [
    neighbour_lists, _initial_directions, v_structures, meek_1, meek_2, meek_3, meek_4,
    settle_directions,
]  # fmt: skip
