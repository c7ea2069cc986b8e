"""What happens in the tab of explaining sets: searches, the report, and masks that are tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from causal_lvlm.app import view
from causal_lvlm.app.attention_handlers import AttentionHandlers, sent_positions
from causal_lvlm.app.choices import SOURCES
from causal_lvlm.app.export import embedded, report_page
from causal_lvlm.app.following import Changes, Following
from causal_lvlm.app.records import Asked, Verified
from causal_lvlm.app.session import Session
from causal_lvlm.errors import CausalLVLMError

if TYPE_CHECKING:
    from causal_lvlm.explanation import Explanation

__all__ = ["CausalHandlers"]


class CausalHandlers:
    """Which sets of patches and words a token depends on.

    Parameters
    ----------
    page : Following
    attention : AttentionHandlers
        What is shown while a search begins.
    """

    def __init__(self, page: Following, attention: AttentionHandlers) -> None:
        self.page, self.attention = page, attention

    def explain(
        self, mode: str, masking: str, source: str, runs: float, edges: bool, request: gr.Request
    ) -> Iterator[Changes]:
        """Search explaining sets with other settings."""
        session = self.page.session(request)
        options = {
            "mode": mode, "masking": masking, "max_runs": int(runs), "graph": bool(edges)
        }  # fmt: skip
        try:
            asked = session.runs.asked()
        except CausalLVLMError as error:
            yield self.page.failed(error)
            return
        yield from self.search(session, asked, {**options, **SOURCES.get(source, {})})

    def search(self, session: Session, asked: Asked, options: dict[str, Any]) -> Iterator[Changes]:
        """Search explaining sets; show them as they are verified, then the report."""
        parts = self.page.parts
        seen: list[Verified] = []

        def stage(name: str, value: Any) -> Changes:
            if name == "attention":
                return self.attention.heat(asked)
            seen.append(value)
            return {parts.stages: view.stages_html(asked, seen)}

        result: list[Explanation] = []

        def done(found: Explanation) -> Changes:
            text = "Stopped; this is the best that was found so far." if _stopped(found) else ""
            if _stopped(found) and not any(s.verified for s in found.sets.values()):
                return {**self.page.said("Stopped before any set was verified."), parts.stages: ""}
            result.append(found)
            return {
                **self.page.said(text),
                parts.sentence: view.sentence_html(found),
                parts.stages: "",
            }

        job = yield from self.page.follow(
            session, lambda: session.explain(asked.number, **options), stage, done
        )
        reported = self.reported(session, asked, result[0]) if result else {}
        # Nothing more if another token was chosen meanwhile, also while the report was drawn.
        shown = reported and session.jobs.get("main") is job
        yield reported if shown else self.page.unchanged()

    def explained(self, session: Session, asked: Asked) -> Changes:
        """Show what was found about the token before."""
        found = asked.explanation()
        if found is None:
            return {}
        return {
            self.page.parts.sentence: view.sentence_html(found),
            self.page.parts.stages: "",
            **self.reported(session, asked, found),
        }

    def reported(self, session: Session, asked: Asked, found: Explanation) -> Changes:
        """Show the report: graph, tree and sets by radius."""
        try:
            page = report_page(session, asked)
        except CausalLVLMError as error:
            return self.page.failed(error)
        title = f"Report on “{found.target.text}”: set, graph, tree and radius"
        return {
            self.page.parts.report: view.frame_html(embedded(page), title),
            self.page.parts.mask: view.mask_board(asked, asked.units()),
        }

    def mask(self, event: gr.EventData, request: gr.Request) -> Iterator[Changes]:
        """Hide patches and words and ask again."""
        session = self.page.session(request)
        try:
            asked = session.runs.asked()
            hidden = sent_positions(asked, event)
        except (CausalLVLMError, ValueError) as error:
            yield self.page.failed(error)
            return
        readout = self.page.parts.readout
        if not hidden or not asked.attached:
            yield {readout: view.readout_html(asked, None)}
            return
        yield from self.page.follow(
            session,
            lambda: session.mask([hidden], asked.number),
            done=lambda found: {readout: view.readout_html(asked, found)},
            slot="live",
        )


def _stopped(found: Explanation) -> bool:
    return any(s.ended == "interrupted" for s in found.sets.values())
