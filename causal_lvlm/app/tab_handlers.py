"""What happens in the tabs of other methods, comparison and export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from causal_lvlm.app import maps, view
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.export import export
from causal_lvlm.app.following import Changes, Following
from causal_lvlm.app.records import Asked
from causal_lvlm.app.turns import News
from causal_lvlm.errors import CausalLVLMError, PromptError

if TYPE_CHECKING:
    from causal_lvlm.app.work import Scored
    from causal_lvlm.explanation import Explanation

__all__ = ["TabHandlers"]


class TabHandlers:
    """Handlers of the other tabs.

    Parameters
    ----------
    page : Following
    """

    def __init__(self, page: Following) -> None:
        self.page = page

    def methods(
        self, note_read: bool, request: gr.Request, *groups: Sequence[str]
    ) -> Iterator[Changes]:
        """Run the methods ticked in each group; each map is shown as soon as it is there."""
        session = self.page.session(request)
        results: list[Scored] = []
        names = [name for chosen in groups for name in chosen or ()]

        def start() -> Iterator[News]:
            if not names:
                raise PromptError("no method is ticked; tick one or more")
            return session.attribute(names, accept_patent_note=note_read)

        def stage(name: str, value: Scored) -> Changes:
            results.append(value)
            return {self.page.parts.maps: maps.maps_html(session.runs.asked(), results)}

        yield from self.page.follow(session, start, stage)

    def compare(
        self,
        question_a: str,
        word_a: str,
        question_b: str,
        word_b: str,
        request: gr.Request,
    ) -> Iterator[Changes]:
        """Ask twice, and show both answers and what differs."""
        p, session = self.page.parts, self.page.session(request)

        def start() -> Iterator[News]:
            first = session.picture()
            other = session.second or first
            questions = [q for q in (question_a.strip(), question_b.strip()) if q]
            if not questions:
                raise PromptError("both questions are empty; ask something")
            sides = [(first, questions[0]), (other, questions[-1])]
            if (
                session.second is None
                and questions[0] == questions[-1]
                and word_a.strip() == word_b.strip()
            ):
                raise PromptError(
                    "both sides are the same question about the same picture; give another "
                    "question, word or picture for B"
                )
            return session.compare(sides, (word_a, word_b))

        sides: list[tuple[Asked, Explanation]] = []

        def stage(name: str, value: tuple[int, Asked, Explanation]) -> Changes | None:
            if name != "side":
                return None
            sides.append(value[1:])
            return {p.compared: maps.compare_html(sides)}

        def done(found: list[tuple[Asked, Explanation]]) -> Changes:
            return {p.compared: maps.compare_html(found, *maps.graphs_difference(found))}

        yield from self.page.follow(session, start, stage, done)

    def second(self, path: str | None, request: gr.Request) -> Changes:
        """Take the second picture, or none, and show it."""
        p, session = self.page.parts, self.page.session(request)
        if not path:
            session.second = None
            return {p.second_shown: "", p.second: None, p.second_none: gr.update(visible=False)}
        try:
            session.second = session.take_image(path)
        except CausalLVLMError as error:
            return {p.second: None, p.status: view.status_html(error_text(error), bad=True)}
        return {
            p.second_shown: maps.side_html(session.second),
            p.second_none: gr.update(visible=True),
            p.status: view.status_html("Picture for B; press Compare."),
        }

    def no_second(self, request: gr.Request) -> Changes:
        """Go back to one picture for both sides."""
        return self.second(None, request)

    def exporter(self, kind: str) -> Callable[[gr.Request], Iterator[Changes]]:
        """Return the handler that hands out one kind of files."""
        name = f"writing the {kind}"

        def handler(request: gr.Request) -> Iterator[Changes]:
            session = self.page.session(request)

            def start() -> Iterator[News]:
                asked = session.runs.asked()
                return session.aside(name, lambda: export(session, asked, kind))

            def done(files: Sequence[Path]) -> Changes:
                return {self.page.parts.files: [str(file) for file in files]}

            yield from self.page.follow(session, start, done=done, slot=name)

        return handler
