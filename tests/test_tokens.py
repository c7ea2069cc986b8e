"""Layouts, targets and units: who is who in the sequence."""

from __future__ import annotations

import numpy as np
import pytest

from causal_lvlm.errors import TargetError
from causal_lvlm.tokens import Target, TokenLayout, candidate_units, resolve_target
from tests.explanation.fakes import layout


def spoken(*generated: str, words: list[int] | None = None) -> TokenLayout:
    n = len(generated)
    numbers = words or list(range(n))
    return TokenLayout(
        ("<s>", "hi", ":", *generated),
        np.arange(3 + n),
        np.array(["special", "prompt", "special", *["generated"] * n]),
        (),
        np.array([-1, 0, -1, *[k + 1 for k in numbers]]),
        3,
    )


@pytest.mark.parametrize(
    ("target", "positions"),
    [
        ("circle", (5,)), ("Circle", (5,)), ("red circle", (4, 5)), (0, (3,)), (-1, (5,)),
        (slice(0, 2), (3, 4)), (lambda lay: 1, (4,)), (np.int64(2), (5,)),
    ],
)  # fmt: skip
def test_targets_resolve_to_generated_positions(target, positions):
    assert resolve_target(spoken("a", "red", "circle"), target).positions == positions


def test_sub_word_tokens_are_matched_as_one_word():
    said = spoken(" str", "aw", "berry", " pie", words=[0, 0, 0, 1])
    found = resolve_target(said, "strawberry")
    assert found.positions == (3, 4, 5) and found.text == "strawberry"
    for part in ("berry", "str", "straw"):  # a part of a word is no word
        with pytest.raises(TargetError):
            resolve_target(said, part)
    assert resolve_target(said, "strawberry pie").positions == (3, 4, 5, 6)
    with pytest.raises(TargetError):
        resolve_target(said, "strawberrypie")


def test_a_repeated_word_means_its_first_place_and_says_so():
    found = resolve_target(spoken("a", "cup", "a", "spoon"), "a")
    assert found.positions == (3,) and found.occurrence == (1, 2)


@pytest.mark.parametrize(
    "target", ["green", "", 3, -4, slice(2, 2), slice(0, 3, 2), 1.5, None, True]
)
def test_a_target_that_is_not_there_is_refused_with_what_is(target):
    with pytest.raises(TargetError, match="circle"):
        resolve_target(spoken("a", "red", "circle"), target)


def test_a_target_of_prompt_positions_is_refused():
    with pytest.raises(TargetError, match="not generated"):
        resolve_target(spoken("a"), Target((1,), (1,), "hi"))
    with pytest.raises(TargetError, match="consecutive"):
        resolve_target(spoken("a", "b", "c"), Target((3, 5), (3, 5), "a c"))
    with pytest.raises(TargetError, match="consecutive"):
        resolve_target(spoken("a"), Target((), (), "x"))
    with pytest.raises(TargetError, match="another trace"):
        resolve_target(spoken("a"), Target((3,), (99,), "b"))


def test_the_frame_and_the_predicting_position_are_never_candidates():
    said = spoken("a", "red", "circle")
    target = resolve_target(said, "circle")
    units = candidate_units(said, target)
    assert units.members == ((1,), (3,))  # not <s>, not ':', not 'red' which predicts 'circle'
    with pytest.raises(TargetError, match="cannot be masked"):
        candidate_units(said, target, candidates=[2])


def test_pooled_units_partition_the_image_and_keep_words_single():
    shape = layout(5, 4, 2)
    target = resolve_target(shape, 0)
    units = candidate_units(shape, target, pool=2)
    flat = [p for m in units.members for p in m]
    assert sorted(flat) == list(range(1, 23)) and len(flat) == len(set(flat))
    kinds = list(zip(units.members, units.modality, strict=True))
    assert [m for m, kind in kinds if kind == "prompt"] == [(21,), (22,)]
    blocks = {m for m, kind in kinds if kind == "image"}
    assert len(blocks) == 6 and (1, 2, 5, 6) in blocks and (17, 18) in blocks


def test_masks_say_what_stays():
    shape = layout()
    units = candidate_units(shape, resolve_target(shape, 0))
    keep = units.keep_without([(), (0, 5)], len(shape))
    assert keep[0].all() and np.flatnonzero(~keep[1]).tolist() == [1, 6]


def test_layout_arrays_are_read_only_and_shapes_are_checked():
    shape = layout()
    with pytest.raises(ValueError, match="read-only"):
        shape.token_ids[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        shape.grids[0].boxes[0, 0] = 1
    with pytest.raises(ValueError, match="there are"):
        TokenLayout(("a",), np.arange(2), np.array(["prompt"]), (), np.array([0]), 1)
    with pytest.raises(ValueError, match="unknown modality"):
        TokenLayout(("a",), np.arange(1), np.array(["sound"]), (), np.array([0]), 1)


def test_patch_boxes_and_labels_follow_the_grid():
    shape = layout(2, 3, 1)
    assert shape.patch_box(1) == (0, 0, 10, 10) and shape.patch_box(6) == (20, 10, 30, 20)
    assert shape.patch_box(0) is None and shape.label(6) == "image[1,2]" and shape.label(7) == "w0"
