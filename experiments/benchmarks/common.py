"""What the benchmarks share: machine line, data, timing of our side, scores, result files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray, UInt8Array

HERE = Path(__file__).parent
DATA = HERE / "data"
RESULTS = HERE / "results"
ARROW, TAIL = 2, 3

# One thread for everybody: ours in this process (with threadpoolctl), peers by these variables
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "ARROW_NUM_THREADS",
    )
}


def machine() -> dict[str, Any]:
    """Return what a time depends on: processor, cores, load, versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    versions = {
        name: importlib.metadata.version(name)
        for name in ("causal-lvlm", "numpy", "scipy", "numba")
    }
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_average": load,
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


class Results:
    """JSON lines of one benchmark: a line about the machine, then one line per measurement."""

    def __init__(self, name: str, settings: dict[str, Any], path: Path | None = None) -> None:
        self.path = path or RESULTS / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        about = machine()
        # folders say nothing to others
        settings = {k: v for k, v in settings.items() if not isinstance(v, Path) and v is not None}
        head = {"benchmark": name, "machine": about, "settings": settings}
        self.path.write_text(json.dumps(head, default=str) + "\n", encoding="utf-8")
        print(
            f"{about['processor']}, {about['cores']} cores, load {about['load_average']:.2f}, "
            f"Python {about['python']}, "
            + ", ".join(f"{key} {value}" for key, value in about["versions"].items()),
            flush=True,
        )

    def add(self, **record: Any) -> None:
        """Append one line at once, so that a run that is cut off leaves what it measured."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=str) + "\n")


def best_of(work: Callable[[], Any], repeat: int, seconds: float) -> tuple[list[float], Any]:
    """Run up to `repeat` times, while `seconds` last; return the times and the last result."""
    times: list[float] = []
    result = None
    while len(times) < repeat and (not times or sum(times) < seconds):
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return times, result


def attention_heads(path: Path | None = None) -> Iterator[tuple[str, FloatArray]]:
    """Yield (name, correlation float32) of real attention heads, of all sizes or of one file.

    A one-dimensional array holds the entries above the diagonal, row by row.
    """
    for file in [path] if path is not None else sorted(DATA.glob("attention_correlations_n*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            for name in sorted(stored.files):
                values = stored[name]
                if values.ndim == 1:
                    n = round((1 + np.sqrt(1 + 8 * len(values))) / 2)
                    full = np.eye(n, dtype=values.dtype)
                    full[np.triu_indices(n, k=1)] = values
                    values = full + full.T - np.eye(n, dtype=values.dtype)
                yield name, values.astype(np.float32)


def gaussian_data(
    n_nodes: int, degree: float, n_samples: int, seed: int
) -> tuple[FloatArray, UInt8Array]:
    """Sample a random linear-Gaussian DAG.

    Each pair is an edge with probability degree / (n_nodes - 1); effects are uniform in +-[0.3,
    0.9], noise has variance one, and columns are shuffled so that their order says nothing.

    Returns
    -------
    data : ndarray of shape (n_samples, n_nodes)
    truth : ndarray of shape (n_nodes, n_nodes), uint8
        Marks of the DAG: an arrowhead (2) at j and a tail (3) at i where i has an effect on j.
    """
    rng = np.random.default_rng([seed, n_nodes])
    edge = np.triu(rng.random((n_nodes, n_nodes)) < degree / (n_nodes - 1), k=1)
    sign = rng.choice([-1.0, 1.0], size=edge.shape)
    effect = np.where(edge, sign * rng.uniform(0.3, 0.9, size=edge.shape), 0.0)
    data = rng.normal(size=(n_samples, n_nodes))
    for j in range(n_nodes):
        parents = np.flatnonzero(edge[:, j])
        data[:, j] += data[:, parents] @ effect[parents, j]
    order = rng.permutation(n_nodes)
    truth = np.where(edge, ARROW, np.where(edge.T, TAIL, 0)).astype(np.uint8)
    return np.ascontiguousarray(data[:, order]), np.ascontiguousarray(truth[np.ix_(order, order)])


def cpdag_of(dag: UInt8Array) -> UInt8Array:
    """Return the marks of the CPDAG of a DAG: tails at both ends where the class does not agree.

    Unshielded colliders, then Meek's rules 1 to 3 (Meek, UAI 1995) until nothing changes; rule 4 is
    for background knowledge only.
    """
    n = len(dag)
    neighbours = [set(np.flatnonzero(dag[i]).tolist()) for i in range(n)]
    into = {(int(i), int(j)) for i, j in np.argwhere(dag == ARROW)}
    directed = {
        (a, b)
        for a, b in into
        if any(c != a and c not in neighbours[a] for c in neighbours[b] if (c, b) in into)
    }
    before = -1
    while len(directed) != before:
        before = len(directed)
        for a, b in sorted(into - directed):
            around = neighbours[a]
            parents = [c for c in neighbours[b] if (c, b) in directed]
            if (
                any((c, a) in directed and c not in neighbours[b] for c in around)
                or any((a, c) in directed for c in parents)
                or any(
                    c not in neighbours[d]
                    for c in parents
                    for d in parents
                    if c < d
                    and {c, d} <= around
                    and not {(c, a), (a, c), (d, a), (a, d)} & directed
                )
            ):
                directed.add((a, b))
    marks = np.where(dag > 0, TAIL, 0).astype(np.uint8)
    for a, b in directed:
        marks[a, b] = ARROW
    return marks


def arrowhead_scores(marks: UInt8Array, truth: UInt8Array) -> tuple[float, float]:
    """Precision and recall of arrowheads, each at one end of one edge, given the true CPDAG.

    Without latent variables the arrowheads of the true PAG are the same.
    """
    found, real = marks == ARROW, truth == ARROW
    both = int((found & real).sum())
    return both / max(1, int(found.sum())), both / max(1, int(real.sum()))


def marks_of(edges: list[list[int]], n_nodes: int) -> UInt8Array:
    """Return the mark matrix of a peer's rows ``[i, j, mark at i, mark at j]``."""
    marks = np.zeros((n_nodes, n_nodes), dtype=np.uint8)
    for i, j, at_i, at_j in edges:
        marks[i, j], marks[j, i] = at_j, at_i
    return marks


def skeleton_f1(marks: UInt8Array, truth: UInt8Array) -> float:
    """F1 of the pairs that are adjacent; 1 if neither graph has an edge."""
    found, real = np.triu(marks > 0, k=1), np.triu(truth > 0, k=1)
    both = int((found & real).sum())
    total = int(found.sum() + real.sum())
    return 1.0 if total == 0 else 2.0 * both / total


def equal_marks(marks: UInt8Array, other: UInt8Array) -> float:
    """Share of equal marks at the ends of the edges that both graphs have."""
    both = (marks > 0) & (other > 0)
    return 1.0 if not both.any() else float((marks == other)[both].mean())
