"""ReAGent: replace random units by something plausible, and learn which ones lower the target.

One run, from l_u = a uniform random number for each unit u:

1. Replace each unit with probability `ratio`: a text token by the embedding of a random token of
   the vocabulary, an image token by the feature of another image token of the same image.
2. delta = p(y | x) - p(y | replaced). Replaced units get d = delta, the others d = -delta, and
   l_u += logit((d + 1) / 2).
3. Keep the `rationale_size` units with the largest l, replace all others: the run ends once every
   target token is among the `top_k` first choices. Otherwise go to 1, at most `max_steps` times.
4. The run's scores are softmax(l).

The result is the mean over `n_runs` runs that ended by themselves; over all runs if none did (the
notes say how many). What is replaced does not depend on l, so that several steps of all runs are
evaluated together; steps computed beyond a run's end are counted among the model runs. Scores do
not depend on how many are taken together. With few units (a handful of sentences, say) step 3 keeps
half of them at most: where all are kept nothing is replaced, and every run would end at its first
step with little more than its random start.

The authors replace tokens by what RoBERTa expects in their place; here nothing but the model itself
is at hand. Image tokens are not in their paper.

References
----------
Z. Zhao, B. Shan, "ReAGent: A Model-agnostic Feature Attribution Method for Generative Language
Models", 2024, arXiv:2402.00794. The update, the stopping rule and the defaults (5 units, top 3,
ratio 0.3) were checked against the version in the inseq package; the number of runs is the
authors'. Their limit is 3 000 steps, here it is lower; and a run that did not end made the package
return NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.replacements import Replacements
from causal_lvlm.attribution.result import Scores, spread
from causal_lvlm.checks import whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["TABLE", "reagent"]

# A change of probability of exactly 1 would make the logit infinite.
_LARGEST_CHANGE = 1.0 - 1e-7


def reagent(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    n_runs: int = 5,
    ratio: float = 0.3,
    rationale_size: int = 5,
    top_k: int = 3,
    min_steps: int = 1,
    max_steps: int = 200,
    steps_per_batch: int = 4,
    vocabulary: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score units by how much random replacements that include them lower the target.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    n_runs : int
        Runs from different random starts.
    ratio : float
        Probability with which a unit is replaced in a step, between 0 and 1.
    rationale_size : int
        Units that are kept when the stopping rule is tried; at most half of all.
    top_k : int
        A run ends once the target's tokens are among this many first choices.
    min_steps, max_steps : int
        Fewest and most steps of a run. With few possible answers the stopping rule is soon met by
        chance, before there is much to learn from; the published rule has no fewest.
    steps_per_batch : int
        Steps evaluated together: the more, the faster, and the more beyond the end of a run.
    vocabulary : sequence of int, optional
        Tokens to draw replacements from; by default all but special tokens.
    seed : int
    batch_size : int, optional
        Most rows in one call.
    progress : callable, optional
        Called with (stage, steps done, most steps).

    Returns
    -------
    Scores
        Each unit's mean over runs, between 0 and 1, with its standard error over runs.

    Raises
    ------
    ValueError
        If an option is out of range.
    """
    for name, value in (
        ("n_runs", n_runs),
        ("rationale_size", rationale_size),
        ("top_k", top_k),
        ("min_steps", min_steps),
        ("max_steps", max_steps),
        ("steps_per_batch", steps_per_batch),
    ):
        whole_number(name, value, 1)
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio must lie between 0 and 1, got {ratio}")
    if min_steps > max_steps:
        raise ValueError(f"min_steps is {min_steps}, but max_steps only {max_steps}")
    kept = min(rationale_size, len(units) // 2)
    rule = _Rule(full=0.0, ratio=ratio, keep=kept, top_k=top_k, min_steps=min_steps)
    probe = Replacements(trace, target, units, vocabulary, batch_size)
    states = [_Run(np.random.default_rng([seed, run]), len(units)) for run in range(n_runs)]
    nowhere = np.zeros((1, probe.n_positions), dtype=np.bool_)
    rule.full = float(probe.probability(nowhere, np.zeros((1, probe.n_drawn)))[0])
    done = 0
    while done < max_steps and len(units) > 1:  # one unit alone gets all there is
        active = [state for state in states if not state.ended]
        if not active:
            break
        steps = min(steps_per_batch, max_steps - done)
        _advance(active, steps, probe, rule)
        done += steps
        if progress is not None:
            progress("reagent", done, max_steps)
    if progress is not None:
        progress("reagent", max_steps, max_steps)
    ended = [state for state in states if state.ended]
    each = np.stack([state.scores() for state in ended or states])
    errors = each.std(axis=0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else None
    parameters = {
        "n_runs": n_runs,
        "ratio": ratio,
        "rationale_size": rationale_size,
        "top_k": top_k,
        "min_steps": min_steps,
        "max_steps": max_steps,
        "vocabulary": None if vocabulary is None else [int(i) for i in vocabulary],
        "seed": seed,
        "kept": kept,
        "steps": [state.steps for state in states],
    }
    used = "their mean is returned" if ended else "the mean of all is returned"
    return Scores(
        spread(each.mean(axis=0), units, probe.n_positions),
        parameters,
        model_runs=probe.runs,
        notes=(f"{len(ended)} of {n_runs} runs ended within {max_steps} steps; {used}",),
        standard_error=None if errors is None else spread(errors, units, probe.n_positions),
    )


@dataclass
class _Rule:
    """What a step does, and when a run ends."""

    full: float
    ratio: float
    keep: int
    top_k: int
    min_steps: int


class _Run:
    """One run: its own stream of random numbers, and the logits l."""

    def __init__(self, rng: np.random.Generator, n_units: int) -> None:
        self.rng = rng
        self.logits: FloatArray = rng.random(n_units)
        self.steps = 0
        self.ended = False

    def scores(self) -> FloatArray:
        """Return softmax(l), float64 (U,)."""
        raised = np.exp(self.logits - self.logits.max(initial=-np.inf))
        return np.asarray(raised / raised.sum())


def _advance(active: Sequence[_Run], steps: int, probe: Replacements, rule: _Rule) -> None:
    """Take some steps of all active runs; each stops where its rule says so."""
    n_units = len(probe.units)
    replaced = np.empty((len(active), steps, n_units), dtype=np.bool_)
    draws = np.empty((2, len(active), steps, probe.n_drawn))
    for number, run in enumerate(active):
        for step in range(steps):
            replaced[number, step] = run.rng.random(n_units) < rule.ratio
            draws[0, number, step] = run.rng.random(probe.n_drawn)
            draws[1, number, step] = run.rng.random(probe.n_drawn)
    flat = (len(active) * steps, -1)
    chance = probe.probability(probe.positions_of(replaced.reshape(flat)), draws[0].reshape(flat))
    change = np.clip(rule.full - chance, -_LARGEST_CHANGE, _LARGEST_CHANGE).reshape(
        len(active), steps
    )
    gains = 2.0 * np.arctanh(change)[:, :, None]  # logit((d + 1) / 2) = 2 artanh(d)
    path = np.cumsum(np.where(replaced, gains, -gains), axis=1)
    path += np.stack([run.logits for run in active])[:, None, :]
    best = np.argsort(-path, axis=2, kind="stable")[:, :, : rule.keep]
    others = np.ones_like(replaced)
    np.put_along_axis(others, best, False, axis=2)
    hits = probe.among_first(
        probe.positions_of(others.reshape(flat)), draws[1].reshape(flat), rule.top_k
    ).reshape(len(active), steps)
    counted = np.array([run.steps for run in active])[:, None] + np.arange(1, steps + 1)
    hits &= counted >= rule.min_steps
    for number, run in enumerate(active):
        last = int(np.argmax(hits[number])) if hits[number].any() else steps - 1
        run.ended = bool(hits[number].any())
        run.logits = path[number, last]
        run.steps += last + 1


TABLE: Table = (
    (
        reagent,
        MethodInfo(
            "reagent",
            (),
            "perturbation",
            "random replacement by other tokens or patches until a few units carry the target",
            "2 forwards a step and run: at least 40, at most 2 000",
            needs=("units",),
            reference="Zhao & Shan 2024, arXiv:2402.00794",
        ),
    ),
)
