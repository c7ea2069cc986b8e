"""An explanation in a few plain sentences, and the phrases they are made of.

Every sentence states its question: what could be masked and how, whether a set was to change the
answer or to be enough for it, and what counts as a change. This is the one place that knows how;
reports, cards, the app, figures and the command line take their sentences from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from causal_lvlm.explanation.names import TokenNames, amount, visible

if TYPE_CHECKING:
    from causal_lvlm.explanation.result import ExplainingSet, Explanation

__all__ = [
    "amount",
    "how",
    "members",
    "outcome",
    "question",
    "random_controls",
    "said",
    "sentence",
    "target_name",
]

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
_MASKED = {
    "remove": "removed from the input",
    "edges": "hidden from the rows that predict the target",
    "neutral": "replaced by an average embedding",
    "pixels-blur": "blurred in the image",
    "pixels-mean": "painted over in the image's mean colour",
}
_WITHIN = {
    "image": "within the image",
    "text": "within the text",
    "custom": "among the chosen positions",
}
# Tokens that end an answer, in the families whose checkpoints are in use.
_ENDS = frozenset(
    "</s> <eos> <|im_end|> <|endoftext|> <|end_of_text|> <|eot_id|> <|end|> <end_of_turn>".split()
)


def members(explanation: Explanation, found: ExplainingSet) -> str:
    """Name the members of a set: how many patches, and which words; empty if it has none."""
    modality = explanation.summary["modality"]
    image = [u for u in found.units if modality[u[0]] == "image"]
    placed = {int(p) for grid in explanation.summary.get("grids", ()) for p in grid["positions"]}
    unplaced = [u for u in image if u[0] not in placed]  # of models without a grid
    image = [u for u in image if u[0] in placed]
    parts = [amount(len(unplaced), "image token")] if unplaced else []
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
    names = TokenNames.of(explanation.summary)
    parts += names.listed([u for u in found.units if modality[u[0]] != "image"])
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
    for token in (visible(t) for t in tokens):
        if token in _ENDS:
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
        return f"nothing found: {whole}; {_in_vain(found)}"
    return _OUTCOMES.get(found.outcome, found.outcome.replace("_", " "))


def _in_vain(found: ExplainingSet) -> str:
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


def how(explanation: Explanation) -> str:
    """Return mode and, unless it is the usual one, tester: explanations of one word differ so."""
    tester = explanation.tester
    if tester == "flip":
        return explanation.mode
    other = explanation.against if tester == "contrast" else None
    return f"{explanation.mode}, {tester}" + ("" if other is None else f" with “{visible(other)}”")


def question(explanation: Explanation) -> str:
    """Return what a set had to do to be one, as a clause about “it”, the set."""
    masked, does = _masking(explanation), _does(explanation)
    if explanation.mode == "sufficient":
        return f"with everything else {masked}, {does['kept']}"
    return f"with it {masked}, {does['lost']}"


def _does(explanation: Explanation) -> dict[str, str]:
    """Return what the tester asks, in the forms that sentences need.

    ``kept`` and ``lost``: clauses of the prediction that stayed, or changed; ``says``: what the
    model did with everything visible; ``change``: what a set does that changes it.
    """
    ends, which = _is_end(explanation), target_name(explanation)
    if explanation.tester == "drop":
        part = f"{explanation.parameters.get('drop_ratio', 0.5):g} of what it was"
        return {
            "kept": f"the probability of {which} stays above {part}",
            "lost": f"the probability of {which} falls below {part}",
            "says": f"the model is as sure of {which} as it is",
            "change": f"takes the probability of {which} below {part}",
        }
    if explanation.tester == "contrast":
        rival = f"“{visible(explanation.against or 'its strongest rival')}”"
        return {
            "kept": f"{which} stays more likely than {rival}",
            "lost": f"{rival} is more likely than {which}",
            "says": f"the model prefers {which} to {rival}",
            "change": f"makes {rival} more likely than {which}",
        }
    does = "ends its answer here" if ends else f"says {which}"
    return {
        "kept": f"the model still {does}",
        "lost": f"the model no longer {does}",
        "says": f"the model {does}",
        "change": f"changes {which}",
    }


def _masking(explanation: Explanation) -> str:
    return _MASKED.get(explanation.masking, f"masked ({explanation.masking})")


def _is_end(explanation: Explanation) -> bool:
    return explanation.target.text.strip() in _ENDS


def _thing(explanation: Explanation) -> str:
    """Return what the target is called."""
    if _is_end(explanation):
        return "the end of the answer"
    return f"“{visible(explanation.target.text)}”"


def target_name(explanation: Explanation) -> str:
    """Return the target, with its number where the answer has it several times."""
    thing = _thing(explanation)
    names, own = TokenNames.of(explanation.summary), explanation.target.positions
    if _is_end(explanation) or max(own) >= len(names.tokens):
        return thing
    spoken = [p for p in names.places(own) if names.modality[p] == "generated"]
    place = names.place(own) if len(spoken) > 1 else ""
    return f"{thing} ({place})" if place else thing


def sentence(explanation: Explanation) -> str:
    """Say what was asked, what was found, and how sure it is.

    Parameters
    ----------
    explanation : Explanation

    Returns
    -------
    str
    """
    found = explanation.main
    text = _found(explanation, found) if found.verified else _not_found(explanation, found)
    if found.scope in _WITHIN:
        text = f"{_WITHIN[found.scope]}, {text}"
    return text[0].upper() + text[1:]


def _found(explanation: Explanation, found: ExplainingSet) -> str:
    what, says = members(explanation, found), _does(explanation)["says"]
    numbers = _probabilities(found, _thing(explanation))
    if explanation.mode == "sufficient":
        kept = says if explanation.tester != "drop" else _does(explanation)["kept"]
        first = f"{kept} when it is given no more than {what}{numbers}."
        rest = "all other candidates"
    else:
        first = f"{says} because of {what}. {_changed(explanation, found)}{numbers}."
        rest = "the set"
    sure = f"{amount(explanation.model_runs, 'model run')} in all"
    if found.size > 1:
        sure += f"; {_MINIMALITY[found.minimality]}"
    elif found.minimality == "none":
        sure += "; whether none of the candidates is enough was not asked"
    return f"{first} Verified by running the model with {rest} {_masking(explanation)}; {sure}."


def _not_found(explanation: Explanation, found: ExplainingSet) -> str:
    does, which, masked = _does(explanation), target_name(explanation), _masking(explanation)
    runs = amount(explanation.model_runs, "model run")
    # Only the joint scope holds everything: of a part no more can be said than that.
    everything = found.scope == "joint"
    if found.outcome == "not_maskable":
        why = (
            "it comes from the model's prior"
            if everything
            else "what decides it is not among these candidates alone"
        )
        if explanation.mode == "sufficient":
            return f"{does['kept']} even with every candidate {masked}: it needs none; {why}."
        if not found.n_tried:
            return (
                f"nothing that {does['change']} was found: with every candidate {masked}, "
                f"{does['kept']}; smaller sets were not tried."
            )
        return (
            f"no set of the candidates {does['change']}: all {amount(found.n_tried, 'set')} were "
            f"tried ({masked}; {runs}); {why}."
        )
    if found.outcome == "not_found":
        enough = " (its prior is enough for it)" if everything else ""
        return (
            f"nothing that {does['change']} was found in {runs}. With every candidate {masked}, "
            f"{does['kept']}{enough}; {_in_vain(found)}. Sets that were not tried may change it."
        )
    reason = _REASONS.get(found.outcome, found.outcome)
    return (
        f"no verified explanation of {which} was found (a set so that {question(explanation)}): "
        f"{reason}."
    )


def _changed(explanation: Explanation, found: ExplainingSet) -> str:
    """Say what the model does with the set masked, in the terms of the tester."""
    masked = f"With {'it' if found.size == 1 else 'them'} masked"
    tokens = explanation.summary["tokens"]
    target = [visible(tokens[p]) for p in explanation.target.positions]
    other = [visible(t) for t in found.predicted_after]
    first = next((k for k, (a, b) in enumerate(zip(target, other, strict=False)) if a != b), None)
    # Tokens behind the first changed one were predicted after words it would not have said.
    if first is None:
        does = f"the model still {said(other)}" if other else ""
    elif first == 0 and len(target) == 1:
        does = f"the model {said(other)}"
    else:
        does = f"the model {said(other[first : first + 1])} instead of “{target[first]}”"
    if explanation.tester == "flip":
        test, does = does or "the model says something else", ""
    else:
        test = _does(explanation)["lost"]
    return f"{masked}, {test}{f', and {does}' if does else ''}"


def _probabilities(found: ExplainingSet, thing: str) -> str:
    before, after = found.probability_before, found.probability_after
    if before is None or after is None:
        return ""
    return f" (p of {thing} {before:.2f} → {after:.2f})"
