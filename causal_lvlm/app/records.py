"""What a page keeps: its runs of the model, and the limits of what it may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from causal_lvlm.app.attention import AnswerAttention
from causal_lvlm.errors import DetachedTraceError, PromptError
from causal_lvlm.tokens import Target, Units, candidate_units

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.lvlm import Trace

__all__ = ["Asked", "Limits", "Masked", "Turn", "Verified"]


@dataclass(frozen=True)
class Limits:
    """What one page and the server may use.

    Attributes
    ----------
    runs : int
        Runs of the model that a page keeps.
    sessions : int
        Pages open at once.
    waiting : int
        Jobs waiting at once.
    idle : float
        Seconds after which an unused page is closed.
    prompt : int
        Longest question in characters.
    new_tokens : int
        Longest answer.
    turns : int
        Earlier questions that go along in a conversation.
    uploads, upload_bytes : int
        Files that a page takes within ten minutes, and their bytes.
    pixels, page_pixels : int
        Of the pictures that all pages keep in memory, and one of them.
    disk, page_disk : int
        Bytes of temporary files: of all pages (uploads, what is handed out), of one (exports).
    """

    runs: int = 4
    sessions: int = 100
    waiting: int = 200
    idle: float = 3600.0
    prompt: int = 4000
    new_tokens: int = 256
    turns: int = 12
    uploads: int = 60
    upload_bytes: int = 300_000_000
    pixels: int = 1_000_000_000
    page_pixels: int = 50_000_000
    disk: int = 1_000_000_000
    page_disk: int = 200_000_000


class Turn(NamedTuple):
    """A question of a conversation, its answer, and the picture it was about, if it is known."""

    question: str
    answer: str
    image: Image.Image | None = None


@dataclass(frozen=True)
class Masked:
    """What the model says with some units masked.

    Attributes
    ----------
    positions : tuple of int
    probability, before : float
        Of the target, masked and with everything visible.
    says : str
        First choice at the target's rows.
    changed : bool
        Whether that is another token than the target.
    """

    positions: tuple[int, ...]
    probability: float
    before: float
    says: str
    changed: bool


@dataclass(frozen=True)
class Verified:
    """A masked set under which the model no longer says the target.

    Attributes
    ----------
    scope : {"image", "text", "joint"}
    positions : tuple of int
    size : int
        Number of units masked.
    probability : float
        Of the target, with the set masked.
    says : tuple of str
        First choices at the target's rows.
    """

    scope: str
    positions: tuple[int, ...]
    size: int
    probability: float
    says: tuple[str, ...]


@dataclass
class Asked:
    """One run of the model and what was found about it.

    Attributes
    ----------
    number : int
        Counted from 1 within the page.
    trace : Trace
    question : str
    target : Target or None
        The token that is looked at.
    explanations, attributions : dict
        By (target's start, mode, masking, source) and by (target's start, method); the newest last.
    """

    number: int
    trace: Trace
    question: str
    target: Target | None = None
    explanations: dict[tuple[int, str, str, str | None], Explanation] = field(default_factory=dict)
    attributions: dict[tuple[int, str], Attribution] = field(default_factory=dict)
    attention: AnswerAttention | None = None
    before: dict[int, float] = field(default_factory=dict)

    @property
    def attached(self) -> bool:
        """Whether the model can be asked again."""
        try:
            return self.trace.model is not None
        except DetachedTraceError:
            return False

    def chosen(self) -> Target:
        """Return the token that is looked at; raises `PromptError` if none is."""
        if self.target is None:
            raise PromptError("no token of the answer is chosen; click one")
        return self.target

    def units(self) -> Units:
        """Return what can be masked for the token that is looked at."""
        return candidate_units(self.trace.layout, self.chosen())

    def add(self, found: Explanation) -> None:
        """Keep an explanation as the newest; it takes the place of one with the same settings."""
        key = (found.target.start, found.mode, found.masking, found.parameters.get("source"))
        self.explanations.pop(key, None)
        self.explanations[key] = found

    def explanation(self) -> Explanation | None:
        """Return the newest explanation of the token that is looked at, if there is one."""
        start = None if self.target is None else self.target.start
        found = [e for key, e in self.explanations.items() if key[0] == start]
        return found[-1] if found else None
