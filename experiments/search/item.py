"""One target of the search experiment: truth, orders, searches, graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import causal_lvlm as cl
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.explanation.candidates import unit_tree
from causal_lvlm.explanation.explain import MAX_TESTS
from causal_lvlm.explanation.graphs import learn_graphs
from experiments.common.pairs import MemoTrace, load, pair_of
from experiments.first_light.orders import Job
from experiments.search import orders, settings
from experiments.search.truth import singles, smallest
from experiments.search.watch import Watched

SCOPES = ("joint", "image", "text")


def setup() -> Any:
    """Load the embedded model, once per process."""
    torch.set_num_threads(1)
    return load(None)


def work(item: dict[str, Any], model: Any) -> dict[str, Any]:
    """Measure one target."""
    pair = pair_of(model, item)
    pair = type(pair)(**{**vars(pair), "trace": MemoTrace(pair.trace)})
    job = Job.of(pair)
    truth = {
        scope: smallest(job, scope, "necessary", pairs=scope != "image" or item["pairs"])
        for scope in SCOPES
    }
    if item["sufficient"]:
        truth["joint, sufficient"] = smallest(job, "joint", "sufficient")
    graphs = {name: graph_of(job, **options) for name, options in settings.GRAPHS.items()}
    fixed = orders.fixed_orders(job, graphs, item["seed"])
    some = ("joint", "image") if item["pairs"] else ("joint",)
    measured = {scope: searches(job, scope, fixed, item) for scope in some}
    return {
        "kind": pair.kind,
        "prompt": pair.trace.prompt,
        "answer": pair.trace.answer,
        "target": pair.target,
        "units": {scope: len(job.scope(scope)) for scope in SCOPES},
        "causes": singles(job),
        "truth": truth,
        "orders": measured,
        "explain": {name: explained(job, **o) for name, o in settings.EXPLAIN.items()},
        "curves": {name: watched_explain(job, **o) for name, o in settings.CURVES.items()},
        "graphs": {name: [[u, d] for u, d in g.depth.items()] for name, g in graphs.items()},
    }


def graph_of(job: Job, **options: Any) -> orders.Graph:
    """Learn the graphs of one source; rank units by distance, heads that agree, correlation."""
    found = attention_correlations(job.trace, job.target, **options)
    usable = [c for c in found if isinstance(c, TokenCorrelation)]
    learned = learn_graphs(
        usable, job.trace.layout, job.target.text, max_radius=3, alpha=None,
        algorithm="ordered_icd", variant="stable", max_conditioning_size=None,
        max_tests=MAX_TESTS, n_jobs=1,
    )  # fmt: skip
    depths: dict[int, list[int]] = {}
    strength: dict[int, float] = {}
    for correlation, graph in zip(usable, learned, strict=True):
        nodes = job.units.of_nodes(correlation.members)
        tree = unit_tree(graph.head, graph.tree, nodes, range(len(job.units)))
        for node, unit in enumerate(nodes):
            if unit is None:
                continue
            value = abs(float(correlation.correlation[node, correlation.target_node]))
            strength[unit] = max(strength.get(unit, 0.0), value)
            if unit in tree.depth:
                depths.setdefault(unit, []).append(tree.depth[unit])
    held = sorted(
        depths, key=lambda u: (min(depths[u]), -depths[u].count(min(depths[u])), -strength[u], u)
    )
    gradient = np.abs(job.trace.backward(job.target).input_x_gradient)
    rest = [u for u in orders.by(job, gradient) if u not in depths]
    return orders.Graph([*held, *rest], {u: min(d) for u, d in sorted(depths.items())})


def searches(
    job: Job, scope: str, fixed: dict[str, list[int]], item: dict[str, Any]
) -> dict[str, Any]:
    """Measure every order and search within one scope; nothing where it cannot be masked."""
    whole = job.question(job.scope(scope), 10)
    if not whole.scope or not whole.ask([whole.scope])[0]:
        return {}
    result = {name: orders.measure(job, scope, orders.along(o)) for name, o in fixed.items()}
    for name, search in orders.paid_orders(job).items():
        result[name] = orders.measure(job, scope, search)
    attention, gradient = fixed["attention, all layers"], fixed["gradient norm"]
    nearest, rollout = fixed[orders.NEAREST], fixed["rollout"]
    for name, some in {
        orders.EXCHANGE: (nearest, gradient, rollout),
        orders.WITHOUT_GRAPH: (attention, gradient, rollout),
    }.items():
        result[name] = orders.measure(job, scope, orders.exchanged(*some))
    if item["lima"]:
        order, runs = orders.lima(job)
        found = orders.measure(job, scope, orders.along(order))
        found["runs"] += runs
        found["curve"] = [[runs + k, size] for k, size in found["curve"]]
        result["LiMA"] = found
    return result


def explained(job: Job, *, joint_alone: bool = False, **options: Any) -> dict[str, Any]:
    """Explain the target; return size, claim and cost of each scope's set."""
    candidates: Any = "all"
    if joint_alone:
        candidates = [p for m in job.units.members for p in m]
    found = cl.explain(job.trace, job.target, candidates=candidates, **options)
    units = {m: u for u, m in enumerate(job.units.members)}
    sets = {}
    for scope, one in found.sets.items():
        sets["joint" if scope == "custom" else scope] = {
            "outcome": one.outcome, "verified": one.verified, "size": one.size,
            "units": [units[m] for m in one.units], "minimality": one.minimality,
            "found_by": one.found_by, "radius": one.radius, "n_random": one.n_random,
            "random_flip_rate": one.random_flip_rate, "runs": one.model_runs, "ended": one.ended,
        }  # fmt: skip
    return {"runs": found.model_runs, "sets": sets}


def watched_explain(job: Job, **options: Any) -> dict[str, Any]:
    """Explain the target; return how small the set of each scope was after each run."""
    watched = Watched(job)
    found = cl.explain(watched, job.target, **options)
    return {
        "runs": found.model_runs,
        **{scope: watched.curve(job.scope(scope)) for scope in SCOPES},
    }
