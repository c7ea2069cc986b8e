"""causal-learn #82: PC gave another graph when two columns of the data were exchanged."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from causal_lvlm.structure import learn_structure


@pytest.mark.parametrize("algorithm", [None, "pc", "fci"])
def test_columns_may_stand_in_any_order(algorithm):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 10_000))
    c = a + b + rng.normal(size=10_000) * 0.25
    data = np.stack([a, b, c, c + rng.normal(size=10_000) * 0.25, c + rng.normal(size=10_000)], 1)
    names, found = "ABCDE", set()
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 17):
        table = {names[k]: data[:, k] for k in order}
        graph = learn_structure(table, alpha=0.01, algorithm=algorithm)
        back = np.argsort(order)
        found.add(graph.pag.marks[np.ix_(back, back)].tobytes())
    assert len(found) == 1
