"""One peer learning one graph, several times: run by the interpreter of the peers' environment.

    python peer_worker.py job.json

Imports nothing of this project. ``job.json`` names the peer, the algorithm, an npz file with
``data`` (n, p) or ``correlation`` (N, N), alpha, and how often to repeat. For each run one JSON
line is printed at once (so that a run that is cut off leaves the ones before it), and at the end
the edges of the last graph as rows ``[i, j, mark at i, mark at j]``: 1 circle, 2 arrowhead, 3 tail.

What is timed starts from the data matrix (or, for attention, the correlation matrix) in the form
the peer takes it in, and ends with the peer's graph; imports, the start of the Java machine and
turning the graph into rows are not timed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CIRCLE, ARROW, TAIL = 1, 2, 3

Job = dict[str, Any]
Rows = list[list[int]]
# (what is timed, how to read its result as rows, version and settings in words)
Prepared = tuple[Callable[[], Any], Callable[[Any], Rows], str]


def causal_learn(job: Job, arrays: dict[str, Any]) -> Prepared:
    """PC (stable, sepset rule) or FCI of causal-learn with Fisher's z-test."""
    data = arrays["data"]
    version = importlib.metadata.version("causal-learn")
    if job["algorithm"] == "pc":
        module = importlib.import_module("causallearn.search.ConstraintBased.PC")

        def run() -> Any:
            return module.pc(data, job["alpha"], "fisherz", stable=True, show_progress=False).G

        settings = "stable=True, uc_rule=0, no depth limit"
    else:
        module = importlib.import_module("causallearn.search.ConstraintBased.FCI")

        def run() -> Any:
            graph, _ = module.fci(
                data, "fisherz", job["alpha"], depth=-1, verbose=False, show_progress=False
            )
            return graph

        settings = "depth=-1"
    code = {2: CIRCLE, 1: ARROW, -1: TAIL}

    def rows(graph: Any) -> Rows:
        end = graph.graph  # end[i, j] is the mark at i
        where = np.argwhere(np.triu(end != 0, k=1))
        return [[int(i), int(j), code[int(end[i, j])], code[int(end[j, i])]] for i, j in where]

    return run, rows, f"causal-learn {version}: {settings}"


def pybnesian(job: Job, arrays: dict[str, Any]) -> Prepared:
    """PC (stable) of pybnesian with its partial correlation test (Student's t)."""
    module = importlib.import_module("pybnesian")
    pandas = importlib.import_module("pandas")
    data = arrays["data"]
    names = [str(i) for i in range(data.shape[1])]
    frame = pandas.DataFrame(data, columns=names)

    def run() -> Any:
        test = module.LinearCorrelation(frame)
        return module.PC().estimate(test, alpha=job["alpha"], use_sepsets=job["use_sepsets"])

    def rows(graph: Any) -> Rows:
        found = [[int(a), int(b), TAIL, TAIL] for a, b in graph.edges()]
        arcs = {(int(a), int(b)) for a, b in graph.arcs()}
        for a, b in sorted(arcs):
            if (b, a) not in arcs:
                found.append([a, b, TAIL, ARROW])
            elif a < b:
                found.append([a, b, ARROW, ARROW])
        return found

    version = importlib.metadata.version("pybnesian")
    rule = "sepset rule" if job["use_sepsets"] else "majority rule (its default)"
    return run, rows, f"pybnesian {version}: stable, {rule}, t-test"


def tetrad(job: Job, arrays: dict[str, Any]) -> Prepared:
    """PC (stable) or FCI (stable, possible-d-sep stage, complete rules) of Tetrad, Fisher's z."""
    jpype = importlib.import_module("jpype")
    jpype.startJVM(
        jpype.getDefaultJVMPath(),
        f"-Xmx{job['java_memory']}",
        f"-XX:ActiveProcessorCount={job['threads']}",
        classpath=[job["tetrad_jar"]],
    )
    data = arrays["data"]
    search, test, table = (
        jpype.JPackage(f"edu.cmu.tetrad.{part}") for part in ("search", "search.test", "data")
    )
    node_type = jpype.JClass("edu.cmu.tetrad.data.ContinuousVariable")
    variables = jpype.JClass("java.util.ArrayList")()
    for i in range(data.shape[1]):
        variables.add(node_type(f"X{i}"))
    values = jpype.JArray(jpype.JDouble, 2)(data.tolist())

    def run() -> Any:
        box = table.BoxDataSet(table.DoubleDataBox(values), variables)
        fisher = test.IndTestFisherZ(table.CovarianceMatrix(box), job["alpha"])
        if job["algorithm"] == "pc":
            learner = search.Pc(fisher)
        else:
            learner = search.Fci(fisher)
            learner.setCompleteRuleSetUsed(True)
            learner.setPossibleMsepSearchDone(True)
        learner.setStable(True)
        learner.setDepth(-1)
        learner.setVerbose(False)
        return learner.search()

    code = {"CIRCLE": CIRCLE, "ARROW": ARROW, "TAIL": TAIL}

    def rows(graph: Any) -> Rows:
        return [
            [
                int(str(edge.getNode1().getName())[1:]),
                int(str(edge.getNode2().getName())[1:]),
                code[str(edge.getEndpoint1())],
                code[str(edge.getEndpoint2())],
            ]
            for edge in graph.getEdges()
        ]

    java = str(jpype.java.lang.System.getProperty("java.version"))
    jar = Path(job["tetrad_jar"]).name
    return run, rows, f"{jar}, Java {java}: stable, depth -1, {job['threads']} processor(s)"


def causality_lab(job: Job, arrays: dict[str, Any]) -> Prepared:
    """Ordered ICD, ICD or FCI of causality-lab (pure Python) without selection bias."""
    sys.path.insert(0, job["causality_lab"])
    algorithms = importlib.import_module("causal_discovery_algs")
    tests = importlib.import_module("causal_discovery_utils.cond_indep_tests")
    if "data" in arrays:
        data = arrays["data"]
        samples, n = data.shape
    else:
        data = None
        samples, n = int(job["n_samples"]), len(arrays["correlation"])
    nodes = set(range(n))

    def run() -> Any:
        if data is not None:
            test = tests.CondIndepParCorr(job["alpha"], data)
        else:
            test = tests.CondIndepParCorr(job["alpha"], None, num_records=samples, num_vars=n)
            test.correlation_matrix = arrays["correlation"]
        if job["algorithm"] == "ordered_icd":
            order = list(range(n))
            learner = algorithms.LearnStructOrderedICD(nodes, order, test, is_selection_bias=False)
        else:
            name = {"icd": "LearnStructICD", "fci": "LearnStructFCI"}[job["algorithm"]]
            learner = getattr(algorithms, name)(nodes, test, is_selection_bias=False)
        learner.learn_structure()
        return learner.graph

    code = {"o--": CIRCLE, "<--": ARROW, "---": TAIL}

    def rows(graph: Any) -> Rows:
        return [
            [i, j, code[graph.get_edge_mark(j, i)], code[graph.get_edge_mark(i, j)]]
            for i in range(n)
            for j in range(i + 1, n)
            if graph.is_connected(i, j)
        ]

    return run, rows, f"causality-lab {job.get('causality_lab_version') or '(version unknown)'}"


PEERS = {
    "causal-learn": causal_learn,
    "pybnesian": pybnesian,
    "tetrad": tetrad,
    "causality-lab": causality_lab,
}


def main() -> None:
    """Run the job of the command line; again while repeats and its seconds last."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with np.load(job["arrays"], allow_pickle=False) as stored:
        arrays = {name: np.asarray(stored[name], dtype=np.float64) for name in stored.files}
    run, rows, version = PEERS[job["peer"]](job, arrays)
    print(json.dumps({"version": version, "python": sys.version.split()[0]}), flush=True)
    spent = 0.0
    for _ in range(job["repeat"]):
        began = time.perf_counter()
        graph = run()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds}), flush=True)
        spent += seconds
        if spent > job["repeat_seconds"]:
            break
    print(json.dumps({"edges": rows(graph)}), flush=True)


if __name__ == "__main__":
    main()
