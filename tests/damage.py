"""Damaged files: one of every kind that is read, ways to damage it, and the whole reading path.

`samples` writes the files, `changes` yields damaged copies of one, and `read` goes all the way that
a user goes with such a file: load, print, draw, compare, save again. The outcome of a damaged file
is ``loaded``, ``refused`` (an error of this package) or the name of another exception.

As a program it counts outcomes: ``python -m tests.damage 400``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.errors import CausalLVLMError

# What a value is replaced by; `Raw` is text that no Python value would be written as.


class Raw(str):
    """JSON text that is put into the file as it is."""


def nested(depth: int) -> Raw:
    return Raw("[" * depth + "]" * depth)


STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**9, -(10**9), 2**63, 2**64, 0.5, -2.5, 1e300, -1e300, "",
    "x", "3", "\0", [], [0], [-1], [None], ["x"], [[]], [[0, 1]], [1, 2, 3], {}, {"x": 0},
    {"": None}, Raw("9" * 400), Raw("1e400"), Raw("NaN"), Raw("-Infinity"), Raw('"\\ud800"'),
    Raw('{"\\udc00": 1}'),     nested(60), nested(100_000), Raw('{"a": 1, "a": 2}'), "x" * 100_000,
)  # fmt: skip


def dumps(value: Any) -> str:
    """Return JSON in which `Raw` stands as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(dumps(item) for item in value) + "]"
    return json.dumps(value)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every value of a JSON document stands."""
    yield at
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*at, key))


def few_places(value: Any, most: int = 3) -> list[tuple[Any, ...]]:
    """Return the places of a document, long lists only at their first, middle and last items."""
    chosen = []
    for at in places(value):
        parent = value
        for key in at:
            if isinstance(parent, list) and key not in (0, len(parent) // 2, len(parent) - 1):
                break
            parent = parent[key]
        else:
            chosen.append(at)
    return chosen


def changed(value: Any, at: tuple[Any, ...], act: str, new: Any) -> Any:
    """Return a copy in which one value is replaced, removed, or has one beside it."""
    if not at:
        return new if act == "replace" else value
    key, rest = at[0], at[1:]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copy[key] = changed(value[key], rest, act, new)
    elif act == "replace":
        copy[key] = new
    elif act == "remove":
        del copy[key]
    elif isinstance(copy, dict):
        copy[f"{key}'"] = new
    else:
        copy.insert(key, new)
    return copy


def json_change(value: Any, rng: np.random.Generator, all_places: list[tuple[Any, ...]]) -> str:
    """Return the text of a document with one change."""
    at = all_places[int(rng.integers(len(all_places)))]
    act = str(rng.choice(["replace", "replace", "replace", "remove", "add"]))
    if act == "add" and rng.random() < 0.5 and at:
        found: Any = value
        for key in at:
            found = found[key]
        return dumps(changed(value, at, act, found))  # the same value twice
    return dumps(changed(value, at, act, STRANGE[int(rng.integers(len(STRANGE)))]))


def byte_change(data: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with one flip, some garbage, a part missing, or a part twice."""
    at = int(rng.integers(len(data))) if data else 0
    way = int(rng.integers(6))
    if way == 0:
        return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
    if way == 1:
        return data[:at]
    if way == 2:
        return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at + 1 :]
    if way == 3:
        return data[:at] + data[at + int(rng.integers(1, 64)) :]
    if way == 4:
        return data[:at] + data[max(0, at - 40) : at] + data[at:]
    return data[:at] + b"\0" * 16 + data[at + 16 :]


def header_change(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes of a .npy file whose header is written anew with one thing changed."""
    start = data.index(b"{")
    end = data.index(b"\n", start)
    headers = (
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), ",
        "{'descr': '<f8', 'fortran_order': 3, 'shape': [2, 2]}",
        "{'descr': [('a', '<f8'), ('a', '<f8')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', [('b', '<f8')])], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f8', 'shape': (2,)}",
        "{'descr': 'zzz', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<U999999999', 'fortran_order': False, 'shape': (2,)}",
        "{[]: 1}", "(" * 900, "-" * 900 + "1", "'''", "\0", "9" * 5000, "{'descr': \"",
    )  # fmt: skip
    text = headers[int(rng.integers(len(headers)))].encode()
    length = end - start
    return data[:start] + text[:length].ljust(length) + data[end:]


def changes(path: Path, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Yield damaged copies of a file."""
    data = path.read_bytes()
    value = json.loads(data) if path.suffix == ".json" else None
    where = [] if value is None else few_places(value)
    for _ in range(count):
        if value is not None and rng.random() < 0.8:
            yield json_change(value, rng, where).encode()
        elif path.suffix == ".jsonl" and rng.random() < 0.7:
            lines = [json.loads(line) for line in data.decode().splitlines()]
            number = int(rng.integers(len(lines)))
            text = json_change(lines[number], rng, few_places(lines[number]))
            kept = [dumps(line) for line in lines]
            yield "\n".join([*kept[:number], text, *kept[number + 1 :], ""]).encode()
        elif path.suffix == ".npy" and rng.random() < 0.3:
            yield header_change(data, rng)
        elif path.suffix == ".npz" and rng.random() < 0.5:
            yield archive_change(data, rng)
        else:
            yield byte_change(data, rng)


def archive_change(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a whole archive with one array gone, damaged, renamed, or of other numbers."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(list(members)))
    way = int(rng.integers(8))
    array = np.load(io.BytesIO(members[name]))
    stream = io.BytesIO()
    if way == 0:
        del members[name]
    elif way == 1:
        members[name] = byte_change(members[name], rng)
    elif way == 2:
        members[name] = header_change(members[name], rng)
    elif way == 3:
        members[f"../{name}"] = members.pop(name)
    elif array.dtype.kind == "U":
        members[name] = byte_change(members[name], rng)
    elif way == 4:
        others = (array[:-1], array[None], array.astype(np.float64) * 0.5, array.astype("U8"),
                  array.astype(np.complex128), np.zeros(0), np.array(3),
                  -array.astype(np.int64))  # fmt: skip
        np.save(stream, others[int(rng.integers(len(others)))])
        members[name] = stream.getvalue()
    elif way == 5:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        members[name] = stream.getvalue()
    elif way == 6 and array.size:
        copy = array.copy()
        numbers = (-1, 4, 255, 10**6, 0)
        copy.flat[int(rng.integers(array.size))] = np.array(
            numbers[int(rng.integers(len(numbers)))]
        ).astype(array.dtype)
        np.save(stream, copy)
        members[name] = stream.getvalue()
    else:
        copy = array.astype(np.float64)
        copy.flat[: max(1, copy.size // 2)] = (np.nan, np.inf, 1e300)[int(rng.integers(3))]
        np.save(stream, copy)
        members[name] = stream.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, member in members.items():
            archive.writestr(key, member)
    return packed.getvalue()


# -- one file of every kind --------------------------------------------------------------------


def samples(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Write one file of every kind; return it by name with the way it is read."""
    from unittest import mock

    from causal_lvlm.attribution.head_choice import HeadChoice
    from causal_lvlm.explanation.causal import causal_graph
    from causal_lvlm.explanation.head_graphs import HeadGraphs
    from causal_lvlm.explanation.stability import TargetStability
    from causal_lvlm.explanation.tried import TriedSet
    from causal_lvlm.metrics.result import MetricTable, MetricValue
    from causal_lvlm.runner import run_items
    from causal_lvlm.structure import learn_structure
    from causal_lvlm.structure.null import null_edges
    from causal_lvlm.structure.stability import edge_stability
    from causal_lvlm.structure.texts import to_pcalg, to_tetrad
    from tests.explanation.edge_fakes import EdgeTrace
    from tests.viz import fakes

    view = fakes.fake_view()
    target = fakes.resolve_target(view.layout, "red")
    learned = fakes.learned_graph(view.layout, target)
    check = {
        "passed": True, "argmax_agreement": 1.0, "max_log_prob_difference": 1e-6, "tolerance": 1e-3,
        "geometry_error": 0.0, "largest_gap": 0.0,
    }  # fmt: skip
    summary = {**fakes.summary_of(view), "self_check": check}
    tried = (TriedSet(((13,), (20,)), 0.1, ("blue",), True, -0.5),)
    explanation = fakes.fake_explanation(
        view, graphs=(learned,), tried=tried, summary=summary, model_id="fake <model>"
    )
    kinds: dict[str, tuple[Path, Callable[[Path], object]]] = {}

    def put(name: str, path: Path, read: Callable[[Path], object]) -> None:
        kinds[name] = (path, read)

    main = explanation.save(folder / "explanation.json")
    put("explanation", main, read_explanation)
    with mock.patch("causal_lvlm.explanation.result.MAX_PAIRS_IN_JSON", 1):
        large = explanation.save(folder / "large.json")
    put(
        "explanation.npz",
        large.with_suffix(".npz"),
        lambda p: read_explanation(p.with_suffix(".json")),
    )
    attribution = fakes.fake_attribution(view)
    put("attribution", attribution.save(folder / "heat-a.json"), beside(main))
    values = tuple(
        MetricValue(m, "relevancy", 0.5, {"budgets": [1, 2], "changed": [True, False]}, 3, 3, 0.1)
        for m in ("deletion[remove]", "sufficiency[remove]")
    )
    table = MetricTable(values, target, {"steps": 4}, 6, 0.2, "fake <model>")
    put("metrics", table.save(folder / "metrics.json"), beside(main))
    n = len(learned.members)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(60, n))
    data[:, -1] += data[:, 0]
    edges = edge_stability(data, kind="data", runs=3, alphas=0.05, names=learned.labels)
    stable = TargetStability(edges, learned.positions, learned.members, n - 1, 0, target)
    put("target-stability", stable.save(folder / "stability.json"), beside(main))
    tested = causal_graph(EdgeTrace(seed=19), 0, max_runs=40, n_random=3)
    put("causal-graph", tested.save(folder / "causal.json"), read_causal_graph)
    heads = HeadGraphs(target, (learned,), {"layer": -1, "threshold": 0.3}, "fake <model>")
    put("head-graphs", heads.save(folder / "heads.json"), beside(main))
    choice = HeadChoice(
        ((0, 1), (1, 0)), np.ones((2, 2)), np.ones((2, 2)), 3, "fake <model>", None, None, {}
    )
    put("head-choice", choice.save(folder / "choice.json"), read_choice)
    write(folder / "trace.json", json.dumps(summary))
    put("trace", folder / "trace.json", read_trace)
    structure = learn_structure({f"v{k}": data[:, k] for k in range(n)}, alpha=0.05)
    path = structure.save(folder / "structure.json")
    put("structure", path, read_structure)
    put("structure.npz", path.with_suffix(".npz"), lambda p: read_structure(p.with_suffix(".json")))
    path = edges.save(folder / "edges.json")
    put("edge-stability", path, read_stability)
    put(
        "edge-stability.npz",
        path.with_suffix(".npz"),
        lambda p: read_stability(p.with_suffix(".json")),
    )
    path = null_edges(data, kind="data", permutations=3, alpha=0.05).save(folder / "null.json")
    put("null-edges", path, read_null)
    put("null-edges.npz", path.with_suffix(".npz"), lambda p: read_null(p.with_suffix(".json")))
    pag = structure.pag
    put("pag.json", write(folder / "pag.json", pag.to_json()), read_graph_file)
    marks = json.dumps({"marks": pag.marks.tolist(), "names": [f"v{k}" for k in range(n)]})
    put("marks.json", write(folder / "marks.json", marks), read_graph_file)
    put("pag.graphml", write(folder / "pag.graphml", str(pag.to_graphml())), read_graph_file)
    put("pag.pcalg", write(folder / "pag.pcalg.txt", to_pcalg(pag)), read_graph_file)
    put("pag.tetrad", write(folder / "pag.tetrad.txt", to_tetrad(pag)), read_graph_file)
    np.save(folder / "data.npy", data)
    put("matrix.npy", folder / "data.npy", read_matrix)
    np.savez_compressed(folder / "data.npz", data=data, names=np.array([f"v{k}" for k in range(n)]))
    put("matrix.npz", folder / "data.npz", read_matrix)
    entry = {
        "model_runs": 1, "backward_passes": 1, "seconds": 0.1, "peak_memory": None, "notes": [],
        "metrics": {"deletion[remove]": {"value": 0.5, "asked": 3, "seconds": 0.1}},
    }  # fmt: skip
    config = {"methods": ["relevancy"], "metrics": ["deletion"]}
    run_items(
        {"a": {"x": 1}, "b": {"x": 2}}, lambda item, state: {"methods": {"relevancy": entry}},
        folder / "results.jsonl", config=config,
    )  # fmt: skip
    put("results.jsonl", folder / "results.jsonl", read_results_file)
    return kinds


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# -- the whole way of reading -------------------------------------------------------------------


def read_explanation(path: Path) -> object:
    """Load, say, print, draw, compare, attribute, save."""
    from causal_lvlm.cli.results import describe
    from causal_lvlm.explanation.result import Explanation
    from causal_lvlm.methods import from_explanation
    from causal_lvlm.viz.bundle import write_bundle
    from causal_lvlm.viz.case import Case
    from causal_lvlm.viz.report import report_cases

    found = Explanation.load(path)
    describe(found)
    found._repr_html_()
    from_explanation(found)
    for graph in found.graphs:
        read_learned(graph.structure)
        graph.to_networkx()
    with tempfile.TemporaryDirectory() as folder:
        report_cases([Case(found.summary, [found])], Path(folder) / "report.html")
        write_bundle(found.summary, [found], [], Path(folder) / "all")
    return found


def read_causal_graph(path: Path) -> object:
    from causal_lvlm.explanation.causal_graph import CausalGraph

    graph = CausalGraph.load(path)
    graph.routes(), graph.to_networkx(), graph.verified, graph.sufficient.size
    with tempfile.TemporaryDirectory() as folder:
        return graph.save(Path(folder) / "again.json")


def beside(main: Path) -> Callable[[Path], object]:
    """Return a reader that makes a report of a file and the explanation that it belongs to."""

    def read(path: Path) -> object:
        from causal_lvlm.cli.report import read_results
        from causal_lvlm.viz.report import report_cases

        cases, _ = read_results([main, path])
        with tempfile.TemporaryDirectory() as folder:
            return report_cases(cases, Path(folder) / "report.html")

    return read


def read_trace(path: Path) -> object:
    from causal_lvlm.lvlm.trace import Trace

    trace = Trace.load(path)
    trace._repr_html_()
    return trace.to_dict()


def read_choice(path: Path) -> object:
    from types import SimpleNamespace

    from causal_lvlm.attribution.head_choice import HeadChoice

    choice = HeadChoice.load(path)
    model = SimpleNamespace(fingerprint=lambda: None)
    choice.check(SimpleNamespace(model_id="fake <model>", revision=None, model=model))
    with tempfile.TemporaryDirectory() as folder:
        return choice.save(Path(folder) / "again.json")


def read_learned(structure: Any) -> None:
    """Do with a structure what it can do."""
    from causal_lvlm.structure.compare import compare_graphs

    structure.summary()
    structure.to_dict(), structure.to_dot(), structure.to_graphml(), structure.to_networkx()
    compare_graphs(structure, structure)
    n = structure.n_nodes
    for i in range(n):
        for j in range(i + 1, n):
            structure.sepset(i, j)
            if structure.evidence is not None:
                structure.p_value(i, j), structure.weakest(i, j), structure.tests_of(i, j)


def read_structure(path: Path) -> object:
    from causal_lvlm.cli.graph_report import as_json
    from causal_lvlm.cli.learn_trust import Trust
    from causal_lvlm.structure.result import LearnedStructure

    found = LearnedStructure.load(path)
    read_learned(found)
    if found.evidence is not None:
        as_json(found, found.names or [str(k) for k in range(found.n_nodes)], 0.1, None, Trust())
    with tempfile.TemporaryDirectory() as folder:
        return found.save(Path(folder) / "again.json")


def read_stability(path: Path) -> object:
    from causal_lvlm.cli.graph_report import _stability
    from causal_lvlm.structure.stability_result import EdgeStability

    found = EdgeStability.load(path)
    found.to_dict(), found.consensus(), _stability(found)
    with tempfile.TemporaryDirectory() as folder:
        return found.save(Path(folder) / "again.json")


def read_null(path: Path) -> object:
    from causal_lvlm.cli.graph_report import _null
    from causal_lvlm.structure.null_result import NullEdges

    found = NullEdges.load(path)
    found.to_dict(), found.node_p_value(0), _null(found)
    with tempfile.TemporaryDirectory() as folder:
        return found.save(Path(folder) / "again.json")


def read_graph_file(path: Path) -> object:
    from causal_lvlm.structure.compare import compare_graphs
    from causal_lvlm.structure.files import read_graph

    named = read_graph(path, "pag")
    named.pag.to_dot(named.names), named.pag.to_graphml(labels=named.names)
    compare_graphs(named.pag, named.pag)
    return named.pag.to_json(named.names)


def read_matrix(path: Path) -> object:
    from causal_lvlm.cli.matrix import read_input
    from causal_lvlm.structure.inputs import as_source

    loaded = read_input(path, None)
    return as_source(loaded.values, input=loaded.kind, names=loaded.names)


def read_results_file(path: Path) -> object:
    from causal_lvlm.cli.evaluate_summary import check_line, summarise, table
    from causal_lvlm.items_file import read_config, read_lines

    read_config(path)
    config = {"methods": ["relevancy"]}  # of the command that reads, which must be the same
    lines = [line for line in read_lines(path) if "result" in line]
    for line in lines:
        check_line(line, config, path)
    rows = summarise(lines, config, {line["key"]: line["key"] for line in lines})
    return table(rows, len(lines))


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """Return how reading a file ends: loaded, refused, or the name of another exception."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except CausalLVLMError:
        return "refused"
    except Exception as error:  # what this campaign counts
        return type(error).__name__
    return "loaded"


def campaign(
    count: int, only: str | None = None, seed: int = 0, keep: Path | None = None
) -> dict[str, Counter[str]]:
    """Return the outcomes of `count` damaged copies of every kind."""
    results: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, (path, read) in samples(folder).items():
            if only is not None and only != kind:
                continue
            whole, rng = path.read_bytes(), np.random.default_rng(seed)
            assert outcome(read, path) == "loaded", kind
            results[kind] = Counter()
            for number, data in enumerate(changes(path, rng, count)):
                path.write_bytes(data)
                found = outcome(read, path)
                results[kind][found] += 1
                if keep is not None and found not in ("loaded", "refused"):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{kind}-{number}-{found}{path.suffix}").write_bytes(data)
            path.write_bytes(whole)
    return results


if __name__ == "__main__":
    total: Counter[str] = Counter()
    for kind, found in campaign(
        int(sys.argv[1]), (sys.argv[2] or None) if len(sys.argv) > 2 else None,
        keep=Path(sys.argv[3]) if len(sys.argv) > 3 else None,
    ).items():  # fmt: skip
        print(f"{kind:22}", dict(found.most_common()))
        total += found
    print("all", dict(total.most_common()))
