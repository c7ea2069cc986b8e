"""Tetrad #856: a covariance matrix was given where raw data were expected: an error of a cast.

Here a covariance is told from data, in every form in which it is likely to come.
"""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.cli.tables import read_text
from causal_lvlm.errors import DataError
from causal_lvlm.structure import learn_structure

COVARIANCE = [[2.0, 1.0, 0.6], [1.0, 3.0, 1.1], [0.6, 1.1, 4.0]]


def test_a_covariance_is_no_table_of_three_samples():
    named = dict(zip("xyz", COVARIANCE, strict=True))
    with pytest.raises(ValueError, match="input='covariance'"):
        learn_structure(named, n_samples=100)
    learned = learn_structure(named, input="covariance", n_samples=100, alpha=0.05)
    assert learned.parameters["input"] == "covariance" and learned.names == ("x", "y", "z")
    labelled = {"": list("zxy"), **{k: np.array(v)[[2, 0, 1]] for k, v in named.items()}}
    assert learn_structure(labelled, n_samples=100, alpha=0.05) == learned


def test_its_lower_half_is_called_by_its_name(tmp_path):
    path = tmp_path / "covariance.txt"
    path.write_text("x y z\n2.0\n1.0 3.0\n0.6 1.1 4.0\n")
    with pytest.raises(DataError, match="lower half of a matrix"):
        read_text(path)
