"""nnsight #538: the model's answers used memory that was not given back.

The report itself could not be looked up; the repair beside it, #540, is called a memory leak fix.
Here nothing of one run outlives its results: after many, no more tensors are alive than after few.
"""

from __future__ import annotations

import gc

import pytest
import torch

import causal_lvlm as cl
from causal_lvlm.lvlm import LVLM
from tests.lvlm.helpers import PROMPT, noise_image
from tests.models import tiny_llava


def tensors() -> int:
    """Return how many tensors are alive."""
    gc.collect()
    return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())


@pytest.mark.slow
def test_repeated_explanations_leave_nothing_behind():
    lvlm = LVLM(*tiny_llava(seed=8))

    def once() -> None:
        trace = lvlm.run(noise_image(), PROMPT, max_new_tokens=2)
        list(trace.backward(0, vision=True).language())
        cl.explain(trace, 1, max_runs=6, n_random=0)

    for _ in range(2):  # what is computed once for a model
        once()
    before = tensors()
    for _ in range(4):
        once()
    assert tensors() <= before
