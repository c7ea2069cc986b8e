"""Tetrad #881: differently sorted columns, and knowledge by name, gave different graphs."""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.structure import BackgroundKnowledge, learn_structure


@pytest.mark.parametrize("form", ["data", "covariance", "correlation"])
@pytest.mark.parametrize("known", [False, True])
def test_sorting_columns_changes_nothing(form, known):
    rng = np.random.default_rng(3)
    data = rng.normal(size=(400, 6)) @ np.triu(rng.normal(size=(6, 6)))
    names = np.array(list("fadbec"))
    knowledge = BackgroundKnowledge([("a", "b")], [("c", "f")], [("d", "e")]) if known else None
    marks = []
    for order in (range(6), np.argsort(names), range(5, -1, -1)):
        order = np.array(order)
        values = data[:, order]
        matrix = {"covariance": np.cov(values.T), "correlation": np.corrcoef(values.T)}
        table = dict(zip(names[order], matrix.get(form, values.T), strict=True))
        graph = learn_structure(table, input=form, n_samples=400, alpha=0.01, knowledge=knowledge)
        assert graph.parameters["algorithm"] == "icd"
        by_name = np.argsort(names[order])
        marks.append(graph.pag.marks[np.ix_(by_name, by_name)].tolist())
    assert marks[0] == marks[1] == marks[2]
