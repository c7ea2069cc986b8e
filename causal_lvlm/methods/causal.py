"""The method ``causal``: explain the target, and score the units by what was found.

1. `causal_lvlm.explain` searches verified sets.
2. One more forward pass gives the attention that orders what stands in no tree.
3. `causal_lvlm.methods.explained.from_explanation` turns both into scores.

A target of several tokens (a word, a span) is one event by default: `explain` takes it as a whole,
and a set is verified where at least one of its tokens changes (tester ``flip``), or their joint
probability falls (``drop``); the small sets are then those of the token that is easiest to change.
With ``span="each"`` every token is explained by itself, teacher-forced, with what stands before the
span as candidates, and the scores are averaged: an answer for the span as a whole, for as many
searches as it has tokens. A note says which of the two was done.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. Causal Interpretation of Self-Attention in Pre-Trained
   Transformers. NeurIPS 2023, arXiv 2310.20307, algorithm 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.result import Attribution, Scores
from causal_lvlm.checks import check_choice
from causal_lvlm.explanation.explain import check_explain_options, explain
from causal_lvlm.methods.explained import from_explanation
from causal_lvlm.protocols import TraceLike
from causal_lvlm.sources import effective_attention
from causal_lvlm.tokens import Target, Units, candidate_units, resolve_target

__all__ = ["TABLE", "causal", "check_passed_on"]


def causal(
    trace: TraceLike,
    target: Target,
    *,
    units: Units | None = None,
    against: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    weights: Mapping[str, float] | None = None,
    n_random: int = 0,
    span: Literal["whole", "each"] = "whole",
    **options: Any,
) -> Scores:
    """Run `causal_lvlm.explain` and score the units by what it found.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units, optional
        What is scored; units of one modality alone restrict the search to that modality, unless
        the option `candidates` says otherwise. The search itself masks single tokens.
    against : int or str, optional
        A rival token; the tester is then ``contrast`` unless the options name another.
    seed : int
        For random control sets.
    progress : callable, optional
        Called with (stage, runs used, most runs).
    weights : mapping, optional
        See `from_explanation`.
    n_random : int
        Random control sets of the explanation; they cost model runs and change no score, so none
        are drawn by default.
    span : {"whole", "each"}
        Whether a target of several tokens is explained as one event, or token by token with the
        scores averaged; see the module's text. ``"each"`` spends the budget once for every token.
    **options
        Any other option of `causal_lvlm.explain`.

    Returns
    -------
    Scores
        ``model_runs`` counts the masked rows and every pass for attention or gradients.

    Raises
    ------
    ValueError
        If `span` is unknown, or is ``"each"`` where tokens are compared with one rival.
    TargetError, SelfCheckError, BudgetError, ValueError, TypeError
        From `explain`.
    """
    if against is not None:
        options = {"tester": "contrast", "against": against, **options}
    if units is not None and len(units) and "candidates" not in options:
        options["candidates"] = _scope(units)
    check_choice("span", span, ("whole", "each"))
    tokens, given = [target], options
    if span == "each" and len(target.positions) > 1:
        tokens, given = _one_by_one(trace, target, options)
        units = units if units is not None else candidate_units(trace.layout, target)
    made: list[Attribution] = []
    forwards = backwards = 0
    apart = 0.0  # compiling kernels is in no explanation's seconds
    for number, token in enumerate(tokens):
        tell = progress
        if progress is not None and len(tokens) > 1:
            tell = _of_token(progress, number, len(tokens))
        began = time.monotonic()
        found = explain(trace, token, seed=seed, n_random=n_random, progress=tell, **given)
        apart += max(0.0, time.monotonic() - began - found.seconds)
        attended = effective_attention(trace)[found.target.predictor]
        forwards += found.passes[0] + 1
        backwards += found.passes[1]
        made.append(from_explanation(found, units, weights=weights, attended=attended))
    parameters = {**made[0].parameters, "span": span}
    notes = made[0].notes
    if len(tokens) > 1:
        parameters["tokens"] = [
            {"text": one.target.text, "scopes": one.parameters["scopes"], "runs": one.model_runs}
            for one in made
        ]
        outcomes = "; ".join(f"{one.target.text!r}: {one.notes[0]}" for one in made)
        notes = (f"mean over the {len(tokens)} tokens of the target; {outcomes}",)
        # What another target of the same kind is asked with.
        parameters["explain"] = {
            **made[0].parameters["explain"],
            "candidates": options.get("candidates", "all"),
        }
    elif len(target.positions) > 1:
        notes += (
            f"the {len(target.positions)} tokens of the target were explained as one event; "
            "span='each' explains them one by one",
        )
    if (
        units is not None
        and parameters["explain"].get("pool") == 1
        and any(len(members) > 1 for members in units.members)
    ):
        notes += ("the search masked single tokens; a unit takes the best of its positions",)
    return Scores(
        np.mean([one.scores for one in made], axis=0),
        parameters,
        model_runs=sum(one.model_runs for one in made) + forwards,
        backward_passes=backwards,
        notes=notes,
        seconds_apart=apart,
    )


def _one_by_one(
    trace: TraceLike, target: Target, options: Mapping[str, Any]
) -> tuple[list[Target], dict[str, Any]]:
    """Return the tokens of a span as targets, and the options to explain each of them with."""
    if options.get("tester") == "contrast":
        raise ValueError(
            "a rival stands against the first token of the target only; with span='each' leave out "
            "`against`, or name the one token as the target"
        )
    layout = trace.layout
    # What the span says itself explains none of its tokens: only what stands before it.
    before = candidate_units(layout, target, candidates=options.get("candidates", "all"))
    candidates = [p for members in before.members for p in members]
    tokens = [resolve_target(layout, p - layout.n_prompt) for p in target.positions]
    return tokens, {**options, "candidates": candidates}


def _of_token(progress: Progress, number: int, n_tokens: int) -> Progress:
    """Say which of several tokens a stage belongs to."""

    def tell(stage: str, used: int, total: int) -> None:
        progress(f"token {number + 1} of {n_tokens}: {stage}", used, total)

    return tell


def _scope(units: Units) -> str:
    image = [m == "image" for m in units.modality]
    return "image" if all(image) else "all" if any(image) else "text"


def check_passed_on(options: Mapping[str, Any]) -> None:
    """Refuse options that `causal_lvlm.explain`, which gets them, would refuse."""
    check_explain_options(options)


TABLE: Table = (
    (
        causal,
        MethodInfo(
            name="causal",
            aliases=("cleann", "explanation"),
            family="causal",
            summary="verified explaining sets, then PDS-trees by radius and edge strength",
            cost="up to max_runs masked rows, 2 forward",
            needs=("units",),
            reference="Rohekar et al. 2023, arXiv:2310.20307",
        ),
    ),
)
