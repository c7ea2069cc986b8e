"""What the model would have said: exact without a change, a plain loop's answer with one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causal_lvlm.edges import all_but, cut
from causal_lvlm.errors import EdgeError, OptionError, PromptError, UnsupportedModelError
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.plain import case

FAMILIES = ("llava", "qwen2_vl", "gemma3", "paligemma", "text_gemma2", "mllama", "qwen3_5")


def answer(trace):
    return trace.layout.token_ids[trace.layout.n_prompt :].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_change_the_answer_is_reproduced(name):
    _, trace = case(name)
    for number in (0, 2):
        found = trace.regenerate(number)
        assert list(found.token_ids) == answer(trace)[number:]
        np.testing.assert_allclose(found.log_probs, trace.log_probs[number:], atol=1e-4)
        again = trace.regenerate(number, start=0)
        assert (list(again.token_ids), again.text) == (answer(trace), trace.answer)
    short = trace.regenerate(1, max_new_tokens=2)
    assert list(short.token_ids) == answer(trace)[1:3]


def plain_loop(model, ids, seen_by, n_new):
    """Decode greedily with an explicit mask; `seen_by(row)` says which earlier rows it reads."""
    ids = list(ids)
    for _ in range(n_new):
        length = len(ids)
        seen = np.zeros((length, length), dtype=bool)
        for row in range(length):
            seen[row, [c for c in range(row + 1) if c == row or seen_by(row, c)]] = True
        mask = torch.zeros(1, 1, length, length)
        mask = mask.masked_fill(~torch.tensor(seen), torch.finfo(torch.float32).min)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, -1]
        ids.append(int(logits.argmax()))
    return ids[-n_new:]


@pytest.fixture(scope="module")
def plain():
    model, _ = BUILDERS["text_llama"]()
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("number", [1, 3])
def test_masked_and_cut_generation_is_what_a_plain_loop_decodes(plain, number):
    _, trace = case("text_llama")
    target = trace.target(number)
    edges = trace.edges(target)
    kept = trace.layout.token_ids[: target.start]
    sources = sorted({int(p) for p in edges.pairs[:, 0]})
    rng = np.random.default_rng(number)
    for round_ in range(4):
        hidden = set(rng.choice([s for s in sources if s < target.predictor], 2, False).tolist())
        found = trace.regenerate(target, mask=hidden, max_new_tokens=4)
        expected = plain_loop(plain, kept, lambda _, c: c not in hidden, 4)  # noqa: B023
        assert list(found.token_ids) == expected, round_
        some = edges.pairs[rng.random(len(edges.pairs)) < 0.4]
        pairs = {tuple(p) for p in some.tolist()}
        gone = {s for s, r in pairs if r == target.predictor}
        frame = set(edges.frame.tolist())

        def without(row, column, pairs=pairs, gone=gone):
            return (column, row) not in pairs and not (row >= target.start and column in gone)

        def only(row, column, pairs=pairs, gone=gone, frame=frame):
            if row > target.predictor:
                return column in gone or column in frame or column >= target.predictor
            return (column, row) in pairs or column in frame

        found = trace.regenerate(target, cuts=cut(some), max_new_tokens=4)
        assert list(found.token_ids) == plain_loop(plain, kept, without, 4), round_
        found = trace.regenerate(target, cuts=all_but(some), max_new_tokens=4)
        assert list(found.token_ids) == plain_loop(plain, kept, only, 4), round_


@pytest.mark.parametrize("name", ["llava", "gemma3", "mllama"])
def test_the_first_new_token_is_the_first_choice_of_the_same_mask_or_cut(name):
    _, trace = case(name)
    target = trace.target(2)
    edges = trace.edges(target)
    rng = np.random.default_rng(0)
    positions = [p for p in {int(p) for p in edges.pairs[:, 0]} if p < target.predictor]
    for masking in ("remove", "edges", "neutral"):
        hidden = rng.choice(positions, len(positions) // 2, replace=False)
        keep = np.ones((1, len(trace.layout)), dtype=bool)
        keep[0, hidden] = False
        expected = int(trace.evaluate(keep, target, masking=masking).argmax[0, 0])
        assert trace.regenerate(target, mask=hidden, masking=masking).token_ids[0] == expected
    for one in (cut(edges.pairs[::2]), all_but(edges.pairs[::3]), all_but([])):
        expected = int(trace.evaluate_edges(one, target).argmax[0, 0])
        assert trace.regenerate(target, cuts=one).token_ids[0] == expected


def test_blocked_positions_stay_blocked():
    _, trace = case("llava")
    target = trace.target(2)
    image = trace.layout.positions("image").tolist()
    blocked = trace.blocked(image).regenerate(target)
    assert blocked.token_ids == trace.regenerate(target, mask=image).token_ids


def test_what_cannot_be_regenerated_is_refused():
    _, trace = case("llava")
    target = trace.target(2)
    edges = trace.edges(target)
    special = int(edges.frame[0])
    for options, message in (
        ({"start": 3}, "start"),
        ({"start": -1}, "start"),
        ({"mask": [special]}, "special"),
        ({"mask": [target.predictor]}, "predicts"),
        ({"mask": [target.start - 1], "start": 0}, "anew"),
        ({"cuts": cut([(int(edges.pairs[0, 0]), target.predictor)]), "start": 0}, "anew"),
        ({"masking": "paint"}, "masking"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ):
        with pytest.raises(OptionError, match=message):
            trace.regenerate(target, **options)
    with pytest.raises(EdgeError):
        trace.regenerate(target, cuts=cut([(5, 3)]))
    with pytest.raises(PromptError):
        trace.regenerate(target, max_new_tokens=1_000_000)
    with pytest.raises(UnsupportedModelError):
        hybrid = case("qwen3_5")[1]
        hybrid.regenerate(2, mask=[int(hybrid.layout.positions("image")[0])])
