"""Does an explanation survive another wording of the question, and does word order matter at all?

1. The model is asked again about the same images with each reworded prompt.
2. The target is looked for in the new answer: the same token ids, else the same text. A target that
   was said several times is the same one by its number (the last, if it is said less often now).
   Where it is not said, the prediction itself changed; such a wording counts in ``target_kept``,
   and no agreement is computed for it: there is nothing left to agree on.
3. Units of both traces are matched: image units by the cells they hold, words by their text and
   how often it occurred before. What occurs in one wording only has no partner and is left out.
4. For a map: Spearman's correlation over the matched image units (the value), the Jaccard index of
   the highest tenth of them, and Spearman over the matched words. For an `Explanation`: `explain`
   is run again with its own options, and the value is the Jaccard index of the two main sets,
   members without a partner counting as different.

`shuffled_words` makes the wordings for the question of ARO (Yuksekgonul et al., When and Why
Vision-Language Models Behave like Bags-of-Words, ICLR 2023, arXiv 2210.01936): a model that gives
the same answer to a shuffled question (``same_answer`` near 1) did not use the order of its words,
and an explanation that then differs explains something the answer did not depend on.

Stability is no evidence of faithfulness: a map that is always bright in the middle is perfectly
stable. Read it beside `mprt` and the faithfulness metrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from causal_lvlm.checks import whole_number
from causal_lvlm.explanation.explain import explain
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.metrics.agreement import CAUTION
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.matching import find_again, match_units
from causal_lvlm.metrics.ranks import spearman_rho, top_k_overlap
from causal_lvlm.metrics.rerun import REFUSALS, Method, Recipe, Rerun
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units, candidate_units
from causal_lvlm.units import make_units

__all__ = ["METRICS", "rewording_stability", "shuffled_words"]


def shuffled_words(question: str, n: int = 5, *, seed: int = 0) -> tuple[str, ...]:
    """Return a question with its words in random order.

    Punctuation at the end stays there.

    Parameters
    ----------
    question : str
        The bare question, without the frame of a chat template.
    n : int
        How many; fewer are returned where the words have not so many other orders.
    seed : int

    Returns
    -------
    tuple of str
        All different from each other and from the question.

    Examples
    --------
    >>> shuffled_words("is it red?", 2, seed=1)
    ('is red it?', 'red it is?')
    """
    whole_number("n", n, 1)
    found = re.fullmatch(r"(.*?)(\s*[^\w\s]*)", question.strip(), flags=re.DOTALL)
    body, end = found.groups() if found else (question, "")
    words = body.split()
    distinct = math.factorial(len(words))
    for count in {word: words.count(word) for word in words}.values():
        distinct //= math.factorial(count)
    rng = np.random.default_rng([whole_number("seed", seed, 0), len(words)])
    orders: dict[tuple[str, ...], None] = {}
    while len(orders) < min(n, distinct - 1):
        order = tuple(words[i] for i in rng.permutation(len(words)))
        if order != tuple(words):
            orders[order] = None
    return tuple(" ".join(order) + end for order in orders)


def rewording_stability(
    case: Case,
    result: Recipe,
    rerun: Rerun,
    *,
    prompts: Sequence[Any],
    method_options: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
) -> Measured:
    """Return how far an explanation of the same target agrees between wordings of the question.

    Parameters
    ----------
    case : Case
        Its trace must have a model.
    result : str, Attribution, Explanation or callable
        See `causal_lvlm.metrics.rerun`; it is computed for the case's own wording too.
    rerun : callable
        Makes it ready to be asked (`causal_lvlm.methods.rerun`).
    prompts : sequence
        Other wordings, as `LVLM.run` takes them: bare questions, or with the image's placeholder.
    method_options : mapping, optional
        Options of the method (of `explain` for an `Explanation`).
    max_new_tokens : int, optional
        By default that of the trace.
    seed : int, optional
        By default that of the case.

    Returns
    -------
    Measured
        Higher is better: the mean over wordings of Spearman's correlation over image units, or of
        the Jaccard index of sets. None where no wording kept the target. The detail holds
        ``same_answer`` and ``target_kept`` (shares of the wordings), and for each wording its
        ``answer`` and what was compared.

    Raises
    ------
    ValueError
        If there are no prompts.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("prompts must be a list of at least one other wording of the question")
    seed = case.seed if seed is None else whole_number("seed", seed, 0)
    trace = case.trace
    most = max_new_tokens or trace.parameters.get("max_new_tokens", 64)
    chat = trace.parameters.get("chat_template")
    images = list(trace.images)
    picture = images[0] if len(images) == 1 else images or None
    ask: _Maps | _Sets
    if isinstance(result, Explanation):
        ask = _Sets(case, result, {**(method_options or {}), "seed": seed})
    else:
        ask = _Maps(case, rerun(result, method_options, seed))
    rows = []
    for prompt in prompts:
        asked = trace.model.run(picture, prompt, max_new_tokens=most, chat_template=chat)
        row: dict[str, Any] = {
            "prompt": prompt,
            "answer": asked.answer,
            "same_answer": asked.answer.casefold().split() == trace.answer.casefold().split(),
        }
        target = find_again(asked.layout, case.target, trace.layout)
        row["target_kept"] = target is not None
        if target is not None:
            units = _units_like(case, asked, target)
            pairs = match_units(trace.layout, case.units, asked.layout, units)
            try:
                row |= ask.compare(asked, target, units, pairs)
            except REFUSALS as error:
                row["refused"] = str(error)
        rows.append(row)
    case.asker.count(ask.model_runs)
    detail: dict[str, Any] = {
        "same_answer": float(np.mean([row["same_answer"] for row in rows])),
        "target_kept": float(np.mean([row["target_kept"] for row in rows])),
        "compared": ask.what,
        "wordings": rows,
        "caution": CAUTION,
    }
    for name in ask.names:
        known = [row[name] for row in rows if row.get(name) is not None]
        detail[name] = float(np.mean(known)) if known else None
    value = detail[ask.names[0]]
    if value is None:
        kept = detail["target_kept"] > 0
        detail["undefined"] = (
            "nothing could be compared" if kept else "no wording made the model say the target"
        )
    return Measured(value, detail, ask.model_runs)


class _Maps:
    """Compares maps of scores with that of the case's own wording."""

    names = ("image_spearman", "image_top", "word_spearman")
    what = "maps"

    def __init__(self, case: Case, run: Method) -> None:
        self._case, self._run = case, run
        self._own = run(case.trace, case.target, case.units).scores

    @property
    def model_runs(self) -> int:
        return self._run.model_runs

    def compare(
        self, trace: TraceLike, target: Target, units: Units, pairs: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        other = self._run(trace, target, units).scores
        found: dict[str, Any] = {}
        for name, image in (("image", True), ("word", False)):
            chosen = [p for p in pairs if (self._case.units.modality[p[0]] == "image") == image]
            a, b = (np.array([m[p[i]] for p in chosen]) for i, m in enumerate((self._own, other)))
            found[f"{name}_units"] = len(chosen)
            rho = spearman_rho(a, b) if chosen else math.nan
            found[f"{name}_spearman"] = None if math.isnan(rho) else rho
            if image:
                k = max(1, round(0.1 * len(chosen)))
                found["image_top"] = top_k_overlap(a, b, k) if chosen else None
        return found


class _Sets:
    """Compares main explaining sets with that of the case's own wording."""

    names = ("set_jaccard",)
    what = "sets"

    def __init__(self, case: Case, made: Explanation, options: Mapping[str, Any]) -> None:
        self._case, self._made = case, made
        self._options = {**made.parameters, **options}
        self.model_runs = 0
        self._own = self._explain(case.trace, case.target)

    def _explain(self, trace: TraceLike, target: Target) -> Explanation:
        if self._made.target == target and self._made.summary == trace.to_dict():
            return self._made
        found = explain(trace, target, **self._options)
        self.model_runs += found.model_runs
        return found

    def compare(
        self, trace: TraceLike, target: Target, units: Units, pairs: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        own, other = self._own.main, self._explain(trace, target).main
        if not (own.verified and other.verified):
            return {"set_jaccard": None, "outcome": other.outcome}
        a, b = _paired(self._case.units, own.positions, units, other.positions, pairs)
        return {"set_jaccard": len(a & b) / len(a | b), "sizes": [len(a), len(b)]}


def _paired(
    units: Units,
    own: Sequence[int],
    other_units: Units,
    other: Sequence[int],
    pairs: Sequence[tuple[int, int]],
) -> tuple[set[object], set[object]]:
    """Return two sets of positions as units of the first; what has no partner is like nothing."""
    mine, theirs = units.unit_of(), other_units.unit_of()
    partner = {second: first for first, second in pairs}
    return (
        {mine.get(p, -1 - p) for p in own},
        {partner.get(theirs.get(p, -1), ("alone", p)) for p in other},
    )


def _units_like(case: Case, trace: TraceLike, target: Target) -> Units:
    """Return units of another trace by the name of the case's, single tokens where it has none."""
    if case.units_name == "custom":
        return candidate_units(trace.layout, target)
    return make_units(trace, target, case.units_name)


METRICS = (
    (
        rewording_stability,
        MetricInfo(
            "rewording_stability", "sanity", "higher", "other",
            "agreement of explanations of the same target between wordings of the question",
            "this package; word order: Yuksekgonul et al. 2023 (ARO), arXiv 2210.01936",
        ),
    ),
)  # fmt: skip
