"""An explanation in one or two plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from causal_lvlm.explanation.result import ExplainingSet, Explanation

__all__ = ["sentence"]

_MINIMALITY = {
    "minimum": "no smaller set of these candidates does it",
    "irreducible": "no member can be left out, but a smaller set was not ruled out",
    "none": "the budget ended before the set could be shrunk, so a smaller one may do it",
}
_REASONS = {
    "max_runs": "the budget of model runs ended first",
    "time_limit": "the time limit ended the search first",
    "interrupted": "the search was interrupted",
    "no_candidates": "there is nothing that could be masked",
}


def _members(explanation: Explanation, found: ExplainingSet) -> str:
    """Name the members: how many patches, and which words."""
    modality, tokens = explanation.summary["modality"], explanation.summary["tokens"]
    image = [u for u in found.units if modality[u[0]] == "image"]
    words = [tokens[u[0]].strip() for u in found.units if u not in image]
    parts = []
    if image:
        kind = "patch" if all(len(u) == 1 for u in image) else "block of patches"
        plural = "blocks of patches" if "block" in kind else "patches"
        parts.append(f"{len(image)} image {kind if len(image) == 1 else plural}")
    if words:
        quoted = ", ".join(f"“{w}”" for w in words)
        parts.append(f"the word{'s' if len(words) > 1 else ''} {quoted}")
    return " and ".join(parts)


def sentence(explanation: Explanation) -> str:
    """Say what was found, and how sure it is.

    Parameters
    ----------
    explanation : Explanation

    Returns
    -------
    str
    """
    found, target = explanation.main, explanation.target.text
    if found.outcome == "not_maskable":
        if explanation.mode == "sufficient":
            return (
                f"The model says “{target}” even with every candidate masked: it needs none of "
                "them, the answer comes from its prior."
            )
        return (
            f"Masking every candidate does not change “{target}”: the answer comes from the "
            "model's prior, not from these tokens."
        )
    if not found.verified:
        reason = _REASONS.get(found.outcome, found.outcome)
        return f"No verified explanation of “{target}” was found: {reason}."
    before, after = found.probability_before, found.probability_after
    numbers = f"p {before:.2f} → {after:.2f}" if before is not None and after is not None else ""
    other = " ".join(t.strip() for t in found.predicted_after)
    single = len(found.units) == 1 and not found.positions[1:]
    without = "it" if single else "them"
    members = _members(explanation, found)
    if explanation.mode == "sufficient":
        first = f"To say “{target}” the model needs no more than {members} ({numbers})."
    elif other and other != target:
        first = (
            f"The model says “{target}” because of {members}: without {without} it says "
            f"“{other}” ({numbers})."
        )
    else:
        first = f"The model says “{target}” because of {members} ({numbers} without {without})."
    return (
        f"{first} Verified by masking ({explanation.masking}); {explanation.model_runs} model runs "
        f"in all; {_MINIMALITY[found.minimality]}."
    )
