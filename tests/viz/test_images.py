"""Runs without an image and with several: nothing is shown that is not there, or elsewhere."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageColor

import causal_lvlm as cl
from causal_lvlm.errors import OutputError
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.reporting import report
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz.bundle import write_bundle
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.nodes import crop
from causal_lvlm.viz.overlay import draw_heat, draw_patches
from causal_lvlm.viz.pictures import pictures_of
from causal_lvlm.viz.prompt import draw_prompt, prompt_pieces
from causal_lvlm.viz.report import report_cases
from causal_lvlm.viz.sheet import sheet_of
from causal_lvlm.viz.style import CAUSE
from causal_lvlm.viz.view import TraceView, view_of
from tests.viz.fakes import (
    COLOURS,
    explaining_set,
    fake_attribution,
    fake_explanation,
    fake_view,
    several_view,
    summary_of,
    text_view,
)

TEXT, SEVERAL = text_view(), several_view()


def text_explanation():
    sets = {
        "joint": explaining_set("joint", (2,)),
        "image": ExplainingSet(scope="image", outcome="no_candidates"),
        "text": explaining_set("text", (2,)),
    }
    return fake_explanation(TEXT, "blue", sets=sets)


def several_explanation(*units):
    return fake_explanation(SEVERAL, "red", sets={"joint": explaining_set("joint", *units)})


def attribution(view: TraceView, target: str, scores):
    return cl.Attribution(
        method="rollout",
        scores=np.asarray(scores, dtype=np.float64),
        target=resolve_target(view.layout, target),
        parameters={},
        model_runs=1,
        backward_passes=0,
        seconds=0.1,
        model_id="m",
    )


def visible(page: str) -> str:
    """Return the words of a page: no style, script, pictures, tags or parameters."""
    for pattern in (
        "<script.*?</script>",
        "<style>.*?</style>",
        "<details>.*?</details>",
        "<[^>]*>",
    ):
        page = re.sub(pattern, " ", page, flags=re.DOTALL)
    return page


def colour_at(image: Image.Image, box) -> tuple[int, ...]:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return tuple(np.asarray(image)[round(y), round(x)].tolist())


# -- without an image ---------------------------------------------------------------------------


@pytest.mark.parametrize("source", [TEXT, summary_of(TEXT)], ids=["view", "summary"])
def test_a_page_without_an_image_does_not_speak_of_one(tmp_path, source):
    scores = attribution(TEXT, "blue", [0, 0.1, 0.5, 0, 0, 0])
    path = report(source, [text_explanation()], tmp_path / "r.html", attributions=[scores])
    page = path.read_text(encoding="utf-8")
    words = visible(page)
    assert "image" not in words.casefold() and "patch" not in words.casefold()
    assert "Whole input" in words and "Within the text" in words
    assert not re.search(r'alt="[^"]*image', page)
    assert page.count("<img") == 3  # PAG, tree, scores
    with_one = report(fake_view(), [], tmp_path / "one.html").read_text(encoding="utf-8")
    assert "image patches and words" in visible(with_one)


def test_a_page_of_both_kinds_of_runs_explains_patches(tmp_path):
    cases = [Case(TEXT, [text_explanation()]), Case(fake_view(), [])]
    page = report_cases(cases, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "image patches and words" in visible(page)


def test_the_folder_of_a_run_without_an_image_is_whole(tmp_path):
    scores = attribution(TEXT, "blue", [0, 0.1, -0.5, 0, 0, 0])
    written = write_bundle(TEXT, [text_explanation()], [scores], tmp_path)
    assert {p.name for p in written} == {
        "explanation.json", "heat-rollout.json", "prompt.png", "pag.png", "pds-tree.png", "pag.dot",
        "pag.json", "pag.graphml", "heat-rollout.png", "report.html",
    }  # fmt: skip
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()


def test_scores_of_words_are_bars_in_their_order():
    def blue_per_row(scores):
        pixels = np.asarray(draw_heat(TEXT, scores, method="m", target="blue"), dtype=int)
        blue = (np.abs(pixels - ImageColor.getrgb("#0072B2")).max(axis=2) < 8).sum(axis=1)
        rows = np.flatnonzero(blue)
        bars = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        return [int(blue[bar].max()) for bar in bars if len(bar)]

    first, second, third = blue_per_row([0, 1.0, 4.0, 2.0, 0, 0])
    assert second == pytest.approx(4 * first, rel=0.05)
    assert third == pytest.approx(2 * first, rel=0.05)
    assert blue_per_row(np.zeros(6)) == []
    draw_heat(TEXT, np.ones(6), method="$m", target="$x$ _{")  # no formulas


def test_every_picture_can_be_drawn_without_an_image():
    names = [p.name for p in pictures_of(TEXT, text_explanation())]
    assert names == ["prompt", "pag", "pds-tree"]
    assert draw_patches(TEXT, ((2,),), title="A set").height > 20
    assert draw_prompt(TEXT, None, {2: 1}).width == 760


# -- several images -----------------------------------------------------------------------------


def test_images_lie_side_by_side_without_touching():
    sheet = sheet_of(SEVERAL)
    taken = np.zeros((sheet.image.height, sheet.image.width), dtype=int)
    for number, ((x, y), (width, height)) in enumerate(
        zip(sheet.corners, sheet.sizes, strict=True)
    ):
        taken[y : y + height, x : x + width] += 1
        assert colour_at(sheet.image, (x, y, x + width, y + height)) == ImageColor.getrgb(
            COLOURS[number]
        )
    assert taken.max() == 1
    assert sheet.corners[0][1] == sheet.corners[1][1] and sheet.corners[2][1] > 480


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_patch_is_outlined_on_its_own_image_alone(number):
    """Every image has one colour, and only around the outlined patch is there anything else."""
    patch = int(SEVERAL.layout.grids[number].positions[4])  # second row, second column
    sheet = sheet_of(SEVERAL, 30)
    drawn = np.asarray(draw_patches(SEVERAL, ((patch,),), show_grid=False), dtype=int)
    orange = np.abs(drawn - ImageColor.getrgb(CAUSE)).max(axis=2) < 8
    rows, cols = np.nonzero(orange)
    (x, y), (width, height) = sheet.corners[number], sheet.sizes[number]
    wanted = (x + width / 3, y + height / 2, x + width * 2 / 3, y + height)
    found = (cols.min(), rows.min(), cols.max(), rows.max())
    np.testing.assert_allclose(found, wanted, atol=3)
    piece = crop(SEVERAL, (patch,), 80)
    assert piece is not None and piece.getpixel((40, 40)) == ImageColor.getrgb(COLOURS[number])
    assert SEVERAL.label((patch,)) == f"image{number}[1,1]" == SEVERAL.layout.label(patch)


def test_heat_lies_on_the_image_that_has_it():
    scores = np.zeros(len(SEVERAL.layout))
    scores[SEVERAL.layout.grids[1].positions[0]] = 1.0
    sheet = sheet_of(SEVERAL)
    image = np.asarray(draw_heat(SEVERAL, scores, method="m", target="red"), dtype=int)
    top, left = 46, 8
    bright = []
    for (x, y), (width, height) in zip(sheet.corners, sheet.sizes, strict=True):
        cell = image[top + y : top + y + height // 2, left + x : left + x + width // 3]
        bright.append(cell[8:-8, 8:-8].mean())
    assert bright[1] > max(bright[0], bright[2]) + 50


def test_the_prompt_numbers_the_images():
    prompt, _ = prompt_pieces(SEVERAL.layout, None, {})
    assert [p.text for p in prompt if p.kind == "image"] == ["[image0]", "[image1]", "[image2]"]


def test_the_page_names_the_image_of_a_patch(tmp_path):
    patch = int(SEVERAL.layout.grids[2].positions[5])
    explanation = several_explanation((patch,))
    path = report(summary_of(SEVERAL), [explanation], tmp_path / "r.html")
    words = visible(path.read_text(encoding="utf-8"))
    assert "image2[1,2]" in words and "image0: 90 × 60 pixels, 6 image tokens" in words
    assert "image2: 900 × 600" in words
    assert pictures_of(SEVERAL, several_explanation())[0].caption.startswith("The images")


def test_all_images_come_back_from_a_summary():
    again = view_of(summary_of(SEVERAL))
    assert [i.size for i in again.images] == [i.size for i in SEVERAL.images]
    summary = summary_of(SEVERAL)
    del summary["more_images"]
    with pytest.raises(OutputError, match="1 of 3 images"):
        view_of(summary)


def test_one_image_is_drawn_as_it_always_was():
    """No number, no gap: the sheet of one image is that image."""
    view = fake_view()
    sheet = sheet_of(view)
    assert sheet.image.size == (480, 480) and sheet.corners == ((0, 0),)
    heat = draw_heat(view, fake_attribution(view).scores, method="m", target="red")
    assert heat.width > 480


# -- with models --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["text_llama", pytest.param("llava_next", marks=pytest.mark.slow), "mllama"]
)
def test_real_traces_are_reported(tmp_path, name):
    families = pytest.importorskip("tests.lvlm.families.tiny")
    from tests.lvlm.helpers import noise_image

    sizes = ((100, 60), (60, 90))
    images = [noise_image(size, seed=k) for k, size in enumerate(sizes)]
    trace = cl.load_model(families.BUILDERS[name]()).run(
        None if name == "text_llama" else images, "What is it?", max_new_tokens=3
    )
    explanation = cl.explain(trace, target=1, max_runs=30, n_random=2)
    scores = cl.attribute(trace, 1, "rollout")
    alive = cl.report(trace, [explanation], tmp_path / "a.html", attributions=[scores])
    saved = cl.report(explanation.summary, [explanation], tmp_path / "b.html")
    assert alive.stat().st_size > saved.stat().st_size > 10_000
    words = visible(saved.read_text(encoding="utf-8"))
    assert ("image0: 100 × 60 pixels" in words) == (name != "text_llama")
    assert ("Within the image" in words) == (name != "text_llama")
    write_bundle(trace, [explanation], [scores], tmp_path / "out")
    assert (tmp_path / "out" / "heat-rollout.png").is_file()
