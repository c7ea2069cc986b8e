"""Explain one generated token: from graphs to a set that the model itself confirmed.

1. Resolve the target, its candidate units and the tester; run the model unmasked, and with every
   candidate of a scope masked. If that does not change the prediction, parts of the scope still
   may, as effects of masking need not add up: they are looked for with the runs that the other
   scopes leave (`causal_lvlm.explanation.parts`). Without a set it is then ``not_found``, and
   ``not_maskable`` only where every subset was tried.
2. Learn a PAG from the influence matrix (or one per head from attention) and build the target's
   PDS-trees.

With ``search="guided"``, the default:

3. Grow prefixes of a few orders until one passes: units by distance in the PDS-trees and, within a
   distance, by attention over all layers; by gradient; by attention composed over layers. Shrink.
4. Exchange two members for one as long as that passes, guided by margins.
5. Prove minimality as far as the budget allows; evaluate random control sets
   (`causal_lvlm.explanation.guided_search`).

With ``search="graph"``, CLEANN's order (`PUBLISHED` is this with the published source):

3. Single units of the trees, nearest first. If one passes, it is the set.
4. Else the smallest radius at which the units of one head pass together; shrink them until none
   can be left out. If more than two are left, legal sets of fewer units are tried in CLEANN's
   order (small sets first, then sum of distances).
5. If no tree passes (``found_by="fallback"``): all units one by one in the order of their
   gradient; then grow along three orders (effect of masking alone, gradient, attention over all
   layers), and shrink.
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

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from causal_lvlm.checks import check_names
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.errors import OptionError
from causal_lvlm.explanation.evaluator import Budget, SubsetEvaluator
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.explanation.guided_search import GuidedSearch
from causal_lvlm.explanation.options import (
    MASKINGS,
    SEARCHES,
    ask_unmasked,
    check_options,
    check_self_check,
    default_source,
    scope_option,
)
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.scope_search import ScopeSearch
from causal_lvlm.explanation.tried import tried_sets
from causal_lvlm.sources import numbered_layer
from causal_lvlm.storage import versions
from causal_lvlm.structure.compiling import COMPILING, compile_kernels
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import (
    Target,
    TargetLike,
    TokenLayout,
    Units,
    candidate_units,
    check_trace,
    resolve_target,
)

__all__ = ["MASKINGS", "PUBLISHED", "SEARCHES", "check_explain_options", "explain"]

# The setting of Rohekar et al. (2023): last-layer attention of every head, graphs asked first.
PUBLISHED: dict[str, Any] = {"source": "attention", "layer": -1, "search": "graph"}
# Rows per call: a batch that holds a hit is finished, so larger ones waste runs. The guided search
# asks for single masks whose answer decides what is asked next.
BATCH_SIZES = {"guided": 1, "graph": 16}

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
    layer: int | Literal["global", "effective", "mean"] = -1,
    source: Literal["attention", "output", "relevancy", "influence"] | None = None,
    sink: Literal["keep", "drop", "condition"] = "keep",
    row: Literal["own", "predictor"] | None = None,
    tiers: Literal["ordered", "image-block"] = "ordered",
    pool: int = 1,
    top_k: int | None = None,
    min_attention: float | None = None,
    algorithm: str = "ordered_icd",
    variant: str = "stable",
    max_conditioning_size: int | None = None,
    max_tests: int | None = MAX_TESTS,
    alpha: float | None = None,
    n_samples: int | None = None,
    threshold: float | None = None,
    search: Literal["guided", "graph"] = "guided",
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
        See `causal_lvlm.correlation.attention_correlation`. The default source is ``"influence"``,
        or ``"attention"`` where a `layer`, `heads` or ``row="own"`` is given, which it has not.
    algorithm, variant, max_conditioning_size, alpha
        See `causal_lvlm.learn_structure`.
    max_tests : int or None
        CI tests for each graph. Tokens driven by one common factor have exponentially many
        conditioning sets; a graph that ended early says ``complete=False``. (A limit in tests, not
        seconds, so that results can be repeated.)
    search : {"guided", "graph"}
        Order of trials, see the module's text. ``**PUBLISHED`` is the published setting.
    max_radius : int
        Depth of the PDS-trees.
    max_size : int, optional
        Largest set to report; a larger one is reported as not found (outcome ``max_size``).
    max_runs : int
        Masked rows that may be evaluated in all, random controls included.
    time_limit : float, optional
        Seconds for all of it; the best set verified so far is returned.
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
        Called with (stage, runs used, max_runs) when a stage begins. In the stage "compiling
        kernels (once)", which is no part of `time_limit` and ``seconds``, with the number of
        kernels compiled and to compile instead.

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
        If `max_runs` or `time_limit` allows nothing.
    ValueError
        If an option has a value that is not allowed.

    Notes
    -----
    Ctrl-C while searching does not lose what was found: the result so far is returned, with
    ``ended="interrupted"``.
    """
    started = time.monotonic()
    given = {k: v for k, v in locals().items() if k not in ("trace", "target", "started")}
    check_trace(trace)
    check_options(given)
    del given["progress"]
    check_self_check(trace, force)
    chosen = resolve_target(trace.layout, target)
    if source is None:
        given["source"] = source = default_source(heads, layer, row)
    scopes_of = scope_option(candidates, masking)
    units = candidate_units(trace.layout, chosen, candidates=scopes_of, pool=pool)
    if masking.startswith("pixels") and any(m != "image" for m in units.modality):
        raise OptionError(f"masking={masking!r} changes pixels, but candidates hold text positions")
    given |= _of_layer(trace, source, layer)  # refused before the model is run
    given["candidates"] = scopes_of
    if not isinstance(heads, str):
        given["heads"] = heads = list(heads)
    deadline = None if time_limit is None else started + time_limit
    budget = Budget(max_runs=max_runs, deadline=deadline)
    tell = progress or (lambda stage, used, total: None)
    judge, full, budget.used = ask_unmasked(
        trace, chosen, tester=tester, drop_ratio=drop_ratio, against=against, backend=backend
    )
    evaluator = SubsetEvaluator(
        trace, chosen, units, judge, budget, masking, backend, BATCH_SIZES[search]
    )
    evaluator.remember([frozenset()], full)
    tell("capturing attention", budget.used, max_runs)
    passed = TargetPass(trace, chosen, source)
    correlations = attention_correlations(
        trace, chosen, heads=heads, layer=layer, source=source, sink=sink, row=row, tiers=tiers,
        pool=pool, top_k=top_k, min_attention=min_attention, n_samples=n_samples,
        threshold=threshold, passed=passed,
    )  # fmt: skip
    usable = [c for c in correlations if isinstance(c, TokenCorrelation)]
    if usable:  # the values that the defaults stood for
        given |= {"threshold": usable[0].threshold, "row": usable[0].row}
    compiled = 0.0
    if usable:  # no part of the search: neither of its time limit nor of its seconds
        compiled = compile_kernels(
            algorithm, variant, tree=True, progress=lambda done, of: tell(COMPILING, done, of)
        )
        budget.deadline = deadline = None if deadline is None else deadline + compiled
    tell("learning graphs", budget.used, max_runs)
    graphs = learn_graphs(
        correlations, trace.layout, chosen.text, max_radius=max_radius, alpha=alpha,
        algorithm=algorithm, variant=variant, max_conditioning_size=max_conditioning_size,
        max_tests=max_tests, deadline=deadline, n_jobs=n_jobs,
    )  # fmt: skip
    node_units = [units.of_nodes(c.members) for c in usable]
    kind = GuidedSearch if search == "guided" else ScopeSearch
    searcher = kind(
        evaluator, passed, graphs, node_units, mode, max_radius, max_size, n_random, seed
    )
    scopes = _scopes(units, scopes_of)
    # Without an image (or without text) two scopes are one question: it is asked once.
    twins = {name: _twin(name, scope, scopes) for name, scope, _ in scopes}
    sets = searcher.all_scopes(
        [s for s in scopes if twins[s[0]] is None],
        lambda stage: tell(stage, budget.used, max_runs),
    )
    for name, twin in twins.items():
        if twin is not None:
            sets[name] = replace(sets[twin], scope=name, model_runs=0)
    return Explanation(
        target=chosen,
        sets={name: sets[name] for name in SCOPES if name in sets},
        mode=mode,
        tester=tester,
        against=None if judge.against is None else trace.token_text(judge.against),
        masking=masking,
        backend="+".join(sorted(evaluator.backends_used)) or backend,
        graph_outcome=_graph_outcome(units, graphs),
        graphs=graphs,
        dropped_heads=tuple(str(c) for c in correlations if not isinstance(c, TokenCorrelation)),
        excluded=_excluded(trace.layout, chosen, units),
        tried=tried_sets(evaluator, trace.token_text, [s.units for s in sets.values()]),
        model_runs=budget.used,
        parameters=given,
        summary=trace.to_dict(),
        versions=versions(),
        model_id=trace.model_id,
        revision=trace.revision,
        seed=seed,
        seconds=time.monotonic() - started - compiled,
    )


def check_explain_options(options: Mapping[str, Any]) -> None:
    """Refuse options that `explain` would refuse, before there is a trace or a model.

    Parameters
    ----------
    options : mapping
        Some of the options of `explain`, by name; the others have their defaults.

    Raises
    ------
    OptionError, OptionTypeError, BudgetError
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(explain).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    check_names("explain", options, defaults)
    check_options({**defaults, **options})


def _of_layer(trace: Any, source: str, layer: int | str) -> dict[str, str]:
    """Return what is remarked on one layer as a source; AttentionError if it is not there."""
    if source not in ("attention", "output") or layer in ("effective", "mean"):
        return {}
    numbered_layer(trace, layer)
    remark = None if isinstance(layer, str) else trace.layer_remark(layer)
    return {} if remark is None else {"layer_remark": remark}


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


def _twin(
    name: str, scope: tuple[int, ...], scopes: Sequence[tuple[str, tuple[int, ...], float]]
) -> str | None:
    """Return the part that holds all of the joint scope, if one does."""
    if name != "joint":
        return None
    return next((other for other, part, _ in scopes if other != name and part == scope), None)


def _graph_outcome(units: Units, graphs: tuple[HeadGraph, ...]) -> str:
    if not len(units):
        return "first_position"
    if not graphs:
        return "target_dropped"
    return "isolated" if all(g.isolated for g in graphs) else "candidates"


def _excluded(layout: TokenLayout, target: Target, units: Units) -> tuple[tuple[int, str], ...]:
    """Return every position before the target that no set can hold, and why."""
    inside = units.unit_of()
    reasons = []
    for p in range(target.start):
        if p in inside:
            continue
        if layout.modality[p] == "special":
            reason = "special or template token"
        elif p == target.predictor:
            reason = "its row predicts the target, so it cannot be left out"
        else:
            reason = "not among the candidates"
        reasons.append((p, reason))
    return tuple(reasons)
