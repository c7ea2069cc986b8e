"""Budgets and Ctrl-C: the graph learned so far, what was left, and nothing that is not true."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import numpy as np
import pytest

from causal_lvlm import structure
from causal_lvlm.structure import BackgroundKnowledge, checks, task
from tests import naive
from tests.processes import started

# What is given and asked for here is not always what the annotations promise.
learn_structure: Any = structure.learn_structure
learn_structures: Any = structure.learn_structures

SETTINGS: dict[str, dict[str, Any]] = {
    "ordered_icd": {"algorithm": "ordered_icd"},
    "icd": {"algorithm": "icd"},
    "icd-selection": {"algorithm": "icd", "selection_bias": True},
    "fci": {"algorithm": "fci"},
    "fci-tiers": {"algorithm": "fci", "tiers": np.repeat(np.arange(6), 5)},
    "pc": {"algorithm": "pc"},
}
THRESHOLD = 0.08


def example(seed, n=30, degree=5):
    rng = np.random.default_rng(seed)
    weights = naive.random_dag(rng, n + 5, degree)
    data = rng.normal(size=(400, n + 5)) @ np.linalg.inv(np.eye(n + 5) - weights).T
    return np.corrcoef(data[:, :n].T)


def check_separating_sets(structure, correlation, threshold=THRESHOLD):
    """Every pair without an edge has a set that separates it; every edge is dependent."""
    for i, j in itertools.combinations(range(len(correlation)), 2):
        strength = abs(correlation[i, j])
        if structure.pag.marks[i, j]:
            assert strength > threshold and structure.sepset(i, j) is None
        else:
            given = structure.sepset(i, j)
            assert i not in given and j not in given
            assert abs(naive.partial_correlation(correlation, i, j, given)) <= threshold
            if structure.evidence is not None:
                assert structure.weakest(i, j) <= threshold
    if structure.evidence is not None and structure.parameters["algorithm"] != "fci":
        # FCI also counts the tests that make its colliders safe, which ask about other pairs
        assert structure.evidence.tests.sum() == structure.n_tests


def after_size(correlation, size, **arguments):
    """The result of a learner that was told to end with a size."""
    return learn_structure(
        correlation, threshold=THRESHOLD, max_conditioning_size=size, **arguments
    )


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_max_tests(setting, variant):
    correlation = example(0)
    arguments = {"variant": variant, **SETTINGS[setting]}
    full = learn_structure(correlation, threshold=THRESHOLD, **arguments)
    assert full.complete and (full.unfinished_size, full.edges_left) == (None, 0)
    assert len(full.tests_per_size) > 3
    seen = set()
    ends = np.cumsum(full.tests_per_size).tolist()
    for k in (1, 436, *ends, ends[1] - 1, (ends[1] + ends[2]) // 2, full.n_tests - 1):
        cut = learn_structure(correlation, threshold=THRESHOLD, max_tests=k, **arguments)
        check_separating_sets(cut, correlation)
        assert cut.complete == (cut.stopped == "no_more_sets") == (cut.unfinished_size is None)
        if k == full.n_tests:
            assert cut == full
            continue
        if cut.complete:
            # the tests that make FCI's colliders safe are no size of their own
            assert cut == full
            assert full.n_tests <= k or setting.startswith("fci")
            continue
        assert cut.stopped == "max_tests" and cut.edges_left > 0
        seen.add(cut.unfinished_size)
        assert full.pag.n_edges <= cut.pag.n_edges
        if variant == "stable":
            assert cut.edges_left <= cut.pag.n_edges
            if setting.startswith("fci"):
                continue  # two stages, which count their sizes from 1 each
            same = after_size(correlation, cut.unfinished_size - 1, **arguments)
            assert cut.pag == same.pag and cut.tests_per_size == same.tests_per_size
            assert cut.evidence == same.evidence and cut.edges_left == same.pag.n_edges
            assert cut.n_tests <= max(k, 30 * 29 // 2)
            assert sum(full.tests_per_size[: cut.unfinished_size + 1]) > k or (
                max(full.evidence.tests) < k
            )
    assert len(seen) > 1 or setting == "fci-tiers"


@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_time_limit(setting, variant, monkeypatch):
    """A clock that jumps after a number of looks at it, so that nothing depends on the machine."""
    correlation = example(1)
    arguments = {"variant": variant, **SETTINGS[setting]}
    full = learn_structure(correlation, threshold=THRESHOLD, **arguments)
    stopped = set()
    for looks in (*range(1, 20, 3), 100):
        left = iter([0.0] * looks)
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda left=left: next(left, 1e9))
            cut = learn_structure(correlation, threshold=THRESHOLD, time_limit=5, **arguments)
        check_separating_sets(cut, correlation)
        stopped.add(cut.stopped)
        if cut.complete:
            assert cut == full
        else:
            assert cut.unfinished_size >= 1 and cut.edges_left > 0
            if variant == "stable" and not setting.startswith("fci"):
                same = after_size(correlation, cut.unfinished_size - 1, **arguments)
                assert cut.pag == same.pag and cut.evidence == same.evidence
    assert stopped == {"time_limit", "no_more_sets"}


def test_infinite_time_is_no_limit(tmp_path):
    structure = learn_structure(example(1), threshold=0.3, time_limit=float("inf"))
    assert structure.complete and structure.parameters["time_limit"] is None


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("variant", ["stable", "sequential"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_ctrl_c_in_the_callback(setting, variant, n_jobs):
    correlation = example(2)
    arguments = {"variant": variant, "n_jobs": n_jobs, **SETTINGS[setting]}
    calls: list[tuple[int, int, int]] = []
    learn_structure(
        correlation, threshold=THRESHOLD, progress=lambda *call: calls.append(call), **arguments
    )
    assert len(calls) > 2
    for stop_at in {1, 2, len(calls) // 2, len(calls)}:
        count = itertools.count(1)

        def stop(*call, stop_at=stop_at, count=count):
            if next(count) == stop_at:
                raise KeyboardInterrupt

        cut = learn_structure(correlation, threshold=THRESHOLD, progress=stop, **arguments)
        assert (cut.stopped, cut.complete) == ("interrupted", False)
        size, done, edges = calls[stop_at - 1]
        assert cut.unfinished_size == size
        assert cut.edges_left == (edges if variant == "stable" else edges - done)
        check_separating_sets(cut, correlation)
        if variant == "stable" and not setting.startswith("fci"):
            assert cut.pag == after_size(correlation, size - 1, **arguments).pag


@pytest.mark.parametrize("algorithm", ["icd", "fci", "pc"])
def test_ctrl_c_between_and_after_the_sizes(algorithm, monkeypatch):
    """Also while marks are put on or the result is collected; forbidden edges stay known."""
    import causal_kernels

    correlation = example(3)
    knowledge = BackgroundKnowledge(forbidden=[(0, k) for k in range(1, 30)])
    arguments = {"algorithm": algorithm, "threshold": THRESHOLD, "knowledge": knowledge}
    full = learn_structure(correlation, **arguments)
    assert len(full.unseparated)
    interrupted = 0
    for name in ("orient", "orient_cpdag", "orient_colliders", "collect_separators"):
        original = getattr(causal_kernels, name)
        for at in (1, 2, 3):
            count = itertools.count(1)

            def stop(*values, original=original, count=count, at=at):
                answer = original(*values)
                if next(count) == at:
                    raise KeyboardInterrupt
                return answer

            with monkeypatch.context() as patch:
                patch.setattr(causal_kernels, name, stop)
                cut = learn_structure(correlation, **arguments)
            if cut.complete:
                assert cut == full
            else:
                interrupted += 1
                assert cut.stopped == "interrupted" and cut.unfinished_size >= 1
                assert cut.edges_left > 0
                assert not cut.pag.marks[0].any()
                assert all(cut.sepset(*pair) is None for pair in cut.unseparated.tolist())
    assert (interrupted > 0) == (algorithm != "pc")


@pytest.mark.parametrize("setting", SETTINGS)
def test_ctrl_c_before_separating_sets_are_stored(setting, monkeypatch):
    """The sequential kernels have deleted edges by then: those come back."""
    import causal_kernels

    correlation = example(2)
    arguments = {"variant": "sequential", "threshold": THRESHOLD, **SETTINGS[setting]}
    full = learn_structure(correlation, **arguments)

    def stop(*values):
        raise KeyboardInterrupt

    monkeypatch.setattr(causal_kernels, "delete_separated", stop)
    cut = learn_structure(correlation, **arguments)
    assert (cut.stopped, cut.unfinished_size) == ("interrupted", 1)
    assert cut.pag.n_edges == cut.edges_left > full.pag.n_edges
    check_separating_sets(cut, correlation)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_ends_all_of_many(n_jobs):
    stack = np.stack([example(seed) for seed in range(4)])
    arguments: dict[str, Any] = {"threshold": THRESHOLD, "algorithm": "icd"}
    full = learn_structures(stack, **arguments)
    ended: list[int] = []

    def stop(size, done, edges):
        if size == 2 and not ended:
            ended.append(1)
            raise KeyboardInterrupt

    cut = learn_structures(stack, n_jobs=n_jobs, progress=stop, **arguments)
    assert len(cut) == 4
    assert "interrupted" in {one.stopped for one in cut}
    if n_jobs == 1:
        assert [one.unfinished_size for one in cut] == [2, 1, 1, 1]
    for one, correlation, whole in zip(cut, stack, full, strict=True):
        assert one == whole if one.complete else one.stopped == "interrupted"
        check_separating_sets(one, correlation)


def test_ctrl_c_before_one_of_many(monkeypatch):
    """While a matrix is being checked there is nothing of it to keep, but much of the others."""
    original, count = checks.check_correlation, itertools.count(1)

    def stop(values):
        if next(count) == 2:
            raise KeyboardInterrupt
        return original(values)

    monkeypatch.setattr(task, "check_correlation", stop)
    stack = np.stack([example(seed) for seed in range(3)])
    cut = learn_structures(stack, threshold=THRESHOLD)
    assert [one.complete for one in cut] == [True, False, False]
    assert [one.unfinished_size for one in cut] == [None, 1, 1]


def test_other_errors_of_the_callback_are_not_swallowed():
    def fail(size, done, edges):
        raise RuntimeError("mine")

    for n_jobs in (1, 2):
        with pytest.raises(RuntimeError, match="mine"):
            learn_structure(example(0), threshold=THRESHOLD, progress=fail, n_jobs=n_jobs)
        with pytest.raises(RuntimeError, match="mine"):
            learn_structures([example(0)] * 3, threshold=THRESHOLD, progress=fail, n_jobs=n_jobs)


SCRIPT = """
    import sys
    import numpy as np
    from causal_lvlm.structure import learn_structure, learn_structures

    many, n_jobs, variant = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    r = np.full((60, 60), 0.9)  # one latent factor: hopeless
    np.fill_diagonal(r, 1.0)
    arguments = dict(threshold=0.02, algorithm="icd", variant=variant, n_jobs=n_jobs)
    learn_structure(r[:5, :5], **arguments)  # loads the kernels
    print("ready", flush=True)
    if many:
        found = learn_structures([r, r, r], **arguments)
    else:
        found = [learn_structure(r, **arguments)]
    for one in found:
        print(one.stopped, one.unfinished_size, one.pag.n_edges, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent")
@pytest.mark.parametrize(
    ("many", "n_jobs", "variant"),
    [(0, 1, "stable"), (0, 1, "sequential"), (0, 2, "stable"), (1, 2, "stable")],
)
def test_real_ctrl_c(many, n_jobs, variant):
    process = started(
        ["-c", textwrap.dedent(SCRIPT), many, n_jobs, variant],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == (3 if many else 1)
    assert all(stopped == "interrupted" for stopped, _, _ in lines)
    assert all(int(size) >= 1 and int(edges) == 1770 for _, size, edges in lines)
