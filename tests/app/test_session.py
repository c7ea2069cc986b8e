"""One page's work: asking, choosing, explaining in stages, stopping, forgetting."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from causal_lvlm.app import Limits, Workbench
from causal_lvlm.app.export import report_page
from causal_lvlm.app.models import ModelShelf
from causal_lvlm.app.records import Turn
from causal_lvlm.app.turns import BusyError, News
from causal_lvlm.app.words import conversation
from causal_lvlm.errors import OutputError, PromptError, TargetError
from causal_lvlm.lvlm.model import LVLM
from tests.app.conftest import last
from tests.models import tiny_llava


def asked(bench, samples, name="hallucination", key="a"):
    page = bench.session(key)
    news, stages = last(page.ask(*samples[name]))
    return page, news.value, stages


def test_the_answer_comes_token_by_token_and_is_that_of_a_plain_run(bench, samples, lvlm):
    _, found, stages = asked(bench, samples)
    texts = [text for name, text in stages if name == "answer"]
    plain = lvlm.run(*samples["hallucination"])
    assert texts[-1] == found.trace.answer == plain.answer
    assert len(texts) == len(plain.layout.generated)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert not lvlm.model._forward_hooks


def test_an_explanation_comes_in_stages_attention_first_and_ends_as_the_library_says(
    bench, samples
):
    import causal_lvlm

    page, found, _ = asked(bench, samples, "spoon")
    news, stages = last(page.explain())
    assert stages[0][0] == "attention"
    seen = [value for name, value in stages if name == "verified"]
    plain = causal_lvlm.explain(found.trace, found.target)
    assert {n: s.positions for n, s in news.value.sets.items()} == {
        n: s.positions for n, s in plain.sets.items()
    }
    for scope in ("image", "text", "joint"):
        sizes = [v.size for v in seen if v.scope == scope]
        assert sizes == sorted(set(sizes), reverse=True)
    # what is called verified is: asking again gives the same answer
    keep = np.ones((1, len(found.trace.layout)), dtype=bool)
    keep[0, list(seen[-1].positions)] = False
    again = found.trace.evaluate(keep, found.target)
    assert tuple(again.argmax[0]) != found.target.token_ids
    assert float(np.exp(again.log_prob[0])) == pytest.approx(seen[-1].probability, abs=1e-5)


def test_stopping_a_search_gives_the_best_set_so_far(bench, samples):
    page, _, _ = asked(bench, samples)
    told = []
    for news in page.explain():
        told.append(news)
        if news.kind == "stage" and news.value[0] == "verified":
            page.stop()
    found = told[-1].value
    assert told[-1].kind == "done"
    assert any(s.verified for s in found.sets.values())
    assert any(s.ended == "interrupted" for s in found.sets.values())


@pytest.fixture
def slow_graphs(monkeypatch):
    """Learning a graph takes until the test lets it end; yields (it has begun, let it end)."""
    module = importlib.import_module("causal_lvlm.explanation.explain")

    begun, go = threading.Event(), threading.Event()
    learn = module.learn_graphs

    def slow(*args, **options):
        begun.set()
        assert go.wait(60)
        return learn(*args, **options)

    monkeypatch.setattr(module, "learn_graphs", slow)
    yield begun, go
    go.set()


def test_while_a_graph_is_learned_stop_is_heard_and_others_are_answered(
    bench, samples, slow_graphs
):
    begun, go = slow_graphs
    page, found, _ = asked(bench, samples, "colour")
    news = page.explain()
    assert next(n for n in news if begun.is_set()).kind != "done"
    # nobody waits for a graph: another page is answered while it is being learned
    answered = asked(bench, samples, "count", "other")[1]
    assert answered.trace.answer and not go.is_set()
    assert page.stop()
    told = next(n for n in news if n.kind != "progress" and n.kind != "stage")
    assert told.kind == "stopping" and not go.is_set()
    again = last(page.ask(*samples["colour"]))[0].value  # and so is this one
    assert again.trace.answer == found.trace.answer and not go.is_set()
    go.set()
    ended = list(news)[-1].value
    assert not any(s.verified for s in ended.sets.values())
    assert found.explanations == {}  # a search stopped too early is no result


def test_a_search_stopped_too_early_replaces_no_earlier_result(bench, samples, request):
    page, found, _ = asked(bench, samples, "colour")
    best = last(page.explain())[0].value
    begun, go = request.getfixturevalue("slow_graphs")
    told = []
    for news in page.explain():
        told.append(news)
        if begun.is_set():
            page.stop()
            go.set()
    assert told[-1].kind == "done" and not told[-1].value.main.verified
    assert found.explanation() is best


def test_a_search_for_another_token_is_forgotten_when_one_is_chosen(bench, samples, slow_graphs):
    begun, _ = slow_graphs
    page, found, _ = asked(bench, samples)
    news = page.explain()
    assert next(n for n in news if begun.is_set()).kind != "done"
    search = page.jobs["main"]
    page.look_at(0, found.number)
    # whoever shows a search looks here whether it is still the page's own
    assert page.jobs.get("main") is not search and search.stopping
    news.close()


def test_what_is_written_aside_tells_that_it_runs_and_can_be_stopped(bench):
    page, go = bench.session("a"), threading.Event()
    news = page.aside("writing", lambda: go.wait(60))
    assert next(news) == News("progress", ("writing", 0, 0))
    other = list(page.aside("other", lambda: 5))  # does not wait, and takes no place
    assert other[-1] == News("done", 5)
    assert page.stop()
    assert next(news).kind == "stopping"
    go.set()
    assert list(news)[-1].kind == "stopped"
    failed = list(page.aside("writing", lambda: 1 / 0))[-1]
    assert failed.kind == "error" and isinstance(failed.value, ZeroDivisionError)


def test_attention_rows_are_those_of_the_trace(bench, samples):
    page, found, _ = asked(bench, samples, "colour")
    attention = last(page.attention())[0].value
    full = found.trace.attention([0])
    row = found.trace.layout.n_prompt - 1
    assert np.allclose(attention.row(0, 0, 2), full[0, 2, row])
    assert np.allclose(attention.row(0, 0, None), full[0, :, row].mean(axis=0))
    image = found.trace.layout.positions("image")
    assert np.allclose(attention.grid(0)[0], full[0, :, row][:, image].sum(axis=1))
    patch = int(image[5])
    looked = attention.looked_at((patch,), 0, 1)
    assert np.allclose(looked, full[0, 1, row : row + len(looked), patch])


def test_masking_tells_what_the_model_says_then(bench, samples):
    page, found, _ = asked(bench, samples, "colour")
    explanation = last(page.explain())[0].value
    units = explanation.main.units
    masked = last(page.mask(units))[0].value
    assert masked.changed
    assert masked.probability == pytest.approx(explanation.main.probability_after, abs=1e-5)
    assert masked.before == pytest.approx(explanation.main.probability_before, abs=1e-5)
    with pytest.raises(TargetError):
        last(page.mask([(found.target.start,)]))


def test_the_edges_of_the_graph_are_cut_on_demand_and_shown_in_the_report(bench, samples):
    page, found, _ = asked(bench, samples, "colour")
    explanation = last(page.explain(max_runs=60, n_random=0, graph=True))[0].value
    assert explanation.graph.verified and explanation.graph.model_runs > 0
    report = report_page(page, found)
    assert '"title":"Verified graph"' in report.replace(": ", ":")
    assert "cut by itself: margin" in report
    plain = last(page.explain(max_runs=60, n_random=0, graph=False))[0].value
    assert not plain.graph.verified


def test_methods_come_one_by_one_and_one_that_cannot_run_says_why(bench, samples):
    page, _, _ = asked(bench, samples, "colour")
    _, stages = last(page.attribute(["attention", "lrp", "rollout"]))
    results = [value for name, value in stages if name == "attribution"]
    assert [getattr(r, "method", r[0] if isinstance(r, tuple) else "") for r in results] == [
        "attention", "lrp", "rollout",
    ]  # fmt: skip
    assert "patent" in results[1][1]


def test_two_pages_do_not_see_each_other(bench, samples):
    one, first, _ = asked(bench, samples, "colour", "one")
    two, second, _ = asked(bench, samples, "caption", "two")
    one.look_at(0)
    assert one.runs.asked() is first and two.runs.asked() is second
    assert one.folder != two.folder
    bench.close_session("one")
    assert not one.folder.exists() and two.folder.exists()
    assert bench.session("one").runs.kept == {}
    two.stop()
    assert last(two.mask([(5,)]))[0].kind == "done"


def test_a_page_keeps_its_last_runs_and_lets_go_of_the_older(bench, samples):
    page = bench.session("a")
    for _ in range(5):
        last(page.ask(*samples["colour"]))
    assert list(page.runs.kept) == [3, 4, 5]
    with pytest.raises(PromptError, match="no longer kept"):
        page.runs.asked(1)


@pytest.mark.parametrize(
    ("question", "picture", "message"),
    [("", True, "empty"), ("x" * 5000, True, "5000 characters"), ("what?", False, "picture")],
)
def test_questions_that_cannot_be_asked_are_messages(bench, samples, question, picture, message):
    image = samples["colour"][0] if picture else None
    with pytest.raises(PromptError, match=message):
        last(bench.session("a").ask(image, question))


def test_a_placeholder_in_a_question_does_not_count_as_a_picture(bench, samples):
    news, _ = last(bench.session("a").ask(samples["colour"][0], "<image> <image> what shape?"))
    assert len(news.value.trace.layout.positions("image")) == 64


def test_nothing_asked_yet_is_a_message(bench):
    with pytest.raises(PromptError, match="nothing has been asked"):
        bench.session("a").explain()


def test_a_wrong_model_and_a_model_too_large_are_messages(samples):
    import causal_lvlm
    from causal_lvlm.errors import ModelMemoryError, UnsupportedModelError

    def load(name):
        if name == "huge":
            raise ModelMemoryError("needs 900 GB, has 2 GB free")
        return causal_lvlm.load_model(name)

    with Workbench(ModelShelf(load=load)) as bench:
        page = bench.session("a")
        with pytest.raises(UnsupportedModelError, match="there is no model folder"):
            last(page.choose_model("/no/such/folder"))
        with pytest.raises(ModelMemoryError, match="900 GB"):
            last(page.choose_model("huge"))
        with pytest.raises(UnsupportedModelError, match="5000 characters"):
            last(page.choose_model("a" * 5000))
        assert last(page.ask(*samples["colour"]))[0].value.trace.answer  # still usable


def test_models_are_loaded_once_kept_while_used_and_only_if_allowed():
    loads = []

    def load(name):
        loads.append(name)
        return object()

    shelf = ModelShelf(most=2, load=load)
    first = shelf.get("")
    assert shelf.get("embedded") is first and loads == [None]
    second = shelf.get("b")
    with pytest.raises(MemoryError, match="in use"):
        shelf.get("c", in_use=[first, second])
    shelf.get("c", in_use=[first])
    assert shelf.names == ("embedded", "c")
    with pytest.raises(ValueError, match="does not load 'x'"):
        ModelShelf(allowed=["y"], load=load).get("x")


def test_a_saved_explanation_opens_and_can_be_asked_again(bench, samples, tmp_path):
    page, _, _ = asked(bench, samples, "colour")
    explanation = last(page.explain())[0].value
    explanation.save(tmp_path / "saved.json")
    bench.results = tmp_path
    other = bench.session("b")
    found = last(other.open_link("saved.json"))[0].value
    assert found.explanation().main.positions == explanation.main.positions
    assert found.attached and other.runs.asked() is found
    again = last(other.mask(explanation.main.units))[0].value
    assert again.probability == pytest.approx(explanation.main.probability_after, abs=1e-5)
    with pytest.raises(OutputError):
        last(other.open_link("../saved.json"))


def test_two_questions_are_compared(bench, samples):
    from causal_lvlm.explanation.compare import graph_difference

    image = samples["colour"][0]
    question = samples["colour"][1]
    short = {"max_runs": 40, "n_random": 0}
    news, _ = last(bench.session("a").compare([(image, question), (image, question)], **short))
    (one, first), (two, second) = news.value
    found, *_ = graph_difference(
        first.head_graph, one.trace.layout, second.head_graph, two.trace.layout
    )
    assert found.shd == 0 and found.true_positives > 0
    other = "what shape is there?"
    news, _ = last(bench.session("a").compare([(image, question), (image, other)], **short))
    (one, first), (two, second) = news.value
    found, a, b, labels = graph_difference(
        first.head_graph, one.trace.layout, second.head_graph, two.trace.layout
    )
    assert a.marks.shape == b.marks.shape == (len(labels), len(labels))
    assert len(set(labels)) == len(labels)
    for pag, graph in ((a, first.head_graph), (b, second.head_graph)):
        assert np.count_nonzero(pag.marks) == np.count_nonzero(graph.structure.pag.marks)


def test_earlier_turns_become_messages_with_the_picture_in_the_first(samples):
    image = samples["colour"][0]
    images, turns = conversation(image, "and now?", [Turn("what?", "red")])
    assert images == [image]
    assert [t["role"] for t in turns] == ["user", "assistant", "user"]
    assert [part["type"] for part in turns[0]["content"]] == ["image", "text"]
    assert turns[2]["content"][0]["text"] == "and now?"


def test_each_picture_of_a_conversation_stands_where_it_came_in(samples):
    one, two = samples["colour"][0], samples["count"][0]
    earlier = [Turn("a?", "1", one), Turn("b?", "2", one.copy()), Turn("c?", "3", two)]
    images, turns = conversation(two, "d?", earlier)
    assert images == [one, two]
    kinds = [[part["type"] for part in t["content"]] for t in turns if t["role"] == "user"]
    assert kinds == [["image", "text"], ["text"], ["image", "text"], ["text"]]


def template_model():
    return LVLM(*tiny_llava(seed=9, tokenizer="byte"))


@pytest.mark.parametrize("kind", ["embedded", "template"])
def test_a_conversation_goes_through_the_models_own_template(kind, lvlm, samples):
    model = lvlm if kind == "embedded" else template_model()
    if kind == "template":
        model.processor.chat_template = (
            "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
            "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
            "{% endfor %}\n{% endfor %}assistant:"
        )
    image, question = samples["colour"]
    with Workbench(ModelShelf(load=lambda name: model)) as bench:
        page = bench.session("a")
        first = last(page.ask(image, question, max_new_tokens=4))[0].value
        earlier = page.turns([(question, first.trace.answer)])
        assert earlier[0].image is image
        second = last(page.ask(image, "what shape?", earlier=earlier, max_new_tokens=4))[0].value
        assert second.trace.parameters["prompt_source"] == "chat_template"
        prompt = second.trace.prompt
        assert prompt.count("<image>") == 1
        assert prompt.index(question) < prompt.rindex(first.trace.answer) < prompt.index("shape?")
        # an answer given before is no cause that can be named: only what people said is
        layout = second.trace.layout
        own = "".join(layout.tokens[p] for p in layout.positions("prompt")).replace(" ", "")
        assert own == (question + "what shape?").replace(" ", "")
        # another picture joins the conversation, and can be masked like the first
        other = samples["count"][0]
        earlier = page.turns([(t.question, t.answer) for t in page.said])
        third = last(page.ask(other, "and here?", earlier=earlier, max_new_tokens=4))[0].value
        assert [i.size for i in third.trace.images] == [image.size, other.size]
        assert third.trace.prompt.count("<image>") == 2
        page.look_at(0)
        patch = int(third.trace.layout.grids[1].positions[3])
        assert 0 < last(page.mask([[patch]]))[0].value.probability <= 1
        if kind == "embedded":
            found = last(page.explain(max_runs=60, n_random=0))[0].value
            assert found.target.start == third.trace.layout.n_prompt


def test_a_conversation_that_was_not_led_here_has_no_pictures_of_its_own(bench, samples):
    page, found, _ = asked(bench, samples, "colour")
    question, answer = samples["colour"][1], found.trace.answer
    assert page.turns([("x", "y"), (question, answer)]) == [
        Turn("x", "y"), Turn(question, answer, samples["colour"][0]),
    ]  # fmt: skip
    assert page.turns([(question, "other")]) == [Turn(question, "other")]
    assert len(page.turns([("q", "a")] * 50)) == page.bench.limits.turns


def test_pages_are_limited_and_idle_ones_closed(lvlm):
    with Workbench(ModelShelf(load=lambda n: lvlm), Limits(sessions=2, idle=3600)) as bench:
        first = bench.session("1")
        bench.session("2")
        with pytest.raises(BusyError, match="2 pages are open"):
            bench.session("3")
        first.used = time.monotonic() - 4000
        bench.session("3")
        assert not first.folder.exists()
    assert not bench.folder.exists()


def test_twenty_people_are_answered_in_the_order_they_asked(bench, samples, monkeypatch):
    order, answers, errors = [], {}, []
    names = list(samples)
    holder = bench.session("holder")
    last(holder.ask(*samples["hallucination"]))
    search = threading.Thread(target=lambda: list(holder.explain()))  # a long job on the way
    take = bench.turns._take

    def noted(job, event):
        if job.name == "ask" and job not in order:
            order.append(job)
        take(job, event)

    monkeypatch.setattr(bench.turns, "_take", noted)

    def person(number):
        try:
            image, question = samples[names[number % len(names)]]
            news, _ = last(bench.session(str(number)).ask(image, question))
            answers[number] = news.value.trace.answer
        except Exception as error:
            errors.append(error)

    search.start()
    people, asked = [], []
    for number in range(20):
        people.append(threading.Thread(target=person, args=(number,)))
        people[-1].start()
        page, end = bench.session(str(number)), time.monotonic() + 120
        while not (job := page.jobs.get("main")) or not (
            job in order or job.finished.is_set() or bench.turns.ahead(job)
        ):  # stands in line
            assert time.monotonic() < end and not errors
            time.sleep(0.001)
        asked.append(job)
    for thread in [*people, search]:
        thread.join(240)
    assert not errors and order == asked
    alone = {name: bench.session("x").model().run(*samples[name]).answer for name in names}
    assert answers == {number: alone[names[number % len(names)]] for number in range(20)}


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_two_hundred_questions(bench, samples):
    names = list(samples)
    sizes = []
    for number in range(200):
        page = bench.session(str(number % 5))
        last(page.ask(*samples[names[number % len(names)]]))
        if number % 5 == 0:
            last(page.attention())
        if number in (59, 199):
            gc.collect()
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 40_000_000, sizes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_three_hundred_explanations(bench, samples):
    names, sizes = list(samples), []
    for number in range(300):
        page = bench.session(str(number % 5))
        last(page.ask(*samples[names[number % len(names)]], max_new_tokens=4))
        last(page.explain(max_runs=12, n_random=0))
        if number in (99, 299):
            gc.collect()
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 60_000_000, sizes
