"""The pictures of the page "Reading a PAG".

``python -m experiments.guides.reading_a_pag.draw`` (half a minute; runs the embedded model, no
download). Writes ``results/``: one picture per kind of edge, a true graph with a hidden variable
beside the PAG that is learned from it, and the graphs of one word of the embedded model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import causal_lvlm as cl
from causal_lvlm.explanation import PUBLISHED
from causal_lvlm.explanation.union import union_graph
from causal_lvlm.structure import PAG
from causal_lvlm.structure.marks import edge_symbol, edges
from causal_lvlm.structure.pag import adjacent_nodes
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.viz import draw_graph, draw_structure, view_of
from causal_lvlm.viz.graph_figure import Line, box_size, draw_page
from causal_lvlm.viz.graph_layout import GraphLayout, place_graph
from causal_lvlm.viz.style import INK, figure_image, png_bytes
from causal_lvlm.viz.view import member_numbers
from experiments.guides.page import fill

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("README.md")
CIRCLE, ARROW, TAIL = 1, 2, 3
# Name of the picture -> marks at A and at B.
EDGES = {
    "circle-circle": (CIRCLE, CIRCLE),
    "circle-arrow": (CIRCLE, ARROW),
    "tail-arrow": (TAIL, ARROW),
    "arrow-arrow": (ARROW, ARROW),
    "tail-tail": (TAIL, TAIL),
    "tail-circle": (TAIL, CIRCLE),
}
HIDDEN = "stress\n(not measured)"
# A made-up world: causes, effects and strengths. "stress" is left out of what is measured.
WORLD = {
    ("noise", "sleep"): 0.6,
    (HIDDEN, "sleep"): 0.7,
    (HIDDEN, "blood pressure"): 0.7,
    ("salt", "blood pressure"): 0.6,
    ("blood pressure", "heart rate"): 0.8,
}
MEASURED = ("noise", "salt", "sleep", "blood pressure", "heart rate")


def edge_picture(mark_a: int, mark_b: int) -> Image.Image:
    """Draw A and B with one edge, without a legend."""
    half = box_size("A") / 2
    a, b = np.array([24.0, 20.0]), np.array([146.0, 20.0])
    curve = np.array([[a[0] + half[0], 20.0], [b[0] - half[0], 20.0]])
    layout = GraphLayout({0: a, 1: b}, {(0, 1): curve}, 170.0, 40.0, "")
    figure = draw_page(layout, {0: "A", 1: "B"}, [Line(0, 1, mark_a, mark_b)], narrowest=170.0)
    return figure_image(figure)


def world_correlation() -> np.ndarray:
    """Return the population correlation of what is measured."""
    names = (*MEASURED, HIDDEN)
    effect = np.zeros((len(names), len(names)))
    for (cause, result), strength in WORLD.items():
        effect[names.index(result), names.index(cause)] = strength
    mixing = np.linalg.inv(np.eye(len(names)) - effect)
    covariance = (mixing @ mixing.T)[: len(MEASURED), : len(MEASURED)]
    scale = np.sqrt(covariance.diagonal())
    return np.asarray(covariance / np.outer(scale, scale))


def learn_world() -> Any:
    """Learn the PAG of the measured part of the made-up world from exact correlations."""
    return cl.learn_structure(world_correlation(), n_samples=100_000, alpha=1e-6, algorithm="fci")


def world_picture() -> Image.Image:
    """Draw the true graph and the learned PAG side by side."""
    names = (*MEASURED, HIDDEN)
    lines = [Line(names.index(a), names.index(b), TAIL, ARROW) for a, b in WORLD]
    sizes = {n: box_size(name) for n, name in enumerate(names)}
    placed = place_graph(sizes, [(li.first, li.second) for li in lines])
    truth = figure_image(
        draw_page(
            placed, dict(enumerate(names)), lines, framed=[len(MEASURED)],
            title="The world: arrows are mechanisms", narrowest=400.0,
        )
    )  # fmt: skip
    learned = draw_structure(learn_world(), names=MEASURED, title="The PAG of what is measured")
    return side_by_side(truth, learned)


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Put two pictures on one page."""
    page = Image.new(
        "RGB", (left.width + right.width + 20, max(left.height, right.height)), "white"
    )
    page.paste(left, (0, 0))
    page.paste(right, (left.width + 20, 0))
    ImageDraw.Draw(page).line((left.width + 10, 10, left.width + 10, page.height - 10), fill=INK)
    return page


def token_pictures() -> tuple[dict[str, Image.Image], list[str]]:
    """Explain one word of the embedded model; return pictures and what is to be said of them."""
    sample = next(s for s in sample_inputs() if s.name == "hallucination")
    model = cl.load_model()
    trace = model.run(sample.image_path, sample.prompt)
    explanation = cl.explain(trace, target="spoon", **PUBLISHED)  # a graph per head
    view, numbers = view_of(trace), member_numbers(explanation.main.units)
    # The head whose tree of the target holds the verified set nearest to it.
    graph = min(explanation.graphs, key=lambda g: nearness(g, explanation.positions))
    union = union_graph(explanation)
    said = [
        f"answer: {trace.answer}",
        explanation.sentence(),
        f"head {graph.head}: {len(graph.positions)} nodes, {graph.structure.pag.n_edges} edges, "
        f"neighbours of the target: {neighbours(graph)}",
    ]
    kinds: dict[str, int] = {}
    for g in explanation.graphs:
        for i, j in edges(g.structure.pag):
            symbol = edge_symbol(g.structure.pag, i, j)
            kinds[symbol] = kinds.get(symbol, 0) + 1
    marks = graph.structure.pag.marks
    said.append(
        "of all pairs of tokens in this head, "
        f"{graph.structure.pag.n_edges / (len(marks) * (len(marks) - 1) / 2):.1%} have an edge"
    )
    said.append(
        f"edges of all {len(explanation.graphs)} heads, earlier token on the left: "
        + ", ".join(f"{count} {symbol}" for symbol, count in sorted(kinds.items()))
    )
    summary = union.summary()
    said.append(
        f"union of {summary['graphs']} heads: {summary['edges']} edges, of which "
        f"{summary['edges_in_one_graph']} in one head only and {summary['edges_in_half']} in half "
        "of the heads or more"
    )
    pictures = {
        "token-graph": draw_graph(
            view, graph, numbers, title=f"“spoon”: head {graph.head} of the last layer"
        ),
        "token-union": draw_graph(
            view, union.stable(0.4), numbers, title="“spoon”: all heads of the last layer",
            confidence=union.confidence,
            confidence_label="share of the heads that have this edge, heads that look at the "
            "candidates counting more; edges below 0.4 are left out",
        ),
    }  # fmt: skip
    return pictures, said


def neighbours(graph: Any) -> str:
    """Return the edges of the target as text."""
    pag, target = graph.structure.pag, graph.target_node
    found = [
        f"{graph.labels[node]} {edge_symbol(pag, node, target)} {graph.labels[target]}"
        for node in adjacent_nodes(pag, target)
    ]
    return ", ".join(found) or "none"


def nearness(graph: Any, positions: tuple[int, ...]) -> float:
    """Return the depth at which a head's tree holds all the positions; infinite if it does not."""
    depth = {
        p: int(d)
        for node, d in zip(graph.tree.node, graph.tree.depth, strict=True)
        for p in graph.members[int(node)]
    }
    return max((depth.get(p, np.inf) for p in positions), default=np.inf)


def text_edges(pag: PAG, names: tuple[str, ...]) -> list[str]:
    """Return the edges as text."""
    return [f"{names[i]} {edge_symbol(pag, i, j)} {names[j]}" for i, j in edges(pag)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    pictures = {name: edge_picture(*marks) for name, marks in EDGES.items()}
    pictures["hidden"] = world_picture()
    tokens, said = token_pictures()
    for name, picture in (pictures | tokens).items():
        (out / f"{name}.png").write_bytes(png_bytes(picture, palette=True))
    outputs = {
        "world": "\n".join(text_edges(learn_world().pag, MEASURED)),
        "tokens": "\n".join(said),
    }
    (out / "results.json").write_text(
        json.dumps(outputs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if out == RESULTS:
        fill(PAGE, outputs)
    for text in outputs.values():
        print(text)


if __name__ == "__main__":
    main()
