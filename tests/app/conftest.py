"""What the tests of the app share: one embedded model, and pictures with questions."""

from __future__ import annotations

import pytest
from PIL import Image

from causal_lvlm.app import Limits, Workbench
from causal_lvlm.app.models import ModelShelf


@pytest.fixture(scope="session")
def lvlm(embedded_model):

    return embedded_model


@pytest.fixture(scope="session")
def samples():
    from causal_lvlm.tiny import sample_inputs

    return {s.name: (Image.open(s.image_path).convert("RGB"), s.prompt) for s in sample_inputs()}


@pytest.fixture
def bench(lvlm):
    with Workbench(ModelShelf(load=lambda name: lvlm), Limits(runs=3, sessions=30)) as opened:
        yield opened


def last(news):
    """Return the last news, all stages by name, and raise what went wrong."""
    told = list(news)
    if told[-1].kind == "error":
        raise told[-1].value
    stages = [n.value for n in told if n.kind == "stage"]
    return told[-1], stages
