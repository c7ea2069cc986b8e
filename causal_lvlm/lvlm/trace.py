"""`Trace`: one question, one answer, and the verbs that ask the model about it again.

A trace holds a record (prompt, answer, layout, log-probabilities), which can be saved, opened
anywhere and reported on. Its verbs need the model: a trace from disk raises `DetachedTraceError`
until `Trace.attach` is called. All they return is numpy.

Positions may be blocked, so that no other row can see them, in any layer and any verb. What a
method says about a blocked position is known to be wrong: nothing that is computed after it depends
on it. This is the disconnection of DiFull (Rao, Böhle and Schiele, CVPR 2022, arXiv:2205.10435; its
abstract and appendix were checked), carried over to the tokens of a language model:

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

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray
from causal_lvlm.cards import trace_card
from causal_lvlm.errors import CausalLVLMError, SelfCheckError, UnsupportedModelError
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.capture import Attends
from causal_lvlm.lvlm.cross import Looks
from causal_lvlm.lvlm.cuts import Cuts
from causal_lvlm.lvlm.evaluate import Masks
from causal_lvlm.lvlm.features import Featured
from causal_lvlm.lvlm.flow import Flows
from causal_lvlm.lvlm.gradients import Differentiates
from causal_lvlm.lvlm.heads import Headed
from causal_lvlm.lvlm.length import check_length
from causal_lvlm.lvlm.lrp import Propagates
from causal_lvlm.lvlm.memory import is_out_of_memory
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.probes import Embeds
from causal_lvlm.lvlm.regenerate import Regenerates
from causal_lvlm.lvlm.selfcheck import check_run
from causal_lvlm.record import TraceRecord

__all__ = ["Trace"]

_BLOCKED = "blocked"  # name of the parameter in which a trace records its blocked positions


class Trace(
    Attends,
    Masks,
    Cuts,
    Differentiates,
    Embeds,
    Featured,
    Flows,
    Headed,
    Looks,
    Propagates,
    Regenerates,
):
    """What was asked, what was answered, and how to ask again; see `Live` for its attributes."""

    def __repr__(self) -> str:
        """Return what is recorded."""
        return f"Trace({self.record!r})"

    def _repr_html_(self) -> str:
        """Show the trace in a notebook."""
        return trace_card(self.record)

    # -- the model ----------------------------------------------------------------------------

    def attach(self, model: Backbone) -> Trace:
        """Give the trace a model to ask; returns the trace itself.

        Parameters
        ----------
        model : LVLM
            The model that made the trace.

        Raises
        ------
        SelfCheckError
            If the model is another one: it does not reproduce the recorded answer.
        """
        ids = self.layout.token_ids
        is_image = self.layout.modality == "image"
        known = int(model.text_config.vocab_size)
        found: Any = "another vocabulary or image token"
        if ids.max() < known and (ids[is_image] == model.image_token_id).all():
            try:
                prepared = Prepared(model, self.images, self.layout, self.prompt)
                found = check_run(prepared, self.log_probs)
            except CausalLVLMError as error:
                found = error
            else:
                if found.passed:
                    hidden = self._recorded_hidden()
                    self._prepared = prepared if hidden is None else prepared.with_hidden(hidden)
                    return self
        raise SelfCheckError(
            f"{model.model_id!r} does not reproduce the answer {self.answer!r} recorded with "
            f"{self.model_id!r} ({found}); attach the model it was made with"
        )

    def on(self, model: Backbone, check: bool = False) -> Trace:
        """Return a trace of the same sequence, asked of another model.

        The other model must have the same vocabulary and make as many tokens of the image. The
        result's self-check says how far it reproduces the answer; `log_probs` stay those of the
        generation. Blocked positions stay blocked.

        Parameters
        ----------
        model : LVLM
        check : bool
            Raise `SelfCheckError` where the answer is not reproduced.

        Raises
        ------
        UnsupportedModelError
            If the sequence cannot be put to the model.
        """
        layout = self.layout
        ids, is_image = layout.token_ids, layout.modality == "image"
        if (
            ids.max() >= int(model.text_config.vocab_size)
            or (ids[is_image] != model.image_token_id).any()
        ):
            raise UnsupportedModelError(
                f"{model.model_id!r} has another vocabulary or image token than {self.model_id!r}, "
                "so this sequence cannot be put to it; run it on the image and the prompt"
            )
        try:
            n_new = len(ids) - layout.n_prompt
            check_length(model.text_config, model.model_id, layout.n_prompt, n_new)
            inputs, hidden = self._shared_inputs(model), self._recorded_hidden()
            prepared = Prepared(model, self.images, layout, self.prompt, inputs, hidden)
            mine = self.self_check
            geometry = 0.0 if mine is None else mine.geometry_error
            found = check_run(prepared, self.log_probs, geometry)
        except (CausalLVLMError, RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise UnsupportedModelError(
                f"the sequence of {self.model_id!r} cannot be put to {model.model_id!r} ({error}); "
                "it takes the same vocabulary, processor and number of image tokens"
            ) from error
        if check and not found.passed:
            raise SelfCheckError(
                f"{model.model_id!r} does not reproduce the answer {self.answer!r} recorded with "
                f"{self.model_id!r} ({found}); pass check=False to ask it all the same"
            )
        record = replace(
            self.record, self_check=found, model_id=model.model_id, revision=model.revision
        )
        return Trace(record, prepared)

    def _shared_inputs(self, model: Backbone) -> dict[str, torch.Tensor] | None:
        """Return the processed inputs where the other model would make the same of them."""
        if self._prepared is None:
            return None
        mine = self._prepared.lvlm
        same = mine.processor is model.processor and mine.device == model.device
        return self._prepared.inputs if same and mine.dtype == model.dtype else None

    # -- blocked positions --------------------------------------------------------------------

    def blocked(self, positions: Iterable[int]) -> Trace:
        """Return a trace in which no other row sees these positions, in any layer and any verb.

        Blocking a blocked trace blocks both; the positions stand in ``parameters["blocked"]``.

        Parameters
        ----------
        positions : sequence of int
            Indices in the sequence.

        Raises
        ------
        ValueError
            If one is no position of the sequence.
        UnsupportedModelError
            If some layers mix tokens without attention.
        """
        prepared = self.prepared
        if prepared.lvlm.only_drop:
            raise UnsupportedModelError(
                f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so "
                "positions cannot be blocked; leave the tokens out with trace.evaluate instead"
            )
        hidden = _hidden(len(self.layout), positions)
        if prepared.hidden is not None:
            hidden |= prepared.hidden
        parameters = {**self.parameters, _BLOCKED: np.flatnonzero(hidden).tolist()}
        return Trace(replace(self.record, parameters=parameters), prepared.with_hidden(hidden))

    def _recorded_hidden(self) -> BoolArray | None:
        """Return what was blocked when this trace was recorded, bool (T,); None without any."""
        positions = self.parameters.get(_BLOCKED)
        return _hidden(len(self.layout), positions) if positions else None

    # -- on disk ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values; see `TraceRecord.to_dict`."""
        return self.record.to_dict()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as JSON; see `TraceRecord.save`.

        Parameters
        ----------
        path : str or path-like
        """
        return self.record.save(path)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Trace:
        """Return a trace without a model; see `TraceRecord.from_dict`.

        Parameters
        ----------
        value : dict
            What `to_dict` returned.
        """
        return cls(TraceRecord.from_dict(value))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a saved trace, without a model; see `TraceRecord.load`.

        Parameters
        ----------
        path : str or path-like
            A file that `save` wrote.
        """
        return cls(TraceRecord.load(path))


def _hidden(length: int, positions: Iterable[int]) -> BoolArray:
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
