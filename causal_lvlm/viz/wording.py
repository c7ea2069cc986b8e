"""Plain words for the named outcomes, origins and settings of an explanation."""

from __future__ import annotations

from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.wording import outcome

__all__ = [
    "badges_of",
    "ended",
    "found_by",
    "graph_outcome",
    "minimality",
    "number",
    "set_title",
    "verdict",
]

_GRAPHS = {
    "candidates": "",
    "isolated": "the target has no neighbour in any graph",
    "target_dropped": "the target's row is degenerate in every head, so there is no graph",
    "first_position": "nothing stands before the target",
}
_ENDED = {
    "max_runs": "the budget of model runs ended the search",
    "time_limit": "the time limit ended the search",
    "interrupted": "the search was interrupted",
}
_SETS = {
    "joint": "Whole input",
    "all": "Whole input",
    "image": "Within the image",
    "text": "Within the text",
    "custom": "Within the chosen positions",
}
_MINIMALITY = {
    "minimum": "minimum: no smaller set of the candidates does it",
    "irreducible": "irreducible: no member can be left out",
    "none": "no claim of minimality",
}


def ended(name: str | None) -> str:
    """Return which budget ended a search, as a clause; empty if none did."""
    return "" if name is None else _ENDED.get(name, name.replace("_", " "))


def graph_outcome(name: str | None) -> str:
    """Return why no graph proposes candidates, as a clause; empty if one does."""
    return "" if name is None else _GRAPHS.get(name, name.replace("_", " "))


def set_title(name: str, n_images: int = 1) -> str:
    """Return the heading of one of the sets of an explanation."""
    if name == "image" and n_images > 1:
        return "Within the images"
    return _SETS.get(name, f"Within the {name}")


def minimality(item: ExplainingSet) -> str:
    """Return what is claimed about the size of a set; of one member nothing has to be said."""
    return "" if len(item.units) == 1 else _MINIMALITY.get(item.minimality, item.minimality)


def verdict(verified: bool) -> str:
    """Return the wording of the badge; an unverified set is never called an explanation."""
    return "verified by running the model again" if verified else "candidate set, not verified"


def badges_of(
    item: ExplainingSet, mode: str = "necessary", tester: str = "flip"
) -> list[tuple[str, str]]:
    """Return tone and text of each badge of a set: verified, minimality, where it came from."""
    said = verdict(item.verified) if item.verified or item.units else "no set was found"
    badges = [("good" if item.verified else "warn", said)]
    if item.verified:
        size = minimality(item)
        badges += [("plain", size)] if size else []
    elif item.outcome != "explained":
        badges.append(("plain", outcome(item, mode, tester)))
    if item.found_by is not None:
        badges.append(("plain", f"found by: {found_by(item)}"))
    if item.ended:
        badges.append(("warn", ended(item.ended)))
    return badges


def found_by(item: ExplainingSet) -> str:
    """Return where a set came from: one head's graph within a radius, or the search after it."""
    if item.found_by is None:
        return "–"
    if item.found_by == "fallback":
        return "a search outside the graph"
    text = f"the {item.found_by}"
    if item.head is not None:
        text += f" of head {item.head}"
    if item.radius is not None:
        text += f", radius {item.radius}"
    return text


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with few digits, a dash for nothing or NaN."""
    if value is None or value != value:
        return "–"
    if value and abs(value) < 10.0**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"
