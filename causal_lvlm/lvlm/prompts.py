"""From what a person asks to the text the model sees, and which part of it are their words.

1. A prompt that already holds the image placeholder is used verbatim (unless the template is
   asked for).
2. Otherwise the processor's chat template is applied to image and text.
3. Where there is no template, the family's plain frame is used.

The span of the person's own words in the result is kept: everything outside it (``USER:``,
``ASSISTANT:``, line breaks of the template) is frame, and no candidate for an explanation. For a
verbatim prompt the span is found by matching the template and the plain frame against it; where
neither matches, the whole prompt counts as the person's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from causal_lvlm.errors import PromptError

__all__ = ["Prompt", "render_prompt"]

# A text no template changes, put in place of the words to see what a template puts around them.
_SENTINEL = "qzxsentinelxzq"


@dataclass(frozen=True)
class Prompt:
    """The text before image tokens are expanded.

    Attributes
    ----------
    text : str
        Holds the placeholder exactly once.
    words : tuple of (int, int)
        Spans of `text` that are the person's own words.
    source : str
        ``"verbatim"``, ``"chat_template"`` or ``"plain"``.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    source: str


def render_prompt(
    processor: Any,
    prompt: str,
    *,
    placeholder: str,
    plain_frame: str,
    chat_template: bool | None = None,
) -> Prompt:
    """Return the prompt as the model will see it.

    Parameters
    ----------
    processor : ProcessorMixin
    prompt : str
    placeholder : str
        Stands for the image, ``"<image>"`` in LLaVA.
    plain_frame : str
        Frame with ``{placeholder}`` and ``{prompt}``.
    chat_template : bool, optional
        True applies the template even if the prompt holds the placeholder (which the template then
        places); False never applies it.

    Raises
    ------
    PromptError
        If the prompt is empty, holds the placeholder more than once, or a template is asked for
        and there is none.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"a prompt must be a string, got {type(prompt).__name__}")
    if not prompt.strip():
        raise PromptError("the prompt is empty; ask something about the image")
    found = prompt.count(placeholder)
    if found > 1:
        raise PromptError(
            f"the prompt holds {found} image placeholders {placeholder!r} for one image; "
            "leave one, or none (it is then added)"
        )
    template = _template(processor, placeholder)
    if chat_template and template is None:
        raise PromptError(
            "chat_template=True, but the processor has no chat template that places an image; "
            "leave it out to use the plain frame"
        )
    plain = _split(plain_frame.format(placeholder=placeholder, prompt=_SENTINEL))
    if found and not chat_template:
        frames = [frame for frame in (template, plain) if frame is not None]
        return Prompt(prompt, _own_words(prompt, placeholder, frames), "verbatim")
    words = prompt.replace(placeholder, " ").strip()
    use_template = template is not None and chat_template is not False
    before, after = template if use_template and template is not None else plain
    span = len(before), len(before) + len(words)
    return Prompt(before + words + after, (span,), "chat_template" if use_template else "plain")


def _split(rendered: str) -> tuple[str, str]:
    before, after = rendered.split(_SENTINEL)
    return before, after


def _template(processor: Any, placeholder: str) -> tuple[str, str] | None:
    """Return what the chat template puts before and after the words; None where it cannot serve."""
    has_own = getattr(processor, "chat_template", None)
    if not has_own and not getattr(processor.tokenizer, "chat_template", None):
        return None
    structured = [{"type": "image"}, {"type": "text", "text": _SENTINEL}]
    # Templates of text models know only strings, so the placeholder is written into the string.
    for content in (structured, f"{placeholder}\n{_SENTINEL}"):
        message = [{"role": "user", "content": content}]
        renderer = processor if has_own else processor.tokenizer
        try:
            rendered = renderer.apply_chat_template(
                message, add_generation_prompt=True, tokenize=False
            )
        except Exception:  # a template is a program of its own; any failure means "does not serve"
            continue
        if rendered.count(placeholder) == 1 and rendered.count(_SENTINEL) == 1:
            return _split(rendered)
    return None


def _own_words(
    prompt: str, placeholder: str, frames: list[tuple[str, str]]
) -> tuple[tuple[int, int], ...]:
    """Find the person's words in a verbatim prompt."""
    for before, after in frames:
        pattern = rf"\s*{_loose(before)}(?P<words>.*?){_loose(after)}\s*"
        match = re.fullmatch(pattern, prompt, flags=re.DOTALL)
        if match and match["words"].strip() and placeholder not in match["words"]:
            return (match.span("words"),)
    start = prompt.index(placeholder)
    return ((0, start), (start + len(placeholder), len(prompt)))


def _loose(text: str) -> str:
    """Return a pattern for `text` in which any run of spaces matches any other."""
    pieces = [re.escape(piece) for piece in text.split()]
    if not pieces:
        return r"\s*"
    return r"\s*" + r"\s*".join(pieces) + r"\s*"
