"""What a page has done for it: each is the work of one `Job`, or a part of it.

`answer` asks the model; `attend`, `explain`, `attribute` and `mask` find out about a run of it;
`compare` does it for two questions, `reopen` brings a saved one back. They ask their job at every
use of the model whether to go on (see `causal_lvlm.app.watch`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from causal_lvlm.app.attention import AnswerAttention, answer_attention
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.records import Asked, Limits, Masked, Turn
from causal_lvlm.app.turns import Job
from causal_lvlm.app.words import conversation, last_word
from causal_lvlm.errors import CausalLVLMError, PromptError
from causal_lvlm.tokens import Target, candidate_units, resolve_target

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.lvlm import LVLM, Trace
    from causal_lvlm.results import Evaluation

__all__ = ["Scored", "answer", "attend", "attribute", "compare", "explain", "mask", "reopen"]

Scored: TypeAlias = "Attribution | tuple[str, str]"
"""What a method says, or its name and why it cannot be used."""

_LEARNING = "learning graphs"  # the stage of `causal_lvlm.explain` that uses no model


def answer(
    job: Job,
    lvlm: LVLM,
    limits: Limits,
    image: Image.Image | None,
    question: str,
    *,
    earlier: Sequence[Turn] = (),
    max_new_tokens: int = 64,
) -> Trace:
    """Ask a question, alone or after earlier turns; stages ``answer`` carry the text so far.

    Raises
    ------
    PromptError
        If the question is too long, or has no picture and the model needs one.
    """
    if len(question) > limits.prompt:
        raise PromptError(
            f"the question has {len(question)} characters; allowed are {limits.prompt}"
        )
    if image is None and not lvlm.family.text_only:
        raise PromptError("this model looks at a picture; choose or upload one first")
    if lvlm.placeholder and lvlm.placeholder in question:
        question = question.replace(lvlm.placeholder, " ")  # pictures are placed by us

    def tell(token_id: int, text: str) -> None:
        if job.stopping:
            job.step()  # raises
        job.stage("answer", text)

    most = max(1, min(max_new_tokens, limits.new_tokens))
    if earlier:
        pictures, messages = conversation(image, question, earlier)
        return lvlm.run(pictures or None, messages, max_new_tokens=most, on_token=tell)
    return lvlm.run(image, question, max_new_tokens=most, on_token=tell)


def attend(job: Job, asked: Asked) -> AnswerAttention:
    """Return the attention of a run, read once."""
    if asked.attention is None:
        asked.attention = answer_attention(asked.trace, job.progress)
    return asked.attention


def explain(job: Job, asked: Asked, target: Target, options: Mapping[str, Any]) -> Explanation:
    """Search explaining sets; each smaller one that is met is a stage ``verified``.

    Stopping it gives the best set so far.
    """
    import causal_lvlm
    from causal_lvlm.app.watch import WatchedTrace

    units = None
    plain = options.get("mode", "necessary") == "necessary"
    if plain and options.get("tester", "flip") == "flip":
        units = candidate_units(asked.trace.layout, target, pool=options.get("pool", 1))

    def report(what: str, done: int, total: int) -> None:
        job.report(what, done, total)
        if what == _LEARNING:
            job.rest()

    # A stop arrives where the search asks the model: there it keeps what it has found.
    watched = WatchedTrace(asked.trace, job, units)
    found = causal_lvlm.explain(watched, target, progress=report, **options)
    if any(s.verified for s in found.sets.values()) or not job.stopping:
        asked.add(found)  # a search stopped too early replaces nothing
    return found


def attribute(
    job: Job, asked: Asked, target: Target, methods: Sequence[str], note_read: bool = False
) -> list[Attribution]:
    """Run methods one after the other; each is a stage ``attribution`` with its `Scored`.

    The causal one reads the explanation that there is, if the token has one.

    Parameters
    ----------
    job, asked, target
    methods : sequence of str
    note_read : bool
        Whether somebody has read the note on patents, so that methods may be used that have one.
    """
    import causal_lvlm
    from causal_lvlm.app.watch import WatchedTrace
    from causal_lvlm.methods import from_explanation

    noted = {m.name for m in causal_lvlm.list_methods() if m.family == "propagation"}
    results: list[Attribution] = []
    for place, name in enumerate(methods):
        job.progress(name, place, len(methods))
        key = (target.start, name)
        if key not in asked.attributions:
            known = asked.explanation() if name == "causal" else None
            options: dict[str, Any] = (
                {"accept_patent_note": True} if note_read and name in noted else {}
            )
            try:
                if known is not None:
                    found = from_explanation(known)
                else:
                    watched = WatchedTrace(asked.trace, job)
                    found = causal_lvlm.attribute(
                        watched, target, name, progress=job.progress, **options
                    )
                asked.attributions[key] = found
            except (CausalLVLMError, ValueError, TypeError) as error:
                job.stage("attribution", (name, error_text(str(error))))
                continue
        results.append(asked.attributions[key])
        job.stage("attribution", asked.attributions[key])
    return results


def mask(asked: Asked, target: Target, units: Sequence[Sequence[int]]) -> Masked:
    """Ask again with units masked."""
    hidden = sorted({int(p) for unit in units for p in unit})
    chosen = candidate_units(asked.trace.layout, target, candidates=hidden)
    subsets: list[Sequence[int]] = [range(len(chosen))]
    if target.start not in asked.before:
        subsets.append(())
    keep = chosen.keep_without(subsets, len(asked.trace.layout))
    result = asked.trace.evaluate(keep, target)
    if len(subsets) > 1:
        asked.before[target.start] = _probability(result, 1)
    said = [asked.trace.token_text(int(i)).strip() for i in result.argmax[0]]
    return Masked(
        tuple(hidden),
        _probability(result, 0),
        asked.before[target.start],
        " ".join(said),
        tuple(int(i) for i in result.argmax[0]) != tuple(target.token_ids),
    )


def _probability(result: Evaluation, row: int) -> float:
    return math.exp(float(result.log_prob[row]))


def compare(
    job: Job,
    lvlm: LVLM,
    limits: Limits,
    sides: Sequence[tuple[Image.Image | None, str]],
    words: Sequence[str],
    options: Mapping[str, Any],
) -> list[tuple[Asked, Explanation]]:
    """Ask twice and explain a word of each answer, the last where none is given.

    Each is a stage ``side`` with (place, Asked, Explanation).
    """
    results: list[tuple[Asked, Explanation]] = []
    for place, (image, question) in enumerate(sides):
        job.progress(f"asking {'AB'[place]}", place, len(sides))
        trace = answer(job, lvlm, limits, image, question)
        asked, word = Asked(0, trace, question), words[place].strip()
        asked.target = resolve_target(trace.layout, word) if word else last_word(trace.layout)
        found = explain(job, asked, asked.chosen(), options)
        job.step()  # a search that was stopped returns; the comparison must not go on
        results.append((asked, found))
        job.stage("side", (place, asked, found))
    return results


def reopen(file: Path, lvlm: LVLM) -> tuple[Trace, Explanation]:
    """Return a saved explanation and its run, which has the model only if it was made with it."""
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.lvlm import Trace

    found = Explanation.load(file)
    trace = Trace.from_dict(dict(found.summary))
    if lvlm.model_id == found.model_id:
        try:
            trace.attach(lvlm)
        except CausalLVLMError:
            trace = Trace.from_dict(dict(found.summary))  # shown, not asked
    return trace, found
