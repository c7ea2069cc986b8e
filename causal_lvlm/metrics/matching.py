"""What is the same in two answers about the same images: targets, and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from causal_lvlm.errors import TargetError
from causal_lvlm.tokens import Target, TokenLayout, Units, resolve_target

__all__ = ["find_again", "match_units"]

Key: TypeAlias = "tuple[Any, ...]"


def find_again(
    layout: TokenLayout, target: Target, first: TokenLayout | None = None
) -> Target | None:
    """Return where another answer says a target: by token ids, else by text; None if nowhere.

    Parameters
    ----------
    layout : TokenLayout
        Of the other answer.
    target : Target
    first : TokenLayout, optional
        Of the target's own answer, to tell which of several equal places it is: the k-th there is
        the k-th here, or the last. Without it the first is taken.
    """
    places = _places(layout, target.token_ids)
    if places:
        number = 0
        if first is not None:
            number = _places(first, target.token_ids).index(target.start - first.n_prompt)
        start = places[min(number, len(places) - 1)]
        return resolve_target(layout, slice(start, start + len(target.token_ids)))
    try:
        return resolve_target(layout, target.text)
    except TargetError:
        return None


def _places(layout: TokenLayout, token_ids: Sequence[int]) -> list[int]:
    """Return where the generated tokens hold a run of ids, counted from the first of them."""
    said, wanted = layout.token_ids[layout.n_prompt :].tolist(), list(token_ids)
    return [k for k in range(len(said)) if said[k : k + len(wanted)] == wanted]


def match_units(
    first: TokenLayout, units: Units, second: TokenLayout, others: Units
) -> tuple[tuple[int, int], ...]:
    """Return pairs of units that mean the same in two sequences about the same images.

    Image units match if they hold the same cells of the same grids. Text units match if they have
    the same text, ignoring case, and it is the k-th unit with that text in both (prompt and answer
    apart).

    Returns
    -------
    tuple of (int, int)
        Units of the first and of the second sequence, in the order of the first.
    """
    partner = {key: unit for unit, key in enumerate(_keys(second, others))}
    return tuple(
        (unit, partner[key]) for unit, key in enumerate(_keys(first, units)) if key in partner
    )


def _keys(layout: TokenLayout, units: Units) -> list[Key]:
    """Return for each unit what makes it the same unit in another sequence."""
    count: dict[Key, int] = {}
    keys: list[Key] = []
    for members, modality in zip(units.members, units.modality, strict=True):
        if modality == "image":
            keys.append(("image", frozenset(layout.patch_cell(p) or ("at", p) for p in members)))
            continue
        text = "".join(layout.tokens[p] for p in members).strip().casefold()
        key = (modality, text)
        count[key] = count.get(key, 0) + 1
        keys.append((*key, count[key]))
    return keys
