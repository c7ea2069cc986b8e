"""From what a person asks to the text the model sees, and which part of it are their words.

1. A prompt that the chat template has rendered already (see `rendered`), or that already holds the
   image placeholder, once for each image, is used verbatim (the latter unless the template is asked
   for). So is any prompt that needs no placeholder where the template is declined.
2. Otherwise the processor's chat template is applied to images and text.
3. Where there is no template, the family's plain frame is put around the words.
4. Several turns come as messages, ``[{"role": ..., "content": ...}, ...]``, and need a template.

The words themselves are never changed, unless the template does it.

The spans of the person's own words in the result are kept: everything outside them (``USER:``,
``ASSISTANT:``, line breaks of the template, system prompts, earlier answers) is frame, and no
candidate for an explanation. For a verbatim prompt the span is found by matching the template and
the plain frame against it; where neither matches, the whole prompt counts as the person's words.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causal_lvlm.checks import check_text
from causal_lvlm.errors import PromptError
from causal_lvlm.lvlm.rendered import SENTINEL, ask_template, find_rendered, renderer_of

__all__ = ["Prompt", "check_prompt", "render_prompt"]


@dataclass(frozen=True)
class Prompt:
    """The text before image tokens are expanded.

    Attributes
    ----------
    text : str
        Holds the placeholder once for each image.
    words : tuple of (int, int)
        Spans of `text` that are the person's own words.
    source : str
        ``"verbatim"``, ``"chat_template"`` or ``"plain"``.
    rendered : bool
        Whether a chat template made the text, so that it holds every special token it is to have.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    source: str
    rendered: bool = False


def check_prompt(prompt: str) -> None:
    """Raise PromptError for a text that is empty, or holds what is no character."""
    check_text("the prompt", prompt, PromptError)
    if not prompt.strip():
        raise PromptError("the prompt is empty; ask something about the image")


def render_prompt(
    processor: Any,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    placeholder: str,
    plain_frame: str,
    chat_template: bool | None = None,
    n_images: int = 1,
    in_text: bool = True,
    around: tuple[str, str] = ("", ""),
) -> Prompt:
    """Return the prompt as the model will see it.

    Parameters
    ----------
    processor : ProcessorMixin or PreTrainedTokenizerBase
    prompt : str or sequence of dict
    placeholder : str
        Stands for an image, ``"<image>"`` in LLaVA.
    plain_frame : str
        Frame with ``{placeholder}`` and ``{prompt}``.
    chat_template : bool, optional
        True applies the template even if the prompt holds the placeholder (which the template then
        places); False never applies it. What it has rendered already is not rendered again.
    n_images : int
    in_text : bool
        False where the processor itself puts image tokens before the text.
    around : (str, str)
        What the plain frame puts before and after each placeholder.

    Raises
    ------
    PromptError
        If the prompt is empty, its placeholders are not as many as the images, it holds a video,
        or a template is asked for and there is none.
    """
    if not isinstance(prompt, str):
        if not isinstance(prompt, (list, tuple)):
            raise PromptError(
                f"a prompt must be a string or a list of messages, got {type(prompt).__name__}"
            )
        return _render_turns(processor, prompt, placeholder, n_images if in_text else 0)
    check_prompt(prompt)
    found = prompt.count(placeholder) if placeholder else 0
    n_marks = n_images if in_text else 0
    template = _template(processor, placeholder, n_marks)
    if chat_template and template is None:
        raise PromptError(
            "chat_template=True, but the processor has no chat template that places an image; "
            "leave it out to use the plain frame"
        )
    rendered = find_rendered(processor, prompt, placeholder)
    if rendered is not None and not rendered.certain and found != n_marks:
        rendered = None
    if found != n_marks and (found or rendered is not None):
        done = " and is already rendered by the chat template" if rendered is not None else ""
        raise PromptError(
            f"the prompt holds {found} image placeholders {placeholder!r} for {n_images} "
            f"image{'s' * (n_images != 1)}{done}; leave {n_marks}"
            + (", or give the words alone" if done else ", or none (they are then added)")
        )
    if rendered is not None:
        return Prompt(prompt, rendered.words, "verbatim", rendered=chat_template is not False)
    marks = (around[0] + placeholder + around[1]) * n_marks
    framed = plain_frame.format(placeholder=marks, prompt=SENTINEL)
    plain = _split(framed if marks else framed.lstrip())
    if (found and not chat_template) or (chat_template is False and not n_marks):
        frames = [(template.before, template.after)] if template is not None else []
        return Prompt(prompt, _own_words(prompt, placeholder, [*frames, plain]), "verbatim")
    words = prompt.replace(placeholder, " ").strip() if found else prompt
    if template is not None and chat_template is not False:
        return template.around(words)
    before, after = plain
    return Prompt(before + words + after, ((len(before), len(before) + len(words)),), "plain")


def _split(rendered: str) -> tuple[str, str]:
    before, after = rendered.split(SENTINEL)
    return before, after


@dataclass(frozen=True)
class _Template:
    """A chat template that serves: what it puts around words, and how it is asked."""

    before: str
    after: str
    ask: Callable[[str], str | None]

    def around(self, words: str) -> Prompt:
        """Return what the template makes of words, which it may trim."""
        text = self.ask(words) or ""
        stop = len(text) - len(self.after)
        fits = text.startswith(self.before) and text.endswith(self.after)
        if not fits or stop < len(self.before):  # it looks at the words, too
            text = self.before + words + self.after
            stop = len(self.before) + len(words)
        return Prompt(text, ((len(self.before), stop),), "chat_template", rendered=True)


def _template(processor: Any, placeholder: str, n_images: int) -> _Template | None:
    """Return the chat template for one question; None where it cannot serve."""
    renderer = renderer_of(processor)
    if renderer is None:
        return None

    def structured(words: str) -> Any:
        return [{"type": "image"}] * n_images + [{"type": "text", "text": words}]

    def written(words: str) -> Any:
        return f"{placeholder * n_images}\n{words}" if n_images else words

    # Templates of text models know only strings, so the placeholder is written into the string.
    for content in (structured, written) if n_images else (written, structured):

        def ask(words: str, content: Callable[[str], Any] = content) -> str | None:
            return ask_template(renderer, [{"role": "user", "content": content(words)}])

        rendered = ask(SENTINEL) or ""
        marks = rendered.count(placeholder) if placeholder else 0
        if marks == n_images and rendered.count(SENTINEL) == 1:
            return _Template(*_split(rendered), ask)
    return None


def _render_turns(
    processor: Any, messages: Sequence[Any], placeholder: str, n_images: int
) -> Prompt:
    """Apply the chat template to several turns; what the user said are the person's words."""
    renderer = renderer_of(processor)
    if renderer is None:
        raise PromptError(
            "messages need a chat template and this checkpoint has none; give one prompt as a "
            "string"
        )
    if messages and all(isinstance(message, str) for message in messages):
        raise PromptError(
            f"one prompt at a time: {len(messages)} strings were given; run each on its own, or "
            "give messages, dicts with 'role' and 'content'"
        )
    plain: list[dict[str, Any]] = []
    marked: list[dict[str, Any]] = []
    said: list[str] = []
    for message in messages:
        parts = _parts(message)
        copies = []
        for part in parts:
            if part["type"] == "text" and message["role"] == "user" and part["text"].strip():
                copies.append({"type": "text", "text": f"{SENTINEL}{len(said)}z"})
                said.append(part["text"])
            else:
                copies.append(part)
        as_text = isinstance(message["content"], str)
        for turns, own in ((plain, parts), (marked, copies)):
            content: Any = own[0]["text"] if as_text else own
            turns.append({"role": message["role"], "content": content})
    if not said or plain[-1]["role"] != "user":
        raise PromptError("messages must end with the user's, and hold words of the user's")
    try:
        rendered = renderer.apply_chat_template(marked, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program of its own
        raise PromptError(f"the chat template refused the messages: {error}") from error
    whole = ask_template(renderer, plain)
    for words in (said, [text.strip() for text in said]):  # a template may trim them
        text, spans = _filled(rendered, words)
        if text == whole:
            break
    found = text.count(placeholder) if placeholder else 0
    if found != n_images:
        raise PromptError(
            f"the messages hold {found} images and {n_images} were given; put "
            '{"type": "image"} where each belongs'
        )
    return Prompt(text, spans, "chat_template", rendered=True)


def _parts(message: Any) -> list[dict[str, Any]]:
    """Return the parts of a message, checked: what is not looked at here is left out."""
    if not isinstance(message, Mapping) or {"role", "content"} - set(message):
        given = message if isinstance(message, (str, Mapping)) else type(message).__name__
        raise PromptError(
            f"a message is a dict with 'role' and 'content', got {reprlib.repr(given)}"
        )
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, Mapping) for p in parts):
        raise PromptError(
            "a message's content is a string or a list of parts such as "
            f'{{"type": "text", "text": "..."}}, got {reprlib.repr(content)}'
        )
    kinds = {str(part.get("type")) for part in parts}
    if "video" in kinds:
        raise PromptError(
            "a message holds a video; videos are not supported, give single frames as images"
        )
    if kinds - {"text", "image"}:
        raise PromptError(f"a message may hold text and images, got {reprlib.repr(sorted(kinds))}")
    if not all(isinstance(part.get("text"), str) for part in parts if part["type"] == "text"):
        raise PromptError('a part of type "text" holds its words as a string under "text"')
    return [
        {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": "image"}
        for part in parts
    ]


def _filled(rendered: str, words: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Put words where their sentinels stand; returns the text and the spans of the words."""
    pieces = re.split(SENTINEL + r"(\d+)z", rendered)
    text, spans = pieces[0], []
    for number, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        own = words[int(number)]
        spans.append((len(text), len(text) + len(own)))
        text += own + rest
    return text, tuple(spans)


def _own_words(
    prompt: str, placeholder: str, frames: list[tuple[str, str]]
) -> tuple[tuple[int, int], ...]:
    """Find the person's words in a verbatim prompt."""
    if not placeholder:
        return ((0, len(prompt)),)
    for before, after in frames:
        pattern = rf"\s*{_loose(before)}(?P<words>.*?){_loose(after)}\s*"
        match = re.fullmatch(pattern, prompt, flags=re.DOTALL)
        if match and match["words"].strip() and placeholder not in match["words"]:
            return (match.span("words"),)
    spans, at = [], 0
    for piece in prompt.split(placeholder):
        spans.append((at, at + len(piece)))
        at += len(piece) + len(placeholder)
    return tuple(span for span in spans if span[1] > span[0])


def _loose(text: str) -> str:
    """Return a pattern for `text` in which any run of spaces matches any other."""
    pieces = [re.escape(piece) for piece in text.split()]
    if not pieces:
        return r"\s*"
    return r"\s*" + r"\s*".join(pieces) + r"\s*"
