"""The README's picture: the verified graph of the hallucinated spoon.

``python -m experiments.first_light.picture``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import causal_lvlm as cl
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.viz import draw_causal_graph

NODES = 9  # that are shown


def graph() -> CausalGraph:
    """Return the graph of “spoon” on the bundled picture without one."""
    sample = next(sample for sample in sample_inputs() if sample.hallucination)
    trace = cl.load_model().run(sample.image_path, sample.prompt)
    return cl.causal_graph(trace, "spoon")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    out = Path("experiments/first_light/results/hallucination.png")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    title = "The model says “spoon”, and there is none: it read its own word “cup”"
    draw_causal_graph(graph(), max_nodes=NODES, title=title, path=given.out)


if __name__ == "__main__":
    main()
