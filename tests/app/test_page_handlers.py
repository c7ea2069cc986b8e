"""What handlers send to the page: its parts stand in by their names. Needs Gradio, no browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

ME = SimpleNamespace(session_hash="a")
# Gradio applies the last change of a handler once more when it ends: late ones end with this.
NO_CHANGE = {"status": {"__type__": "update"}}


class Names:
    """Every part is its own name."""

    def __getattr__(self, name):
        return name


def opened(bench, samples, name="colour"):
    # Gradio reads its settings when it is imported, so no test may do that before the app has
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    from causal_lvlm.app.following import Following
    from causal_lvlm.app.handlers import Handlers

    page = bench.session("a")
    page.image, question = samples[name]
    return Handlers(Following(bench, Names())), page, question


def test_stop_between_an_answer_and_its_search_starts_no_search(bench, samples):
    do, page, question = opened(bench, samples)
    told = []
    for changes in do.ask(question, [], False, True, 64, ME):
        told.append(changes)
        if "tokens" in changes:  # the answer is there, and nothing runs just now
            assert not page.stop()
    assert "Stopped." in told[-1]["status"]
    assert page.runs.asked().explanations == {}


def test_a_second_question_between_an_answer_and_its_search_goes_first(bench, samples):
    do, page, question = opened(bench, samples)
    first = do.ask(question, [], False, True, 64, ME)
    assert any("tokens" in changes for changes in first)  # as far as the answer
    second = page.ask(page.image, "what shape is there?")
    assert list(first) == [NO_CHANGE]  # searches nothing, and stops nothing
    assert list(second)[-1].kind == "done"


def test_html_is_text_in_the_conversation_and_comes_back_as_it_was(bench, samples):
    do, page, _ = opened(bench, samples)
    from causal_lvlm.app.handlers import _turns

    question = "<img src=http://example.org/x> &lt;b> what color is the star?"
    told = list(do.ask(question, [], True, False, 64, ME))
    chat = [changes["chat"] for changes in told if "chat" in changes][-1]
    assert "<" not in "".join(message["content"] for message in chat)
    assert _turns(chat) == [(question, page.runs.asked().trace.answer)]
    assert page.turns(_turns(chat))[0].image is page.said[0].image  # known as led here


def test_another_token_chosen_while_a_report_is_drawn_is_not_overwritten(
    bench, samples, monkeypatch
):
    do, _, question = opened(bench, samples)
    drawn = do.causal.reported

    def slow(session, asked, found):
        session.look_at(0)
        return drawn(session, asked, found)

    monkeypatch.setattr(do.causal, "reported", slow)
    told = list(do.ask(question, [], False, True, 64, ME))
    assert any(changes.get("sentence") for changes in told)
    assert not any(changes.get("report") for changes in told)
    assert told[-1] == NO_CHANGE  # or the sentence would come back over the other token's


def test_exports_say_that_they_are_written_and_hand_out_files(bench, samples):
    do, _, question = opened(bench, samples)
    write = do.tabs.exporter("numbers")
    assert "nothing has been asked" in next(write(ME))["status"].lower()
    list(do.ask(question, [], False, True, 64, ME))
    told = list(write(ME))
    assert any("writing the numbers" in changes["status"] for changes in told)
    assert any(name.endswith("explanation.json") for name in told[-1]["files"])
