"""The graph experiment: one target end to end, its figures by hand, and that its page says them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from causal_lvlm.edges import all_but
from experiments.common.streams import GRAPH_DEVELOPMENT
from experiments.common.tables import filled
from experiments.graph import item, page, settings, summary
from experiments.graph.bench import Bench
from experiments.graph.run import planned

HERE = Path(page.__file__).parent


@pytest.fixture(scope="module")
def model():
    return item.setup()


@pytest.fixture(scope="module")
def bench(model):
    pair = item.pair_of(model, {"seed": 1, "stream": GRAPH_DEVELOPMENT, "scene": 0, "question": 0})
    return Bench.of(pair.trace, pair.target)


def test_fewer_targets_are_the_first_of_more(model):
    few, _ = planned(model, 2, 1, GRAPH_DEVELOPMENT)
    more, _ = planned(model, 4, 1, GRAPH_DEVELOPMENT)
    assert few == {k: more[k] for k in (0, 1)} and more[0]["exact"] and not more[1]["exact"]


def test_random_orders_have_the_in_degrees_of_every_prefix(bench):
    order = np.random.default_rng(0).permutation(len(bench.items)).tolist()
    drawn = bench.random_like(order, np.random.default_rng(1))
    assert sorted(drawn) == sorted(order) and drawn != order
    assert bench.items[drawn, 1].tolist() == bench.items[order, 1].tolist()


def test_the_learned_order_has_the_graph_first_and_the_strong_ones_first(bench):
    learned = bench.learned(source="influence")
    order, n = learned.order(), int(learned.inside.sum())
    assert learned.inside[order[:n]].all() and not learned.inside[order[n:]].any()
    assert (np.diff(learned.strength[order[:n]]) <= 0).all()


def test_margins_are_those_of_the_whole_sequence(bench):
    found = item.faithfulness(bench, {"a": [list(range(len(bench.items)))]}, 5)
    pairs = bench.edges.between(bench.nodes, bench.items[:5].tolist())
    cuts = [all_but([]), all_but(bench.edges.pairs), all_but(pairs)]
    plain = bench.trace.evaluate_edges(cuts, bench.target, rivals=bench.rivals, backend="block")
    none, everything, kept = plain.fixed_margin
    assert found["margin"]["none"] == pytest.approx(none, abs=1e-3)
    assert found["margin"]["all"] == pytest.approx(everything, abs=1e-3)
    f = (kept - none) / (everything - none)
    assert found["same_size"]["a"][0]["f"] == pytest.approx(f, abs=1e-3)
    assert found["curves"]["a"][0][-1] == pytest.approx(1.0, abs=1e-3)


def test_areas_are_those_counted_by_hand():
    half = [[0.5] * len(settings.SHARES)] * 2
    row = {"curves": {"a": half}}
    assert summary.cpr(row, "a") == pytest.approx(0.5 * 0.999)
    assert summary.cmd(row, "a") == pytest.approx(0.5 * 0.999)


@pytest.mark.slow
def test_a_target_is_measured_end_to_end(model):
    plan, _ = planned(model, 1, 1, GRAPH_DEVELOPMENT)
    row = item.work({**plan[0], "exact": False}, model)
    assert summary.done(row) and not row["prior"]
    assert set(row["curves"]) == set(settings.ORDERS) and set(row["sources"]) == set(
        settings.SOURCES
    )
    assert all(one["after"] == 0 for one in row["sources"].values())
    assert all(one["runs"] <= settings.BUDGET for one in row["searches"].values())


def test_the_page_says_what_is_saved():
    rows, config = page.load(HERE / "results")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert filled(text, page.blocks(rows, config)) == text
