"""What the package ships: weights, card and sample inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from causal_lvlm.tiny import Sample, sample_inputs, samples_path, weights_path
from causal_lvlm.tiny.evaluate import answer_all, load, score, test_scenes
from causal_lvlm.tiny.scenes import KINDS
from causal_lvlm.tiny.vocabulary import PROMPT_FORM

test_scenes.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundled():
    return load(weights_path())


def test_the_folder_is_small_and_has_a_card() -> None:
    files = list(weights_path().iterdir())
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    names = {path.name for path in files}
    assert {"README.md", "learning_curve.png", "evaluation.json", "config.json"} <= names
    card = (weights_path() / "README.md").read_text(encoding="utf-8")
    measured = json.loads((weights_path() / "evaluation.json").read_text(encoding="utf-8"))
    for row in measured["accuracy"]:
        assert f"| {row['kind']} | {row['right']} | {row['total']} | {row['share']:.1%} |" in card


def test_the_goals_are_met_in_the_measured_table() -> None:
    measured = json.loads((weights_path() / "evaluation.json").read_text(encoding="utf-8"))
    share = {row["kind"]: row["share"] for row in measured["accuracy"]}
    assert measured["scenes"] >= 300
    assert min(share[kind] for kind in KINDS if kind != "caption") >= 0.97
    assert share["caption"] >= 0.95


def test_accuracy_on_a_few_fresh_scenes(bundled) -> None:
    """An independent small sample: far below the goals would mean a wrong or broken file."""
    model, processor = bundled
    asked = [(scene, q) for scene in test_scenes(987, 20) for q in scene.questions()]
    answers = answer_all(model, processor, [(s, q.prompt) for s, q in asked])
    rows, _ = score((s, q, a) for (s, q), a in zip(asked, answers, strict=True))
    for row in rows:
        if row.kind in KINDS:
            assert row.share >= 0.9, row


def test_samples(bundled) -> None:
    model, processor = bundled
    samples = sample_inputs()
    assert len(samples) >= 6
    assert sum(sample.hallucination for sample in samples) == 1
    assert {path.name for path in samples_path().glob("*.png")} == {
        sample.image_path.name for sample in samples
    }
    for sample in samples:
        with Image.open(sample.image_path) as picture:
            assert picture.size == (96, 96)
            answer = _answer(model, processor, picture.convert("RGB"), sample.prompt)
        assert answer == sample.model_answer
        assert (sample.answer == sample.model_answer) != sample.hallucination
        for patches in sample.depends_on:
            assert patches
            assert all(0 <= patch < 64 for patch in patches)


def test_the_hallucination_is_only_in_the_caption(bundled) -> None:
    model, processor = bundled
    sample = next(sample for sample in sample_inputs() if sample.hallucination)
    assert isinstance(sample, Sample)
    assert "spoon" in sample.model_answer.split()
    assert "spoon" not in sample.answer.split()
    with Image.open(sample.image_path) as picture:
        assert _answer(model, processor, picture.convert("RGB"), "is there a spoon?") == "no"


def _answer(model, processor, picture: Image.Image, question: str) -> str:
    text = PROMPT_FORM.format(question=question)
    inputs = processor(images=picture, text=text, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=32)
    new = np.asarray(out[0, inputs["input_ids"].shape[1] :])
    return str(processor.decode(new, skip_special_tokens=True)).strip()
