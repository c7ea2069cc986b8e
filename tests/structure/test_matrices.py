"""What is a matrix is never learned as samples; the order of columns is no causal order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from typer.testing import CliRunner

from causal_lvlm import cli
from causal_lvlm.errors import CorrelationError, DataError
from causal_lvlm.structure import learn_structure
from causal_lvlm.structure.attention import correlation_from_attention
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.inputs import as_source
from causal_lvlm.structure.sources import correlation_from_covariance
from causal_lvlm.structure.tables import read_table

pandas: Any = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def frame():
    """A chain a -> b -> c -> d -> e."""
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=300)]
    for _ in range(4):
        columns.append(columns[-1] + rng.normal(size=300))
    return pandas.DataFrame(dict(zip("abcde", columns, strict=True)))


MATRICES = {
    "covariance": lambda f: f.cov(),
    "rows in another order": lambda f: f.cov().loc[list("edbca")],
    "correlation": lambda f: f.corr(),
    "sorted by a column": lambda f: f.corr().sort_values("a"),
    "labels in a column": lambda f: f.cov().reset_index(),
    "labels in the last column": lambda f: f.cov().loc[list("edbca")].assign(v=list("edbca")),
    "mapping of series": lambda f: dict(f.cov().loc[list("edbca")].items()),
    "spearman": lambda f: f.corr("spearman"),
    "large": lambda f: (f * 1e8).cov(),
    "small": lambda f: (f * 1e-8).cov(),
    "objects": lambda f: f.cov().astype(object),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_a_table_whose_rows_are_named_like_its_columns_is_a_matrix(frame, kind):
    source = as_source(MATRICES[kind](frame), n_samples=300)
    assert source.kind in ("covariance", "correlation") and source.names == tuple("abcde")
    method = "spearman" if kind == "spearman" else "pearson"
    np.testing.assert_allclose(source.correlation, frame.corr(method), atol=1e-12)
    moved = kind in ("rows in another order", "mapping of series") or "last" in kind
    assert any("order of its columns" in n for n in source.notes) == moved or kind.startswith("so")
    assert any("read as a covariance" in n for n in source.notes) == (source.kind == "covariance")
    learned = learn_structure(MATRICES[kind](frame), n_samples=300, alpha=0.01)
    assert learned.parameters["input"] != "data" and learned.parameters["algorithm"] == "icd"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f.cov().reset_index(drop=True), "input='covariance'"),
        (lambda f: f.cov().loc[list("edbca")].reset_index(drop=True), "another order"),
        (lambda f: f.corr().sort_values("a").reset_index(drop=True), "another order"),
        (lambda f: f.cov().to_dict("list"), "input='covariance'"),
        (lambda f: f.cov().iloc[:4], "a part of a covariance"),
        (lambda f: f.cov()[["a", "b"]], "a part of a covariance"),
        (lambda f: f.corr().rename(columns={"e": "z"}), r"different names \(e / z\)"),
        (lambda f: f.corr().rename(index={"e": "a"}), "different names"),
        (lambda f: pandas.DataFrame(f.to_numpy()[:5]), "not symmetric"),
    ],
)
def test_a_matrix_that_cannot_be_told_is_refused(frame, make, words):
    with pytest.raises(CorrelationError, match=words):
        learn_structure(make(frame), n_samples=300)


def test_the_helpers_realign_too(frame):
    moved = frame.cov().loc[list("cabed")]
    for source in (
        correlation_from_covariance(moved),
        as_source(moved, input="covariance"),
        as_source(frame.corr().loc[list("cabed")], input="correlation"),
        correlation_from_covariance(moved, names="vwxyz"),
    ):
        np.testing.assert_allclose(source.correlation, frame.corr(), atol=1e-12)
        assert any("order of its columns" in note for note in source.notes)
    weights = np.tril(np.random.default_rng(1).random((3, 3))) + np.eye(3)
    named = pandas.DataFrame(weights, index=list("xyz"), columns=list("xyz"))
    source = correlation_from_attention(named.loc[list("zxy")])
    np.testing.assert_allclose(source.correlation, correlation_from_attention(weights).correlation)
    assert source.names == ("x", "y", "z")


def test_square_tables_of_samples_stay_data(frame):
    square = frame.iloc[:5]
    assert as_source(square).kind == "data"
    assert as_source(square * 1e-9).kind == "data"  # not symmetric, however small
    assert as_source(frame.set_index(frame.index.astype(str))).kind == "data"
    assert as_source(frame.set_axis(range(5), axis=1)).kind == "data"
    assert as_source(frame.cov(), input="data").kind == "data"  # said by the caller


@pytest.mark.parametrize("form", ["index", "moved", "named", "R", "semicolons", "tabs"])
def test_matrices_in_files(frame, tmp_path, form):
    path = tmp_path / ("m.tsv" if form == "tabs" else "m.csv")
    moved = frame.cov().loc[list("edbca")]
    if form == "index":
        frame.cov().to_csv(path)
    elif form == "named":
        moved.rename_axis("variable").to_csv(path)
    elif form == "semicolons":
        moved.to_csv(path, sep=";", decimal=",")
    else:
        moved.to_csv(path, sep="\t" if form == "tabs" else ",")
    if form == "R":
        path.write_text(path.read_text()[1:])
    arguments = ["learn", str(path), "--n-samples", "300", "--alpha", "0.01"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "covariance, 300 samples" in result.stdout and "icd, stable" in result.stdout
    assert "left out" in result.stderr and "read as a covariance" in result.stderr
    for edge in ("a o-o b", "b o-o c", "c o-o d", "d o-o e"):
        assert edge in result.stdout
    chosen = CliRunner().invoke(cli.app, [*arguments, "--columns", "c,b"])
    assert "c o-o b" in chosen.stdout or "b o-o c" in chosen.stdout
    # no sample size: a covariance has none of its own
    assert CliRunner().invoke(cli.app, arguments[:2]).exit_code == 2


# objects that are no table yet -----------------------------------------------------------------


class LazyFrame:
    columns = ("a", "b")

    def collect(self):
        """Polars would read its files now."""


class Tensor:
    """What torch has and numpy cannot read by itself."""

    dtype = "torch.bfloat16"

    def __init__(self, values):
        self.values = values

    def detach(self):
        return self

    cpu = to_dense = resolve_conj = float = detach

    def numpy(self):
        return self.values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (LazyFrame(), r"result of \.collect\(\)"),
        ([{"a": 1, "b": 2}] * 5, "mapping of names to columns"),
        (pandas.Series([1.0, 2, 3, 4]), "one column"),
        ("data.csv", "causal-lvlm learn FILE"),
        ({"a": {"x": 1}}, "'a' is a mapping itself"),
        (
            {"a": pandas.Series([1, 2, 3.0]), "b": pandas.Series([1, 5, 3.0], index=[2, 1, 0])},
            "labelled differently",
        ),
    ],
)  # fmt: skip
def test_what_to_do_is_said(values, words):
    for call in (learn_structure, correlation_from_data, as_source):
        with pytest.raises(DataError, match=words):
            call(values)


def test_other_holders_of_numbers_are_read(frame):
    values = frame.to_numpy()
    want = np.corrcoef(values.T)
    records = frame.to_records(index=False)
    for data in (
        sparse.csr_matrix(values), sparse.coo_array(values), Tensor(values), records,
        frame.to_dict("list"), dict(frame.items()), values.tolist(),
        SimpleNamespace(to_pydict=lambda: frame.to_dict("list")),
    ):  # fmt: skip
        source = as_source(data)
        assert source.kind == "data"
        np.testing.assert_allclose(source.correlation, want, atol=1e-12)
    labelled = SimpleNamespace(
        values=frame.cov().loc[list("edbca")].to_numpy(), dims=("row", "column"),
        coords={
            "row": SimpleNamespace(values=list("edbca")),
            "column": SimpleNamespace(values=list("abcde")),
        },
    )  # fmt: skip
    np.testing.assert_allclose(as_source(labelled).correlation, want, atol=1e-12)
    assert read_table(labelled).rows == tuple("edbca")


def test_real_torch_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.eye(3, dtype=torch.bfloat16).requires_grad_()
    assert as_source(tensor).kind == "correlation"


def test_polars():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({"a": [1.0, 2, 3, 5], "b": [2.0, 1, 5, 3]})
    assert as_source(table).names == ("a", "b") and as_source(table.corr()).kind == "correlation"
    for data, words in ((table.lazy(), "collect"), (table["a"], "one column")):
        with pytest.raises(DataError, match=words):
            as_source(data)


# the order of columns --------------------------------------------------------------------------


def edges(structure):
    names = structure.names
    found = {}
    for edge in structure.to_dict()["edges"]:
        one, two = names[edge["source"]], names[edge["target"]]
        kind = edge["kind"] if one < two else edge["kind"][::-1].translate({60: 62, 62: 60})
        found[min(one, two), max(one, two)] = kind
    return found


@pytest.mark.parametrize("make", [lambda f: f, lambda f: f.cov(), lambda f: f.corr()])
def test_the_order_of_columns_means_nothing(frame, make):
    turned = frame[list("edcba")]
    options = {} if make(frame) is frame else {"n_samples": 300}
    one, two = (learn_structure(make(f), alpha=0.01, **options) for f in (frame, turned))
    assert edges(one) == edges(two) and set(edges(one).values()) == {"o-o"}
    assert one.parameters["algorithm"] == "icd"
    assert not any("order" in note for note in one.notes)


def test_an_order_that_was_used_is_said(frame, tmp_path):
    plain = frame.corr().to_numpy()
    for options, words in (
        ({}, "as the rows stand: 0 < 1 < 2 < 3 < 4 "),
        ({"order": [4, 3, 2, 1, 0]}, "as given: 4 < 3 < 2 < 1 < 0 "),
        ({"tiers": [0, 0, 1, 1, 1]}, "as given: 0, 1 < 2, 3, 4 "),
        ({"algorithm": "fci", "tiers": [0, 0, 1, 1, 1]}, "0, 1 < 2"),
        ({"algorithm": "pc", "order": [0, 1, 2, 3, 4]}, "0 < 1"),
    ):
        (note,) = learn_structure(plain, n_samples=300, **options).notes
        assert words in note
    assert not learn_structure(plain, n_samples=300, algorithm="icd").notes
    assert not learn_structure(plain, n_samples=300, tiers=[1] * 5).notes  # one tier is no order
    tiered = SimpleNamespace(correlation=plain, n_samples=300, tiers=[0, 0, 0, 1, 1])
    assert "by the tiers of the source" in learn_structure(tiered).notes[0]
    np.save(tmp_path / "r.npy", plain)
    result = CliRunner().invoke(cli.app, ["learn", str(tmp_path / "r.npy"), "--n-samples", "300"])
    assert "causal order used, as the rows stand" in result.stderr
    assert "--algorithm icd" in result.stderr
