"""Explain one generated token: from graphs to a set that the model itself confirmed.

1. Read the question: the target, what may be masked before it, and every option, all of it checked
   before the model is run.
2. Ask the model with nothing masked (`causal_lvlm.explanation.testers`).
3. Correlate the tokens by the influence matrix, or by attention, head by head
   (`causal_lvlm.correlation`).
4. Learn a PAG from each correlation and build the target's PDS-tree
   (`causal_lvlm.explanation.graphs`).
5. Choose the scopes: image and text together, the image alone and the text alone. The smallest set
   is often a word of the question, which is true, and not what a look at the image asks for.
6. Search each of them for a set that passes the test, prove minimality as far as the budget allows,
   and ask about random sets: `causal_lvlm.explanation.guided`, or with ``search="graph"`` CLEANN's
   order, `causal_lvlm.explanation.published` (`PUBLISHED` is that with the published source).
7. Put together what was found.

Where masking a whole scope changes nothing, parts of it still may, as effects of masking need not
add up (`causal_lvlm.explanation.parts`). Without a set it is then ``not_found``, and
``not_maskable`` only where every subset was tried.

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
from functools import partial
from typing import Any, Literal

from causal_lvlm.budget import Budget
from causal_lvlm.checks import check_names
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.errors import OptionError
from causal_lvlm.explanation.causal import tested_graph
from causal_lvlm.explanation.graph_options import GraphOptions, check_graph
from causal_lvlm.explanation.graphs import graph_outcome, learn_graphs, unit_trees
from causal_lvlm.explanation.guided import guided_search
from causal_lvlm.explanation.options import (
    check_options,
    check_self_check,
    default_source,
    scope_option,
)
from causal_lvlm.explanation.published import published_search
from causal_lvlm.explanation.question import Question
from causal_lvlm.explanation.reconcile import free_graph
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.state import Case, Search, scopes_of
from causal_lvlm.explanation.testers import ask_unmasked
from causal_lvlm.explanation.tried import excluded, tried_sets
from causal_lvlm.protocols import TraceLike
from causal_lvlm.sources import forward_passes, numbered_layer
from causal_lvlm.storage import versions
from causal_lvlm.structure.compiling import COMPILING, compile_kernels
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import (
    Target,
    TargetLike,
    Units,
    candidate_units,
    check_trace,
    resolve_target,
)

__all__ = ["PUBLISHED", "check_explain_options", "explain"]

# The setting of Rohekar et al. (2023): last-layer attention of every head, graphs asked first.
PUBLISHED: dict[str, Any] = {"source": "attention", "layer": -1, "search": "graph"}
# Masks per call: the guided search's answers decide what is asked next; a batch is always finished.
AT_ONCE = {"guided": 1, "graph": 16}

SCOPES = ("joint", "image", "text", "custom")
N_RANDOM = 20
MAX_TESTS = 2_000_000


def explain(
    trace: TraceLike,
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
    graph: bool | GraphOptions = False,
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
    graph : bool or GraphOptions
        Put the edges of the explanation's graph to the model, too (`causal_lvlm.causal_graph`): the
        smallest set of edges that alone keeps the answer, and the smallest cut that ends it. These
        runs are counted and bounded apart, in ``explanation.graph``. Without it that graph holds
        what costs nothing.
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
    ``ended="interrupted"``, and no edge is put to the model any more.
    """
    started = time.monotonic()
    given: dict[str, Any] = {
        "mode": mode, "tester": tester, "against": against, "drop_ratio": drop_ratio,
        "heads": heads, "layer": layer, "source": source, "sink": sink, "row": row, "tiers": tiers,
        "pool": pool, "top_k": top_k, "min_attention": min_attention, "algorithm": algorithm,
        "variant": variant, "max_conditioning_size": max_conditioning_size, "max_tests": max_tests,
        "alpha": alpha, "n_samples": n_samples, "threshold": threshold, "search": search,
        "max_radius": max_radius, "max_size": max_size, "max_runs": max_runs,
        "time_limit": time_limit, "candidates": candidates, "masking": masking, "backend": backend,
        "n_random": n_random, "seed": seed, "force": force, "n_jobs": n_jobs,
    }  # fmt: skip
    check_trace(trace)
    check_options({**given, "progress": progress})
    check_graph(graph)
    check_self_check(trace.self_check, force)
    chosen, units, remark = _read(trace, target, given)  # 1
    tell = progress or (lambda stage, used, total: None)
    budget = Budget(max_runs, None if time_limit is None else started + time_limit)
    asker, judge = ask_unmasked(  # 2
        trace, chosen, units, budget, tester=tester, drop_ratio=drop_ratio, against=against,
        masking=masking, backend=backend, at_once=AT_ONCE[search],
    )  # fmt: skip
    tell("capturing attention", budget.used, max_runs)
    passed = TargetPass(trace, chosen, given["source"])
    correlations = attention_correlations(  # 3
        trace, chosen, heads=given["heads"], layer=layer, source=given["source"], sink=sink,
        row=row, tiers=tiers, pool=pool, top_k=top_k, min_attention=min_attention,
        n_samples=n_samples, threshold=threshold, passed=passed,
    )  # fmt: skip
    usable = [c for c in correlations if isinstance(c, TokenCorrelation)]
    compiled = 0.0
    if usable:
        given |= {"threshold": usable[0].threshold, "row": usable[0].row}
        # No part of the search: neither of its time limit nor of its seconds.
        compiled = compile_kernels(
            algorithm, variant, tree=True, progress=lambda done, of: tell(COMPILING, done, of)
        )
        budget.extend(compiled)
    tell("learning graphs", budget.used, max_runs)
    graphs = learn_graphs(  # 4
        correlations, trace.layout, chosen.text, max_radius=max_radius, alpha=alpha,
        algorithm=algorithm, variant=variant, max_conditioning_size=max_conditioning_size,
        max_tests=max_tests, deadline=budget.deadline, n_jobs=n_jobs,
    )  # fmt: skip
    scopes, twin = scopes_of(units.modality, given["candidates"])  # 5
    cases = [
        Case(name, Question(asker, judge, scope, mode), share, unit_trees(graphs, units, scope))
        for name, scope, share in scopes
    ]
    run = Search(
        cases, passed, budget, mode, max_radius, max_size, n_random, seed,
        lambda stage: tell(stage, budget.used, max_runs),
    )  # fmt: skip
    sets = (guided_search if search == "guided" else published_search)(run)  # 6
    if twin is not None:
        sets["joint"] = replace(sets[twin], scope="joint", model_runs=0)
    explanation = Explanation(  # 7
        target=chosen, sets={name: sets[name] for name in SCOPES if name in sets}, mode=mode,
        tester=tester, against=None if judge.against is None else trace.token_text(judge.against),
        masking=masking, backend="+".join(sorted(asker.backends)) or backend,
        graph_outcome=graph_outcome(graphs, len(units)), graphs=graphs,
        dropped_heads=tuple(str(c) for c in correlations if not isinstance(c, TokenCorrelation)),
        excluded=excluded(trace.layout, chosen, units),
        tried=tried_sets(asker, judge, [s.units for s in sets.values()]), model_runs=budget.used,
        parameters=given, layer_remark=remark, summary=trace.to_dict(), versions=versions(),
        model_id=trace.model_id, revision=trace.revision, seed=seed,
        seconds=time.monotonic() - started - compiled,
        graph_source=partial(free_graph, correlations=usable, max_tests=max_tests),
        passes=(forward_passes(given["source"], layer) + passed.made, int(passed.made)),
    )  # fmt: skip
    if graph is False or any(one.ended == "interrupted" for one in sets.values()):
        return explanation
    tested = tested_graph(explanation, trace, usable, graph, progress=progress)
    return replace(explanation, graph_source=tested)


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
    check_graph(options.get("graph", False))


def _read(
    trace: TraceLike, target: TargetLike, given: dict[str, Any]
) -> tuple[Target, Units, str | None]:
    """Resolve target, units and options in place; return what is remarked on the layer, too."""
    if given["source"] is None:
        given["source"] = default_source(given["heads"], given["layer"], given["row"])
    layout, masking, layer = trace.layout, given["masking"], given["layer"]
    chosen = resolve_target(layout, target)
    scope = given["candidates"] = scope_option(given["candidates"], masking)
    units = candidate_units(layout, chosen, candidates=scope, pool=given["pool"])
    if masking.startswith("pixels") and any(m != "image" for m in units.modality):
        raise OptionError(f"masking={masking!r} changes pixels, but candidates hold text positions")
    if not isinstance(given["heads"], str):
        given["heads"] = list(given["heads"])
    if given["source"] not in ("attention", "output") or layer in ("effective", "mean"):
        return chosen, units, None
    numbered_layer(trace, layer)  # refused before the model is run
    return chosen, units, None if isinstance(layer, str) else trace.layer_remark(layer)
