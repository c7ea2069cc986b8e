"""Orientation of a skeleton by R0-R4; `causal_kernels.tails` does the rest.

Rules of Zhang, On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias, Artificial Intelligence 172 (2008), section 3. ``A *-> B``
reads: the mark at B is an arrowhead, the mark at A is anything.

1. Start marks: circles, with an arrowhead at the later end of an edge across tiers, and the
   arrowheads and tails that background knowledge knows.
2. R0 on all unshielded triples.
3. R1, R2, R3, R4 in turn until nothing changes.

Stable mode (``simultaneous``): a rule reads a graph that does not change while it runs; its matches
claim marks. A circle that is claimed by one kind takes it; a circle claimed as both tail and
arrowhead stays a circle from then on and counts as a conflict. Marks other than circles stay.
Sequential mode: each match is written at once, over whatever is there; as tails are only ever
written on circles, that can turn a tail into an arrowhead, but takes no arrowhead away. Tails that
were known from the start are marked (`KEPT`) and stay, too. So tiers and known marks hold in both
modes.

What the time goes to: finding the edges, one look at each of the N^2 marks, and R0, one look into
far memory for each pair of neighbours; then R1-R4, which on sparse graphs end after two or three
sweeps over the edges. Together that was one or two hundredths of the time of learning (attention,
700 nodes: 1 ms; a sparse linear model, 3,000 nodes: 25 ms), so there is no worklist.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_kernels.compiled import kernel
from causal_kernels.graph import ARROW, CIRCLE, NONE, TAIL, neighbour_lists

__all__ = [
    "CONFLICT",
    "PAG_RULES",
    "in_sepset",
    "initial_marks",
    "orient",
    "rule_0",
    "rule_1",
    "rule_2",
    "rule_3",
    "rule_4",
]

CLAIMED_ARROW = 1
CLAIMED_TAIL = 2
CONFLICT = 4
KEPT = 8  # sequential mode, while the rules run: a tail that is known


@kernel
def _reset(marks, tiers, known, start, neighbour):
    """Do what `initial_marks` does, for edges that are listed."""
    some = known.shape[0] > 0
    for i in range(marks.shape[0]):
        for k in range(start[i], start[i + 1]):
            j = neighbour[k]
            if tiers[j] > tiers[i]:
                marks[i, j] = ARROW
            elif some and known[i, j] != NONE:
                marks[i, j] = known[i, j]
            else:
                marks[i, j] = CIRCLE


@kernel
def initial_marks(marks, tiers, known):
    """Reset the marks of all edges in place: circles, arrowheads into later tiers.

    ``known`` uint8 (N, N), or (0, 0) for none: where ``known[i, j]`` is `ARROW` or `TAIL` the mark
    at j on an edge i-j starts as that.
    """
    start, neighbour = neighbour_lists(marks)
    _reset(marks, tiers, known, start, neighbour)


@kernel
def _claim(marks, claims, i, j, mark, simultaneous):
    """Claim, or in sequential mode write, ``mark`` at j on the edge i-j; return 1 if written."""
    if simultaneous:
        claims[i, j] |= CLAIMED_ARROW if mark == ARROW else CLAIMED_TAIL
        return 0
    if marks[i, j] == mark or claims[i, j] == KEPT:
        return 0
    marks[i, j] = mark
    return 1


@kernel
def _settle(marks, claims, start, neighbour):
    """Write the claims of one rule, forget them, keep conflicts; return the number of changes."""
    changed = 0
    for i in range(marks.shape[0]):
        for k in range(start[i], start[i + 1]):
            j = neighbour[k]
            claim = claims[i, j]
            if claim == 0 or claim == CONFLICT or claim == KEPT:
                continue
            claims[i, j] = claim & CONFLICT
            if marks[i, j] != CIRCLE or claims[i, j] == CONFLICT:
                continue
            if claim == CLAIMED_ARROW | CLAIMED_TAIL:
                claims[i, j] = CONFLICT
            else:
                marks[i, j] = ARROW if claim == CLAIMED_ARROW else TAIL
                changed += 1
    return changed


@kernel
def in_sepset(node, i, j, sepset_start, sepset_size, sepset_members):
    """Tell whether the node is in the stored separating set of i and j."""
    if i > j:
        i, j = j, i
    first = sepset_start[i, j]
    for k in range(first, first + sepset_size[i, j]):
        if sepset_members[k] == node:
            return True
    return False


@kernel
def rule_0(
    marks, claims, start, neighbour, sepset_start, sepset_size, sepset_members, simultaneous
):
    """If A *-* B *-* C, A and C not adjacent, B not in sepset(A, C): orient A *-> B <-* C."""
    changed = 0
    for b in range(marks.shape[0]):
        for k in range(start[b], start[b + 1]):
            a = neighbour[k]
            for m in range(k + 1, start[b + 1]):
                c = neighbour[m]
                # two arrowheads are there already: asked first, it spares a look far away
                if (marks[a, b] == ARROW and marks[c, b] == ARROW) or marks[a, c] != NONE:
                    continue
                if not in_sepset(b, a, c, sepset_start, sepset_size, sepset_members):
                    changed += _claim(marks, claims, a, b, ARROW, simultaneous)
                    changed += _claim(marks, claims, c, b, ARROW, simultaneous)
    return changed


@kernel
def rule_1(marks, claims, start, neighbour, simultaneous):
    """If A *-> B o-* C and A and C are not adjacent: orient B -> C."""
    changed = 0
    for b in range(marks.shape[0]):
        for m in range(start[b], start[b + 1]):
            c = neighbour[m]
            if marks[c, b] != CIRCLE:
                continue
            for k in range(start[b], start[b + 1]):
                a = neighbour[k]
                if marks[a, b] == ARROW and a != c and marks[a, c] == NONE:
                    changed += _claim(marks, claims, c, b, TAIL, simultaneous)
                    changed += _claim(marks, claims, b, c, ARROW, simultaneous)
                    break
    return changed


@kernel
def rule_2(marks, claims, start, neighbour, simultaneous):
    """If A -> B *-> C or A *-> B -> C, and A *-o C: orient A *-> C."""
    changed = 0
    for a in range(marks.shape[0]):
        for m in range(start[a], start[a + 1]):
            c = neighbour[m]
            if marks[a, c] != CIRCLE:
                continue
            for k in range(start[a], start[a + 1]):
                b = neighbour[k]
                if (
                    marks[a, b] == ARROW
                    and marks[b, c] == ARROW
                    and (marks[b, a] == TAIL or marks[c, b] == TAIL)
                ):
                    changed += _claim(marks, claims, a, c, ARROW, simultaneous)
                    break
    return changed


@kernel
def rule_3(marks, claims, start, neighbour, simultaneous):
    """If A *-> B <-* C, A *-o D o-* C, A and C not adjacent, D *-o B: orient D *-> B."""
    changed = 0
    for d in range(marks.shape[0]):
        for m in range(start[d], start[d + 1]):
            b = neighbour[m]
            if marks[d, b] != CIRCLE:
                continue
            found = False
            for k in range(start[d], start[d + 1]):
                a = neighbour[k]
                if marks[a, d] != CIRCLE or marks[a, b] != ARROW:
                    continue
                for q in range(k + 1, start[d + 1]):
                    c = neighbour[q]
                    if marks[c, d] == CIRCLE and marks[c, b] == ARROW and marks[a, c] == NONE:
                        found = True
                        break
                if found:
                    changed += _claim(marks, claims, d, b, ARROW, simultaneous)
                    break
    return changed


@kernel
def rule_4(
    marks, claims, start, neighbour, sepset_start, sepset_size, sepset_members, simultaneous,
    visited, queue,
):  # fmt: skip
    """If (D, ..., A, B, C) is a discriminating path for B and B o-* C.

    Orient B -> C if B is in sepset(D, C), else A <-> B <-> C. ``visited`` int64 (N,) and
    ``queue`` int64 (N,) are work. Every A and every D counts in simultaneous mode; in sequential
    mode the first found ends the search for this edge.
    """
    n = marks.shape[0]
    changed = 0
    visited[:] = -1
    stamp = 0
    for b in range(n):
        for m in range(start[b], start[b + 1]):
            c = neighbour[m]
            if marks[c, b] != CIRCLE:
                continue
            done = False
            for k in range(start[b], start[b + 1]):
                a = neighbour[k]
                if done or a == c or marks[b, a] != ARROW:
                    continue
                if marks[a, c] != ARROW or marks[c, a] != TAIL:
                    continue
                stamp += 1
                visited[a] = stamp
                visited[b] = stamp
                visited[c] = stamp
                queue[0] = a
                head = 0
                tail = 1
                while head < tail and not done:
                    at = queue[head]
                    head += 1
                    for q in range(start[at], start[at + 1]):
                        d = neighbour[q]
                        if visited[d] == stamp or marks[d, at] != ARROW:
                            continue
                        if marks[d, c] == NONE:
                            visited[d] = stamp
                            if in_sepset(b, d, c, sepset_start, sepset_size, sepset_members):
                                changed += _claim(marks, claims, c, b, TAIL, simultaneous)
                                changed += _claim(marks, claims, b, c, ARROW, simultaneous)
                            else:
                                changed += _claim(marks, claims, b, a, ARROW, simultaneous)
                                changed += _claim(marks, claims, a, b, ARROW, simultaneous)
                                changed += _claim(marks, claims, b, c, ARROW, simultaneous)
                                changed += _claim(marks, claims, c, b, ARROW, simultaneous)
                            if not simultaneous:
                                done = True
                                break
                        elif marks[d, c] == ARROW and marks[c, d] == TAIL and marks[at, d] == ARROW:
                            visited[d] = stamp
                            queue[tail] = d
                            tail += 1
    return changed


def orient(
    marks: Any, tiers: Any, known: Any, sepset_start: Any, sepset_size: Any, sepset_members: Any,
    simultaneous: bool,
) -> Any:  # fmt: skip
    """Reset all marks and apply R0, then R1-R4 to a fixed point, in place.

    ``known`` is that of `initial_marks`; no rule overwrites these marks.
    ``sepset_start`` int64 (N, N) and ``sepset_size`` int16 (N, N) locate, for i < j, the members
    in ``sepset_members`` int64. Returns ``claims`` uint8 (N, N), which is ``CONFLICT`` where the
    mark stayed a circle because of contradicting claims.
    """
    n = marks.shape[0]
    start, neighbour = neighbour_lists(marks)
    _reset(marks, tiers, known, start, neighbour)
    claims = np.zeros((n, n), np.uint8)
    keeps = not simultaneous and len(known) > 0
    if keeps:
        claims[known == TAIL] = KEPT
    visited = np.empty(n, np.int64)
    queue = np.empty(n, np.int64)
    rule_0(marks, claims, start, neighbour, sepset_start, sepset_size, sepset_members, simultaneous)
    _settle(marks, claims, start, neighbour)
    changed = 1
    while changed > 0:
        changed = 0
        for rule in (rule_1, rule_2, rule_3):
            changed += rule(marks, claims, start, neighbour, simultaneous)
            changed += _settle(marks, claims, start, neighbour)
        changed += rule_4(
            marks, claims, start, neighbour, sepset_start, sepset_size, sepset_members,
            simultaneous, visited, queue,
        )  # fmt: skip
        changed += _settle(marks, claims, start, neighbour)
    if keeps:  # in this mode there are no others
        claims[:] = 0
    return claims


# what `orient` calls; from Python, so that each rule is compiled once and not again inside it
PAG_RULES = [neighbour_lists, _reset, rule_0, rule_1, rule_2, rule_3, rule_4, _settle]
