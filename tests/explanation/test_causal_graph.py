"""The verified causal graph: what it reports is run again, whatever ended the search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.edges import all_but, cut
from causal_lvlm.errors import (
    BudgetError,
    CausalLVLMError,
    DetachedTraceError,
    OptionError,
    OptionTypeError,
    OutputError,
    SelfCheckError,
    StructureError,
    TargetError,
    UnsupportedModelError,
)
from causal_lvlm.explanation.causal import causal_graph
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_question import EdgeQuestion
from causal_lvlm.explanation.edge_results import Cause
from causal_lvlm.explanation.graph_options import GraphOptions
from causal_lvlm.structure import PAG
from tests.explanation.edge_fakes import EdgeTrace, inside_pairs, layout, passes, smallest
from tests.lvlm.plain import case
from tests.lvlm.test_cuts import plainly

FAMILIES = ("llava", "qwen2_vl", "gemma3", "paligemma", "mllama", "text_gemma2", "text_llama")


def fake(seed, **options):
    return EdgeTrace(seed=seed, layout=layout(**options))


def saying(count, **options):
    """Return seeds of models that say the target while nothing is cut."""
    traces = (fake(seed, **options) for seed in range(200))
    return [t.seed for t in traces if t.lead(t.closed(cut([]))) > 0][:count]


def content_only(graph, edges):
    """Check that sets hold content edges, each once, and what their nodes stand for."""
    for one in (graph.sufficient, graph.necessary):
        pairs = {tuple(p) for p in edges.pairs.tolist()}
        assert set(one.edges) <= pairs and len(set(one.edges)) == len(one.edges)
        assert not {s for s, _ in one.edges} & set(graph.frame)
        expected = {
            (s, r) for a, b in one.node_edges
            for s in graph.nodes.members[a] for r in graph.nodes.members[b] if (s, r) in pairs
        }  # fmt: skip
        assert set(one.edges) == expected
        assert one.verified == (one.outcome == "verified") == bool(one.edges)


def rerun(trace, graph, **options):
    """Check every verified set against a run from scratch."""
    edges = trace.edges(graph.target)
    content_only(graph, edges)
    node_of = graph.nodes.node_of(edges.stop)
    inside = [
        (s, r) for s, r in edges.pairs.tolist() if node_of[s] == node_of[r] and node_of[s] >= 0
    ]
    sufficient, necessary = graph.sufficient, graph.necessary
    asked = ((sufficient, all_but([*sufficient.edges, *inside])), (necessary, cut(necessary.edges)))
    for one, cuts in asked:
        if not one.verified:
            assert one.says == () and one.probability is None and one.minimality == "none"
            continue
        found = trace.evaluate_edges(cuts, graph.target, kind=graph.kind, **options)
        ids = found.argmax[0].tolist()
        assert (ids == list(graph.target.token_ids)) == (one is sufficient)
        assert one.says == tuple(trace.token_text(t) for t in ids)
        assert one.probability == pytest.approx(
            float(np.exp(found.token_log_probs[0].sum())), abs=1e-4
        )
        assert one.margin == pytest.approx(float(found.margin.min()), abs=1e-3)


# -- a model of few tokens ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", saying(12, sep=False))
def test_brute_force_agrees(seed):
    trace = fake(seed, sep=False)
    graph = causal_graph(trace, 0, max_runs=4000, n_random=3)
    content_only(graph, trace.edges(graph.target))
    for mode, one in (("sufficient", graph.sufficient), ("necessary", graph.necessary)):
        best = smallest(trace, graph.nodes, mode)
        if passes(trace, graph.nodes, "sufficient", []):  # by definition, whatever few cuts do
            assert one.outcome == "prior" and not one.edges and one.ended is None
        else:
            assert passes(trace, graph.nodes, mode, one.node_edges)
            assert one.size == best and one.minimality == "minimum" and one.ended is None
    assert graph.model_runs == len(trace.cuts_asked) + 1
    assert trace.regenerated == graph.necessary.verified
    assert graph.necessary.instead == ("blue" if graph.necessary.verified else None)
    full = trace.lead(trace.closed(cut([])))
    for edge in graph.edges:
        if edge.measured is not None:
            pairs = [
                (s, r) for s in graph.nodes.members[edge.source]
                for r in graph.nodes.members[edge.reader]
            ]  # fmt: skip
            assert edge.measured == pytest.approx(full - trace.lead(trace.closed(cut(pairs))))
        assert (edge.measured is None) == (edge.verified == "none")


def test_faithfulness_is_what_the_learned_graph_keeps():
    seen = 0
    for seed in saying(12):
        trace = fake(seed)
        graph = causal_graph(trace, 0, max_runs=30)
        if graph.learned_pag is None:
            continue
        marks, members = graph.learned_pag.marks, graph.nodes.members
        kept = [
            (s, r) for a in range(len(members)) for b in range(len(members))
            if marks[a, b] for s in members[a] for r in members[b]
            if s < r and trace.layout.modality[s] != "special"
        ]  # fmt: skip
        inside = inside_pairs(trace, graph.nodes)
        m_all, m_none, m_kept = (
            trace.lead(trace.closed(one))
            for one in (cut([]), all_but(inside), all_but([*kept, *inside]))
        )
        if abs(m_all - m_none) < 1:
            assert graph.faithfulness is None
        else:
            seen += 1
            assert graph.faithfulness == pytest.approx((m_kept - m_none) / (m_all - m_none))
    assert seen > 3


@pytest.mark.parametrize("pool", [1, 2])
def test_ctrl_c_at_any_run_loses_nothing(pool):
    trace = fake(saying(1, rows=2)[0], rows=2)
    whole = causal_graph(trace, 0, pool=pool, max_runs=80, n_random=3)
    n_calls = trace.calls
    assert n_calls > 10
    found = 0
    for k in range(1, n_calls + 1):
        trace = fake(saying(1, rows=2)[0], rows=2)
        trace.interrupt_at = k
        graph = causal_graph(trace, 0, pool=pool, max_runs=80, n_random=3)
        assert trace.calls == k and trace.regenerated == 0  # nothing was run after Ctrl-C
        assert graph.model_runs == k  # the unmasked run, and all before this one
        content_only(graph, trace.edges(graph.target))
        for mode in ("sufficient", "necessary"):
            one = getattr(graph, mode)
            if one.verified:
                found += 1
                assert passes(trace, graph.nodes, mode, one.node_edges)
                explaining = [
                    c for c in trace.cuts_asked
                    if c.rest == (mode == "sufficient")
                    and (trace.lead(trace.closed(c)) > 0) == (mode == "sufficient")
                    and len(c.pairs)
                ]  # fmt: skip
                assert explaining
            else:
                assert one.outcome in ("interrupted", "prior") and one.random_rate is None
            if one.minimality == "minimum":
                assert one.size == smallest(trace, graph.nodes, mode)
    assert found > n_calls // 2
    assert whole.verified


@pytest.mark.parametrize("max_runs", [*range(5, 41, 5), 6, 7, 8, 9, 11, 13])
def test_budgets_of_runs_are_kept(max_runs):
    for seed in saying(4, sep=False):
        trace = fake(seed, sep=False)
        graph = causal_graph(trace, 0, max_runs=max_runs)
        assert len(trace.cuts_asked) + 1 == graph.model_runs <= max_runs
        for mode in ("sufficient", "necessary"):
            one = getattr(graph, mode)
            if one.verified:
                assert passes(trace, graph.nodes, mode, one.node_edges)
            else:
                assert one.outcome in ("max_runs", "prior")
            if one.minimality == "minimum":
                assert one.size == smallest(trace, graph.nodes, mode)
        content_only(graph, trace.edges(graph.target))


def test_time_that_is_over_ends_the_search_and_not_the_function():
    for seed in saying(3):
        trace = fake(seed)
        graph = causal_graph(trace, 0, time_limit=1e-6)
        assert graph.sufficient.outcome == graph.necessary.outcome == "time_limit"
        assert graph.model_runs == 1 and not trace.cuts_asked and not trace.regenerated
        assert graph.pag is None or graph.pag.n_nodes == len(graph.nodes)


def test_controls_belong_to_the_set_that_is_reported():
    for seed in saying(8, sep=False):
        for max_runs in (12, 20, 35):
            trace = fake(seed, sep=False)
            graph = causal_graph(trace, 0, max_runs=max_runs, n_random=5, seed=3)
            for mode in ("sufficient", "necessary"):
                one = getattr(graph, mode)
                assert (one.random_rate is None) == (one.n_random == 0)
                if not one.verified:
                    assert one.n_random == 0
                    continue
                edges = trace.edges(graph.target)
                question = EdgeQuestion(
                    None, None, (), mode, edges=edges, nodes=graph.nodes,
                    items=edges.between_nodes(graph.nodes),
                )  # fmt: skip
                ends = list(map(tuple, question.items.tolist()))
                drawn = question.like(frozenset(ends.index(e) for e in one.node_edges), 5, 3)
                rates = {
                    sum(rest) / one.n_random
                    for rest in [[
                        passes(trace, graph.nodes, mode, [ends[k] for k in d]) for d in drawn
                    ]]
                } if one.n_random == len(drawn) and drawn else {one.random_rate}  # fmt: skip
                assert one.random_rate in rates


# -- models of every family ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_every_verified_set_says_what_is_recorded(name):
    _, trace = case(name)
    verified = 0
    for target in (0, 2, slice(1, 3)):
        for kind, pool in (("mask", 1), ("mask", 2), ("value", 1)):
            graph = causal_graph(trace, target, kind=kind, pool=pool, max_runs=45, n_random=3)
            rerun(trace, graph, backend="block")
            verified += graph.sufficient.verified + graph.necessary.verified
            assert graph.model_runs <= 45 and graph.routes() is not None
            assert (graph.necessary.instead is not None) == (
                graph.necessary.verified and kind == "mask"
            )
            assert bool(graph.remarks) == (name == "mllama")
    assert verified


@pytest.mark.parametrize("name", ["llava", "paligemma", "mllama", "text_gemma2"])
@pytest.mark.parametrize("kind", ["mask", "value"])
def test_a_plain_model_says_the_same_under_the_same_edges(name, kind):
    _, trace = case(name)
    graph = causal_graph(trace, slice(1, 3), kind=kind, max_runs=45, n_random=0)
    asked = ((graph.sufficient, all_but), (graph.necessary, cut))
    for one, made in asked:
        assert one.verified
        log_probs = plainly(name, trace, graph.target, made(one.edges), kind)
        assert np.exp(sum(log_probs)) == pytest.approx(one.probability, rel=2e-3, abs=1e-6)


def test_look_ahead_blocks_have_edges_in_both_directions():
    _, trace = case("paligemma")
    graph = causal_graph(trace, slice(1, 3), max_runs=30, n_random=0)
    items = {tuple(e) for e in trace.edges(graph.target).between_nodes(graph.nodes).tolist()}
    both = [(a, b) for a, b in items if (b, a) in items]
    assert both and {graph.nodes.kinds[k] for pair in both for k in pair} >= {"image", "prompt"}


def test_cross_attention_is_said():
    _, trace = case("mllama")
    graph = causal_graph(trace, 2, max_runs=20)
    assert "image" not in graph.nodes.kinds
    assert any("cross-attention" in remark for remark in graph.remarks)


@pytest.mark.parametrize("name", ["qwen3_5"])
def test_hybrid_models_are_refused(name):
    _, trace = case(name)
    with pytest.raises(UnsupportedModelError, match="mix tokens without attention"):
        causal_graph(trace, 2)


def test_a_trace_from_disk_has_no_model(tmp_path):
    _, trace = case("llava")
    loaded = cl.Trace.load(trace.save(tmp_path / "trace.json"))
    with pytest.raises(DetachedTraceError):
        causal_graph(loaded, 2)


def test_where_nothing_can_be_cut_the_answer_is_prior():
    _, trace = case("llava")
    target = trace.target(2)
    sources = sorted({s for s, _ in trace.edges(target).pairs.tolist()} - {target.predictor})
    blocked = trace.blocked(sources)
    assert len(blocked.edges(target).pairs) == 0
    try:
        graph = causal_graph(blocked, target, force=True)
    except TargetError:  # what is left does not say it
        return
    assert graph.sufficient.outcome == graph.necessary.outcome == "prior"


def test_the_answer_that_stays_with_everything_cut_is_prior():
    _, trace = case("paligemma")
    graph = causal_graph(trace, 0)
    assert graph.sufficient.outcome == graph.necessary.outcome == "prior"
    assert not graph.verified and not graph.sufficient.edges and graph.sufficient.ended is None
    found = trace.evaluate_edges(all_but([]), graph.target)
    assert found.argmax[0].tolist() == list(graph.target.token_ids)


def test_testers_and_rivals():
    _, trace = case("llava")
    for tester, options in (
        ("drop", {"drop_ratio": 0.3}), ("contrast", {}), ("contrast", {"against": 40}),
    ):  # fmt: skip
        graph = causal_graph(trace, 2, tester=tester, max_runs=60, n_random=3, **options)
        content_only(graph, trace.edges(graph.target))
        full = trace.evaluate(np.ones((1, len(trace.layout)), dtype=bool), graph.target)
        rival = options.get("against", int(full.runner_up[0, 0]))
        for one, made in ((graph.sufficient, all_but), (graph.necessary, cut)):
            if not one.verified:
                continue
            found = trace.evaluate_edges(made(one.edges), graph.target, against=rival)
            said, before = found.token_log_probs.sum(), full.token_log_probs.sum()
            if tester == "drop":
                changed = said < before + np.log(0.3)
            else:
                changed = found.against_log_prob[0] > found.token_log_probs[0, 0]
            assert bool(changed) == (one is graph.necessary)
    with pytest.raises(TargetError, match="target itself"):
        causal_graph(trace, 2, tester="contrast", against=int(trace.target(2).token_ids[0]))


def test_the_model_runs_again_give_the_same():
    _, trace = case("llava")
    first, second = (causal_graph(trace, slice(1, 3), max_runs=60, seed=5) for _ in range(2))
    assert first.to_dict() == second.to_dict()


@pytest.mark.slow
def test_the_seed_of_hashes_changes_nothing():
    program = (
        "import json; import causal_lvlm as cl; from tests.lvlm.plain import case\n"
        "graph = cl.causal_graph(case('llava')[1], slice(1, 3), max_runs=60, pool=2)\n"
        "print(json.dumps({k: v for k, v in graph.to_dict().items() if k != 'trace'}, default=str))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.splitlines()[-1]
        for seed in ("0", "12345")
    ]  # fmt: skip
    assert said[0] == said[1]


# -- options ------------------------------------------------------------------------------------


class Untouched:
    """A trace that nothing may be asked of."""

    def __getattribute__(self, name):
        raise AssertionError(f"{name} was asked for")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kind": "patch"}, OptionError), ({"kind": None}, OptionTypeError),
        ({"tester": "flop"}, OptionError), ({"source": "rollout"}, OptionError),
        ({"source": 3}, OptionTypeError), ({"drop_ratio": 1.0}, OptionError),
        ({"drop_ratio": "half"}, OptionTypeError), ({"against": "red"}, OptionError),
        ({"tester": "contrast", "against": 2.5}, OptionTypeError),
        ({"tester": "contrast", "against": " "}, OptionError),
        ({"threshold": 0}, OptionError), ({"threshold": 1.5}, OptionError),
        ({"threshold": float("nan")}, OptionError), ({"threshold": "0.1"}, OptionTypeError),
        ({"pool": 0}, OptionError), ({"pool": 1.5}, OptionTypeError),
        ({"max_runs": 4}, BudgetError), ({"max_runs": -1}, BudgetError),
        ({"max_runs": "many"}, BudgetError), ({"max_runs": True}, BudgetError),
        ({"time_limit": 0}, BudgetError), ({"time_limit": "1"}, BudgetError),
        ({"time_limit": float("nan")}, BudgetError), ({"time_limit": float("inf")}, BudgetError),
        ({"n_random": -1}, OptionError), ({"n_random": None}, OptionTypeError),
        ({"seed": -1}, OptionError), ({"seed": 0.5}, OptionTypeError),
        ({"instead": "yes"}, OptionTypeError), ({"max_run": 5}, OptionTypeError),
        ({"force": 1}, OptionTypeError), ({"progress": 3}, OptionTypeError),
        ({"options": {"kind": "mask"}}, OptionTypeError),
    ],
    ids=str,
)  # fmt: skip
def test_bad_options_are_refused_before_anything_is_asked(options, error):
    with pytest.raises(error) as caught:
        causal_graph(Untouched(), 0, **options)
    assert isinstance(caught.value, CausalLVLMError) and len(str(caught.value)) < 400


def test_options_may_come_from_numpy_and_are_changed_by_name(tmp_path):
    given = GraphOptions(
        pool=np.int64(1), max_runs=np.int64(30), seed=np.uint8(4), threshold=np.float32(0.05)
    )
    graph = causal_graph(fake(saying(1)[0]), 0, options=given, n_random=np.int32(2))
    assert graph.parameters["seed"] == 4 and graph.parameters["n_random"] == 2
    assert given.n_random == 20
    assert json.loads((graph.save(tmp_path / "g.json")).read_text())["parameters"]["pool"] == 1


def test_what_is_no_target_is_refused():
    _, trace = case("llava")
    for target in ("nothing like it", 99):
        with pytest.raises(TargetError):
            causal_graph(trace, target)


def test_a_failed_self_check_needs_force():
    trace = fake(saying(1)[0])
    type(trace).self_check, kept = None, type(trace).__mro__[1].self_check
    try:
        with pytest.raises(SelfCheckError):
            causal_graph(trace, 0)
        assert causal_graph(trace, 0, force=True, max_runs=10).model_runs <= 10
    finally:
        type(trace).self_check = kept


# -- on disk ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs():
    _, trace = case("llava")
    _, crossed = case("mllama")
    return [
        causal_graph(trace, 0), causal_graph(trace, slice(1, 3), max_runs=45),
        causal_graph(trace, 2, pool=2, max_runs=45), causal_graph(crossed, 2, max_runs=20),
    ]  # fmt: skip


def test_save_and_load(graphs, tmp_path):
    for graph in graphs:
        again = CausalGraph.load(graph.save(tmp_path / "graph.json"))
        assert json.loads(json.dumps(again.to_dict())) == json.loads(json.dumps(graph.to_dict()))
        assert asdict(again.sufficient) == asdict(graph.sufficient)
        assert again.routes() == graph.routes() and again.nodes == graph.nodes
        assert again.remarks == graph.remarks and again.verified == graph.verified
        for name in ("pag", "learned_pag"):
            one, two = getattr(again, name), getattr(graph, name)
            assert (one is None) == (two is None)
            assert one is None or (one.marks == two.marks).all()
        drawn = again.to_networkx()
        assert all("label" in values for _, values in drawn.nodes(data=True))


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (("sufficient", "node_edges"), [[0, 10**6]]), (("sufficient", "edges"), [[0, 10**6]]),
        (("sufficient", "edges"), [[0]]), (("sufficient", "minimality"), "best"),
        (("necessary", "probability"), 2), (("edges", 0, "source"), 10**6),
        (("edges", 0, "verified"), "yes"), (("kinds", 0), "picture"), (("kinds",), []),
        (("labels", 0), 3), (("members", 0), []), (("members", 0), [10**6]), (("members",), []),
        (("pag",), {"marks": 1}), (("cut",), "patch"), (("target",), None), (("format",), 2),
        (("trace", "tokens"), 3), (("faithfulness",), "much"), (("remarks",), "one"),
    ],
    ids=str,
)  # fmt: skip
def test_damaged_files_are_refused(graphs, tmp_path, place, new):
    from tests.damage import changed, dumps

    value = json.loads(graphs[1].save(tmp_path / "graph.json").read_text())
    (tmp_path / "graph.json").write_text(dumps(changed(value, place, "replace", new)))
    with pytest.raises(OutputError, match=r"graph\.json"):
        CausalGraph.load(tmp_path / "graph.json")


def test_a_graph_that_denies_a_cause_cannot_be_made(graphs):
    graph = graphs[1]
    n, target = len(graph.nodes), graph.nodes.target
    marks = np.zeros((n, n), dtype=np.uint8)
    cause = Cause(0, "cut", True, "cutting it: the model says 'blue'")
    with pytest.raises(StructureError, match="no path"):
        replace(graph, pag=PAG(marks), causes=(cause,))
    marks[0, target] = marks[target, 0] = 2
    with pytest.raises(StructureError, match="arrowhead"):
        replace(graph, pag=PAG(marks), causes=(cause,))
    marks[target, 0] = 3
    assert replace(graph, pag=PAG(marks), causes=(cause,)).causes == (cause,)


# -- as part of an explanation ------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["icd", "ordered_icd"])
def test_an_explanation_learns_its_graph_again_as_it_learned_it(monkeypatch, algorithm):
    from causal_lvlm.explanation import reconcile

    _, trace = case("llava")
    asked = []
    plain = reconcile.learn_structure

    def noted(*args, **options):
        asked.append(options["algorithm"])
        return plain(*args, **options)

    monkeypatch.setattr(reconcile, "learn_structure", noted)
    found = cl.explain(
        trace, slice(1, 3), graph=GraphOptions(max_runs=30), max_runs=120, algorithm=algorithm,
        source="attention", layer="mean",
    )  # fmt: skip
    rerun(trace, found.graph)
    assert set(asked) <= {algorithm} and asked


def test_ctrl_c_while_masking_puts_no_edge_to_the_model(monkeypatch):
    _, trace = case("llava")
    count = 0
    plain = type(trace).evaluate

    def interrupted(self, *args, **options):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    def never(self, *args, **options):
        raise AssertionError("an edge was cut")

    monkeypatch.setattr(type(trace), "evaluate", interrupted)
    monkeypatch.setattr(type(trace), "evaluate_edges", never)
    found = cl.explain(trace, slice(1, 3), graph=True)
    assert any(one.ended == "interrupted" for one in found.sets.values())
    assert found.graph.sufficient.outcome == "not_asked"


def test_what_was_tested_is_said_whatever_the_tester():
    _, trace = case("llava")
    graph = causal_graph(trace, 2, tester="drop", drop_ratio=0.9, max_runs=40, n_random=0)
    assert graph.necessary.verified
    first = trace.token_text(int(graph.target.token_ids[0]))
    said = " ".join(graph.sentences())
    assert ("still says it" in said) == (graph.necessary.says == (first,))
    _, crossed = case("mllama")
    assert "cross-attention" in " ".join(causal_graph(crossed, 2, max_runs=20).sentences())


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_the_graph_of_an_explanation_comes_back_from_disk(tmp_path, name):
    _, trace = case(name)
    found = cl.explain(trace, slice(1, 3), graph=GraphOptions(max_runs=30), max_runs=60)
    again = cl.Explanation.load(found.save(tmp_path / "explanation.json"))
    assert again.graph.sufficient == found.graph.sufficient
    assert again.graph.necessary == found.graph.necessary
    assert again.graph.remarks == found.graph.remarks
    assert again.graph.sentences() == found.graph.sentences()
