"""Reconciliation: no graph that is drawn denies what an intervention proved."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.budget import Budget
from causal_lvlm.edges import Nodes, cut
from causal_lvlm.explanation.causal import MAX_TESTS, _learned
from causal_lvlm.explanation.edge_results import Cause, denied
from causal_lvlm.explanation.graph_options import GraphOptions
from causal_lvlm.explanation.reconcile import (
    causes_of_sets,
    contradictions,
    learner,
    node_places,
    on_nodes,
    reconciled,
    spoken_of,
)
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.structure.marks import ARROW
from causal_lvlm.structure.paths import possibly_directed
from causal_lvlm.tiny.scenes import draw_scene
from causal_lvlm.tokens import candidate_units

SOURCES = ("influence", "relevancy", "attention", "output")
PROMPTS = ("describe the scene.", "what color is the star?", "how many circles?")


def runs(model, count):
    """Yield traces of random scenes and every target in their answers, `count` in all."""
    done = 0
    for seed in range(10_000):
        trace = model.run(draw_scene(87_000 + seed).image, PROMPTS[seed % len(PROMPTS)])
        for number in range(len(trace.layout) - trace.layout.n_prompt):
            if done == count:
                return
            done += 1
            yield seed, trace, number


def pretended(nodes, rng, most=4):
    """Return causes that somebody might have proved: any units but the target."""
    n_units = sum(kind not in ("special", "target") for kind in nodes.kinds)
    chosen = rng.choice(n_units, size=min(int(rng.integers(1, most + 1)), n_units), replace=False)
    return tuple(Cause(int(k), "mask", True, f"masking {k} changed it") for k in chosen)


def check_one(trace, number, source, rng, causes=None):
    """Learn, reconcile and compare; return how many contradictions there were."""
    target = trace.target(number)
    edges = trace.edges(target)
    nodes = edges.nodes(candidate_units(trace.layout, target))
    learned = _learned(trace, target, GraphOptions(source=source), Budget())
    if learned is None:
        return 0
    graph, correlation = learned
    labels = [str(k) for k in range(len(nodes))]
    causes = pretended(nodes, rng) if causes is None else causes
    spoken = spoken_of(graph, causes, nodes)
    before = on_nodes(graph.structure.pag, node_places(graph, nodes), nodes)
    refuted = contradictions(before, spoken, nodes, labels)
    pag = reconciled(graph, causes, nodes, learner(correlation, MAX_TESTS))
    # By the definition, without the functions that are tested.
    expected = {}
    for cause in spoken:
        if before.marks[nodes.target, cause.node] == ARROW:
            expected[cause.node] = "arrowhead"
        elif not possibly_directed(before.marks, cause.node, nodes.target):
            expected[cause.node] = "no path"
        assert pag.marks[nodes.target, cause.node] != ARROW
        assert possibly_directed(pag.marks, cause.node, nodes.target)
    assert {one.node: one.kind for one in refuted} == expected
    for one in refuted:
        assert (
            one.learned.startswith("learned: ") and one.verified == f"masking {one.node} changed it"
        )
    assert contradictions(pag, spoken, nodes, labels) == ()
    if not refuted:
        assert (pag.marks == before.marks).all()
    return len(refuted)


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_denies_a_cause_afterwards(embedded_model, source):
    rng, found = np.random.default_rng(5), 0
    for _, trace, number in runs(embedded_model, 60):
        found += check_one(trace, number, source, rng)
    assert found > 10


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_nothing_denies_a_cause_of_200_targets(embedded_model, source):
    rng = np.random.default_rng(6)
    for _, trace, number in runs(embedded_model, 220):
        check_one(trace, number, source, rng)
        causes = tuple(
            Cause(k, "mask", True, f"masking {k} changed it")
            for k, kind in enumerate(
                trace.edges(trace.target(number))
                .nodes(candidate_units(trace.layout, trace.target(number)))
                .kinds
            )
            if kind in ("prompt", "generated")
        )
        check_one(trace, number, source, rng, causes)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_the_constructor_never_raises(embedded_model, source):
    for _, trace, number in runs(embedded_model, 200):
        graph = cl.causal_graph(
            trace, number, source=source, max_runs=60, n_random=0, instead=False
        )
        for cause in graph.causes:
            assert denied(graph.pag, cause.node, graph.nodes.target) is None
        for one in graph.contradictions:
            assert denied(graph.learned_pag, one.node, graph.nodes.target) == one.kind


@pytest.mark.parametrize("source", SOURCES)
def test_causes_of_a_search_are_proved_by_the_model(embedded_model, source):
    seen = 0
    for _, trace, number in runs(embedded_model, 3):
        graph = cl.causal_graph(trace, number, source=source, max_runs=60, n_random=0)
        assert not graph.causes or graph.necessary.minimality != "none"
        sources = {s for s, _ in graph.necessary.node_edges}
        for cause in graph.causes:
            seen += 1
            assert cause.node in sources and cause.by == "cut"
            assert cause.alone == (graph.necessary.size == 1)
            if graph.necessary.size == len(graph.necessary.edges):
                both = zip(graph.necessary.edges, graph.necessary.node_edges, strict=True)
                rest = [pair for pair, ends in both if ends[0] != cause.node]
                found = trace.evaluate_edges(cut(rest), graph.target)
                assert found.argmax[0].tolist() == list(graph.target.token_ids)
    assert seen


@cache
def one_graph(model):
    trace = model.run(draw_scene(3).image, PROMPTS[1])
    target = trace.target(0)
    nodes = trace.edges(target).nodes(candidate_units(trace.layout, target))
    learned = _learned(trace, target, GraphOptions(), Budget())
    assert learned is not None
    graph, correlation = learned
    return trace, nodes, graph, correlation


def test_a_cause_that_is_no_node_of_the_learned_graph_is_not_spoken_of(embedded_model):
    _, nodes, graph, correlation = one_graph(embedded_model)
    special = nodes.kinds.index("special")
    causes = tuple(Cause(k, "cut", True, "x") for k in (special, nodes.target))
    assert spoken_of(graph, causes, nodes) == ()
    pag = reconciled(graph, causes, nodes, learner(correlation, MAX_TESTS))
    before = on_nodes(graph.structure.pag, node_places(graph, nodes), nodes)
    assert (pag.marks == before.marks).all() and not pag.marks[special].any()


def test_learning_again_ends_in_time_and_denies_nothing(embedded_model):
    _, nodes, graph, correlation = one_graph(embedded_model)
    rng = np.random.default_rng(0)
    for _ in range(10):
        causes = pretended(nodes, rng)
        over = Budget(deadline=0.0)
        pag = reconciled(
            graph, causes, nodes, learner(correlation, MAX_TESTS, deadline=over.deadline)
        )
        assert not any(denied(pag, c.node, nodes.target) for c in spoken_of(graph, causes, nodes))


def explaining(units, minimality, **changes):
    return ExplainingSet(
        scope="joint", outcome="explained", positions=tuple(p for u in units for p in u),
        units=units, verified=True, minimality=minimality, predicted_after=("blue",), **changes,
    )  # fmt: skip


def test_what_masking_proves(embedded_model):
    trace, nodes, _, _ = one_graph(embedded_model)
    one, two, three = nodes.members[:3]
    layout = trace.layout
    alone, pair = explaining((one,), "minimum"), explaining((one, two), "irreducible")
    some = explaining((two, three), "none")

    def proved(sets, mode="necessary", nodes: Nodes = nodes):
        return causes_of_sets(sets, nodes, layout, mode, "remove")

    assert proved([alone], "sufficient") == () == proved([some])
    (cause,) = proved([alone])
    assert (cause.node, cause.by, cause.alone) == (0, "mask", True) and "blue" in cause.evidence
    found = proved([pair, some, alone])
    assert [(c.node, c.alone) for c in found] == [(0, True), (1, False)]
    assert "none of which" in found[1].evidence
    single = explaining((three,), "none")  # one unit proves its own part, however it was met
    assert [c.node for c in proved([single])] == [2]
    failed = ExplainingSet(scope="joint", outcome="not_found")
    elsewhere = explaining((one + two,), "minimum")  # no node
    assert proved([failed, elsewhere]) == ()
