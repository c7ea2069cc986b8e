"""The README's picture of the demo's hallucination: image set, sentence, and graph below.

``make demo`` and then ``python -m experiments.first_light.picture demo-output``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 420, 20


def compose(folder: Path, word: str = "spoon") -> Image.Image:
    """Put three pictures of a word that the demo explained together."""
    names = ("patches-image", "prompt", "pag")
    scene, prompt, graph = (
        Image.open(max(folder.glob(f"*-{word}-{n}.png"))).convert("RGB") for n in names
    )
    scene = _scaled(scene, HEIGHT / scene.height)
    width = scene.width + GAP + prompt.width
    graph = _scaled(graph, width / graph.width)
    page = Image.new("RGB", (width + 2 * GAP, HEIGHT + graph.height + 3 * GAP), "white")
    page.paste(scene, (GAP, GAP))
    page.paste(prompt, (2 * GAP + scene.width, GAP + (HEIGHT - prompt.height) // 2))
    page.paste(graph, (GAP, HEIGHT + 2 * GAP))
    return page


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = (round(picture.width * factor), round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="output of the demo")
    out = Path("experiments/first_light/results/hallucination.png")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    compose(given.folder).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
