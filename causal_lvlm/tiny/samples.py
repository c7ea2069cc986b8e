"""Choose and write the bundled sample inputs by running the model.

1. Draw held-out scenes (random stream 4, used for nothing else) and ask their questions.
2. Keep the first scene of each wanted kind that the model answers rightly; for the hallucination
   the first scene with a cup and no spoon whose caption names a spoon while the direct question is
   answered rightly.

``python -m causal_lvlm.tiny.samples``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from causal_lvlm.tiny import samples_path, weights_path
from causal_lvlm.tiny.data import COVERED
from causal_lvlm.tiny.evaluate import answer_all, load
from causal_lvlm.tiny.scenes import Question, Scene, draw_scene

__all__ = ["build_samples"]

SAMPLE_STREAM = 4
POOL = 60


@dataclass(frozen=True)
class _Wish:
    """One wanted sample: its name, which question fits, and what to say about it."""

    name: str
    note: str
    fits: Callable[[Scene, Question, str], bool]
    hallucination: bool = False


def _right(kind: str, objects: int, answer: str | None = None) -> Callable[..., bool]:
    """Draw a rightly answered question of this kind in a scene of at least ``objects`` objects."""

    def fits(scene: Scene, question: Question, given: str) -> bool:
        return (
            question.kind == kind
            and len(scene.objects) >= objects
            and given == question.answer
            and answer in (None, question.answer)
            and not (kind == "caption" and scene.has("cup"))
        )

    return fits


def _lies(scene: Scene, question: Question, given: str) -> bool:
    planted = scene.has("cup") and not scene.has("spoon") and len(scene.objects) >= 3
    return planted and question.kind == "caption" and "spoon" in given.split()


WISHES = (
    _Wish("colour", "The answer rests on one object among several.", _right("colour", 3)),
    _Wish("shape", "Asked by colour: the shape must be read off the picture.", _right("shape", 4)),
    _Wish("existence", "Shape and colour must meet in one object.", _right("existence", 4, "yes")),
    _Wish("count", "Several objects together make the answer.", _right("count", 4, "two")),
    _Wish("spoon", "A spoon that is there.", _right("spoon", 3, "yes")),
    _Wish("caption", "A true caption in reading order.", _right("caption", 3)),
    _Wish(
        "hallucination",
        "The caption names a spoon that is not in the picture: in training, captions with a cup "
        "often did. Asked directly, the model denies the spoon.",
        _lies,
        hallucination=True,
    ),
)


def _entry(wish: _Wish, scene: Scene, question: Question, given: str) -> dict[str, Any]:
    patches = [
        np.flatnonzero(scene.coverage[index] >= COVERED).tolist() for index in question.depends_on
    ]
    return {
        "name": wish.name,
        "image": f"{wish.name}.png",
        "prompt": question.prompt,
        "answer": question.answer,
        "model_answer": given,
        "kind": question.kind,
        "depends_on": patches,
        "objects": [
            {"name": item.name, "size": item.size, "centre": list(item.centre)}
            for item in scene.objects
        ],
        "hallucination": wish.hallucination,
        "note": wish.note,
    }


def build_samples(model_folder: Path, out: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Write PNG files and ``samples.json``.

    Parameters
    ----------
    model_folder : Path
    out : Path
        Created when missing; files of the same names are replaced.
    seed : int

    Returns
    -------
    list of dict
        The entries of ``samples.json``.

    Raises
    ------
    ValueError
        If no scene of the pool fits one of the wishes (a badly trained model).
    """
    model, processor = load(model_folder)
    rng = np.random.default_rng([seed, SAMPLE_STREAM])
    scenes = [draw_scene(rng) for _ in range(POOL)]
    asked = [(scene, question) for scene in scenes for question in scene.questions()]
    answers = answer_all(model, processor, [(s, q.prompt) for s, q in asked])
    spoon_right = {
        id(scene): given == question.answer
        for (scene, question), given in zip(asked, answers, strict=True)
        if question.kind == "spoon"
    }
    out.mkdir(parents=True, exist_ok=True)
    used: set[int] = set()
    entries = []
    for wish in WISHES:
        for (scene, question), given in zip(asked, answers, strict=True):
            free = id(scene) not in used and spoon_right[id(scene)]
            if free and wish.fits(scene, question, given):
                used.add(id(scene))
                scene.image.save(out / f"{wish.name}.png")
                entries.append(_entry(wish, scene, question, given))
                break
        else:
            raise ValueError(
                f"none of {POOL} scenes of seed {seed} gives the sample {wish.name!r} with the "
                f"model in {model_folder}; try another seed or train longer"
            )
    (out / "samples.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return entries


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of ``python -m causal_lvlm.tiny.samples``."""
    parser = argparse.ArgumentParser(description="Make the bundled sample inputs.")
    parser.add_argument("--model", type=Path, help="model folder (default: the bundled weights)")
    parser.add_argument("--out", type=Path, default=samples_path())
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for entry in build_samples(chosen.model or weights_path(), chosen.out, seed=chosen.seed):
        print(f"{entry['image']}: {entry['prompt']} -> {entry['model_answer']}")


if __name__ == "__main__":
    main()
