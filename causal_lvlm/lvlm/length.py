"""How long a sequence a language model can take, and prompts that are longer refused.

A model asked beyond its positions still answers: with rotary positions it never learned, nonsense;
with a table of positions, an error of indexing deep inside it. Sliding windows do not count: they
limit what a layer looks at, not how long the sequence may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from causal_lvlm.errors import PromptError

__all__ = ["check_length", "context_length"]

# Kinds of rotary scaling whose factor says how many times the length it was trained with a model
# can take. That of "llama3" is about frequencies: its `max_position_embeddings` says it all.
_STRETCHING = ("dynamic", "linear", "longrope", "su", "yarn")


def context_length(config: Any) -> int | None:
    """Return the number of positions of a language model; None where nothing says so.

    Parameters
    ----------
    config : PretrainedConfig
        Of the language model.
    """
    known = None
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            known = value
            break
    if known is None:
        return None
    longest = known
    for rope in _ropes(config):
        kind = str(rope.get("rope_type", rope.get("type")))
        factor = rope.get("factor")
        if kind in _STRETCHING and isinstance(factor, (int, float)) and factor > 1:
            trained = rope.get("original_max_position_embeddings") or known
            longest = max(longest, int(factor * trained))
    return longest


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of rotary positions: one set, or one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        found = getattr(config, name, None)
        if isinstance(found, Mapping):
            yield found
            yield from (value for value in found.values() if isinstance(value, Mapping))


def check_length(config: Any, model_id: str, n_prompt: int, max_new_tokens: int) -> None:
    """Refuse a prompt that, with its answer, is longer than the model's context.

    Parameters
    ----------
    config : PretrainedConfig
        Of the language model.
    model_id : str
    n_prompt, max_new_tokens : int
        Tokens of the prompt, those of images included, and of the longest answer.

    Raises
    ------
    PromptError
    """
    known = context_length(config)
    if known is None or n_prompt + max_new_tokens <= known:
        return
    room = known - n_prompt
    advice = (
        f"give max_new_tokens={room} or less, or shorten the prompt"
        if room > 0
        else "shorten the prompt, or give fewer or smaller images"
    )
    raise PromptError(
        f"the prompt has {n_prompt} tokens and its answer may have {max_new_tokens}, "
        f"{n_prompt + max_new_tokens} in all, but {model_id!r} takes {known}; {advice}"
    )
