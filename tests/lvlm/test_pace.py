"""The size of batches is found by measuring, costs next to nothing, and changes no answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.batches import SizeRule
from causal_lvlm.lvlm.pace import Pace
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


def cost(size, best, noise=0.0):
    """Return seconds a row that are least at one size, as caches and overheads make them."""
    return 1.0 + 0.15 * abs(np.log2(size / best)) + noise


def work_off(pace, prior, rows, best, rng=None, memory=64):
    """Compute rows in calls of the sizes that are asked for; returns those sizes."""
    sizes = []
    while rows:
        size = min(pace.next("kind", prior, min(rows, memory)), rows)
        noise = 0.0 if rng is None else 0.1 * rng.random()
        pace.note("kind", size, cost(size, best, noise))
        sizes.append(size)
        rows -= size
    return sizes


@pytest.mark.parametrize("best", [1, 4, 16, 64])
@pytest.mark.parametrize("prior", [1, 4, 64])
def test_the_fastest_size_is_found_from_wherever_it_starts(prior, best):
    pace = Pace()
    sizes = work_off(pace, prior, 2000, best)
    assert sizes[0] == prior and sizes[-2] == best
    # Three calls for each size on the way and its neighbours, no more.
    others = sum(size != best for size in sizes[:-1])
    assert others <= 3 * (abs(np.log2(best / prior)) + 2)


def test_noise_neither_stops_it_nor_moves_it_to_and_fro():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pace = Pace()
        work_off(pace, 32, 600, 4, rng)
        settled = set(work_off(pace, 32, 512, 4, rng)[2:-2])
        assert len(settled) <= 2 and max(settled) <= 16


def test_sizes_stay_within_what_is_left_and_fits():
    pace = Pace()
    assert max(work_off(pace, 8, 300, 64, memory=5)) <= 5
    assert pace.next("other", 8, 3) == 3 and pace.next("other", 8, 1) == 1
    assert max(work_off(Pace(), 64, 1000, 64)) == 64


def trace_and_masks(rows=48):
    trace = LVLM(*tiny_llava(seed=4)).run(noise_image(), PROMPT, max_new_tokens=4)
    return trace, random_masks(trace, trace.target(2), rows)


def sizes_seen(trace):
    """Return a set to which each call of the language model adds its number of rows."""
    seen: set[int] = set()
    trace.model.decoder.register_forward_pre_hook(
        lambda _m, _a, options: seen.add(len(options["inputs_embeds"])), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("backend", ["drop", "block"])
def test_answers_are_those_of_a_fixed_size_while_sizes_are_tried(backend, monkeypatch):
    trace, keep = trace_and_masks()
    keep[1:] = np.random.default_rng(0).permuted(keep[[20]].repeat(47, axis=0)[:, ::1], axis=1)
    keep[:, trace.layout.modality == "special"] = True
    keep[:, trace.target(2).predictor :] = True
    fixed = trace.evaluate(keep, 2, backend=backend, batch_size=1)
    assert trace.model.pace.known() == {}  # given sizes are not measured
    monkeypatch.setattr(Pace, "worthwhile", staticmethod(lambda work: True))
    monkeypatch.setattr(SizeRule, "_prior", lambda self, length: 4)
    seen = sizes_seen(trace)
    found = trace.evaluate(keep, 2, backend=backend)
    assert len(seen) >= 3
    np.testing.assert_allclose(found.token_log_probs, fixed.token_log_probs, atol=5e-5)
    np.testing.assert_array_equal(found.argmax, fixed.argmax)
    known = trace.model.pace.known()
    assert {kind[3] for kind in known} == {backend == "block"}
    assert all(s > 0 for times in known.values() for s in times.values())


def test_a_given_size_is_always_taken(monkeypatch):
    trace, keep = trace_and_masks(12)
    monkeypatch.setattr(Pace, "worthwhile", staticmethod(lambda work: True))
    trace.evaluate(keep[:2], 2, backend="block")  # the check of the way is over
    seen = sizes_seen(trace)
    for _ in range(3):
        trace.evaluate(keep, 2, backend="block", batch_size=4)
    assert seen == {4}


def test_small_models_are_not_measured_and_repeat_to_the_last_bit():
    trace, keep = trace_and_masks()
    first = trace.evaluate(keep, 2)
    again = trace.evaluate(keep, 2)
    assert trace.model.pace.known() == {}
    np.testing.assert_array_equal(first.token_log_probs, again.token_log_probs)


def test_threads_share_what_was_measured(monkeypatch):
    trace, keep = trace_and_masks(24)
    monkeypatch.setattr(Pace, "worthwhile", staticmethod(lambda work: True))
    expected = trace.evaluate(keep, 2, batch_size=1)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: trace.evaluate(keep, 2), range(8)))
    for found in results:
        np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=5e-5)
    assert trace.model.pace.known()
