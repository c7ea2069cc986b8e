"""R0-R10 together against plain Python: knowledge, selection rules and tails on random graphs."""

from __future__ import annotations

import os

import numpy as np
import pytest
from causal_kernels import complete_selection, complete_tails, orient
from causal_kernels.orientation import CONFLICT
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.naive_rules import CODE, Orientation, from_array, separator_arrays, to_array

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
EXAMPLES = 500 if JIT else 150


def random_pairs(rng, n):
    """Which pairs are edges and which are forbidden: (uint8 (n, n) of 0, 1 and 4)."""
    upper = np.triu(rng.random((n, n)) < rng.choice([0.3, 0.45, 0.6, 0.8]), 1)
    barred = np.triu(rng.random((n, n)) < rng.choice([0, 0.15]), 1) & ~upper
    marks = upper.astype(np.uint8) + 4 * barred.astype(np.uint8)
    return marks + marks.T


def random_marks(rng, n):
    """Arbitrary marks, with many or few circles."""
    marks = random_pairs(rng, n)
    circles = rng.choice([0.5, 0.8, 0.95, 1.0])
    p = (circles, (1 - circles) / 2, (1 - circles) / 2)
    return np.where(marks == 1, rng.choice([1, 2, 3], p=p, size=(n, n)), marks).astype(np.uint8)


def random_claims(rng, marks):
    """Some circles with contradicting claims."""
    frozen = (marks == 1) & (rng.random(marks.shape) < rng.choice([0, 0, 0.1]))
    return np.where(frozen, CONFLICT, 0).astype(np.uint8)


def compare(rng, marks, claims, sepset=None, twin=None):
    """Selection rules, or not, then tails: the kernels, and the twin."""
    n = len(marks)
    if twin is None:
        twin = Orientation(from_array(marks), n, sepset, True)
        twin.frozen = {tuple(pair) for pair in np.argwhere(claims == CONFLICT).tolist()}
    if rng.random() < 0.7:
        twin.complete_selection(rng)
        assert complete_selection(marks, claims, True) == 0
        np.testing.assert_array_equal(marks, to_array(twin.mark, n))
    twin.complete()
    complete_tails(marks, claims)
    np.testing.assert_array_equal(marks, to_array(twin.mark, n))


@examples(2 * EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8))
def test_any_marks(seed, n):
    rng = np.random.default_rng(seed)
    marks = random_marks(rng, n)
    compare(rng, marks, random_claims(rng, marks))


@pytest.mark.slow
@examples(EXAMPLES // 2)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(7, 10))
def test_circles_only(seed, n):
    """R5 where paths must be searched: larger graphs, all of circles."""
    rng = np.random.default_rng(seed)
    marks = random_pairs(rng, n)
    compare(rng, marks, random_claims(rng, marks))


@pytest.mark.slow
@examples(2 * EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 9), simultaneous=st.booleans())
def test_knowledge(seed, n, simultaneous):
    """Random skeletons, separating sets, tiers, known marks and forbidden pairs."""
    rng = np.random.default_rng(seed)
    marks = random_pairs(rng, n)
    tiers = rng.integers(0, rng.choice([1, 2, n]), size=n)
    share = rng.choice([0, 0.1, 0.3])
    known = rng.choice([0, 2, 3], p=[1 - share, share / 2, share / 2], size=(n, n)).astype(np.uint8)
    share = rng.choice([0.2, 0.5, 0.9])
    sepset = {
        (i, j): tuple(k for k in range(n) if k not in (i, j) and rng.random() < share)
        for i in range(n)
        for j in range(i + 1, n)
    }
    mark = from_array(marks)
    for i, j in mark:
        if mark[i, j] != "x" and (tiers[j] > tiers[i] or known[i, j]):
            mark[i, j] = "-" if known[i, j] == 3 and tiers[j] <= tiers[i] else ">"
    pinned = {pair: CODE[symbol] for pair, symbol in mark.items() if symbol in ">-"}
    twin = Orientation(mark, n, sepset, simultaneous, frozenset(pinned))
    twin.orient()
    claims = orient(marks, tiers, known, *separator_arrays(n, sepset), simultaneous)
    np.testing.assert_array_equal(marks, to_array(twin.mark, n))
    assert {tuple(pair) for pair in np.argwhere(claims == CONFLICT).tolist()} == twin.frozen
    assert set(np.unique(claims)) <= {0, CONFLICT}
    assert all(marks[pair] == code for pair, code in pinned.items())
    compare(rng, marks, claims, twin=twin)
    assert all(marks[pair] == code for pair, code in pinned.items())


@examples(EXAMPLES // 2)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 12))
def test_numbering_does_not_matter(seed, n):
    """The last rules on a renumbered graph give the renumbered result."""
    rng = np.random.default_rng(seed)
    marks = random_marks(rng, n)
    claims = random_claims(rng, marks)
    new = rng.permutation(n)
    other, other_claims = marks[np.ix_(new, new)].copy(), claims[np.ix_(new, new)].copy()
    for m, c in ((marks, claims), (other, other_claims)):
        complete_selection(m, c, True)
        complete_tails(m, c)
    np.testing.assert_array_equal(other, marks[np.ix_(new, new)])
