"""The README's picture: scene, graph and sentence of the demo's hallucination, side by side.

``make demo`` and then ``python -m experiments.first_light.picture demo-output``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 460, 20


def compose(folder: Path) -> Image.Image:
    """Put the three pictures of the last explained word of a demo together."""
    names = ("patches", "pag", "prompt")
    scene, graph, prompt = (
        Image.open(max(folder.glob(f"*-spoon-{n}.png"))).convert("RGB") for n in names
    )
    scene, graph = (
        i.resize((round(i.width * HEIGHT / i.height), HEIGHT), Image.Resampling.LANCZOS)
        for i in (scene, graph)
    )
    width = max(scene.width + GAP + graph.width, prompt.width) + 2 * GAP
    page = Image.new("RGB", (width, HEIGHT + prompt.height + 3 * GAP), "white")
    page.paste(scene, (GAP, GAP))
    page.paste(graph, (2 * GAP + scene.width, GAP))
    page.paste(prompt, (GAP, HEIGHT + 2 * GAP))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="output of the demo")
    out = Path("experiments/first_light/results/hallucination.png")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    compose(given.folder).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
