"""The search experiment: its brute force, its bookkeeping, and that its page says what it saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causal_lvlm.explanation import exhaustive_explanation
from experiments.common.tables import filled
from experiments.first_light.orders import Job
from experiments.search import orders, page, summary
from experiments.search.truth import smallest
from experiments.search.watch import Watched
from tests.examples import examples
from tests.explanation.fakes import FakeTrace

HERE = Path(page.__file__).parent
UNITS = range(1, 7)  # four patches and two words


def table_model(answers):
    def keeps(visible: frozenset[int]) -> bool:
        index = sum(1 << (p - 1) for p in UNITS if p not in visible)
        return True if index == 0 else answers[index]

    return keeps


def job_of(answers) -> Job:
    return Job.of(SimpleNamespace(trace=FakeTrace(table_model(answers)), target=0))


tables = st.lists(st.booleans(), min_size=64, max_size=64)


@examples(40)
@given(answers=tables, mode=st.sampled_from(["necessary", "sufficient"]))
def test_its_brute_force_agrees_with_the_exhaustive_search(answers, mode):
    job = job_of(answers)
    for scope in ("joint", "image"):
        truth = exhaustive_explanation(
            FakeTrace(table_model(answers)), 0, mode=mode, max_size=2,
            candidates="all" if scope == "joint" else scope,
        )  # fmt: skip
        mine = smallest(job, scope, mode)
        if truth.size == 0:  # nothing is needed: no set to look for
            assert mine["size"] is None and not mine["maskable"]
            continue
        assert mine["size"] == truth.size
        assert [job.units.positions(s) for s in mine["sets"]] == list(truth.sets)
        assert mine["failed_to"] == (2 if truth.size is None else truth.size - 1)


def test_the_curve_notes_each_smaller_verified_set_and_the_run_that_met_it():
    job = job_of([sum(1 << u for u in (0, 4)) & ~i != 0 for i in range(64)])  # needs units 0 and 4
    watched = Watched(job)
    asked = [(3,), (0, 1, 2, 4), (0, 1), (0, 4, 5), (0, 4), (1, 2, 3)]
    watched.evaluate(job.units.keep_without(asked, len(watched.layout)), job.target)
    assert watched.curve(tuple(range(6))) == [[2, 4], [4, 3], [5, 2]]
    assert watched.curve((0, 1, 2, 3)) == []


def test_an_order_pays_for_every_run_and_stops_at_the_budget():
    job = job_of([sum(1 << u for u in (4, 5)) & ~i != 0 for i in range(64)])
    good = orders.measure(job, "joint", orders.along([4, 5, 0, 1, 2, 3]))
    assert good["size"] == 2 and good["units"] == [4, 5] and good["curve"] == [[2, 2]]
    poor = orders.measure(job, "joint", orders.along(range(6)), budget=3)
    assert poor["size"] is None and poor["runs"] == 3


def row(size, truth, failed_to, curve=()):
    return {
        "truth": {"joint": {"size": truth, "failed_to": failed_to, "sets": []}},
        "orders": {"joint": {"a": {"size": size, "units": [], "curve": list(curve), "runs": 9}}},
        "explain": {n: {"sets": {}} for n in summary.NECESSARY},
        "curves": {},
        "units": {"joint": 10},
    }


@pytest.mark.parametrize(
    ("size", "truth", "failed_to", "best", "proved"),
    [(2, 2, 1, 2, True), (3, 2, 1, 2, True), (3, None, 2, 3, True), (4, None, 2, 4, False),
     (None, None, 2, None, False)],
)  # fmt: skip
def test_a_minimum_is_proved_where_every_smaller_set_failed(size, truth, failed_to, best, proved):
    one = row(size, truth, failed_to)
    assert summary.best_known(one, "joint") == best
    assert summary.provable(one, "joint") is proved


def test_before_a_set_is_found_all_units_count():
    rows = [row(2, None, 2, [[3, 4], [5, 2]]), row(1, None, 2, [[1, 1]])]
    assert summary.mean_curve(rows, "joint", "a", [1, 3, 5]) == [5.5, 2.5, 1.5]


@pytest.mark.slow
@pytest.mark.skipif(not (HERE / "results" / "config.json").exists(), reason="not run yet")
def test_the_page_and_the_table_say_what_the_saved_lines_say():
    rows, config = page.load(HERE / "results")
    texts = page.blocks(rows, config)
    written = (HERE / "README.md").read_text(encoding="utf-8")
    assert filled(written, texts) == written, "python -m experiments.search.run --render"
    table = (HERE / "results" / "table.md").read_text(encoding="utf-8")
    assert table == "\n\n".join(texts.values()) + "\n"
    assert len(rows) == config["targets"] >= 200
