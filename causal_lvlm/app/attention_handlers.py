"""What happens in the tab of attention."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from causal_lvlm.app import maps, view
from causal_lvlm.app.following import Changes, Following
from causal_lvlm.app.records import Asked
from causal_lvlm.app.session import Session
from causal_lvlm.errors import CausalLVLMError

__all__ = ["AttentionHandlers", "sent_positions"]

MEAN = "mean of the heads"
STRIP = 8  # heads that are shown at once, without being asked for


class AttentionHandlers:
    """Where the model looked when it said a token.

    Parameters
    ----------
    page : Following
    """

    def __init__(self, page: Following) -> None:
        self.page = page

    def read(self, session: Session, asked: Asked) -> Iterator[Changes]:
        """Read the attention of a run and show it."""
        if not asked.attached:
            return
        yield from self.page.follow(
            session,
            lambda: session.attention(asked.number),
            done=lambda _: self.heat(asked),
            slot="live",
        )

    def heat(self, asked: Asked, layer: int | None = None, head: int | None = None) -> Changes:
        """Show the attention of the token that is looked at, by default of the last layer."""
        p, found = self.page.parts, asked.attention
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
            return {self.page.parts.strip: ""}
        return self._shown(request, layer, head)

    def _shown(self, request: gr.Request, layer: int, head: int | None) -> Changes:
        nothing = {self.page.parts.strip: gr.skip()}
        try:
            return self.heat(self.page.session(request).runs.asked(), layer, head) or nothing
        except CausalLVLMError:
            return nothing

    def look(self, layer: float, head: str, event: gr.EventData, request: gr.Request) -> str:
        """Show which tokens of the answer looked at a patch."""
        try:
            asked = self.page.session(request).runs.asked()
            positions = sent_positions(asked, event)
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
            asked = self.page.session(request).runs.asked()
        except CausalLVLMError:
            return ""
        return maps.heads_html(asked, int(layer)) if asked.attention is not None else ""


def _head(name: str) -> int | None:
    return int(name.removeprefix("head ")) if str(name).startswith("head ") else None


def sent_positions(asked: Asked, event: gr.EventData) -> list[int]:
    """Return the positions that the page sent, checked."""
    found = event._data.get("positions")
    if not isinstance(found, list) or len(found) > len(asked.trace.layout):
        raise ValueError("the page sent no list of positions; load it again")
    return [int(p) for p in found]
