"""causal-learn #266: background knowledge "Y is a sink" put a tail at Z on Z o-> Y.

Model: X -> Z, X -> Y, Z -> Q, Q -> Y, and a latent common cause of Z and Y. Tiers allow only the
arrowhead at Y: the mark at Z is open, since the edge may be confounded.
"""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.structure import learn_structure
from tests import naive

X, Z, Q, Y, U = range(5)


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("algorithm", ["fci", "ordered_icd"])
def test_tiers_put_on_arrowheads_and_no_tails(algorithm, variant):
    weights = np.zeros((5, 5))
    for cause, effect in ((X, Z), (X, Y), (U, Z), (U, Y), (Z, Q), (Q, Y)):
        weights[effect, cause] = 0.7
    correlation = naive.population_correlation(weights, np.arange(4))
    free = learn_structure(correlation, n_samples=10**6, alpha=0.01, algorithm="fci")
    tiers = {"tiers": [0, 0, 0, 1], "algorithm": algorithm, "variant": variant}
    known = learn_structure(correlation, n_samples=10**6, alpha=0.01, **tiers)
    for found in (free, known):
        assert found.pag.marks[Y, Z] == 1  # a circle at Z
    assert known.pag.marks[Z, Y] == 2  # an arrowhead at Y
