"""Memory: a budget picks the batch, running out halves it, and both are said."""

from __future__ import annotations

import gc
import logging
import weakref

import numpy as np
import pytest
import torch

from causal_lvlm.errors import CausalLVLMError, ModelMemoryError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.batches import row_bytes
from causal_lvlm.lvlm.memory import gigabytes, is_out_of_memory, parse_memory
from tests.lvlm.helpers import PROMPT, noise_image, random_masks
from tests.models import tiny_llava


@pytest.fixture
def traced():
    """Return a trace and masks for its third token."""
    trace = LVLM(*tiny_llava(seed=4)).run(noise_image(), PROMPT, max_new_tokens=4)
    return trace, random_masks(trace, trace.target(2), 40)


def test_sizes_are_read():
    assert parse_memory("2GB") == 2 * 10**9 and parse_memory("2 GiB") == 2 * 2**30
    assert parse_memory("0.5m") == 500_000 and parse_memory("1.5kib") == 1536
    assert parse_memory(12) == 12 and parse_memory("12") == 12 and parse_memory(None) is None
    for wrong in ("", "two", "2XB", 0, -1, "0GB", True, 2.5, "-2GB"):
        with pytest.raises(ValueError, match="max_memory must be"):
            parse_memory(wrong)
    assert gigabytes(14.1e9) == "14.1 GB" and gigabytes(2.5e6) == "2.5 MB"


def test_out_of_memory_is_recognised_whoever_says_it():
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))


def batches_seen(model):
    """Return a list to which every call of the language model adds its batch."""
    seen: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _m, _a, options: seen.append(len(options["inputs_embeds"])), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("backend", ["drop", "block"])
def test_a_budget_limits_the_batch_and_changes_nothing_else(traced, backend):
    trace, keep = traced
    plain = trace.evaluate(keep, 2, backend=backend)
    stop = trace.target(2).predictor + 1
    one = row_bytes(trace.prepared, stop, stop, 1, blocked=True)
    seen = batches_seen(trace.model.model)
    for rows in (1, 3):
        result = trace.evaluate(keep, 2, backend=backend, max_memory=rows * one)
        np.testing.assert_allclose(result.token_log_probs, plain.token_log_probs, atol=1e-4)
        assert result.halvings == 0
        assert result.largest_batch == max(seen)
        # The estimate is for whole rows; after a prefix less is computed, and more rows fit.
        assert result.largest_batch < plain.largest_batch
        seen.clear()
    assert trace.evaluate(keep, 2, backend="block", max_memory=1).largest_batch == 1
    trace.model.max_memory = "1B"
    assert trace.evaluate(keep, 2).largest_batch == 1
    assert trace.evaluate(keep, 2, backend="block", max_memory="1GB").largest_batch > 1


def fail_above(model, most, error):
    """Make the language model raise for batches larger than `most`."""

    def fail(_module, _args, options):
        if len(options["inputs_embeds"]) > most:
            raise error

    model.get_decoder().register_forward_pre_hook(fail, with_kwargs=True)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("out of memory")],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("backend", ["drop", "block"])
@pytest.mark.parametrize("masking", ["remove", pytest.param("neutral", marks=pytest.mark.slow)])
def test_running_out_halves_the_batch_and_goes_on(traced, error, backend, masking, caplog):
    trace, keep = traced
    plain = trace.evaluate(keep, 2, backend=backend, masking=masking)
    fail_above(trace.model.model, 2, error)
    with caplog.at_level(logging.WARNING, logger="causal_lvlm"):
        result = trace.evaluate(keep, 2, backend=backend, masking=masking, batch_size=16)
    np.testing.assert_allclose(result.token_log_probs, plain.token_log_probs, atol=1e-4)
    np.testing.assert_array_equal(result.argmax, plain.argmax)
    assert result.largest_batch in (1, 2) and plain.halvings == 0
    assert 1 <= result.halvings <= 4 == len({16, 8, 4, 2})
    assert len(caplog.records) == result.halvings
    assert "memory ran out with" in caplog.text


@pytest.mark.slow
def test_one_row_that_does_not_fit_is_said_with_a_size(traced):
    trace, keep = traced
    trace.evaluate(keep, 2)
    fail_above(trace.model.model, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(ModelMemoryError, match=r"single masked row of \d+ tokens \(about .* MB"):
        trace.evaluate(keep, 2)
    assert issubclass(ModelMemoryError, MemoryError) and issubclass(
        ModelMemoryError, CausalLVLMError
    )


def test_other_errors_pass_through(traced):
    trace, keep = traced
    fail_above(trace.model.model, 1, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        trace.evaluate(keep, 2, backend="block", batch_size=4)


def test_the_estimate_grows_with_what_it_counts(traced):
    prepared = traced[0].prepared
    base = row_bytes(prepared, 100, 100, 1, blocked=False)
    assert row_bytes(prepared, 200, 200, 1, blocked=False) > 1.5 * base
    assert row_bytes(prepared, 100, 100, 1, blocked=True) == base + 100 * 100 * 5
    assert row_bytes(prepared, 100, 300, 1, blocked=False) > base  # keys and values of a prefix
    assert row_bytes(prepared, 100, 100, 9, blocked=False) > base


def test_what_is_kept_for_a_trace_goes_with_it():
    lvlm = LVLM(*tiny_llava(seed=4))
    trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=3)
    trace.attention()
    trace.evaluate(random_masks(trace, trace.target(1), 4), 1)
    prepared = weakref.ref(trace.prepared)
    query = weakref.ref(next(iter(trace.prepared.kept_calls.values())).query)
    del trace
    gc.collect()
    assert prepared() is None and query() is None
