"""`Family`: what has to be said about one family of models; the table of them is in `families`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from causal_lvlm.arrays import IntArray
from causal_lvlm.lvlm.geometry import Cells, Site

__all__ = ["Family"]

_SHARED_MASKING = "remove (drop, block), edges, neutral, pixels"


def _itself(model: Any) -> Any:
    return model


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes
    ----------
    name : str
    model_types : tuple of str
        ``config.model_type`` of the models served.
    mapping : str
        How image tokens map to the image, in a few words.
    geometry : callable
        (Site) -> Cells: rectangles of one image's tokens.
    plain_frame : str
        Frame with ``{placeholder}`` and ``{prompt}`` for processors without a chat template.
    placeholder : str, optional
        What stands for an image in a prompt, where the processor does not say it.
    placeholder_from : str
        Attribute of the processor that says what stands for an image in a prompt.
    fill : mapping of str to int
        See `causal_lvlm.lvlm.inputs.whole_inputs`.
    head : callable
        (model) -> the module whose call returns logits from embeddings.
    tower_positions : callable, optional
        (model, image positions) -> int64 (number of tower tokens,): the sequence position at which
        each tower token's feature ends, -1 for none.
    prepends : bool
        Whether the processor puts image tokens before the text by itself.
    text_only : bool
    masking : str
        Which interventions are exact, in a few words.
    processor : str
        What tests use: the family's own processor class, or what stands in for it.
    tested : str
        Newest version of transformers the tests were run with; empty: no test paints it, so
        every model is painted when it is first used (see `causal_lvlm.lvlm.placing`).
    oldest : str
        Oldest version they were run with.
    vision_types : tuple of str
        Types of vision tower that set this family apart from others of the same model type.
    around : tuple of str
        What the plain frame puts before and after each placeholder.
    guessed : bool
        Whether this is no family but a guess about an unknown type, to be confirmed on every run.
    soft_map : {"q-former", "cross-attention"}, optional
        What shows where the model looked, where image tokens have no place in the image.
    """

    name: str
    model_types: tuple[str, ...]
    mapping: str
    geometry: Callable[[Site], Cells]
    plain_frame: str = "{placeholder}\n{prompt}"
    placeholder: str | None = None
    placeholder_from: str = "image_token"
    fill: Mapping[str, int] = field(default_factory=dict)
    head: Callable[[Any], Any] = field(default_factory=lambda: _itself)
    tower_positions: Callable[[Any, IntArray], IntArray] | None = None
    prepends: bool = False
    text_only: bool = False
    masking: str = _SHARED_MASKING
    processor: str = "the real processor"
    tested: str = ""
    oldest: str = "5.10.1"
    vision_types: tuple[str, ...] = ()
    around: tuple[str, str] = ("", "")
    guessed: bool = False
    soft_map: str | None = None

    @property
    def tower(self) -> str:
        """How far relevancy follows the image, in a few words."""
        if self.text_only:
            return "none"
        if self.tower_positions is None:
            return "not mapped: relevancy ends at the image tokens"
        return "relevancy-chain goes on through it; relevancy-vit too, where it has a class token"

    @property
    def status(self) -> str:
        """``"tested"``, or ``"experimental"`` where no test runs it."""
        return "tested" if self.tested else "experimental"
