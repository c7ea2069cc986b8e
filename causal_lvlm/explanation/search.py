"""Search for a small explaining set along orders of units, for few model runs.

1. `grow_fast`: the shortest prefix of an order that is an explanation, about: one unit more at a
   time at first, then a quarter longer each, then bisection between the longest that failed and the
   shortest that passed. (`grow` tries every prefix.)
2. `shrink`: leave members out of an explaining set until none can be left out (delta debugging,
   Zeller & Hildebrandt 2002): first halves, then quarters, ... then single members. The result is
   irreducible: every set with one member less was tried and failed.
3. `best_start` does 1 and 2 along several orders: sets that no exchange leads out of are often not
   met along another order.
4. `exchange`: try to replace two members by one. Which two: those that are missed least, by the
   margin with each of them left out, which shrinking has measured already. Which one: the best
   units of the order outside the set; after each pair the margins say which of them go first.
   A smaller set that passes is shrunk and exchanged again.

A margin is the target's lead over its strongest rival, so it says how far a set is from passing,
not only whether it passes. Nothing is inferred from it: it chooses what is asked next, and every
set that is reported was run.

References
----------
.. [1] Zeller, Hildebrandt. Simplifying and Isolating Failure-Inducing Input. IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.asker import Subset
from causal_lvlm.budget import BudgetEnded
from causal_lvlm.explanation.question import Question

__all__ = ["WIDTHS", "best_start", "exchange", "grow", "grow_fast", "ranked", "shrink"]

STEP = 4  # a longer prefix has one STEP-th more members
BOUNDS = (8, 16, 32, None)  # how far all orders are followed before one is followed further
LARGE = 8  # a set with more members is worth a look along further orders
# Units tried with the first, second, ... pair that is taken out.
WIDTHS = (8, 8, 8, 8)


def ranked(question: Question, value: FloatArray) -> list[int]:
    """Order the units of a scope by the sum of a value over their positions, largest first."""
    members = question.asker.units.members
    weight = {u: float(np.asarray(value)[list(members[u])].sum()) for u in question.scope}
    return sorted(question.scope, key=lambda u: (-weight[u], u))


def grow(question: Question, order: Sequence[int]) -> Subset | None:
    """Return the smallest prefix of `order` that is an explanation, or None if none is.

    Raises
    ------
    BudgetEnded
        When the budget ends first.
    """
    return question.first(order[: k + 1] for k in range(len(order)))


def shrink(question: Question, subset: Subset, order: Sequence[int]) -> tuple[Subset, bool]:
    """Leave out members until the set is irreducible or the budget ends.

    Parameters
    ----------
    question : Question
    subset : frozenset of int
        An explaining set.
    order : sequence of int
        Most important unit first; the least important ones are left out first. Members that are
        not in it count as least important.

    Returns
    -------
    subset : frozenset of int
        Still an explaining set.
    irreducible : bool
        Whether every set with one member less was tried and failed.
    """
    rank = {unit: i for i, unit in enumerate(order)}
    best, parts = subset, 2
    try:
        while len(best) > 1:
            members = sorted(best, key=lambda u: (rank.get(u, len(rank)), u), reverse=True)
            parts = min(parts, len(members))
            # Chunks of least important members come first.
            bounds = [round(i * len(members) / parts) for i in range(parts + 1)]
            chunks = [members[a:b] for a, b in pairwise(bounds)]
            smaller = question.first(best.difference(chunk) for chunk in chunks)
            if smaller is not None:
                best, parts = smaller, max(parts - 1, 2)
            elif parts == len(members):
                return best, True
            else:
                parts *= 2
    except BudgetEnded:
        hits = [s for s in question.found() if s < best]
        return (min(hits, key=lambda s: (len(s), sorted(s))) if hits else best), False
    # One member: the empty set is the question itself, which the caller has asked already.
    return best, True


def grow_fast(
    question: Question,
    order: Sequence[int],
    longest: int | None = None,
    start: int = 0,
    step: int = STEP,
) -> Subset | None:
    """Return a short prefix of `order` that is an explanation, or None.

    Parameters
    ----------
    question : Question
    order : sequence of int
    longest : int, optional
        Longest prefix to try; default is all of the order.
    start : int
        Prefixes up to this length were tried before.
    step : int
        A longer prefix has one `step`-th more members.

    Returns
    -------
    frozenset of int or None
        The prefix one shorter was tried and failed (or it is the first unit alone). If passing is
        not monotone a shorter one may pass too.

    Raises
    ------
    BudgetEnded
        When the budget ends first.
    """
    end = len(order) if longest is None else min(longest, len(order))
    lengths, length = [], 0
    while length < end:
        # One more at a time up to four, then about a quarter more: passing is not monotone, and a
        # prefix that is twice as long may fail where one in between passes.
        length = min(length + max(1, length // step), end)
        lengths.append(length)
    lengths = [n for n in lengths if n > start]
    found = question.first(order[:n] for n in lengths)
    if found is None:
        return None
    high = len(found)
    low = max((n for n in lengths if n < high), default=min(start, high - 1))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if question.ask([order[:middle]])[0] else (middle, high)
    return frozenset(order[:high])


def best_start(
    question: Question,
    orders: Sequence[Sequence[int]],
    known: Subset | None = None,
    step: int = STEP,
) -> tuple[Subset | None, int | None]:
    """Grow and shrink along several orders; return the smallest set and the size it was grown to.

    1. The first two orders are followed in turn, as far as the next of `BOUNDS`: a long prefix of
       one is dear to shrink where a short prefix of the other passes. What passes is shrunk.
    2. As long as nothing was found, and where the set has more than `LARGE` members, the other
       orders are followed too.
    3. Once there is a set, no prefix of more than twice its size is tried.
    4. A set known before is shrunk if nothing smaller was found by then.

    Parameters
    ----------
    question : Question
    orders : sequence of sequences of int
    known : frozenset of int, optional
        An explaining set met before.
    step : int
        As in `grow_fast`.

    Returns
    -------
    subset : frozenset of int or None
        Irreducible; None if no prefix of any order passes and nothing was known.
    grown : int or None
        Length of the first prefix that passed.

    Raises
    ------
    BudgetEnded
        When the budget ends first.
    """
    best, grown_size = known, None
    shrunk_already = known is None
    reach = [0] * len(orders)
    for bound in BOUNDS:
        for i, order in enumerate(orders):
            if best is not None and len(best) == 1:
                return best, grown_size
            if i >= 2 and best is not None and len(best) <= LARGE:
                break
            size = len(order) if best is None else min(2 * len(best), len(order))
            far = size if bound is None else min(bound, size)
            if far <= reach[i]:
                continue
            grown = grow_fast(question, order, far, reach[i], step)
            reach[i] = len(order) if grown else far
            if grown is None:
                continue
            grown_size = len(grown) if grown_size is None else grown_size
            smaller, _ = shrink(question, grown, order)
            if best is None or len(smaller) < len(best):
                best, shrunk_already = smaller, True
    if best is not None and not shrunk_already:
        best, _ = shrink(question, best, orders[0])
    return best, grown_size


def exchange(
    question: Question,
    subset: Subset,
    order: Sequence[int],
    widths: Sequence[int] = WIDTHS,
) -> tuple[Subset, bool]:
    """Replace two members by one, again and again, as long as that gives an explanation.

    Parameters
    ----------
    question : Question
    subset : frozenset of int
        An irreducible explaining set.
    order : sequence of int
        Units worth trying, best first.
    widths : sequence of int
        How many units are tried with each pair; one pair for each number.

    Returns
    -------
    subset : frozenset of int
        As small as the one given, or smaller.
    irreducible : bool
        What `shrink` said of it.

    Raises
    ------
    BudgetEnded
        When the budget ends first; what was found is known to the question.
    """
    best, irreducible = subset, True
    while len(best) > 1:
        smaller = _two_for_one(question, best, order, widths)
        if smaller is None:
            break
        best, irreducible = shrink(question, smaller, order)
    return best, irreducible


def _two_for_one(
    question: Question, best: Subset, order: Sequence[int], widths: Sequence[int]
) -> Subset | None:
    without = {u: question.distance(best - {u}) for u in best}
    pairs = sorted(combinations(sorted(best), 2), key=lambda p: (without[p[0]] + without[p[1]], p))
    outside = [u for u in order if u not in best]
    for pair, width in zip(pairs, widths, strict=False):
        rest = best - frozenset(pair)
        trials = [rest | {u} for u in outside[:width]]
        smaller = question.first([rest, *trials] if rest else trials)
        if smaller is not None:
            return smaller
        # Those that brought the rest nearest to passing are tried with the next pair first.
        near = sorted(outside[:width], key=lambda u: question.distance(rest | {u}))
        outside = near + outside[width:]
    return None
