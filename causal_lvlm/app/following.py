"""What all handlers share: the session of a page, and the news of its jobs as changes of its parts.

Handlers are generators where something takes long: each value is a dict of parts to be changed.
They know the page's session by the key that Gradio gives every open page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias

import gradio as gr

from causal_lvlm.app import view
from causal_lvlm.app.bench import Workbench
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.parts import Parts
from causal_lvlm.app.session import Session
from causal_lvlm.app.turns import Job, News
from causal_lvlm.errors import CausalLVLMError

__all__ = ["Changes", "Following"]

Changes: TypeAlias = dict[Any, Any]


class Following:
    """The workbench, and the parts of its page.

    Parameters
    ----------
    bench : Workbench
    parts : Parts
    """

    def __init__(self, bench: Workbench, parts: Parts) -> None:
        self.bench = bench
        self.parts = parts

    def session(self, request: gr.Request) -> Session:
        """Return the session of the page that asks."""
        return self.bench.session(str(request.session_hash))

    def said(self, text: str = "") -> Changes:
        """Return the change that tells something on the line of what is going on."""
        return {self.parts.status: view.status_html(text)}

    def failed(self, error: Exception) -> Changes:
        """Return the change that tells of an error there."""
        return {self.parts.status: view.status_html(error_text(error), bad=True)}

    def follow(
        self,
        session: Session,
        start: Callable[[], Iterator[News]],
        stage: Callable[[str, Any], Changes | None] | None = None,
        done: Callable[[Any], Changes] | None = None,
        slot: str = "main",
    ) -> Generator[Changes, None, Job | None]:
        """Turn the news of a job into changes of the page, errors into messages; return the job.

        Nothing more is shown of a job whose place another one took meanwhile.
        """
        try:
            news_of = start()
        except (CausalLVLMError, ValueError) as error:
            yield self.failed(error)
            return None
        job = session.jobs.get(slot)
        for news in news_of:
            if session.jobs.get(slot) is not job:
                yield self.unchanged()
                return job
            changes: Changes = {}
            try:
                if news.kind == "stage" and stage is not None:
                    changes = stage(*news.value) or {}
                elif news.kind == "done":
                    changes = self.said()
                    changes |= done(news.value) if done is not None else {}
                elif news.kind != "stage":
                    changes = {self.parts.status: view.status_html(news)}
            except (CausalLVLMError, ValueError, OSError) as error:
                changes = self.failed(error)
            if changes:
                yield changes
        return job

    def unchanged(self) -> Changes:
        """Return no change: Gradio applies the last change again when a handler ends.

        A handler that ends late must therefore end with this one, or it would show again what
        belongs to a token or question that is no longer looked at.
        """
        return {self.parts.status: gr.skip()}
