"""``causal-lvlm learn``: tables and matrices in; summary, files, comparison, clear errors out."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import NormalDist

import networkx as nx
import numpy as np
import pytest
from typer.testing import CliRunner

import causal_lvlm
from causal_lvlm import cli
from causal_lvlm.cli.tables import read_text
from causal_lvlm.structure import LearnedStructure
from causal_lvlm.structure.files import read_graph
from causal_lvlm.structure.null import null_edges
from causal_lvlm.structure.stability import edge_stability
from causal_lvlm.structure.stability_result import EdgeStability

ROOT = Path(__file__).resolve().parents[1]
runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(cli.app, ["learn", *(str(a) for a in arguments)])


NAMES = ("rain", "sprinkler", "wet", "slip")


def samples(n=2000, seed=0):
    """rain -> wet <- sprinkler, wet -> slip."""
    rng = np.random.default_rng(seed)
    rain, sprinkler = rng.normal(size=(2, n))
    wet = rain + sprinkler + rng.normal(size=n)
    return np.column_stack([rain, sprinkler, wet, wet + rng.normal(size=n)])


def write_csv(path, values, names=NAMES, delimiter=",", **more):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        if names is not None:
            writer.writerow([*names, *more])
        for k, row in enumerate(values):
            writer.writerow([*(repr(float(v)) for v in row), *(c[k] for c in more.values())])
    return path


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "data.csv", samples())


def graph_of(result):
    """Return {(name, name): symbol} of the JSON on stdout."""
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    names = [node["label"] for node in value["nodes"]]
    return {(names[e["source"]], names[e["target"]]): e["kind"] for e in value["edges"]}


PAG_EDGES = {("rain", "wet"): "o->", ("sprinkler", "wet"): "o->", ("wet", "slip"): "-->"}
CPDAG_EDGES = {pair: "-->" for pair in PAG_EDGES}


# data ------------------------------------------------------------------------------------------


def test_summary_of_a_table(table):
    result = invoke(table, "--alpha", 0.01)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("4 nodes, 3 edges, ") and lines[0].endswith("complete")
    assert "icd, stable (PAG)" in lines[1]
    assert "data, 2000 samples, alpha 0.01" in lines[2]
    assert "violations     none" in result.stdout
    assert [line.split("  ")[0] for line in lines[-3:]] == [
        "wet --> slip", "rain o-> wet", "sprinkler o-> wet",
    ]  # fmt: skip
    weakest = [float(line.split()[3]) for line in lines[-3:]]
    assert weakest == sorted(weakest, reverse=True)
    # Nothing separates rain and wet; the weakest dependence is one of these two.
    r = np.corrcoef(samples().T)
    partial = (r[0, 2] - r[0, 3] * r[2, 3]) / np.sqrt((1 - r[0, 3] ** 2) * (1 - r[2, 3] ** 2))
    assert weakest[1] == pytest.approx(min(r[0, 2], partial), abs=5e-4)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("algorithm", "want"),
    [("icd", PAG_EDGES), ("fci", PAG_EDGES), ("pc", CPDAG_EDGES)],
)
def test_algorithms(table, algorithm, want):
    for variant in ("stable", "sequential"):
        result = invoke(
            table, "--alpha", 0.01, "--algorithm", algorithm, "--variant", variant, "--json"
        )
        assert graph_of(result) == want


def test_json_says_what_the_library_says(table):
    value = json.loads(invoke(table, "--alpha", 0.01, "--json").stdout)
    learned = causal_lvlm.learn_structure(samples(), alpha=0.01, algorithm="icd")
    assert value["summary"]["n_tests"] == learned.n_tests
    assert value["summary"]["parameters"]["n_samples"] == 2000
    for edge in value["edges"]:
        i, j = edge["source"], edge["target"]
        assert edge["p_value"] == pytest.approx(learned.p_value(i, j), rel=1e-9)
        assert edge["weakest"] == pytest.approx(learned.weakest(i, j), rel=1e-12)
        assert edge["tests"] == learned.tests_of(i, j)


@pytest.mark.parametrize("ending", ["tsv", "txt", "csv", "semicolon.csv", "npy", "npz"])
def test_every_format_of_a_table(tmp_path, ending):
    values, path = samples(), tmp_path / f"data.{ending}"
    if ending == "npy":
        np.save(path, values)
    elif ending == "npz":
        np.savez(path, data=values, names=np.array(NAMES), other=np.eye(2))
    else:
        delimiter = {"tsv": "\t", "txt": " ", "csv": ",", "semicolon.csv": ";"}[ending]
        write_csv(path, values, delimiter=delimiter)
    names = [str(k) for k in range(4)] if ending == "npy" else NAMES
    want = {
        (names[NAMES.index(a)], names[NAMES.index(b)]): kind for (a, b), kind in PAG_EDGES.items()
    }
    result = invoke(path, "--input", "data", "--alpha", 0.01, "--json")
    assert graph_of(result) == want
    if ending != "npy":
        assert graph_of(invoke(path, "--alpha", 0.01, "--json")) == want


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow  # type: ignore[import-not-found]

    columns = dict(zip(NAMES, samples().T, strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")
    assert graph_of(invoke(tmp_path / "data.parquet", "--alpha", 0.01, "--json")) == PAG_EDGES
    columns["city"] = ["Rome"] * 2000
    columns["day"] = [None, *range(1999)]
    parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")
    result = invoke(tmp_path / "data.parquet")
    assert result.exit_code == 2 and "'city' (text" in result.stderr
    result = invoke(tmp_path / "data.parquet", "--skip", "city")
    assert result.exit_code == 2 and "1 missing and 0 infinite" in result.stderr
    (tmp_path / "data.parquet").write_bytes(b"no parquet")
    assert "as Parquet" in invoke(tmp_path / "data.parquet").stderr


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    (tmp_path / "data.parquet").write_bytes(b"")
    result = invoke(tmp_path / "data.parquet")
    assert result.exit_code == 2 and "pip install pyarrow" in result.stderr


@pytest.mark.parametrize(
    ("first", "start", "names"),
    [
        ("rain,sprinkler,wet,slip", False, NAMES),
        ("\ufeffrain, sprinkler , wet,slip", False, NAMES),
        (",rain,sprinkler,wet,slip", True, NAMES),  # pandas, with its index
        ("rain,sprinkler,wet,slip", True, NAMES),  # R, with the names of rows
        ('"rain","a,b","say ""x""",slip', False, ("rain", "a,b", 'say "x"', "slip")),
        (None, False, ("0", "1", "2", "3")),
    ],
)
def test_first_line_and_first_column(tmp_path, first, start, names):
    lines = [] if first is None else [first]
    for k, row in enumerate(samples(50)):
        lines.append(",".join([*([f"row{k}"] if start else []), *map(repr, map(float, row))]))
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    result = invoke(tmp_path / "data.csv", "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert tuple(node["label"] for node in value["nodes"]) == names
    assert value["summary"]["parameters"]["n_samples"] == 50


def test_numbers_as_names_need_header(tmp_path):
    path = write_csv(tmp_path / "data.csv", samples(50), names=("2001", "2002", "2003", "2004"))
    value = json.loads(invoke(path, "--header", "--json").stdout)
    assert [n["label"] for n in value["nodes"]] == ["2001", "2002", "2003", "2004"]
    value = json.loads(invoke(path, "--json").stdout)
    assert value["summary"]["parameters"]["n_samples"] == 51


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("index", [False, True])
def test_a_line_that_counts_the_columns_is_a_header(tmp_path, start, index):
    """What pandas writes for columns without names, with its index and without."""
    lines = [",".join([""] * index + [str(start + k) for k in range(4)])]
    for k, row in enumerate(samples(50)):
        lines.append(",".join([str(k)] * index + [repr(float(v)) for v in row]))
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    result = invoke(path, "--json")
    value = json.loads(result.stdout)
    assert value["summary"]["parameters"]["n_samples"] == 50
    assert [n["label"] for n in value["nodes"]] == [str(start + k) for k in range(4)]
    assert "first line counts the columns" in result.stderr and "--no-header" in result.stderr
    assert "counts the columns" not in invoke(path, "--header", "--json").stderr
    if not index:
        result = invoke(path, "--no-header", "--json")
        assert json.loads(result.stdout)["summary"]["parameters"]["n_samples"] == 51
        assert "counts the columns" not in result.stderr


@pytest.mark.parametrize(
    "text", ["1,2,3\n2,9,1\n3,1,9\n", "0,2,1\n5,1,2\n", "1.0,2.0\n3,4\n", "1\n2\n", "2,3\n4,5\n"]
)
def test_other_lines_of_numbers_are_samples(tmp_path, capsys, text):
    """A symmetric matrix may begin with 1, 2, 3 as well."""
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    loaded = read_text(path)
    values, names = loaded.values, loaded.names
    assert names is None and len(values) == text.count("\n") and capsys.readouterr().err == ""


def test_columns_and_skip(tmp_path):
    path = write_csv(tmp_path / "data.csv", samples(), city=["Rome"] * 2000)
    assert graph_of(invoke(path, "--skip", "city", "--alpha", 0.01, "--json")) == PAG_EDGES
    result = invoke(path, "--columns", "wet,slip", "--json")
    assert graph_of(result) == {("wet", "slip"): "o-o"}
    np.savez(tmp_path / "r.npz", correlation=np.corrcoef(samples().T), names=np.array(NAMES))
    result = invoke(tmp_path / "r.npz", "--skip", "rain,sprinkler", "--n-samples", 2000, "--json",
                    "--algorithm", "icd")  # fmt: skip
    assert graph_of(result) == {("wet", "slip"): "o-o"}


def test_drop_leaves_out_and_says_so(tmp_path):
    values = samples()
    values[7, 0] = np.nan
    path = write_csv(
        tmp_path / "data.csv", values, flat=[1] * 2000, again=[-3 * v for v in values[:, 1]]
    )
    result = invoke(path, "--alpha", 0.01)
    assert result.exit_code == 2 and "give --drop to leave" in result.stderr
    result = invoke(path, "--alpha", 0.01, "--drop", "--json")
    assert graph_of(result) == PAG_EDGES
    for part in ("'rain' (rows 7)", "'flat'", "'again' (as 'sprinkler')"):
        assert part in result.stderr


def test_few_samples_are_noted(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(5, 9)))
    result = invoke(tmp_path / "x.npy", "--alpha", 0.05)
    assert result.exit_code == 0 and "fewer samples than variables" in result.stderr
    assert "5 samples" in result.stdout


# order and background knowledge ----------------------------------------------------------------


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("text", ["slip,rain;sprinkler,wet", "0 1 1 0", "0,5,5,0"])
def test_tiers(table, tmp_path, text, as_file):
    if as_file:
        (tmp_path / "tiers.txt").write_text(text.replace(";", "\n") + "\n")
        text = tmp_path / "tiers.txt"
    result = invoke(table, "--alpha", 0.01, "--tiers", text, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["summary"]["parameters"]["algorithm"] == "ordered_icd"
    for edge in value["edges"]:
        pair = (edge["source"], edge["target"])
        if len({0, 3} & set(pair)) == 1:  # across tiers: an arrowhead at the later end
            late_first = pair[0] in (1, 2)
            assert edge["mark_source" if late_first else "mark_target"] == "arrow"
    assert any(len({0, 3} & {e["source"], e["target"]}) == 1 for e in value["edges"])


def test_background_knowledge(table):
    result = invoke(
        table, "--alpha", 0.01, "--required", "rain,sprinkler", "--forbidden", "wet,slip",
        "--forbidden-orientation", "rain,wet", "--json",
    )  # fmt: skip
    graph = graph_of(result)
    assert ("rain", "sprinkler") in graph and ("wet", "slip") not in graph
    assert graph["rain", "wet"].startswith("<")


def test_known_causes(table):
    result = invoke(
        table, "--alpha", 0.01, "--algorithm", "icd", "--required-cause", "rain,sprinkler",
        "--ancestor", "sprinkler,slip", "--json",
    )  # fmt: skip
    graph = graph_of(result)
    assert graph["rain", "sprinkler"] == "-->"
    assert graph.get(("sprinkler", "slip"), "-").startswith("-")
    known = json.loads(result.stdout)["summary"]["parameters"]["knowledge"]
    assert known["required_causes"] == [[0, 1]] and known["ancestors"] == [[1, 3]]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--required", "rain"), "--required takes two nodes"),
        (("--ancestor", "rain"), "--ancestor takes two nodes"),
        (("--required-cause", "snow,rain"), "--required-cause names 'snow'"),
        (("--ancestor", "rain,wet", "--required-cause", "wet,rain"), "form a cycle"),
        (("--required", "rain,snow"), "'snow'; the nodes are rain, sprinkler"),
        (("--forbidden", "rain,wet", "--required", "wet,rain"), "both required and forbidden"),
        (("--tiers", "1,2"), "2 numbers, but there are 4 nodes"),
        (("--tiers", "rain;wet"), "each node once ('sprinkler'"),
        (("--tiers", "rain;wet;slip,sprinkler,snow"), "each node once ('snow'"),
        (("--tiers", "rain,wet;slip,rain,sprinkler"), "each node once (a name comes twice"),
        (("--tiers", "0,0,1,1", "--selection-bias"), "selection_bias"),
        (("--skip", "snow"), "no column 'snow'"),
        (("--skip", "rain", "--columns", "wet"), "not both"),
        (("--head", 0), "give --attention"),
        (("--sink", "drop"), "give --attention"),
        (("--attention", "--input", "data"), "contradict"),
        (("--input", "table"), "'table'"),
        (("--algorithm", "ges"), "'ges'"),
        (("--variant", "fast"), "'fast'"),
        (("--n-samples", 5000), "only 2000"),
        (("--time-limit", 0), "time_limit"),
        (("--jobs", 0), "n_jobs"),
        (("--key", "a"), "leave --key out"),
        (("--compare", "none.json"), "none.json"),
        (("--stability", 0), "--stability takes a number of graphs, 1 or more"),
        (("--null", -1), "--null takes a number of graphs, 1 or more"),
        (("--stability", 5, "--seed", -1), "--seed must be 0 or more"),
        (("--picture", "graph.gif"), "end the name in .png, .svg, .pdf"),
        (("--picture", "nowhere/graph.png"), "there is no folder 'nowhere'"),
        (("--difference", "graph.png"), "--compare: give both"),
    ],
)
def test_bad_arguments(table, arguments, part):
    result = invoke(table, *arguments)
    assert result.exit_code == 2 and part in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "holds no line"),
        ("a,b\n", "no numbers"),
        ("a,b\n1,2\n3\n", "line 3 of"),
        ("a,b,c,d\n1,2\n3,4\n", "4 names for 2 columns"),
        ("a,b\n1,x\n2,y\n3,z\n4,z\n", "'b' (text, such as 'x' in row 0); leave them out (--skip)"),
        ("a,a\n1,2\n2,3\n3,5\n4,9\n", "'a' is used for more than one column"),
        ("a,a\n1,x\n2,x\n3,x\n4,x\n", "have the same name"),
        ("a,b\n1,2\n2,\n3,5\n4,NA\n", "2 missing and 0 infinite values in columns 'b' (rows 1, 3)"),
        ("a,b\n1,7\n2,7\n3,7\n4,7\n", "constant columns (they have no correlation): 'b'"),
        ("a,b\n1,2\n2,4\n3,6\n5,10\n", "'b' (as 'a')"),
        ("a,b\n1,2\n2,4\n3,5\n", "3 usable rows"),
        ("a,b\n1,2\n", "1 usable row (samples)"),
        (b"\xff\xfea", "UTF-8"),
    ],
)
def test_bad_tables(tmp_path, text, part):
    path = tmp_path / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = invoke(path)
    assert result.exit_code == 2 and part in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""


# matrices --------------------------------------------------------------------------------------


def test_matrices_need_their_kind(tmp_path):
    covariance = np.cov(samples().T)
    np.save(tmp_path / "c.npy", covariance)
    result = invoke(tmp_path / "c.npy", "--n-samples", 2000)
    assert result.exit_code == 2 and "for a covariance give --input covariance," in result.stderr
    arguments = ("--n-samples", 2000, "--alpha", 0.01, "--json")
    want = {("0", "2"): "o->", ("1", "2"): "o->", ("2", "3"): "-->"}
    assert graph_of(invoke(tmp_path / "c.npy", "--input", "covariance", *arguments)) == want
    np.savez(tmp_path / "c.npz", covariance=covariance)
    assert graph_of(invoke(tmp_path / "c.npz", *arguments)) == want


def test_a_correlation_as_pandas_writes_it(tmp_path):
    """`frame.corr().to_csv(path)` has the names in the first line and in the first column."""
    r = np.corrcoef(samples().T)
    lines = ["," + ",".join(NAMES)]
    lines += [",".join([name, *map(repr, map(float, row))])
              for name, row in zip(NAMES, r, strict=True)]  # fmt: skip
    (tmp_path / "r.csv").write_text("\n".join(lines))
    result = invoke(tmp_path / "r.csv", "--n-samples", 2000, "--alpha", 0.01, "--json",
                    "--algorithm", "icd")  # fmt: skip
    assert graph_of(result) == PAG_EDGES


@pytest.fixture
def chain(tmp_path):
    """0 - 1 - 2 with correlations 0.8 and 0.5: 1 separates 0 from 2."""
    path = tmp_path / "matrix.npy"
    np.save(path, np.array([[1.0, 0.8, 0.4], [0.8, 1.0, 0.5], [0.4, 0.5, 1.0]]))
    return path


def test_learn_finds_the_chain(chain, tmp_path):
    result = invoke(chain, "--n-samples", 1000, "--out", tmp_path / "graph")
    assert result.exit_code == 0, result.output
    assert "3 nodes, 2 edges" in result.stdout
    value = json.loads((tmp_path / "graph" / "pag.json").read_text(encoding="utf-8"))
    assert {(e["source"], e["target"]) for e in value["edges"]} == {(0, 1), (1, 2)}
    ET.parse(tmp_path / "graph" / "pag.graphml")
    assert (tmp_path / "graph" / "pag.dot").read_text(encoding="utf-8").count("->") == 2
    printed = json.loads(invoke(chain, "--threshold", 0.1, "--json").stdout)
    plain = [{name: edge[name] for name in value["edges"][0]} for edge in printed["edges"]]
    assert printed["nodes"] == value["nodes"] and plain == value["edges"]


def test_learn_reads_attention(tmp_path):
    rng = np.random.default_rng(0)
    weights = np.tril(rng.random((2, 6, 6)))
    weights[0, 2] = 0.0  # a row without weight has no correlation
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-9)
    np.savez(tmp_path / "a.npz", attention=weights, other=np.zeros(3))
    result = invoke(tmp_path / "a.npz", "--attention", "--head", 0, "--threshold", 0.3)
    assert result.exit_code == 0, result.output
    assert "5 nodes" in result.stdout and "left out: [2]" in result.stderr
    assert "6 nodes" in invoke(
        tmp_path / "a.npz", "--attention", "--head", 1, "--threshold", 0.3
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m + np.triu(np.full((3, 3), 0.1), 1), "symmetric"),
        (lambda m: m * 2, "diagonal"),
        (lambda m: np.where(m == 0.5, np.nan, m), "is nan"),
        (lambda m: np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]), "eigenvalue"),
    ],
)
def test_learn_refuses_what_is_no_correlation(chain, change, part):
    np.save(chain, change(np.load(chain)))
    result = invoke(chain, "--n-samples", 100)
    assert result.exit_code == 2 and part in result.stderr.lower(), result.output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--n-samples"),
        (("--n-samples", 3), "n_samples"),
        (("--n-samples", 100, "--threshold", 0.1), "not both"),
        (("--threshold", 0.1, "--alpha", 0.1), "--alpha"),
        (("--threshold", 0.1, "--algorithm", "magic"), "magic"),
    ],
)
def test_learn_refuses_bad_settings(chain, arguments, part):
    result = invoke(chain, *arguments)
    assert result.exit_code == 2 and part in result.stderr, result.output


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("text.npy", (), "cannot read a matrix"),
        ("none.npy", (), "does not exist"),
        (".", (), "is a folder"),
        ("two.npz", (), "holds a, b; choose one with --key"),
        ("two.npz", ("--key", "c"), "holds a, b; choose one with --key"),
        ("nothing.npz", (), "it holds no array"),
        ("broken.npz", (), "cannot read a matrix"),
        ("objects.npy", (), "cannot read a matrix"),
        ("letters.npy", (), "not real numbers"),
        ("complex.npy", (), "not real numbers"),
        ("number.npy", (), "must be square"),
        ("heads.npy", (), "must be square"),
        ("eye.npy", ("--key", "a"), "leave --key out"),
        ("eye.npy", ("--head", 0), "give --attention"),
        ("eye.npy", ("--attention", "--head", 0), "leave --head out"),
        ("heads.npy", ("--attention",), "choose one with --head 0..1"),
        ("negative.npy", ("--attention",), "non-negative, but entry (0, 0) is -1"),
        ("nan.npy", ("--attention",), "entry (0, 1) is nan"),
        ("wide.npy", ("--attention",), "shape (T, T)"),
        ("zero.npy", ("--attention",), "no row of the attention has any weight"),
    ],
)
def test_learn_refuses_files_that_hold_no_matrix(tmp_path, monkeypatch, name, arguments, part):
    monkeypatch.chdir(tmp_path)
    Path("text.npy").write_text("hello")
    Path("broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez("two.npz", a=np.eye(2), b=np.eye(2))
    np.savez("nothing.npz")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    nan = np.eye(3)
    nan[0, 1] = np.nan
    for stem, value in {
        "letters": np.array([["a"]]), "complex": np.eye(3) * 1j, "number": np.array(1.0),
        "heads": np.stack([np.eye(3)] * 2), "eye": np.eye(3), "negative": -np.eye(3),
        "nan": nan, "wide": np.ones((2, 3)), "zero": np.zeros((3, 3)),
    }.items():  # fmt: skip
        np.save(f"{stem}.npy", value)
    result = invoke(name, "--threshold", 0.1, *arguments)
    assert result.exit_code == 2 and part in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""


# files, comparison, interruption ---------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["icd", "pc"])
def test_every_file_reads_back_and_compares_as_the_same(table, tmp_path, algorithm):
    out = tmp_path / "out"
    arguments = (table, "--alpha", 0.01, "--algorithm", algorithm)
    result = invoke(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    kind = "cpdag" if algorithm == "pc" else "pag"
    endings = ("json", "graphml", "dot", "pcalg.txt", "tetrad.txt")
    files = {"structure.json", "structure.npz", *(f"{kind}.{e}" for e in endings)}
    assert {path.name for path in out.iterdir()} == files
    assert all(name in result.stdout for name in files)
    learned = LearnedStructure.load(out / "structure.json")
    assert learned.kind == kind and learned.names == NAMES
    for name in sorted(files - {"structure.npz", f"{kind}.dot"}):
        read = read_graph(out / name)
        assert read.pag == learned.pag and read.names == NAMES, name
        result = invoke(*arguments, "--compare", out / name)
        assert "precision 1.000, recall 1.000, F1 1.000, mark accuracy 1.000, SHD 0" in (
            result.stdout
        ), result.output
    assert (out / f"{kind}.dot").read_text().startswith(f"digraph {kind} {{")


def test_compare_matches_nodes_by_name(table, tmp_path):
    truth = nx.DiGraph([("slip", "wet"), ("rain", "wet"), ("rain", "slip")])
    truth.add_node("sprinkler")
    nx.write_graphml(truth, tmp_path / "truth.graphml")
    arguments = (table, "--alpha", 0.01, "--algorithm", "pc")
    result = invoke(*arguments, "--compare", tmp_path / "truth.graphml", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    # learned: rain --> wet (right), sprinkler --> wet (extra), wet --> slip (turned)
    assert "skeleton precision 0.667, recall 0.667, F1 0.667, mark accuracy 0.500, SHD 3" in (
        result.stdout
    )
    assert "  extra: sprinkler - wet\n  missing: rain - slip\n" in result.stdout
    assert "  other marks: wet --> slip (is <--)" in result.stdout
    written = json.loads((tmp_path / "o" / "comparison.json").read_text())
    value = json.loads(invoke(*arguments, "--compare", tmp_path / "truth.graphml", "--json").stdout)
    assert value["comparison"] == written and written["shd"] == 3


def test_compare_with_what_does_not_fit(table, tmp_path):
    truth = tmp_path / "truth.graphml"
    nx.write_graphml(nx.DiGraph([("rain", "wet")]), truth)
    result = invoke(table, "--algorithm", "pc", "--compare", truth)
    assert result.exit_code == 2 and "it lacks ['sprinkler', 'slip']" in result.stderr
    dag = nx.DiGraph([(a, b) for a, b in PAG_EDGES])
    nx.write_graphml(dag, truth)
    result = invoke(table, "--algorithm", "icd", "--compare", truth)
    assert result.exit_code == 2 and "holds a CPDAG, but icd learns a PAG" in result.stderr
    assert invoke(table, "--algorithm", "pc", "--compare", truth).exit_code == 0


@pytest.mark.parametrize("edge", ["o->", "o-o", "<->"])
def test_a_text_that_says_no_kind_cannot_be_what_pc_learns(table, tmp_path, edge):
    truth = tmp_path / "truth.txt"
    truth.write_text(f"Graph Nodes:\n{';'.join(NAMES)}\n\nGraph Edges:\n1. rain {edge} wet\n")
    result = invoke(table, "--algorithm", "pc", "--compare", truth)
    assert result.exit_code == 2 and "what pc learns, a CPDAG" in result.stderr
    assert "truth.txt" in result.stderr and "circles or <->" in result.stderr
    assert invoke(table, "--algorithm", "icd", "--compare", truth).exit_code == 0


# trust -----------------------------------------------------------------------------------------


def test_stability_stands_beside_every_edge(table, tmp_path):
    out = tmp_path / "out"
    arguments = (table, "--alpha", 0.01, "--stability", 20, "--seed", 3)
    result = invoke(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    assert "stability      20 runs with rows drawn with replacement, seed 3" in result.stdout
    direct = edge_stability(samples(), kind="data", runs=20, seed=3, alpha=0.01)
    share = {(NAMES[i], NAMES[j]): direct.edge_frequency[i, j] for i in range(4) for j in range(4)}
    rows = [line for line in result.stdout.splitlines() if "> " in line and "  " in line]
    assert len(rows) == 3
    for row in rows:
        first, _, second = row.split("  ")[0].split()
        assert float(row.split()[-1]) == pytest.approx(share[first, second], abs=0.005)
    value = json.loads(invoke(*arguments, "--json").stdout)
    names = [node["label"] for node in value["nodes"]]
    for edge in value["edges"]:
        assert edge["confidence"] == share[names[edge["source"]], names[edge["target"]]]
    assert value["stability"]["runs"] == 20 and value["stability"]["names"] == list(NAMES)
    # The same in every file that can hold it.
    graph = nx.read_graphml(out / "pag.graphml")
    for u, v, data in graph.edges(data=True):
        pair = graph.nodes[u]["label"], graph.nodes[v]["label"]
        assert data["confidence"] == share[pair]
    assert all("confidence" in e for e in json.loads((out / "pag.json").read_text())["edges"])
    assert (out / "pag.dot").read_text().count('tooltip="confidence ') == 3
    saved = EdgeStability.load(out / "stability.json")
    assert np.allclose(saved.edge_frequency, direct.edge_frequency, atol=1e-12)
    assert "stability.json" in result.stdout and "stability.npz" in result.stdout


def test_edges_that_only_resamples_have_are_named(table):
    # A p-value just above the level: the graph lacks what about half of the resamples have.
    rng = np.random.default_rng(8)
    x = rng.normal(size=(30, 2))
    x[:, 1] += 0.4 * x[:, 0]
    r = np.corrcoef(x.T)[0, 1]
    level = 2 * (1 - NormalDist().cdf(abs(np.arctanh(r)) * np.sqrt(27)))
    path = write_csv(table.parent / "weak.csv", x, names=("a", "b"))
    result = invoke(path, "--alpha", 0.99 * level, "--stability", 400)
    assert "2 nodes, 0 edges" in result.stdout, result.output
    share = edge_stability(x, kind="data", runs=400, alpha=0.99 * level).edge_frequency[0, 1]
    named = f"not in the graph, but in half of the runs or more: a - b ({share:.2f})"
    assert share >= 0.5 and named in result.stdout


def test_null_says_what_chance_gives(table):
    result = invoke(table, "--alpha", 0.01, "--null", 19, "--seed", 2)
    assert result.exit_code == 0, result.output
    found = null_edges(samples(), kind="data", permutations=19, seed=2, alpha=0.01)
    low, high = found.quantiles[0.05], found.quantiles[0.95]
    assert (
        f"3 edges; by chance at these settings {found.mean:.1f} ({low:g}-{high:g}), p = 0.05 "
        "(19 permutations)"
    ) in result.stdout
    value = json.loads(invoke(table, "--alpha", 0.01, "--null", 19, "--seed", 2, "--json").stdout)
    assert value["null"]["counts"] == found.counts.tolist()
    assert value["null"]["observed"] == len(value["edges"]) == 3


def test_trust_uses_the_rows_and_columns_of_the_graph(tmp_path):
    values = samples(300)
    values[7, 0] = np.nan
    path = write_csv(tmp_path / "data.csv", values, flat=[1] * 300)
    result = invoke(path, "--alpha", 0.01, "--drop", "--stability", 4, "--null", 4, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    kept = np.delete(values, 7, axis=0)
    direct = edge_stability(kept, kind="data", runs=4, alpha=0.01, names=NAMES)
    assert value["stability"]["edges"] == json.loads(json.dumps(direct.to_dict()["edges"]))
    assert value["stability"]["parameters"]["n_samples"] == [299]
    assert value["null"]["names"] == list(NAMES) and value["null"]["observed"] == len(
        value["edges"]
    )


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_trust_in_attention(tmp_path, looks_ahead):
    rng = np.random.default_rng(0)
    weights = rng.random((2, 8, 8)) ** 3
    weights = weights if looks_ahead else np.tril(weights)
    weights[1, 2] = 0.0  # no node
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-9)
    np.save(tmp_path / "a.npy", weights)
    arguments = (tmp_path / "a.npy", "--attention", "--head", 1, "--threshold", 0.3)
    result = invoke(*arguments, "--stability", 6, "--null", 5, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    nodes = [0, 1, 3, 4, 5, 6, 7]
    assert [n["label"] for n in value["nodes"]] == list(map(str, nodes))
    direct = edge_stability(weights[1], runs=6, threshold=0.3, nodes=nodes)
    for edge in value["edges"]:
        assert edge["confidence"] == direct.edge_frequency[edge["source"], edge["target"]]
    assert value["null"]["parameters"]["allowed"] == ("all" if looks_ahead else "causal")
    assert value["null"]["observed"] == len(value["edges"])
    text = invoke(*arguments, "--stability", 6).stdout
    assert "6 runs with attention weights jittered by about 10 %, seed 0" in text
    result = invoke(*arguments, "--sink", "condition", "--null", 5)
    assert result.exit_code == 2 and "--sink keep or drop" in result.stderr


def test_trust_in_a_matrix(chain):
    value = json.loads(invoke(chain, "--n-samples", 1000, "--stability", 5, "--json").stdout)
    direct = edge_stability(np.load(chain), kind="correlation", runs=5, n_samples=1000)
    assert value["stability"]["mean_edges"] == pytest.approx(direct.edge_counts.mean())
    result = invoke(chain, "--threshold", 0.1, "--stability", 5)
    assert result.exit_code == 2 and "needs --n-samples instead of --threshold" in result.stderr
    result = invoke(chain, "--n-samples", 1000, "--null", 5)
    assert result.exit_code == 2 and "a correlation matrix does not hold" in result.stderr


def test_budget_and_knowledge_are_those_of_every_run(table):
    result = invoke(
        table, "--alpha", 0.01, "--stability", 4, "--null", 3, "--max-tests", 7,
        "--required", "rain,sprinkler", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["stability"]["incomplete_runs"] == 4
    assert value["null"]["parameters"]["learn"]["max_tests"] == 7
    (edge,) = (e for e in value["stability"]["edges"] if {e["source"], e["target"]} == {0, 1})
    assert edge["frequency"] == 1.0


def test_ctrl_c_while_resampling_keeps_the_graph(table, monkeypatch):
    from causal_lvlm.structure import stability

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(stability, "learn_structure", stop)
    result = invoke(table, "--alpha", 0.01, "--stability", 5, "--null", 5)
    assert result.exit_code == 130, result.output
    assert "4 nodes, 3 edges" in result.stdout and "the graph is complete" in result.stderr
    assert "by chance" not in result.stdout


def test_progress_of_resampling_goes_to_stderr(table):
    result = invoke(table, "--alpha", 0.01, "--stability", 3, "--null", 3, "--progress", "--json")
    assert "resampling" in result.stderr and "permuting" in result.stderr
    assert graph_of(result) == PAG_EDGES


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures(table, tmp_path, ending):
    picture, difference = tmp_path / f"graph.{ending}", tmp_path / f"difference.{ending}"
    out = tmp_path / "out"
    assert invoke(table, "--alpha", 0.01, "--out", out).exit_code == 0
    result = invoke(
        table, "--alpha", 0.01, "--stability", 4, "--picture", picture,
        "--compare", out / "pag.json", "--difference", difference,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"drew {picture}, {difference}" in result.stdout
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert picture.read_bytes().startswith(start) and difference.read_bytes().startswith(start)
    assert result.stderr == ""


def test_picture_shows_the_confidence_only_if_there_is_one(table, tmp_path, monkeypatch):
    from causal_lvlm.viz import structure_graph

    given = []
    real = structure_graph.draw_structure
    monkeypatch.setattr(
        structure_graph, "draw_structure",
        lambda *a, **more: given.append(more["confidence"]) or real(*a, **more),
    )  # fmt: skip
    arguments = (table, "--alpha", 0.01, "--picture", tmp_path / "graph.png")
    assert invoke(*arguments).exit_code == 0
    assert invoke(*arguments, "--stability", 4).exit_code == 0
    assert given[0] is None and given[1].n_runs == 4


# budget, progress, interruption ----------------------------------------------------------------


def test_budget(table):
    result = invoke(table, "--alpha", 0.01, "--max-tests", 7)
    assert result.exit_code == 0
    assert "NOT complete: max_tests" in result.stdout and "left" in result.stdout


def test_progress_goes_to_stderr(table):
    result = invoke(table, "--alpha", 0.01, "--progress", "--json")
    assert "conditioning sets of size 1" in result.stderr
    assert graph_of(result) == PAG_EDGES


def test_result_does_not_depend_on_jobs(table):
    one, two = (invoke(table, "--alpha", 0.01, "--jobs", k, "--json") for k in (1, 2))
    assert graph_of(one) == graph_of(two)


def test_ctrl_c_prints_the_graph_so_far(table, tmp_path, monkeypatch):
    """Progress is called while learning, so a Ctrl-C can be made to come there."""
    module = importlib.import_module("causal_lvlm.cli.learn")

    class Stop:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def __call__(self, size, done, edges):
            if size >= 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "_bar", lambda wanted: Stop())
    result = invoke(table, "--alpha", 0.01, "--out", tmp_path / "out")
    assert result.exit_code == 130, result.output
    assert "NOT complete: interrupted" in result.stdout and "graph learned so far" in result.stderr
    assert not LearnedStructure.load(tmp_path / "out" / "structure.json").complete


def test_ctrl_c_before_anything_was_learned(table, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setitem(causal_lvlm.__dict__, "learn_structure", stop)
    result = invoke(table)
    assert result.exit_code == 130 and "nothing had been found yet" in result.stderr


def test_help_is_light():
    code = (
        "import sys\nfrom causal_lvlm.cli import main\n"
        "try:\n    main(['learn', '--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numba', 'scipy', 'networkx', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True, text=True, check=False, cwd=ROOT.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--compare" in done.stdout and "--tiers" in done.stdout
