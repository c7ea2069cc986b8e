"""Data tables, covariances and attention as correlations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.errors import (
    AttentionError,
    CausalLVLMError,
    CorrelationError,
    DataError,
    SampleSizeError,
    StructureError,
)
from causal_lvlm.structure.attention import correlation_from_attention
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.inputs import as_source
from causal_lvlm.structure.sources import CorrelationSource, correlation_from_covariance
from tests.examples import examples


class Frame:
    """What pandas and polars have in common: columns and to_numpy()."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = list(columns)
        self._columns = [np.asarray(c) for c in columns.values()]

    def to_numpy(self) -> Any:
        kinds = {c.dtype.kind for c in self._columns}
        table = np.empty(
            (len(self._columns[0]), len(self._columns)), dtype=float if kinds == {"f"} else object
        )
        for k, column in enumerate(self._columns):
            table[:, k] = column
        return table


def normal(n=50, p=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, p))


def exact_correlation(values):
    """Pearson correlation with 60 digits, from the definition."""
    with mpmath.workdps(60):
        columns = [[mpmath.mpf(float(v)) for v in column] for column in values.T]
        centred = [[v - mpmath.fsum(c) / len(c) for v in c] for c in columns]
        norms = [mpmath.sqrt(mpmath.fsum(v * v for v in c)) for c in centred]
        return np.array(
            [
                [
                    float(mpmath.fsum(u * v for u, v in zip(a, b, strict=True)) / (p * q))
                    for b, q in zip(centred, norms, strict=True)
                ]
                for a, p in zip(centred, norms, strict=True)
            ]
        )


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "scale"),
    [(0, 1), (1e9, 1e-3), (-1e12, 1.0), (0, 1e-300), (0, 1e300), (1e300, 1e290), (0, 5e-312)],
)
def test_correlation_is_exact_for_any_mean_and_scale(shift, scale):
    values = normal()
    values[:, 1] = values[:, 1] * scale + shift
    values[:, 2] += values[:, 0]
    source = correlation_from_data(values)
    np.testing.assert_allclose(source.correlation, exact_correlation(values), atol=2e-15, rtol=0)
    assert source.n_samples == 50 and source.names is None and source.notes == ()
    assert source.kind == "data" and not source.correlation.flags.writeable


@examples(30)
@given(
    seed=st.integers(0, 2**32 - 1), p=st.integers(1, 5), exponent=st.integers(-200, 200),
    shift=st.floats(-1e6, 1e6),
)  # fmt: skip
def test_correlation_of_data_is_a_correlation(seed, p, exponent, shift):
    values = normal(12, p, seed)
    source = correlation_from_data(np.ldexp(values + shift, exponent))
    matrix = source.correlation
    np.testing.assert_array_equal(matrix, matrix.T)
    assert (matrix.diagonal() == 1).all() and np.abs(matrix).max() <= 1
    np.testing.assert_allclose(matrix, correlation_from_data(values).correlation, atol=1e-8)


def test_tables_of_every_kind_read_the_same():
    values = normal().round(3)
    want = correlation_from_data(values).correlation
    named = {"a": values[:, 0], "b": values[:, 1], "c": values[:, 2]}
    mixed = {**named, "c": [float(v) for v in values[:, 2]]}
    for data in (values.tolist(), named, mixed, Frame(named), np.asfortranarray(values)):
        source = correlation_from_data(data)
        # another memory layout may be added up in another order
        np.testing.assert_allclose(source.correlation, want, rtol=0, atol=1e-14)
    assert correlation_from_data(Frame(named)).names == ("a", "b", "c")
    assert correlation_from_data(values, names=["x", "y", "z"]).names == ("x", "y", "z")
    assert correlation_from_data(Frame(named), names="xyz").names == ("x", "y", "z")


def test_truth_values_and_integers_are_numbers():
    wet, rain = [True, False, True, True, False], [3, 1, 2, 3, 0]
    frame = Frame({"wet": wet, "rain": rain})
    assert frame.to_numpy().dtype == object
    want = np.corrcoef(np.array(wet, dtype=float), rain)[0, 1]
    assert correlation_from_data(frame).correlation[0, 1] == pytest.approx(want, abs=1e-15)


def test_pandas():
    pandas = pytest.importorskip("pandas")
    values = normal(20, 2)
    frame = pandas.DataFrame({"a": values[:, 0], "b": values[:, 1], "n": np.arange(20)})
    source = correlation_from_data(frame)
    assert source.names == ("a", "b", "n")
    np.testing.assert_allclose(source.correlation, frame.corr().to_numpy(), atol=1e-14)
    frame["n"] = pandas.array([None, *range(19)], dtype="Int64")
    with pytest.raises(DataError, match=r"1 missing and 0 infinite values in columns 'n'"):
        correlation_from_data(frame)
    assert correlation_from_data(frame, drop=True).n_samples == 19
    frame["when"] = pandas.Timestamp("2026-11-21")
    with pytest.raises(DataError, match="'when'"):
        correlation_from_data(frame)
    # The correlation of a data frame is a data frame too.
    assert as_source(frame[["a", "b"]].corr()).kind == "correlation"


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (np.zeros(5), DataError, "two axes"),
        (np.zeros((5, 0)), DataError, "no column"),
        ({}, DataError, "no column"),
        ([[1, 2], [3]], DataError, "equal length"),
        ({"a": [1, 2], "b": [1]}, DataError, "different shapes"),
        ({"a": ["x"] * 5, "b": range(5)}, DataError, r"no numbers: 'a' \(text\)"),
        (Frame({"a": [1.5, "x"]}), DataError, r"'a' \(text"),
        ({"a": np.array(["2026-01-01"] * 5, dtype="M8[D]")}, DataError, "'a' .dates"),
        (np.ones((5, 2)) * 1j, DataError, "complex"),
        ([[1, None], [2, 1], [3, 2], [4, 1]], DataError, r"1 missing and 0 infinite .*columns 1"),
        ({"a": [1, 2, np.inf, 3], "b": [1, 2, 3, 5]}, DataError, r"'a' \(rows 2\)"),
        ({"a": [1.0, 2, 3, 4], "b": [0.3] * 4}, DataError, "constant columns .*'b'"),
        ({"b": [0.1 + 0.2, 0.3, 0.3, 0.3], "a": [1, 2, 3, 9]}, DataError, "constant .*'b'"),
        ({"a": [1, 2, 3, 5], "b": [10, 20, 30, 50]}, DataError, r"'b' \(as 'a'\)"),
        ({"a": [0.1, 0.2, 0.3, 0.5], "b": [0.7, 0.4, 0.1, -0.5]}, DataError, r"'b' \(as 'a'\)"),
        (normal(3, 2), SampleSizeError, "3 usable rows"),
        ([[1.0, 1.0]] * 9, DataError, "constant columns"),
    ],
)
def test_what_cannot_be_used_is_named(data, error, words):
    with pytest.raises(error, match=words):
        correlation_from_data(data)


def test_repeated_or_wrong_names():
    with pytest.raises(DataError, match="'a' is used for more than one"):
        correlation_from_data(normal(), names=["a", "b", "a"])
    with pytest.raises(DataError, match="2 names were given for 3 columns"):
        correlation_from_data(normal(), names=["a", "b"])


def test_drop_leaves_out_and_says_so():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30))
    table = {"a": a, "flat": np.full(30, 7.7), "b": b, "a again": 3 - 2 * a, "a thrice": a * 1e9}
    table["b"] = b.copy()
    table["b"][4] = np.nan
    source = correlation_from_data(table, drop=True)
    assert source.names == ("a", "b") and source.n_samples == 29
    kept = np.arange(30) != 4
    want = np.corrcoef(a[kept], b[kept])
    np.testing.assert_allclose(source.correlation, want, atol=1e-14)
    text = "; ".join(source.notes)
    for part in ("1 rows", "'flat'", "'a again' (as 'a')", "'a thrice' (as 'a')"):
        assert part in text, text
    array = np.column_stack(list(table.values()))
    assert correlation_from_data(array, drop=True).names == ("0", "2")
    with pytest.raises(DataError, match="every column is constant"):
        correlation_from_data(np.ones((9, 2)), drop=True)


def test_almost_equal_columns_stay():
    a = normal(1000, 1)[:, 0]
    noisy = a + 1e-4 * normal(1000, 1, seed=1)[:, 0]
    source = correlation_from_data({"a": a, "noisy": noisy})
    assert source.notes == () and source.correlation[0, 1] < 1


def test_fewer_samples_than_variables_is_noted():
    source = correlation_from_data(normal(6, 8))
    assert source.n_samples == 6 and "fewer samples than variables" in source.notes[0]
    assert "limited to 2 nodes" in source.notes[0]
    assert np.linalg.matrix_rank(source.correlation) == 5


def test_effective_sample_size():
    assert correlation_from_data(normal(), n_samples=20).n_samples == 20
    with pytest.raises(SampleSizeError, match="only 50"):
        correlation_from_data(normal(), n_samples=51)


# --- covariance -----------------------------------------------------------------------------------


def test_covariance():
    values = normal()
    covariance = np.cov(values.T) * 1e-6
    source = correlation_from_covariance(covariance, n_samples=50, names="abc")
    np.testing.assert_allclose(source.correlation, np.corrcoef(values.T), atol=1e-14)
    assert source.n_samples == 50 and source.names == ("a", "b", "c")
    assert source.kind == "covariance"


@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        ([[1.0, 0], [0, 0]], DataError, r"positive.*: 1 \(0\)"),
        ([[1.0, 0], [0, -2]], DataError, r"1 \(-2\)"),
        ([[1.0, 0, 0], [0, 1, 0]], CorrelationError, "square"),
        ([[1.0, 0.5], [0.2, 1]], CorrelationError, "not symmetric"),
        ([[1.0, 2.5], [2.5, 4.0]], CorrelationError, "more than their variances allow"),
        ([[1.0, np.nan], [np.nan, 4.0]], CorrelationError, "covariance of 0 and 1 is nan"),
        ([["a"]], CorrelationError, "numbers"),
        (np.zeros((0, 0)), CorrelationError, "not empty"),
    ],
)
def test_what_is_no_covariance(matrix, error, words):
    with pytest.raises(error, match=words):
        correlation_from_covariance(matrix)


# --- attention ------------------------------------------------------------------------------------


def causal_attention(heads=2, length=9, seed=0, sink=0.0):
    weights = np.tril(np.random.default_rng(seed).random((heads, length, length)))
    weights /= weights.sum(-1, keepdims=True)
    weights *= 1 - sink
    weights[:, :, 0] += sink
    return weights


def test_attention_is_the_cosine_of_its_rows():
    weights = causal_attention()
    source = correlation_from_attention(weights, head=1, threshold=0.3)
    rows = [row / np.sqrt((row**2).sum()) for row in weights[1]]
    want = [[float(np.dot(a, b)) for b in rows] for a in rows]
    # a cosine is off by some units of rounding, which depend on the order of adding up
    np.testing.assert_allclose(source.correlation, want, rtol=0, atol=1e-14)
    assert source.threshold == 0.3 and source.names == tuple("012345678")
    for same in (
        correlation_from_attention(weights, head=-1),
        correlation_from_attention(weights[1:]),
    ):
        np.testing.assert_allclose(same.correlation, want, rtol=0, atol=1e-14)


def test_rows_without_weight_are_left_out():
    weights = causal_attention()[0]
    weights[2] = 0
    source = correlation_from_attention(weights, names=[f"t{k}" for k in range(9)])
    assert source.names == ("t0", "t1", "t3", "t4", "t5", "t6", "t7", "t8")
    assert source.notes == ("rows without weight are left out: [t2]",)


def test_sinks():
    weights = causal_attention(sink=0.6)[0]
    kept = correlation_from_attention(weights)
    assert kept.notes == () and len(kept.correlation) == 9
    for sink in ("drop", "condition"):
        source = correlation_from_attention(weights, sink=sink)
        # Position 0 attends to itself only, so nothing is left of its row either way; and
        # projecting its row out is the same as taking its column away.
        rows = weights[1:, 1:]
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(source.correlation, unit @ unit.T, atol=1e-12)
        assert source.names == tuple("12345678") and "sinks at 0" in source.notes[0]
    assert correlation_from_attention(causal_attention()[0], sink="drop").names is not None
    with pytest.raises(StructureError, match="'keep', 'drop' or 'condition'"):
        correlation_from_attention(weights, sink="hide")


@pytest.mark.parametrize(
    ("attention", "head", "words"),
    [
        (causal_attention(), None, r"head=0\.\.1"),
        (causal_attention(), 2, "no head 2"),
        (causal_attention()[0], 0, "leave head out"),
        (np.ones((2, 3)), None, r"shape \(T, T\)"),
        (np.ones((0, 3, 3)), None, r"shape \(T, T\)"),
        (-np.eye(3), None, r"entry \(0, 0\) is -1"),
        (np.eye(3) * np.nan, None, "finite"),
        (np.zeros((3, 3)), None, "no row"),
        ([["a"]], None, "real numbers"),
    ],
)
def test_what_is_no_attention(attention, head, words):
    with pytest.raises(AttentionError, match=words):
        correlation_from_attention(attention, head=head)


# --- as_source ------------------------------------------------------------------------------------


def test_auto_recognises_a_correlation_and_data():
    values = normal()
    assert as_source(np.corrcoef(values.T)).kind == "correlation"
    assert as_source(np.corrcoef(values.T).tolist(), n_samples=9).n_samples == 9
    assert as_source(values).kind == "data" and as_source(values).n_samples == 50
    frame = Frame({f"x{k}": column for k, column in enumerate(normal(5, 5).T)})
    assert as_source(frame).kind == "data"
    correlation = np.corrcoef(values.T)
    named = Frame({"a": correlation[0], "b": correlation[1], "c": correlation[2]})
    source = as_source(named)
    assert source.kind == "correlation" and source.names == ("a", "b", "c")
    assert as_source(source) is source


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.cov(normal().T) * 3, "input='covariance'"),
        (causal_attention()[0], "not symmetric.*input='attention'.*input='data'"),
        (normal(5, 5), "input='data'"),
    ],
)
def test_auto_names_the_helper_when_it_cannot_tell(values, words):
    with pytest.raises(CorrelationError, match=words):
        as_source(values)


def test_input_says_what_it_is():
    square = normal(5, 5)
    assert as_source(square, input="data").kind == "data"
    assert as_source(np.cov(normal().T), input="covariance").kind == "covariance"
    assert as_source(causal_attention()[0], input="attention").kind == "attention"
    np.testing.assert_array_equal(as_source(square, input="correlation").correlation, square)
    with pytest.raises(StructureError, match="input must be one of auto, correlation"):
        as_source(square, input="table")
    with pytest.raises(CorrelationError, match="square"):
        as_source(normal(), input="correlation")


@pytest.mark.parametrize(
    "values", [3.0, "text", None, [], [[]], [[1, 2], [3]], np.zeros((2, 2, 2))]
)
def test_anything_else_is_a_typed_error(values):
    with pytest.raises(CausalLVLMError):
        as_source(values)


def test_source_is_frozen():
    matrix = np.eye(2)
    source = CorrelationSource(matrix, tiers=np.array([0, 1]))
    matrix[0, 1] = 9
    assert source.correlation[0, 1] == 0 and source.tiers is not None
    assert not source.tiers.flags.writeable


def test_learning_from_a_source_with_an_order_of_its_own():
    """An object with `.correlation` goes where a matrix goes."""
    from causal_lvlm.structure import learn_structure

    values = normal(500, 3)
    values[:, 2] += values[:, 0] + values[:, 1]
    source = correlation_from_data(values)
    direct = learn_structure(source.correlation, n_samples=500, alpha=0.01)
    other = SimpleNamespace(correlation=source.correlation, n_samples=500)
    assert learn_structure(source, alpha=0.01).pag == direct.pag
    assert learn_structure(other, alpha=0.01).pag == direct.pag


def test_masked_entries_are_missing_values():
    """Not the numbers that stand hidden behind the mask."""
    table = np.ma.masked_array(np.random.default_rng(0).normal(size=(30, 3)))
    table[4, 1] = np.ma.masked
    with pytest.raises(DataError, match="1 missing"):
        correlation_from_data(table)
    with pytest.raises(DataError, match="1 missing"):
        as_source(table)
    dropped = correlation_from_data(table, drop=True)
    rest = np.delete(np.asarray(table), 4, axis=0)
    np.testing.assert_allclose(dropped.correlation, np.corrcoef(rest, rowvar=False), atol=1e-12)


def test_truth_values_may_be_a_correlation():
    assert as_source(np.eye(3, dtype=bool)).kind == "correlation"
