"""`Trace`: one question, one answer, and the verbs that ask the model about it again.

A trace is a record (prompt, answer, layout, log-probabilities) that can be saved, opened anywhere
and reported on. Its verbs need the model: a trace from disk raises `DetachedTraceError` until
`Trace.attach` is called. All they return is numpy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from causal_lvlm.arrays import BoolArray, Float32Array, IntArray
from causal_lvlm.errors import (
    CausalLVLMError,
    DetachedTraceError,
    SelfCheckError,
    UnsupportedModelError,
)
from causal_lvlm.lvlm.verbs import ProbeVerbs
from causal_lvlm.record import TraceRecord
from causal_lvlm.results import BackendCheck, Evaluation
from causal_lvlm.tokens import Target, TargetLike, resolve_target

if TYPE_CHECKING:
    from causal_lvlm.lvlm.cross import ImageAttention
    from causal_lvlm.lvlm.gradients import BackwardPass
    from causal_lvlm.lvlm.model import LVLM
    from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["Link", "Trace"]


@dataclass
class Link:
    """The changeable part of a trace: its model, and what was computed once for it."""

    prepared: Prepared | None = None


class Trace(ProbeVerbs):
    """What was asked, what was answered, and how to ask again.

    Parameters
    ----------
    record : TraceRecord
    link : Link, optional

    Attributes
    ----------
    record : TraceRecord
    prompt, answer, image, images, layout, log_probs, self_check, model_id, revision, versions, \
parameters, remarks
        The record's.
    """

    def __init__(self, record: TraceRecord, link: Link | None = None) -> None:
        self.record: Final = record
        self.prompt: Final = record.prompt
        self.answer: Final = record.answer
        self.image: Final = record.image
        self.images: Final = record.images
        self.layout: Final = record.layout
        self.log_probs: Final = record.log_probs
        self.self_check: Final = record.self_check
        self.model_id: Final = record.model_id
        self.revision: Final = record.revision
        self.versions: Final = record.versions
        self.parameters: Final = record.parameters
        self.remarks: Final = record.remarks
        self._link = link or Link()

    def __repr__(self) -> str:
        """Return what is recorded."""
        return f"Trace({self.record!r})"

    # -- the model ----------------------------------------------------------------------------

    def attach(self, model: LVLM) -> Trace:
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
        from causal_lvlm.lvlm.prepared import Prepared
        from causal_lvlm.lvlm.selfcheck import check_run

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
                    self._link.prepared = self._with_blocked(prepared)
                    return self
        raise SelfCheckError(
            f"{model.model_id!r} does not reproduce the answer {self.answer!r} recorded with "
            f"{self.model_id!r} ({found}); attach the model it was made with"
        )

    def _with_blocked(self, prepared: Prepared) -> Prepared:
        """Block again what was blocked when this trace was recorded."""
        from causal_lvlm.lvlm.blocking import BLOCKED, hidden_positions

        if not self.parameters.get(BLOCKED):
            return prepared
        return prepared.with_hidden(hidden_positions(len(self.layout), self.parameters[BLOCKED]))

    def on(self, model: LVLM, check: bool = False) -> Trace:
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
        from causal_lvlm.lvlm.blocking import on_model

        return on_model(self, model, check=check)

    def blocked(self, positions: Iterable[int]) -> Trace:
        """Return a trace in which no other row sees these positions, in any layer and any verb.

        See `causal_lvlm.lvlm.blocking`. Blocking a blocked trace blocks both; the positions stand
        in ``parameters["blocked"]``.

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
        from causal_lvlm.lvlm.blocking import blocked

        return blocked(self, positions)

    @property
    def model(self) -> LVLM:
        """The attached model; raises `DetachedTraceError` if there is none."""
        return self.prepared.lvlm

    @property
    def prepared(self) -> Prepared:
        """The sequence ready to run again (for the model boundary itself)."""
        if self._link.prepared is None:
            raise DetachedTraceError(
                f"this trace was loaded from disk and has no model; call "
                f"trace.attach(causal_lvlm.load_model({self.model_id!r})) first"
            )
        return self._link.prepared

    # -- verbs --------------------------------------------------------------------------------

    def target(self, target: TargetLike) -> Target:
        """Find the generated tokens meant by a word, index, slice or function.

        Parameters
        ----------
        target : str, int, slice, callable or Target
            A word of the answer, the number of a generated token from 0, several of them, or
            what picks them.
        """
        return resolve_target(self.layout, target)

    def attention(self, layers: int | str | Sequence[int | str] = (-1,)) -> Float32Array:
        """Return attention weights of the teacher-forced pass.

        Parameters
        ----------
        layers : int, "global", or sequence of them
            Negative numbers count from the last attention layer; ``"global"`` is the last one that
            looks at the whole sequence (see `attention_kinds`).

        Returns
        -------
        ndarray of float32, shape (L, H, T, T)
            Rows are queries and sum to 1 (to less where the model has learned sinks, which take
            the rest); read-only.
        """
        from causal_lvlm.lvlm.capture import capture_attention

        return capture_attention(self.prepared, layers)

    def iter_attention(self) -> Iterator[tuple[int, Float32Array]]:
        """Yield (layer, weights (H, T, T)) of all layers, ascending; one in memory at a time."""
        from causal_lvlm.lvlm.capture import iter_attention

        return iter_attention(self.prepared)

    def image_attention(self) -> ImageAttention:
        """Return a soft map for models without a token for each patch (BLIP-2, Mllama).

        See `causal_lvlm.lvlm.cross.ImageAttention`.
        """
        from causal_lvlm.lvlm.cross import image_attention

        return image_attention(self.prepared)

    def backward(
        self,
        target: TargetLike,
        *,
        score: str = "logit",
        vision: bool = False,
        against: int | str | None = None,
    ) -> BackwardPass:
        """Differentiate the target's score with respect to every attention weight.

        See `causal_lvlm.lvlm.gradients.BackwardPass`.
        """
        from causal_lvlm.lvlm.gradients import BackwardPass

        return BackwardPass(
            self.prepared, self.target(target), score=score, vision=vision, against=against
        )

    def evaluate(
        self,
        keep: BoolArray,
        target: TargetLike,
        *,
        masking: str = "remove",
        backend: str = "auto",
        against: int | str | None = None,
        batch_size: int | None = None,
        max_memory: int | str | None = None,
    ) -> Evaluation:
        """Ask for the target again under masks; see `causal_lvlm.lvlm.evaluate.evaluate`."""
        from causal_lvlm.lvlm.evaluate import evaluate

        return evaluate(
            self.prepared,
            keep,
            self.target(target),
            masking=masking,
            backend=backend,
            against=against,
            batch_size=batch_size,
            max_memory=max_memory,
        )

    @property
    def backend_checks(self) -> tuple[BackendCheck, ...]:
        """Run-time spot checks made so far: did fast ways of masking agree with the plain one?"""
        from causal_lvlm.lvlm.spotcheck import ways_of

        return tuple(ways_of(self.prepared).checks.values())

    @property
    def vision_positions(self) -> IntArray:
        """Sequence position of each vision-tower token's feature, int64 (Tv,); -1 for none.

        Raises
        ------
        UnsupportedModelError
            If the family's tower tokens are not mapped one by one.
        """
        lvlm = self.model
        if lvlm.family.tower_positions is None:
            raise UnsupportedModelError(
                f"tokens of the vision tower of {lvlm.family.name} are not mapped to image "
                "tokens; use a method that stays in the language model"
            )
        return lvlm.family.tower_positions(lvlm.model, self.layout.positions("image"))

    @property
    def n_layers(self) -> int:
        """Number of self-attention layers of the language model."""
        return len(self.model.attention_modules)

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """What each attention layer looks at: ``full``, or ``window`` (sliding or in chunks)."""
        return self.model.attention_kinds

    @property
    def global_layer(self) -> int:
        """The last attention layer that looks at the whole sequence.

        Raises
        ------
        IndexError
            If there is none.
        """
        return self.model.layer_indices("global")[0]

    def layer_remark(self, layer: int) -> str | None:
        """Say so if a layer looks at a window of the sequence only; None if it sees all of it.

        Parameters
        ----------
        layer : int or str
            As in `attention`.
        """
        return self.model.layer_remark(layer)

    def token_id(self, text: str) -> int:
        """Return the id of the first token of a word, as the model would generate it.

        Parameters
        ----------
        text : str
        """
        return self.model.token_id(text)

    def token_text(self, token_id: int) -> str:
        """Return the text of any token of the vocabulary.

        Parameters
        ----------
        token_id : int
        """
        return self.model.token_text(token_id)

    def _repr_html_(self) -> str:
        """Show the trace in a notebook."""
        from causal_lvlm.cards import trace_card

        return trace_card(self)

    # -- on disk ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values; see `TraceRecord.to_dict`."""
        return self.record.to_dict()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as JSON; see `TraceRecord.save`."""
        return self.record.save(path)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Trace:
        """Return a trace without a model; see `TraceRecord.from_dict`."""
        return cls(TraceRecord.from_dict(value))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a saved trace; it renders and reports, and can be attached to its model.

        See `TraceRecord.load`.
        """
        return cls(TraceRecord.load(path))
