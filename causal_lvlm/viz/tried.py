"""What the model said under the masks that a search tried, and what can be masked as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from causal_lvlm.explanation.result import Explanation
from causal_lvlm.viz.payload_graph import short
from causal_lvlm.viz.view import TraceView

__all__ = ["maskable_units", "other_words", "probability_before", "tried_masks"]

_TRIED = 400  # masks whose answers are sent
Units: TypeAlias = list[tuple[int, ...]]
Tried: TypeAlias = tuple[Units, float | None, tuple[str, ...], bool]


def other_words(explanation: Explanation, words: Sequence[str]) -> bool:
    """Whether the model's first choice is not what it had said, token by token.

    Testers other than flip count more, or less, as a change: a page that says what the model says
    must not call that a change of the answer.
    """
    tokens = explanation.layout.tokens
    target = [tokens[p].strip() for p in explanation.target.positions]
    return [word.strip() for word in words] != target


def tried_masks(explanation: Explanation) -> list[Tried]:
    """Return the masks that were tried: units, probability, first choice, whether it changed.

    Explanations that did not keep them still know what verified their sets.
    """
    found: list[Tried] = []
    seen: set[frozenset[tuple[int, ...]]] = set()
    flip = explanation.tester == "flip"  # which knows the tokens, not only their texts

    def add(
        units: Iterable[Iterable[int]], p: float | None, words: Sequence[str], changed: bool
    ) -> None:
        masked = [tuple(int(p) for p in unit) for unit in units]
        if frozenset(masked) not in seen and len(found) < _TRIED:
            seen.add(frozenset(masked))
            other = changed if flip else other_words(explanation, words)
            found.append((masked, p, tuple(words), other))

    if explanation.mode == "necessary":
        for item in explanation.sets.values():
            if item.verified and item.predicted_after:
                add(item.units, item.probability_after, item.predicted_after, True)
    for entry in explanation.tried:
        add(entry.units, entry.probability, entry.first_choice, entry.changed)
    return found


def probability_before(explanation: Explanation, tried: Sequence[Tried]) -> float | None:
    """Return the probability of the target with nothing masked, None if nobody asked."""
    known = [s.probability_before for s in explanation.sets.values()]
    known += [p for masked, p, *_ in tried if not masked]
    return next((short(p) for p in known if p is not None), None)


def maskable_units(view: TraceView, explanation: Explanation, tried: Sequence[Tried]) -> Units:
    """Return what can be masked as one: as far as the explanation says, else single positions."""
    layout, start = view.layout, explanation.target.start
    excluded = {p for p, _ in explanation.excluded} | {start - 1}
    known = [u for masked, *_ in tried for u in masked]
    known += [tuple(u) for s in explanation.sets.values() for u in s.units]
    known += [
        tuple(m)
        for graph in explanation.graphs
        for node, m in enumerate(graph.members)
        if node != graph.target_node
    ]
    known += [(p,) for p in range(start) if layout.modality[p] != "special"]
    taken: set[int] = set()
    units = []
    for unit in known:
        if not taken.intersection(unit) and not excluded.intersection(unit):
            taken.update(unit)
            units.append(unit)
    return sorted(units)
