"""The localisation study: figures of a set, aligned maps, cases by rule, and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.tiny.scenes import GRID, PATCH_SIZE
from experiments.common.tables import filled
from experiments.localisation import measure, page, summary

OUT = page.PAGE.parent / "results"


def target(number: int, row: int, column: int, members: list[int]) -> dict:
    """An object that fills the cell (row, column) and its right neighbour."""
    cell = row * GRID + column
    found = {
        "number": number, "scene": number, "objects": [cell, cell + 1], "set": members,
        "other_objects": [], "maps": {"relevancy": [0] * GRID**2},
        "boxes": [[column * PATCH_SIZE, row * PATCH_SIZE, (column + 1) * PATCH_SIZE,
                   (row + 1) * PATCH_SIZE]],
    }  # fmt: skip
    found["figure"] = summary.set_figures(found)
    return found


def test_figures_of_a_set_are_those_counted_by_hand() -> None:
    # Object: cells 9 and 10 (row 1). Set: on it, beside it (touching), far away, far away.
    found = target(0, 1, 1, [9, 17, 63, 62])
    found["other_objects"] = [62]
    figures = summary.set_figures(found)
    assert figures["on_object"] == 1 / 4 and figures["near"] == 2 / 4 and figures["other"] == 1 / 4
    assert figures["chance"] == 2 / 64 and figures["near_chance"] == 12 / 64
    assert figures["iou"] == 1 / 5 and figures["any"] == 1.0


def test_cells_around_a_corner_do_not_leave_the_grid() -> None:
    assert summary.around({0}) == {0, 1, GRID, GRID + 1}
    assert summary.around({GRID - 1}) == {GRID - 2, GRID - 1, 2 * GRID - 2, 2 * GRID - 1}


def test_aligned_sets_of_different_places_meet_in_the_centre() -> None:
    placed = [
        target(0, 1, 1, [1 * GRID + 1]),
        target(1, 4, 5, [4 * GRID + 5]),
        target(2, 6, 2, [6 * GRID + 3]),  # one to the right
    ]
    found = summary.aligned(placed)
    values = np.array(found["maps"][summary.SET], dtype=float)
    centre = (summary.REACH, summary.REACH)
    assert values[centre] == pytest.approx(2 / 3, abs=1e-4)
    assert values[summary.REACH, summary.REACH + 1] == pytest.approx(1 / 3, abs=1e-4)
    assert np.nansum(values) == pytest.approx(1.0, abs=1e-3)
    assert np.array(found["maps"]["object"], dtype=float)[centre] == 1.0


def test_a_cell_outside_some_images_is_a_mean_over_the_others() -> None:
    # Three rows above the object there are cells in the second scene only.
    placed = [target(0, 1, 1, [9]), target(1, 4, 1, [1 * GRID + 1])]
    values = summary.aligned(placed)["maps"][summary.SET]
    assert values[summary.REACH - 3][summary.REACH] == 1.0
    assert values[summary.REACH - 5][summary.REACH] is None


def test_cases_are_ranked_by_share_then_iou_then_number() -> None:
    placed = [
        target(0, 1, 1, [9, 40]), target(1, 1, 1, [9]), target(2, 1, 1, [9, 10]),
        target(3, 1, 1, [40]), target(4, 1, 1, [9, 10]),
    ]  # fmt: skip
    found = summary.by_rule(placed, 1)
    assert [found[g][0]["number"] for g in summary.GROUPS] == [2, 1, 3]
    assert [t["number"] for t in summary.by_rule(placed, 2)["best"]] == [2, 4]
    assert [t["number"] for t in summary.by_rule(placed, 2)["worst"]] == [0, 3]


def test_what_is_saved_of_a_target_is_what_the_scene_holds() -> None:
    model = measure.setup()
    result = measure.work({"seed": 5, "stream": 99_999, "scene": 0, "question": 0}, model)
    assert result["verified"] and result["objects"]
    assert set(result["other_objects"]).isdisjoint(result["objects"])
    for cells in result["maps"].values():
        assert len(cells) == GRID**2 and 950 <= sum(cells) <= 1050
    # The highest cells of the causal map are the set itself.
    causal = np.array(result["maps"][measure.CAUSAL])
    n = len(result["set"])
    assert set(np.argsort(-causal, kind="stable")[:n]) == set(result["set"])
    on = len(set(result["set"]) & set(result["objects"])) / n
    assert result["figures"][measure.CAUSAL]["same_size"] == pytest.approx(on, abs=1e-4)


@pytest.fixture(scope="module")
def saved() -> dict:
    return json.loads((OUT / "summary.json").read_text(encoding="utf-8"))


def test_the_page_says_what_is_saved(saved: dict) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert filled(text, page.texts(saved, read_config(OUT / "results.jsonl"))) == text


def test_the_saved_summary_is_of_the_saved_lines(saved: dict) -> None:
    lines = [line["result"] for line in read_lines(OUT / "results.jsonl")]
    assert saved["targets"] == len(lines)
    placed = [t for t in lines if t["verified"] and t["objects"]]
    shares = [len(set(t["set"]) & set(t["objects"])) / len(t["set"]) for t in placed]
    assert saved["placed"] == len(placed)
    assert saved["all"]["on_object"] == pytest.approx(np.mean(shares), rel=1e-3)
    worst = saved["cases"]["worst"][-1]
    numbers = {line["key"]: line["result"] for line in read_lines(OUT / "results.jsonl")}
    last = numbers[worst]
    assert len(set(last["set"]) & set(last["objects"])) / len(last["set"]) == min(shares)
