"""Explain one generated token: from graphs to a set that the model itself confirmed.

1. Resolve the target, its candidate units and the tester; run the model unmasked, and with every
   candidate of a scope masked. If that does not change the prediction: ``not_maskable``.
2. Learn a PAG per head from attention and build the target's PDS-trees.
3. Single units of the trees, nearest first. If one passes, it is the set.
4. Else the smallest radius at which the units of one head pass together; shrink them until none
   can be left out. If more than two are left, legal sets of fewer units are tried in CLEANN's
   order (small sets first, then sum of distances).
5. If no tree passes (``found_by="fallback"``): all units one by one in the order of their
   gradient, then grow by the effect of masking each alone, and shrink.
6. Prove minimality as far as the budget allows; evaluate random control sets.

This is done for image and text together, for the image alone and for the text alone: the smallest
set is often a word of the question, which is true, and not what somebody asks who looks at the
image.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. Causal Interpretation of Self-Attention in Pre-Trained
   Transformers. NeurIPS 2023, arXiv 2310.20307, algorithm 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from causal_lvlm.correlation import TokenCorrelation, attention_correlations, nodes_to_units
from causal_lvlm.errors import BudgetError, SelfCheckError, TargetError
from causal_lvlm.explanation.evaluator import Budget, SubsetEvaluator
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.result import ExplainingSet, Explanation
from causal_lvlm.explanation.scope_search import ScopeSearch
from causal_lvlm.explanation.testers import TESTERS, Tester
from causal_lvlm.storage import versions
from causal_lvlm.tokens import Target, TargetLike, Units, candidate_units, resolve_target

__all__ = ["MASKINGS", "explain"]

MASKINGS = ("remove", "edges", "neutral", "pixels-blur", "pixels-mean")
MODES = ("necessary", "sufficient")
SCOPES = ("joint", "image", "text", "custom")
N_RANDOM = 20
MAX_TESTS = 2_000_000
# Share of the remaining runs that a scope may use; what it leaves goes to the next one. The joint
# scope comes last: it starts from the sets that image and text alone have, and mixes them.
SCOPE_SHARES = {"text": 0.25, "image": 0.6, "joint": 1.0}


def explain(
    trace: Any,
    target: TargetLike,
    *,
    mode: Literal["necessary", "sufficient"] = "necessary",
    tester: Literal["flip", "drop", "contrast"] = "flip",
    against: str | int | None = None,
    drop_ratio: float = 0.5,
    heads: Literal["all"] | Sequence[int] = "all",
    layer: int | Literal["effective"] = -1,
    source: Literal["attention", "output", "relevancy"] = "attention",
    sink: Literal["keep", "drop", "condition"] = "keep",
    row: Literal["own", "predictor"] = "predictor",
    tiers: Literal["ordered", "image-block"] = "ordered",
    pool: int = 1,
    top_k: int | None = None,
    min_attention: float | None = None,
    algorithm: str = "ordered_icd",
    variant: str = "stable",
    max_conditioning_size: int | None = None,
    max_tests: int | None = MAX_TESTS,
    alpha: float = 1e-5,
    n_samples: int | None = None,
    threshold: float | None = None,
    max_radius: int = 3,
    max_size: int | None = None,
    max_runs: int = 600,
    time_limit: float | None = None,
    candidates: Literal["all", "image", "text"] | Sequence[int] = "all",
    masking: str = "remove",
    backend: str = "auto",
    n_random: int = N_RANDOM,
    seed: int = 0,
    force: bool = False,
    n_jobs: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Explanation:
    """Find and verify the smallest sets of tokens that made the model say the target.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        Which generated tokens to explain; an integer counts generated tokens from 0.
    mode : {"necessary", "sufficient"}
        Masking the set changes the prediction, or keeping only the set (and the frame) keeps it.
    tester : {"flip", "drop", "contrast"}
        See `causal_lvlm.explanation.testers`.
    against : str or int, optional
        Rival token for ``contrast``; default is the strongest rival with nothing masked.
    drop_ratio : float in (0, 1)
    heads, layer, source, sink, row, tiers, pool, top_k, min_attention, n_samples, threshold
        See `causal_lvlm.correlation.attention_correlation`.
    algorithm, variant, max_conditioning_size, alpha
        See `causal_lvlm.learn_structure`.
    max_tests : int or None
        CI tests for each graph. Tokens driven by one common factor have exponentially many
        conditioning sets; a graph that ended early says ``complete=False``. (A limit in tests, not
        seconds, so that results can be repeated.)
    max_radius : int
        Depth of the PDS-trees.
    max_size : int, optional
        Largest set to report; a larger one is reported as not found (outcome ``max_size``).
    max_runs : int
        Masked rows that may be evaluated in all, random controls included.
    time_limit : float, optional
        Seconds for the search; the best set verified so far is returned.
    candidates : {"all", "image", "text"} or sequence of int
        What may be masked. ``"all"`` reports the joint, the image and the text minimum.
    masking : {"remove", "edges", "neutral", "pixels-blur", "pixels-mean"}
        The intervention. ``pixels-*`` apply to image tokens only.
    backend : {"auto", "drop", "block"}
        How ``remove`` is computed.
    n_random : int
        Random control sets for each verified set.
    seed : int
        For the random controls, the only random thing here.
    force : bool
        Explain although the trace failed its self-check.
    n_jobs : int, optional
        Threads for structure learning.
    progress : callable, optional
        Called with (stage, runs used, max_runs).

    Returns
    -------
    Explanation

    Raises
    ------
    TargetError
        If the target is not in the answer.
    SelfCheckError
        If the teacher-forced pass does not reproduce the generation and `force` is not set.
    BudgetError
        If `max_runs` or `time_limit` is not positive.
    ValueError
        If an option has a value that is not allowed.

    Notes
    -----
    Ctrl-C while searching does not lose what was found: the result so far is returned, with
    ``ended="interrupted"``.
    """
    started = time.monotonic()
    given = {
        k: v for k, v in locals().items() if k not in ("trace", "target", "progress", "started")
    }
    _check_options(mode, tester, masking, drop_ratio, max_runs, time_limit, max_radius)
    chosen = resolve_target(trace.layout, target)
    if not trace.self_check.passed and not force:
        raise SelfCheckError(
            "the teacher-forced pass does not reproduce this generation "
            f"({trace.self_check}); an explanation would be of another computation. "
            "Load the model in float32, or pass force=True"
        )
    scopes_of = candidates if isinstance(candidates, str) else list(candidates)
    if masking.startswith("pixels") and scopes_of == "all":
        scopes_of = "image"
    units = candidate_units(trace.layout, chosen, candidates=scopes_of, pool=pool)
    deadline = None if time_limit is None else started + time_limit
    budget = Budget(max_runs=max_runs, deadline=deadline)
    full = trace.evaluate(
        np.ones((1, len(trace.layout)), dtype=np.bool_), chosen, masking="remove", backend=backend
    )
    budget.used += 1
    rival = _rival(trace, chosen, tester, against, full)
    if rival is not None:  # once more, now with the rival's probability
        full = trace.evaluate(
            np.ones((1, len(trace.layout)), dtype=np.bool_), chosen, backend=backend, against=rival
        )
        budget.used += 1
    judge = Tester(tester, chosen.token_ids, float(full.log_prob[0]), drop_ratio, rival)
    evaluator = SubsetEvaluator(trace, chosen, units, judge, budget, masking, backend)
    evaluator.remember([frozenset()], full)
    if evaluator.masked[frozenset()].changed:
        raise TargetError(
            f"with nothing masked the model's choice is not {chosen.text!r} (tester {tester!r}): "
            "the token was sampled or the rival is stronger already, so nothing can be explained; "
            "generate greedily, or name another rival"
        )
    correlations = attention_correlations(
        trace, chosen, heads=heads, layer=layer, source=source, sink=sink, row=row, tiers=tiers,
        pool=pool, top_k=top_k, min_attention=min_attention, n_samples=n_samples,
        threshold=threshold,
    )  # fmt: skip
    graphs = learn_graphs(
        correlations, trace.layout, chosen.text, max_radius=max_radius, alpha=alpha,
        algorithm=algorithm, variant=variant, max_conditioning_size=max_conditioning_size,
        max_tests=max_tests, n_jobs=n_jobs,
    )  # fmt: skip
    usable = [c for c in correlations if isinstance(c, TokenCorrelation)]
    node_units = [nodes_to_units(c, units) for c in usable]
    search = ScopeSearch(evaluator, graphs, node_units, mode, max_radius, max_size, n_random, seed)
    sets: dict[str, ExplainingSet] = {}
    for name, scope, share in _scopes(units, scopes_of):
        if progress is not None:
            progress(f"explaining set: {name}", budget.used, max_runs)
        sets[name] = search.scope(name, scope, share)
    for name, scope, _ in _scopes(units, scopes_of):
        # A later scope may have met a smaller set of an earlier one: look again, from the cache.
        if search.knows_better(scope, sets[name]):
            again = search.scope(name, scope, 1.0)
            sets[name] = replace(again, model_runs=sets[name].model_runs + again.model_runs)
    return Explanation(
        target=chosen,
        sets={name: sets[name] for name in SCOPES if name in sets},
        mode=mode,
        tester=tester,
        against=None if rival is None else trace.token_text(rival),
        masking=masking,
        backend="+".join(sorted(evaluator.backends_used)) or backend,
        graph_outcome=_graph_outcome(chosen, graphs),
        graphs=graphs,
        dropped_heads=tuple(str(c) for c in correlations if not isinstance(c, TokenCorrelation)),
        model_runs=budget.used,
        parameters=given,
        summary=trace.to_dict(),
        versions=versions(),
        model_id=trace.model_id,
        revision=trace.revision,
        seed=seed,
        seconds=time.monotonic() - started,
    )


def _check_options(
    mode: str, tester: str, masking: str, drop_ratio: float, max_runs: int,
    time_limit: float | None, max_radius: int,
) -> None:  # fmt: skip
    for name, value, allowed in (
        ("mode", mode, MODES), ("tester", tester, TESTERS), ("masking", masking, MASKINGS)
    ):  # fmt: skip
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    if not 0.0 < drop_ratio < 1.0:
        raise ValueError(f"drop_ratio must lie between 0 and 1, got {drop_ratio}")
    if max_radius < 1:
        raise ValueError(f"max_radius must be at least 1, got {max_radius}")
    least = 3 if tester == "contrast" else 2
    if max_runs < least:
        raise BudgetError(
            f"max_runs must be at least {least} (unmasked, all masked), got {max_runs}"
        )
    if time_limit is not None and time_limit <= 0:
        raise BudgetError(f"time_limit must be a positive number of seconds, got {time_limit}")


def _rival(
    trace: Any, target: Target, tester: str, against: str | int | None, full: Any
) -> int | None:
    """Return the token id that a ``contrast`` compares with."""
    if tester != "contrast":
        if against is not None:
            raise ValueError(f"against={against!r} is used by tester='contrast' only")
        return None
    if against is None:
        return int(full.runner_up[0, 0])
    rival = trace.token_id(against) if isinstance(against, str) else int(against)
    if rival == target.token_ids[0]:
        raise TargetError(f"against={against!r} is the target itself; name another token")
    return int(rival)


def _scopes(units: Units, candidates: str | list[int]) -> list[tuple[str, tuple[int, ...], float]]:
    """Return name, units and share of the remaining runs of every scope to be searched."""
    everything = tuple(range(len(units)))
    if not isinstance(candidates, str):
        return [("custom", everything, 1.0)]
    if candidates != "all":
        return [(candidates, everything, 1.0)]
    image = tuple(u for u in everything if units.modality[u] == "image")
    text = tuple(u for u in everything if units.modality[u] != "image")
    parts = {"text": text, "image": image, "joint": everything}
    return [(name, parts[name], share) for name, share in SCOPE_SHARES.items()]


def _graph_outcome(target: Target, graphs: tuple[HeadGraph, ...]) -> str:
    if target.start == 0:
        return "first_position"
    if not graphs:
        return "target_dropped"
    return "isolated" if all(g.isolated for g in graphs) else "candidates"
