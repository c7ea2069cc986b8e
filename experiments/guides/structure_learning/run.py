"""Learn graphs from scikit-learn's diabetes data; the page beside this file shows what comes out.

``pip install scikit-learn`` and then ``python -m experiments.guides.structure_learning.run``
(half a minute). Writes ``results/``: what is printed, the graphs, the pictures, and the
correlation matrix, from which the graphs can be learned again without the data.

The data: Efron, Hastie, Johnstone, Tibshirani, Least Angle Regression, Annals of Statistics 32
(2004): 442 patients, ten measurements, and the progression of the disease one year later.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.errors import CausalLVLMError
from causal_lvlm.structure import (
    CorrelationSource,
    LearnedStructure,
    correlation_from_data,
    learn_structure,
)
from causal_lvlm.structure.compare import compare_graphs
from causal_lvlm.structure.knowledge import BackgroundKnowledge
from causal_lvlm.structure.marks import edge_symbol, edges
from causal_lvlm.structure.null import null_edges
from causal_lvlm.structure.stability import edge_stability
from causal_lvlm.viz import draw_difference, draw_structure
from causal_lvlm.viz.style import png_bytes
from experiments.guides.page import fill, sections

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("README.md")
NAMES = ("age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu", "progression")
# Age and sex come first, the measurements of one day are not ordered, the outcome comes last.
TIERS = (0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2)
# Neither age nor sex is a cause of the other (nodes by number: 0 is age, 1 is sex).
KNOWLEDGE = BackgroundKnowledge(forbidden_orientations=((0, 1), (1, 0)))
ALPHA = 0.01
# What the graphs of the page are learned with: name -> options.
RECIPES: dict[str, dict[str, Any]] = {
    "fci, tiers": {"algorithm": "fci", "tiers": TIERS, "knowledge": KNOWLEDGE},
    "fci": {"algorithm": "fci"},
    "icd": {"algorithm": "icd"},
    "ordered_icd, tiers": {
        "algorithm": "ordered_icd", "tiers": TIERS, "knowledge": KNOWLEDGE,
    },
    "pc": {"algorithm": "pc"},
    "pc, tiers": {"algorithm": "pc", "tiers": TIERS},
}  # fmt: skip


def load() -> np.ndarray:
    """Return the table, one column per name."""
    from sklearn.datasets import load_diabetes  # type: ignore[import-not-found, import-untyped]

    data = load_diabetes(scaled=False)
    return np.column_stack([data.data, data.target])


def learn(source: CorrelationSource, recipe: str, alpha: float = ALPHA) -> LearnedStructure:
    """Learn one of the page's graphs."""
    return learn_structure(source, alpha=alpha, **RECIPES[recipe])


def text_edges(structure: LearnedStructure) -> list[str]:
    """Return the edges as text."""
    pag, names = structure.pag, NAMES
    return [f"{names[i]} {edge_symbol(pag, i, j)} {names[j]}" for i, j in edges(pag)]


class Report:
    """Prints, and keeps what was printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str = "") -> None:
        print(line)
        self.lines.append(line)


def first_graph(say: Report, source: CorrelationSource) -> LearnedStructure:
    """Print the graph with the evidence for its edges, and a few separating sets."""
    graph = learn(source, "fci, tiers")
    say(f"{source.n_samples} rows, {len(NAMES)} columns -> {graph.pag.n_edges} edges, "
        f"{graph.n_tests} tests, complete: {graph.complete}")  # fmt: skip
    say(f"{'edge':<24}{'weakest |r|':>12}{'tests':>8}")
    for i, j in sorted(edges(graph.pag), key=lambda pair: -graph.weakest(*pair)):
        edge = f"{NAMES[i]} {edge_symbol(graph.pag, i, j)} {NAMES[j]}"
        say(f"{edge:<24}{graph.weakest(i, j):>12.3f}{graph.tests_of(i, j):>8}")
    for a, b in (("age", "progression"), ("sex", "progression"), ("glu", "progression")):
        i, j = NAMES.index(a), NAMES.index(b)
        separator = graph.sepset(i, j)
        said = "no set" if separator is None else ", ".join(NAMES[k] for k in separator) or "{}"
        say(f"{a} and {b} are separated by: {said} (largest p {graph.p_value(i, j):.3f})")
    return graph


def all_recipes(say: Report, source: CorrelationSource) -> dict[str, LearnedStructure]:
    """Print how much the answer depends on the algorithm."""
    graphs = {name: learn(source, name) for name in RECIPES}
    say(f"{'recipe':<22}{'graph':<8}{'edges':>6}{'tests':>7}{'conflicts':>11}{'violations':>12}")
    for name, graph in graphs.items():
        say(f"{name:<22}{graph.kind:<8}{graph.pag.n_edges:>6}{graph.n_tests:>7}"
            f"{graph.conflicts:>11}{len(graph.violations):>12}")  # fmt: skip
    common = set.intersection(*({*edges(graph.pag)} for graph in graphs.values()))
    say("edges (whatever their marks) in all of them: "
        + ", ".join(f"{NAMES[i]}-{NAMES[j]}" for i, j in sorted(common)))  # fmt: skip
    return graphs


def comparison(say: Report, graphs: dict[str, LearnedStructure]) -> None:
    """Print what the tiers changed."""
    found = compare_graphs(graphs["fci"], graphs["fci, tiers"])
    say("fci without tiers, compared with fci with tiers:")
    say(f"precision {found.precision:.2f}, recall {found.recall:.2f}, SHD {found.shd}, "
        f"mark accuracy {found.mark_accuracy:.2f}")  # fmt: skip
    for what in ("extra", "missing"):
        pairs = ", ".join(f"{NAMES[i]}-{NAMES[j]}" for i, j in getattr(found, what))
        say(f"{what}: {pairs or 'none'}")


def resampling(
    say: Report, table: np.ndarray, graph: LearnedStructure, runs: int, permutations: int
) -> Any:
    """Print how often each edge is found again, and how many edges appear by chance."""
    stable = edge_stability(
        table, kind="data", runs=runs, seed=0, alphas=(0.001, 0.01, 0.05), resample="subsample",
        n_samples=353, names=NAMES, n_jobs=1, **RECIPES["fci, tiers"],
    )  # fmt: skip
    say(f"{stable.n_runs} runs on 353 of the 442 rows, alpha 0.001, 0.01 or 0.05")
    say(f"{'edge':<24}{'found':>7}   marks at the two ends, share of the runs with the edge")
    for i, j in sorted(edges(graph.pag), key=lambda pair: -stable.edge_frequency[pair]):
        edge = f"{NAMES[i]} {edge_symbol(graph.pag, i, j)} {NAMES[j]}"
        ends = [marks_at(stable.mark_frequency[a, b], NAMES[b]) for a, b in ((j, i), (i, j))]
        say(f"{edge:<24}{stable.edge_frequency[i, j]:>7.2f}   {ends[0]}; {ends[1]}")
    missed = [
        (i, j)
        for i, j in zip(*np.nonzero(np.triu(stable.edge_frequency >= 0.5)), strict=True)
        if not graph.pag.marks[i, j]
    ]
    named = ", ".join(f"{NAMES[i]}-{NAMES[j]} {stable.edge_frequency[i, j]:.2f}" for i, j in missed)
    say(f"in half of the runs or more, but not in the graph: {named or 'none'}")
    null = null_edges(
        table, kind="data", permutations=permutations, seed=0, alpha=ALPHA, algorithm="fci",
        tiers=TIERS, n_jobs=1,
    )  # fmt: skip
    say(f"columns shuffled {null.n_permutations} times: {null.mean:.2f} edges by chance on average "
        f"(95% of the time at most {null.quantiles[0.95]:.0f}); observed without the knowledge: "
        f"{null.observed}; p = {null.p_value:.3f}")  # fmt: skip
    return stable


def marks_at(frequency: np.ndarray, name: str) -> str:
    """Return the marks at one end with their shares among the runs that have the edge."""
    shares = frequency[1:] / max(float(frequency[1:].sum()), 1e-12)
    shown = [f"{word} {share:.2f}" for word, share in
             zip(("circle", "arrow", "tail"), shares, strict=True) if share >= 0.005]  # fmt: skip
    return f"{name}: " + ", ".join(shown or ["-"])


def early_end(say: Report, source: CorrelationSource) -> None:
    """Print what a budget leaves."""
    for budget in (None, 600):
        graph = learn_structure(source, alpha=ALPHA, max_tests=budget, **RECIPES["fci, tiers"])
        say(f"max_tests={budget}: complete: {graph.complete}, stopped: {graph.stopped}, "
            f"edges: {graph.pag.n_edges}, "
            f"tests per size: {list(graph.tests_per_size)}")  # fmt: skip
    say(f"unfinished: size {graph.unfinished_size}, edges still to be looked at there: "
        f"{graph.edges_left}")  # fmt: skip


def bad_input(say: Report, table: np.ndarray) -> None:
    """Print what the errors say."""
    constant, double, gap = table.copy(), table.copy(), table.copy()
    constant[:, 3] = 1.0
    double[:, 4] = 2.0 * double[:, 5] + 1.0
    gap[10, 2] = math.nan
    tries: list[tuple[str, Callable[[], Any]]] = [
        ("a constant column", lambda: correlation_from_data(constant, names=NAMES)),
        ("the same column twice", lambda: correlation_from_data(double, names=NAMES)),
        ("a missing value", lambda: correlation_from_data(gap, names=NAMES)),
        ("3 rows", lambda: correlation_from_data(table[:3], names=NAMES)),
        ("a covariance as it is", lambda: learn_structure(np.cov(table.T), n_samples=442)),
        (
            "an edge required and forbidden",
            lambda: BackgroundKnowledge(required=(("bmi", "bp"),), forbidden=(("bp", "bmi"),)),
        ),
        (
            "an unknown name",
            lambda: learn_structure(
                correlation_from_data(table, names=NAMES), algorithm="fci",
                knowledge=BackgroundKnowledge(required=(("bmi", "blood pressure"),)),
            ),
        ),
    ]  # fmt: skip
    for what, call in tries:
        try:
            call()
        except CausalLVLMError as error:
            say(f"{what}: {type(error).__name__}: {error}")
        else:
            say(f"{what}: accepted")


def run(table: np.ndarray, out: Path, runs: int, permutations: int) -> list[str]:
    """Do everything the page shows; return the printed lines."""
    out.mkdir(parents=True, exist_ok=True)
    say = Report()
    source = correlation_from_data(table, names=NAMES)
    say("== graph")
    graph = first_graph(say, source)
    say("\n== recipes")
    graphs = all_recipes(say, source)
    say("\n== comparison")
    comparison(say, graphs)
    say("\n== resampling")
    stable = resampling(say, table, graph, runs, permutations)
    say("\n== budget")
    early_end(say, source)
    say("\n== errors")
    bad_input(say, table)
    pictures = {
        "graph": draw_structure(
            graph, confidence=stable, around="progression",
            title="Diabetes data: FCI with tiers, alpha 0.01",
        ),
        "cpdag": draw_structure(graphs["pc, tiers"], title="Diabetes data: PC with tiers"),
        "difference": draw_difference(
            graphs["fci"], graphs["fci, tiers"], title="What the tiers changed",
            learned_name="without tiers", truth_name="with tiers",
        ),
    }  # fmt: skip
    for name, picture in pictures.items():
        (out / f"{name}.png").write_bytes(png_bytes(picture, palette=True))
    stored = {name: {"kind": g.kind, "edges": text_edges(g)} for name, g in graphs.items()}
    (out / "graphs.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    np.savetxt(out / "correlation.csv", source.correlation, fmt="%.17g", delimiter=",",
               header=",".join(NAMES), comments="")  # fmt: skip
    (out / "output.txt").write_text("\n".join(say.lines) + "\n", encoding="utf-8")
    return say.lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=int, default=300, help="runs of the stability analysis")
    parser.add_argument("--permutations", type=int, default=200, help="of the null")
    given = parser.parse_args()
    lines = run(load(), given.out, given.runs, given.permutations)
    if given.out == RESULTS:
        fill(PAGE, sections(lines))


if __name__ == "__main__":
    main()
