"""Partial correlation against the inverse of a matrix, exact fractions, and singular input."""

from __future__ import annotations

from fractions import Fraction

import causal_kernels as kernels
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import naive
from tests.examples import examples

TOLERANCE = 1e-9


def partial(correlation, x, y, members):
    members = np.array(members, dtype=np.int64)
    work = np.empty((len(members) + 2, len(members) + 3))
    return kernels.partial_correlation(
        np.asarray(correlation, dtype=np.float64), x, y, members, len(members), TOLERANCE, work
    )


@examples(60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9))
def test_equals_inverse(seed, n):
    rng = np.random.default_rng(seed)
    correlation = np.corrcoef(rng.normal(size=(4 * n, n)), rowvar=False)
    nodes = rng.permutation(n)
    size = int(rng.integers(0, n - 1))
    x, y, members = int(nodes[0]), int(nodes[1]), nodes[2 : 2 + size]
    status, value = partial(correlation, x, y, members)
    assert status == kernels.OK
    assert value == pytest.approx(naive.partial_correlation(correlation, x, y, members), abs=1e-10)
    assert partial(correlation, y, x, members[::-1])[1] == pytest.approx(value, abs=1e-12)


def test_exact_chain():
    """In the chain 0 -> 1 -> 2, node 1 separates; in a collider, conditioning connects."""
    chain = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]])
    assert partial(chain, 0, 2, [1]) == (kernels.OK, 0.0)
    collider = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])
    expected = float(Fraction(-1, 4) / Fraction(3, 4))
    assert partial(collider, 0, 2, [1])[1] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("x", "y", "members"),
    [
        (2, 3, [0, 1]),  # 0 and 1 are copies of each other: a pivot is zero
        (0, 2, [1]),  # x is a copy of a conditioning variable
        (2, 1, [0, 3]),  # y is
    ],
)
def test_singular_gives_no_answer(x, y, members):
    r = np.array(
        [[1.0, 1.0, 0.3, 0.2], [1.0, 1.0, 0.3, 0.2], [0.3, 0.3, 1.0, 0.1], [0.2, 0.2, 0.1, 1.0]]
    )
    assert partial(r, x, y, members) == (kernels.SINGULAR, 0.0)
    r[0, 1] = r[1, 0] = 1.0 - 1e-12  # as good as equal
    assert partial(r, x, y, members)[0] == kernels.SINGULAR


def test_tolerance_is_on_the_unexplained_variance():
    for gap, expected in ((1e-8, kernels.OK), (1e-10, kernels.SINGULAR)):
        r = np.eye(3)
        r[0, 1] = r[1, 0] = np.sqrt(1 - gap)
        assert partial(r, 0, 2, [1])[0] == expected
