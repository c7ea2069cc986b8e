"""The same question gives the same saved result, whatever hash seed or threads a process has."""

from __future__ import annotations

import json

import pytest

from tests.processes import started

SCRIPT = """
import os, sys
import torch
torch.set_num_threads(int(sys.argv[2]))
import causal_lvlm as cl
from causal_lvlm.tiny import sample_inputs
sample = next(s for s in sample_inputs() if s.name == "hallucination")
trace = cl.load_model().run(sample.image_path, sample.prompt)
cl.explain(trace, "spoon", max_runs=60).save(sys.argv[1] + "/e.json")
cl.attribute(trace, "spoon", "rise", n_masks=40).save(sys.argv[1] + "/a.json")
"""


def told(path):
    """Return numbers and everything else of a saved result, without what a clock says."""
    numbers, others = [], []

    def walk(value, where):
        if isinstance(value, dict):
            for key, item in value.items():  # in its order: that is saved too
                if key not in ("seconds", "peak_memory", "versions"):
                    others.append(key)
                    walk(item, f"{where}.{key}")
        elif isinstance(value, list):
            for item in value:
                walk(item, where)
        elif isinstance(value, float):
            numbers.append(value)
        else:
            others.append((where, value))

    walk(json.loads(path.read_text("utf-8")), "")
    return numbers, others


@pytest.mark.slow
def test_hash_seed_and_threads_change_nothing(tmp_path):
    processes = []
    for seed, threads in ((0, 1), (1, 2), (2, 1)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        environment = {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": str(threads)}
        processes.append(started(["-c", SCRIPT, folder, threads], env=environment))
    assert [process.wait(timeout=600) for process in processes] == [0, 0, 0]
    for name in ("e.json", "a.json"):
        numbers, others = told(tmp_path / "0" / name)
        assert len(others) > 20
        for seed in "12":
            again = told(tmp_path / seed / name)
            assert again[1] == others
            # two threads add up in another order than one: float32, eps 1.2e-7, sums of hundreds
            assert again[0] == pytest.approx(numbers, rel=1e-4, abs=1e-5)
