"""The embedded model: a tiny, real LLaVA, and the scenes whose ground truth is known.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample", "sample_inputs", "samples_path", "weights_path"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sample:
    """A bundled picture with a question.

    Attributes
    ----------
    name : str
        Short name, the stem of the picture's file.
    image_path : Path
        A PNG of 96 x 96 pixels.
    prompt : str
        The bare question.
    answer : str
        The true answer.
    model_answer : str
        What the bundled weights answered when the sample was made.
    kind : str
        Kind of question, see ``causal_lvlm.tiny.scenes.KINDS``.
    depends_on : tuple of tuple of int
        For every object that the answer depends on, the patches (0..63, row by row) of which it
        covers at least 0.12.
    hallucination : bool
        Whether the model's answer names something that is not there.
    note : str
        What there is to see.
    """

    name: str
    image_path: Path
    prompt: str
    answer: str
    model_answer: str
    kind: str
    depends_on: tuple[tuple[int, ...], ...]
    hallucination: bool
    note: str


def weights_path() -> Path:
    """Folder of the bundled model, for plain ``from_pretrained``.

    Raises
    ------
    FileNotFoundError
        If this installation has no weights; the message says how to make them.
    """
    folder = _HERE / "weights"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no weights in {folder}; train them with "
            "`python -m causal_lvlm.tiny.train --out DIR` and copy DIR/model there"
        )
    return folder


def samples_path() -> Path:
    """Folder of the bundled pictures."""
    return _HERE / "samples"


def sample_inputs() -> list[Sample]:
    """Return the bundled pictures and questions, one of them a hallucination.

    Returns
    -------
    list of Sample

    Raises
    ------
    FileNotFoundError
        If this installation has no samples.
    """
    index = samples_path() / "samples.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"no sample inputs in {index.parent}; make them with "
            "`python -m causal_lvlm.tiny.samples`"
        )
    return [
        Sample(
            name=entry["name"],
            image_path=index.parent / entry["image"],
            prompt=entry["prompt"],
            answer=entry["answer"],
            model_answer=entry["model_answer"],
            kind=entry["kind"],
            depends_on=tuple(tuple(patches) for patches in entry["depends_on"]),
            hallucination=bool(entry["hallucination"]),
            note=entry["note"],
        )
        for entry in json.loads(index.read_text(encoding="utf-8"))
    ]
