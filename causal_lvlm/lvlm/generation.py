"""Greedy generation: the model's plain argmax, whatever settings its checkpoint brings.

A checkpoint may ask for sampling, penalties, forbidden or forced tokens, least lengths, beams,
guidance by a second run, or caches of its own. All of that answers another question than "which
token does the model find most likely". What is explained later is the model, so for the call its
own settings are set aside as a whole; only its stop and padding tokens are kept.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from causal_lvlm.arrays import FloatArray
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.storage import to_jsonable

__all__ = ["Generated", "answer_text", "generate", "own_settings", "settings_remark", "stop_ids"]

# Not spoken of: which tokens are which, which version wrote the file, and in what form a result is
# returned.
_NOT_SAID = {
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
}
# Recorded, but no remark: how long an answer may be, the argument of `LVLM.run` decides.
_LENGTHS = {"max_length", "max_new_tokens"}


@dataclass(frozen=True)
class Generated:
    """A sequence as it was generated.

    Attributes
    ----------
    token_ids : tuple of int
        Prompt and answer.
    log_probs : ndarray of float64, shape (G,)
        Log-probability of each generated token, of the model's unprocessed logits.
    finished : bool
        Whether the last token is one that stops the model.
    """

    token_ids: tuple[int, ...]
    log_probs: FloatArray
    finished: bool


def answer_text(lvlm: Backbone, token_ids: Sequence[int]) -> str:
    """Return tokens of an answer as a person reads them."""
    return str(lvlm.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()


def own_settings(lvlm: Backbone) -> dict[str, Any]:
    """Return the settings of generation that the model brings and that are set aside, as JSON.

    Those that say what would happen without them are left out.
    """
    defaults: dict[str, Any] = getattr(GenerationConfig, "_get_default_generation_params", dict)()
    found: dict[str, Any] = {}
    for module in lvlm.model.modules():
        own = vars(module).get("generation_config")
        for name, value in sorted(vars(own).items()) if own is not None else ():
            plain = value is None or value == defaults.get(name) or name.startswith("_")
            if not plain and name not in _NOT_SAID:
                found.setdefault(name, value)
    plain_values: dict[str, Any] = json.loads(json.dumps(to_jsonable(found), default=_described))
    return plain_values


def settings_remark(settings: dict[str, Any]) -> str | None:
    """Return a sentence about settings that were set aside; None without any but lengths."""
    said = {name: value for name, value in settings.items() if name not in _LENGTHS}
    if not said:
        return None
    given = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in said.items())
    return (
        f"the checkpoint's own settings of generation were set aside ({given}); the answer is the "
        "model's plain greedy one"
    )


def _described(value: Any) -> Any:
    """Return an object among settings as plain values, or the name of its kind."""
    as_dict = getattr(value, "to_dict", None)
    return to_jsonable(as_dict()) if callable(as_dict) else type(value).__name__


class _Teller:
    """What ``generate`` hands each token to, as soon as it is chosen.

    An error raised here goes through ``generate`` to the caller of `LVLM.run`, and so ends it.
    """

    def __init__(self, lvlm: Backbone, tell: Callable[[int, str], None]) -> None:
        self._lvlm, self._tell = lvlm, tell
        self._ids: list[int] | None = None

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then one token at a time."""
        if self._ids is None:  # the prompt
            self._ids = []
            return
        for token_id in value.flatten().tolist():
            self._ids.append(int(token_id))
            self._tell(int(token_id), answer_text(self._lvlm, self._ids))

    def end(self) -> None:
        """Nothing is held back, so nothing is left to tell."""


def generate(
    lvlm: Backbone,
    inputs: dict[str, torch.Tensor],
    max_new_tokens: int,
    on_token: Callable[[int, str], None] | None = None,
) -> Generated:
    """Let the model answer greedily, inside a session.

    Parameters
    ----------
    lvlm : Backbone
    inputs : dict of str to Tensor
        Of the prompt.
    max_new_tokens : int
    on_token : callable, optional
        As in `LVLM.run`.
    """
    own, stops = getattr(lvlm.model, "generation_config", None), stop_ids(lvlm)
    pads = _token_ids(getattr(own, "pad_token_id", None)) + _token_ids(lvlm.tokenizer.pad_token_id)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=[*pads, *stops, 0][0],
        return_dict_in_generate=True,
        output_logits=True,
        use_cache=True,
    )
    streamer = None if on_token is None else _Teller(lvlm, on_token)
    model, run = lvlm.model, lvlm.model.generate
    if isinstance(run, partial):  # how transformers puts a checkpoint's own way of generating on it
        run = MethodType(type(model).generate, model)
    with lvlm.plain_generation():
        output = run(**inputs, generation_config=config, streamer=streamer)
    sequence = output.sequences[0]
    logits = torch.stack([step[0] for step in output.logits]).double()
    generated = sequence[len(sequence) - len(logits) :]
    log_probs = logits.log_softmax(dim=-1).gather(1, generated[:, None].to(logits.device))
    if len(sequence) == len(generated):  # some models return the answer alone
        sequence = torch.cat([inputs["input_ids"][0].to(sequence.device), sequence])
    ids = tuple(int(i) for i in sequence)
    return Generated(ids, log_probs[:, 0].cpu().numpy(), ids[-1] in stops)


def stop_ids(lvlm: Backbone) -> list[int]:
    """Return the tokens that end an answer."""
    own = getattr(lvlm.model, "generation_config", None)
    found = _token_ids(getattr(own, "eos_token_id", None))
    return found or _token_ids(lvlm.tokenizer.eos_token_id)


def _token_ids(value: Any) -> list[int]:
    """Return token ids given as a number, several numbers, a tensor or None."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return [] if value is None else [int(i) for i in np.atleast_1d(np.asarray(value))]
