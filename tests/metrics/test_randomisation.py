"""Randomising a model: known curves for made-up maps, and the embedded model's own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

import causal_lvlm as cl
from causal_lvlm.errors import SelfCheckError
from causal_lvlm.methods import rerun
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.graph_randomisation import edge_jaccard, graph_mprt
from causal_lvlm.metrics.randomisation import mprt
from causal_lvlm.structure import PAG
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.explanation import fakes


@dataclass
class FakeModel:
    depth: int = 0

    def randomised(self, n_layers, *, seed, head=True):
        return FakeModel(n_layers)


@dataclass
class Randomisable(fakes.FakeTrace):
    model: FakeModel = None
    depth: int = 0
    fixed: bool = False

    def on(self, model, check=False):
        return replace(self, depth=model.depth, model=model)

    def attention(self, layers=(-1,)):
        return replace(
            fakes.FakeTrace(self.keeps, self.layout), seed=0 if self.fixed else self.depth
        ).attention(layers)


def make_case(n_layers=3, **options):
    layout = fakes.layout(3, 4)
    units = candidate_units(layout, resolve_target(layout, 0))
    trace = Randomisable(
        lambda visible: True, layout, model=FakeModel(), n_layers=n_layers, **options
    )
    return Case(trace, 0, units=units)


MAPS = np.array([[5, 4, 3, 2, 1, 0.0], [5, 4, 3, 2, 0, 1], [0, 1, 2, 3, 4, 5], [1, 5, 0, 4, 2, 3]])


def prescribed(trace, target, units):
    """Map number `depth`; the last units are zero in all of them."""
    found = np.full(len(units), -1.0)
    found[:6] = MAPS[trace.depth]
    return found


def test_curve_is_one_minus_the_absolute_rank_correlation():
    found = mprt(make_case(), prescribed, rerun)
    full = np.concatenate([MAPS, np.full((4, 8), -1.0)], axis=1)
    expected = [1 - abs(stats.spearmanr(full[0], m).statistic) for m in full[1:]]
    np.testing.assert_allclose(found.detail["curve"], expected)
    assert found.value == pytest.approx(np.mean(expected)) and found.detail["depths"] == [1, 2, 3]
    assert mprt(make_case(), prescribed, rerun, depths=[2]).value == pytest.approx(expected[1])


def test_a_map_that_ignores_the_weights_fails_and_so_does_its_mirror_image():
    values = np.arange(14.0)
    assert mprt(make_case(), lambda t, g, u: values, rerun).value == pytest.approx(0.0)
    flipped = mprt(make_case(), lambda t, g, u: values if t.depth == 0 else -values, rerun)
    assert flipped.value == pytest.approx(0.0)


def test_unrelated_maps_come_near_one():
    def noise(trace, target, units):
        return np.random.default_rng(trace.depth).random(len(units))

    assert mprt(make_case(100), noise, rerun, depths=range(1, 101)).value > 0.7


def test_a_method_that_refuses_random_models_has_no_value_and_a_reason():
    def picky(trace, target, units):
        if trace.depth > 1:
            raise SelfCheckError("another answer")
        return prescribed(trace, target, units)

    some = mprt(make_case(), picky, rerun)
    assert some.detail["refused"] == 2 and some.detail["rho"][1:] == [None, None]
    assert some.value == some.detail["curve"][0]
    none = mprt(make_case(), picky, rerun, depths=[2, 3])
    assert none.value is None and "another answer" in none.detail["undefined"]


def test_constant_maps_have_no_rank_correlation():
    found = mprt(make_case(), lambda t, g, u: np.full(14, float(t.depth)), rerun)
    assert found.value is None and found.detail["rho"] == [None] * 3


def test_depths_are_numbers_of_layers():
    assert mprt(make_case(32), lambda t, g, u: np.arange(14.0), rerun).detail["depths"] == [
        8,
        16,
        24,
        32,
    ]
    for depths in ([], [0], [4], [1.5]):
        with pytest.raises(ValueError, match="must be"):
            mprt(make_case(), prescribed, rerun, depths=depths)


def graph(n, *edges):
    marks = np.zeros((n, n), dtype=np.uint8)
    for i, j in edges:
        marks[i, j] = marks[j, i] = 1
    return PAG(marks)


def test_jaccard_of_edges_and_what_chance_gives():
    one, other = graph(4, (0, 1), (1, 2)), graph(4, (1, 2), (2, 3), (0, 3))
    found, chance = edge_jaccard(one, other)
    assert found == 1 / 4
    pairs = list(itertools.combinations(range(4), 2))
    overlap = np.mean([
        len(set(a) & set(b))
        for a in itertools.combinations(pairs, 2)
        for b in itertools.combinations(pairs, 3)
    ])  # fmt: skip
    assert chance == pytest.approx(overlap / (5 - overlap))
    assert np.isnan(edge_jaccard(graph(3), graph(3))).all()


def test_graphs_of_the_same_attention_are_flat_and_the_reading_says_so():
    found = graph_mprt(make_case(fixed=True), threshold=0.3)
    assert found.value == 0.0 and found.detail["shd_share"] == [0.0] * 3
    assert "mask and position only" in found.detail["reading"]


def test_graphs_of_unrelated_attention_differ_as_chance_says():
    found = graph_mprt(make_case(20), depths=range(1, 21), threshold=0.3)
    chance = 1 - np.mean(found.detail["chance_jaccard"])
    assert 0.3 < found.value < 1.0 and found.value == pytest.approx(chance, abs=0.15)
    assert found.detail["heads"] == [2] * 20 and min(found.detail["edges"]) > 0


def test_graphs_that_agree_by_their_density_are_not_called_flat():
    found = graph_mprt(make_case(), threshold=1e-9, max_conditioning_size=0)
    assert found.value == 0.0 and found.detail["reading"].startswith("not informative")
    assert found.detail["complete"] == [0.0] * 3  # larger conditioning sets are left


def test_no_edges_no_value():
    found = graph_mprt(make_case(), threshold=0.9999)
    assert found.value is None and found.detail["undefined"] == "no graph has an edge"


@pytest.fixture(scope="module")
def trace(embedded_model):
    sample = sample_inputs()[0]
    return embedded_model.run(sample.image_path, sample.prompt)


def test_maps_of_the_embedded_model_depend_on_its_weights(trace):
    case = Case(trace, 0)
    assert mprt(case, "random", rerun).value == pytest.approx(0.0)
    found = mprt(case, "relevancy", rerun)
    assert found.detail["depths"] == [1, 2, 3] and found.asked == 4 == case.runs
    assert found.value > 0.3
    again = mprt(Case(trace, 0), cl.attribute(trace, 0, "relevancy"), rerun)
    assert again.detail["rho"] == found.detail["rho"]


def test_causal_is_asked_about_the_probability_and_so_has_a_value_on_random_models(trace):
    options = {"max_runs": 20, "candidates": "text"}
    found = mprt(Case(trace, 0), "causal", rerun, depths=[3], method_options=options)
    assert found.detail["asked_with"] == {"tester": "drop", "force": True}
    assert found.detail["refused"] == 0 and 0.0 < found.value <= 1.0
    # An attribution that was made with the default tester is asked in the same way.
    made = cl.attribute(trace, 0, "causal", **options)
    assert mprt(Case(trace, 0), made, rerun, depths=[3]).value == found.value
    flip = mprt(
        Case(trace, 0), "causal", rerun, depths=[3], method_options={**options, "tester": "flip"}
    )
    assert flip.value is None and "asked_with" not in flip.detail
    assert "refuses random models" in flip.detail["undefined"]


def test_graphs_of_the_embedded_model_depend_on_its_weights(trace):
    found = graph_mprt(Case(trace, 0), depths=[1, 3], max_tests=20_000, max_conditioning_size=1)
    assert 0.0 < found.value <= 1.0 and len(found.detail["curve"]) == 2
