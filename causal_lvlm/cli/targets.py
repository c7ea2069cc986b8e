"""Which token of the answer is explained: what the user named, or a word chosen for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from causal_lvlm.errors import TargetError

if TYPE_CHECKING:
    from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["default_target", "find_target"]


def default_target(layout: TokenLayout) -> tuple[Target, str]:
    """Choose a target when none was named: the only word of the answer, else its last word.

    Parameters
    ----------
    layout : TokenLayout

    Returns
    -------
    target : Target
    remark : str
        Which word was chosen, and how to choose another.

    Raises
    ------
    TargetError
        If the answer holds no word.
    """
    from causal_lvlm.tokens import resolve_target

    content = [
        p
        for p in range(layout.n_prompt, len(layout))
        if layout.modality[p] == "generated" and any(c.isalnum() for c in layout.tokens[p])
    ]
    if not content:
        raise TargetError("the answer holds no word; name a token by its index with --target 0")
    last = first = content[-1]
    word = layout.words[last]
    while word >= 0 and first - 1 in content and layout.words[first - 1] == word:
        first -= 1
    start = layout.n_prompt
    target = resolve_target(layout, slice(first - start, last - start + 1))
    only = content[0] == first
    which = "the only word" if only else "the last word"
    return target, f"explaining “{target.text}”, {which} of the answer (--target chooses another)"


def find_target(layout: TokenLayout, text: str) -> Target:
    """Return the target a user named: a word or phrase of the answer, else a token's index.

    Raises
    ------
    TargetError
        If the answer holds no such word and the text is no valid index.
    """
    from causal_lvlm.tokens import resolve_target

    try:
        return resolve_target(layout, text)
    except TargetError:
        try:
            index = int(text)
        except ValueError:
            index = None  # type: ignore[assignment]
        if index is None:
            raise
        return resolve_target(layout, index)
