"""`TraceRecord`: one question and one answer of a model, as they are kept, without the model.

A record can be saved, opened anywhere and reported on; neither needs torch. The live object that
can ask the model again (`causal_lvlm.lvlm.Trace`) holds one. This module is the only one that
writes a saved run and makes objects of it again; what its values must be stands in `summary`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from causal_lvlm.arrays import FloatArray, frozen
from causal_lvlm.cards import trace_card
from causal_lvlm.fields import reading
from causal_lvlm.rasters import decode_images, encode_image
from causal_lvlm.results import SelfCheck
from causal_lvlm.storage import read_json, write_json
from causal_lvlm.summary import check_run, pictures_of
from causal_lvlm.tokens import TokenLayout

__all__ = ["TraceRecord"]

_KIND = "trace"


@dataclass(frozen=True, eq=False)
class TraceRecord:
    """What was asked and what was answered.

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
    self_check : SelfCheck or None
        None in files that do not know it.
    model_id : str
    revision : str or None
    versions : dict
    parameters : dict
        Arguments of the run.
    images : tuple of PIL.Image.Image
        All originals, in the order of the prompt.

    Raises
    ------
    ValueError
        If there is not one log-probability for each generated token.
    """

    prompt: str
    answer: str
    image: Image.Image | None
    layout: TokenLayout
    log_probs: FloatArray
    self_check: SelfCheck | None
    model_id: str
    revision: str | None
    versions: dict[str, str]
    parameters: dict[str, Any]
    images: tuple[Image.Image, ...] = ()

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

    @cached_property
    def _encoded(self) -> tuple[str, ...]:
        """The pictures as base64 PNG: encoded once, though every explanation carries them."""
        shown = () if self.image is None else (self.image, *self.images[1:])
        return tuple(encode_image(image) for image in shown)

    def _repr_html_(self) -> str:
        """Show the record in a notebook."""
        return trace_card(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all that is recorded as plain values: text, lists, the image as base64 PNG."""
        layout = self.layout
        return {
            "kind": _KIND,
            "prompt": self.prompt,
            "answer": self.answer,
            "image": self._encoded[0] if self._encoded else None,
            "more_images": list(self._encoded[1:]),
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
            "self_check": None if self.self_check is None else asdict(self.self_check),
            "model_id": self.model_id,
            "revision": self.revision,
            "versions": dict(self.versions),
            "parameters": dict(self.parameters),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as JSON, the image embedded; raises `OutputError` if it cannot.

        Parameters
        ----------
        path : str or path-like
            Of the JSON file.
        """
        return write_json(path, self.to_dict())

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "") -> TraceRecord:
        """Invert `to_dict`.

        Parameters
        ----------
        value : mapping
            What `to_dict` returned.
        where : str
            What errors call it.

        Raises
        ------
        OutputError
            If a field is missing, or is not what it must be.
        """
        fields = check_run(value, where)
        images = decode_images(pictures_of(value), f"{where}.image" if where else "image")
        return cls(image=images[0] if images else None, images=images, **fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TraceRecord:
        """Read a saved record, or the trace that holds one.

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
