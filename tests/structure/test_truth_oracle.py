"""The truths of tests/truth.py agree with one another, with networkx and with known counts."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from tests import naive, truth


def cases(count, seed, sizes=(3, 7)):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(*sizes))
        latent, selected = (int(k) for k in rng.integers(0, 3, size=2))
        yield truth.random_case(rng, n, latent, selected, rng.uniform(2.0, 4.0))


def test_separation_is_that_of_networkx():
    asked = 0
    for case in cases(20, 0):
        dag = naive.dag_of(case.weights)
        names, chosen = case.observed, {int(k) for k in case.selected}
        for i, j, given in truth.questions(case.n)[::5]:
            block = {int(names[k]) for k in given} | chosen
            expected = nx.is_d_separator(dag, {int(names[i])}, {int(names[j])}, block)
            assert (case.oracle(i, j, given) == 0.0) == expected
            asked += 1
    assert asked > 300


def test_mag_has_the_separations_of_its_dag():
    """Latent and selected variables are gone, what they do to the others is kept."""
    kinds = set()
    for case in cases(60, 1, (3, 6)):
        mag = truth.mag_of(case.oracle)
        assert truth.is_ancestral(mag)
        assert truth.model_of_mag(mag) == truth.model_of_dag(case.oracle)
        kinds |= {(int(mag[i, j]), int(mag[j, i])) for i, j in np.argwhere(mag)}
    assert kinds == {(2, 2), (2, 3), (3, 2), (3, 3)}


def test_inducing_paths_join_what_nothing_separates():
    for case in cases(60, 2):
        adjacent = truth.mag_of(case.oracle) > 0
        separable = {
            (i, j) for i, j, given in truth.questions(case.n) if not case.oracle(i, j, given)
        }
        for i, j in itertools.combinations(range(case.n), 2):
            assert adjacent[i, j] == ((i, j) not in separable)


@pytest.mark.parametrize("undirected", [False, True])
def test_all_mags(undirected):
    """Three nodes have the 11 models of DAGs. A class has one skeleton, and none is missed."""
    assert len(truth.all_mags(3, undirected)) == 11
    rng = np.random.default_rng(0)
    models = set()
    for model, members in truth.all_mags(4, undirected).items():
        models.add(model)
        assert len({(marks > 0).tobytes() for marks in members}) == 1
        listed = truth.markov_class(members[rng.integers(len(members))], undirected)
        assert {m.tobytes() for m in listed} == {m.tobytes() for m in members}
    for case in cases(200, 3, (4, 5)):
        if undirected or len(case.selected) == 0:
            assert truth.model_of_dag(case.oracle) in models


def test_canonical_case_has_the_mag():
    rng = np.random.default_rng(0)
    for members in truth.all_mags(4, True).values():
        mag = members[rng.integers(len(members))]
        np.testing.assert_array_equal(truth.mag_of(truth.canonical_case(rng, mag).oracle), mag)


def test_cpdags_of_four_nodes():
    """543 DAGs fall into 185 classes (Gillispie and Perlman, UAI 2001)."""
    found, dags = set(), 0
    pairs = list(itertools.combinations(range(4), 2))
    for kinds in itertools.product(range(3), repeat=6):
        arcs = np.zeros((4, 4), dtype=bool)
        for (i, j), kind in zip(pairs, kinds, strict=True):
            arcs[i, j], arcs[j, i] = kind == 1, kind == 2
        if nx.is_directed_acyclic_graph(nx.from_numpy_array(arcs, create_using=nx.DiGraph)):
            dags += 1
            found.add(truth.cpdag_of(arcs).tobytes())
    assert (dags, len(found)) == (543, 185)


def test_correlation_given_selection_is_a_partial_correlation():
    for case in cases(20, 4):
        everything = [*case.observed, *case.selected]
        full = naive.population_correlation(case.weights, everything)
        chosen = range(case.n, len(everything))
        for i, j in itertools.combinations(range(case.n), 2):
            expected = naive.partial_correlation(full, i, j, chosen)
            assert case.correlation[i, j] == pytest.approx(expected, abs=1e-12)


def test_unfaithful_models_are_noticed():
    """Two ways from 0 to 2 that cancel: 2 = 1 - 0 and 1 = 0."""
    weights = np.zeros((3, 3))
    weights[1, 0], weights[2, 1], weights[2, 0] = 1.0, 1.0, -1.0
    assert not truth.is_faithful(truth.make_case(weights, np.arange(3), np.arange(0)))
    weights[2, 0] = 0.5
    assert truth.is_faithful(truth.make_case(weights, np.arange(3), np.arange(0)))
