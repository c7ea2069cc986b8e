"""What tokens are called in sentences: words, other tokens, and which one of several alike.

A word holds a letter or a digit; what does not, and a piece of a longer word, is called a token. Of
a text that stands in several places of prompt and answer it is said which one is meant: its number,
counted through both, and whether it stands in the prompt or in the answer (and in which line of it,
where there are lines).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from causal_lvlm.tokens import TokenLayout

__all__ = ["TokenNames", "amount", "visible"]

_PARTS = {"prompt": "the prompt", "generated": "the answer"}


def amount(count: int, thing: str) -> str:
    """Return a number with its noun: 1 model run, 2 model runs."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def visible(text: str) -> str:
    """Return a token's text without spaces around it; a line break or a space is spelled out."""
    return text.strip() or repr(text)[1:-1]


@dataclass(frozen=True)
class TokenNames:
    """Names of the text tokens of one run.

    Attributes
    ----------
    tokens : sequence of str, length T
    modality : sequence of str, length T
    words : sequence of int
        Word number of each position, -1 where it has none; may be empty.
    """

    tokens: Sequence[str]
    modality: Sequence[str]
    words: Sequence[int] = ()

    @classmethod
    def of(cls, layout: TokenLayout) -> TokenNames:
        """Return the names of a run's tokens."""
        return cls(layout.tokens, layout.modality.tolist(), layout.words.tolist())

    @cached_property
    def _texts(self) -> list[str | None]:
        """Text of every token of prompt and answer, None elsewhere."""
        return [
            visible(token) if kind in _PARTS else None
            for token, kind in zip(self.tokens, self.modality, strict=True)
        ]

    @cached_property
    def _where(self) -> dict[str, list[int]]:
        """Positions of every text, in order."""
        where: dict[str, list[int]] = {}
        for position, text in enumerate(self._texts):
            if text is not None:
                where.setdefault(text, []).append(position)
        return where

    def text(self, unit: Sequence[int]) -> str:
        """Return the text of a unit as it is shown between quotes."""
        return visible("".join(self.tokens[p] for p in unit))

    def places(self, unit: Sequence[int]) -> list[int]:
        """Return where in prompt and answer tokens like these begin, in order."""
        wanted, size = [self._texts[p] for p in unit], len(unit)
        same = self._where.get(wanted[0] or "", ())
        return [p for p in same if self._texts[p : p + size] == wanted]

    def is_word(self, unit: Sequence[int]) -> bool:
        """Whether a unit is a word: it has a letter or a digit, and is no piece of a longer one."""
        written = any(c.isalnum() for p in unit for c in self.tokens[p])
        return written and self._whole(unit) is None

    def _whole(self, unit: Sequence[int]) -> str | None:
        """Return the word that a unit is a piece of, None if it is not."""
        number = self.words[unit[0]] if self.words else -1
        if number < 0:
            return None
        around = [p for p, n in enumerate(self.words) if n == number]
        return self.text(around) if len(around) > len(unit) else None

    def place(self, unit: Sequence[int]) -> str:
        """Return which of several alike a unit is, such as ``2nd of 3, in the answer``; or ""."""
        places = self.places(unit)
        if len(places) < 2 or unit[0] not in places:
            return ""
        kind = self.modality[unit[0]]
        part = _PARTS[kind]
        own = [p for p, k in enumerate(self.modality) if k == kind]
        before = sum(self.tokens[p].count("\n") for p in own if p < unit[0])
        if any("\n" in self.tokens[p] for p in own):
            part = f"line {1 + before} of {part}"
        return f"{_ordinal(places.index(unit[0]) + 1)} of {len(places)}, in {part}"

    def quoted(self, unit: Sequence[int]) -> str:
        """Return a unit in quotes, and what tells it from others like it."""
        whole = self._whole(unit)
        remarks = ([] if whole is None else [f"of “{whole}”"]) + [self.place(unit)]
        remark = "; ".join(r for r in remarks if r)
        return f"“{self.text(unit)}”" + (f" ({remark})" if remark else "")

    def listed(self, units: Sequence[Sequence[int]]) -> list[str]:
        """Name words and other tokens: ``the words “red”, “cup”`` and ``the token “.”``."""
        words = [u for u in units if self.is_word(u)]
        parts = []
        for what, some in (("word", words), ("token", [u for u in units if u not in words])):
            if some:
                plural = "" if len(some) == 1 else "s"
                parts.append(f"the {what}{plural} {', '.join(self.quoted(u) for u in some)}")
        return parts


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
