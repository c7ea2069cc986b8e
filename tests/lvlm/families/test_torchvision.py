"""The image processors that most users have: those of torchvision, beside the PIL ones.

These run where torchvision imports. The one of the package index is built for GPUs and does not
beside a CPU build of torch: there they are skipped with that reason.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest
import torch

from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.placing import painting_error, place
from tests.lvlm.families.test_families import PROMPT, WITH_GRID, case
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image


def reason() -> str:
    """Return why torchvision cannot be used here; empty if it can."""
    if importlib.util.find_spec("torchvision") is None:
        return "torchvision is not installed"
    try:
        importlib.import_module("torchvision.transforms.v2")
    except (ImportError, RuntimeError, OSError) as error:
        return f"torchvision does not import beside torch {torch.__version__}: {error}"
    return ""


WHY = reason()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


def with_torchvision(name: str) -> LVLM:
    """Return a family's model with the torchvision counterpart of its image processor."""
    model, processor = BUILDERS[name]()
    pil = processor.image_processor
    module = type(pil).__module__.replace("image_processing_pil_", "image_processing_")
    kind = getattr(importlib.import_module(module), type(pil).__name__.removesuffix("Pil"))
    settings = {key: value for key, value in pil.to_dict().items() if key in vars(pil)}
    settings.pop("image_processor_type", None)
    other = kind(**settings)
    if hasattr(pil, "image_seq_length"):
        other.image_seq_length = pil.image_seq_length
    processor.image_processor = other
    return LVLM(model, processor)


@pytest.mark.parametrize("name", WITH_GRID)
def test_torchvision_gives_the_same_tokens_in_the_same_places(name):
    lvlm = with_torchvision(name)
    assert not type(lvlm.processor.image_processor).__name__.endswith("Pil")
    known = case(name)[0]
    for sizes in ([(100, 60)], [(170, 260)], [(100, 60), (60, 90)]):
        images = [noise_image(size, seed=i) for i, size in enumerate(sizes)]
        trace = lvlm.run(images, PROMPT, max_new_tokens=1)
        expected: Any = known.run(images, PROMPT, max_new_tokens=1)
        assert trace.self_check.passed and trace.self_check.geometry_error < 0.2
        n_prompt = trace.layout.n_prompt
        assert n_prompt == expected.layout.n_prompt
        assert (trace.layout.token_ids == expected.layout.token_ids)[:n_prompt].all()
        for found, other in zip(trace.layout.grids, expected.layout.grids, strict=True):
            torch.testing.assert_close(torch.tensor(found.boxes), torch.tensor(other.boxes))
        ours, theirs = trace.prepared.inputs, expected.prepared.inputs
        assert set(ours) == set(theirs)
        for key in ours:
            assert ours[key].shape == theirs[key].shape
        difference = (ours["pixel_values"] - theirs["pixel_values"]).abs()
        assert float(difference.mean()) < 0.1  # the two resample differently, a little
    inputs = lvlm.process(images, trace.prompt).inputs
    cells = place(lvlm, images, trace.prompt, inputs).cells
    assert painting_error(lvlm, images, trace.prompt, cells)[1] == 0.0
