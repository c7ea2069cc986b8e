"""The phrases about one set that sentences, reports, figures and the command line are made of."""

from __future__ import annotations

from collections.abc import Sequence

from causal_lvlm.explanation.names import TokenNames, amount, visible
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.tokens import TokenLayout

__all__ = ["ENDS", "amount", "in_vain", "members", "outcome", "random_controls", "said"]

_OUTCOMES = {
    "explained": "explained",
    "max_runs": "nothing verified before the budget of model runs ended",
    "time_limit": "nothing verified before the time limit",
    "interrupted": "interrupted before anything was verified",
    "no_candidates": "nothing here can be masked",
}
# What a set must do, where only its tester is known: a prediction may change and yet not pass.
_TESTED = {
    "flip": ("change", "the prediction"),
    "drop": ("make", "the target improbable enough"),
    "contrast": ("make", "the rival more likely"),
}
# Tokens that end an answer, in the families whose checkpoints are in use.
ENDS = frozenset(
    "</s> <eos> <|im_end|> <|endoftext|> <|end_of_text|> <|eot_id|> <|end|> <end_of_turn>".split()
)


def members(layout: TokenLayout, found: ExplainingSet) -> str:
    """Name the members of a set: how many patches, and which words; empty if it has none.

    Parameters
    ----------
    layout : TokenLayout
    found : ExplainingSet
    """
    words = [u for u in found.units if layout.modality[u[0]] != "image"]
    image = [u for u in found.units if layout.patch_cell(u[0]) is not None]
    unplaced = len(found.units) - len(words) - len(image)  # of models without a grid
    parts = [amount(unplaced, "image token")] if unplaced else []
    if image:
        blocks = any(len(u) > 1 for u in image)
        one, several = ("block", "blocks") if blocks else ("patch", "patches")
        tail = " of patches" if blocks else ""
        for number, own in _by_image(layout, image):
            what = one if len(own) == 1 else several
            parts.append(
                f"{len(own)} image {what}{tail}"
                if number is None
                else f"{len(own)} {what}{tail} of image {number}"
            )
    parts += TokenNames.of(layout).listed(words)
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _by_image(
    layout: TokenLayout, units: Sequence[tuple[int, ...]]
) -> list[tuple[int | None, list[tuple[int, ...]]]]:
    """Group image units by the image they are of; one group without a number if there is one."""
    if len({grid.image for grid in layout.grids}) < 2:
        return [(None, list(units))]
    groups: dict[int | None, list[tuple[int, ...]]] = {}
    for unit in units:
        cell = layout.patch_cell(unit[0])
        if cell is not None:
            groups.setdefault(layout.grids[cell[0]].image, []).append(unit)
    return sorted(groups.items(), key=lambda group: group[0] or 0)


def said(tokens: Sequence[str]) -> str:
    """Say what the model says, given its tokens: words in quotes, or that it says nothing more.

    The tokens of a longer target are each predicted after the ones before it; what stands behind
    the end of the answer is left out.
    """
    words: list[str] = []
    for token in (visible(t) for t in tokens):
        if token in ENDS:
            return f"says “{' '.join(words)}” and ends" if words else "says nothing more"
        words.append(token)
    return f"says “{' '.join(words)}”"


def random_controls(found: ExplainingSet, mode: str, tester: str = "flip") -> str:
    """Say how many random sets of the same size pass the same test; empty if none was tried."""
    if found.random_flip_rate is None or not found.n_random:
        return ""
    hits = round(found.random_flip_rate * found.n_random)
    single = found.n_random == 1
    if mode == "sufficient":
        does = f"suffice{'s' * single} alone"
    elif tester == "flip":
        does = f"change{'s' * single} it"
    else:
        does = f"{'does' if single else 'do'} it"
    return f"{hits} of {found.n_random} random set{'' if single else 's'} of that size {does}"


def outcome(found: ExplainingSet, mode: str = "necessary", tester: str = "flip") -> str:
    """Return the outcome of one set as a clause: what was tried, and no more than that."""
    verb, rest = _TESTED.get(tester, _TESTED["flip"])
    whole = f"masking everything here does not {verb} {rest}"
    if found.outcome == "not_maskable" and mode == "sufficient":
        return f"nothing here is needed: {whole}"
    if found.outcome == "not_maskable" and found.n_tried:
        return f"nothing here {verb}s {rest}: all {amount(found.n_tried, 'set')} were tried"
    if found.outcome == "not_maskable":  # of a file that was written when no more was tried
        return f"{whole}; smaller sets were not tried"
    if found.outcome == "not_found":
        return f"nothing found: {whole}; {in_vain(found)}"
    return _OUTCOMES.get(found.outcome, found.outcome.replace("_", " "))


def in_vain(found: ExplainingSet) -> str:
    """Say how many sets smaller than the whole scope were tried, and what ended that."""
    parts = found.n_tried - 1
    if parts < 1:
        text = "no smaller set was tried"
    else:
        text = f"{amount(parts, 'smaller set')} {'was' if parts == 1 else 'were'} tried in vain"
    return text if found.ended is None else f"{text} before {_cut(found.ended)}"


def _cut(ended: str) -> str:
    return {
        "max_runs": "the budget of model runs ended",
        "time_limit": "the time limit came",
        "interrupted": "the search was interrupted",
    }.get(ended, ended.replace("_", " "))
