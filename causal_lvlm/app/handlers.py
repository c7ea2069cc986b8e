"""What happens when something on the page is used: from an event to a session, and back.

Opening, pictures, asking and choosing a token are here; what happens in the tabs is in
`attention_handlers`, `causal_handlers` and `tab_handlers`.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from html import escape, unescape
from typing import Any

import gradio as gr

from causal_lvlm.app import view
from causal_lvlm.app.attention_handlers import AttentionHandlers
from causal_lvlm.app.causal_handlers import CausalHandlers
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.following import Changes, Following
from causal_lvlm.app.records import Asked
from causal_lvlm.app.session import Session
from causal_lvlm.app.tab_handlers import TabHandlers
from causal_lvlm.app.turns import News
from causal_lvlm.app.uploads import checked_image
from causal_lvlm.errors import CausalLVLMError, PromptError

__all__ = ["Handlers", "told"]


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler of which people see every error as `error_text`, whatever it is.

    Gradio would show the text of an exception as it is, with paths of the server.
    """

    def shown(error: Exception) -> gr.Error:
        return gr.Error(error_text(error))

    @functools.wraps(handler)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return handler(*arguments, **options)
        except Exception as error:
            raise shown(error) from error

    @functools.wraps(handler)
    def generated(*arguments: Any, **options: Any) -> Iterator[Any]:
        try:
            yield from handler(*arguments, **options)
        except Exception as error:
            raise shown(error) from error

    return generated if inspect.isgeneratorfunction(handler) else called


class Handlers:
    """Handlers of one page's parts.

    Parameters
    ----------
    page : Following
    """

    def __init__(self, page: Following) -> None:
        self.page = page
        self.attention = AttentionHandlers(page)
        self.causal = CausalHandlers(page, self.attention)
        self.tabs = TabHandlers(page)

    def outputs(self) -> list[Any]:
        """Return every part that a new answer changes."""
        p = self.page.parts
        return [
            p.status, p.chat, p.question, p.picture, p.tokens, p.sentence, p.stages, p.mask,
            p.readout, p.report, p.heat, p.matrix, p.layer, p.head, p.looked, p.strip,
            p.strip_button, p.maps, p.files, p.model_facts, p.question_a,
        ]  # fmt: skip

    # -- sessions --------------------------------------------------------------------------

    def closed(self, request: gr.Request) -> None:
        """Forget everything: the page was closed."""
        self.page.bench.close_session(str(request.session_hash))

    def stop(self, request: gr.Request) -> Changes:
        """Stop what this page waits for, and say so at once."""
        running = self.page.session(request).stop()
        return {
            self.page.parts.status: view.status_html(
                "Stopped." if running else "Nothing is running."
            )
        }

    # -- opening ---------------------------------------------------------------------------

    def opened(self, request: gr.Request) -> Iterator[Changes]:
        """Load the model, and the explanation that the address names: the page was opened."""
        session = self.page.session(request)
        yield from self.page.follow(session, lambda: session.choose_model(""), done=self._facts)
        name = str(dict(request.query_params).get("open", ""))
        if name:
            yield from self._open(session, lambda: session.open_link(name))

    def _facts(self, facts: dict[str, Any]) -> Changes:
        text = (
            f"{facts['model_id']}: {facts['family']}, {facts['parameters'] / 1e6:.1f} million "
            f"parameters, {facts['layers']} layers of {facts['heads']} heads, {facts['dtype']} on "
            f"{facts['device']}"
        )
        return {self.page.parts.model_facts: view.status_html(text)}

    def load(self, name: str, request: gr.Request) -> Iterator[Changes]:
        """Load another model."""
        session = self.page.session(request)
        yield from self.page.follow(session, lambda: session.choose_model(name), done=self._facts)

    def open(self, path: str, request: gr.Request) -> Iterator[Changes]:
        """Open an uploaded explanation."""
        session = self.page.session(request)
        yield from self._open(session, lambda: session.open_file(path))

    def _open(self, session: Session, start: Callable[[], Iterator[News]]) -> Iterator[Changes]:
        found: list[Asked] = []
        yield from self.page.follow(session, start, done=_into(found))
        if not found:
            return
        asked, p = found[0], self.page.parts
        session.image, session.strokes = asked.trace.image, []
        chat = [_message("user", asked.question), _message("assistant", asked.trace.answer)]
        yield {
            **self._cleared(), p.picture: view.paint_board(session.image), p.chat: chat,
            p.question: asked.question, p.question_a: asked.question,
            **self._chosen(session, asked), **self.causal.explained(session, asked),
        }  # fmt: skip
        if asked.attached:
            yield from self.attention.read(session, asked)

    # -- picture ---------------------------------------------------------------------------

    def upload(self, path: str, request: gr.Request) -> Changes:
        """Take a picture."""
        p, session = self.page.parts, self.page.session(request)
        try:
            session.image = session.take_image(path)
        except CausalLVLMError as error:
            return self.page.failed(error)
        session.strokes = []
        size = f"{session.image.width} × {session.image.height} pixels"
        return {
            p.picture: view.paint_board(session.image),
            p.status: view.status_html(f"Picture of {size}; ask about it."),
            p.sample: None,
        }

    def sample(self, name: str, request: gr.Request) -> Changes:
        """Take one of the bundled pictures and its question."""
        from causal_lvlm.tiny import sample_inputs

        p, session = self.page.parts, self.page.session(request)
        chosen = next((s for s in sample_inputs() if s.name == name), None)
        if chosen is None:
            return self.page.said()
        session.image, session.strokes = checked_image(chosen.image_path), []
        return {
            p.picture: view.paint_board(session.image),
            p.question: chosen.prompt,
            p.status: view.status_html(chosen.note),
        }

    def paint(self, event: gr.EventData, request: gr.Request) -> Changes:
        """Remember what was painted over the picture."""
        session = self.page.session(request)
        before, session.strokes = session.strokes, list(event._data.get("strokes") or [])
        try:
            session.picture()
        except CausalLVLMError as error:
            session.strokes = before
            return self.page.failed(error)
        count = len(session.strokes)
        text = f"{count} stroke{'s' * (count != 1)} painted; ask again to see what changes."
        return {
            self.page.parts.status: view.status_html(text if count else "Nothing is painted over.")
        }

    # -- asking ----------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        chat: Any,
        talk: bool,
        auto: bool,
        tokens_most: float,
        request: gr.Request,
    ) -> Iterator[Changes]:
        """Ask about the picture; show the answer as it comes, then attention, then sets."""
        p, session = self.page.parts, self.page.session(request)
        history = list(chat or [])
        earlier = session.turns(_turns(history)) if talk else []
        said = [*history, _message("user", question)]
        found: list[Asked] = []
        stops = session.stops

        def stage(name: str, text: str) -> Changes:
            return {p.chat: [*said, _message("assistant", text)]}

        def start() -> Iterator[News]:
            if not question.strip():
                raise PromptError("the question is empty; ask something about the picture")
            return session.ask(
                session.picture(), question, earlier=earlier, max_new_tokens=int(tokens_most)
            )

        job = yield from self.page.follow(session, start, stage=stage, done=_into(found))
        if not found:
            return
        asked = found[0]
        answer = [*said, _message("assistant", asked.trace.answer)]
        yield {
            **self._cleared(), p.chat: answer, p.question_a: asked.question,
            **self._chosen(session, asked),
        }  # fmt: skip
        if session.jobs.get("main") is not job:  # asked again, or another token was chosen
            yield self.page.unchanged()
            return
        if session.stops > stops:  # the answer was there already, but nothing more was wanted
            yield self.page.said("Stopped.")
            return
        if auto:
            yield from self.causal.search(session, asked, {})
        else:
            yield from self.attention.read(session, asked)

    def pick(self, auto: bool, event: gr.EventData, request: gr.Request) -> Iterator[Changes]:
        """Choose the token that everything is about."""
        session = self.page.session(request)
        try:
            asked = session.look_at(int(event._data["token"]))
        except (CausalLVLMError, KeyError, TypeError, ValueError) as error:
            yield self.page.failed(error)
            return
        yield {**self._cleared(), **self._chosen(session, asked)}
        if asked.explanation() is not None:
            yield self.causal.explained(session, asked)
            yield from self.attention.read(session, asked)
        elif auto and asked.attached:
            yield from self.causal.search(session, asked, {})
        else:
            yield from self.attention.read(session, asked)

    def _cleared(self) -> Changes:
        """Return the results' parts, empty."""
        p = self.page.parts
        return {
            p.sentence: "", p.stages: "", p.report: "", p.strip: "", p.maps: "", p.files: None,
            p.looked: view.answer_tokens(None), p.heat: view.NOTHING, p.matrix: view.NOTHING,
        }  # fmt: skip

    def _chosen(self, session: Session, asked: Asked) -> Changes:
        """Return answer and mask for the chosen token."""
        p = self.page.parts
        changes: Changes = {p.tokens: view.answer_tokens(asked)}
        if asked.target is None:
            return changes
        board = view.mask_board(asked, asked.units())
        return {**changes, p.mask: board, p.readout: view.readout_html(asked, None)}


def _into(results: list[Any]) -> Callable[[Any], Changes]:
    """Return what puts the result of a job into a list, and changes nothing on the page."""

    def keep(result: Any) -> Changes:
        results.append(result)
        return {}

    return keep


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": escape(text, quote=False)}  # the chat shows HTML as such


def _turns(history: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the questions and answers of a conversation."""
    texts = [(m["role"], _text(m["content"])) for m in history]
    return [
        (first[1], second[1])
        for first, second in itertools.pairwise(texts)
        if (first[0], second[0]) == ("user", "assistant")
    ]


def _text(content: Any) -> str:
    if not isinstance(content, str):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return unescape(content)
