"""R5-R7: tails that follow when there may be selection variables.

Rules of Zhang, On the completeness of orientation rules for causal discovery in the presence of
latent confounders and selection bias, Artificial Intelligence 172 (2008), section 3.

1. R5 (`causal_kernels.cycles`) on the graph as R0-R4 left it. All edges are decided on the frozen
   graph, then all are written: the order of the search does not matter.
2. R6 and R7 in turn until nothing changes. They only turn circles into tails and never lose a
   premise by it, so the result does not depend on the order and one mode serves both variants.
   (Where R7 loses A -o B because it became A - B, R6 takes over.)

Circles with contradicting claims (`CONFLICT`) are read as circles and stay circles.
"""

from __future__ import annotations

from typing import Any

from causal_kernels.compiled import kernel
from causal_kernels.cycles import rule_5
from causal_kernels.graph import CIRCLE, NONE, TAIL, neighbour_lists
from causal_kernels.orientation import CONFLICT

__all__ = ["SELECTION_RULES", "complete_selection", "rule_6", "rule_7"]

# Steps of search that one edge may cost in R5, some hundredths of a second
BUDGET = 2_000_000


@kernel
def rule_6(marks, claims, start, neighbour):
    """If A - B o-* C: orient B -* C (the tail at B)."""
    changed = 0
    for b in range(marks.shape[0]):
        undirected = 0
        for k in range(start[b], start[b + 1]):
            a = neighbour[k]
            if marks[a, b] == TAIL and marks[b, a] == TAIL:
                undirected = 1
                break
        if undirected == 0:
            continue
        for m in range(start[b], start[b + 1]):
            c = neighbour[m]
            if marks[c, b] == CIRCLE and claims[c, b] != CONFLICT:
                marks[c, b] = TAIL
                changed += 1
    return changed


@kernel
def rule_7(marks, claims, start, neighbour):
    """If A -o B o-* C and A and C are not adjacent: orient B -* C (the tail at B)."""
    changed = 0
    for b in range(marks.shape[0]):
        for k in range(start[b], start[b + 1]):
            a = neighbour[k]
            if marks[b, a] != TAIL or marks[a, b] != CIRCLE:
                continue
            for m in range(start[b], start[b + 1]):
                c = neighbour[m]
                if c == a or marks[c, b] != CIRCLE or claims[c, b] == CONFLICT:
                    continue
                if marks[a, c] == NONE:
                    marks[c, b] = TAIL
                    changed += 1
    return changed


def complete_selection(marks: Any, claims: Any, simultaneous: bool, budget: int = BUDGET) -> int:
    """Apply R5, then R6 and R7 to a fixed point, in place; they only turn circles into tails.

    ``claims`` uint8 (N, N) comes from `orient`: circles with contradicting claims stay.
    ``simultaneous`` makes no difference (see the top of this file). ``budget`` is how many
    steps of search one edge may cost in R5. Returns the number of edges that R5 gave up on.
    """
    start, neighbour = neighbour_lists(marks)
    found, source, target, given_up = rule_5(marks, start, neighbour, budget)
    tails = (found == 1) & (claims[source, target] != CONFLICT)
    marks[source[tails], target[tails]] = TAIL
    changed = 1
    while changed > 0:
        changed = rule_6(marks, claims, start, neighbour)
        changed += rule_7(marks, claims, start, neighbour)
    return int(given_up)


# what `complete_selection` calls
SELECTION_RULES = [neighbour_lists, rule_5, rule_6, rule_7]
