"""Errors as people see them on the page: one line, short enough to be read, no server paths."""

from __future__ import annotations

import re

from causal_lvlm.errors import CausalLVLMError, one_line, readable

__all__ = ["error_text", "without_paths"]

_START = r"(?:[A-Za-z]:[/\\]|~?/|\\\\)"  # of an absolute path
_QUOTED = re.compile(rf"""(['"“‘])({_START}[^'"”’]*)""")
_PLAIN = re.compile(rf"""(?<![\w:/~.\\'"“‘]){_START}(?:[^\s'"“”‘’,;:()<>]+[/\\]+)+""")


def without_paths(text: str) -> str:
    """Return a text in which of every absolute path the last part is left.

    Where the server keeps its files, and what is installed there, is of no use to who reads it.
    """

    def last(found: re.Match[str]) -> str:
        return found[1] + re.split(r"[/\\]+", found[2].rstrip("/\\"))[-1]

    return _PLAIN.sub("", _QUOTED.sub(last, text))


def error_text(error: BaseException | str) -> str:
    """Return an error as one line; what is not ours is named by its type.

    Parameters
    ----------
    error : BaseException or str
        A text is a message of ours.
    """
    text = readable(one_line(without_paths(str(error))), 1000)
    if isinstance(error, (MemoryError, RuntimeError)) and not isinstance(error, CausalLVLMError):
        from causal_lvlm.lvlm.memory import is_out_of_memory

        if isinstance(error, MemoryError) or is_out_of_memory(error):
            return "Memory ran out; use a smaller model or picture, or fewer tokens."
    if isinstance(error, (CausalLVLMError, ValueError, str)) and text:
        return text[0].upper() + text[1:]
    return f"Something failed ({type(error).__name__}): {text[:300]}"
