"""What is said in words: numbers agree with their nouns, and no token is passed off as a word."""

from __future__ import annotations

import dataclasses

import pytest

from causal_lvlm.cli.results import describe
from causal_lvlm.explanation import wording
from tests.viz.fakes import explaining_set, fake_explanation, fake_view

VIEW = fake_view()


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ((" blue",), "says “blue”"),
        (("dark", "blue"), "says “dark blue”"),
        (("</s>",), "says nothing more"),
        (("<|im_end|>", "blue"), "says nothing more"),
        (("dark", "</s>"), "says “dark” and ends"),
        (("<b>",), "says “<b>”"),
    ],
)
def test_the_end_of_an_answer_is_no_word(tokens, text):
    assert wording.said(tokens) == text


@pytest.mark.parametrize(
    ("rate", "count", "mode", "text"),
    [
        (0.0, 20, "necessary", "0 of 20 random sets of that size change it"),
        (1 / 3, 3, "necessary", "1 of 3 random sets of that size change it"),
        (1.0, 1, "necessary", "1 of 1 random set of that size changes it"),
        (0.05, 20, "sufficient", "1 of 20 random sets of that size suffice alone"),
        (None, 0, "necessary", ""),
    ],
)
def test_random_controls_are_counted(rate, count, mode, text):
    item = explaining_set("joint", (13,), random_flip_rate=rate, n_random=count)
    assert wording.random_controls(item, mode) == text


def test_members_are_named():
    word = VIEW.layout.tokens.index("circle")
    explanation = fake_explanation(VIEW)

    def named(*units):
        return wording.members(explanation, explaining_set("joint", *units))

    assert named((13,), (word,)) == "1 image patch and the word “circle”"
    assert named((13,), (14,)) == "2 image patches"
    assert named((13, 14)) == "1 image block of patches"
    assert named((13, 14), (15, 16)) == "2 image blocks of patches"
    assert named((word - 1,), (word,)) == "the words “the”, “circle”"
    assert named() == ""


def test_the_sentence_of_an_answer_that_ends():
    word = VIEW.layout.tokens.index("circle")
    sets = {"joint": explaining_set("joint", (word,), predicted_after=("</s>",))}
    explanation = fake_explanation(VIEW, sets=sets, model_runs=1)
    text = explanation.sentence()
    assert "With it masked, the model says nothing more (p of “red” 0.97 → 0.02)." in text
    assert "1 model run in all" in text and "</s>" not in text
    end = dataclasses.replace(explanation.target, text="</s>")
    text = dataclasses.replace(explanation, target=end).sentence()
    assert text.startswith("The model ends its answer here because of the word “circle”.")


def test_other_modes_and_testers_have_sentences_of_their_own():
    word = VIEW.layout.tokens.index("circle")
    same = {"joint": explaining_set("joint", (13,), (word,), predicted_after=("red",))}
    text = fake_explanation(VIEW, sets=same, tester="drop").sentence()
    assert "With them masked, the model is less sure (p of “red” 0.97 → 0.02)" in text
    text = fake_explanation(VIEW, sets=same, mode="sufficient").sentence()
    assert "when it is given no more than 1 image patch and the word “circle”" in text
    assert "with all other candidates removed from the input" in text
    none = {"joint": explaining_set("joint", verified=False, outcome="max_runs")}
    assert "budget of model runs was used up" in fake_explanation(VIEW, sets=none).sentence()


def test_the_terminal_has_a_line_per_set():
    first, joint, image, text = describe(fake_explanation(VIEW)).splitlines()
    assert first.startswith("The model says “red”")
    assert joint == (
        "  Whole input: 1 image patch and the word “circle”; verified, minimum; 1 of 20 random "
        "sets of that size change it; found by the graph of head 1, radius 1; 64 model runs."
    )
    assert "3 image patches; verified, irreducible" in image
    assert "found by a search outside the graph" in image
    assert text.startswith("  Within the text: nothing verified") and text.endswith("9 model runs.")
