"""What is said in words: numbers agree with their nouns, and no token is passed off as a word."""

from __future__ import annotations

import dataclasses

import pytest

from causal_lvlm.cli.results import describe
from causal_lvlm.explanation import wording
from causal_lvlm.explanation.names import TokenNames
from causal_lvlm.viz.explanation_section import explanation_html
from causal_lvlm.viz.pictures import pictures_of
from causal_lvlm.viz.wording import badges_of
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
    view = fake_view(("red",))
    word = view.layout.tokens.index("circle")
    explanation = fake_explanation(view)

    def named(*units):
        return wording.members(explanation.layout, explaining_set("joint", *units))

    assert named((13,), (word,)) == "1 image patch and the word “circle”"
    assert named((13,), (14,)) == "2 image patches"
    assert named((13, 14)) == "1 image block of patches"
    assert named((13, 14), (15, 16)) == "2 image blocks of patches"
    assert named((word - 1,), (word,)) == "the words “the”, “circle”"
    assert named() == ""
    # The question mark is no word.
    assert named((word + 1,)) == "the token “?”"
    assert named((word,), (word + 1,)) == "the word “circle” and the token “?”"


@pytest.mark.parametrize(
    ("tokens", "unit", "text"),
    [
        (["a", "green", "cup", "."], (3,), "the token “.”"),
        (["¿", "qué", "…"], (0,), "the token “¿”"),
        (["a", " ", "b"], (1,), "the token “ ”"),
        (["a", "\n", "b"], (1,), "the token “\\n”"),
        (["x", "²", "y"], (1,), "the word “²”"),
        (["green", "green"], (1,), "the word “green” (2nd of 2, in the prompt)"),
        ([".", "a", "."], (2,), "the token “.” (2nd of 2, in the prompt)"),
        (["a"] * 25, (10,), "the word “a” (11th of 25, in the prompt)"),
        (["a"] * 25, (21,), "the word “a” (22nd of 25, in the prompt)"),
        (["red", "\n", "red", "red"], (3,), "the word “red” (3rd of 3, in line 2 of the prompt)"),
        (["red", "\n", "red"], (0,), "the word “red” (1st of 2, in line 1 of the prompt)"),
    ],
)
def test_what_is_no_word_is_called_a_token_and_repeated_ones_are_told_apart(tokens, unit, text):
    names = TokenNames(tokens, ["prompt"] * len(tokens))
    assert names.listed([unit]) == [text]


def test_prompt_and_answer_are_counted_through_and_named():
    tokens = ["<s>", "is", "the", " cup", "green", "?", ":", "a", "green", "cup", "</s>"]
    kinds = ["special", *["prompt"] * 5, "special", *["generated"] * 3, "special"]
    names = TokenNames(tokens, kinds)
    assert names.quoted((4,)) == "“green” (1st of 2, in the prompt)"
    assert names.quoted((9,)) == "“cup” (2nd of 2, in the answer)"
    assert names.quoted((1,)) == "“is”"


def test_a_piece_of_a_word_is_no_word():
    names = TokenNames(["the", " Par", "is", " is"], ["prompt"] * 4, [0, 1, 1, 2])
    assert names.listed([(1,)]) == ["the token “Par” (of “Paris”)"]
    assert names.listed([(2,)]) == ["the token “is” (of “Paris”; 1st of 2, in the prompt)"]
    assert names.listed([(3,)]) == ["the word “is” (2nd of 2, in the prompt)"]
    assert names.listed([(1, 2)]) == ["the word “Paris”"]


def test_a_target_that_is_said_twice_is_numbered():
    view = fake_view(("a", "green", "cup", "and", "a", "green", "star"))
    first = fake_explanation(view, 1, sets={"joint": explaining_set("joint", (13,))})
    second = fake_explanation(view, 5, sets={"joint": explaining_set("joint", (13,))})
    assert first.sentence().startswith("The model says “green” (1st of 2, in the answer) because")
    assert second.sentence().startswith("The model says “green” (2nd of 2, in the answer) because")
    assert "(p of “green” 0.97 → 0.02)" in second.sentence()
    once = fake_explanation(view, 2, sets={"joint": explaining_set("joint", (13,))})
    assert once.sentence().startswith("The model says “cup” because of 1 image patch.")


def test_the_sentence_of_an_answer_that_ends():
    view = fake_view(("red",))
    word = view.layout.tokens.index("circle")
    sets = {"joint": explaining_set("joint", (word,), predicted_after=("</s>",))}
    explanation = fake_explanation(view, sets=sets, model_runs=1)
    text = explanation.sentence()
    assert "With it masked, the model says nothing more (p of “red” 0.97 → 0.02)." in text
    assert "1 model run in all" in text and "</s>" not in text
    end = dataclasses.replace(explanation.target, text="</s>")
    text = dataclasses.replace(explanation, target=end).sentence()
    assert text.startswith("The model ends its answer here because of the word “circle”.")


def test_other_modes_and_testers_have_sentences_of_their_own():
    word = VIEW.layout.tokens.index("circle")
    same = {"joint": explaining_set("joint", (13,), (word,), predicted_after=("red",))}
    options = {"tester": "drop", "parameters": {"drop_ratio": 0.25}}
    text = fake_explanation(VIEW, sets=same, **options).sentence()
    assert text.startswith("The model is as sure of “red” as it is because of 1 image patch and")
    assert (
        "With them masked, the probability of “red” falls below 0.25 of what it was, and the model "
        "still says “red” (p of “red” 0.97 → 0.02)." in text
    )
    text = fake_explanation(VIEW, sets=same, mode="sufficient").sentence()
    assert "when it is given no more than 1 image patch and the word “circle”" in text
    assert "with all other candidates removed from the input" in text
    none = {"joint": explaining_set("joint", verified=False, outcome="max_runs")}
    assert "budget of model runs was used up" in fake_explanation(VIEW, sets=none).sentence()


PLAIN = fake_explanation(VIEW)
MASKED = {
    "remove": "removed from the input", "edges": "hidden from the rows",
    "neutral": "replaced by an average embedding", "pixels-blur": "blurred in the image",
    "pixels-mean": "mean colour", "another": "masked (another)",
}  # fmt: skip
WITHIN = {"joint": "", "image": "Within the image", "text": "Within the text",
          "custom": "Among the chosen positions"}  # fmt: skip
FOUND = {"verified": True, "outcome": "explained", "predicted_after": ("green",)}
OUTCOMES = [
    FOUND, {"outcome": "not_found", "n_tried": 9}, {"outcome": "not_maskable", "n_tried": 9},
    {"outcome": "not_maskable"}, {"outcome": "max_runs"}, {"outcome": "interrupted"},
]  # fmt: skip


@pytest.mark.parametrize("tester", ["flip", "drop", "contrast"])
@pytest.mark.parametrize("mode", ["necessary", "sufficient"])
@pytest.mark.parametrize("scope", WITHIN)
@pytest.mark.parametrize("options", OUTCOMES)
def test_every_sentence_states_its_question(tester, mode, scope, options):
    found = explaining_set(scope, (13,), (14,), **{"verified": False, **options})
    rival = " blue" if tester == "contrast" else None
    for masking, masked in MASKED.items():
        text = dataclasses.replace(
            PLAIN, sets={scope: found}, mode=mode, tester=tester, masking=masking, against=rival
        ).sentence()
        assert masked in text
        assert text.startswith(WITHIN[scope]) and not text[0].islower()
        assert "“red”" in text
        if tester == "contrast":
            assert "“blue”" in text
        elif tester == "drop":
            assert "of what it was" in text
        if mode == "sufficient":
            parts = ("no more than", "everything else", "every candidate")
            assert any(part in text for part in parts)


@pytest.mark.parametrize("mode", ["necessary", "sufficient"])
def test_of_one_member_nobody_says_that_no_smaller_set_does_it(mode):
    one = explaining_set("joint", (13,))
    explanation = fake_explanation(VIEW, sets={"joint": one}, mode=mode)
    for text in (explanation.sentence(), describe(explanation), explanation._repr_html_(),
                 str(badges_of(one))):  # fmt: skip
        assert "smaller" not in text and "minimum" not in text
    two = fake_explanation(VIEW, sets={"joint": explaining_set("joint", (13,), (14,))}, mode=mode)
    assert "no smaller set of the candidates does it" in two.sentence()
    assert "verified, minimum" in describe(two)


def test_without_a_set_it_is_said_what_was_tried():
    def said(**options):
        item = explaining_set("joint", verified=False, **options)
        return fake_explanation(VIEW, sets={"joint": item}).sentence(), wording.outcome(item)

    text, clause = said(outcome="not_maskable", n_tried=63)
    assert "all 63 sets were tried" in text and "all 63 sets were tried" in clause
    assert "it comes from the model's prior" in text
    text, clause = said(outcome="not_found", n_tried=41)
    assert "was found in 137 model runs" in text and "40 smaller sets were tried in vain" in text
    assert "comes from" not in text and "Sets that were not tried may change it" in text
    assert clause.startswith("nothing found") and "40 smaller sets were tried in vain" in clause
    text, clause = said(outcome="not_found", n_tried=2, ended="time_limit")
    assert "1 smaller set was tried in vain before the time limit came" in text
    text, clause = said(outcome="not_found", n_tried=1, ended="max_runs")
    assert "no smaller set was tried before the budget of model runs ended" in text
    text, clause = said(outcome="not_maskable")  # a file of an older version
    assert "smaller sets were not tried" in text and "prior" not in text
    assert "smaller sets were not tried" in clause


@pytest.mark.parametrize(
    ("tester", "words"), [("drop", "improbable enough"), ("contrast", "the rival more likely")]
)
def test_clauses_claim_no_more_than_their_tester_asked(tester, words):
    """With everything masked the prediction may change, and the tester still not be met."""
    random = {"random_flip_rate": 0.1, "n_random": 20}
    sets = {
        "joint": explaining_set("joint", verified=False, outcome="not_found", n_tried=5),
        "image": explaining_set("image", (13,), **random),
        "text": explaining_set("text", verified=False, outcome="not_maskable", n_tried=3),
    }
    explanation = fake_explanation(VIEW, sets=sets, tester=tester, against=" blue")
    page = "".join(str(part) for part in (
        describe(explanation), explanation_html(VIEW, explanation, ()),
        badges_of(sets["joint"], "necessary", tester),
    ))  # fmt: skip
    assert "the prediction" not in page and "size change it" not in page
    assert words in page and "2 of 20 random sets of that size do it" in page


def test_the_terminal_has_a_line_per_set():
    first, joint, image, text = describe(fake_explanation(VIEW)).splitlines()
    assert first.startswith("The model says “red”")
    assert joint == (
        "  Whole input: 1 image patch and the word “circle” (1st of 2, in the prompt); verified, "
        "minimum; 1 of 20 random sets of that size change it; found by the graph of head 1, "
        "radius 1; 64 model runs."
    )
    assert "3 image patches; verified, irreducible" in image
    assert "found by a search outside the graph" in image
    assert text.startswith("  Within the text: nothing verified") and text.endswith("9 model runs.")


def test_figures_say_what_the_set_had_to_do():
    word = VIEW.layout.tokens.index("circle")
    sets = {"joint": explaining_set("joint", (13,), (word,))}
    contrast = fake_explanation(VIEW, sets=sets, tester="contrast", against=" blue")
    captions = {p.name: (p.caption, p.alt) for p in pictures_of(VIEW, contrast)}
    assert (
        "with it removed from the input, “blue” is more likely than “red”"
        in (captions["patches-joint"][0])
    )
    assert "the word “circle” (1st of 2, in the prompt)" in captions["prompt"][1]
