"""An explanation in a few plain sentences.

Every sentence states its question: what could be masked and how, whether a set was to change the
answer or to be enough for it, and what counts as a change. This is the one place that knows how;
reports, cards, the app, figures and the command line take their sentences from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from causal_lvlm.explanation.names import TokenNames, amount, visible
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.wording import ENDS, in_vain, members, said
from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["Told", "how", "question", "sentence", "target_name"]

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
_WITHIN = {
    "image": "within the image",
    "text": "within the text",
    "custom": "among the chosen positions",
}


class Told(Protocol):
    """What sentences are made of; an `Explanation` is one."""

    @property
    def target(self) -> Target:
        """What was asked about."""

    @property
    def main(self) -> ExplainingSet:
        """The set that the sentence is about."""

    @property
    def mode(self) -> str:
        """Whether a set was to change the answer or to be enough for it."""

    @property
    def tester(self) -> str:
        """What counts as a change."""

    @property
    def against(self) -> str | None:
        """The rival, where there is one."""

    @property
    def masking(self) -> str:
        """How tokens were masked."""

    @property
    def model_runs(self) -> int:
        """Masked rows evaluated in all."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Options of the explanation."""

    @property
    def layout(self) -> TokenLayout:
        """What stands at each position of the run."""


def how(explanation: Told) -> str:
    """Return mode and, unless it is the usual one, tester: explanations of one word differ so."""
    tester = explanation.tester
    if tester == "flip":
        return explanation.mode
    other = explanation.against if tester == "contrast" else None
    return f"{explanation.mode}, {tester}" + ("" if other is None else f" with “{visible(other)}”")


def question(explanation: Told) -> str:
    """Return what a set had to do to be one, as a clause about “it”, the set."""
    masked, does = _masking(explanation), _does(explanation)
    if explanation.mode == "sufficient":
        return f"with everything else {masked}, {does['kept']}"
    return f"with it {masked}, {does['lost']}"


def _does(explanation: Told) -> dict[str, str]:
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


def _masking(explanation: Told) -> str:
    return _MASKED.get(explanation.masking, f"masked ({explanation.masking})")


def _is_end(explanation: Told) -> bool:
    return explanation.target.text.strip() in ENDS


def _thing(explanation: Told) -> str:
    """Return what the target is called."""
    if _is_end(explanation):
        return "the end of the answer"
    return f"“{visible(explanation.target.text)}”"


def target_name(explanation: Told) -> str:
    """Return the target, with its number where the answer has it several times."""
    thing = _thing(explanation)
    names, own = TokenNames.of(explanation.layout), explanation.target.positions
    if _is_end(explanation) or max(own) >= len(names.tokens):
        return thing
    spoken = [p for p in names.places(own) if names.modality[p] == "generated"]
    place = names.place(own) if len(spoken) > 1 else ""
    return f"{thing} ({place})" if place else thing


def sentence(explanation: Told) -> str:
    """Say what was asked, what was found, and how sure it is.

    Parameters
    ----------
    explanation : Told

    Returns
    -------
    str
    """
    found = explanation.main
    text = _found(explanation, found) if found.verified else _not_found(explanation, found)
    if found.scope in _WITHIN:
        text = f"{_WITHIN[found.scope]}, {text}"
    return text[0].upper() + text[1:]


def _found(explanation: Told, found: ExplainingSet) -> str:
    what, says = members(explanation.layout, found), _does(explanation)["says"]
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


def _not_found(explanation: Told, found: ExplainingSet) -> str:
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
            f"{does['kept']}{enough}; {in_vain(found)}. Sets that were not tried may change it."
        )
    reason = _REASONS.get(found.outcome, found.outcome)
    return (
        f"no verified explanation of {which} was found (a set so that {question(explanation)}): "
        f"{reason}."
    )


def _changed(explanation: Told, found: ExplainingSet) -> str:
    """Say what the model does with the set masked, in the terms of the tester."""
    masked = f"With {'it' if found.size == 1 else 'them'} masked"
    tokens = explanation.layout.tokens
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
