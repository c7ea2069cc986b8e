"""`Trace`: one question, one answer, and the verbs that ask the model about it again.

A trace is a record (prompt, answer, layout, log-probabilities) that can be saved, opened anywhere
and reported on. Its verbs need the model: a trace from disk raises `DetachedTraceError` until
`Trace.attach` is called. All they return is numpy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from causal_lvlm.arrays import BoolArray, Float32Array, FloatArray, IntArray, frozen
from causal_lvlm.errors import (
    CausalLVLMError,
    DetachedTraceError,
    SelfCheckError,
    UnsupportedModelError,
)
from causal_lvlm.fields import (
    array,
    instance,
    many,
    maybe,
    reading,
    record,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.lvlm.verbs import ProbeVerbs
from causal_lvlm.rasters import decode_images, encode_image
from causal_lvlm.results import BackendCheck, Evaluation, SelfCheck
from causal_lvlm.storage import read_json, write_json
from causal_lvlm.summary import check_summary, pictures_of
from causal_lvlm.tokens import Target, TargetLike, TokenLayout, resolve_target

if TYPE_CHECKING:
    from causal_lvlm.lvlm.cross import ImageAttention
    from causal_lvlm.lvlm.gradients import BackwardPass
    from causal_lvlm.lvlm.model import LVLM
    from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["Link", "Trace"]

_KIND = "trace"


@dataclass
class Link:
    """The changeable part of a trace: its model, and what was computed once for it."""

    prepared: Prepared | None = None


@dataclass(frozen=True)
class Trace(ProbeVerbs):
    """What was asked, what was answered, and how to ask again.

    Attributes
    ----------
    prompt : str
        What the model saw, before image tokens were expanded.
    answer : str
    image : PIL.Image.Image or None
        The original, upright, RGB: the first of several, None where text alone was asked.
    layout : TokenLayout
    log_probs : ndarray of float64, shape (G,)
        Log-probability of each generated token when it was generated.
    self_check : SelfCheck
    model_id : str
    revision : str or None
    versions : dict
    parameters : dict
        Arguments of the run.
    images : tuple of PIL.Image.Image
        All originals, in the order of the prompt.
    """

    prompt: str
    answer: str
    image: Image.Image | None
    layout: TokenLayout
    log_probs: FloatArray
    self_check: SelfCheck
    model_id: str
    revision: str | None
    versions: dict[str, str]
    parameters: dict[str, Any]
    images: tuple[Image.Image, ...] = ()
    _link: Link = field(default_factory=Link, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the arrays and check their length."""
        if self.image is not None and not self.images:
            object.__setattr__(self, "images", (self.image,))
        object.__setattr__(self, "log_probs", frozen(self.log_probs, np.float64))
        n_generated = len(self.layout) - self.layout.n_prompt
        if self.log_probs.shape != (n_generated,):
            raise ValueError(
                f"log_probs has shape {self.log_probs.shape} for {n_generated} generated tokens"
            )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader should know about how it was asked, one sentence each."""
        return tuple(str(remark) for remark in self.parameters.get("remarks") or ())

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
        """Return all that is recorded as plain values: text, lists, the image as base64 PNG."""
        layout = self.layout
        return {
            "kind": _KIND,
            "prompt": self.prompt,
            "answer": self.answer,
            "image": encode_image(self.image) if self.image is not None else None,
            "more_images": [encode_image(image) for image in self.images[1:]],
            "tokens": list(layout.tokens),
            "token_ids": layout.token_ids.tolist(),
            "modality": layout.modality.tolist(),
            "words": layout.words.tolist(),
            "n_prompt": layout.n_prompt,
            "grids": [
                {
                    "image": grid.image,
                    "tile": grid.tile,
                    "rows": grid.rows,
                    "cols": grid.cols,
                    "positions": grid.positions.tolist(),
                    "boxes": grid.boxes.tolist(),
                    "image_size": list(grid.image_size),
                }
                for grid in layout.grids
            ],
            "log_probs": self.log_probs.tolist(),
            "self_check": vars(self.self_check).copy(),
            "model_id": self.model_id,
            "revision": self.revision,
            "versions": dict(self.versions),
            "parameters": dict(self.parameters),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the trace as JSON, the image embedded; raises `OutputError` if it cannot.

        Parameters
        ----------
        path : str or path-like
            Of the JSON file.
        """
        return write_json(path, self.to_dict())

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Trace:
        """Invert `to_dict`; the result has no model.

        Parameters
        ----------
        value : dict
            What `to_dict` returned.

        Raises
        ------
        OutputError
            If a field is missing, or is not what it must be.
        """
        layout = check_summary(value)
        fields = record(
            {
                "prompt": text, "answer": text, "model_id": text, "revision": maybe(text),
                "log_probs": array(np.float64, len(layout) - layout.n_prompt, nan=True),
                "self_check": instance(SelfCheck), "versions": table(text),
                "parameters": settings(blocked=many(whole(0, len(layout) - 1))),
            }
        )(value, "")  # fmt: skip
        images = decode_images(pictures_of(value), "image")
        return cls(layout=layout, image=images[0] if images else None, images=images, **fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a saved trace; it renders and reports, and can be attached to its model.

        Parameters
        ----------
        path : str or path-like
            A file that `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or is no saved trace.
        """
        value = read_json(path, _KIND)
        with reading(path, "trace"):
            return cls.from_dict(value)
