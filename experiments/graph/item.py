"""One target of the graph experiment: the verified graph, orders of edges, searches, sources."""

from __future__ import annotations

import time
from math import ceil
from typing import Any

import numpy as np
import torch

import causal_lvlm as cl
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import Cause, EdgeSet, denied
from causal_lvlm.explanation.graph_run import MAX_TESTS
from causal_lvlm.explanation.reconcile import contradictions, learner, reconciled, spoken_of
from causal_lvlm.metrics.ranks import spearman_rho
from experiments.common.pairs import Pair, load, pair_of
from experiments.common.tables import rounded
from experiments.graph import settings
from experiments.graph.bench import Bench, Learned, faithful


def setup() -> Any:
    """Load the embedded model, once per process."""
    torch.set_num_threads(1)
    return load(None)


def work(item: dict[str, Any], model: Any) -> dict[str, Any]:
    """Measure one target."""
    pair = pair_of(model, item)
    bench = Bench.of(pair.trace, pair.target)
    started = time.monotonic()
    graph = cl.causal_graph(pair.trace, pair.target, max_runs=settings.BUDGET)
    seconds = time.monotonic() - started
    result: dict[str, Any] = {
        "kind": pair.kind,
        "scene": pair.scene,
        "prompt": pair.trace.prompt,
        "answer": pair.trace.answer,
        "target": pair.target,
        "edges": len(bench.items),
        "prior": graph.sufficient.outcome == "prior",
        "graph": {**graph_found(bench, graph), "seconds": seconds},
        "image": image_sources(pair, graph),
    }
    if not result["prior"]:
        seed = [item["seed"], item["stream"], item["scene"], item["question"]]
        result |= measured(bench, graph, np.random.default_rng(seed), exact=item["exact"])
    return dict(rounded(result))


def graph_found(bench: Bench, graph: CausalGraph) -> dict[str, Any]:
    """Return what `causal_graph` found, and whether all controls were made."""
    number = {pair: k for k, pair in enumerate(map(tuple, bench.items.tolist()))}

    def one(found: EdgeSet, mode: str) -> dict[str, Any]:
        chosen = frozenset(number[pair] for pair in found.node_edges)
        enough = len(bench.question(mode).like(chosen, settings.N_RANDOM, 0)) if chosen else 0
        return {
            "outcome": found.outcome, "verified": found.verified, "size": found.size,
            "minimality": found.minimality, "random_rate": found.random_rate,
            "controls": found.n_random >= enough, "n_random": found.n_random,
            "runs": found.model_runs, "ended": found.ended, "says": list(found.says),
            "instead": found.instead,
            "edges": [f"{bench.labels[s]} → {bench.labels[r]}" for s, r in found.node_edges],
        }  # fmt: skip

    target = graph.nodes.target
    after = [c for c in graph.causes if graph.pag is not None and denied(graph.pag, c.node, target)]
    return {
        "sufficient": one(graph.sufficient, "sufficient"),
        "necessary": one(graph.necessary, "necessary"),
        "runs": graph.model_runs,
        "causes": len(graph.causes),
        "contradictions": [c.kind for c in graph.contradictions],
        "contradictions_after": len(after),
        "faithfulness": graph.faithfulness,
        "routes": list(graph.routes(3)),
    }


def image_sources(pair: Pair, graph: CausalGraph) -> dict[str, Any]:
    """Return how many image sources of the sufficient graph lie on the objects asked about."""
    modality = pair.trace.layout.modality
    sources = {s for s, _ in graph.sufficient.edges if modality[s] == "image"}
    return {
        "sources": len(sources),
        "on_object": len(sources & pair.object_positions),
        "chance": pair.chance,
    }


def measured(
    bench: Bench, graph: CausalGraph, rng: np.random.Generator, *, exact: bool
) -> dict[str, Any]:
    """Return everything that is measured where the edges matter."""
    learned = {name: bench.learned(**options) for name, options in settings.SOURCES.items()}
    first = learned["influence"]
    if first is None:
        raise RuntimeError("no graph can be learned from the influence matrix")
    scores = {name: bench.scores(kind) for name, kind in settings.KINDS.items()}
    own = first.order()
    orders = {
        settings.LEARNED: [own],
        **{n: [np.argsort(-s, kind="stable").tolist()] for n, s in scores.items()},
        settings.RANDOM: [bench.random_like(own, rng) for _ in range(settings.RANDOM_DRAWS)],
    }
    return {
        **faithfulness(bench, orders, int(first.inside.sum())),
        "searches": {
            **{name: bench.searched(some[0], 0) for name, some in orders.items()},
            settings.DDMIN: bench.minimised(),
        },
        "sources": of_sources(bench, graph, learned, orders["|A·dA|"][0]),
        "thresholds": by_threshold(bench, orders["|A·dA|"][0]),
        "exact": estimated(bench, scores) if exact else None,
    }


def faithfulness(bench: Bench, orders: dict[str, list[list[int]]], size: int) -> dict[str, Any]:
    """Return the curve of every order, and what it keeps with as many edges as were learned."""
    question, n = bench.question(), len(bench.items)
    lengths = [ceil(share * n) for share in settings.SHARES]
    plain = question.answers([(), range(n)])
    nothing, everything = (float(m) for m in plain.lead)
    share_of = faithful(everything - nothing, nothing)
    curves: dict[str, Any] = {}
    same: dict[str, Any] = {}
    for name, some in orders.items():
        curves[name], same[name] = [], []
        for order in some:
            answers = question.answers([order[:k] for k in (*lengths, size)])
            values = [share_of(float(m)) for m in answers.lead]
            curves[name].append(values[:-1])
            same[name].append({"f": values[-1], "keeps": bench.keeps(answers)[-1]})
    return {
        "margin": {"all": everything, "none": nothing},
        "curves": curves,
        "size": size,
        "same_size": same,
    }


def of_sources(
    bench: Bench, graph: CausalGraph, learned: dict[str, Learned | None], carried: list[int]
) -> dict[str, Any]:
    """Return for each source what its graph keeps, and what it denies of proven causes."""
    masked, question = bench.causes(), bench.question()
    causes = tuple({c.node: c for c in (*graph.causes, *masked)}.values())
    result: dict[str, Any] = {}
    for name, one in learned.items():
        if one is None:
            result[name] = None
            continue
        chosen = np.flatnonzero(one.inside).tolist()
        keeps = bench.keeps(question.answers([chosen, carried[: len(chosen)]]))
        result[name] = {
            "edges": len(chosen),
            "leading": len(question.pruned(chosen)),
            "keeps": keeps[0],
            "keeps_carried": keeps[1],
            **denials(bench, one, causes),
        }
    return result


def by_threshold(bench: Bench, carried: list[int]) -> list[dict[str, Any]]:
    """Return what graphs of the influence matrix keep, from sparse to dense."""
    question, found = bench.question(), []
    for threshold in settings.THRESHOLDS:
        learned = bench.learned(source="influence", threshold=threshold)
        chosen = [] if learned is None else np.flatnonzero(learned.inside).tolist()
        keeps = bench.keeps(question.answers([chosen, carried[: len(chosen)]]))
        found.append({"edges": len(chosen), "keeps": keeps[0], "keeps_carried": keeps[1]})
    return found


def denials(bench: Bench, one: Learned, causes: tuple[Cause, ...]) -> dict[str, Any]:
    """Return how often a learned graph denies a proven cause, before and after reconciling."""
    before = contradictions(one.pag, causes, bench.nodes, bench.labels)
    learn = learner(one.correlation, MAX_TESTS)
    spoken = spoken_of(one.head, causes, bench.nodes)
    pag = reconciled(one.head, spoken, bench.nodes, learn)
    return {
        "causes": len(causes),
        "not_a_node": len(causes) - len(spoken),
        "arrowhead": sum(c.kind == "arrowhead" for c in before),
        "no_path": sum(c.kind == "no path" for c in before),
        "after": sum(denied(pag, c.node, bench.nodes.target) is not None for c in spoken),
    }


def estimated(bench: Bench, scores: dict[str, Any]) -> dict[str, Any]:
    """Return the rank correlation of each score with the effect of every cut made by itself."""
    exact = bench.scores("exact")
    rho = {name: float(spearman_rho(values, exact)) for name, values in scores.items()}
    return {"edges": len(exact), "rho": rho}
