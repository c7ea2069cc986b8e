"""Positions that no other row can see, in any layer and any verb; and a trace on another model.

What a method says about a blocked position is known to be wrong: nothing that is computed after it
depends on it. This is the disconnection of DiFull (Rao, Böhle and Schiele, CVPR 2022,
arXiv:2205.10435; its abstract and appendix were checked), carried over to the tokens of a language
model:

1. the blocked trace shares record and embeddings with the original, but not its stored keys and
   values: its prefix is computed under the mask;
2. every run of the language model lays the mask over its own (see `Prepared.logits`), so that
   attention weights, gradients, masked rows and probes all see it; dropping tokens cannot bring a
   blocked one back, since whatever stays is masked by its position;
3. a blocked position still sees itself, and what stands before it, so that no row of attention is
   empty.

The vision tower mixes patches before the language model sees them: a blocked image token's pixels
still reach other image tokens, and maps that end in pixels may truly give them weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray
from causal_lvlm.errors import CausalLVLMError, SelfCheckError, UnsupportedModelError
from causal_lvlm.lvlm.length import check_length
from causal_lvlm.lvlm.memory import is_out_of_memory
from causal_lvlm.lvlm.model import LVLM
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.selfcheck import check_run
from causal_lvlm.lvlm.trace import Link, Trace

__all__ = ["BLOCKED", "blocked", "hidden_positions", "on_model"]

BLOCKED = "blocked"  # name of the parameter in which a trace records its blocked positions


def hidden_positions(length: int, positions: Iterable[int]) -> BoolArray:
    """Return positions as a mask, bool (T,).

    Raises
    ------
    ValueError
        If one is no position of the sequence.
    """
    found = [int(p) for p in positions]
    wrong = [p for p in found if not 0 <= p < length]
    if wrong:
        raise ValueError(
            f"positions {wrong} cannot be blocked: the sequence has positions 0..{length - 1}"
        )
    hidden = np.zeros(length, dtype=bool)
    hidden[found] = True
    return hidden


def blocked(trace: Trace, positions: Iterable[int]) -> Trace:
    """Return the trace with more positions blocked; see `Trace.blocked`."""
    prepared = trace.prepared
    if prepared.lvlm.only_drop:
        raise UnsupportedModelError(
            f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so positions "
            "cannot be blocked; leave the tokens out with trace.evaluate instead"
        )
    hidden = hidden_positions(len(trace.layout), positions)
    if prepared.hidden is not None:
        hidden |= prepared.hidden
    parameters = {**trace.parameters, BLOCKED: np.flatnonzero(hidden).tolist()}
    record = replace(trace.record, parameters=parameters)
    return Trace(record, Link(prepared.with_hidden(hidden)))


def on_model(trace: Trace, model: LVLM, *, check: bool = False) -> Trace:
    """Return the trace asked of another model; see `Trace.on`."""
    layout = trace.layout
    ids, is_image = layout.token_ids, layout.modality == "image"
    n_vocabulary = int(model.text_config.vocab_size)
    if ids.max() >= n_vocabulary or (ids[is_image] != model.image_token_id).any():
        raise UnsupportedModelError(
            f"{model.model_id!r} has another vocabulary or image token than {trace.model_id!r}, "
            "so this sequence cannot be put to it; run it on the image and the prompt"
        )
    hidden = hidden_positions(len(layout), trace.parameters.get(BLOCKED, ()))
    try:
        check_length(model.text_config, model.model_id, layout.n_prompt, len(ids) - layout.n_prompt)
        prepared = Prepared(
            model,
            trace.images,
            layout,
            trace.prompt,
            _shared_inputs(trace, model),
            hidden if hidden.any() else None,
        )
        found = check_run(prepared, trace.log_probs, trace.self_check.geometry_error)
    except (CausalLVLMError, RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModelError(
            f"the sequence of {trace.model_id!r} cannot be put to {model.model_id!r} ({error}); it "
            "takes the same vocabulary, processor and number of image tokens"
        ) from error
    if check and not found.passed:
        raise SelfCheckError(
            f"{model.model_id!r} does not reproduce the answer {trace.answer!r} recorded with "
            f"{trace.model_id!r} ({found}); pass check=False to ask it all the same"
        )
    record = replace(
        trace.record, self_check=found, model_id=model.model_id, revision=model.revision
    )
    return Trace(record, Link(prepared))


def _shared_inputs(trace: Trace, model: LVLM) -> Any:
    """Return the trace's processed inputs where the other model would make the same of them."""
    prepared = trace._link.prepared
    if prepared is None:
        return None
    mine = prepared.lvlm
    same = mine.processor is model.processor and mine.device == model.device
    return prepared.inputs if same and mine.dtype == model.dtype else None
