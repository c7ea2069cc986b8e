"""Logit lens and TAM against the published algorithm, written out slowly, and the model's head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from causal_lvlm.attribution.lens import rank_gaussian
from causal_lvlm.errors import AttentionError
from causal_lvlm.methods import attribute
from causal_lvlm.tokens import ImageGrid, TokenLayout
from tests.explanation.fakes import FakeModel


@dataclass
class LensTrace:
    """Logits of every token at every position are a table; repeated words are wanted."""

    grids: tuple = ((2, 3), (3, 2))
    seed: int = 0
    asked: list = field(default_factory=list)
    model_id: str = "fake"
    model = FakeModel()
    revision: str | None = None

    def __post_init__(self):
        self.texts = ["<s>"]
        grids = []
        for number, (rows, cols) in enumerate(self.grids):
            start = len(self.texts)
            self.texts += ["<image>"] * rows * cols
            boxes = np.zeros((rows * cols, 4))
            positions = np.arange(start, len(self.texts))
            grids.append(ImageGrid(number, 0, rows, cols, positions, boxes, (9, 9)))
        words = ["is", "it", "red", "or", ":", "red", "cup", "red"]
        n_image = len(self.texts) - 1
        self.texts += words
        modality = ["special", *["image"] * n_image, *["prompt"] * 4, "special", *["generated"] * 3]
        names = sorted(set(self.texts))
        ids = [names.index(t) for t in self.texts]
        self.layout = TokenLayout(
            tuple(self.texts), np.array(ids), np.array(modality), tuple(grids),
            np.arange(len(ids)), len(ids) - 3,
        )  # fmt: skip
        self.table = np.random.default_rng(self.seed).normal(0.5, 1, (len(ids), len(names)))

    def lens(self, positions, token_ids, layer=-1):
        self.asked.append(layer)
        return self.table[np.ix_(positions, token_ids)]

    def token_id(self, text):
        return text


def slow_filter(picture):
    out = np.zeros_like(picture)
    padded = np.pad(picture, 1, mode="reflect")
    for i in range(picture.shape[0]):
        for j in range(picture.shape[1]):
            window = sorted(padded[i : i + 3, j : j + 3].ravel())
            mean = np.mean(window)
            if mean > 0:
                cov = np.std(window) / mean
                kernel = [np.exp(-((r - 4) ** 2) / (2 * cov**2)) for r in range(9)]
                out[i, j] = sum(k * w for k, w in zip(kernel, window, strict=True)) / sum(kernel)
    return out


def slow_tam(trace, position):
    """The published steps for one generated token, one number at a time."""
    layout, table = trace.layout, np.maximum(trace.table, 0)
    image = [p for p in range(len(layout)) if layout.modality[p] == "image"]
    prompt = [p for p in range(len(layout)) if layout.modality[p] == "prompt"]
    y = layout.token_ids[position]
    a = np.array([table[n, y] for n in image])
    text, read_at = list(prompt), list(prompt)
    for p in range(layout.n_prompt, position):
        text.append(p)
        read_at.append(p - 1)
    activations = [table[r, y] for r in read_at]
    kept = [i for i, p in enumerate(text) if layout.tokens[p] != layout.tokens[position]]
    total = sum(activations[i] for i in kept) + 1e-8
    b = np.zeros(len(image))
    for i in kept:
        own = np.array([table[n, layout.token_ids[text[i]]] for n in image])
        b += activations[i] / total * own
    kappa = np.linalg.lstsq(b[:, None], a, rcond=None)[0][0]
    a = np.maximum(a - kappa * b, 0)
    both = np.array([*a, *activations])
    both = (both - both.min()) / (both.max() - both.min())
    values = np.zeros(len(layout))
    for p, v in zip([*image, *text], both, strict=True):
        values[p] = v
    for grid in layout.grids:
        picture = values[grid.positions].reshape(grid.rows, grid.cols)
        values[grid.positions] = slow_filter(picture).ravel()
    return values


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tam_is_the_published_algorithm_with_two_images_and_repeated_words(index, seed):
    trace = LensTrace(seed=seed)
    result = attribute(trace, index, "tam")
    expected = slow_tam(trace, trace.layout.n_prompt + index)
    np.testing.assert_allclose(result.scores, expected, atol=1e-12)
    assert result.model_runs == len(trace.asked) == 1


def test_a_phrase_is_the_mean_of_its_tokens_without_the_phrase_itself():
    trace = LensTrace()
    result = attribute(trace, slice(1, 3), "tam")
    start = trace.layout.n_prompt + 1
    expected = (slow_tam(trace, start) + slow_tam(trace, start + 1)) / 2
    expected[start:] = 0
    np.testing.assert_allclose(result.scores, expected, atol=1e-12)


def test_a_map_that_is_all_context_vanishes():
    trace = LensTrace()
    image = trace.layout.positions("image")
    target = trace.layout.token_ids[-2]  # "cup"
    for p in trace.layout.positions("prompt", "generated"):
        other = trace.layout.token_ids[p]
        if other != target:
            trace.table[image, other] = np.arange(1.0, len(image) + 1)
    trace.table[image, target] = 3 * np.arange(1.0, len(image) + 1)
    trace.table[trace.layout.n_prompt - 5 :, target] = 1.0
    result = attribute(trace, "cup", "tam")
    assert result.parameters["kappa"][0] == pytest.approx(3, abs=1e-6)
    assert np.abs(result.scores[image]).max() < 1e-6
    plain = attribute(trace, "cup", "tam", interference=False)
    assert plain.scores[image].max() > 0.5


def test_the_filter_takes_single_spikes_away_and_keeps_what_is_flat():
    spike = np.zeros((7, 7))
    spike[3, 3] = 1.0
    assert rank_gaussian(spike).max() < 0.5
    assert rank_gaussian(np.full((4, 5), 0.7)) == pytest.approx(0.7)
    assert rank_gaussian(np.zeros((3, 3))).max() == 0
    assert rank_gaussian(np.array([[0.2, 0.5, 0.1]])).shape == (1, 3)


def test_the_lens_is_the_logit_at_each_position_and_a_contrast_subtracts():
    trace = LensTrace()
    y, other = trace.layout.token_ids[[-2, 1]]
    start = trace.layout.n_prompt + 1
    result = attribute(trace, "cup", "logit_lens", layer=1)
    np.testing.assert_allclose(result.scores[:start], trace.table[:start, y])
    assert trace.asked == [1] and not result.scores[start:].any()
    contrast = attribute(trace, "cup", "lens", against=int(other))
    expected = trace.table[:start, y] - trace.table[:start, other]
    np.testing.assert_allclose(contrast.scores[:start], expected)


def test_a_logit_that_is_not_finite_is_a_typed_error():
    trace = LensTrace()
    trace.table[3] = np.nan
    with pytest.raises(AttentionError, match="logits read after layer -1"):
        attribute(trace, "cup", "tam")


def test_text_alone_is_scored_with_a_note():
    trace = LensTrace(grids=())
    result = attribute(trace, "cup", "tam")
    assert result.notes and result.scores.max() == 1


def test_the_embedded_models_lens_at_the_predicting_row_is_its_own_logit(embedded_model):
    from causal_lvlm.tiny import sample_inputs

    sample = sample_inputs()[0]
    trace = embedded_model.run(sample.image_path, sample.prompt)
    target = trace.target(0)
    lens = attribute(trace, 0, "logit_lens")
    assert lens.scores[target.predictor] == pytest.approx(trace.backward(target).score, abs=1e-3)
    image = attribute(trace, 0, "tam").image_map(trace.layout)
    assert image.shape == (8, 8) and image.min() >= 0 and image.max() <= 1
