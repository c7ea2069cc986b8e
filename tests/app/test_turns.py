"""Turns are fair, jobs can be stopped, and nobody keeps the turn."""

from __future__ import annotations

import threading
import time

import pytest

from causal_lvlm.app.turns import BusyError, Job, Stopped, Turns


def collect(job, work):
    return [n.kind for n in job.run(work)]


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_twenty_jobs_have_their_turn_in_the_order_they_asked():
    turns, done, gate = Turns(), [], threading.Event()
    first = threading.Thread(target=collect, args=(Job("first", turns), lambda job: gate.wait(60)))
    first.start()
    wait_for(lambda: turns._holder is not None)
    threads = []
    for number in range(20):
        job = Job(str(number), turns)
        work = lambda job, number=number: done.append(number)  # noqa: E731
        threads.append(threading.Thread(target=collect, args=(job, work)))
        threads[-1].start()
        wait_for(lambda number=number: len(turns._waiting) == number + 1)
    gate.set()
    for thread in [first, *threads]:
        thread.join(20)
    assert done == list(range(20))
    assert turns._holder is None


def test_a_short_job_overtakes_the_rest_of_a_long_one_but_not_those_who_waited_longer():
    turns, order, started = Turns(), [], threading.Event()

    def long(job):
        started.set()
        end = time.monotonic() + 60
        while len(order) < 3:
            assert time.monotonic() < end
            time.sleep(0.02)
            job.step()
        order.append("long")

    threads = [threading.Thread(target=collect, args=(Job("long", turns), long))]
    threads[0].start()
    assert started.wait(60)
    for number in range(3):
        work = lambda job, number=number: order.append(number)  # noqa: E731
        threads.append(threading.Thread(target=collect, args=(Job("short", turns), work)))
        threads[-1].start()
        wait_for(lambda number=number: len(turns._waiting) + len(order) > number)
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2, "long"]


def test_a_stopped_job_ends_at_its_next_step_and_gives_the_turn_back():
    turns = Turns()
    job = Job("endless", turns)

    def endless(job):
        while True:
            job.progress("going on", 1, 2)
            time.sleep(0.01)

    kinds = []
    for news in job.run(endless):
        kinds.append(news.kind)
        job.stop()
    assert kinds[-1] == "stopped"
    assert collect(Job("next", turns), lambda job: 1) == ["done"]


def test_a_job_that_waits_can_be_stopped_without_its_turn():
    turns, gate = Turns(), threading.Event()
    holder = threading.Thread(target=collect, args=(Job("h", turns), lambda job: gate.wait(60)))
    holder.start()
    wait_for(lambda: turns._holder is not None)
    job, ran = Job("waiting", turns), []
    job.stop()
    assert collect(job, ran.append)[-1] == "stopped"
    assert not ran and not turns._waiting
    gate.set()
    holder.join(20)


def test_an_error_is_told_and_the_turn_given_back():
    turns = Turns()

    def fails(job):
        raise ValueError("no")

    (news,) = Job("fails", turns).run(fails)
    assert news.kind == "error" and str(news.value) == "no"
    assert turns._holder is None


def test_nobody_listening_stops_the_work():
    turns, job, ended = Turns(), None, threading.Event()

    def work(job):
        try:
            while True:
                job.stage("more", 1)
                job.step()
                time.sleep(0.005)
        except Stopped:
            ended.set()
            raise

    job = Job("left", turns)
    news = job.run(work)
    next(news)
    news.close()
    assert ended.wait(60)


def test_more_than_may_wait_are_refused_with_a_message():
    turns, gate = Turns(most_waiting=0), threading.Event()
    holder = threading.Thread(target=collect, args=(Job("h", turns), lambda job: gate.wait(60)))
    holder.start()
    wait_for(lambda: turns._holder is not None)
    (news,) = Job("one too many", turns).run(lambda job: 1)
    assert isinstance(news.value, BusyError)
    gate.set()
    holder.join(20)


@pytest.mark.parametrize("turn", [True, False])
def test_work_without_a_turn_runs_beside_the_holder(turn):
    turns, gate = Turns(), threading.Event()
    holder = threading.Thread(target=collect, args=(Job("h", turns), lambda job: gate.wait(60)))
    holder.start()
    wait_for(lambda: turns._holder is not None)
    job, done = Job("load", turns), threading.Event()
    thread = threading.Thread(
        target=lambda: list(job.run(lambda job: done.set(), turn=turn)), daemon=True
    )
    thread.start()
    assert done.wait(0.3 if turn else 60) is not turn
    gate.set()
    holder.join(20)
    thread.join(20)


def test_work_that_rests_lets_others_use_the_model_and_stands_in_line_again():
    turns, order, gate = Turns(most_waiting=0), [], threading.Event()
    job = Job("resting", turns)

    def work(job):
        job.rest()
        order.append("rests")
        assert gate.wait(60)
        job.step()  # even where no more may wait: it was in line before
        order.append("goes on")
        assert turns._holder is job

    resting = threading.Thread(target=collect, args=(job, work))
    resting.start()
    wait_for(lambda: order == ["rests"])
    assert collect(Job("short", turns), lambda job: order.append("short")) == ["done"]
    gate.set()
    resting.join(20)
    assert order == ["rests", "short", "goes on"]
    assert turns._holder is None


def test_whoever_listens_hears_of_a_stop_while_a_step_is_still_in_work():
    turns, gate = Turns(), threading.Event()
    job = Job("long step", turns)

    def work(job):
        job.report("one long step", 0, 1)
        assert gate.wait(60)
        job.report("too late to be of interest", 1, 1)
        return "what it found"

    told = []
    for news in job.run(work):
        told.append((news.kind, news.value))
        if news.kind == "progress":
            job.stop()
        elif news.kind == "stopping":
            gate.set()
    assert [kind for kind, _ in told] == ["progress", "stopping", "done"]
    assert told[-1][1] == "what it found"
