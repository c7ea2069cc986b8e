"""Take one suspected cause away and look again: what the planted hallucination really rests on.

Image tokens are taken away by hiding their keys from every other position, with the rotary
positions of all tokens kept, so nothing else moves. Words are replaced in the text that is fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from causal_lvlm.tiny.data import COVERED
from causal_lvlm.tiny.scenes import Question, Scene
from causal_lvlm.tiny.vocabulary import IMAGE, INDEX, PROMPT_FORM, encode_words

__all__ = ["INTERVENTIONS", "evidence_flips", "next_token_probabilities", "spoon_probabilities"]

INTERVENTIONS = {
    "as_is": "as is",
    "word_replaced": 'the word "cup" in its own caption replaced by "ring"',
    "word_masked": 'the word "cup" in its own caption masked',
    "patches_masked": "the image tokens of the cup masked, word kept",
    "pixels_replaced": "the pixels of the cup replaced by ground, word kept",
    "both": 'image tokens masked and word replaced by "ring"',
}
CAPTION = PROMPT_FORM.format(question="describe the image.")
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@torch.no_grad()
def next_token_probabilities(
    model: LlavaForConditionalGeneration,
    processor: Any,
    image: Image.Image,
    prompt: str,
    written: Sequence[int],
    hidden: Sequence[int] = (),
) -> FloatArray:
    """Distribution of the token after ``prompt`` and the tokens ``written`` so far.

    Parameters
    ----------
    model, processor
        As ``causal_lvlm.tiny.evaluate.load`` returns them.
    image : PIL image
    prompt : str
    written : sequence of int
        Token numbers that follow the prompt.
    hidden : sequence of int
        Positions in the whole sequence that no later position may attend to.

    Returns
    -------
    ndarray of float64, shape (vocabulary,)
    """
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    ids = torch.cat([inputs["input_ids"], torch.tensor([list(written)], dtype=torch.long)], dim=1)
    mask = torch.ones_like(ids)
    mask[0, list(hidden)] = 0
    logits = model(
        input_ids=ids,
        pixel_values=inputs["pixel_values"],
        attention_mask=mask,
        position_ids=torch.arange(ids.shape[1])[None],
        logits_to_keep=1,
    ).logits[0, -1]
    probabilities: FloatArray = torch.softmax(logits.double(), dim=-1).numpy()
    return probabilities


def _image_start(processor: Any, prompt: str) -> int:
    """Position of the first image token."""
    ids = processor.tokenizer(prompt)["input_ids"]
    return int(ids.index(INDEX[IMAGE]))


def _without_pixels(scene: Scene, index: int) -> Image.Image:
    """Paint one object over with pixels drawn from the ground."""
    pixels = scene.pixels.copy()
    covered = np.any([item.mask for item in scene.objects], axis=0)
    ground = pixels[~covered]
    mask = scene.objects[index].mask
    pixels[mask] = ground[np.random.default_rng(0).integers(len(ground), size=int(mask.sum()))]
    return Image.fromarray(pixels)


def spoon_probabilities(
    model: LlavaForConditionalGeneration,
    processor: Any,
    lying: Sequence[tuple[Scene, str]],
    *,
    progress: bool = False,
) -> dict[str, float | int | None]:
    """Mean probability of "spoon" at its step under each of ``INTERVENTIONS``.

    Parameters
    ----------
    lying : sequence of (Scene, str)
        Scenes with a cup and no spoon, and the caption with a spoon that the model wrote.

    Returns
    -------
    dict
        By intervention; None for all when ``lying`` is empty; ``n`` is the number of captions used
        (those that name the cup before the spoon).
    """
    spoon, cup, ring = INDEX["spoon"], INDEX["cup"], INDEX["ring"]
    start = _image_start(processor, CAPTION)
    values: dict[str, list[float]] = {name: [] for name in INTERVENTIONS}
    for scene, caption in tqdm(lying, desc="interventions", disable=not progress):
        words = encode_words(caption)
        written = words[: words.index(spoon)]
        if cup not in written:
            continue
        where = written.index(cup)
        index = next(i for i, item in enumerate(scene.objects) if item.shape == "cup")
        patches = [start + int(p) for p in np.flatnonzero(scene.coverage[index] > 0)]
        swapped = [ring if token == cup else token for token in written]
        prompt_length = len(processor.tokenizer(CAPTION)["input_ids"]) + 63

        def probability(
            text: Sequence[int],
            hidden: Sequence[int] = (),
            picture: Image.Image = scene.image,
        ) -> float:
            found = next_token_probabilities(model, processor, picture, CAPTION, text, hidden)
            return float(found[spoon])

        values["as_is"].append(probability(written))
        values["word_replaced"].append(probability(swapped))
        values["word_masked"].append(probability(written, [prompt_length + where]))
        values["patches_masked"].append(probability(written, patches))
        values["pixels_replaced"].append(
            probability(written, picture=_without_pixels(scene, index))
        )
        values["both"].append(probability(swapped, patches))
    count = len(values["as_is"])
    means = {name: float(np.mean(v)) if v else None for name, v in values.items()}
    return {**means, "n": count}


def _still_right(
    model: LlavaForConditionalGeneration,
    processor: Any,
    scene: Scene,
    question: Question,
    patches: IntArray,
) -> bool:
    """Whether a one-word question is answered rightly with these patches' tokens hidden."""
    prompt = PROMPT_FORM.format(question=question.prompt)
    start = _image_start(processor, prompt)
    hidden = [start + int(patch) for patch in patches]
    found = next_token_probabilities(model, processor, scene.image, prompt, (), hidden)
    return int(found.argmax()) == encode_words(question.answer)[0]


def evidence_flips(
    model: LlavaForConditionalGeneration,
    processor: Any,
    right: Sequence[tuple[Scene, Question]],
    *,
    seed: int,
    limit: int = 100,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """How often masking the evidence changes a right one-word answer.

    Parameters
    ----------
    right : sequence of (Scene, Question)
        Questions that the model answers rightly; those without evidence and captions are skipped.
    seed : int
        Of the choice of ground tokens.
    limit : int
        Questions per kind at most.

    Returns
    -------
    dict of str to dict
        By kind: ``n``, and the shares of changed answers ``objects`` (image tokens covered at
        least 0.12 by the objects) and ``ground`` (as many tokens that no object touches).
    """
    rng = np.random.default_rng(seed)
    flips: dict[str, list[tuple[bool, bool]]] = {}
    for scene, question in tqdm(right, desc="evidence", disable=not progress):
        found = flips.setdefault(question.kind, [])
        if question.kind == "caption" or not question.depends_on or len(found) >= limit:
            continue
        covered = scene.coverage[list(question.depends_on)].max(axis=0)
        evidence = np.flatnonzero(covered >= COVERED)
        free = np.flatnonzero(scene.coverage.max(axis=0) == 0)
        if len(free) < len(evidence):
            continue
        ground = rng.choice(free, size=len(evidence), replace=False)

        def ask(tokens: IntArray, scene: Scene = scene, question: Question = question) -> bool:
            return not _still_right(model, processor, scene, question, tokens)

        found.append((ask(evidence), ask(ground)))
    return {
        kind: {
            "n": len(pairs),
            "objects": float(np.mean([a for a, _ in pairs])),
            "ground": float(np.mean([b for _, b in pairs])),
        }
        for kind, pairs in flips.items()
        if pairs
    }
