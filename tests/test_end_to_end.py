"""First light: image + prompt in, a verified explanation out, on the embedded model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.errors import DetachedTraceError, TargetError
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tiny.scenes import draw_scene
from causal_lvlm.tokens import candidate_units, resolve_target


@pytest.fixture(scope="module")
def model(embedded_model):
    return embedded_model


@pytest.fixture(scope="module")
def colour(model):
    sample = next(s for s in sample_inputs() if s.kind == "colour")
    return sample, model.run(sample.image_path, sample.prompt)


def test_every_bundled_sample_is_answered_as_recorded(model):
    for sample in sample_inputs():
        trace = model.run(sample.image_path, sample.prompt)
        assert trace.answer == sample.model_answer
        assert trace.self_check.passed
    assert sum(s.hallucination for s in sample_inputs()) >= 1


def test_masking_the_explaining_set_really_changes_the_answer(model, colour):
    _, trace = colour
    explanation = cl.explain(trace, trace.answer)
    for name, one in explanation.sets.items():
        assert one.verified, name
        keep = np.ones((1, len(trace.layout)), dtype=bool)
        keep[0, list(one.positions)] = False
        for backend in ("drop", "block"):
            again = trace.evaluate(keep, explanation.target, backend=backend)
            assert trace.token_text(again.argmax[0, 0]) == one.predicted_after[0] != trace.answer
            assert np.exp(again.log_prob[0]) == pytest.approx(one.probability_after, abs=1e-4)


def test_the_image_set_of_a_colour_lies_on_the_object_asked_about(colour):
    sample, trace = colour
    explanation = cl.explain(trace, trace.answer, candidates="image")
    patches = {int(trace.layout.grids[0].positions[p]) for p in sample.depends_on[0]}
    assert set(explanation.positions) & patches


@pytest.mark.parametrize("kind", ["colour", "shape", "existence", "count"])
def test_a_minimum_equals_what_trying_every_subset_finds(model, kind):
    rng = np.random.default_rng([5, 901])
    while True:
        scene = draw_scene(rng)
        question = next((q for q in scene.questions() if q.kind == kind), None)
        if question is None:
            continue
        trace = model.run(scene.image, question.prompt)
        explanation = cl.explain(trace, 0, pool=2)
        if explanation.outcome != "not_maskable":
            break
    truth = cl.exhaustive_explanation(trace, 0, pool=2, max_size=min(explanation.main.size, 3))
    if explanation.minimality == "minimum":
        assert explanation.main.size == truth.size
        assert explanation.positions in truth.sets
    else:
        assert truth.size is None or truth.size <= explanation.main.size


@pytest.mark.parametrize(
    "options",
    [
        {"source": "output"},
        {"layer": "effective"},
        {"layer": 0},
        {"source": "relevancy"},
        {"row": "own"},
        {"sink": "drop"},
        {"sink": "condition"},
        {"tiers": "image-block"},
        {"top_k": 20},
        {"n_samples": 32, "alpha": 0.01},
        {"algorithm": "icd"},
        {"variant": "sequential"},
        {"heads": [1, 3]},
        {"mode": "sufficient"},
        {"tester": "drop"},
        {"tester": "contrast"},
        {"masking": "edges"},
        {"masking": "neutral"},
        {"masking": "pixels-mean", "max_runs": 120},
        {"masking": "pixels-blur", "max_runs": 120},
        {"backend": "drop"},
        {"backend": "block"},
    ],
)
def test_every_option_gives_an_honest_result(colour, options):
    _, trace = colour
    explanation = cl.explain(trace, 0, **{"max_runs": 200, **options})
    assert explanation.model_runs <= 200
    for one in explanation.sets.values():
        assert one.verified == (one.outcome == "explained") == bool(one.positions)
        assert one.minimality == "none" or one.verified
    assert explanation.masking == options.get("masking", "remove")


def test_the_frame_is_never_in_a_set(model):
    rng = np.random.default_rng([6, 901])
    for _ in range(3):
        scene = draw_scene(rng)
        trace = model.run(scene.image, "describe the image.")
        explanation = cl.explain(trace, -2, max_runs=150)
        units = candidate_units(trace.layout, resolve_target(trace.layout, -2))
        allowed = {p for m in units.members for p in m}
        assert all(set(s.positions) <= allowed for s in explanation.sets.values())


def test_a_saved_explanation_opens_without_a_model(colour, tmp_path):
    _, trace = colour
    explanation = cl.explain(trace, 0, max_runs=100)
    loaded = cl.Explanation.load(explanation.save(tmp_path / "e.json"))
    assert loaded.sentence() == explanation.sentence() and loaded.sets == explanation.sets
    value = json.loads((tmp_path / "e.json").read_text())
    for key in ("model_id", "versions", "parameters", "seed", "masking", "model_runs"):
        assert key in value
    detached = cl.Trace.from_dict(value["trace"])
    assert detached.answer == trace.answer and detached.layout.tokens == trace.layout.tokens
    with pytest.raises(DetachedTraceError):
        cl.explain(detached, 0)


def test_a_report_is_one_file_without_links_to_the_network(colour, tmp_path):
    _, trace = colour
    explanation = cl.explain(trace, 0, max_runs=100)
    path = cl.report(trace, [explanation], tmp_path / "r.html")
    page = path.read_text(encoding="utf-8")
    assert trace.answer in page and "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_a_word_that_was_not_said_is_refused(colour):
    _, trace = colour
    with pytest.raises(TargetError, match=trace.answer):
        cl.explain(trace, "zebra")
