"""Every method on every kind of target and unit: spans, contrasts, sentences, pictures or none.

What a span means is checked where it has a closed form (a sum over its tokens); what hiding a
sentence means, against the model run with an attention mask made by hand.
"""

from __future__ import annotations

import inspect
from functools import cache

import numpy as np
import pytest
import torch

import causal_lvlm as cl
from causal_lvlm.errors import TargetError, UnsupportedModelError
from causal_lvlm.lvlm import LVLM
from causal_lvlm.methods import attribute, list_methods
from causal_lvlm.methods.registry import METHODS
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import Units
from tests.attribution.traces import embedded
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image

QUICK = {
    "rise": {"n_masks": 16},
    "reagent": {"max_steps": 8, "n_runs": 2},
    "llava_cam": {"n_samples": 2},
    "integrated_gradients": {"n_steps": 3},
    "contrastive_integrated_gradients": {"n_steps": 3},
    "attattr": {"n_steps": 2},
    "causal": {"max_runs": 30},
    "consensus": {"methods": ("rollout", "input_x_gradient"), "n_random": 1},
    **{name: {"accept_patent_note": True} for name in ("lrp", "cp_lrp", "relp")},
}
TOWER = ("relevancy-vit", "relevancy-all", "relevancy-all_v2", "relevancy-chain")
LONG = ("leave_one_out", "rise", "reagent", "lima", "eagle_fast", "causal", "consensus",
        "llava_cam", "integrated_gradients", "attattr", "attn_attrib")  # fmt: skip
NAMES = [info.name for info in list_methods()]


@cache
def caption():
    sample = next(s for s in sample_inputs() if s.kind == "caption")
    return cl.load_model().run(sample.image_path, sample.prompt)


@cache
def without_picture():
    return cl.load_model().run(None, "what color is the circle ?")


@cache
def two_pictures():
    pictures = [noise_image((96, 96), seed=k) for k in range(2)]
    return cl.load_model().run(pictures, "what color is the star?")


def takes(name, option):
    return option in inspect.signature(METHODS[name]).parameters


@pytest.mark.parametrize("name", NAMES)
def test_every_method_scores_a_span_of_a_caption(name):
    trace, told = caption(), []
    found = attribute(
        trace, slice(1, 3), name, units="block:4+word", seed=3, progress=lambda *a: told.append(a),
        **QUICK.get(name, {}),
    )  # fmt: skip
    assert found.target.positions == tuple(trace.layout.n_prompt + k for k in (1, 2))
    assert np.isfinite(found.scores).all() and not found.scores[found.target.start :].any()
    assert found.units_name == "block:4+word" and found.seconds > 0
    assert found.seed == (3 if takes(name, "seed") else None)
    assert found.model_runs >= (name != "random")
    assert found.peak_memory is None or found.peak_memory >= 0
    if name in LONG:
        assert all(0 <= done <= total for _, done, total in told) and told[-1][1] == told[-1][2]
    if name != "grad_cam":  # its map may be negative everywhere, and is then cut to nothing
        units = cl.make_units(trace, found.target, "block:4+word")
        assert np.ptp(found.unit_scores(units)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_without_a_picture_or_with_two_a_method_works_or_says_why_not(name):
    for trace in (without_picture(), two_pictures()):
        units = "block:4+sentence" if trace.images else "token"
        if name in TOWER:
            with pytest.raises(UnsupportedModelError, match="one picture"):
                attribute(trace, 0, name, units=units)
            continue
        found = attribute(trace, 0, name, units=units, **QUICK.get(name, {}))
        assert np.isfinite(found.scores).all() and not found.scores[found.target.start :].any()


@pytest.mark.parametrize("name", [n for n in NAMES if takes(n, "against")])
def test_a_contrast_is_another_question_and_never_with_the_target_itself(name):
    trace = embedded()
    options = QUICK.get(name, {})
    rival = "red" if trace.answer.strip() != "red" else "green"
    plain = attribute(trace, 0, name, units="block:4", **options)
    other = attribute(trace, 0, name, units="block:4", against=rival, **options)
    if name not in ("causal", "grad_cam"):
        assert not np.allclose(plain.scores, other.scores)
    for itself in (trace.answer, trace.target(0).token_ids[0]):
        with pytest.raises(TargetError, match="first token of the target"):
            attribute(trace, 0, name, against=itself, **options)
    for wrong in (1.5, True):
        with pytest.raises(TypeError, match="text or id"):
            attribute(trace, 0, name, against=wrong, **options)


def test_a_phrase_a_slice_a_function_and_positions_are_one_target():
    trace = caption()
    words = " ".join(t.strip() for t in trace.layout.generated[1:3])
    told = [
        attribute(trace, asked, "input_x_gradient")
        for asked in (words, slice(1, 3), lambda layout: slice(1, 3), trace.target(slice(1, 3)))
    ]
    for other in told[1:]:
        assert other.target.positions == told[0].target.positions
        np.testing.assert_array_equal(other.scores, told[0].scores)


@pytest.mark.parametrize("span", [slice(1, 3), slice(4, 7)])
def test_a_span_is_the_sum_of_its_tokens_where_the_score_is(span):
    trace = caption()
    target = trace.target(span)
    singles = [trace.target(k) for k in range(span.start, span.stop)]

    whole = attribute(trace, target, "input_x_gradient").scores
    parts = sum(attribute(trace, one, "input_x_gradient").scores for one in singles)
    np.testing.assert_allclose(whole[: target.start], parts[: target.start], atol=1e-4)
    assert np.abs(whole).max() > 0.05

    units = cl.make_units(trace, target, "block:2+word")
    whole = attribute(trace, target, "leave_one_out", units=units).scores
    parts = sum(attribute(trace, one, "leave_one_out", units=units).scores for one in singles)
    np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_hiding_a_sentence_is_suppressing_all_later_attention_to_it():
    lvlm = LVLM(*BUILDERS["text_qwen3"]())
    trace = lvlm.run(None, "It is red. Is it big? No. It is. What is it?", max_new_tokens=4)
    target = trace.target(slice(1, 3))
    units = cl.make_units(trace, target, "sentence")
    told = ["".join(trace.layout.tokens[p] for p in m).strip() for m in units.members]
    assert told[:4] == ["It is red.", "Is it big?", "No.", "It is."]
    found = attribute(trace, target, "leave_one_out", units=units).unit_scores(units)

    model, _ = BUILDERS["text_qwen3"]()
    ids = torch.tensor(trace.layout.token_ids)[None]
    size = ids.shape[1]

    def log_prob(hidden):
        """Return the target's log-probability while no later row sees the hidden positions."""
        seen = torch.tril(torch.ones(size, size, dtype=torch.bool))
        if hidden:
            later = torch.arange(size)[:, None] > max(hidden)
            seen[:, list(hidden)] &= ~later
        with torch.no_grad():
            mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
            logits = model(ids, attention_mask=mask).logits[0].double().log_softmax(-1)
        return sum(
            float(logits[p - 1, i]) for p, i in zip(target.positions, target.token_ids, strict=True)
        )

    expected = [log_prob(()) - log_prob(members) for members in units.members]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
@pytest.mark.parametrize("name", ["rise", "attn_attrib", "input_x_gradient"])
def test_a_seed_is_a_whole_number_for_every_method(name, seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        attribute(embedded(), 0, name, seed=seed)


@pytest.mark.parametrize("name", ["leave_one_out", "rise", "reagent", "random", "lima", "causal"])
def test_given_units_are_held_to_what_may_be_masked(name):
    trace = embedded()
    start = trace.target(0).start
    for members in (((0,),), ((start - 1,),), ((start,),), ((10**4,),), ((-1,),), ((5,), ())):
        with pytest.raises(TargetError, match="cannot be masked"):
            attribute(trace, 0, name, units=Units(members, ("image",) * len(members)))
    with pytest.raises(ValueError, match=r"share the positions \[6\]"):
        attribute(trace, 0, name, units=Units(((5, 6), (6, 7)), ("image",) * 2))
