"""Gradients of embeddings: closed forms, captum, completeness, contrast."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from causal_lvlm.attribution.embeddings import contrastive_integrated_gradients
from causal_lvlm.lvlm import Trace
from causal_lvlm.methods import attribute
from causal_lvlm.tokens import Target, TokenLayout
from tests.attribution.conftest import make_layout
from tests.attribution.traces import ALL, WINDOW_REACH, embedded, score_of, windowed
from tests.explanation.fakes import FakeModel

METHODS = ("input_x_gradient", "integrated_gradients", "contrastive_integrated_gradients")


@dataclass
class Bilinear:
    """A model whose score is Σ_t w·e_t + (u·e_3)(v·e_9) + (u·e_0)(v·e_4): its path integral is
    known, for xy it is (x - x')(y + y')/2."""

    layout: TokenLayout
    end: np.ndarray
    start: np.ndarray
    w: np.ndarray
    u: np.ndarray
    v: np.ndarray
    rows: int = 0
    batches: list[Any] | None = None
    model_id: str = "bilinear"
    model = FakeModel()
    revision: str | None = None

    def embeddings(self) -> np.ndarray:
        return self.end.astype(np.float32)

    def baseline_embeddings(self, kind: str = "zero", *, frame: bool = False) -> np.ndarray:
        found = self.start.copy()
        if not frame:
            special = self.layout.modality == "special"
            found[special] = self.end[special]
        return found.astype(np.float32)

    def score(self, e: np.ndarray) -> float:
        pairs = (e[3] @ self.u) * (e[9] @ self.v) + (e[0] @ self.u) * (e[4] @ self.v)
        return float((e @ self.w).sum() + pairs)

    def gradient(self, e: np.ndarray) -> np.ndarray:
        found = np.tile(self.w, (len(e), 1))
        for a, b in ((3, 9), (0, 4)):
            found[a] += self.u * (e[b] @ self.v)
            found[b] += self.v * (e[a] @ self.u)
        return found

    def embedding_gradient(self, rows, target, *, score, against, n_rows, batch_size):
        self.batches = [*(self.batches or []), batch_size]
        self.rows += n_rows
        each = [rows(k).astype(np.float64) for k in range(n_rows)]
        return np.array([self.score(e) for e in each]), np.stack([self.gradient(e) for e in each])


class Unchecked(Trace):
    """A trace that differentiates tokens which the answer did not say, too."""

    def target(self, target):
        return target


@pytest.fixture
def bilinear():
    rng = np.random.default_rng(3)
    layout = make_layout()
    end, start = rng.normal(size=(2, len(layout), 5))
    return Bilinear(layout, end, start, *rng.normal(size=(3, 5)))


@pytest.mark.parametrize("n_steps", [1, 3, 20])
@pytest.mark.parametrize("frame", [False, True])
def test_path_integral_of_a_bilinear_score_is_exact_for_any_number_of_steps(
    bilinear, n_steps, frame
):
    result = attribute(bilinear, "red", "ig", n_steps=n_steps, frame=frame, batch_size=2)
    end, start = bilinear.end, bilinear.baseline_embeddings(frame=frame).astype(float)
    start[13:] = end[13:]
    expected = (end - start) @ bilinear.w
    for a, b in ((3, 9), (0, 4)):
        (xa, xb), (ya, yb) = [(s[a] @ bilinear.u, s[b] @ bilinear.v) for s in (end, start)]
        expected[a] += (xa - ya) * (xb + yb) / 2
        expected[b] += (xb - yb) * (xa + ya) / 2
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4, atol=1e-5)
    assert result.scores[[0, 1, 11]].any() == frame  # the frame keeps its embedding
    assert result.model_runs == result.backward_passes == bilinear.rows == n_steps + 2
    assert set(bilinear.batches) == {2}
    change = bilinear.score(end) - bilinear.score(start)
    assert result.parameters["score_change"] == pytest.approx(change, abs=1e-4)
    assert abs(result.parameters["completeness_gap"]) < 1e-4
    assert "completeness gap" in result.notes[0]


def test_progress_counts_the_steps(bilinear):
    seen: list[Any] = []
    attribute(bilinear, "red", "ig", n_steps=20, progress=lambda *step: seen.append(step))
    assert seen == [("integrated_gradients", n, 20) for n in (8, 16, 20)]


@pytest.mark.parametrize("wanted", [0, slice(0, 2)])
@pytest.mark.parametrize("kind", ["logit", "log_prob"])
def test_input_x_gradient_and_integrated_gradients_equal_captum(wanted, kind):
    captum = pytest.importorskip("captum.attr")
    trace = embedded()
    target = trace.target(wanted)
    forward = score_of(trace, target, kind)
    embeds = torch.tensor(trace.embeddings())[None]
    product = captum.InputXGradient(forward).attribute(embeds.requires_grad_(True))
    expected = product[0].sum(-1).detach().numpy()[: target.start]
    found = attribute(trace, target, "input_x_gradient", score=kind).scores[: target.start]
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())

    baseline = torch.tensor(np.array(trace.baseline_embeddings("mean", frame=False)))[None]
    baseline[:, target.start :] = embeds[:, target.start :].detach()
    integrated = captum.IntegratedGradients(forward).attribute(
        embeds.detach(), baselines=baseline, n_steps=16, method="riemann_middle"
    )
    expected = integrated[0].sum(-1).detach().numpy()[: target.start]
    found = attribute(trace, target, "ig", score=kind, n_steps=16, baseline="mean")
    gap = np.abs(found.scores[: target.start] - expected).max()
    assert gap < 2e-4 * np.abs(expected).max() and np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("baseline", ["mean", "pad", "blur"])  # zero: see the module's text
def test_more_steps_close_the_gap_in_completeness(baseline):
    trace = embedded()
    results = [
        attribute(trace, 0, "ig", n_steps=n, baseline=baseline, score="log_prob") for n in (2, 50)
    ]
    few, many = (result.parameters for result in results)
    assert "raise n_steps" in results[0].notes[0] and "raise n_steps" not in results[1].notes[0]
    assert abs(many["completeness_gap"]) < abs(few["completeness_gap"])
    assert abs(many["completeness_gap"]) < 0.05 * abs(many["score_change"])


def test_contrast_is_the_integral_of_a_difference_of_logits_and_antisymmetric():
    trace = embedded()
    target = trace.target(0)
    rival = trace.token_id("red")
    assert rival != target.token_ids[0]
    result = attribute(trace, target, "contrastive_ig", against="red", n_steps=8)
    plain = attribute(trace, target, "ig", against=rival, n_steps=8, score="logit")
    np.testing.assert_allclose(result.scores, plain.scores, atol=1e-4)
    assert result.parameters["against"] == rival
    swapped = Target(target.positions, (rival,), "red")  # which the answer did not say
    other = contrastive_integrated_gradients(
        Unchecked(trace.record, trace.prepared), swapped, against=target.token_ids[0], n_steps=8
    )
    scale = np.abs(result.scores).max()
    np.testing.assert_allclose(
        other.values[: target.start], -result.scores[: target.start], atol=1e-4 * scale
    )
    # It adds up to what the contrast gains from the baseline to the picture.
    forward = score_of(trace, target, "logit", rival)
    start = np.array(trace.baseline_embeddings("mean"))
    start[target.start :] = trace.embeddings()[target.start :]
    with torch.no_grad():
        low, high = forward(torch.tensor(np.stack([start, trace.embeddings()]))).tolist()
    many = attribute(trace, target, "contrastive_ig", against="red", n_steps=64)
    assert many.scores.sum() == pytest.approx(high - low, rel=0.05)


def test_contrast_without_a_rival_takes_the_runner_up_and_refuses_the_target_itself():
    trace = embedded()
    target = trace.target(0)
    everything = np.ones((1, len(trace.layout)), dtype=bool)
    second = int(trace.evaluate(everything, target).runner_up[0, 0])
    found = attribute(trace, target, "contrastive_ig", n_steps=2)
    assert found.parameters["against"] == second
    assert (found.model_runs, found.backward_passes) == (5, 4)
    given = attribute(trace, target, "contrastive_ig", n_steps=2, against=second)
    np.testing.assert_array_equal(found.scores, given.scores)
    assert given.model_runs == 4
    with pytest.raises(ValueError, match="first token"):
        attribute(trace, target, "contrastive_ig", against=target.token_ids[0])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_runs_on_one_picture_two_and_none(name, method):
    trace = ALL[name]()
    options = {} if method == "input_x_gradient" else {"n_steps": 2}
    result = attribute(trace, 1 if name != "embedded" else 0, method, **options)
    assert result.scores.shape == (len(trace.layout),)
    for grid in trace.layout.grids:
        assert result.scores[grid.positions].any()
    assert result.scores[trace.layout.positions("prompt")].any()
    if method != "input_x_gradient":  # it has no path that the frame could be left out of
        assert not result.scores[trace.layout.positions("special")].any()


@pytest.mark.parametrize("method", METHODS)
def test_what_the_target_cannot_see_gets_nothing(method):
    trace = windowed()
    target = trace.target(2)
    options = {} if method == "input_x_gradient" else {"n_steps": 2, "frame": True}
    scores = attribute(trace, target, method, **options).scores
    first_seen = target.predictor - WINDOW_REACH
    assert not scores[:first_seen].any()
    assert scores[first_seen : target.start].all()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"n_steps": 0}, "n_steps must be"),
        ({"n_steps": 2.5}, "n_steps must be"),
        ({"baseline": "noise"}, "baseline must be"),
        ({"score": "margin"}, "score must be"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options_say_what_is_allowed(options, match):
    with pytest.raises(ValueError, match=match):
        attribute(embedded(), 0, "ig", **options)


def test_linear_score_needs_no_path():
    """For a linear score, input x gradient is integrated gradients from zero."""
    rng = np.random.default_rng(0)
    layout = make_layout()
    end, w = rng.normal(size=(len(layout), 5)), rng.normal(size=5)
    zero = np.zeros(5)
    trace = Bilinear(layout, end, np.zeros_like(end), w, zero, zero)
    trace.backward = lambda target, **_: SimpleNamespace(input_x_gradient=end @ w)
    one = attribute(trace, "red", "input_x_gradient")
    two = attribute(trace, "red", "ig", frame=True, n_steps=3)
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-5)
