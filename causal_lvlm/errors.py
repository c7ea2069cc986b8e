"""Exceptions of the package: every message says what was given, what is allowed and what to do.

All of them derive from `CausalLVLMError`. Those that report a bad argument also derive from
`ValueError`, so that code which knows only the standard exceptions still catches them.
"""

from __future__ import annotations

import re

__all__ = [
    "AttentionError",
    "BudgetError",
    "CaptureError",
    "CausalLVLMError",
    "CorrelationError",
    "DataError",
    "DegenerateTargetError",
    "DetachedTraceError",
    "EdgeError",
    "EmptyAnswerError",
    "ImageError",
    "KnowledgeError",
    "ModelAccessError",
    "ModelMemoryError",
    "ModelNotFoundError",
    "ModelOfflineError",
    "OptionError",
    "OptionTypeError",
    "OutputError",
    "PromptError",
    "SampleSizeError",
    "SelfCheckError",
    "StructureError",
    "TargetError",
    "UnsupportedModelError",
    "one_line",
    "quoted",
    "readable",
    "shortened",
]

_QUOTED = re.compile(r"""(?<!\w)(['"“])(?:(?!\1).){300,}?(?:\1|”)(?!\w)""", re.DOTALL)
_RUN = re.compile(r"\S{400,}")


def shortened(text: str, most: int) -> str:
    """Return a text of at most about `most` characters: what is too long lacks its middle."""
    if len(text) <= most:
        return text
    tail = most // 4
    left_out = len(text) - most
    return f"{text[: most - tail]} [… {left_out} characters …] {text[-tail:]}"


def quoted(value: object) -> str:
    """Return what was given as a message quotes it: by its `repr`, and short."""
    return shortened(repr(value), 120)


def readable(message: str, most: int = 3000) -> str:
    """Return an error message in which whatever it quotes, and itself, has a length to be read.

    Messages quote what they were given, and that may be a million characters long.
    """
    if len(message) < 300:
        return message
    for pattern in (_QUOTED, _RUN):
        message = pattern.sub(lambda found: shortened(found[0], 200), message)
    return shortened(message, most)


def one_line(error: object) -> str:
    """Return the message of any error as one line of a length to be read."""
    return readable(" ".join(str(error).split()))


class CausalLVLMError(Exception):
    """Base class of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """Return the message, with what it quotes shortened to what can be read."""
        return readable(super().__str__())


class OptionError(CausalLVLMError, ValueError):
    """An option has a value that is not allowed, or one that another option rules out."""


class OptionTypeError(OptionError, TypeError):
    """An option is of a type that is not allowed, or there is no option of that name."""


class UnsupportedModelError(CausalLVLMError, ValueError):
    """The model cannot be used here; the message lists what is supported."""


class ModelNotFoundError(UnsupportedModelError):
    """There is no such model, or no such revision of it, where it was looked for."""


class ModelOfflineError(UnsupportedModelError):
    """The model is not on this machine and the hub cannot be reached."""


class ModelAccessError(UnsupportedModelError):
    """The hub wants to know who asks: the model is gated or private."""


class ModelMemoryError(CausalLVLMError, MemoryError):
    """The model, or one masked row of it, does not fit into memory."""


class ImageError(CausalLVLMError, ValueError):
    """The image cannot be read, or has no pixels."""


class PromptError(CausalLVLMError, ValueError):
    """The prompt is empty, or does not fit the number of images."""


class EmptyAnswerError(CausalLVLMError):
    """The model generated nothing, so there is no token to explain."""


class TargetError(CausalLVLMError, ValueError):
    """The token or word to be explained is not in the answer."""


class CaptureError(CausalLVLMError):
    """Attention could not be captured from the model."""


class SelfCheckError(CausalLVLMError):
    """The teacher-forced pass does not reproduce the generation."""


class DetachedTraceError(CausalLVLMError):
    """A trace loaded from disk was asked to run its model before `attach`."""


class AttentionError(CausalLVLMError, ValueError):
    """An attention matrix has a wrong shape, negative weights or values that are not finite."""


class EdgeError(CausalLVLMError, ValueError):
    """An edge does not exist, is forbidden by the model's own mask, or is never cut."""


class CorrelationError(CausalLVLMError, ValueError):
    """A matrix is no correlation matrix (shape, symmetry, diagonal, finiteness, eigenvalues)."""


class DataError(CausalLVLMError, ValueError):
    """A data table cannot be used: not numeric, missing values, constant or repeated columns."""


class DegenerateTargetError(CorrelationError):
    """The row that stands for the target holds no information, so the target is no node."""


class SampleSizeError(CausalLVLMError, ValueError):
    """``n_samples`` is too small for a test with that many conditioning variables."""


class StructureError(CausalLVLMError, ValueError):
    """An argument of structure learning, or a graph, is not valid."""


class KnowledgeError(StructureError):
    """Background knowledge contradicts itself, the order, or names what is no node."""


class BudgetError(CausalLVLMError, ValueError):
    """A budget (`max_runs`, `time_limit`) allows nothing at all."""


class OutputError(CausalLVLMError, OSError):
    """A result could not be written to, or read from, disk."""
