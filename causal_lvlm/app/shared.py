"""What all pages share, as one of them needs it; `causal_lvlm.app.bench.Workbench` is it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from causal_lvlm.app.models import ModelShelf
from causal_lvlm.app.records import Limits
from causal_lvlm.app.room import Room
from causal_lvlm.app.turns import Turns

if TYPE_CHECKING:
    from causal_lvlm.lvlm import LVLM

__all__ = ["Shared"]


class Shared(Protocol):
    """Models, the line of jobs, limits, and where files go."""

    models: ModelShelf
    limits: Limits
    results: Path | None
    folder: Path
    room: Room
    turns: Turns

    def check_pixels(self, more: int) -> None:
        """Refuse a picture for which there is no memory."""

    def in_use(self, without: object = None) -> list[LVLM]:
        """Return the models that pages work with, but one of them."""
