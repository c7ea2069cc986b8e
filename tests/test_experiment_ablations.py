"""The ablations: what is counted, how winners are chosen, and that the page says what was saved."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import causal_lvlm as cl
from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.tokens import Target
from experiments.ablations import measure, page, summary
from experiments.ablations.settings import BY_NAME, DEFAULT, SETTINGS
from experiments.common.pairs import pair_of
from experiments.common.tables import filled

OUT = page.PAGE.parent / "results"
LINES = {
    "tuning": summary.tuning_lines,
    "reporting": lambda out: read_lines(out / "reporting.jsonl"),
}
PLACE = {column: number for number, column in enumerate(measure.COLUMNS)}


class OneCause:
    """Stands in for a trace: the answer changes when positions 2 and 5 are both hidden."""

    layout = range(8)

    def __init__(self) -> None:
        self.rows = 0

    def evaluate(self, keep: np.ndarray, target: Target, **options: object) -> SimpleNamespace:
        self.rows += len(keep)
        gone = ~keep[:, 2] & ~keep[:, 5]
        return SimpleNamespace(
            token_log_probs=np.zeros((len(keep), 1)), argmax=np.where(gone, 1, 7)[:, None],
            margin=np.zeros((len(keep), 1)), runner_up=np.zeros((len(keep), 1)), backend="drop",
        )  # fmt: skip


TARGET = Target(positions=(7,), token_ids=(7,), text="x")


def line(number: int, settings: dict[str, dict[str, float]]) -> dict:
    rows = {
        name: [values.get(column) for column in measure.COLUMNS]
        for name, values in settings.items()
    }
    result = {"scene": number, "chance": 0.1, "causes": 1, "settings": rows}
    return {"key": number, "seconds": 1.0, "result": result}


def test_a_row_asked_for_twice_is_run_once_and_keeps_its_first_place() -> None:
    trace = measure.LoggedTrace(OneCause())
    keep = np.ones((3, 8), dtype=bool)
    keep[1, 2] = keep[2, 5] = False
    options = {"masking": "remove", "backend": "auto", "against": None}
    trace.evaluate(keep[:1], TARGET, **options)
    trace.evaluate(keep[1:], TARGET, **options)  # one call is paid at once: runs 2 and 3
    trace.evaluate(keep[:2], TARGET, **options)
    assert trace.asked == 5
    assert [trace.first[row.tobytes()] for row in keep] == [1, 3, 3]
    assert trace.trace.rows == 3
    trace.restart()
    trace.evaluate(keep[2:], TARGET, **options)
    assert (trace.asked, trace.first[keep[2].tobytes()], trace.trace.rows) == (1, 1, 3)


@pytest.mark.parametrize(
    ("order", "length"), [((2, 5, 1, 0), 2), ((1, 2, 0, 5), 4), ((1, 0, 3, 4, 6, 2, 5), 7)]
)
def test_a_prefix_is_the_shortest_tried_one_that_changes_the_answer(order, length) -> None:
    trace = measure.LoggedTrace(OneCause())
    assert measure.prefix(trace, TARGET, [(p,) for p in order]) == length


def test_no_prefix_where_all_of_the_order_changes_nothing() -> None:
    assert measure.prefix(measure.LoggedTrace(OneCause()), TARGET, [(2,), (3,)]) is None


def test_met_is_a_budget_that_suffices_and_one_run_less_does_not() -> None:
    model = measure.setup()
    pair = pair_of(model, {"seed": 5, "stream": 99_999, "scene": 0, "question": 0})
    trace = measure.LoggedTrace(pair.trace)
    values = measure.measured(trace, pair, BY_NAME[DEFAULT], measure.causes(trace, pair))
    options = {"max_runs": values["runs"], "n_jobs": 1}
    explanation = cl.explain(pair.trace, pair.target, **options)
    sets = [s for s in explanation.sets.values() if s.verified]
    assert {f"size_{s.scope}": s.size for s in sets}.items() <= values.items()

    asked: list[bytes] = []
    real = pair.trace

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def evaluate(self, keep: np.ndarray, *given: object, **named: object) -> object:
            asked.extend(row.tobytes() for row in keep)
            return real.evaluate(keep, *given, **named)

    cl.explain(Counting(), pair.target, **options)
    masks = []
    for found in sets:
        keep = np.ones(len(real.layout), dtype=bool)
        keep[list(found.positions)] = False
        masks.append(keep.tobytes())
    met = int(values["met"])
    assert all(mask in asked[:met] for mask in masks)
    assert not all(mask in asked[: met - 1] for mask in masks)


def test_the_cheapest_of_the_settings_that_are_as_small_wins() -> None:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(40):
        noise = float(rng.normal(0, 0.5))
        lines.append(
            line(number, {
                DEFAULT: {"size_joint": 2.0, "met": 30, "prefix_joint": 4.0, "nodes_1": 9},
                "source: mean": {"size_joint": 2.0 + noise, "met": 20, "prefix_joint": 4.0 + noise,
                                 "nodes_1": 5},
                # Cheaper and leaner, but larger and longer for certain.
                "source: output": {"size_joint": 3.0, "met": 5, "prefix_joint": 8.0, "nodes_1": 1},
                # Would win both, but is no graph.
                "no graph": {"size_joint": 1.0, "met": 1, "prefix_joint": 1.0, "nodes_1": 0},
            })
        )  # fmt: skip
    assert summary.choose(summary.Results(lines)) == {
        "sets": "source: mean", "graph": "source: mean"
    }  # fmt: skip


def test_the_mean_of_two_scopes_takes_those_that_can_be() -> None:
    lines = [
        line(0, {DEFAULT: {"size_joint": 2.0, "size_image": 6.0}}),
        line(1, {DEFAULT: {"size_joint": 3.0}}),
        line(2, {DEFAULT: {}}),
    ]
    values = summary.Results(lines).values(DEFAULT, "size")
    np.testing.assert_array_equal(values, [4.0, 3.0, math.nan])


def test_every_setting_has_a_name_of_its_own_and_stands_beside_another() -> None:
    assert len(BY_NAME) == len(SETTINGS)
    assert {s.beside for s in SETTINGS} <= set(BY_NAME)


@pytest.fixture(scope="module")
def saved() -> dict:
    return json.loads((OUT / "summary.json").read_text(encoding="utf-8"))


def test_the_page_says_what_is_saved(saved: dict) -> None:
    configs = {name: read_config(OUT / f"{name}.jsonl") for name in page.SPLITS}
    text = page.PAGE.read_text(encoding="utf-8")
    assert filled(text, page.texts(saved, configs)) == text
    assert (OUT / "table.md").read_text(encoding="utf-8") == page.full_table(saved) + "\n"


@pytest.mark.parametrize("split", page.SPLITS)
def test_the_saved_summary_is_of_the_saved_lines(saved: dict, split: str) -> None:
    lines = LINES[split](OUT)
    assert saved[split]["targets"] == len(lines)
    for name, row in saved[split]["settings"].items():
        for column in ("size_joint", "size_image", "met", "on_object", "prefix_image"):
            values = [
                line["result"]["settings"][name][PLACE[column]]
                for line in lines
                if name in line["result"]["settings"]
            ]
            known = [v for v in values if v is not None]
            if known:
                assert row[column] == pytest.approx(sum(known) / len(known), rel=1e-4)
            else:
                assert column not in row


def test_the_winners_were_chosen_on_the_tuning_split(saved: dict) -> None:
    found = summary.Results(summary.tuning_lines(OUT))
    assert summary.choose(found) == saved["winners"]
    scenes = [
        {(line["result"]["scene"], line["result"]["answer"]) for line in read_lines(path)}
        for path in (OUT / "tuning.jsonl", OUT / "reporting.jsonl")
    ]
    streams = {read_config(OUT / f"{name}.jsonl")["stream"] for name in page.SPLITS}
    assert len(streams) == 2 and all(scenes)
