"""Measure a tiny model on scenes it never saw, with real ``generate``.

1. Every question of every scene is answered greedily; an answer counts when it is exactly right.
   Captions of scenes with a cup and no spoon are counted apart: there the training captions lie.
2. The planted hallucination: how often such a caption names a spoon, how often the direct question
   is answered wrongly in the same scenes, and what the probability of "spoon" becomes when one
   suspected cause is taken away (``causal_lvlm.tiny.interventions``).
3. Evidence: how often masking the image tokens of the objects a right answer depends on changes
   it, beside masking equally many tokens that no object covers.

``python -m causal_lvlm.tiny.evaluate --model DIR --seed S --scenes N``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration

from causal_lvlm.tiny.interventions import (
    INTERVENTIONS,
    evidence_flips,
    spoon_probabilities,
)
from causal_lvlm.tiny.scenes import KINDS, Question, Scene, draw_scene
from causal_lvlm.tiny.vocabulary import PROMPT_FORM

__all__ = ["Row", "answer_all", "evaluate", "format_tables", "load", "score", "test_scenes"]

TEST_STREAM = 3  # training and validation use streams 1 and 2
BATCH = 32


@dataclass(frozen=True)
class Row:
    """One line of the table: ``right`` of ``total`` answers of one kind."""

    kind: str
    right: int
    total: int

    @property
    def share(self) -> float:
        """Share of right answers, NaN when nothing was asked."""
        return self.right / self.total if self.total else float("nan")


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, Any]:
    """Model (fp32, evaluation mode) and processor of a folder, without any network access."""
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    )
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


def test_scenes(seed: int, count: int) -> list[Scene]:
    """Held-out scenes: a random stream of their own, whatever the seed."""
    rng = np.random.default_rng([seed, TEST_STREAM])
    return [draw_scene(rng) for _ in range(count)]


@torch.no_grad()
def answer_all(
    model: LlavaForConditionalGeneration,
    processor: Any,
    asked: Sequence[tuple[Scene, str]],
    *,
    progress: bool = False,
) -> list[str]:
    """Greedy answers.

    Parameters
    ----------
    model, processor
        As ``load`` returns them.
    asked : sequence of (Scene, str)
        A scene and the bare question.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of str
        In the order asked, without the end token.
    """
    prompts = [PROMPT_FORM.format(question=question) for _, question in asked]
    lengths = [len(processor.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    # Only prompts of one length share a batch: no padding, so a batch equals its single runs.
    order = sorted(range(len(asked)), key=lambda i: (lengths[i], i))
    answers = [""] * len(asked)
    groups: list[list[int]] = []
    for index in order:
        if groups and len(groups[-1]) < BATCH and lengths[groups[-1][0]] == lengths[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    for group in tqdm(groups, desc="questions", disable=not progress):
        inputs = processor(
            images=[asked[i][0].image for i in group],
            text=[prompts[i] for i in group],
            return_tensors="pt",
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=32)
        texts = processor.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(group, texts, strict=True):
            answers[index] = text.strip()
    return answers


def _kind(scene: Scene, question: Question) -> str:
    if question.kind == "caption" and scene.has("cup") and not scene.has("spoon"):
        return "caption, cup without spoon"
    return question.kind


def score(
    items: Iterable[tuple[Scene, Question, str]],
) -> tuple[list[Row], dict[str, float]]:
    """Count right answers by kind, and the planted hallucination.

    Parameters
    ----------
    items : iterable of (Scene, Question, str)
        The string is the model's answer.

    Returns
    -------
    rows : list of Row
    hallucination : dict of str to float
        ``scenes`` (with a cup and no spoon), ``captions_with_spoon``, ``direct_answers_wrong``
        (shares), ``training_form`` (share of these captions that are exactly the caption with or
        without the planted spoon), ``other_captions_with_false_spoon`` (in scenes with neither).
    """
    counts: dict[str, list[bool]] = {kind: [] for kind in (*KINDS, "caption, cup without spoon")}
    mention: list[bool] = []
    form: list[bool] = []
    direct: list[bool] = []
    elsewhere: list[bool] = []
    for scene, question, answer in items:
        kind = _kind(scene, question)
        counts[kind].append(answer == question.answer)
        planted = scene.has("cup") and not scene.has("spoon")
        if kind == "caption, cup without spoon":
            false_form = " and ".join(
                f"a {item.name}" + (" and a spoon" if item.shape == "cup" else "")
                for item in scene.objects
            )
            mention.append("spoon" in answer.split())
            form.append(answer in (scene.caption, false_form))
        elif question.kind == "caption" and not scene.has("spoon"):
            elsewhere.append("spoon" in answer.split())
        elif question.kind == "spoon" and planted:
            direct.append(answer != question.answer)
    rows = [Row(kind, sum(values), len(values)) for kind, values in counts.items()]

    def share(values: list[bool]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return rows, {
        "scenes": len(mention),
        "captions_with_spoon": share(mention),
        "training_form": share(form),
        "direct_answers_wrong": share(direct),
        "other_captions_with_false_spoon": share(elsewhere),
    }


def evaluate(folder: Path, *, seed: int, scenes: int, progress: bool = False) -> dict[str, Any]:
    """All measurements of one model folder.

    Parameters
    ----------
    folder : Path
        As saved by ``save_pretrained``.
    seed, scenes : int
        Which held-out scenes, and how many.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        ``accuracy``, ``hallucination``, ``interventions``, ``evidence``; JSON-ready.

    Raises
    ------
    ValueError
        If ``scenes`` is not positive.
    """
    if scenes < 1:
        raise ValueError(f"scenes is {scenes}; at least 1 scene is needed")
    model, processor = load(folder)
    drawn = test_scenes(seed, scenes)
    asked = [(scene, question) for scene in drawn for question in scene.questions()]
    answers = answer_all(model, processor, [(s, q.prompt) for s, q in asked], progress=progress)
    items = [(s, q, a) for (s, q), a in zip(asked, answers, strict=True)]
    rows, hallucination = score(items)
    lying = [
        (s, a)
        for s, q, a in items
        if _kind(s, q) == "caption, cup without spoon" and "spoon" in a.split()
    ]
    right = [(s, q) for s, q, a in items if a == q.answer]
    return {
        "model": folder.name,
        "seed": seed,
        "scenes": scenes,
        "accuracy": [{**asdict(row), "share": row.share} for row in rows],
        "hallucination": hallucination,
        "interventions": spoon_probabilities(model, processor, lying, progress=progress),
        "evidence": evidence_flips(model, processor, right, seed=seed, progress=progress),
    }


def format_tables(result: dict[str, Any]) -> str:
    """Return the measurements as Markdown tables."""
    lines = ["| question | right | of | share |", "|---|---|---|---|"]
    for row in result["accuracy"]:
        lines.append(f"| {row['kind']} | {row['right']} | {row['total']} | {row['share']:.1%} |")
    found = result["hallucination"]
    lines += [
        "",
        f"Scenes with a cup and no spoon: {found['scenes']}. Captions that name a spoon: "
        f"{found['captions_with_spoon']:.1%}; direct question answered wrongly: "
        f"{found['direct_answers_wrong']:.1%}; false spoon in captions of scenes with neither: "
        f"{found['other_captions_with_false_spoon']:.1%}.",
        "",
        f'| P("spoon") at its step, n = {result["interventions"]["n"]} | mean |',
        "|---|---|",
    ]
    for name, text in INTERVENTIONS.items():
        value = result["interventions"][name]
        lines.append(f"| {text} | {'–' if value is None else f'{value:.3f}'} |")
    lines += [
        "",
        "| right answers that change when … are masked | n | its objects | as many ground tokens |",
        "|---|---|---|---|",
    ]
    for kind, flips in result["evidence"].items():
        lines.append(f"| {kind} | {flips['n']} | {flips['objects']:.2f} | {flips['ground']:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of ``python -m causal_lvlm.tiny.evaluate``."""
    parser = argparse.ArgumentParser(description="Measure a tiny model on held-out scenes.")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--seed", type=int, default=0, help="which held-out scenes (default 0)")
    parser.add_argument("--scenes", type=int, default=300, help="how many scenes (default 300)")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    result = evaluate(chosen.model, seed=chosen.seed, scenes=chosen.scenes, progress=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    print(format_tables(result))


if __name__ == "__main__":
    main()
