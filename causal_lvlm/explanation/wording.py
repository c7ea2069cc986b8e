"""An explanation in a few plain sentences, and the phrases they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from causal_lvlm.explanation.result import ExplainingSet, Explanation

__all__ = ["amount", "members", "random_controls", "said", "sentence"]

_MINIMALITY = {
    "minimum": "no smaller set of the candidates does it",
    "irreducible": "no member can be left out, but a smaller set was not ruled out",
    "none": "the search ended before the set could be shrunk, so a smaller one may do it",
}
_REASONS = {
    "max_runs": "the budget of model runs was used up first",
    "time_limit": "the time limit came first",
    "interrupted": "the search was interrupted",
    "no_candidates": "there is nothing that could be masked",
    "max_size": "every verified set has more members than max_size allows",
}
_MASKED = {
    "remove": "removed from the input",
    "edges": "hidden from the rows that predict the target",
    "neutral": "replaced by an average embedding",
    "pixels-blur": "blurred in the image",
    "pixels-mean": "painted over in the image's mean colour",
}
# Tokens that end an answer, in the families whose checkpoints are in use.
_ENDS = frozenset(
    "</s> <eos> <|im_end|> <|endoftext|> <|end_of_text|> <|eot_id|> <|end|> <end_of_turn>".split()
)


def amount(count: int, thing: str) -> str:
    """Return a number with its noun: 1 model run, 2 model runs."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def members(explanation: Explanation, found: ExplainingSet) -> str:
    """Name the members of a set: how many patches, and which words; empty if it has none."""
    modality, tokens = explanation.summary["modality"], explanation.summary["tokens"]
    image = [u for u in found.units if modality[u[0]] == "image"]
    words = ["".join(tokens[p] for p in u).strip() for u in found.units if u not in image]
    parts = []
    if image:
        blocks = any(len(u) > 1 for u in image)
        one, several = ("block", "blocks") if blocks else ("patch", "patches")
        tail = " of patches" if blocks else ""
        for number, own in _by_image(explanation, image):
            what = one if len(own) == 1 else several
            parts.append(
                f"{len(own)} image {what}{tail}"
                if number is None
                else f"{len(own)} {what}{tail} of image {number}"
            )
    if words:
        quoted = ", ".join(f"“{w}”" for w in words)
        parts.append(f"the word{'s' if len(words) > 1 else ''} {quoted}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _by_image(
    explanation: Explanation, units: Sequence[tuple[int, ...]]
) -> list[tuple[int | None, list[tuple[int, ...]]]]:
    """Group image units by the image they are of; one group without a number if there is one."""
    if not explanation.summary.get("more_images"):
        return [(None, list(units))]
    grids = explanation.summary["grids"]
    image_of = {int(p): int(grid["image"]) for grid in grids for p in grid["positions"]}
    numbers = sorted({image_of.get(u[0], 0) for u in units})
    return [(n, [u for u in units if image_of.get(u[0], 0) == n]) for n in numbers]


def said(tokens: Sequence[str]) -> str:
    """Say what the model says, given its tokens: words in quotes, or that it says nothing more.

    The tokens of a longer target are each predicted after the ones before it; what stands behind
    the end of the answer is left out.
    """
    words: list[str] = []
    for token in (t.strip() for t in tokens):
        if token in _ENDS:
            return f"says “{' '.join(words)}” and ends" if words else "says nothing more"
        words.append(token)
    return f"says “{' '.join(words)}”"


def random_controls(found: ExplainingSet, mode: str) -> str:
    """Say how many random sets of the same size pass the same test; empty if none was tried."""
    if found.random_flip_rate is None or not found.n_random:
        return ""
    hits = round(found.random_flip_rate * found.n_random)
    single = found.n_random == 1
    verb = "change" if mode == "necessary" else "suffice"
    end = "it" if mode == "necessary" else "alone"
    return (
        f"{hits} of {found.n_random} random set{'' if single else 's'} of that size "
        f"{verb}{'s' if single else ''} {end}"
    )


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
    ends = target.strip() in _ENDS
    thing = "the end of the answer" if ends else f"“{target}”"
    says = "ends its answer here" if ends else f"says “{target}”"
    if found.outcome == "not_maskable":
        # Only the joint scope holds everything: of a part no more can be said than that it is
        # not what decides.
        why = (
            "it comes from the model's prior"
            if found.scope == "joint"
            else "what decides it is not among these candidates alone"
        )
        if explanation.mode == "sufficient":
            return f"The model {says} even with every candidate masked: it needs none; {why}."
        return f"Masking every candidate does not change {thing}: {why}."
    if not found.verified:
        reason = _REASONS.get(found.outcome, found.outcome)
        return f"No verified explanation of {thing} was found: {reason}."
    what, numbers = members(explanation, found), _probabilities(found, thing)
    if explanation.mode == "sufficient":
        first = f"The model {says} when it is given no more than {what}{numbers}."
    else:
        first = f"The model {says} because of {what}. {_changed(explanation, found)}{numbers}."
    masking = _MASKED.get(explanation.masking, explanation.masking)
    rest = "all other candidates" if explanation.mode == "sufficient" else "the set"
    return (
        f"{first} Verified by running the model with {rest} {masking}; "
        f"{amount(explanation.model_runs, 'model run')} in all; {_MINIMALITY[found.minimality]}."
    )


def _changed(explanation: Explanation, found: ExplainingSet) -> str:
    """Say what the model does with the set masked."""
    it = "it" if len(found.units) == 1 else "them"
    tokens = explanation.summary["tokens"]
    target = [tokens[p].strip() for p in explanation.target.positions]
    other = [t.strip() for t in found.predicted_after]
    first = next((k for k, (a, b) in enumerate(zip(target, other, strict=False)) if a != b), None)
    if first is None:
        return f"With {it} masked, the model is less sure"
    # Tokens behind the first changed one were predicted after words it would not have said.
    if first == 0 and len(target) == 1:
        return f"With {it} masked, the model {said(other)}"
    return (
        f"With {it} masked, the model {said(other[first : first + 1])} instead of “{target[first]}”"
    )


def _probabilities(found: ExplainingSet, thing: str) -> str:
    before, after = found.probability_before, found.probability_after
    if before is None or after is None:
        return ""
    return f" (p of {thing} {before:.2f} → {after:.2f})"
