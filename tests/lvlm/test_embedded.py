"""The embedded model through the whole boundary: it is a real model, and these must just work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from causal_lvlm.tiny import sample_inputs, weights_path
from tests.lvlm.helpers import random_masks

pytestmark = pytest.mark.skipif(
    not (weights_path() / "model.safetensors").is_file(), reason="no embedded weights here"
)


@pytest.fixture(scope="module")
def traces(embedded_model):
    """Return a trace of every bundled sample."""
    lvlm = embedded_model
    return [lvlm.run(sample.image_path, sample.prompt) for sample in sample_inputs()]


def test_every_sample_is_answered_and_checked(traces):
    for trace in traces:
        assert trace.model_id == "causal-lvlm/tiny"
        assert trace.answer and trace.parameters["finished"]
        assert trace.self_check.passed and trace.self_check.geometry_error < 0.1
        assert len(trace.layout.positions("image")) == 64
        grid = trace.layout.grids[0]
        assert (grid.rows, grid.cols) == (8, 8)
        np.testing.assert_allclose(grid.boxes[9], [12, 12, 24, 24])
        assert trace.prompt.startswith("USER: <image>\n") and trace.prompt.endswith("ASSISTANT:")
        words = [
            t
            for t, m in zip(trace.layout.tokens, trace.layout.modality, strict=True)
            if m == "prompt"
        ]
        assert words and not {"user", "assistant", ":"} & set(words)


def test_attention_equals_eager(traces):
    model = AutoModelForImageTextToText.from_pretrained(
        weights_path(), attn_implementation="eager", dtype=torch.float32
    )
    for trace in traces[:2]:
        with torch.no_grad():
            expected = model(
                input_ids=torch.tensor(trace.layout.token_ids)[None],
                pixel_values=trace.model.pixels([trace.image])["pixel_values"],
                output_attentions=True,
            ).attentions
        captured = trace.attention(range(len(expected)))
        np.testing.assert_allclose(captured, [a[0] for a in expected], atol=5e-5)


def test_drop_equals_block(traces):
    for trace in traces:
        target = trace.target(0)
        keep = random_masks(trace, target, 20)
        drop = trace.evaluate(keep, target, backend="drop")
        block = trace.evaluate(keep, target, backend="block")
        np.testing.assert_allclose(drop.log_prob, block.log_prob, atol=1e-3, rtol=1e-4)
        np.testing.assert_array_equal(drop.argmax, block.argmax)
