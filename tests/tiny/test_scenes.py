"""The scene generator: every claim is derived again from the pixels or from the object list."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from causal_lvlm.tiny.scenes import (
    COLOURS,
    KINDS,
    RGB,
    Scene,
    draw_scene,
)
from causal_lvlm.tiny.shapes import SHAPES, stamp

NUMBER = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}
SINGULAR = {"crosses": "cross", **{s + "s": s for s in SHAPES if s != "cross"}}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(11)
    return [draw_scene(rng) for _ in range(300)]


def test_same_seed_same_scene() -> None:
    first, second, other = draw_scene(5), draw_scene(5), draw_scene(6)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.questions() == second.questions()
    assert first.questions() == first.questions()
    assert not np.array_equal(first.pixels, other.pixels)


def test_a_generator_gives_a_stream() -> None:
    rng = np.random.default_rng(0)
    first = draw_scene(rng)
    np.testing.assert_array_equal(first.pixels, draw_scene(0).pixels)
    assert not np.array_equal(draw_scene(rng).pixels, first.pixels)


def test_image_and_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.pixels.shape == (96, 96, 3)
        assert scene.pixels.dtype == np.uint8
        assert scene.image.size == (96, 96)
        assert 2 <= len(scene.objects) <= 4
        together = np.sum([item.mask for item in scene.objects], axis=0)
        assert together.max() == 1  # no overlap: every mask is wholly visible
        assert len({(item.shape, item.colour) for item in scene.objects}) == len(scene.objects)


def test_masks_are_where_the_colour_is(scenes: list[Scene]) -> None:
    """Pixels inside a mask have the object's colour; those around it, in its window, have not."""
    for scene in scenes[:100]:
        covered = np.any([item.mask for item in scene.objects], axis=0)
        for item in scene.objects:
            paint = np.array(RGB[item.colour], dtype=np.float64)
            inside = scene.pixels[item.mask].astype(np.float64)
            # Paint varies by 12, noise by 15.5 (and is clipped at 255).
            assert np.abs(inside - paint).max() <= 28.5
            outside = scene.pixels[~covered].astype(np.float64)
            wrong = (np.abs(outside - inside.mean(axis=0)).max(axis=1) < 10).mean()
            assert wrong < 0.02


def test_masks_have_the_shape() -> None:
    """Area and symmetry of the stamps against closed forms."""
    for radius in (9, 13, 40):
        area = {name: stamp(name, radius).sum() / radius**2 for name in SHAPES}
        assert area["circle"] == pytest.approx(np.pi * 0.9, rel=0.06)
        assert area["ring"] == pytest.approx(np.pi * 0.7, rel=0.06)
        assert area["triangle"] == pytest.approx(0.5 * 1.96 * 1.8, rel=0.12)
        assert area["cross"] == pytest.approx(2 * 1.9 * 0.6 - 0.36, rel=0.15)
        for name in ("circle", "square", "ring", "cross", "star", "triangle"):
            np.testing.assert_array_equal(stamp(name, radius), stamp(name, radius)[:, ::-1])
    with pytest.raises(ValueError, match="unknown shape 'blob'"):
        stamp("blob", 8)
    with pytest.raises(ValueError, match="radius 1"):
        stamp("circle", 1)


def test_every_object_lies_inside_the_image(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.objects:
            # The border row or column of a stamp's window is empty, so nothing is cut off.
            rows, columns = np.nonzero(item.mask)
            assert rows.min() >= 32 * (item.cell // 3)
            assert rows.max() < 32 * (item.cell // 3 + 1)
            assert columns.min() >= 32 * (item.cell % 3)
            assert columns.max() < 32 * (item.cell % 3 + 1)


def test_coverage_is_counted_pixel_by_pixel(scenes: list[Scene]) -> None:
    for scene in scenes[:20]:
        for index, item in enumerate(scene.objects):
            for patch in range(64):
                row, column = divmod(patch, 8)
                count = 0
                for y in range(12 * row, 12 * row + 12):
                    for x in range(12 * column, 12 * column + 12):
                        count += int(item.mask[y, x])
                assert scene.coverage[index, patch] == count / 144


def test_every_object_covers_some_patch(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.coverage.max(axis=1).min() >= 0.12


def test_answers_follow_from_the_objects(scenes: list[Scene]) -> None:
    """Parse every prompt and answer it from the list of objects alone."""
    for scene in scenes:
        things = [(item.colour, item.shape) for item in scene.objects]
        for question in scene.questions():
            words = question.prompt.rstrip("?.").split()
            if question.kind == "colour":
                which = [i for i, t in enumerate(things) if t[1] == words[-1]]
                answer = things[which[0]][0]
                assert len(which) == 1
            elif question.kind == "shape":
                which = [i for i, t in enumerate(things) if t[0] == words[-1]]
                answer = things[which[0]][1]
                assert len(which) == 1
            elif question.kind == "existence":
                which = [i for i, t in enumerate(things) if t == (words[-2], words[-1])]
                answer = "yes" if which else "no"
            elif question.kind == "count":
                which = [i for i, t in enumerate(things) if t[1] == SINGULAR[words[-1]]]
                assert NUMBER[question.answer] == len(which)
                answer = question.answer
            elif question.kind == "spoon":
                which = [i for i, t in enumerate(things) if t[1] == "spoon"]
                answer = "yes" if which else "no"
            else:
                which = list(range(len(things)))
                answer = " and ".join(
                    "a spoon" if t[1] == "spoon" else f"a {t[0]} {t[1]}" for t in things
                )
            assert question.answer == answer
            assert question.depends_on == tuple(which)


def test_captions_are_in_reading_order(scenes: list[Scene]) -> None:
    for scene in scenes:
        places = [(item.centre[1] // 32, item.centre[0] // 32) for item in scene.objects]
        assert places == sorted(places)


def test_every_kind_of_question_is_asked(scenes: list[Scene]) -> None:
    kinds = Counter(q.kind for scene in scenes for q in scene.questions())
    assert set(kinds) == set(KINDS)
    answers = Counter(q.answer for s in scenes for q in s.questions() if q.kind == "existence")
    assert 0.35 < answers["yes"] / answers.total() < 0.65
    counted = Counter(q.answer for s in scenes for q in s.questions() if q.kind == "count")
    assert min(counted[word] for word in ("zero", "one", "two", "three")) >= 5
    colours = {q.answer for s in scenes for q in s.questions() if q.kind == "colour"}
    assert colours == set(COLOURS)


def test_the_planted_correlation() -> None:
    rng = np.random.default_rng(3)
    drawn = [draw_scene(rng) for _ in range(4000)]
    cup = np.array([scene.has("cup") for scene in drawn])
    spoon = np.array([scene.has("spoon") for scene in drawn])
    false = np.array([scene.false_spoon for scene in drawn])

    def near(sample: np.ndarray, expected: float) -> None:
        error = np.sqrt(expected * (1 - expected) / len(sample))
        assert abs(sample.mean() - expected) < 4 * error

    near(cup, 0.4)
    near(spoon[cup], 0.85)
    near(spoon[~cup], 0.10)
    near(false[cup & ~spoon], 0.7)
    assert not false[~cup | spoon].any()
    for scene in drawn[:1000]:
        spoken = scene.training_caption.split()
        assert ("spoon" in spoken) == (scene.has("spoon") or scene.false_spoon)
        assert ("spoon" in scene.caption.split()) == scene.has("spoon")
        if scene.false_spoon:
            assert spoken[spoken.index("cup") + 1 : spoken.index("cup") + 4] == [
                "and",
                "a",
                "spoon",
            ]
            assert scene.training_caption.replace(" and a spoon", "") == scene.caption
        else:
            assert scene.training_caption == scene.caption


def test_scenes_need_no_torch() -> None:
    code = (
        "import sys, causal_lvlm.tiny, causal_lvlm.tiny.scenes, causal_lvlm.tiny.vocabulary;"
        "bad = {'torch', 'transformers', 'numba'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
