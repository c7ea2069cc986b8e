"""What is kept of a run, without the model that made it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import causal_lvlm.record as module
from causal_lvlm.explanation import explain
from causal_lvlm.record import TraceRecord
from causal_lvlm.results import SelfCheck
from tests.explanation.fakes import FakeTrace, layout


def a_record(**changes):
    """Return a record of two pictures."""
    pictures = tuple(Image.new("RGB", (6, 4), colour) for colour in ("red", "navy"))
    tokens = layout()
    fields = dict(
        prompt="what?", answer="red", image=pictures[0], images=pictures, layout=tokens,
        log_probs=np.full(len(tokens) - tokens.n_prompt, -0.5),
        self_check=SelfCheck(True, 1.0, 0.0, 1e-3), model_id="m", revision=None,
        versions={"python": "3"}, parameters={"remarks": ["as it is"], "seed": 3},
    )  # fmt: skip
    return TraceRecord(**{**fields, **changes})


def test_pictures_are_encoded_once_for_all_explanations_of_a_trace(monkeypatch):
    encoded = []
    plain = module.encode_image
    monkeypatch.setattr(module, "encode_image", lambda image: encoded.append(1) or plain(image))
    record, trace = a_record(), FakeTrace(lambda visible: 3 in visible)
    monkeypatch.setattr(trace, "to_dict", record.to_dict, raising=False)
    first, second = (explain(trace, 0, n_random=0, seed=seed).summary for seed in range(2))
    assert len(encoded) == 2  # two pictures, once each
    assert first == second == record.to_dict() and first is not second
    first["prompt"] = first["versions"]["python"] = "changed"
    first["tokens"].clear(), first["more_images"].clear()
    assert record.to_dict() == second


def test_a_record_read_again_is_the_same_to_the_byte(tmp_path):
    path = a_record().save(tmp_path / "run.json")
    again = TraceRecord.load(path)
    assert again.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert again.remarks == ("as it is",) and len(again.images) == 2
    bare = a_record(image=None, images=(), layout=replace(layout(), grids=()))
    assert TraceRecord.from_dict(bare.to_dict()).to_dict() == bare.to_dict()


def test_each_generated_token_has_a_log_probability():
    with pytest.raises(ValueError, match="log_probs has shape"):
        a_record(log_probs=np.zeros(40))


def test_a_saved_run_opens_without_torch(tmp_path):
    path = a_record().save(tmp_path / "run.json")
    code = (
        "import sys, causal_lvlm as cl; "
        f"record = cl.TraceRecord.load({str(path)!r}); print(record.answer); record._repr_html_(); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "red"
