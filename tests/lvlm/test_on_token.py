"""`on_token`: the answer as it comes, from the same run to the last bit, and a clean way out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from causal_lvlm.lvlm.model import LVLM
from tests.lvlm.families.tiny import AVAILABLE, BUILDERS
from tests.lvlm.helpers import noise_image


@pytest.fixture(scope="module")
def lvlm(embedded_model):

    return embedded_model


@pytest.fixture(scope="module")
def asked():
    from causal_lvlm.tiny import sample_inputs

    chosen = next(s for s in sample_inputs() if s.name == "caption")
    return Image.open(chosen.image_path).convert("RGB"), chosen.prompt


def hooks_of(lvlm):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in lvlm.model.modules()]


def test_tokens_come_in_order_and_the_last_text_is_the_answer(lvlm, asked):
    told = []
    trace = lvlm.run(*asked, on_token=lambda token_id, text: told.append((token_id, text)))
    ids = [int(i) for i in trace.layout.token_ids[trace.layout.n_prompt :]]
    assert [token_id for token_id, _ in told] == ids
    assert len(ids) > 5
    texts = [text for _, text in told]
    pieces = [later[len(before) :] for before, later in zip(["", *texts], texts, strict=False)]
    assert "".join(pieces) == trace.answer == texts[-1]
    assert all(type(token_id) is int and type(text) is str for token_id, text in told)


def test_the_run_is_bit_identical_with_and_without(lvlm, asked):
    plain, told = lvlm.run(*asked), lvlm.run(*asked, on_token=lambda token_id, text: None)
    assert np.array_equal(plain.layout.token_ids, told.layout.token_ids)
    assert plain.answer == told.answer
    assert np.array_equal(plain.log_probs, told.log_probs)
    assert np.array_equal(plain.attention(-1), told.attention(-1))
    assert plain.parameters == told.parameters


@pytest.mark.parametrize("error", [RuntimeError("enough"), KeyboardInterrupt()])
def test_raising_ends_the_generation_and_leaves_the_model_as_it_was(lvlm, asked, error):
    before, hooks = lvlm.run(*asked), hooks_of(lvlm)
    told = []

    def tell(token_id, text):
        told.append(token_id)
        if len(told) == 3:
            raise error

    with pytest.raises(type(error)):
        lvlm.run(*asked, on_token=tell)
    assert len(told) == 3 < before.layout.token_ids.size - before.layout.n_prompt
    assert hooks_of(lvlm) == hooks
    after = lvlm.run(*asked)
    assert after.answer == before.answer and np.array_equal(after.log_probs, before.log_probs)


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_family_tells_exactly_what_it_generates(name):
    lvlm, told = LVLM(*BUILDERS[name]()), []
    image = None if lvlm.family.text_only else noise_image((64, 64))
    tell = lambda token_id, text: told.append((token_id, text))  # noqa: E731
    trace = lvlm.run(image, "what?", max_new_tokens=4, on_token=tell)
    assert [i for i, _ in told] == trace.layout.token_ids[trace.layout.n_prompt :].tolist()
    assert told[-1][1] == trace.answer


def test_what_cannot_be_called_is_refused(lvlm, asked):
    with pytest.raises(TypeError, match=r"on_token\(token_id, text\)"):
        lvlm.run(*asked, on_token="print")
