"""What happens in the tabs: attention, causal, relevancy, compare, export.

Handlers are generators where something takes long: each value is a dict of parts to be changed.
They know the page's session by the key that Gradio gives every open page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import gradio as gr

from causal_lvlm.app import maps, view
from causal_lvlm.app.bench import Workbench
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.export import embedded, export, report_page
from causal_lvlm.app.records import Asked, Verified
from causal_lvlm.app.session import Session
from causal_lvlm.app.turns import Job, News
from causal_lvlm.errors import CausalLVLMError, PromptError

__all__ = ["MASKINGS", "MODES", "PATENTED", "SOURCES", "Changes", "TabHandlers", "method_groups"]

MODES = ("necessary", "sufficient")
MASKINGS = ("remove", "edges", "neutral")
# What the choice is called -> options of `causal_lvlm.explain`.
SOURCES: dict[str, dict[str, Any]] = {
    "influence (default)": {},
    "relevancy": {"source": "relevancy"},
    "attention heads, last layer": {"source": "attention", "layer": -1},
}
MEAN = "mean of the heads"
STRIP = 8  # heads that are shown at once, without being asked for
PATENTED = "Propagation (patented)"
# What a group of methods is called -> families of `causal_lvlm.list_methods`.
GROUPS = {
    "Attention": ("attention",),
    "Gradients": ("gradient",),
    "What the model reads at each position": ("lens",),
    "Perturbation: many model runs": ("perturbation",),
    "Causal, consensus, and a random floor": ("causal", "consensus", "random"),
    PATENTED: ("propagation",),
}
Changes = dict[Any, Any]


def method_groups() -> dict[str, list[tuple[str, str]]]:
    """Return the methods as (label, name) by group, cheap ones first within each."""
    import causal_lvlm

    groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
    of_family = {family: name for name, families in GROUPS.items() for family in families}
    for method in causal_lvlm.list_methods():
        slow = method.optional and method.family == "perturbation"
        label = method.name + (" (slow)" if slow else "")
        name = of_family.get(method.family, method.family.capitalize())
        groups.setdefault(name, []).append((label, method.name))
    return {name: choices for name, choices in groups.items() if choices}


def _stopped(found: Any) -> bool:
    return any(s.ended == "interrupted" for s in found.sets.values())


class TabHandlers:
    """Handlers of the tabs.

    Parameters
    ----------
    bench : Workbench
    parts : Parts
    """

    def __init__(self, bench: Workbench, parts: Any) -> None:
        self.bench = bench
        self.p = parts

    def _session(self, request: gr.Request) -> Session:
        return self.bench.session(str(request.session_hash))

    def _follow(
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
        status = self.p.status
        try:
            news_of = start()
        except (CausalLVLMError, ValueError) as error:
            yield {status: view.status_html(error_text(error), bad=True)}
            return None
        job = session.jobs.get(slot)
        for news in news_of:
            if session.jobs.get(slot) is not job:
                yield self._unchanged()
                return job
            changes: Changes = {}
            try:
                if news.kind == "stage" and stage is not None:
                    changes = stage(*news.value) or {}
                elif news.kind == "done":
                    changes = {status: view.status_html()}
                    changes |= done(news.value) if done is not None else {}
                elif news.kind != "stage":
                    changes = {status: view.status_html(news)}
            except (CausalLVLMError, ValueError, OSError) as error:
                changes = {status: view.status_html(error_text(error), bad=True)}
            if changes:
                yield changes
        return job

    # -- attention -------------------------------------------------------------------------

    def _attention(self, session: Session, asked: Asked) -> Iterator[Changes]:
        if not asked.attached:
            return
        yield from self._follow(
            session,
            lambda: session.attention(asked.number),
            done=lambda _: self._heat(asked),
            slot="live",
        )

    def _heat(self, asked: Asked, layer: int | None = None, head: int | None = None) -> Changes:
        p, found = self.p, asked.attention
        if found is None or asked.target is None:
            return {}
        at = found.n_layers - 1 if layer is None else min(max(layer, 0), found.n_layers - 1)
        if head is not None and not 0 <= head < found.n_heads:
            head = None
        token = asked.target.start - asked.trace.layout.n_prompt
        heads = [MEAN, *(f"head {h}" for h in range(found.n_heads))]
        return {
            p.heat: view.attention_board(asked, found, token, at, head),
            p.matrix: view.head_matrix(found, token, at, head),
            p.layer: gr.update(maximum=max(found.n_layers - 1, 1), value=at),
            p.head: gr.update(choices=heads, value=MEAN if head is None else f"head {head}"),
            p.looked: view.answer_tokens(None),
            p.strip: maps.heads_html(asked, at) if found.n_heads <= STRIP else "",
            p.strip_button: gr.update(visible=found.n_heads > STRIP),
        }

    def head(self, layer: float, head: str, request: gr.Request) -> Changes:
        """Show another layer or head."""
        return self._shown(request, int(layer), _head(head))

    def matrix(self, event: gr.EventData, request: gr.Request) -> Changes:
        """Show the layer and head chosen in the grid of all."""
        try:
            layer, head = int(event._data["layer"]), int(event._data["head"])
        except (KeyError, TypeError, ValueError):
            return {self.p.strip: ""}
        return self._shown(request, layer, head)

    def _shown(self, request: gr.Request, layer: int, head: int | None) -> Changes:
        nothing = {self.p.strip: gr.skip()}
        try:
            return self._heat(self._session(request).runs.asked(), layer, head) or nothing
        except CausalLVLMError:
            return nothing

    def look(self, layer: float, head: str, event: gr.EventData, request: gr.Request) -> Any:
        """Show which tokens of the answer looked at a patch."""
        try:
            asked = self._session(request).runs.asked()
            positions = _positions(asked, event)
        except (CausalLVLMError, ValueError):
            return view.answer_tokens(None)
        found = asked.attention
        if found is None or not positions:
            return view.answer_tokens(None)
        at = min(max(int(layer), 0), found.n_layers - 1)
        weights = found.looked_at(tuple(positions), at, _head(head))
        return view.answer_tokens(asked, weights, label="attention of each token to the patch")

    def strip(self, layer: float, request: gr.Request) -> str:
        """Show every head of a layer."""
        try:
            asked = self._session(request).runs.asked()
        except CausalLVLMError:
            return ""
        return maps.heads_html(asked, int(layer)) if asked.attention is not None else ""

    # -- causal ----------------------------------------------------------------------------

    def explain(
        self, mode: str, masking: str, source: str, runs: float, request: gr.Request
    ) -> Iterator[Changes]:
        """Search explaining sets with other settings."""
        session = self._session(request)
        options = {"mode": mode, "masking": masking, "max_runs": int(runs)}
        try:
            asked = session.runs.asked()
        except CausalLVLMError as error:
            yield {self.p.status: view.status_html(error_text(error), bad=True)}
            return
        yield from self._explain(session, asked, {**options, **SOURCES.get(source, {})})

    def _explain(
        self, session: Session, asked: Asked, options: dict[str, Any]
    ) -> Iterator[Changes]:
        seen: list[Verified] = []

        def stage(name: str, value: Any) -> Changes:
            if name == "attention":
                return self._heat(asked)
            seen.append(value)
            return {self.p.stages: view.stages_html(asked, seen)}

        result: list[Any] = []

        def done(found: Any) -> Changes:
            text = "Stopped; this is the best that was found so far." if _stopped(found) else ""
            if _stopped(found) and not any(s.verified for s in found.sets.values()):
                return {
                    self.p.status: view.status_html("Stopped before any set was verified."),
                    self.p.stages: "",
                }
            result.append(found)
            return {
                self.p.sentence: view.sentence_html(found),
                self.p.stages: "",
                self.p.status: view.status_html(text),
            }

        job = yield from self._follow(
            session, lambda: session.explain(asked.number, **options), stage, done
        )
        reported = self._reported(session, asked, result[0]) if result else {}
        # Nothing more if another token was chosen meanwhile, also while the report was drawn.
        shown = reported and session.jobs.get("main") is job
        yield reported if shown else self._unchanged()

    def _unchanged(self) -> Changes:
        """Return no change: Gradio applies the last change again when a handler ends.

        A handler that ends late must therefore end with this one, or it would show again what
        belongs to a token or question that is no longer looked at.
        """
        return {self.p.status: gr.skip()}

    def _explained(self, session: Session, asked: Asked) -> Changes:
        found = asked.explanation()
        if found is None:
            return {}
        return {
            self.p.sentence: view.sentence_html(found),
            self.p.stages: "",
            **self._reported(session, asked, found),
        }

    def _reported(self, session: Session, asked: Asked, found: Any) -> Changes:
        """Show the report: graph, tree and sets by radius."""
        try:
            page = report_page(session, asked)
        except CausalLVLMError as error:
            return {self.p.status: view.status_html(error_text(error), bad=True)}
        title = f"Report on “{found.target.text}”: set, graph, tree and radius"
        return {
            self.p.report: view.frame_html(embedded(page), title),
            self.p.mask: view.mask_board(asked, asked.units()),
        }

    def mask(self, event: gr.EventData, request: gr.Request) -> Iterator[Changes]:
        """Hide patches and words and ask again."""
        session = self._session(request)
        try:
            asked = session.runs.asked()
            hidden = _positions(asked, event)
        except (CausalLVLMError, ValueError) as error:
            yield {self.p.status: view.status_html(error_text(error), bad=True)}
            return
        readout = self.p.readout
        if not hidden or not asked.attached:
            yield {readout: view.readout_html(asked, None)}
            return
        yield from self._follow(
            session,
            lambda: session.mask([hidden], asked.number),
            done=lambda found: {readout: view.readout_html(asked, found)},
            slot="live",
        )

    # -- other methods, comparison, export -------------------------------------------------

    def methods(
        self, note_read: bool, request: gr.Request, *groups: Sequence[str]
    ) -> Iterator[Changes]:
        """Run the methods ticked in each group; each map is shown as soon as it is there."""
        session, results = self._session(request), list[Any]()
        names = [name for chosen in groups for name in chosen or ()]

        def start() -> Iterator[News]:
            if not names:
                raise PromptError("no method is ticked; tick one or more")
            return session.attribute(names, accept_patent_note=note_read)

        def stage(name: str, value: Any) -> Changes:
            results.append(value)
            return {self.p.maps: maps.maps_html(session.runs.asked(), results)}

        yield from self._follow(session, start, stage)

    def compare(
        self,
        question_a: str,
        word_a: str,
        question_b: str,
        word_b: str,
        request: gr.Request,
    ) -> Iterator[Changes]:
        """Ask twice, and show both answers and what differs."""
        p, session = self.p, self._session(request)

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

        sides: list[tuple[Asked, Any]] = []

        def stage(name: str, value: Any) -> Changes | None:
            if name != "side":
                return None
            sides.append(value[1:])
            return {p.compared: maps.compare_html(sides)}

        def done(found: Any) -> Changes:
            return {p.compared: maps.compare_html(found, *maps.graphs_difference(found))}

        yield from self._follow(session, start, stage, done)

    def second(self, path: str | None, request: gr.Request) -> Changes:
        """Take the second picture, or none, and show it."""
        p, session = self.p, self._session(request)
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
            session = self._session(request)

            def start() -> Iterator[News]:
                asked = session.runs.asked()
                return session.aside(name, lambda: export(session, asked, kind))

            def done(files: Sequence[Any]) -> Changes:
                return {self.p.files: [str(file) for file in files]}

            yield from self._follow(session, start, done=done, slot=name)

        return handler


def _head(name: str) -> int | None:
    return int(name.removeprefix("head ")) if str(name).startswith("head ") else None


def _positions(asked: Asked, event: gr.EventData) -> list[int]:
    """Return the positions that the page sent, checked."""
    found = event._data.get("positions")
    if not isinstance(found, list) or len(found) > len(asked.trace.layout):
        raise ValueError("the page sent no list of positions; load it again")
    return [int(p) for p in found]
