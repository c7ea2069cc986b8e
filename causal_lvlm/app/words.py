"""Words of questions and answers: which is looked at first, what was asked, conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from causal_lvlm.app.records import Turn
from causal_lvlm.tokens import Target, TokenLayout, resolve_target

__all__ = ["conversation", "last_word", "led", "own_words"]


def last_word(layout: TokenLayout) -> Target | None:
    """Return the last word of the answer, which is looked at until another one is chosen."""
    words = [
        g
        for g, text in enumerate(layout.generated)
        if layout.modality[layout.n_prompt + g] == "generated" and any(c.isalnum() for c in text)
    ]
    return resolve_target(layout, words[-1]) if words else None


def own_words(layout: TokenLayout) -> str:
    """Return the words that were asked, without the frame of the chat template."""
    tokens = [layout.tokens[p] for p in layout.positions("prompt")]
    carried = any(token[:1].isspace() for token in tokens)
    return ("" if carried else " ").join(tokens).strip()


def conversation(
    image: Image.Image | None, question: str, earlier: Sequence[Turn]
) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    """Return pictures and messages of earlier turns and a question.

    A picture stands in the first message that is about it. Where nothing is known about the earlier
    turns' pictures, they were about the one that is there now.

    Parameters
    ----------
    image : PIL.Image.Image or None
        What the question is about.
    question : str
    earlier : sequence of Turn
    """
    turns = [*earlier, Turn(question, "", image)]
    if all(turn.image is None for turn in earlier):
        turns[0] = turns[0]._replace(image=image)
    images: list[Image.Image] = []
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: list[dict[str, Any]] = [{"type": "text", "text": turn.question}]
        if turn.image is not None and not (images and _same(images[-1], turn.image)):
            images.append(turn.image)
            content.insert(0, {"type": "image"})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return images, messages[:-1]


def led(texts: Sequence[tuple[str, str]], said: Sequence[Turn]) -> list[Turn]:
    """Return the turns of a conversation, with the pictures as far as its end is what was said.

    Parameters
    ----------
    texts : sequence of (str, str)
        Its questions and answers.
    said : sequence of Turn
        What was asked and answered on this page.
    """
    found = [Turn(question, answer) for question, answer in texts]
    for place in range(1, min(len(found), len(said)) + 1):
        if said[-place][:2] != found[-place][:2]:
            break
        found[-place] = said[-place]
    return found


def _same(first: Image.Image, second: Image.Image) -> bool:
    if first is second:
        return True
    return first.size == second.size and first.tobytes() == second.tobytes()
