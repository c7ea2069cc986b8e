"""Wordings: what is matched, what is compared, and when there is nothing to compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import causal_lvlm as cl
from causal_lvlm.methods import rerun
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.matching import find_again, match_units
from causal_lvlm.metrics.rewording import _paired, rewording_stability, shuffled_words
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.explanation import fakes


def test_shuffles_are_other_orders_of_the_same_words_and_end_as_before():
    question = "what color is the big circle ?"
    found = shuffled_words(question, 20, seed=3)
    assert len(set(found)) == 20 and question not in found
    for text in found:
        assert sorted(text.split()) == sorted(question.split()) and text.endswith(" ?")
    assert found == shuffled_words(question, 20, seed=3) != shuffled_words(question, 20, seed=4)


def test_few_words_have_few_orders():
    assert sorted(shuffled_words("a b c!", 99)) == sorted(
        ["a c b!", "b a c!", "b c a!", "c a b!", "c b a!"]
    )
    assert shuffled_words("red red red?", 3) == () == shuffled_words("red", 3)


def layout_of(words, answer=("red",), ids=None):
    """2 x 3 image, words of a prompt, a generated answer; ids by text unless given."""
    base = fakes.layout(2, 3, len(words))
    n = len(base) - 1 - len(words) - 1
    tokens = (*base.tokens[:n], *words, ":", *answer)
    number = {text: 100 + i for i, text in enumerate(["red", "blue", "Red", "dark"])}
    token_ids = [0] * (len(tokens) - len(answer)) + [number[a] for a in answer]
    extra = len(answer) - 1
    return replace(
        base,
        tokens=tokens,
        token_ids=np.array(token_ids if ids is None else ids),
        modality=np.array([*base.modality, *["generated"] * extra]),
        words=np.array([*base.words, *range(50, 50 + extra)]),
    )


@dataclass
class Answering(fakes.FakeTrace):
    answers: dict = None
    answer: str = "red"
    scores: np.ndarray = None

    def __post_init__(self):
        self.model = SimpleNamespace(run=self.run)

    @property
    def images(self):
        return ("picture",)

    @property
    def parameters(self):
        return {"max_new_tokens": 5}

    def run(self, picture, prompt, *, max_new_tokens, chat_template):
        assert (picture, max_new_tokens, chat_template) == ("picture", 5, None)
        return self.answers[prompt]


def trace_of(words, scores, answer=("red",), answers=None):
    return Answering(
        lambda visible: True, layout_of(words, answer), answers=answers,
        answer=" ".join(answer), scores=np.asarray(scores, dtype=float),
    )  # fmt: skip


def case_of(trace):
    units = candidate_units(trace.layout, resolve_target(trace.layout, 0))
    return Case(trace, 0, units=units)


def own_scores(trace, target, units):
    return trace.scores[: len(units)]


def test_words_are_matched_by_text_and_occurrence_and_cells_by_place():
    first = layout_of(["the", "red", "the", "end"])
    second = layout_of(["the", "END", "a", "the", "the"])
    units = [candidate_units(one, resolve_target(one, 0)) for one in (first, second)]
    pairs = match_units(first, units[0], second, units[1])
    assert pairs == (*((i, i) for i in range(6)), (6, 6), (8, 9), (9, 7))


def test_a_target_is_found_by_its_tokens_or_by_its_text():
    target = resolve_target(layout_of(["x"], ("red",)), 0)
    assert find_again(layout_of(["x"], ("dark", "red")), target).positions == (10,)
    assert find_again(layout_of(["x"], ("dark", "Red")), target).positions == (10,)
    assert find_again(layout_of(["x"], ("blue",)), target) is None


def test_agreement_is_the_rank_correlation_of_matched_units():
    mine = [6, 5, 4, 3, 2, 1, 9, 8, 7]
    same = trace_of(["b", "a", "c"], [6, 5, 4, 3, 2, 1, 8, 9, 7])
    other = trace_of(["a", "b", "z"], [1, 2, 3, 4, 6, 5, 0, 1, 9], ("dark", "red"))
    changed = trace_of(["a", "b", "c"], mine, ("blue",))
    trace = trace_of(["a", "b", "c"], mine, answers={"p": same, "q": other, "r": changed})
    found = rewording_stability(case_of(trace), own_scores, rerun, prompts=["p", "q", "r"])
    rho = stats.spearmanr(mine[:6], [1, 2, 3, 4, 6, 5]).statistic
    assert found.value == found.detail["image_spearman"] == pytest.approx((1 + rho) / 2)
    assert found.detail["image_top"] == pytest.approx(0.5)
    assert found.detail["word_spearman"] == pytest.approx((1.0 - 1.0) / 2)
    assert found.detail["target_kept"] == pytest.approx(2 / 3)
    assert found.detail["same_answer"] == pytest.approx(1 / 3)
    assert [row["answer"] for row in found.detail["wordings"]] == ["red", "dark red", "blue"]


def test_shuffled_maps_agree_less():
    rng = np.random.default_rng(0)
    mine = np.arange(9.0)
    answers = {"same": trace_of(["a", "b", "c"], mine)}
    answers |= {str(k): trace_of(["a", "b", "c"], rng.permutation(mine)) for k in range(100)}
    case = case_of(trace_of(["a", "b", "c"], mine, answers=answers))
    assert rewording_stability(case, own_scores, rerun, prompts=["same"]).value == pytest.approx(
        1.0
    )
    shuffled = rewording_stability(case, own_scores, rerun, prompts=[str(k) for k in range(100)])
    assert abs(shuffled.value) < 0.2


def test_without_the_target_there_is_nothing_to_agree_on():
    trace = trace_of(["a"], np.arange(7), answers={"p": trace_of(["a"], np.arange(7), ("blue",))})
    found = rewording_stability(case_of(trace), own_scores, rerun, prompts=["p"])
    assert found.value is None and "no wording" in found.detail["undefined"]
    with pytest.raises(ValueError, match="prompts must"):
        rewording_stability(case_of(trace), own_scores, rerun, prompts="p")


def test_sets_are_compared_with_members_without_partner_as_different():
    """Own set: cell 0 and the word "a"; the other one: cell 0 and a word that has no partner."""
    first, second = trace_of(["a", "b"], []), trace_of(["z", "b"], [])
    mine = case_of(first).units
    units = candidate_units(second.layout, resolve_target(second.layout, 0))
    pairs = match_units(first.layout, mine, second.layout, units)
    a, b = _paired(mine, (1, 7), units, (1, 7), pairs)
    assert (len(a & b), len(a | b)) == (1, 3)
    a, b = _paired(mine, (1, 8), units, (1, 8), pairs)
    assert a == b


@pytest.fixture(scope="module")
def asked(embedded_model):
    sample = sample_inputs()[0]
    return embedded_model.run(sample.image_path, sample.prompt), sample.prompt


def test_the_same_wording_gives_the_same_map(asked):
    trace, prompt = asked
    case = Case(trace, 0)
    found = rewording_stability(case, "relevancy", rerun, prompts=[prompt])
    assert found.value == pytest.approx(1.0) and found.detail["same_answer"] == 1.0
    assert found.detail["word_spearman"] == pytest.approx(1.0) and found.asked == 2


def test_the_same_wording_gives_the_same_set(asked):
    trace, prompt = asked
    made = cl.explain(trace, 0, max_runs=60, n_random=0, max_tests=5000, candidates="text")
    found = rewording_stability(Case(trace, 0), made, rerun, prompts=[prompt])
    assert found.detail["compared"] == "sets"
    assert found.value == (1.0 if made.main.verified else None)


def test_word_order_of_the_embedded_model_can_be_asked(asked):
    trace, prompt = asked
    found = rewording_stability(
        Case(trace, 0), "attention", rerun, prompts=shuffled_words(prompt, 3, seed=0)
    )
    assert len(found.detail["wordings"]) == 3 and 0.0 <= found.detail["same_answer"] <= 1.0


def test_a_target_said_several_times_is_the_same_one_by_its_number():
    mine = layout_of(["x"], ("red", "blue", "dark", "red", "dark"))
    second = resolve_target(mine, 3)
    same = layout_of(["x"], ("dark", "red", "blue", "red"))
    once = layout_of(["x"], ("dark", "red"))
    start = same.n_prompt
    assert find_again(same, second, mine).positions == (start + 3,)
    assert find_again(same, resolve_target(mine, 0), mine).positions == (start + 1,)
    assert find_again(once, second, mine).positions == (once.n_prompt + 1,)
    assert find_again(same, second).positions == (start + 1,)
