"""Recognise a prompt that a chat template has rendered already, and find the user's words in it.

A template is a program, so what it writes is learned by asking it: conversations of known words are
rendered (one turn and two, with a system prompt, with and without the last line that asks for an
answer, with an image), and what stands between the words are its marks.

1. A prompt is a rendered one if, after any number of first tokens (``<s>``), it begins as the
   template begins a conversation; or, where the mark of a user's turn holds a special token, if it
   begins with any special token and has that mark: system prompts, tools and dates differ.
2. From there on, the user's words go from each mark of a user's turn to the next mark that ends it.
   All else is frame: system prompts, earlier answers, the beginning of an answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SENTINEL", "Rendered", "ask_template", "find_rendered", "renderer_of"]

# A text no template changes, put in place of words to see what a template puts around them.
SENTINEL = "qzxsentinelxzq"

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """Where the user's words are in a rendered prompt.

    Attributes
    ----------
    words : tuple of (int, int)
        One span or more for each turn of the user's, without images and outer white space.
    certain : bool
        False where a few words of plain text at its beginning are all that speaks for it.
    """

    words: tuple[Span, ...]
    certain: bool


def renderer_of(processor: Any) -> Any:
    """Return what has a chat template: the processor, else its tokenizer, else None."""
    for owner in (processor, getattr(processor, "tokenizer", None)):
        if getattr(owner, "chat_template", None):
            return owner
    return None


def ask_template(renderer: Any, messages: Sequence[Any], *, answer: bool = True) -> str | None:
    """Return what the template makes of messages; None where it does not serve them."""
    try:
        found = renderer.apply_chat_template(
            list(messages), add_generation_prompt=answer, tokenize=False
        )
    except Exception:  # a template is a program of its own; any failure means "does not serve"
        return None
    return found if isinstance(found, str) else None


def find_rendered(processor: Any, prompt: str, placeholder: str) -> Rendered | None:
    """Return where the user's words are if the prompt is a rendered one, else None.

    Parameters
    ----------
    processor : ProcessorMixin or PreTrainedTokenizerBase
    prompt : str
    placeholder : str
        Stands for an image; empty for a text model.
    """
    renderer = renderer_of(processor)
    if renderer is None:
        return None
    tokenizer = getattr(processor, "tokenizer", None) or processor
    bos = str(getattr(tokenizer, "bos_token", None) or "")
    specials = _special_tokens(tokenizer)
    marks = _learn(renderer, placeholder, bos, specials)
    openings, endings = _any_of(marks.openings), _any_of(marks.endings)
    at = _after_first_tokens(prompt, bos)
    special = any(token in mark for mark in marks.openings for token in specials)
    start = _first_words(prompt, at, marks)
    if start is None and special and prompt.startswith(specials, at):
        start = _end(openings.search(prompt, at))
    if start is None:
        start = _after_a_bare_system(prompt, at, marks, None if special else endings)
    if start is None:
        return None
    spans: list[Span] = []
    certain = special
    while start is not None:
        ending = endings.search(prompt, start)
        stop = len(prompt) if ending is None else ending.start()
        spans += _pieces(prompt, start, stop, {*marks.images, placeholder} - {""})
        certain = certain or ending is not None
        start = None if ending is None else _end(openings.search(prompt, ending.end()))
    return Rendered(tuple(spans), certain)


def _after_first_tokens(prompt: str, bos: str) -> int:
    """Return where the text begins after white space and first tokens, even several of them."""
    found = re.match(rf"(?:\s|{re.escape(bos)})*" if bos else r"\s*", prompt)
    return found.end() if found else 0


def _first_words(prompt: str, at: int, marks: _Marks) -> int | None:
    """Return where the first words begin; of the beginnings that fit, the longest decides."""
    known = [(start, "") for start in marks.starts]
    known += [(start, rest) for start, rest in marks.systems if start.strip()]
    for start, rest in sorted(known, key=lambda pair: -len(pair[0])):
        begin = _end(_any_of([start]).match(prompt, at))
        if begin is not None and rest:
            begin = _end(_any_of([rest]).search(prompt, begin))
        if begin is not None:
            return begin
    return None


def _after_a_bare_system(
    prompt: str, at: int, marks: _Marks, endings: re.Pattern[str] | None
) -> int | None:
    """Return where the first words begin where nothing marks the system prompt before them.

    Without a special token in the mark of the user's turn, there must be an ending as well.
    """
    bare = [rest for start, rest in marks.systems if not start.strip()]
    begin = _end(_any_of(bare).search(prompt, at))
    if begin is not None and endings is not None and endings.search(prompt, begin) is None:
        return None
    return begin


def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts of special tokens; extra ones are no part of ``all_special_tokens``."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    extra = (token.content for token in added if token.special)
    return tuple({*map(str, getattr(tokenizer, "all_special_tokens", ())), *extra} - {""})


def _end(found: re.Match[str] | None) -> int | None:
    return None if found is None else found.end()


def _any_of(marks: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern for any of some texts, in which any white space stands for any other."""
    if not marks:
        return re.compile(r"(?!)")
    patterns = []
    for mark in sorted(marks, key=len, reverse=True):
        words = r"\s+".join(re.escape(word) for word in mark.split())
        patterns.append((r"(?<=\s)" if mark[:1].isspace() else "") + words)
    return re.compile("|".join(patterns))


def _pieces(prompt: str, start: int, stop: int, images: set[str]) -> list[Span]:
    """Return the spans between images, without outer white space."""
    cuts = [found.span() for found in _any_of(sorted(images)).finditer(prompt, start, stop)]
    edges = [start, *(edge for cut in cuts for edge in cut), stop]
    spans = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        piece = prompt[begin:end]
        if piece.strip():
            first = begin + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(piece.strip())))
    return spans


# -- what a template writes ------------------------------------------------------------------------


@dataclass
class _Marks:
    """What a template writes around words.

    Attributes
    ----------
    starts : list of str
        What may stand before the first words.
    systems : list of (str, str)
        What stands before and after a system prompt, up to the first words.
    openings, endings : list of str
        What may stand before later words, and after any.
    images : list of str
        How an image is written.
    """

    starts: list[str] = field(default_factory=list)
    systems: list[tuple[str, str]] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def _as_string(words: str) -> Any:
    return words


def _as_part(words: str) -> Any:
    return [{"type": "text", "text": words}]


def _with_image(words: str) -> Any:
    return [{"type": "image"}, {"type": "text", "text": words}]


def _learn(renderer: Any, placeholder: str, bos: str, specials: Sequence[str]) -> _Marks:
    """Render conversations of known words and return what stands between the words."""
    marks = _Marks()
    heads = []
    for content in (_as_string, _as_part):
        head = _learn_turns(renderer, content, bos, specials, marks)
        heads += [] if head is None else [head]
    for content in (_with_image,) if placeholder else ():
        known = heads or [_learn_turns(renderer, content, bos, specials, marks) or ""]
        alone = _between(renderer, content, ["user"], answer=False)
        if alone is not None:
            texts = [_without(bos, alone[0]), *known]
            bare = os.path.commonprefix(texts)  # noqa: RUF071 (of characters, not of paths)
            marks.starts.append(bare)
            image = texts[0][len(bare) :].strip()
            marks.images += [image] if placeholder in image else []
    marks.starts = sorted({start.strip() for start in marks.starts} - {""})
    return marks


def _learn_turns(
    renderer: Any,
    content: Callable[[str], Any],
    bos: str,
    specials: Sequence[str],
    marks: _Marks,
) -> str | None:
    """Add what stands around words in one way of writing messages; return the first mark."""
    alone = _between(renderer, content, ["user"], answer=False)
    asked = _between(renderer, content, ["user"])
    if alone is None or asked is None:
        return None
    marks.starts += [_without(bos, alone[0]), _without(bos, asked[0])]
    close, more = alone[1], [asked[1]]
    both = _between(renderer, content, ["user", "assistant", "user"])
    if both is not None:
        answered = _between(renderer, content, ["user", "assistant"], answer=False)
        between = answered[2] if answered is not None else ""
        own = both[2].removeprefix(between)
        marks.starts.append(_without(bos, own))
        # Without a special token the mark must stand where it does between turns.
        marked = any(token in own for token in specials)
        marks.openings += [mark for mark in [own.strip() if marked else both[2]] if mark.strip()]
        more.append(both[1])
    if close.strip() and all(mark.startswith(close.rstrip()) for mark in more):
        more = []
    marks.endings += [mark for mark in [close, *more] if mark.strip()]
    system = _between(renderer, content, ["system", "user"])
    if system is not None and system[1].strip():
        marks.systems.append((_without(bos, system[0]), system[1]))
    return _without(bos, alone[0])


def _between(
    renderer: Any, content: Callable[[str], Any], roles: Sequence[str], *, answer: bool = True
) -> list[str] | None:
    """Return the texts before, between and after the words of a conversation; None if it has none.

    The user's messages are written by `content`; others hold no image.
    """
    plain = _as_string if content is _as_string else _as_part
    messages = [
        {"role": role, "content": (content if role == "user" else plain)(f"{SENTINEL}{i}z")}
        for i, role in enumerate(roles)
    ]
    rendered = ask_template(renderer, messages, answer=answer)
    if rendered is None:
        return None
    pieces = re.split(SENTINEL + r"(\d+)z", rendered)
    if [int(number) for number in pieces[1::2]] != list(range(len(roles))):
        return None
    return pieces[::2]


def _without(bos: str, text: str) -> str:
    """Return a text without white space and first tokens before it."""
    return text[_after_first_tokens(text, bos) :]
