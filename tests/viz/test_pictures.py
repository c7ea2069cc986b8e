"""Pictures show what they claim: right places, right words, right number of things."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from causal_lvlm.errors import OutputError
from causal_lvlm.tokens import ImageGrid, TokenLayout, resolve_target
from causal_lvlm.viz.nodes import crop
from causal_lvlm.viz.overlay import draw_heat, draw_patches, heat_canvas, scaled_image
from causal_lvlm.viz.prompt import draw_prompt, prompt_html, prompt_pieces
from causal_lvlm.viz.style import CAUSE, TARGET, caption, font, wrap_text
from causal_lvlm.viz.tree import draw_tree, leaf_angles, shown_occurrences
from causal_lvlm.viz.view import TraceView, member_numbers, view_of
from tests.viz.fakes import (
    fake_attribution,
    fake_explanation,
    fake_layout,
    fake_trace,
    fake_view,
    head_graph,
    summary_of,
    view_like,
)

VIEW = fake_view()


def count_colour(image: Image.Image, colour: str) -> int:
    """Count pixels of a colour, give or take what resampling changes."""
    pixels = np.asarray(image.convert("RGB"), dtype=int)
    return int((np.abs(pixels - np.array(ImageColor.getrgb(colour))).max(axis=2) < 8).sum())


def test_small_images_are_enlarged_and_large_ones_reduced():
    assert max(scaled_image(VIEW)[0].size) == 480
    large = view_like([Image.new("RGB", (3000, 1500))], VIEW.layout)
    assert scaled_image(large)[0].size == (1200, 600)


def test_outline_lies_on_the_patch():
    image = draw_patches(VIEW, ((13,),), show_grid=False)  # row 1, column 2 of 8 x 8
    pixels = np.asarray(image)
    orange = (pixels == np.array(ImageColor.getrgb(CAUSE))).all(axis=2)
    rows, cols = np.nonzero(orange)
    scale = 480 / 96
    assert abs(cols.min() - 24 * scale) <= 2 and abs(cols.max() - 36 * scale) <= 2
    assert abs(rows.min() - 12 * scale) <= 2 and abs(rows.max() - 24 * scale) <= 2


def fine_view() -> TraceView:
    """The 576 patches of a 336 x 336 image."""
    side = 24
    cells = [(c % side, c // side) for c in range(side * side)]
    boxes = np.array([(x * 14, y * 14, x * 14 + 14, y * 14 + 14) for x, y in cells], float)
    count = side * side
    layout = TokenLayout(
        tokens=("<image>",) * count + ("yes",),
        token_ids=np.arange(count + 1),
        modality=np.array(["image"] * count + ["generated"]),
        grids=(ImageGrid(0, 0, side, side, np.arange(count), boxes, (336, 336)),),
        words=np.array([-1] * count + [0]),
        n_prompt=count,
    )
    return view_like([Image.new("RGB", (640, 640), "#405060").resize((336, 336))], layout)


def test_small_cells_are_enlarged_until_numbers_fit():
    view = fine_view()
    image = draw_patches(view, [(n,) for n in (0, 25, 30)], show_grid=False)
    assert min(image.size) / 24 >= 28
    # A number does not hide the neighbour: two cells away all is as it was.
    assert image.getpixel((3 * image.width // 24, 3)) == (64, 80, 96)


def test_many_patches_are_tinted_and_it_is_said():
    view = fine_view()
    numbered = draw_patches(view, [(n,) for n in range(60)], show_grid=False)
    tinted = draw_patches(view, [(n,) for n in range(72)], show_grid=False)  # three full rows
    assert tinted.height > numbered.height  # a line of text below
    cell = tinted.width / 24
    inside = tinted.getpixel((round(12 * cell), round(1.5 * cell)))
    outside = tinted.getpixel((round(12 * cell), round(5.5 * cell)))
    assert outside == (64, 80, 96) and inside != outside
    assert np.ptp(np.asarray(tinted)[round(1.5 * cell), 20:-20], axis=0).max() == 0  # no numbers


def test_words_are_not_outlined():
    word = VIEW.layout.tokens.index("circle")
    assert count_colour(draw_patches(VIEW, ((word,),)), CAUSE) == 0


def test_heat_is_painted_into_the_rectangle_of_its_cell():
    scores = np.arange(len(VIEW.layout), dtype=np.float64)
    canvas = heat_canvas(VIEW, scores, (480, 480), 5.0)
    assert canvas[30, 30] == scores[3]  # first cell
    assert canvas[30, 90] == scores[4]  # one to the right
    assert canvas[90, 30] == scores[11]  # one row down
    assert np.isfinite(canvas).all()


def test_heat_leaves_what_the_model_did_not_see_blank():
    """A crop: cells cover only the middle of the image."""
    boxes = np.array(
        [(24, 24, 48, 48), (48, 24, 72, 48), (24, 48, 48, 72), (48, 48, 72, 72)], float
    )
    layout = TokenLayout(
        tokens=("<image>",) * 4 + ("yes",),
        token_ids=np.arange(5),
        modality=np.array(["image"] * 4 + ["generated"]),
        grids=(ImageGrid(0, 0, 2, 2, np.arange(4), boxes, (96, 96)),),
        words=np.array([-1, -1, -1, -1, 0]),
        n_prompt=4,
    )
    view = view_like(VIEW.images, layout, answer="yes")
    canvas = heat_canvas(view, np.array([1.0, 2, 3, 4, 0]), (96, 96), 1.0)
    assert np.isnan(canvas[:24]).all() and np.isnan(canvas[:, 72:]).all()
    assert canvas[30, 30] == 1 and canvas[60, 60] == 4


@pytest.mark.parametrize("scores", ["positive", "signed", "zero"])
def test_heat_maps_of_every_sign_can_be_drawn(scores):
    values = np.zeros(len(VIEW.layout))
    if scores != "zero":
        values[3:67] = np.linspace(-1.0 if scores == "signed" else 0.0, 1.0, 64)
    image = draw_heat(VIEW, values, method="relevancy", target="red")
    assert image.width > 480 and image.height > 480


def test_heat_shows_the_largest_score_brightest():
    attribution = fake_attribution(VIEW)
    image = np.asarray(draw_heat(VIEW, attribution.scores, method="m", target="red"), dtype=int)
    top, left = 46, 8
    hot = image[top + 90, left + 90]  # row 1, column 1: the peak
    cold = image[top + 450, left + 30]
    assert hot.sum() > cold.sum() + 150


def test_pieces_collapse_the_image_and_mark_words():
    word = VIEW.layout.tokens.index("circle")
    target = resolve_target(VIEW.layout, "red")
    prompt, answer = prompt_pieces(VIEW.layout, target, {word: 2})
    assert [p.kind for p in prompt].count("image") == 1
    marked = [p for p in prompt if p.kind == "cause"]
    assert [(p.text, p.number) for p in marked] == [("circle", 2)]
    assert [(p.text, p.kind) for p in answer] == [("red", "target"), ("circle", "later")]


def test_subword_tokens_are_joined_without_spaces():
    layout = TokenLayout(
        tokens=("a", " spot", "ted", " cat", "."),
        token_ids=np.arange(5),
        modality=np.array(["prompt"] * 2 + ["generated"] * 3),
        grids=(),
        words=np.array([0, 1, 1, 2, 3]),
        n_prompt=2,
    )
    prompt, answer = prompt_pieces(layout, None, {})
    assert [(p.text, p.space) for p in prompt] == [("a", False), ("spot", True)]
    assert [(p.text, p.space) for p in answer] == [("ted", False), ("cat", True), (".", False)]


def test_html_escapes_tokens():
    layout = fake_layout(("<script>alert(1)</script>",))
    view = view_like(VIEW.images, layout)
    html = prompt_html(view, None, {})
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_prompt_picture_wraps_and_marks():
    word = VIEW.layout.tokens.index("circle")
    target = resolve_target(VIEW.layout, "red")
    wide = draw_prompt(VIEW, target, {word: 1})
    narrow = draw_prompt(VIEW, target, {word: 1}, width=360)
    assert narrow.height > wide.height
    assert count_colour(wide, CAUSE) > 50 and count_colour(wide, TARGET) > 50
    assert count_colour(draw_prompt(VIEW, None, {}), CAUSE) == 0


def test_wrapped_text_fits():
    face = font(16)
    lines = wrap_text("one two three four five six seven", face, 120)
    assert " ".join(lines) == "one two three four five six seven"
    assert all(face.getlength(line) <= 120 for line in lines)
    assert caption("word " * 60, 300).height > caption("word", 300).height


def test_crop_shows_the_patch_in_its_colours():
    view = view_like([Image.new("RGB", (96, 96), "#2040d0")], VIEW.layout)
    piece = crop(view, (13,), 100)
    assert piece is not None
    assert piece.getpixel((50, 50)) == (0x20, 0x40, 0xD0)  # the patch as it is
    pale = piece.getpixel((8, 8))
    assert isinstance(pale, tuple)
    assert pale != (0x20, 0x40, 0xD0) and pale[2] > pale[0]  # its surroundings, paled
    assert crop(view, (1,), 100) is None


def test_unit_names():
    assert VIEW.label((13,)) == "[1,2]"
    assert VIEW.label((13, 14, 21, 22)) == "[1–2,2–3]"
    single = fake_view(("red",))
    assert single.label((single.layout.tokens.index("circle"),)) == "“circle”"
    # Said in the prompt and in the answer: the two are told apart.
    first = VIEW.layout.tokens.index("circle")
    assert VIEW.label((first,)) == "“circle” #1"
    assert VIEW.label((len(VIEW.layout) - 1,)) == "“circle” #2"
    assert member_numbers(((5, 6), (9,))) == {5: 1, 6: 1, 9: 2}


def test_view_of_a_trace_equals_view_of_its_summary():
    alive, saved = view_of(fake_trace()), view_of(summary_of(VIEW))
    assert alive.layout.tokens == saved.layout.tokens
    assert np.array_equal(alive.layout.modality, saved.layout.modality)
    assert np.array_equal(np.asarray(alive.images[0]), np.asarray(saved.images[0]))
    for name in ("prompt", "answer", "model_id", "revision", "parameters", "self_check"):
        assert getattr(alive.run, name) == getattr(saved.run, name)


def test_an_incomplete_summary_is_named():
    summary = summary_of(VIEW)
    del summary["grids"]
    with pytest.raises(OutputError, match="grids"):
        view_of(summary)


def test_angles_keep_subtrees_apart():
    parent = np.array([-1, 0, 0, 1, 1, 2])
    angles = leaf_angles(parent)
    turn = 2 * np.pi
    assert angles[1] == pytest.approx(turn / 3)  # leaves 3 and 4: the first two thirds
    assert angles[2] == pytest.approx(turn * 5 / 6)
    assert angles[3] == pytest.approx(turn / 6) and angles[4] == pytest.approx(turn / 2)
    assert angles[5] == angles[2]


def test_large_trees_are_cut_at_a_whole_radius():
    depth = np.array([0] + [1] * 5 + [2] * 30 + [3] * 200)
    shown, complete = shown_occurrences(depth, None, 48)
    assert (len(shown), complete) == (36, 2)
    shown, complete = shown_occurrences(depth, 1, 48)
    assert (len(shown), complete) == (6, 1)
    shown, complete = shown_occurrences(depth, None, 3)
    assert (len(shown), complete) == (4, 0)


def test_a_tree_without_nodes_can_be_drawn():
    target = resolve_target(VIEW.layout, "red")
    graph = head_graph(VIEW.layout, target, np.zeros((2, 2), np.uint8), np.array([3, 73]))
    image = draw_tree(VIEW, graph, {})
    assert image.width >= 520 and count_colour(image, TARGET) > 20


def test_tree_marks_members_of_the_set():
    explanation = fake_explanation(VIEW)
    graph = explanation.graphs[0]
    near = int(graph.tree.node[1])
    members = {int(graph.positions[near]): 1}
    plain, marked = draw_tree(VIEW, graph, {}), draw_tree(VIEW, graph, members)
    assert count_colour(plain, CAUSE) == 0 and count_colour(marked, CAUSE) > 50
