"""Positions that no other row can see, in any layer: which gradient methods give them a score?

Any score there is wrong. Methods whose formula runs along the model's own connections give none;
the feature convention of Grad-CAM weights what a layer holds there, seen or not, and does.
"""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.methods import attribute
from tests.attribution.traces import embedded

SOUND = {
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 3, "frame": True},
    "contrastive_integrated_gradients": {"n_steps": 3},
    "grad_cam": {},
    "attattr": {"layer": 0, "n_steps": 2},
    "mmel": {},
}


@pytest.fixture(scope="module")
def blocked():
    trace = embedded()
    positions = np.concatenate([trace.layout.positions("image")[::3], [trace.layout.n_prompt - 4]])
    return trace.blocked(positions), positions


@pytest.mark.parametrize("method", SOUND)
def test_methods_along_the_models_connections_give_nothing_to_what_is_blocked(blocked, method):
    trace, positions = blocked
    scores = attribute(trace, 0, method, **SOUND[method]).scores
    assert scores.any() and not scores[positions].any()
    assert attribute(embedded(), 0, method, **SOUND[method]).scores[positions].any()


LEAKY = {"feature_grad_cam": {}, "llava_cam": {"n_samples": 1}}


@pytest.mark.parametrize("method, options", LEAKY.items())
def test_feature_grad_cam_leaks_to_what_is_blocked(blocked, method, options):
    trace, positions = blocked
    assert attribute(trace, 0, method, layer=0, **options).scores[positions].any()
